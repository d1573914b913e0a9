"""The text of PDF, Word, PowerPoint, HTML and EPUB files, converted once and kept by the hash of the file's content."""

import html
import io
import re
import signal
import unicodedata
import zipfile
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from importlib.metadata import version
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree

import msgspec

from smt_plugin.errors import first_line, require
from smt_plugin.files import cache_dir, file_hash, make_folder, write_json

_VERSION = 1  # raise it when the same file comes to give another text
_LARGEST = 200 * 2**20  # bytes; the converters hold a whole file and its text in memory
_LONGEST_SECONDS = 600
_MOST_DAMAGED = 0.05  # of the signs of a text layer
_PAGE = "[page {}]\n"  # as retrieval knows pages, from 1

_FRONT_MATTER = re.compile(r"\A---\n+(?:[\w.:-]+:[^\n]*\n+)*(?:## [\w.:-]+: [^\n]*\n+)?(?:---\n+)?")
_IMAGE = re.compile(r"!\[([^\]]*)\]\([^)\n]*\)")
_LINK = re.compile(r"(?<!!)\[([^\]\n]+)\]\([^)\n]*\)")
_HEADING = re.compile(r"^#{1,3} +(.+?)[ #]*$", re.MULTILINE)
_XMP_TITLE = re.compile(r"<dc:title>.*?<rdf:li[^>]*>(.*?)</rdf:li>", re.DOTALL)
# What programs put where a title should be.
_NO_TITLE = re.compile(
    r"(?:microsoft (?:word|powerpoint)|untitled|(?:power)?point presentation|document\d*$)|\.\w{2,4}$", re.I
)
_MARKED = re.compile(r"[*_`\\]+")
_SHOWN = "{http://schemas.openxmlformats.org/presentationml/2006/main}"
_DRAWN = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_RELATED = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}"
_FENCED = re.compile(r"```[\w-]*\n(.*?)\n?```", re.DOTALL)
_BLANK_LINES = re.compile(r"\n{3,}")


class Unreadable(Exception):
    """A file that cannot be converted; the message says why and the mend, as the end of a sentence.

    Attributes:
        pages: how many it has whose images show what its text does not; 0 where no image would help.
    """

    def __init__(self, message: str, pages: int = 0) -> None:
        super().__init__(message)
        self.pages = pages


class Converted(msgspec.Struct):
    """What a file holds.

    Attributes:
        title: what the document calls itself; empty where it does not tell.
        text: Markdown, as far as the converter knows headings and tables; pages and slides begin with `[page 3]`.
        pages: how many there are; 0 of formats that have none.
        without_text: the numbers, from 1, of pages that have no text, as scans have none.
        converter: the package that did it, with its version.
    """

    title: str
    text: str
    pages: int
    without_text: list[int]
    converter: str


