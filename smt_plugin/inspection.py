"""What a corpus holds, before it is paid for: sizes, languages, copies, boilerplate, pages that are empty or odd."""

import hashlib
import re
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import nlargest
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from smt_plugin.corpus import Document, SteadyCorpus, estimate_tokens, ranges
from smt_plugin.files import write_text
from smt_plugin.languages import language_of
from smt_plugin.words import words_of

# Our choices. A document that shares this part of its runs of words with an earlier one is nearly its copy.
NEAR = 0.8
_MOST_LISTED = 1000  # documents with such pages, or odd ones
_SHOWN = 10  # longest documents, copies, lines
_SHORT_PAGE = 50  # characters; a page of fewer is named
_FEW_LETTERS = 0.5  # of the signs that are no white space; what has fewer is a table of figures, or damaged
_LEAST_LINE = 30  # characters of a line that may be boilerplate
_LEAST_DOCUMENTS = 3  # in which it stands
_SLOTS = 2**22  # of a table that counts lines by their hash, a byte each
_PAGE = re.compile(r"^\[page (\d+)\]\n", re.MULTILINE)
_BATCH = 64


@dataclass(slots=True)
class Inspection:
    """What was found.

    Attributes:
        tokens: by our rule of thumb, as in `smt plan`.
        languages: language -> documents; empty where it cannot be told.
        copies: (document, earlier document, shared part of their runs), of which 1 is the same text but for white
            space; `num_copies` and `copied_tokens` are of all.
        near: whether near copies were looked for.
        repeated: (line, documents it stands in), the commonest; `boilerplate` is the share of all characters that such
            lines have after their first document.
        empty_pages: document -> its pages without text; `short_pages` -> its pages with next to none.
        odd: document -> what is odd about it.
        longest: (document, tokens).
    """

    documents: int = 0
    tokens: float = 0.0
    characters: int = 0
    languages: Counter[str] = field(default_factory=Counter)
    copies: list[tuple[str, str, float]] = field(default_factory=list)
    num_copies: int = 0
    copied_tokens: float = 0.0
    near: bool = True
    repeated: list[tuple[str, int]] = field(default_factory=list)
    boilerplate: float = 0.0
    empty_pages: dict[str, list[int]] = field(default_factory=dict)
    short_pages: dict[str, list[int]] = field(default_factory=dict)
    odd: dict[str, str] = field(default_factory=dict)
    longest: list[tuple[str, float]] = field(default_factory=list)


def inspect_corpus(path: Path) -> Inspection:
    """Read a corpus twice and say what it holds; in memory are a few numbers a document, its text on disk.

    Raises:
        BadInput: as `read_documents`.
        RuntimeError: it changed meanwhile.
    """
    found, corpus, counts = Inspection(), SteadyCorpus(path), bytearray(_SLOTS)
    sizes: list[tuple[str, float]] = []
    with tempfile.TemporaryDirectory() as folder, _Copies(Path(folder)) as copies:
        for document in corpus:
            tokens = estimate_tokens(document.text)
            found.documents += 1
            found.tokens += tokens
            found.characters += len(document.text)
            found.languages[language_of(document.text)] += 1
            sizes.append((document.id, tokens))
            copies.add(document)
            _look_at_pages(document, found)
            for line in set(_lines(document.text)):
                slot = _slot(line)
                counts[slot] = min(counts[slot] + 1, 255)
        found.longest = nlargest(_SHOWN, sizes, key=lambda size: size[1])
        of = dict(sizes)
        for copy in copies.find():
            found.num_copies += 1
            found.copied_tokens += of[copy[0]]
            found.copies = nlargest(_SHOWN, [*found.copies, copy], key=lambda each: each[2])
        found.near = copies.near
    # Only lines that may stand in several documents are kept.
    documents: Counter[str] = Counter()
    for document in corpus:
        documents.update({line for line in _lines(document.text) if counts[_slot(line)] >= _LEAST_DOCUMENTS})
    repeated = {line: number for line, number in documents.items() if number >= _LEAST_DOCUMENTS}
    found.repeated = nlargest(_SHOWN, repeated.items(), key=lambda item: item[1] * len(item[0]))
    wasted = sum(len(line) * (number - 1) for line, number in repeated.items())
    found.boilerplate = wasted / found.characters
    return found


def _look_at_pages(document: Document, found: Inspection) -> None:
    if empty := document.meta.get("pages_without_text"):
        found.empty_pages[document.id] = empty
    pieces = _PAGE.split(document.text)
    pages = zip(map(int, pieces[1::2]), pieces[2::2], strict=True)
    if short := [number for number, text in pages if len(text.strip()) < _SHORT_PAGE]:
        found.short_pages[document.id] = short
    signs = [sign for sign in document.text if not sign.isspace()]
    letters = sum(map(str.isalpha, signs)) / len(signs)
    if "\ufffd" in document.text:
        found.odd[document.id] = f"{document.text.count(chr(0xFFFD)):,} signs stand for what could not be read"
    elif letters < _FEW_LETTERS:
        found.odd[document.id] = f"only {letters:.0%} of its signs are letters"


