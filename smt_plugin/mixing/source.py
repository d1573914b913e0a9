"""One source of a mix: its training rows measured in tokens, and what to know of each, in scratch files."""

import hashlib
import os
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from smt_plugin.corpus import comparable
from smt_plugin.errors import BadInput, naming
from smt_plugin.mixing.lines import BUFFER, DECODER, Line, ReplayLine, Turn, Unusable, identity_of, parsed_line
from smt_plugin.mixing.near_duplicates import NearDuplicates, band_keys
from smt_plugin.mixing.ruler import RefusedDialogue, Ruler

CHAT, TEXT, PLAIN_QA = range(3)  # forms of a training row
BATCH = 1024
_BATCH_CHARACTERS = 4_000_000
_MOST_UNUSABLE = 1000  # lines of a stream before one that can be used
# Each takes about a twelfth of the interpreter's time, so more of them would only wait for it.
THREADS = min(os.cpu_count() or 1, 12)
_ENCODER = msgspec.json.Encoder()
# The columns of numbers about records. `order` shuffles; `pieces` are a record's training rows, for each of which the
# last three have an entry.
_COLUMNS = {
    **{"content": "Q", "order": "Q", "document": "Q", "part": "I", "round": "I", "index": "I", "form": "B"},
    **{"begin": "Q", "pieces": "I", "piece_begin": "Q", "piece_size": "I", "piece_tokens": "I"},
}


LeaveOut = Mapping[str, tuple[str, str]]
"""Id of a record -> the count of `Source.counts` that it goes to, and the reason."""


@dataclass(slots=True)
class _Row:
    """One line of a source on its way to the scratch file: `rendered` is its text as it will be encoded.

    `head` is what to know of where it comes from, its `id` at least.
    """

    head: dict[str, Any]
    form: int
    turns: list[Turn]
    rendered: str
    contents: str


@dataclass(slots=True)
class _Measured:
    """What a worker thread found out about a batch.

    Attributes:
        blob: for each record its head, then its training rows, a line each.
        begins: where each record begins in the blob.
        pieces: how many training rows each record has; 0 if it is too long.
        piece_begins, piece_sizes, piece_tokens: of each training row, its place in the blob and its tokens.
        too_long: record of the batch -> its tokens.
        keys: of the records, for near duplicates.
    """

    blob: bytes
    begins: NDArray[np.int64]
    pieces: list[int]
    piece_begins: NDArray[np.int64]
    piece_sizes: NDArray[np.int64]
    piece_tokens: list[int]
    too_long: dict[int, int]
    keys: NDArray[np.uint64] | None


class Scratch:
    """Training rows, and columns of numbers about them, in files: numbers take memory only while they are used."""

    def __init__(self, path: Path) -> None:
        self._paths = {name: path.with_name(f"{path.name}-{name}") for name in _COLUMNS}
        for file in self._paths.values():
            file.touch()
        self._rows = path.open("w+b", BUFFER)
        # What waits to be written.
        self.columns = {name: array(code) for name, code in _COLUMNS.items()}
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._rows.close()

    def write(self, blob: bytes) -> None:
        """Append to the rows, and write the columns down."""
        with naming(Path(self._rows.name)):
            self._rows.write(blob)
        self.size += len(blob)
        for name, column in self.columns.items():
            with naming(self._paths[name]), self._paths[name].open("ab", 0) as file:
                file.write(column)
            del column[:]

    def flush(self) -> None:
        """After this the rows can be read."""
        with naming(Path(self._rows.name)):
            self._rows.flush()

    def column(self, name: str) -> NDArray[Any]:
        """All numbers of a column, as a view of the file."""
        path, kind = self._paths[name], np.dtype(_COLUMNS[name])
        return np.memmap(path, kind, "r") if path.stat().st_size else np.empty(0, kind)

    def read(self, begin: int, size: int) -> bytes:
        """So many bytes of the rows."""
        return os.pread(self._rows.fileno(), size, begin)