def convert(path: Path) -> Converted:
    """Return what a file of one of `CONVERTERS` holds; from the cache folder, if it was converted before.

    Raises:
        Unreadable: it is broken, encrypted, too large or without text.
        BadInput: the converter is not installed.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    if size > _LARGEST:
        raise Unreadable(f"has {size / 2**20:,.0f} MB, more than {_LARGEST / 2**20:.0f}; split it, or leave it out.")
    kept = cache_dir() / "documents" / f"{file_hash(path)}-{_VERSION}{path.suffix.lower()}.json"
    if kept.is_file():
        with suppress(msgspec.MsgspecError):
            return msgspec.json.decode(kept.read_bytes(), type=Converted)
    converted = _apart(path)
    with suppress(OSError):  # then it is converted each time
        make_folder(kept.parent)
        write_json(kept, msgspec.to_builtins(converted))
    return converted


class _Worker:
    """A process of its own for the converters, which are not Python: a file that crashes or hangs one ends it alone."""

    def __init__(self) -> None:
        # A fork would copy this process's threads and locks.
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_convert_for, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def convert(self, path: Path) -> Any:
        """Return what was found or raised; raises EOFError or OSError if the process ends, TimeoutError."""
        self._pipe.send(path)
        if not self._pipe.poll(_LONGEST_SECONDS):
            raise TimeoutError
        return self._pipe.recv()

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


_worker: _Worker | None = None


def _apart(path: Path) -> Converted:
    """Convert a file in the worker; the next file gets another one if this ends it."""
    global _worker
    worker = _worker = _worker or _Worker()
    try:
        found = worker.convert(path)
    except BaseException as error:
        worker.end()
        _worker = None
        if isinstance(error, TimeoutError):
            reason = f"was not read in {_LONGEST_SECONDS:,} s"
        elif isinstance(error, (EOFError, OSError)):
            reason = "made its converter crash, as damaged files do"
        else:
            raise
        raise Unreadable(f"{reason}; mend or split it, or leave it out.") from None
    if isinstance(found, Exception):
        raise found
    return cast(Converted, found)


def _convert_for(pipe: Connection) -> None:
    """Convert the files whose paths come through a pipe, until its other end is gone."""
    # Whoever waits ends this process, too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError, OSError):
        while True:
            path = pipe.recv()
            try:
                found: Any = CONVERTERS[path.suffix.lower()](path)
            except Exception as error:
                found = error
            pipe.send(found)


def with_page_marks(pages: Mapping[int, str]) -> str:
    """Join the texts of pages (number from 1 -> text), each below its mark."""
    return "\n\n".join(_PAGE.format(number) + text for number, text in pages.items())


def pages_of(text: str) -> dict[int, str]:
    """Return the texts of the pages that `with_page_marks` joined."""
    pieces = re.split(r"^\[page (\d+)\]\n", text, flags=re.MULTILINE)
    return {int(number): piece.strip() for number, piece in zip(pieces[1::2], pieces[2::2], strict=True)}


def page_image(path: Path, number: int, longest_side: int) -> bytes:
    """Return a page of a PDF as a PNG.

    Args:
        number: of the page, from 1.
        longest_side: of the image, in pixels.

    Raises:
        BadInput: pypdfium2 or Pillow is not installed.
        Unreadable: the page cannot be drawn.
    """
    pdfium = require("pypdfium2", "documents")
    require("PIL", "documents")
    try:
        with closing(pdfium.PdfDocument(path)) as pdf, closing(pdf[number - 1]) as page:
            image = page.render(scale=longest_side / max(page.get_size())).to_pil()
    except (pdfium.PdfiumError, OSError) as error:
        raise Unreadable(f"page {number} cannot be drawn ({first_line(error)}); mend it, or leave it out.") from None
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def clean_page(text: str) -> str:
    """The Markdown that a model wrote of a page, without a fence around all of it and the data that some put first."""
    fenced = _FENCED.fullmatch(text.strip())
    return _clean(_FRONT_MATTER.sub("", (fenced[1] if fenced else text).lstrip()))


def seems(content: bytes) -> str:
    """Guess the encoding of a text that is not UTF-8; empty where nothing tells, or what could is not installed."""
    try:
        from charset_normalizer import from_bytes
    except ModuleNotFoundError:
        return ""
    best = from_bytes(content[:100_000]).best()
    # Few words fit many encodings: only one in which the letters are as frequent as in some language is named.
    return best.encoding if best and best.coherence > 0 else ""


def _pdf(path: Path) -> Converted:
    liteparse = require("liteparse", "documents")
    # Its OCR would fetch data from the network.
    parser = liteparse.LiteParse(
        ocr_enabled=False,
        output_format="markdown",
        image_mode="off",
        extract_links=False,
        extract_document_metadata=True,
        continue_on_page_error=True,
        quiet=True,
    )
    result = _parsed("a PDF", lambda: parser.parse(path))
    pages = {page.page_num: _clean(page.markdown) if page.text.strip() else "" for page in result.pages}
    total = max(result.total_pages, *pages, 0)
    without = [number for number in range(1, total + 1) if not any(map(str.isalnum, pages.get(number, "")))]
    if len(without) == total:
        raise Unreadable(
            f"has no text on any of its {total:,} pages, as scans have none; have it read by a vision model (`smt "
            "transcribe`) or an OCR program, or leave it out.",
            total,
        )
    layer = "".join(page.text for page in result.pages)
    damaged = sum(sign == "\ufffd" or unicodedata.category(sign) in ("Co", "Cn") for sign in layer) / len(layer)
    if damaged > _MOST_DAMAGED:
        raise Unreadable(
            f"has a damaged text layer: {damaged:.0%} of its signs stand for nothing; have it read by a vision model "
            "(`smt transcribe`) or an OCR program, or leave it out.",
            total,
        )
    text = with_page_marks({number: pages[number] for number in sorted(pages) if number not in without})
    xmp = _XMP_TITLE.search((result.doc_meta.xmp if result.doc_meta else None) or "")
    return Converted(_title(html.unescape(xmp[1]) if xmp else "", text), text, total, without, _named("liteparse"))


def _office(path: Path) -> Converted:
    kreuzberg = require("kreuzberg", "documents")
    # Of Word's pages only those are known that were broken by hand.
    pages = kreuzberg.PageConfig(extract_pages=True, insert_page_markers=True, marker_format="\n\n[page {page_num}]\n")
    config = kreuzberg.ExtractionConfig(
        use_cache=False,
        output_format="markdown",
        pages=pages if path.suffix.lower() == ".pptx" else None,
        extraction_timeout_secs=_LONGEST_SECONDS,
    )
    title = ""
    try:
        result = _parsed(_NAMES[path.suffix.lower()], lambda: kreuzberg.extract_file_sync(str(path), config=config))
        text, title = result.content, str(result.metadata.get("title") or "")
    except Unreadable:
        # It refuses presentations for a picture that is missing or linked.
        text = _slides(path) if path.suffix.lower() == ".pptx" else ""
        if not text:
            raise
    if path.suffix.lower() in (".html", ".htm"):
        text = _FRONT_MATTER.sub("", text)
    text = re.sub(r"(\[page \d+\]\n)\n+", r"\1", _clean(text))
    if not any(map(str.isalnum, re.sub(r"\[page \d+\]", "", text))):
        raise Unreadable("holds no text; leave it out, or give it some.")
    slides = [int(number) for number in re.findall(r"^\[page (\d+)\]$", text, re.MULTILINE)]
    return Converted(_title(title, text), text, max(slides, default=0), [], _named("kreuzberg"))


def _slides(path: Path) -> str:
    """The paragraphs of a presentation by themselves, slide by slide; empty where it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _LARGEST:  # unpacked
                return ""
            order = ElementTree.fromstring(archive.read("ppt/presentation.xml")).iter(f"{_SHOWN}sldId")
            relations = ElementTree.fromstring(archive.read("ppt/_rels/presentation.xml.rels"))
            targets = {relation.get("Id"): relation.get("Target", "") for relation in relations}
            names = [targets[slide.get(f"{_RELATED}id")].removeprefix("/ppt/") for slide in order]
            slides = [ElementTree.fromstring(archive.read(f"ppt/{name}")) for name in names]
    except (zipfile.BadZipFile, ElementTree.ParseError, KeyError, NotImplementedError, RuntimeError):
        return ""
    texts = []
    for number, slide in enumerate(slides, start=1):
        paragraphs = ("".join(run.text or "" for run in each.iter(f"{_DRAWN}t")) for each in slide.iter(f"{_DRAWN}p"))
        texts.append(_PAGE.format(number) + "\n\n".join(text for text in paragraphs if text.strip()))
    return "\n\n".join(texts)


