"""One source of a mix: its training rows measured in tokens, and what to know of each, in scratch files."""

import hashlib
import os
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import msgspec
from msgspec import UNSET

from smt_plugin.errors import BadInput
from smt_plugin.mixing.lines import (
    BUFFER,
    DECODER,
    Line,
    ReplayLine,
    Turn,
    Unusable,
    check_line,
    identity_of,
    is_mute,
    parsed_line,
)
from smt_plugin.mixing.ruler import Ruler

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from smt_plugin.mixing.near_duplicates import NearDuplicates
    from smt_plugin.mixing.settings import MixSettings

CHAT, TEXT, PLAIN_QA = range(3)  # forms of a training row


BATCH = 1024


_BATCH_CHARACTERS = 4_000_000


_MOST_UNUSABLE = 1000  # lines of a stream before one that can be used


# Each takes about a twelfth of the interpreter's time, so more of them would only wait for it.
THREADS = min(os.cpu_count() or 1, 12)


TOLERANCE = 0.005  # part of a share that may be missed without a word


_PART_STEP = 0x9E3779B97F4A7C15


_ENCODER = msgspec.json.Encoder()


@dataclass(slots=True)
class _Row:
    """One line of a source on its way to the scratch file: `rendered` is its text as it will be encoded."""

    id: str
    form: int
    turns: list[Turn]
    rendered: str
    contents: str


@dataclass(slots=True)
class _Measured:
    """What a worker thread found out about a batch.

    Attributes:
        blob: for each record its id, then its training rows, a line each.
        begins: where each record begins in the blob.
        pieces: how many training rows each record has; 0 if it is too long.
        piece_begins, piece_sizes, piece_tokens: of each training row, its place in the blob and its tokens.
        too_long: record of the batch -> its tokens.
        keys: of the records, for near duplicates.
    """

    blob: bytes
    begins: "NDArray[np.int64]"
    pieces: list[int]
    piece_begins: "NDArray[np.int64]"
    piece_sizes: "NDArray[np.int64]"
    piece_tokens: list[int]
    too_long: dict[int, int]
    keys: "NDArray[np.uint64] | None"


@dataclass
class Choice:
    """What is taken of a source: the first pieces in its order.

    Attributes:
        asked: the source's part of the budget, in tokens.
        tokens: what the pieces hold.
        pieces: their numbers.
        is_dry: whether the source holds less than was asked, by more than the tolerance.
    """

    source: "Source"
    asked: float
    tokens: int
    pieces: "NDArray[np.uint32]"
    is_dry: bool


class Scratch:
    """Training rows, and columns of numbers about them, in files: numbers take memory only while they are used."""

    # `order` shuffles; `pieces` are a record's training rows. The last three have an entry for each of these.
    _TYPES = MappingProxyType(
        {"content": "Q", "order": "Q", "document": "Q", "part": "I", "round": "I", "index": "I", "form": "B"}
        | {"begin": "Q", "pieces": "I", "piece_begin": "Q", "piece_size": "I", "piece_tokens": "I"}
    )

    def __init__(self, path: Path) -> None:
        self._paths = {name: path.with_name(f"{path.name}-{name}") for name in self._TYPES}
        for file in self._paths.values():
            file.touch()
        self._rows = path.open("w+b", BUFFER)
        # What waits to be written.
        self.columns = {name: array(code) for name, code in self._TYPES.items()}
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._rows.close()

    def write(self, blob: bytes) -> None:
        """Append to the rows, and write the columns down."""
        self._rows.write(blob)
        self.size += len(blob)
        for name, column in self.columns.items():
            with self._paths[name].open("ab", 0) as file:
                file.write(column)
            del column[:]

    def flush(self) -> None:
        """After this the rows can be read."""
        self._rows.flush()

    def column(self, name: str) -> "NDArray[Any]":
        """All numbers of a column, as a view of the file."""
        import numpy as np

        path, kind = self._paths[name], np.dtype(self._TYPES[name])
        return np.memmap(path, kind, "r") if path.stat().st_size else np.empty(0, kind)

    def read(self, begin: int, size: int) -> bytes:
        """So many bytes of the rows."""
        return os.pread(self._rows.fileno(), size, begin)