class Source:
    """One source of a mix: its measured training rows, and what to know of each, in scratch files.

    Args:
        name: of the method, of the run file's `sources`, or `replay`.
        origin: where it is read from, for the manifest.
        seed: sets the order that shuffles.
        as_text: dialogues become plain text, see `plain_qa`.
        is_replay: its rows are taken in the order of its stream, whatever document they belong to.

    Attributes:
        counts: reason -> records that were dropped for it.
        left_out: ids of those that the caller had it leave out.
        lines: read so far.
    """

    def __init__(
        self, name: str, origin: str, scratch: Scratch, seed: int, as_text: bool = False, is_replay: bool = False
    ) -> None:
        self.name, self.origin, self.scratch, self.is_replay = name, origin, scratch, is_replay
        self._seed, self._as_text = seed, as_text
        # Record -> why it was dropped; and those that were dropped before they were measured.
        self._drops: dict[int, str] = {}
        self._unread: list[dict[str, str]] = []
        reasons = "duplicates near_duplicates too_long left_out rejected empty unusable"
        self.counts = dict.fromkeys(reasons.split(), 0)
        self.left_out: set[str] = set()
        self.lines = 0
        self._first_refused: RefusedDialogue | None = None
        self._len = 0

    def read(
        self,
        lines: Iterable[tuple[str, bytes | dict[str, Any]]],
        ruler: Ruler,
        near: NearDuplicates | None,
        drop: LeaveOut,
        enough: float | None = None,
        origin: Callable[[Line, str], dict[str, Any]] | None = None,
    ) -> None:
        """Measure all lines, or as many as hold `enough` tokens, and write their training rows to the scratch file.

        Of several files, each may be read by a call of its own.

        Args:
            origin: says where a record comes from, given it and all that it says.
        """
        rows = self._rows(lines, ruler, drop, origin)
        under_way: deque[Future[_Measured]] = deque()
        total = 0
        threads = ThreadPoolExecutor(THREADS)
        try:
            while True:
                batch = _batch(rows) if enough is None or total <= enough else []
                if batch:
                    under_way.append(threads.submit(_measure, batch, ruler, near is not None))
                while under_way and (not batch or len(under_way) >= 2 * THREADS):
                    measured = under_way.popleft().result()
                    total += self._keep(measured, ruler.sequence_len)
                    if near is not None and measured.keys is not None:
                        near.add(measured.keys)
                if not batch:
                    break
        finally:
            # After an error, what no thread has begun is not begun any more.
            threads.shutdown(cancel_futures=True)
        self.scratch.flush()
        self._begins = self.column("begin")

    def _rows(
        self,
        lines: Iterable[tuple[str, bytes | dict[str, Any]]],
        ruler: Ruler,
        drop: LeaveOut,
        origin: Callable[[Line, str], dict[str, Any]] | None,
    ) -> Iterator[_Row]:
        seen = set()
        columns = self.scratch.columns
        contents, orders, documents, forms = (columns[name] for name in ("content", "order", "document", "form"))
        parts, rounds, indexes = (columns[name] for name in ("part", "round", "index"))
        # Records of a document mostly stand close together.
        hash_of_document = lru_cache(4096)(_hash)
        for where, line in lines:
            self.lines += 1
            try:
                row = parsed_line(line, where, self.is_replay)
                if self.is_replay and not row.text and not row.messages and (row.text, row.messages) != (UNSET, UNSET):
                    self._drop_unread(where, "empty", "empty")
                    continue
                row.check(where)
            except Unusable as error:
                # Nobody here can fix a data set on the hub.
                if not self.is_replay:
                    raise
                self._drop_unread(where, "unusable", str(error).removeprefix(f"{where}: "))
                # A stream would be read to its end.
                if self.lines == _MOST_UNUSABLE:
                    self.refuse_unusable()
                continue
            identity = where if self.is_replay else identity_of(row, where)
            if identity in drop:
                self.left_out.add(identity)
                self._drop_unread(identity, *drop[identity])
                continue
            if row.is_mute() or (row.text and row.text.isspace()):
                self._drop_unread(identity, "empty", "empty")
                continue
            try:
                training = self._training_row(identity, row, ruler)
            except RefusedDialogue as error:
                # A general data set has dialogues of every kind; of records it is the template that is wrong.
                if not self.is_replay:
                    raise
                self._drop_unread(where, "unusable", error.why)
                self._first_refused = self._first_refused or error
                if self.lines == _MOST_UNUSABLE:
                    self.refuse_unusable()
                continue
            content = _hash(training.contents)
            if self.is_replay:
                # A stream is read until there is enough of it, so what it repeats must not count.
                if content in seen:
                    self._drop_unread(identity, "duplicates", "duplicate of an earlier replay text")
                    continue
                seen.add(content)
            part, round_, index = (row.part, row.round, row.index) if isinstance(row, Line) else (0, 0, 0)
            parts.append(part or 0)
            rounds.append(round_ or 0)
            indexes.append(index or 0)
            contents.append(content)
            # The file's place must not set the order, or the same run in another folder would be another training.
            orders.append(_hash(f"{self._seed}:{content if identity is where else identity}"))
            documents.append(hash_of_document(comparable(identity if row.doc_id in (None, "") else str(row.doc_id))))
            forms.append(training.form)
            if origin is not None and isinstance(row, Line):
                training.head |= origin(row, training.contents)
            yield training

    def refuse_unusable(self) -> None:
        """Refuse a source of which no line can be used.

        Raises:
            BadInput: it is so; the message is about its first line, if it has one.
        """
        if not self.lines:
            raise BadInput(f"{self.origin} holds nothing but white space; give some text.")
        if self.lines == self.counts["unusable"]:
            if self._first_refused is not None:
                raise self._first_refused
            raise BadInput(f"{self._unread[0]['id']}: {self._unread[0]['reason']}")

    def _drop_unread(self, identity: str, count: str, reason: str) -> None:
        self.counts[count] += 1
        self._unread.append({"source": self.name, "id": identity, "reason": reason})

    def _training_row(self, identity: str, row: ReplayLine, ruler: Ruler) -> _Row:
        if row.text:
            text = ruler.defused(row.text)
            return _Row({"id": identity}, TEXT, [], text, text)
        turns = row.messages or []
        roles, said = [turn.role for turn in turns], [turn.content for turn in turns]
        # All at once, since most have nothing to break up.
        everything = "\n".join([*said, *roles])
        if ruler.defused(everything) != everything:
            roles, said = list(map(ruler.defused, roles)), list(map(ruler.defused, said))
            turns = [Turn(role, content) for role, content in zip(roles, said, strict=True)]
        contents = "\n".join(said)
        if self._as_text:
            return _Row({"id": identity}, TEXT if self.is_replay else PLAIN_QA, [], plain_qa(turns), contents)
        return _Row({"id": identity}, CHAT, turns, ruler.render(roles, said), contents)

    def _keep(self, measured: _Measured, limit: int) -> int:
        """Write a batch to the scratch files. Returns its tokens."""
        base, columns = self.scratch.size, self.scratch.columns
        columns["begin"].extend((base + measured.begins).tolist())
        columns["pieces"].extend(measured.pieces)
        columns["piece_begin"].extend((base + measured.piece_begins).tolist())
        columns["piece_size"].extend(measured.piece_sizes.tolist())
        columns["piece_tokens"].extend(measured.piece_tokens)
        self.scratch.write(measured.blob)
        for number, tokens in measured.too_long.items():
            reason = f"longer than sequence_len: {tokens} tokens, at most {limit} fit"
            self.drop(self._len + number, "too_long", reason)
        self._len += len(measured.begins)
        return sum(measured.piece_tokens)

    def __len__(self) -> int:
        return self._len

    def column(self, name: str) -> NDArray[Any]:
        """Numbers about all records, or all pieces, as a view of a file."""
        return self.scratch.column(name)

    def drop(self, record: int, count: str, reason: str) -> None:
        """Take a record out."""
        if record not in self._drops:
            self.counts[count] += 1
            self._drops[record] = reason

    def kept(self) -> NDArray[np.uint32]:
        """The numbers of the records that were not dropped."""
        keep = np.ones(len(self), dtype=bool)
        keep[list(self._drops)] = False
        return np.flatnonzero(keep).astype(np.uint32)

    def _lines(self, record: int) -> list[bytes]:
        begin = int(self._begins[record])
        end = int(self._begins[record + 1]) if record + 1 < self._len else self.scratch.size
        return self.scratch.read(begin, end - begin).splitlines()

    def id(self, record: int) -> str:
        """The record's id, or its file and line."""
        identity: str = self.head(record)["id"]
        return identity

    def head(self, record: int) -> dict[str, Any]:
        """What is known of where the record comes from, its `id` at least."""
        head: dict[str, Any] = msgspec.json.decode(self._lines(record)[0])
        return head

    def contents(self, record: int) -> str:
        """What a record says, without roles and templates."""
        rows = [DECODER.decode(row) for row in self._lines(record)[1:]]
        return " ".join(row.text or "\n".join(turn.content for turn in row.messages or []) for row in rows)

    def dropped_rows(self) -> Iterator[dict[str, Any]]:
        """What was dropped, and why."""
        yield from self._unread
        for record, reason in sorted(self._drops.items()):
            yield {"source": self.name, "id": self.id(record), "reason": reason}