_NAMES = {".docx": "a Word file", ".pptx": "a PowerPoint file", ".html": "HTML", ".htm": "HTML", ".epub": "an EPUB"}
CONVERTERS: dict[str, Callable[[Path], Converted]] = {".pdf": _pdf, **dict.fromkeys(_NAMES, _office)}
"""Ending of a file's name, in small letters -> what converts it."""


def _parsed(kind: str, parse: Callable[[], Any]) -> Any:
    try:
        return parse()
    except (KeyboardInterrupt, SystemExit):
        raise
    # Panics of Rust are no Exception.
    except BaseException as error:
        reason = first_line(error)
        if re.search("password|encrypt", reason, re.IGNORECASE):
            raise Unreadable("is encrypted; save it without a password, or leave it out.") from None
        raise Unreadable(f"cannot be read as {kind} ({reason}); mend it, or leave it out.") from None


def _clean(text: str) -> str:
    """The text without pictures, addresses of links and control characters."""
    text = _LINK.sub(r"\1", _IMAGE.sub(r"\1", text)).replace("\r\n", "\n").replace("\xad", "")
    text = "".join(sign for sign in text if sign in "\n\t" or unicodedata.category(sign) != "Cc")
    return _BLANK_LINES.sub("\n\n", text).strip()


def _title(told: str, text: str) -> str:
    """The title that a document's data tell, or else its first heading, on one line; else nothing."""
    told = " ".join(told.split())
    if not any(map(str.isalnum, told)) or _NO_TITLE.search(told):
        heading = _HEADING.search(text[:2000])
        told = " ".join(_MARKED.sub("", heading[1]).split()) if heading else ""
    return told[:300]


def _named(package: str) -> str:
    return f"{package} {version(package)}"
