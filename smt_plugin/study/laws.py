"""Scaling laws: straight lines of accuracy over the logarithm of tokens, with what is certain about them.

Each is fitted on the questions' accuracies by least squares, all budgets and seeds alike. Slope, bend, the line's
height and the differences of these are then means over questions of weighted sums of their accuracies, so that the
intervals of `evaluation/intervals.py` hold for them. `docs/scaling-laws.md` tells what is added for the seeds, and how
often it errs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from smt_plugin.errors import require
from smt_plugin.evaluation.intervals import Floats, effective_documents, intervals, refusal_of, t_interval

# A straight line through two points fits always.
LEAST_BUDGETS = 3
_STEPS = 200  # of the search for a crossing, within the measured range
_LEVELS = 60  # halvings of the search for a p-value


@dataclass(frozen=True, slots=True)
class Curve:
    """The answers of one curve as sums over the questions of each document.

    Attributes:
        tokens: the budgets, from the smallest on.
        sums: of accuracies (0 to 1), of shape (..., seeds, budgets, documents).
        sizes: questions of each document.
        reference: sums of base + RAG's accuracies on the same questions, of shape (..., documents), if there are any.
    """

    tokens: Sequence[int]
    sums: Floats
    sizes: Floats
    reference: Floats | None = None

    @property
    def seeds(self) -> int:
        """How many trainings stand behind each budget."""
        return int(self.sums.shape[-3])


@dataclass(frozen=True, slots=True)
class Bounds:
    """A value with its 95 % interval and the p-value of "it is 0"."""

    mean: Floats
    low: Floats
    high: Floats
    p_value: Floats


@dataclass(frozen=True, slots=True)
class Crossing:
    """Where a line reaches base + RAG.

    Attributes:
        tokens: NaN where it is not between the smallest and the largest budget.
        low, high: the ends of its 95 % interval; 0 and infinity where they are not in that range. Both are NaN where no
            budget of the range can be the crossing.
    """

    tokens: Floats
    low: Floats
    high: Floats


def make_curve(
    tokens: Sequence[int],
    accuracies: Sequence[Sequence[Sequence[float]]],
    doc_ids: Sequence[str],
    reference: Sequence[float] | None = None,
) -> Curve:
    """Sum up answers by document.

    Args:
        tokens: the budgets, from the smallest on.
        accuracies: 0 to 1; of each seed, budget and question.
        doc_ids: of each question.
        reference: the accuracy of base + RAG on each question.
    """
    names, cluster = np.unique(np.asarray(doc_ids), return_inverse=True)
    belongs = np.zeros((len(cluster), len(names)))
    belongs[np.arange(len(cluster)), cluster] = 1.0
    own = None if reference is None else np.asarray(reference, dtype=float) @ belongs
    return Curve(tokens, np.asarray(accuracies, dtype=float) @ belongs, belongs.sum(0), own)


def why_no_estimate(curve: Curve) -> str | None:
    """Say why nothing is estimated of a curve, as the rest of a sentence: too few documents; None where it is."""
    return refusal_of(len(curve.sizes), float(effective_documents(curve.sizes)))


def why_no_law(curve: Curve) -> str | None:
    """Say why no law is fitted to a curve, as the rest of a sentence; None where one is."""
    if len(curve.tokens) < LEAST_BUDGETS:
        return f"{len(curve.tokens)} budget{'s' * (len(curve.tokens) > 1)}; a law takes {LEAST_BUDGETS}"
    return why_no_estimate(curve)


def slope(curve: Curve) -> Bounds:
    """Accuracy for each doubling of the tokens."""
    return _contrast(curve.sums, curve.sizes, _slope_weights(curve.tokens))


def bend(curve: Curve) -> Bounds:
    """By how much the slope changes with each doubling: below 0 the curve flattens, above it steepens.

    That is twice the third coefficient of a parabola, where a law is right 0.
    """
    x = np.log2(curve.tokens)
    x = x - x.mean()
    return _contrast(curve.sums, curve.sizes, 2 * np.linalg.pinv(np.stack([x**0, x, x**2], axis=1))[2])


def height(curve: Curve, tokens: Sequence[float]) -> Bounds:
    """The line's accuracy at some numbers of tokens, the last axis of what is returned."""
    values = np.einsum("tb,...sbd->...tsd", _height_weights(curve.tokens, tokens), curve.sums)
    return _bounds(values, curve.sizes, 0.0, 1.0)