def _batch(rows: Iterator[_Row]) -> list[_Row]:
    """The next rows, few enough to be measured together."""
    batch, characters = [], 0
    for row in islice(rows, BATCH):
        batch.append(row)
        characters += len(row.rendered)
        if characters > _BATCH_CHARACTERS:
            break
    return batch


def plain_qa(turns: list[Turn]) -> str:
    """A question-answer record as plain text, all of which is trained on; our own form."""
    names = {"user": "Question", "assistant": "Answer"}
    return "\n".join(f"{names[turn.role]}: {turn.content}" if turn.role in names else turn.content for turn in turns)


def _measure(rows: list[_Row], ruler: Ruler, with_keys: bool) -> _Measured:
    """Tokens of a batch. Runs in a thread beside the reading one: the tokenizer and numpy let go of the interpreter."""
    chats = iter(ruler.chats([row.rendered for row in rows if row.form == CHAT]))
    texts = iter(ruler.texts([row.rendered for row in rows if row.form != CHAT]))
    lines: list[Any] = []
    counts: list[int] = []
    piece_tokens: list[int] = []
    too_long = {}
    for number, row in enumerate(rows):
        lines.append(row.head)
        length = next(chats if row.form == CHAT else texts)
        if length <= ruler.sequence_len:
            lines.append({"messages": row.turns} if row.form == CHAT else {"text": row.rendered})
            counts.append(1)
            piece_tokens.append(length)
        elif row.form == TEXT:
            parts = ruler.cut(row.rendered)
            lines += [{"text": part} for part in parts]
            counts.append(len(parts))
            piece_tokens += ruler.texts(parts)
        else:
            too_long[number] = length
            counts.append(0)
    blob = _ENCODER.encode_lines(lines)
    # JSON has no line break but those between the lines.
    bounds = np.concatenate([[0], np.flatnonzero(np.frombuffer(blob, dtype=np.uint8) == ord("\n")) + 1])
    is_head = np.zeros(len(lines), dtype=bool)
    is_head[np.cumsum([0, *counts[:-1]]) + np.arange(len(rows))] = True
    begins, sizes = bounds[:-1], np.diff(bounds)
    keys = band_keys([row.contents for row in rows]) if with_keys else None
    return _Measured(blob, begins[is_head], counts, begins[~is_head], sizes[~is_head], piece_tokens, too_long, keys)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
