"""Read a corpus (a folder of files, one file, or JSONL) as documents.

A folder may hold `corpus.yaml`, which says how it is to be read: see `Reading`.
"""

import codecs
import io
import logging
import math
import os
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import regex
import yaml
from msgspec import Struct, field
from msgspec.structs import replace

from smt_plugin.config import parse_yaml
from smt_plugin.converters import CONVERTERS, Unreadable, convert, pages_of, seems
from smt_plugin.errors import BadInput, first_line
from smt_plugin.files import Text, as_row, content_hash, not_utf8, read_jsonl, read_text, write_text
from smt_plugin.files import reading as opened
from smt_plugin.sentences import SCRIPTS_END

log = logging.getLogger(__name__)
TEXT_SUFFIXES = (".txt", ".md")
SUFFIXES = (*TEXT_SUFFIXES, *CONVERTERS)
READING_FILE = "corpus.yaml"
_MOST_LISTED = 1000  # bad documents that are named, of a file or a folder
# The questions about the documents, and what `smt questions` writes with them.
_QUESTIONS = ("questions.jsonl", "questions.manifest.json", "questions.dropped.jsonl", "questions.html")

# Where a long document may be split, the best places first: pages, headings, paragraphs, lines, sentences, words.
_BREAKS = [
    regex.compile(pattern, regex.VERSION1)
    for pattern in (
        r"\f|\n(?=\[page \d+\]\n)",
        r"\n(?=#{1,6} )",
        r"\n\s*\n",
        r"\n",
        rf"(?<=[.!?])\s+|{SCRIPTS_END}\s*",
        r"\s+",
    )
]
# Parts are this much smaller than they may be, and vary by as much, so that there is a choice of places.
_SLACK = 0.1


class Document(Struct, frozen=True):
    """One source text of the corpus, or a part of a long one (`part` counts from 0).

    `meta` may hold `author` and `year`, or `identity`: the whole phrase by which prompts, training
    texts and evaluation questions alike name the document.
    """

    id: Text = field(name="doc_id")
    title: str
    text: Text
    source: str = ""
    meta: dict[str, Any] = {}
    part: int = 0

    @property
    def identity(self) -> str:
        """The phrase that names the document: `"Title" by Author (Year)`, without what is not known."""
        if self.meta.get("identity"):
            return str(self.meta["identity"])
        author, year = self.meta.get("author"), self.meta.get("year")
        return f'"{self.title}"' + (f" by {author}" if author else "") + (f" ({year})" if year else "")

    def to_json(self) -> dict[str, Any]:
        """Return the line of `documents.jsonl` that is read as this document."""
        return {"doc_id": self.id, "title": self.title, "text": self.text, "source": self.source, "meta": self.meta}


def document_hash(document: Document) -> str:
    """16 hexadecimal digits that change when what prompts show of a document, or of a part of one, does."""
    return content_hash([document.identity, document.text])[:16]


def estimate_tokens(text: str) -> float:
    """Return about how many tokens a text has: a token for 4 bytes of UTF-8, our rule of thumb for any language."""
    return len(text.encode()) / 4


def split_document(document: Document, most_tokens: float) -> list[Document]:
    """Split a document into parts of like size, at pages, headings or paragraphs if it has some where needed.

    Args:
        most_tokens: how long a part may be, by `estimate_tokens`; a document that fits stays whole.
    """
    texts = _cut(document.text, most_tokens)
    return [replace(document, text=text, part=n) for n, text in enumerate(text for text in texts if text.strip())]


def _cut(text: str, most_tokens: float) -> list[str]:
    """Cut a text into pieces of like numbers of characters."""
    tokens = estimate_tokens(text)
    if tokens <= most_tokens:
        return [text]
    count = math.ceil(tokens / (most_tokens * (1 - _SLACK)))
    texts = []
    start = 0
    for left in range(count, 1, -1):
        size = (len(text) - start) / left
        window = (start + int(size * (1 - _SLACK)), start + int(size * (1 + _SLACK / 2)))
        end = _best_break(text, start + round(size), window)
        texts.append(text[start:end])
        start = end
    texts.append(text[start:])
    # A character takes more bytes in one script than in another.
    return [piece for part in texts for piece in _cut(part, most_tokens)]


