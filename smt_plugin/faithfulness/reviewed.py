"""The records of a run, to be looked at one by one beside their documents, and what is said of them."""

import codecs
import os
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self, cast

import msgspec

from smt_plugin.errors import BadInput, first_line
from smt_plugin.faithfulness.check import KINDS, NAME, turns_of
from smt_plugin.faithfulness.findings import findings_path
from smt_plugin.files import reading
from smt_plugin.rejects import GATE, KEEP, OPEN, PERSON, REJECT, Verdict, add_verdicts, read_verdicts
from smt_plugin.source_passages import KeptDocuments

_ANEW = "run `smt generate RUN.YAML` anew"
_STATES = (OPEN, REJECT, KEEP)
# Characters of a document that are shown before and behind the passage.
_AROUND = 40_000


class _Named(msgspec.Struct, gc=False):
    """What of a record tells it from others."""

    id: str
    doc_id: str


class _Row(_Named, gc=False):
    """What is shown of a record."""

    part: int = 0
    round: int = 0
    text: str | None = None
    messages: list[dict[str, Any]] | None = None
    question: str | None = None
    document_hash: str | None = None


class _Found(msgspec.Struct, gc=False):
    """A finding as the check has written it."""

    kind: str
    said: str
    turn: int
    start: int


class _FoundRow(msgspec.Struct, gc=False):
    """A line of `faithfulness/<method>.jsonl`."""

    id: str
    findings: list[_Found]


@dataclass(frozen=True, slots=True)
class _File:
    """A file of records, open as it was when the review began, with the findings of its method.

    Attributes:
        first: the number of its first record.
    """

    path: Path
    part_tokens: int
    first: int
    records: BinaryIO
    findings: BinaryIO | None


