"""How unlike each other the texts of a sample are, by four measures, each with an interval over documents.

The documents are dealt into at most 20 groups, and each measure is taken again without each group's texts: a jackknife.
Resampling with replacement would not do, since it puts copies into the sample, which is what is measured. Leaving a
group out takes documents and tokens away alike, so that all samples have the same tokens a document. The variance is
the jackknife's, which is not too small on average for any measure that takes its groups alike (Efron and Stein 1981,
Annals of Statistics 9); the interval is Student's of the logarithm, with one degree of freedom less than there are
groups.
`docs/diversity.md` tells how often it errs.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smt_plugin.corpus import Document, estimate_tokens, split_document
from smt_plugin.errors import require
from smt_plugin.evaluation.intervals import LEAST_DOCUMENTS
from smt_plugin.words import words_of

Floats = NDArray[np.float64]

GROUPS = 20
_GRAM = 4
# Where a factor of MTLD ends: at this share of different words (McCarthy and Jarvis 2010).
_FACTOR_END = 0.72
_PASSAGES_AT_ONCE = 1024
# How far zstd looks back, as powers of two of bytes: over the whole text, up to 128 MiB.
_LEAST_WINDOW, _MOST_WINDOW = 10, 27


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure of a sample with its 95 % interval.

    Attributes:
        value: None where the sample is too small to have one.
        low, high: None where there are too few documents, or no value.
    """

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Diversity:
    """What was measured of a sample.

    Attributes:
        vendi: how many different passages would be as diverse (Friedman and Dieng 2023, arXiv 2210.02410).
        unique_4grams: different 4-grams of words among all of them, 0 to 1.
        mtld: words until few new ones come (McCarthy and Jarvis 2010, Behavior Research Methods 42).
        zstd: bytes before compression by bytes behind it; less is more diverse.
    """

    vendi: Measure
    unique_4grams: Measure
    mtld: Measure
    zstd: Measure


class Sums:
    """What the measures of a sample are made of, for each group of documents.

    Memory: 8 bytes a word, the texts themselves, and for each group the square of an embedding's length.
    """

    def __init__(self, groups: int, embed: Callable[[list[str]], Floats]) -> None:
        require("zstandard", "eval")
        self._embed = embed
        self._grams: list[list[NDArray[np.int64]]] = [[] for _ in range(groups)]
        self._words, self._factors = np.zeros(groups), np.zeros(groups)
        self._texts: list[list[bytes]] = [[] for _ in range(groups)]
        self._second_moments: list[Floats | float] = [0.0] * groups
        self._passages: list[tuple[int, str]] = []

    def add(self, group: int, texts: Iterable[str], most_tokens: int) -> None:
        """Take the texts about one document, in their order.

        Args:
            most_tokens: of a passage that is embedded, by `estimate_tokens`; longer texts are several passages.
        """
        running: list[str] = []
        for text in texts:
            words = words_of(text)
            running += words
            hashes = [hash(gram) for gram in zip(*(words[begin:] for begin in range(_GRAM)), strict=False)]
            self._grams[group].append(np.asarray(hashes, np.int64))
            self._texts[group].append(f"{text}\n".encode())
            passages = split_document(Document(id="-", title="", text=text), most_tokens)
            self._passages += [(group, passage.text) for passage in passages]
            if len(self._passages) >= _PASSAGES_AT_ONCE:
                self._embed_passages()
        self._words[group] += len(running)
        self._factors[group] += (factors(running) + factors(running[::-1])) / 2

    def _embed_passages(self) -> None:
        """Add to each group's sum of outer products; a passage counts by its length, so that all tokens count alike."""
        # Those of like length together, or short ones are padded to the longest of their batch.
        passages = sorted(self._passages, key=lambda passage: -len(passage[1]))
        self._passages = []
        vectors = self._embed([text for _, text in passages])
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors *= np.sqrt([[estimate_tokens(text)] for _, text in passages])
        own = np.asarray([group for group, _ in passages])
        for group in np.unique(own):
            rows = vectors[own == group]
            self._second_moments[group] = self._second_moments[group] + rows.T @ rows

    def diversity(self) -> Diversity:
        """Return the measures of all that was added, each with its interval."""
        if self._passages:
            self._embed_passages()
        return Diversity(
            _with_interval(*self._vendi()),
            _with_interval(*self._unique(), most=1.0),
            _with_interval(*self._mtld()),
            _with_interval(*self._zstd()),
        )

    def _vendi(self) -> tuple[float, list[float]]:
        total = np.asarray(sum(self._second_moments))
        return vendi_score(total), [vendi_score(total - np.asarray(own)) for own in self._second_moments]

    def _unique(self) -> tuple[float, list[float]]:
        # Each group's own different ones, and of these how many no other group has.
        own = [np.unique(np.concatenate(grams)) if grams else np.empty(0, np.int64) for grams in self._grams]
        sizes = np.asarray([sum(map(len, grams)) for grams in self._grams])
        values, first, found = np.unique(np.concatenate(own), return_index=True, return_counts=True)
        group_of = np.repeat(np.arange(len(own)), [len(grams) for grams in own])
        alone = np.bincount(group_of[first[found == 1]], minlength=len(own))
        total = sizes.sum()
        return _share(len(values), total), [
            _share(len(values) - lost, total - size) for lost, size in zip(alone, sizes, strict=True)
        ]

    def _mtld(self) -> tuple[float, list[float]]:
        words, counts = self._words.sum(), self._factors.sum()
        return _share(words, counts), [
            _share(words - own, counts - factor) for own, factor in zip(self._words, self._factors, strict=True)
        ]

    def _zstd(self) -> tuple[float, list[float]]:
        groups = range(len(self._texts))
        return self._ratio(groups), [self._ratio([other for other in groups if other != group]) for group in groups]

    def _ratio(self, groups: Sequence[int]) -> float:
        import zstandard

        # The default level, which only would not see a copy that stands far away.
        size = sum(len(text) for group in groups for text in self._texts[group])
        window = min(max(size.bit_length(), _LEAST_WINDOW), _MOST_WINDOW)
        parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=window, enable_ldm=True)
        compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        packed = 0
        for group in groups:
            for text in self._texts[group]:
                packed += len(compressor.compress(text))
        packed += len(compressor.flush())
        return _share(size, packed if size else 0)


