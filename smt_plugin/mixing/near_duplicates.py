"""Near duplicates among millions of texts: MinHash signatures in bands, on disk, one band in memory at a time."""

import re
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

_InOrder = Callable[[NDArray[np.int64]], NDArray[np.int64]]

# Two texts that share 0.8 of their shingles meet in some band with a chance of 1 - (1 - 0.8^5)^14 = 99.6 %, that share
# 0.2 with 0.4 %. FineWeb (Penedo et al. 2024) takes 14 bands of 8 rows, which find 92 % at 0.8.
BANDS, ROWS = 14, 5
# A shingle is what stands in so many bytes from a word's start: four or five words of English. In scripts written
# without spaces it starts at every sign: eight signs of Chinese or Thai.
_WINDOW = 24
_FOLD = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ\t\n\v\f\r", b"abcdefghijklmnopqrstuvwxyz     ")
_BETWEEN, _LETTER, _SIGN = range(3)
# What each folded byte is; signs are the first bytes of Chinese, Japanese, Korean and some other scripts. What else is
# written without spaces shares its first bytes with scripts that have them.
_KINDS = bytes(
    _SIGN if 0xE3 <= byte < 0xEE else _LETTER if byte >= 128 or chr(byte).isalnum() else _BETWEEN for byte in range(256)
)
_NUMBER = re.compile(r"\d+|[零〇一二三四五六七八九十百千万萬亿億]{2,}")
# All but the digits of Western numbers, which can be found without the slower expression.
_NO_DIGITS = bytes(byte if chr(byte) in "0123456789" else ord(" ") for byte in range(256))
_CHARACTERS = 200_000
_MIX = [np.uint64(value) for value in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)]
_SHIFT = np.uint64(31)
_FACTORS = np.random.default_rng(0).integers(2**31, 2**32, (BANDS, ROWS, 1), dtype=np.uint32) | np.uint32(1)