class ReviewedRecords:
    """All records of a run by their numbers from 0; in memory are some 30 bytes each, and what is said of them.

    A record file that `smt generate` replaces meanwhile is read on as it was.

    Args:
        folders: where records are -> above how many tokens documents were split there.

    Raises:
        BadInput: there are no records, or a line of the records, findings or verdicts is broken.
    """

    def __init__(self, run: Path, folders: Mapping[Path, int], documents: KeptDocuments) -> None:
        self._run, self._documents = run, documents
        self._files: list[_File] = []
        self._begins, self._found = array("Q"), array("q")
        self._doc, self._kinds, self._state = array("I"), array("B"), array("B")
        self._docs: dict[str, int] = {}
        self._said = {by: read_verdicts(run, by) for by in (GATE, PERSON)}
        worst: list[tuple[int, int, int]] = []
        with ExitStack() as stack:
            for folder, part_tokens in folders.items():
                for path in sorted((folder / "records").glob("*.jsonl")):
                    about = findings_path(folder, path.stem)
                    file = _File(
                        path,
                        part_tokens,
                        len(self._begins),
                        cast(BinaryIO, stack.enter_context(reading(path, _ANEW))),
                        cast(BinaryIO, stack.enter_context(reading(about, _ANEW))) if about.is_file() else None,
                    )
                    self._files.append(file)
                    worst += self._read(file)
            if not self._begins:
                raise BadInput(f"{run / 'records'} holds no records; run `smt generate RUN.YAML` first.")
            self._stack = stack.pop_all()
        # Those with most numbers, dates and quoted passages, then with most names, then as they stand.
        self._worst = array("I", (number for _, _, number in sorted(worst, key=lambda row: (-row[0], -row[1], row[2]))))

    def _read(self, file: _File) -> Iterator[tuple[int, int, int]]:
        """Take in a file of records; yields of each with findings how many, how many of names, and its number."""
        found = {}
        if file.findings is not None:
            for place, row in _lines(file.findings, _FoundRow):
                kinds = [finding.kind for finding in row.findings]
                mask = sum(1 << bit for bit, kind in enumerate(KINDS) if kind in kinds)
                found[row.id] = (place, mask, len(kinds) - kinds.count(NAME), kinds.count(NAME))
        for place, record in _lines(file.records, _Named):
            number = len(self._begins)
            where, mask, strong, names = found.pop(record.id, (-1, 0, 0, 0))
            self._begins.append(place)
            self._found.append(where)
            self._kinds.append(mask)
            self._doc.append(self._docs.setdefault(record.doc_id, len(self._docs)))
            self._state.append(_STATES.index(self._verdict(record.id).verdict))
            if mask:
                yield strong, names, number

    def __len__(self) -> int:
        return len(self._begins)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def methods(self) -> list[str]:
        """The methods that have records."""
        return list(dict.fromkeys(file.path.stem for file in self._files))

    def counts(self) -> dict[str, int]:
        """How many records are open, rejected and kept."""
        return {state: self._state.count(number) for number, state in enumerate(_STATES)}

    def chosen(self, method: str = "", document: str = "", finding: str = "", verdict: str = "") -> list[int]:
        """Return the numbers of the records that fit, the worst first; what is empty fits all.

        Args:
            document: a part of the id or of the name of their document, in any case.
            finding: a kind, `any`, or `none`.
            verdict: `open`, `reject` or `keep`.
        """
        wanted = document.casefold()
        named = ((name, self._documents.identity(name) or "", number) for name, number in self._docs.items() if wanted)
        docs = {number for name, identity, number in named if wanted in f"{name}\n{identity}".casefold()}
        files = [(file.first, file.path.stem) for file in self._files]
        starts = [first for first, _ in files]
        mask = 1 << KINDS.index(finding) if finding in KINDS else 0

        def fits(number: int) -> bool:
            kinds = self._kinds[number]
            return (
                (not wanted or self._doc[number] in docs)
                and (not finding or (kinds & mask > 0 if mask else (kinds > 0) == (finding == "any")))
                and (not verdict or _STATES[self._state[number]] == verdict)
                and (not method or files[bisect_right(starts, number) - 1][1] == method)
            )

        rest = (number for number in range(len(self)) if not self._kinds[number])
        return [*filter(fits, self._worst), *filter(fits, rest)]

    def record(self, number: int) -> dict[str, Any]:
        """Return what is to be shown of a record: its texts, cut where a finding begins and ends, and its document.

        Raises:
            IndexError: there is no such record.
        """
        file, row = self._row(number)
        findings: list[_Found] = []
        if self._found[number] >= 0 and file.findings is not None:
            line = _line(file.findings, self._found[number])
            findings = msgspec.json.decode(line, type=_FoundRow).findings
        roles = ["text"] if row.text is not None else [str(turn.get("role")) for turn in row.messages or []]
        turns = enumerate(zip(roles, turns_of(row.text, row.messages), strict=True))
        return {
            "number": number,
            "id": row.id,
            "method": file.path.stem,
            "round": row.round,
            "part": row.part,
            "doc_id": row.doc_id,
            "document": self._documents.identity(row.doc_id),
            "question": row.question,
            "turns": [{"role": role, "pieces": _pieces(text, turn, findings)} for turn, (role, text) in turns],
            "findings": [{"kind": finding.kind, "said": finding.said} for finding in findings],
            "source": self._source(row, file.part_tokens),
            **self._shown(row.id),
        }

    def decide(
        self, number: int, identity: str, verdict: Literal["reject", "keep", "open"], reason: str
    ) -> dict[str, Any]:
        """Write down what a person says of a record, and return what now holds of it.

        Raises:
            IndexError: there is no such record, or it has another id.
            OSError: it cannot be written.
        """
        file, row = self._row(number)
        if row.id != identity:
            raise IndexError(number)
        said = Verdict(row.id, file.path.stem, verdict, PERSON, reason)
        add_verdicts(self._run, [said])
        self._said[PERSON].pop(row.id, None)
        if verdict != OPEN:
            self._said[PERSON][row.id] = said
        self._state[number] = _STATES.index(self._verdict(row.id).verdict)
        return self._shown(row.id)

    def _verdict(self, identity: str) -> Verdict:
        return self._said[PERSON].get(identity) or self._said[GATE].get(identity) or Verdict(identity, verdict=OPEN)

    def _shown(self, identity: str) -> dict[str, Any]:
        verdict = self._verdict(identity)
        return {"verdict": verdict.verdict, "by": verdict.by, "reason": verdict.reason}

    def _row(self, number: int) -> tuple[_File, _Row]:
        if not 0 <= number < len(self):
            raise IndexError(number)
        file = self._files[bisect_right([file.first for file in self._files], number) - 1]
        return file, msgspec.json.decode(_line(file.records, self._begins[number]), type=_Row)

    def _source(self, row: _Row, part_tokens: int) -> dict[str, Any]:
        """The text of a record's document around the passage that it shares most with."""
        part = self._documents.part(row.doc_id, row.part, part_tokens)
        if part is None:
            return {"note": "its document, or the part of it, is not in the corpus any more"}
        said = "\n".join(turns_of(row.text, row.messages))
        found = part.passage(said)
        start, end = found or (part.start, part.start)
        begin, stop = max(start - _AROUND, 0), end + _AROUND
        changed = row.document_hash not in (None, part.hash)
        return {
            "note": "its document has changed since"
            if changed
            else ""
            if found
            else "no passage shares a word with it",
            "before": part.whole[begin:start],
            "passage": part.whole[start:end],
            "after": part.whole[end:stop],
            "left_out": begin + max(len(part.whole) - stop, 0),
        }


def _lines(file: BinaryIO, kind: type[Any]) -> Iterator[tuple[int, Any]]:
    """Where each line of a file that `smt generate` wrote begins, and what is in it; a person may have edited it."""
    decoder = msgspec.json.Decoder(kind)
    place = 0
    for number, line in enumerate(file, start=1):
        content = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        try:
            if content.strip():
                yield place + len(line) - len(content), decoder.decode(content)
            place += len(line)
        except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
            raise BadInput(f"{file.name}, line {number}: {first_line(error)}; {_ANEW}.") from None


def _line(file: BinaryIO, begin: int) -> bytes:
    """A line of a file, from its place on."""
    pieces = []
    while piece := os.pread(file.fileno(), 1 << 16, begin):
        end = piece.find(b"\n")
        if end >= 0:
            pieces.append(piece[:end])
            break
        pieces.append(piece)
        begin += len(piece)
    return b"".join(pieces)


def _pieces(text: str, turn: int, findings: list[_Found]) -> list[tuple[str, str]]:
    """The text in pieces, each with the kind of the finding that it is; empty for what is none."""
    pieces, at = [], 0
    for finding in sorted((each for each in findings if each.turn == turn), key=lambda each: each.start):
        end = finding.start + len(finding.said)
        if finding.start >= at and text[finding.start : end] == finding.said:
            pieces += [(text[at : finding.start], ""), (finding.said, finding.kind)]
            at = end
    return [piece for piece in [*pieces, (text[at:], "")] if piece[0]]