def _best_break(text: str, wanted: int, window: tuple[int, int]) -> int:
    """Return the end of the best break in the window (places in the text), the nearest to `wanted` of its kind."""
    for pattern in _BREAKS:
        places: list[int] = [match.end() for match in pattern.finditer(text, *window)]
        if places:
            return min(places, key=lambda place: abs(place - wanted))
    return wanted


def read_documents(path: Path) -> Iterator[Document]:
    """Yield the documents of a corpus, in a stable order, without holding them all.

    Args:
        path: a folder of .txt, .md, .pdf, .docx, .pptx, .html and .epub files (id = path below the folder, title =
            what a converted document calls itself, else the file name; links are followed, names that begin with a dot
            left out), one such file, or a .jsonl file with `doc_id`, `title`, `text` and optionally `source` and `meta`
            on each line; a folder that holds `documents.jsonl` is read through that file.

    Raises:
        BadInput: nothing there, a file or folder that cannot be read, converted or decoded, a document without a letter
            or digit or with NUL characters, a field missing, or two ids that are the same or look it. One error lists
            all such documents, at the end; from the first of them on none is yielded.
    """
    if path.is_dir() and (path / "documents.jsonl").is_file():
        path = path / "documents.jsonl"
    if path.is_dir():
        found = _from_folder(path)
    elif path.suffix == ".jsonl":
        found = _from_jsonl(path)
    elif path.suffix.lower() in SUFFIXES and path.is_file():
        found = iter([_from_file(path, path.name, Reading())])
    elif path.exists():
        raise BadInput(
            f"corpus {path}: unknown kind of file; use .jsonl or {', '.join(SUFFIXES)}, or a folder of them."
        )
    else:
        raise BadInput(f"corpus {path} does not exist; set `corpus` to a folder or a .jsonl file.")
    seen: dict[str, str] = {}
    problems: list[str] = []
    for document in found:
        if isinstance(document, Document):
            problem = clash(f"corpus {path}: the document", document.id, seen)
        else:
            problem = str(document)
        if problem:
            problems.append(problem)
        elif not problems and isinstance(document, Document):
            yield document
    if problems:
        rest = [f"{len(problems) - _MOST_LISTED:,} more of its documents are as bad."]
        raise BadInput(*problems[:_MOST_LISTED], *(rest if len(problems) > _MOST_LISTED else []))
    if not seen:
        raise BadInput(f"corpus {path} holds no documents; put {', '.join(SUFFIXES)} files or a documents.jsonl there.")