def shingles(texts: list[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return the hashed shingles of all texts, one text after the other, and where each text's begin.

    Case, the kind of white space and how accents are coded do not count. Every text has at least one shingle.
    """
    joined = (" " * _WINDOW).join(["", *texts, ""])
    is_ascii = joined.isascii()
    if not is_ascii:
        texts = [unicodedata.normalize("NFC", text) for text in texts]
        joined = (" " * _WINDOW).join(["", *texts, ""])
    folded = joined.encode().translate(_FOLD)
    kinds = np.frombuffer(folded.translate(_KINDS), dtype=np.uint8)
    sizes = [len(text) if is_ascii else len(text.encode()) for text in texts]
    begins = np.cumsum([_WINDOW, *(size + _WINDOW for size in sizes)])[:-1]
    is_start = np.zeros(len(kinds), dtype=bool)
    np.greater(kinds[1:], kinds[:-1], out=is_start[1:])
    if not is_ascii:
        is_start |= kinds == _SIGN
        is_start[:-1] |= _starts_sign_of_two_bytes(np.frombuffer(folded, dtype=np.uint8))
    is_start[begins] = True
    starts = np.flatnonzero(is_start)
    # Of a type without alignment, so that one copy takes each window out.
    windows = np.ndarray((len(folded) - _WINDOW + 1,), dtype=f"V{_WINDOW}", buffer=folded, strides=(1,))
    eights = windows[starts].view("<u8").reshape(len(starts), len(_MIX))
    hashes = np.zeros(len(starts), dtype=np.uint64)
    for part, factor in enumerate(_MIX):
        hashes += eights[:, part]
        hashes *= factor
        hashes ^= hashes >> _SHIFT
    return hashes, np.searchsorted(starts, begins)


def _starts_sign_of_two_bytes(folded: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where a sign starts of a script without spaces that its first byte alone does not tell."""
    first, second = folded[:-1], folded[1:]
    thai_lao_tibetan = (first == 0xE0) & (second >= 0xB8)
    burmese_khmer = (first == 0xE1) & ((second < 0x83) | (second == 0x9E) | (second == 0x9F))
    rare_chinese = (first == 0xF0) & (second >= 0xA0)
    starts: NDArray[np.bool_] = thai_lao_tibetan | burmese_khmer | rare_chinese
    return starts


def band_keys(texts: list[str]) -> NDArray[np.uint64]:
    """One row of `BANDS` keys for each text: near duplicates have some key in common.

    Texts with other (Western) numbers in them never have: two years' figures in the same words are two facts.
    """
    # So many texts at a time that the numbers stay in the processor's cache.
    step = 1 + len(texts) * _CHARACTERS // (1 + sum(map(len, texts)))
    return np.concatenate([_band_keys(texts[begin : begin + step]) for begin in range(0, len(texts), step)])


def _band_keys(texts: list[str]) -> NDArray[np.uint64]:
    hashes, begins = shingles(texts)
    short = (hashes >> np.uint64(32)).astype(np.uint32)
    # A band at a time: fewer, larger steps, since each lets go of the interpreter and waits to get it back.
    products = np.empty((ROWS, len(short)), dtype=np.uint32)
    least = np.empty((BANDS, ROWS, len(texts)), dtype=np.uint32)
    for band, factors in enumerate(_FACTORS):
        np.multiply(short, factors, out=products)
        np.minimum.reduceat(products, begins, axis=1, out=least[band])
    keys = np.zeros((BANDS, len(texts)), dtype=np.uint64)
    keys += np.array([_key_of_numbers(text) for text in texts], dtype=np.uint64)
    for row in range(ROWS):
        keys *= _MIX[0]
        keys += least[:, row]
        keys ^= keys >> _SHIFT
    return keys.T


def shared(one: str, other: str) -> float:
    """The part of the shingles of two texts that both have (Jaccard similarity, exact)."""
    hashes, (_, begin) = shingles([one, other])
    first, second = np.unique(hashes[:begin]), np.unique(hashes[begin:])
    common = len(np.intersect1d(first, second, assume_unique=True))
    return common / (len(first) + len(second) - common)


def _key_of_numbers(text: str) -> int:
    return zlib.crc32(b" ".join(sorted(text.encode().translate(_NO_DIGITS).split())))


def _numbers(text: str) -> list[str]:
    return sorted(_NUMBER.findall(text))


def repeats(
    values: NDArray[np.uint64], is_candidate: NDArray[np.bool_], in_order: _InOrder
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the candidates whose value an earlier candidate has, and for each the first one with that value.

    Args:
        values: a number for each text.
        is_candidate: for each text whether it counts.
        in_order: sorts the numbers of some texts.
    """
    by_value = np.argsort(values)
    ordered = values[by_value]
    is_same = ordered[1:] == ordered[:-1]
    del ordered
    is_repeated = np.zeros(len(values), dtype=bool)
    is_repeated[1:] |= is_same
    is_repeated[:-1] |= is_same
    repeated = by_value[is_repeated]
    del by_value
    repeated = in_order(repeated[is_candidate[repeated]])
    repeated = repeated[np.argsort(values[repeated], kind="stable")]
    ordered = values[repeated]
    is_first = np.ones(len(repeated), dtype=bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    first = np.maximum.accumulate(np.where(is_first, np.arange(len(repeated)), 0))
    return repeated[~is_first], repeated[first[~is_first]]


class NearDuplicates:
    """The keys of texts numbered from 0 in order of `add`, a file for each band: 112 bytes a text, on disk."""

    def __init__(self, folder: Path) -> None:
        self._paths = [folder / f"band{number}" for number in range(BANDS)]
        self._files: list[IO[bytes]] = [path.open("wb") for path in self._paths]

    def add(self, keys: NDArray[np.uint64]) -> None:
        """Append the next texts' keys."""
        for file, column in zip(self._files, keys.T, strict=True):
            file.write(column.tobytes())

    def find(
        self,
        is_candidate: NDArray[np.bool_],
        in_order: _InOrder,
        text_of: Callable[[int], str],
        threshold: float,
    ) -> Iterator[tuple[int, int, float]]:
        """Yield (text, earlier text, shared part) for each text that shares at least `threshold` with an earlier one
        and has the same numbers in it.

        Candidates are compared exactly, with the first text of their band, so time grows with the number of texts.

        Args:
            is_candidate: for each text whether to look at it; the texts that are yielded are taken out of it.
            in_order: sorts the numbers of some texts; the earlier one of two stays.
        """
        for file in self._files:
            file.close()
        for path in self._paths:
            later, first = repeats(np.fromfile(path, dtype=np.uint64), is_candidate, in_order)
            for text, earlier in zip(later.tolist(), first.tolist(), strict=True):
                one, other = text_of(text), text_of(earlier)
                part = shared(one, other)
                if part >= threshold and _numbers(one) == _numbers(other):
                    is_candidate[text] = False
                    yield text, earlier, part