def _lines(text: str) -> Iterator[str]:
    for line in text.splitlines():
        line = " ".join(line.split())
        if len(line) >= _LEAST_LINE:
            yield line


def _slot(line: str) -> int:
    return int.from_bytes(hashlib.blake2b(line.encode(errors="replace"), digest_size=4).digest(), "big") % _SLOTS


class _Copies:
    """Finds documents that are copies of earlier ones, or nearly; their texts and keys lie in a folder."""

    def __init__(self, folder: Path) -> None:
        self._texts = (folder / "texts").open("w+b")
        self._places = array("Q", [0])
        self._ids: list[str] = []
        self._first: dict[bytes, int] = {}
        self._same: list[tuple[int, int]] = []
        self._batch: list[str] = []
        self._keys: Any = None
        try:
            from smt_plugin.mixing.near_duplicates import NearDuplicates

            self._keys = NearDuplicates(folder)
        except ModuleNotFoundError:  # numpy comes with the extras that need it
            pass

    @property
    def near(self) -> bool:
        """Whether near copies are looked for."""
        return self._keys is not None

    def __enter__(self) -> "_Copies":
        return self

    def __exit__(self, *error: object) -> None:
        self._texts.close()

    def add(self, document: Document) -> None:
        """Keep the next document's text."""
        number = len(self._ids)
        self._ids.append(document.id)
        self._texts.write(document.text.encode(errors="replace"))
        self._places.append(self._texts.tell())
        first = self._first.setdefault(hashlib.sha256(" ".join(words_of(document.text)).encode()).digest(), number)
        if first != number:
            self._same.append((number, first))
        if self.near:
            self._batch.append(document.text)
            if len(self._batch) == _BATCH:
                self._flush()

    def find(self) -> Iterator[tuple[str, str, float]]:
        """Yield (document, earlier document, shared part)."""
        for number, first in self._same:
            yield self._ids[number], self._ids[first], 1.0
        if not self.near or not self._ids:
            return
        import numpy as np

        self._flush()
        is_candidate = np.ones(len(self._ids), dtype=bool)
        is_candidate[[number for number, _ in self._same]] = False
        for number, first, part in self._keys.find(is_candidate, np.sort, self._text, NEAR):
            yield self._ids[number], self._ids[first], part

    def _flush(self) -> None:
        from smt_plugin.mixing.near_duplicates import band_keys

        if self._batch:
            self._keys.add(band_keys(self._batch))
            self._batch = []

    def _text(self, number: int) -> str:
        self._texts.seek(self._places[number])
        return self._texts.read(self._places[number + 1] - self._places[number]).decode()


@dataclass(frozen=True, slots=True)
class Table:
    """A part of what was found; one without rows is not shown."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


def tables(found: Inspection) -> list[Table]:
    """Return what was found as tables, for the terminal and the page alike."""
    documents = f"of {found.documents:,}"
    near = f"share {NEAR:.0%} of their runs of words and have the same numbers"
    rows = [
        ("documents", f"{found.documents:,}"),
        ("tokens, about", f"{found.tokens:,.0f}"),
        ("languages", ", ".join(f"{name or 'not told'} {count:,}" for name, count in found.languages.most_common())),
        ("copies", f"{found.num_copies:,} {documents}, {found.copied_tokens / found.tokens:.1%} of the tokens"),
        ("lines repeated over documents", f"{found.boilerplate:.1%} of the characters, beyond their first document"),
        ("documents with pages without text", f"{len(found.empty_pages):,} {documents}"),
        ("documents with pages of hardly any text", f"{len(found.short_pages):,} {documents}"),
        ("odd documents", f"{len(found.odd):,} {documents}"),
    ]
    return [
        Table("The corpus", ("what", "how much"), rows),
        Table(
            "Copies",
            ("document", "as", "shared"),
            [(one, other, f"{part:.0%}") for one, other, part in found.copies],
            f"The same words, or texts that {near}."
            if found.near
            else "Near copies were not looked for: install numpy.",
        ),
        Table(
            f"Lines that stand in {_LEAST_DOCUMENTS} documents or more",
            ("line", "documents"),
            [(line[:200], f"{count:,}") for line, count in found.repeated],
        ),
        Table("Pages without text", ("document", "pages"), _pages(found.empty_pages)),
        Table(f"Pages of fewer than {_SHORT_PAGE} characters", ("document", "pages"), _pages(found.short_pages)),
        Table("Odd documents", ("document", "what"), list(found.odd.items())[:_MOST_LISTED]),
        Table("The longest", ("document", "tokens, about"), [(each, f"{size:,.0f}") for each, size in found.longest]),
    ]


def _pages(of: dict[str, list[int]]) -> list[tuple[str, ...]]:
    return [(name, ranges(numbers)) for name, numbers in list(of.items())[:_MOST_LISTED]]


def write_inspection(path: Path, corpus: Path, found: Inspection) -> None:
    """Write what was found as a page that loads nothing from elsewhere."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    template = environment.get_template("inspection.html.jinja")
    html = template.render(corpus=corpus, tables=[table for table in tables(found) if table.rows])
    write_text(path, html.encode(errors="replace").decode())