def accuracy(curve: Curve, tokens: int) -> Bounds:
    """The mean accuracy at one of the budgets, as it was measured."""
    return _bounds(_at(curve, tokens), curve.sizes, 0.0, 1.0)


def above_reference(curve: Curve, tokens: int) -> Bounds:
    """By how much the accuracy at one of the budgets is above that of base + RAG, paired by question.

    Raises:
        ValueError: the curve has no reference.
    """
    if curve.reference is None:
        raise ValueError("the curve has no reference")
    return _bounds(_at(curve, tokens) - curve.reference[..., None, :], curve.sizes, -1.0, 1.0)


def difference(curve: Curve, other: Curve, tokens: int) -> Bounds:
    """How much more accurate a curve is than another one at a budget of both, paired as in `slope_difference`.

    Raises:
        ValueError: as `slope_difference`.
    """
    _check_pair(curve, other)
    return _bounds(_at(curve, tokens) - _at(other, tokens), curve.sizes, -1.0, 1.0)


def crossing(curve: Curve) -> Crossing:
    """Where the line reaches base + RAG: the budgets at which their paired difference can be 0.

    As Fieller 1954, JRSS B 16, has it for a ratio.

    Raises:
        ValueError: the curve has no reference.
    """
    if curve.reference is None:
        raise ValueError("the curve has no reference")
    grid = np.geomspace(curve.tokens[0], curve.tokens[-1], _STEPS + 1)
    own = np.einsum("tb,...sbd->...tsd", _height_weights(curve.tokens, grid), curve.sums)
    above = _bounds(own - curve.reference[..., None, None, :], curve.sizes, -1.0, 1.0)
    possible = (above.low <= 0) & (above.high >= 0)
    some = possible.any(-1)
    first, last = possible.argmax(-1), _STEPS - possible[..., ::-1].argmax(-1)
    # A step further, since the end lies between two.
    low = np.where(first == 0, 0.0, grid[np.maximum(first - 1, 0)])
    high = np.where(last == _STEPS, np.inf, grid[np.minimum(last + 1, _STEPS)])
    rises = above.mean[..., -1] - above.mean[..., 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        place = np.where(rises > 0, -above.mean[..., 0] / rises, np.nan)
    place = np.where((place >= 0) & (place <= 1), place, np.nan)
    tokens = grid[0] * (grid[-1] / grid[0]) ** place
    return Crossing(tokens, np.where(some, low, np.nan), np.where(some, high, np.nan))


def slope_difference(curve: Curve, other: Curve) -> Bounds:
    """How much steeper a curve is than another one, paired by question, and by seed where the seeds are as many.

    Raises:
        ValueError: they have other documents, or other numbers of seeds.
    """
    _check_pair(curve, other)
    sums = np.concatenate([curve.sums, other.sums], axis=-2)
    weights = np.concatenate([_slope_weights(curve.tokens), -_slope_weights(other.tokens)])
    return _contrast(sums, curve.sizes, weights)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number (Holm 1979, Scandinavian Journal of Statistics 6)."""
    corrected, least = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = least
    return corrected


def _check_pair(curve: Curve, other: Curve) -> None:
    if curve.sums.shape[-1] != other.sums.shape[-1] or (curve.sizes != other.sizes).any():
        raise ValueError("the curves have other questions")
    if curve.seeds != other.seeds:
        raise ValueError("the curves have other numbers of seeds")


def _at(curve: Curve, tokens: int) -> Floats:
    """The sums at a budget, of shape (..., seeds, documents)."""
    return curve.sums[..., list(curve.tokens).index(tokens), :]


def _slope_weights(tokens: Sequence[int]) -> Floats:
    x = np.log2(tokens)
    return np.asarray((x - x.mean()) / ((x - x.mean()) ** 2).sum())


def _height_weights(budgets: Sequence[int], tokens: Sequence[float] | Floats) -> Floats:
    """Of each budget in the line's height at each of some numbers of tokens."""
    distance = np.log2(tokens) - np.log2(budgets).mean()
    return np.asarray(1 / len(budgets) + distance[:, None] * _slope_weights(budgets))


def _contrast(sums: Floats, sizes: Floats, weights: Floats) -> Bounds:
    """A weighted sum over budgets, the weights of which add up to 0, so that it lies between two bounds around 0."""
    most = float(np.abs(weights).sum() / 2)
    return _bounds(np.einsum("b,...sbd->...sd", weights, sums), sizes, -most, most)


def _bounds(sums: Floats, sizes: Floats, lowest: float, highest: float) -> Bounds:
    """The mean over questions and seeds with its interval.

    Documents and seeds are crossed. The half widths of the documents' interval and of Student's over the seeds add up
    as squares (as the extremes of Graybill and Wang 1980, JASA 75, have it). What differs by seed *and* document is in
    both variances, and is taken out of the seeds'. Of one seed there is the documents' part alone.

    Args:
        sums: of each seed and document, of shape (..., seeds, documents).
        lowest, highest: bounds of a question's value; the lowest is 0 of accuracies and -highest of differences.
    """
    special = require("scipy.special", "eval")
    seeds = sums.shape[-2]
    over_seeds = sums.mean(-2)
    sizes = np.broadcast_to(sizes, over_seeds.shape)
    mean = over_seeds.sum(-1) / sizes.sum(-1)
    if lowest < 0:
        # Invented documents of more than a question would make differences of differences far too uncertain.
        low, high, p_value, freedom = t_interval(over_seeds, sizes, np.ones((*mean.shape, 1)), lowest, highest)
    else:
        low, high, p_value, freedom = intervals(over_seeds, sizes, lowest, highest)
    if seeds == 1:
        return Bounds(mean, low, high, p_value)
    variance = _seed_variance(sums, sizes)
    student = special.stdtrit(seeds - 1, 0.975) ** 2 * variance
    low, high = mean - np.sqrt((mean - low) ** 2 + student), mean + np.sqrt((high - mean) ** 2 + student)
    error = np.abs(mean - np.where(mean > 0, low, high))
    by_documents = np.sqrt(np.maximum(error**2 - student, 0)) / special.stdtrit(freedom, 0.975)
    p_value = _p_value(np.abs(mean), by_documents, freedom, np.sqrt(variance), seeds - 1)
    return Bounds(mean, np.maximum(low, lowest), np.minimum(high, highest), p_value)


def _seed_variance(sums: Floats, sizes: Floats) -> Floats:
    """The variance of the mean that the seeds alone explain; 0 where they differ no more than documents make them."""
    seeds, total = sums.shape[-2], sizes.sum(-1)
    means = sums.sum(-1) / total[..., None]
    residuals = sums - means[..., None] * sizes[..., None, :]
    residuals = residuals - residuals.mean(-2, keepdims=True)
    leverage = 1 - sizes / total[..., None]
    shared = ((residuals**2).sum(-2) / (seeds - 1) / leverage).sum(-1) / total**2
    return np.asarray(np.maximum(means.var(-1, ddof=1) - shared, 0) / seeds)


def _p_value(mean: Floats, error: Floats, freedom: Floats, seed_error: Floats, seed_freedom: int) -> Floats:
    """The level at which the interval of `_bounds` ends at 0, by halving; below 0.05 if and only if it leaves 0 out."""
    special = require("scipy.special", "eval")
    least, most = np.full(np.shape(mean), -40.0), np.zeros(np.shape(mean))  # natural logarithms
    for _ in range(_LEVELS):
        level = (least + most) / 2
        t, t_seeds = (special.stdtrit(df, np.exp(level) / 2) for df in (freedom, seed_freedom))
        too_wide = (t * error) ** 2 + (t_seeds * seed_error) ** 2 > mean**2
        least, most = np.where(too_wide, level, least), np.where(too_wide, most, level)
    return np.asarray(np.exp((least + most) / 2))