class Source:
    """One source of a mix: its measured training rows, and what to know of each, in scratch files.

    Args:
        name: of the method, of the run file's `sources`, or `replay`.
        origin: where it is read from, for the manifest.
        is_replay: its rows are taken in the order of its stream, whatever document they belong to.
    """

    def __init__(
        self, name: str, origin: str, scratch: Scratch, settings: "MixSettings", is_replay: bool = False
    ) -> None:
        self.name, self.is_replay, self._origin, self.scratch = name, is_replay, origin, scratch
        self._seed, self._as_text = settings.seed, settings.qa_form == "text" and not is_replay
        # Record -> why it was dropped; and those that were dropped before they were measured.
        self._drops: dict[int, str] = {}
        self._unread: list[dict[str, str]] = []
        self.counts = {"duplicates": 0, "near_duplicates": 0, "too_long": 0, "left_out": 0, "empty": 0, "unusable": 0}
        self.lines = 0
        self.available = 0
        self._len = 0

    def read(
        self,
        lines: Iterable[tuple[str, bytes | dict[str, Any]]],
        ruler: Ruler,
        near: "NearDuplicates | None",
        drop: Mapping[str, str],
        enough: float | None = None,
    ) -> None:
        """Measure all lines, or as many as hold `enough` tokens, and write their training rows to the scratch file."""
        rows = self._rows(lines, ruler, drop)
        under_way: deque[Future[_Measured]] = deque()
        total = 0
        with ThreadPoolExecutor(THREADS) as threads, _cancelling(threads):
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
        self.scratch.flush()
        self._begins = self.column("begin")

    def _rows(
        self, lines: Iterable[tuple[str, bytes | dict[str, Any]]], ruler: Ruler, drop: Mapping[str, str]
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
                check_line(row, where)
            except Unusable as error:
                # A data set on the hub nobody here can mend.
                if not self.is_replay:
                    raise
                self._drop_unread(where, "unusable", str(error).removeprefix(f"{where}: "))
                # A stream would be read to its end.
                if self.lines == _MOST_UNUSABLE:
                    self.refuse_unusable()
                continue
            identity = where if self.is_replay else identity_of(row, where)
            if is_mute(row) or (row.text and row.text.isspace()):
                self._drop_unread(identity, "empty", "empty")
                continue
            if identity in drop:
                self._drop_unread(identity, "left_out", drop[identity])
                continue
            training = self._training_row(identity, row, ruler)
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
            documents.append(hash_of_document(identity if row.doc_id in (None, "") else str(row.doc_id)))
            forms.append(training.form)
            yield training

    def refuse_unusable(self) -> None:
        """Refuse a source of which no line can be used.

        Raises:
            BadInput: it is so; the message is about its first line.
        """
        if 0 < self.lines == self.counts["unusable"]:
            raise BadInput(f"{self._unread[0]['id']}: {self._unread[0]['reason']}")

    def _drop_unread(self, identity: str, count: str, reason: str) -> None:
        self.counts[count] += 1
        self._unread.append({"source": self.name, "id": identity, "reason": reason})

    def _training_row(self, identity: str, row: ReplayLine, ruler: Ruler) -> _Row:
        if row.text:
            text = ruler.defused(row.text)
            return _Row(identity, TEXT, [], text, text)
        turns = row.messages or []
        roles, said = [turn.role for turn in turns], [turn.content for turn in turns]
        # All at once, since most have nothing to break up.
        everything = "\n".join([*said, *roles])
        if ruler.defused(everything) != everything:
            roles, said = list(map(ruler.defused, roles)), list(map(ruler.defused, said))
            turns = [Turn(role, content) for role, content in zip(roles, said, strict=True)]
        contents = "\n".join(said)
        if self._as_text:
            return _Row(identity, PLAIN_QA, [], plain_qa(turns), contents)
        return _Row(identity, CHAT, turns, ruler.render(roles, said), contents)

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

    def column(self, name: str) -> "NDArray[Any]":
        """Numbers about all records, or all pieces, as a view of a file."""
        return self.scratch.column(name)

    def drop(self, record: int, count: str, reason: str) -> None:
        """Take a record out."""
        if record not in self._drops:
            self.counts[count] += 1
            self._drops[record] = reason

    def _lines(self, record: int) -> list[bytes]:
        begin = int(self._begins[record])
        end = int(self._begins[record + 1]) if record + 1 < self._len else self.scratch.size
        return self.scratch.read(begin, end - begin).splitlines()

    def id(self, record: int) -> str:
        """The record's id, or its file and line."""
        identity: str = msgspec.json.decode(self._lines(record)[0])
        return identity

    def contents(self, record: int) -> str:
        """What a record says, without roles and templates."""
        rows = [DECODER.decode(row) for row in self._lines(record)[1:]]
        return " ".join(row.text or "\n".join(turn.content for turn in row.messages or []) for row in rows)

    def put_in_order(self, validation_rounds: int) -> None:
        """Set the order in which the pieces are taken, and hold the last rounds out; what was dropped is left out."""
        import numpy as np

        keep = np.ones(len(self), dtype=bool)
        keep[list(self._drops)] = False
        records = np.flatnonzero(keep).astype(np.uint32)
        self._kept, held = len(records), records[:0]
        if not self.is_replay:
            records, held, progress = self._by_progress(records, validation_rounds)
            records = records[np.lexsort((records, self.column("order")[records], progress))]
        # Replay is taken in the order of its stream.
        self._held = len(held)
        self._pieces, self._held_pieces = self._pieces_of(records), self._pieces_of(held)
        self.available = int(self.column("piece_tokens")[self._pieces].sum())

    def _by_progress(
        self, records: "NDArray[np.uint32]", validation_rounds: int
    ) -> "tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.float64]]":
        """Records to train on, those that are held out, and how far through its part of the document each of the
        first stands, 0 to below 1.
        """
        import numpy as np

        # A part of a document, as one number.
        part = self.column("document")[records]
        part += self.column("part")[records] * np.uint64(_PART_STEP)
        place = self.column("round")[records].astype(np.uint64) << np.uint64(32)
        place |= self.column("index")[records]
        by_place = np.lexsort((self.column("order")[records], place, part))
        records, part, round_ = records[by_place], part[by_place], place[by_place] >> np.uint64(32)
        del by_place, place
        is_first = np.ones(len(records), dtype=bool)
        is_first[1:] = part[1:] != part[:-1]
        del part
        begins = np.flatnonzero(is_first).astype(np.uint32)
        sizes = np.diff(begins, append=np.uint32(len(records)))
        rank = np.arange(len(records), dtype=np.uint32)
        rank -= np.repeat(begins, sizes)
        progress = rank / np.repeat(sizes, sizes)
        if not validation_rounds:
            return records, records[:0], progress
        is_first[1:] |= round_[1:] != round_[:-1]
        rounds_before = np.cumsum(is_first)
        rounds_before -= np.repeat(rounds_before[begins], sizes)
        ends = np.append(begins[1:], len(records)).astype(np.int64) - 1
        num_rounds = np.repeat(rounds_before[ends] + 1, sizes) if len(records) else rounds_before
        held = (num_rounds > validation_rounds) & (rounds_before >= num_rounds - validation_rounds)
        return records[~held], np.sort(records[held]), progress[~held]

    def _pieces_of(self, records: "NDArray[np.uint32]") -> "NDArray[np.uint32]":
        """The numbers of all pieces of these records, in this order."""
        import numpy as np

        counts = self.column("pieces")
        ends = np.cumsum(counts, dtype=np.uint32)[records]
        counts = counts[records]
        shift = ends - np.cumsum(counts, dtype=np.uint32)
        pieces = np.arange(counts.sum(dtype=np.int64), dtype=np.uint32)
        pieces += np.repeat(shift, counts)
        return pieces

    def _record_of_pieces(self) -> "NDArray[np.uint32]":
        import numpy as np

        return np.repeat(np.arange(len(self), dtype=np.uint32), self.column("pieces"))

    def take(self, budget: float) -> Choice:
        """Choose the pieces whose sum comes nearest to `budget` tokens."""
        import numpy as np

        sums = np.cumsum(self.column("piece_tokens")[self._pieces], dtype=np.int64)
        count = int(np.searchsorted(sums, budget, side="right"))
        below = float(sums[count - 1]) if count else 0.0
        if count < len(sums) and sums[count] - budget < budget - below:
            count += 1
        tokens = int(sums[count - 1]) if count else 0
        is_dry = count == len(sums) and budget - tokens > TOLERANCE * budget
        return Choice(self, budget, tokens, self._pieces[:count], is_dry)

    def held_out(self) -> Choice:
        """Choose the pieces that are held out for validation."""
        tokens = int(self.column("piece_tokens")[self._held_pieces].sum())
        return Choice(self, tokens, tokens, self._held_pieces, False)

    def dropped_rows(self) -> Iterator[dict[str, Any]]:
        """What was dropped, and why."""
        yield from self._unread
        for record, reason in sorted(self._drops.items()):
            yield {"source": self.name, "id": self.id(record), "reason": reason}

    def of_form(self, pieces: "NDArray[np.uint32]", form: int) -> "tuple[NDArray[np.uint32], NDArray[np.uint64]]":
        """Those of the pieces that have a form, with their shuffled order."""
        records = self._record_of_pieces()[pieces]
        chosen = self.column("form")[records] == form
        return pieces[chosen], self.column("order")[records[chosen]]

    def report(self, choice: Choice, of_tokens: int) -> dict[str, Any]:
        """Counts for the manifest; `of_tokens` is what the share is a part of."""
        import numpy as np

        is_used = np.zeros(len(self), dtype=bool)
        is_used[self._record_of_pieces()[choice.pieces]] = True
        return {
            "file": self._origin,
            "lines": self.lines,
            **self.counts,
            "held_out": self._held,
            "records_available": self._kept - self._held,
            "tokens_available": self.available,
            "records": int(is_used.sum()),
            "documents": len(np.unique(self.column("document")[is_used])) if not self.is_replay else None,
            "rows": len(choice.pieces),
            "records_cut": int((self.column("pieces")[is_used] > 1).sum()),
            "tokens_asked": round(choice.asked),
            "tokens": choice.tokens,
            "share": round(choice.tokens / of_tokens, 6),
            "ran_dry": choice.is_dry,
        }


def _batch(rows: Iterator[_Row]) -> list[_Row]:
    """The next rows, few enough to be measured together."""
    batch, characters = [], 0
    for row in islice(rows, BATCH):
        batch.append(row)
        characters += len(row.rendered)
        if characters > _BATCH_CHARACTERS:
            break
    return batch


@contextmanager
def _cancelling(threads: ThreadPoolExecutor) -> Iterator[None]:
    """Take back what no thread has begun where the work ends by an error."""
    try:
        yield
    except BaseException:
        threads.shutdown(wait=False, cancel_futures=True)
        raise


def plain_qa(turns: list[Turn]) -> str:
    """A question-answer record as plain text, all of which is trained on; our own form."""
    names = {"user": "Question", "assistant": "Answer"}
    return "\n".join(f"{names[turn.role]}: {turn.content}" if turn.role in names else turn.content for turn in turns)


def _measure(rows: list[_Row], ruler: Ruler, with_keys: bool) -> _Measured:
    """Tokens of a batch. Runs in a thread beside the reading one: the tokenizer and numpy let go of the interpreter."""
    import numpy as np

    chats = iter(ruler.chats([row.rendered for row in rows if row.form == CHAT]))
    texts = iter(ruler.texts([row.rendered for row in rows if row.form != CHAT]))
    lines: list[Any] = []
    counts: list[int] = []
    piece_tokens: list[int] = []
    too_long = {}
    for number, row in enumerate(rows):
        lines.append(row.id)
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
    is_id = np.zeros(len(lines), dtype=bool)
    is_id[np.cumsum([0, *counts[:-1]]) + np.arange(len(rows))] = True
    begins, sizes = bounds[:-1], np.diff(bounds)
    keys = None
    if with_keys:
        from smt_plugin.mixing.near_duplicates import band_keys

        keys = band_keys([row.contents for row in rows])
    return _Measured(blob, begins[is_id], counts, begins[~is_id], sizes[~is_id], piece_tokens, too_long, keys)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
