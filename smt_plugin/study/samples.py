"""The records of a method in the order in which a mix takes them, so that a sample of any size can be taken of each."""

import hashlib
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smt_plugin.config import RunFile
from smt_plugin.corpus import comparable
from smt_plugin.errors import BadInput
from smt_plugin.files import reading
from smt_plugin.mixing.lines import BUFFER, DECODER, Line, identity_of, parsed_line
from smt_plugin.mixing.ruler import Ruler

_BATCH = 1024
_COLUMNS = {"file": "I", "offset": "Q", "tokens": "I", "document": "I", "part": "I", "round": "I", "index": "I"}


@dataclass(frozen=True, slots=True)
class RecordSet:
    """The records of one method of one run; of each some numbers are kept, not its text.

    Attributes:
        name: the method, with its run where there are several.
        run_file: of the run.
        files: that hold the records.
        doc_ids: of the documents that have records, in a form that can be compared.
        file, offset: where each record's line begins.
        document: the number of each record's document in `doc_ids`.
        tokens: of each record.
    """

    name: str
    run_file: RunFile
    files: list[Path]
    doc_ids: list[str]
    file: NDArray[np.uint32]
    offset: NDArray[np.uint64]
    document: NDArray[np.uint32]
    tokens: NDArray[np.int64]

    @property
    def available(self) -> int:
        """Tokens of all records."""
        return int(self.tokens.sum())

    def count_for(self, tokens: float) -> int:
        """How many records, the first in the mix's order, come nearest to so many tokens; one at least."""
        sums = np.cumsum(self.tokens)
        count = int(np.searchsorted(sums, tokens, side="right"))
        below = float(sums[count - 1]) if count else 0.0
        return max(1, count + (count < len(sums) and float(sums[count]) - tokens < tokens - below))

    def places_by_document(self, count: int) -> dict[str, NDArray[np.int64]]:
        """Id of each document of the first `count` records -> their places in the order."""
        grouped = np.argsort(self.document[:count], kind="stable")
        parts = np.split(grouped, np.flatnonzero(np.diff(self.document[grouped])) + 1)
        return {self.doc_ids[self.document[places[0]]]: places for places in parts}

    def texts(self, places: NDArray[np.int64]) -> Iterator[str]:
        """The texts of records, read from their files."""
        with ExitStack() as files:
            opened = [files.enter_context(reading(file)) for file in self.files]
            for place in places:
                file = self.file[place]
                opened[file].seek(int(self.offset[place]))
                try:
                    yield text_of(DECODER.decode(opened[file].readline()))
                except ValueError:
                    raise BadInput(f"{self.files[file]} was changed while it was read; run this again.") from None


def text_of(row: Line) -> str:
    """What a record says; of a question and its answer both, a line each."""
    return row.text or "\n".join(turn.content for turn in row.messages or [])


def read_records(
    name: str,
    run_file: RunFile,
    files: list[Path],
    ruler: Ruler,
    drop: Mapping[str, str],
    tell: Callable[[int], None],
) -> RecordSet:
    """Read the records of a method once, and put them into the order in which a mix takes them.

    A mix goes through all documents alike: after a tenth of its tokens it has taken the first tenth of each document's
    records. So a smaller sample is a part of each larger one.

    Args:
        drop: ids of records to leave out.
        tell: is called with how many were read.

    Raises:
        BadInput: a line is no record, or there is none.
    """
    numbers = {column: array(code) for column, code in _COLUMNS.items()}
    ties = array("Q")
    documents: dict[str, int] = {}
    rows = _rows(files, drop)
    while batch := list(islice(rows, _BATCH)):
        for file, offset, identity, row in batch:
            doc_id = identity if row.doc_id in (None, "") else str(row.doc_id)
            document = documents.setdefault(comparable(doc_id), len(documents))
            places = (file, offset, document, row.part or 0, row.round or 0, row.index or 0)
            for column, number in zip(("file", "offset", "document", "part", "round", "index"), places, strict=True):
                numbers[column].append(number)
            ties.append(int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=8).digest(), "big"))
        # A record is measured by its text alone: what a chat template puts around it is the same for all.
        numbers["tokens"].extend(ruler.texts([text_of(row) for *_, row in batch]))
        tell(len(ties))
    if not ties:
        raise BadInput(f"{files[0]} holds no record that can be used; run `smt generate` first.")
    columns: dict[str, NDArray[Any]] = {key: np.asarray(values) for key, values in numbers.items()}
    order = _mixed(columns, np.asarray(ties))
    return RecordSet(
        name,
        run_file,
        files,
        list(documents),
        columns["file"][order],
        columns["offset"][order],
        columns["document"][order],
        columns["tokens"][order].astype(np.int64),
    )


def _rows(files: list[Path], drop: Mapping[str, str]) -> Iterator[tuple[int, int, str, Line]]:
    """Each record that says something, with its file, where its line begins there, and its id."""
    for file, path in enumerate(files):
        offset = 0
        with reading(path, buffering=BUFFER) as lines:
            for number, line in enumerate(lines, start=1):
                begin, where = offset, f"{path}, line {number}"
                offset += len(line)
                if line.isspace():
                    continue
                row = parsed_line(line, where)
                assert isinstance(row, Line)
                row.check(where)
                identity = identity_of(row, where)
                if identity not in drop and text_of(row).strip():
                    yield file, begin, identity, row


def _mixed(columns: Mapping[str, NDArray[Any]], ties: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The order of `mixing/chooser.py`: by how far through its part of the document a record stands, 0 to below 1."""
    by_place = np.lexsort([columns[key] for key in ("index", "round", "part", "document")])
    part = np.stack([columns[key][by_place] for key in ("document", "part")])
    begins = np.flatnonzero(np.append(True, (part[:, 1:] != part[:, :-1]).any(0)))
    sizes = np.diff(begins, append=len(by_place))
    progress = (np.arange(len(by_place)) - np.repeat(begins, sizes)) / np.repeat(sizes, sizes)
    order: NDArray[np.int64] = by_place[np.lexsort((ties[by_place], progress))]
    return order