class SteadyCorpus:
    """The documents of a corpus, as `read_documents` gives them, to be read again and again while none changes.

    Raises:
        RuntimeError: they are not those of the first time; the message names the first that is another.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # Of the first time, eight bytes a document.
        self._hashes = array("Q")
        self._is_whole = False

    def __iter__(self) -> Iterator[Document]:
        count = 0
        documents = read_documents(self._path)
        while True:
            try:
                document = next(documents)
            except StopIteration:
                break
            except BadInput as error:
                if self._is_whole:
                    raise self._changed(first_line(error)) from None
                raise
            found = int(content_hash([document.id, document_hash(document)])[:16], 16)
            if not self._is_whole:
                self._hashes.append(found)
            elif self._hashes[count : count + 1] != array("Q", [found]):
                raise self._changed(f"the document {document.id!r} is not the one that stood there")
            count += 1
            yield document
        if count < len(self._hashes):
            raise self._changed(f"it holds {count:,} documents and held {len(self._hashes):,}")
        self._is_whole = True

    def _changed(self, how: str) -> RuntimeError:
        return RuntimeError(f"the corpus {self._path} has changed since this command began: {how.rstrip('.')}")


def other_files(path: Path) -> Counter[str]:
    """Count the files of a corpus folder that are no documents, by the ending of their names; hidden ones are none."""
    if not path.is_dir() or (path / "documents.jsonl").is_file():
        return Counter()
    others = (file for file in _files(path) if file.suffix.lower() not in SUFFIXES)
    no_documents = (*_QUESTIONS, READING_FILE)
    return Counter(file.suffix.lower() or file.name for file in others if file.name not in no_documents)


def comparable(identifier: str) -> str:
    """The form in which ids are compared: macOS writes an accent behind its letter, others write both as one sign."""
    return unicodedata.normalize("NFC", identifier)


def clash(what: str, identifier: str, seen: dict[str, str]) -> str:
    """Say in a sentence that an id was seen before, or one that only looks the same; else remember it.

    Args:
        what: has the id, such as "the document"; the sentence begins with it.
        seen: comparable id -> id.
    """
    other = seen.setdefault(comparable(identifier), identifier)
    if other is identifier:
        return ""
    if other == identifier:
        return f"{what} id {identifier!r} is given twice; ids must differ."
    return (
        f"{what} ids {other!a} and {identifier!a} look the same ({other}): they differ only in how accents "
        "are coded; rename or remove one."
    )


class Reading(Struct, frozen=True, forbid_unknown_fields=True):
    """How a folder is to be read, as `corpus.yaml` in it says.

    Attributes:
        encoding: of text files that are not UTF-8, as Python names it, e.g. cp1252.
        leave_out: files that are no documents, by their path below the folder -> why not, which is told to people.
    """

    encoding: str = ""
    leave_out: dict[str, str] = {}


def read_reading(folder: Path) -> Reading:
    """Read `corpus.yaml` of a folder; the defaults if there is none.

    Raises:
        BadInput: it has another form, or an unknown encoding.
    """
    path = folder / READING_FILE
    if not os.path.lexists(path):
        return Reading()
    try:
        value = parse_yaml(read_text(path))
    except ValueError as error:
        raise BadInput(f"{path} is no valid YAML for a corpus: {error}; correct it.") from None
    reading = as_row(value or {}, Reading, str(path))
    try:
        codecs.lookup(reading.encoding or "utf-8")
    except LookupError:
        raise BadInput(f"{path}: encoding: {reading.encoding!r} is unknown; name one as Python does.") from None
    return reading


def leave_out_bad(folder: Path) -> dict[str, str]:
    """Enter the files of a folder that cannot be read into its `corpus.yaml`, and return them with the reasons.

    Raises:
        BadInput: `corpus.yaml` has another form or cannot be written.
    """
    bad = {found.document_id: str(found) for found in _from_folder(folder) if isinstance(found, _BadFile)}
    if bad:
        leave_out(folder, bad)
    return bad


def leave_out(folder: Path, files: dict[str, str]) -> None:
    """Enter files (path below the folder -> why) into `corpus.yaml` as no documents.

    Raises:
        BadInput: `corpus.yaml` has another form or cannot be written.
    """
    reading = read_reading(folder)
    value = {"encoding": reading.encoding} if reading.encoding else {}
    text = yaml.safe_dump({**value, "leave_out": reading.leave_out | files}, allow_unicode=True, sort_keys=False)
    try:
        write_text(folder / READING_FILE, f"# How smt reads this folder.\n{text}")
    except OSError as error:
        raise BadInput(f"{folder / READING_FILE} cannot be written ({error.strerror}).") from None


class Scan(Struct, frozen=True):
    """A PDF with pages whose text only their images show: `pages` are their numbers, from 1."""

    path: Path
    document_id: str
    pages: list[int]

    @property
    def target(self) -> Path:
        """The Markdown file that is to stand for it."""
        return self.path.with_suffix(".md")

    def other_texts(self) -> dict[int, str]:
        """The texts of its other pages, by their numbers."""
        with suppress(Unreadable):  # all its pages are such
            return pages_of(convert(self.path).text)
        return {}


def scans(folder: Path) -> Iterator[Scan]:
    """Yield the PDFs of a corpus folder that have pages without text, left out or not; other bad files are none.

    Raises:
        BadInput: it is no folder, or a converter is not installed.
    """
    if not folder.is_dir() or (folder / "documents.jsonl").is_file():
        raise BadInput(f"corpus {folder} is no folder of files, so it holds no PDF to read.")
    for path in sorted(path for path in _files(folder) if path.suffix.lower() == ".pdf"):
        document_id = path.relative_to(folder).as_posix()
        try:
            found = convert(path)
        except Unreadable as error:
            if error.pages:
                yield Scan(path, document_id, list(range(1, error.pages + 1)))
        except OSError:
            continue  # told when the corpus is read
        else:
            if found.without_text:
                yield Scan(path, document_id, found.without_text)


class _BadFile(BadInput):
    """A file that gives no document."""

    def __init__(self, document_id: str, sentence: str) -> None:
        super().__init__(sentence)
        self.document_id = document_id


def _from_folder(folder: Path) -> Iterator[Document | BadInput]:
    reading = read_reading(folder)
    left_out = set(map(comparable, reading.leave_out))
    for path in sorted(path for path in _files(folder) if path.suffix.lower() in SUFFIXES):
        document_id = path.relative_to(folder).as_posix()
        if comparable(document_id) not in left_out and path.name not in _QUESTIONS:
            yield _from_file(path, document_id, reading)


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder without hidden ones; a folder that is reached in several ways is read once."""

    def refuse(error: OSError) -> None:
        raise BadInput(f"{error.filename} cannot be read ({error.strerror}); fix its permissions or remove it.")

    seen: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in names if not name.startswith("."))