def groups_of(doc_ids: Sequence[str]) -> dict[str, int]:
    """Each document -> its group, from 0; alike in size, and the same wherever the documents are the same."""
    ordered = sorted(set(doc_ids), key=lambda doc_id: hashlib.sha256(doc_id.encode()).digest())
    return {doc_id: place % GROUPS for place, doc_id in enumerate(ordered)}


def vendi_score(second_moments: Floats) -> float:
    """The Vendi score from the sum of outer products of vectors of length 1, each times its weight.

    It is the exponential of the entropy of the eigenvalues of K / n with the cosines K of n vectors. The sum of outer
    products has the same eigenvalues above 0, and the size of a vector instead of n.
    """
    total = np.trace(second_moments) if np.ndim(second_moments) else 0.0
    if total <= 0:
        return float("nan")
    values = np.linalg.eigvalsh(second_moments / total)
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))


def factors(words: Sequence[str]) -> float:
    """How often the share of different words falls to 0.72, each time anew; a rest counts by how far it fell."""
    count, seen, length = 0.0, set[str](), 0
    for word in words:
        seen.add(word)
        length += 1
        if len(seen) / length <= _FACTOR_END:
            count, seen, length = count + 1, set(), 0
    return count + ((1 - len(seen) / length) / (1 - _FACTOR_END) if length else 0.0)


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


def _with_interval(value: float, without: Sequence[float], most: float = np.inf) -> Measure:
    """The jackknife's interval from the values without each group, on a log scale; see above."""
    if np.isnan(value):
        return Measure(None)
    others, groups = np.log(without), len(without)
    if groups < LEAST_DOCUMENTS or np.isnan(others).any():
        return Measure(value)
    special = require("scipy.special", "eval")
    error = np.sqrt((groups - 1) / groups * ((others - others.mean()) ** 2).sum())
    factor = float(np.exp(special.stdtrit(groups - 1, 0.975) * error))
    return Measure(value, value / factor, min(value * factor, most))
