"""Near duplicates among millions of texts: MinHash signatures in bands, on disk, one band in memory at a time."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Two texts that share 0.8 of their shingles meet in some band with a chance of 99.8 %, that share 0.2 with 0.1 %.
BANDS, ROWS = 20, 6
# A shingle is what stands in so many bytes from a word's start: four or five words of English, eight Chinese signs.
_WINDOW = 24
_FOLD = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ\t\n\v\f\r", b"abcdefghijklmnopqrstuvwxyz     ")
_IN_WORD = np.zeros(256, dtype=bool)
_IN_WORD[list(b"abcdefghijklmnopqrstuvwxyz0123456789")] = True
_IN_WORD[128:] = True
# First bytes of the scripts that are written without spaces: each sign starts a word.
_SIGN = np.zeros(256, dtype=bool)
_SIGN[0xE3:0xEE] = True
_MIX = [np.uint64(value) for value in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)]
_SHIFT = np.uint64(31)
_FACTORS = np.random.default_rng(0).integers(2**31, 2**32, (BANDS, ROWS, 1), dtype=np.uint32) | np.uint32(1)


def shingles(texts: list[str]) -> "tuple[NDArray[np.uint64], NDArray[np.int64]]":
    """Return the hashed shingles of all texts, one text after the other, and where each text's begin.

    Case and the kind of white space do not count. Every text has at least one shingle.
    """
    gap = b" " * _WINDOW
    folded = [text.encode().translate(_FOLD) for text in texts]
    data = np.frombuffer(gap.join([b"", *folded, b""]), dtype=np.uint8)
    begins = np.cumsum([_WINDOW, *(len(text) + _WINDOW for text in folded)])[:-1]
    is_start = _IN_WORD[data]
    is_start[1:] &= ~is_start[:-1]
    is_start |= _SIGN[data]
    is_start[begins] = True
    starts = np.flatnonzero(is_start)
    eights = np.ndarray((len(data) - 7,), dtype="<u8", buffer=data, strides=(1,))
    hashes = np.zeros(len(starts), dtype=np.uint64)
    for part, factor in enumerate(_MIX):
        hashes += eights[starts + 8 * part]
        hashes *= factor
        hashes ^= hashes >> _SHIFT
    return hashes, np.searchsorted(starts, begins)


def band_keys(texts: list[str]) -> "NDArray[np.uint64]":
    """One row of `BANDS` keys for each text: near duplicates have some key in common."""
    hashes, begins = shingles(texts)
    short = (hashes >> np.uint64(32)).astype(np.uint32)
    # A band at a time: fewer, larger steps, since each lets go of the interpreter and waits to get it back.
    least = np.stack([np.minimum.reduceat(short * factors, begins, axis=1) for factors in _FACTORS])
    keys = np.zeros((BANDS, len(texts)), dtype=np.uint64)
    for row in range(ROWS):
        keys *= _MIX[0]
        keys += least[:, row]
        keys ^= keys >> _SHIFT
    return keys.T


def shared(one: str, other: str) -> float:
    """The part of the shingles of two texts that both have (Jaccard similarity, exact)."""
    first, second = (np.unique(shingles([text])[0]) for text in (one, other))
    common = len(np.intersect1d(first, second, assume_unique=True))
    return common / (len(first) + len(second) - common)


class NearDuplicates:
    """The keys of texts numbered from 0 in order of `add`, a file for each band: 160 bytes a text, on disk."""

    def __init__(self, folder: Path) -> None:
        self._paths = [folder / f"band{number}" for number in range(BANDS)]
        self._files: list[IO[bytes]] = [path.open("wb") for path in self._paths]

    def add(self, keys: "NDArray[np.uint64]") -> None:
        """Append the next texts' keys."""
        for file, column in zip(self._files, keys.T, strict=True):
            file.write(column.tobytes())

    def find(
        self, order: "NDArray[np.int64]", text_of: Callable[[int], str], threshold: float
    ) -> "Iterator[tuple[int, int, float]]":
        """Yield (text, earlier text, shared part) for each text that shares at least `threshold` with an earlier one.

        Candidates are compared exactly, with the first text of their band, so time grows with the number of texts.

        Args:
            order: numbers of the texts to look at; the earlier one of two stays.
        """
        for file in self._files:
            file.close()
        dropped = np.zeros(int(order.max(initial=-1)) + 1, dtype=bool)
        for path in self._paths:
            order = order[~dropped[order]]
            keys = np.fromfile(path, dtype=np.uint64)[order]
            by_key = np.argsort(keys, kind="stable")
            keys = keys[by_key]
            is_first = np.ones(len(keys), dtype=bool)
            is_first[1:] = keys[1:] != keys[:-1]
            first = np.maximum.accumulate(np.where(is_first, np.arange(len(keys)), 0))
            for position in np.flatnonzero(~is_first):
                text, earlier = int(order[by_key[position]]), int(order[by_key[first[position]]])
                part = shared(text_of(text), text_of(earlier))
                if part >= threshold:
                    dropped[text] = True
                    yield text, earlier, part
