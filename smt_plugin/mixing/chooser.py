"""Which training rows of a source are taken: the order of its pieces, and how many of them meet a budget."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smt_plugin.mixing.source import Source

TOLERANCE = 0.005  # part of a share that may be missed without a word
_PART_STEP = 0x9E3779B97F4A7C15


class Chooser:
    """The pieces of a source in the order in which they are taken; what was dropped is left out.

    Args:
        source: one that is read, and rid of its duplicates.
        validation_rounds: so many of the last rounds of each document are held out.

    Attributes:
        available: tokens of all pieces that can be taken.
        num_records, num_held: records that can be taken, and that are held out.
    """

    def __init__(self, source: Source, validation_rounds: int) -> None:
        self.source = source
        records = source.kept()
        held = records[:0]
        # Replay is taken in the order of its stream.
        if not source.is_replay:
            records, held, progress = _by_progress(source, records, validation_rounds)
            records = records[np.lexsort((records, source.column("order")[records], progress))]
        self.num_records, self.num_held = len(records), len(held)
        self._pieces, self._held_pieces = _pieces_of(source, records), _pieces_of(source, held)
        self.available = int(source.column("piece_tokens")[self._pieces].sum())

    def take(self, budget: float) -> "Choice":
        """Choose the pieces whose sum comes nearest to `budget` tokens."""
        sums = np.cumsum(self.source.column("piece_tokens")[self._pieces], dtype=np.int64)
        count = int(np.searchsorted(sums, budget, side="right"))
        below = float(sums[count - 1]) if count else 0.0
        if count < len(sums) and sums[count] - budget < budget - below:
            count += 1
        tokens = int(sums[count - 1]) if count else 0
        is_dry = count == len(sums) and budget - tokens > TOLERANCE * budget
        return Choice(self, budget, tokens, self._pieces[:count], is_dry)

    def held_out(self) -> "Choice":
        """Choose the pieces that are held out for validation."""
        tokens = int(self.source.column("piece_tokens")[self._held_pieces].sum())
        return Choice(self, tokens, tokens, self._held_pieces, False)


@dataclass
class Choice:
    """What is taken of a source: the first pieces in its order.

    Attributes:
        asked: the source's part of the budget, in tokens.
        tokens: what the pieces hold.
        pieces: their numbers.
        is_dry: whether the source holds less than was asked, by more than the tolerance.
    """

    chooser: Chooser
    asked: float
    tokens: int
    pieces: NDArray[np.uint32]
    is_dry: bool

    @property
    def source(self) -> Source:
        """Where the pieces come from."""
        return self.chooser.source

    def of_form(self, form: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """Those of the pieces that have a form, with the numbers of their records."""
        records = _record_of_pieces(self.source)[self.pieces]
        chosen = self.source.column("form")[records] == form
        return self.pieces[chosen], records[chosen]

    def report(self, of_tokens: int) -> dict[str, Any]:
        """Counts for the manifest; `of_tokens` is what the share is a part of."""
        source = self.source
        is_used = np.zeros(len(source), dtype=bool)
        is_used[_record_of_pieces(source)[self.pieces]] = True
        return {
            "file": source.origin,
            "lines": source.lines,
            **source.counts,
            "held_out": self.chooser.num_held,
            "records_available": self.chooser.num_records,
            "tokens_available": self.chooser.available,
            "records": int(is_used.sum()),
            "documents": len(np.unique(source.column("document")[is_used])) if not source.is_replay else None,
            "rows": len(self.pieces),
            "records_cut": int((source.column("pieces")[is_used] > 1).sum()),
            "tokens_asked": round(self.asked),
            "tokens": self.tokens,
            "share": round(self.tokens / of_tokens, 6),
            "ran_dry": self.is_dry,
        }


def _by_progress(
    source: Source, records: NDArray[np.uint32], validation_rounds: int
) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.float64]]:
    """Records to train on, those that are held out, and how far through its part of the document each of the first
    stands, 0 to below 1.
    """
    # A part of a document, as one number.
    part = source.column("document")[records]
    part += source.column("part")[records] * np.uint64(_PART_STEP)
    place = source.column("round")[records].astype(np.uint64) << np.uint64(32)
    place |= source.column("index")[records]
    by_place = np.lexsort((source.column("order")[records], place, part))
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


def _pieces_of(source: Source, records: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """The numbers of all pieces of these records, in this order."""
    counts = source.column("pieces")
    ends = np.cumsum(counts, dtype=np.uint32)[records]
    counts = counts[records]
    shift = ends - np.cumsum(counts, dtype=np.uint32)
    pieces = np.arange(counts.sum(dtype=np.int64), dtype=np.uint32)
    pieces += np.repeat(shift, counts)
    return pieces


def _record_of_pieces(source: Source) -> NDArray[np.uint32]:
    return np.repeat(np.arange(len(source), dtype=np.uint32), source.column("pieces"))