def _from_file(path: Path, document_id: str, reading: Reading) -> Document | BadInput:
    """Read a file as a document, or return what is wrong with it."""
    try:
        document_id.encode()
    except UnicodeEncodeError:
        return BadInput(f"the name of {str(path)!r} is not UTF-8; rename it.")
    is_text = path.suffix.lower() in TEXT_SUFFIXES
    try:
        with opened(path) as file:
            content = file.read() if is_text else b""
    except BadInput as error:
        return _BadFile(document_id, str(error))
    if not is_text:
        return _converted(path, document_id)
    text = _decoded(content, reading.encoding)
    if problem := (not_utf8(content) if "\0" in text or not text else "") or _no_text(text):
        if "ITS-ENCODING" in problem and (encoding := seems(content)):
            problem += f" It seems to be {encoding}, which `encoding: {encoding}` in {READING_FILE} beside it reads."
        return _BadFile(document_id, f"{path} {problem}")
    return Document(id=document_id, title=path.stem.replace("_", " "), text=text, source=str(path.name))


def _decoded(content: bytes, encoding: str) -> str:
    """The text of a file with all line ends alike; empty where it is in neither UTF-8 nor the other encoding."""
    texts = []
    # A byte order mark is no part of the text.
    for name in ["utf-8-sig", *([encoding] if encoding else [])]:
        with suppress(UnicodeDecodeError):
            texts.append(io.StringIO(content.decode(name), newline=None).read())
    return next((text for text in texts if "\0" not in text), texts[0] if texts else "")


def _converted(path: Path, document_id: str) -> Document | BadInput:
    try:
        found = convert(path)
    except Unreadable as error:
        return _BadFile(document_id, f"{path} {error}")
    if found.without_text:
        _tell(path, tuple(found.without_text), found.pages)
    meta = {"pages": found.pages, "pages_without_text": found.without_text, "converter": found.converter}
    meta = {name: value for name, value in meta.items() if value}
    title = found.title or path.stem.replace("_", " ")
    return Document(id=document_id, title=title, text=found.text, source=str(path.name), meta=meta)


@cache
def _tell(path: Path, numbers: tuple[int, ...], total: int) -> None:
    """Say once which pages of a document are missing from its text."""
    log.warning("%s: pages without text, as scans have none, are left out: %s of %s", path, ranges(numbers), total)


def ranges(numbers: Iterable[int]) -> str:
    """Write ascending numbers as ranges: 1, 3-5 for (1, 3, 4, 5)."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][-1] + 1:
            found[-1][1:] = [number]
        else:
            found.append([number])
    return ", ".join("-".join(map(str, each)) for each in found)


def _no_text(text: str) -> str:
    """Say why nothing can be written about a text, as the end of a sentence; empty where something can."""
    if not text.strip():
        return "is empty; remove it or give it some text."
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        return (
            f"holds NUL characters, as damaged files do, the first of {text.count(chr(0)):,} in line {line}; "
            "write it anew or take them out."
        )
    if not any(map(str.isalnum, text)):
        return "holds no letter or digit; remove it or give it some text."
    return ""


def _from_jsonl(path: Path) -> Iterator[Document | BadInput]:
    try:
        for number, row in read_jsonl(path):
            row |= {"source": str(row.get("source") or ""), "meta": row.get("meta") or {}, "part": 0}
            where = f"{path}, line {number}"
            try:
                document = as_row(row, Document, where)
            except BadInput as error:
                yield error
                continue
            problem = _no_text(document.text)
            yield BadInput(f"{where}: the text {problem}") if problem else document
    # What is no JSON ends the file.
    except BadInput as error:
        yield error
