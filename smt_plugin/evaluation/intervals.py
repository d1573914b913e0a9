"""Means and 95 % intervals of questions that share documents, few and of uneven sizes included.

`docs/intervals.md` tells how the method was chosen and how often it errs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from smt_plugin.errors import require

Floats = NDArray[np.float64]

# The first two were chosen by simulation (`benchmarks/intervals.py`): with smaller ones, too few intervals hold the
# truth in some of its cells, or just enough. On the first depends the weight of the invented documents, on the second
# only the degrees of freedom. The third is our choice: from fewer, an interval says next to nothing.
PSEUDO_CORRELATION = 0.15
WORKING_CORRELATION = 0.01
LEAST_DOCUMENTS = 4.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95 % interval and the p-value of "it is 0", over `questions` in `documents`.

    The interval holds the variance of drawing documents and questions (and of sampling answers); it leaves
    out that of training again with another seed.

    Attributes:
        low, high: 0 to 1 of an accuracy, -1 to 1 of a difference; all of that where a verdict is refused.
        p_value: two-sided; below 0.05 if and only if the interval leaves 0 out. 1 where a verdict is refused and where
            every value is 0. It says something of differences only.
        method: a few words for a reader.
        effective_documents: how many documents of equal sizes say as much as these (Kish's formula), at most
            `documents`.
        refusal: None, or why nothing can be said and how many documents it takes.
    """

    mean: float
    low: float
    high: float
    p_value: float
    questions: int
    documents: int
    method: str
    effective_documents: float
    refusal: str | None = None


def estimate(
    values: Sequence[float], doc_ids: Sequence[str], *, difference: bool = False, weights: Sequence[float] | None = None
) -> Estimate:
    """Estimate the mean of one value a question, with errors clustered by document.

    Args:
        values: accuracies, 0 to 1; or differences of two, -1 to 1. Of a metric with larger values, the largest seen is
            taken for the largest there can be.
        doc_ids: of each value.
        difference: the values are differences, though none may be negative.
        weights: how much each value counts, where that is not the same; all above 0. A document then has the size that
            its values have by weight, of as many as there are.
    """
    y = np.asarray(values, dtype=float)
    w = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=float) * len(y) / sum(weights)
    names, cluster = np.unique(np.asarray(doc_ids), return_inverse=True)
    documents = len(names)
    sums, sizes = (np.bincount(cluster, weights=each).astype(float) for each in (w * y, w))
    mean = float(np.average(y, weights=weights))
    highest = max(1.0, float(np.abs(y).max()))
    lowest = -highest if difference or y.min() < 0 else 0.0
    effective = float(effective_documents(sizes))
    if refusal := refusal_of(documents, effective):
        return Estimate(mean, lowest, highest, 1.0, len(y), documents, "refused", effective, refusal)
    low, high, p_value, freedom = (float(x) for x in intervals(sums, sizes, lowest, highest))
    method = f"cluster-robust t, {freedom:.1f} degrees of freedom"
    if not y.any():
        p_value = 1.0
        method = "no difference seen" if difference else method
    return Estimate(mean, low, high, p_value, len(y), documents, method, effective)


def effective_documents(sizes: Floats) -> Floats:
    """How many documents of equal sizes say as much as these, of shape (..., documents), where answers about one agree.

    The square of the sum over the sum of the squares (Kish 1992, Journal of Official Statistics 8, of weights).
    """
    return np.asarray(sizes.sum(-1) ** 2 / (sizes**2).sum(-1))


def refusal_of(documents: int, effective: float) -> str | None:
    """Say why nothing can be said from so many documents, or as many effective ones; None where it can."""
    if effective >= LEAST_DOCUMENTS:
        return None
    needed = ceil(documents * LEAST_DOCUMENTS / effective)
    alike = "" if round(effective, 1) == documents else f", which say as much as {effective:.1f} of equal sizes"
    sizes = (
        f"{LEAST_DOCUMENTS:.0f}" if not alike else f"about {needed} of such sizes, or {LEAST_DOCUMENTS:.0f} of equal"
    )
    return f"no verdict from {documents} document{'s' * (documents > 1)}{alike}; it takes {sizes}"


def intervals(sums: Floats, sizes: Floats, lowest: float, highest: float) -> tuple[Floats, Floats, Floats, Floats]:
    """Return low, high, p-value of "the mean is 0" and degrees of freedom of the mean over questions.

    A cluster-robust t interval of the values and of two invented documents, all of one's values the lowest and all of
    the other's the highest there can be, so that an interval near a bound, or of values that never vary, is not too
    narrow (Agresti and Coull 1998, American Statistician 52; of paired differences Bonett and Price 2012, JEBS 37).
    Each weighs as much as one independent question, which is that of 1 + (m - 1) PSEUDO_CORRELATION questions that
    share their document with m - 1 others (the design effect of Kish 1965, Survey Sampling), where m is the mean over
    questions of the size of their document.

    Such weights draw a difference towards 0. Equally good arms do not need them, and a real difference of few answers
    needs them at the far end only. So of differences the end nearer to 0, and with it the p-value, is that of invented
    documents of one question each. Intervals are cut at the bounds, and always hold the mean of the real values.

    Args:
        sums, sizes: of each document's values, and how many those are; shape (..., documents).
        lowest, highest: bounds of a value; the lowest is 0 of accuracies and -highest of differences.
    """
    weight = 1 + ((sizes**2).sum(-1, keepdims=True) / sizes.sum(-1, keepdims=True) - 1) * PSEUDO_CORRELATION
    low, high, p_value, freedom = t_interval(sums, sizes, weight, lowest, highest)
    if lowest < 0:
        near_low, near_high, p_value, freedom = t_interval(sums, sizes, np.ones_like(weight), lowest, highest)
        total = sums.sum(-1)
        low = np.where(total > 0, near_low, np.minimum(low, near_low))
        high = np.where(total < 0, near_high, np.maximum(high, near_high))
    return low, high, p_value, freedom


def t_interval(
    sums: Floats, sizes: Floats, weight: Floats, lowest: float, highest: float
) -> tuple[Floats, Floats, Floats, Floats]:
    """The interval with invented documents of a weight: variance CR2, Satterthwaite's degrees of freedom.

    Bell and McCaffrey 2002, Survey Methodology 28; Pustejovsky and Tipton 2018, doi:10.1080/07350015.2016.1247004. Of a
    mean both have closed forms: with a document's share w of the questions and its sum e of residuals, the variance of
    the sum of all values is the sum of e^2 / (1 - w). The degrees of freedom take two answers about a document as
    correlated by WORKING_CORRELATION.
    """
    special = require("scipy.special", "eval")
    mean = sums.sum(-1) / sizes.sum(-1)
    sums = np.concatenate([sums, lowest * weight, highest * weight], axis=-1)
    sizes = np.concatenate([sizes, weight, weight], axis=-1)
    total = sizes.sum(-1, keepdims=True)
    centre = sums.sum(-1, keepdims=True) / total
    w = sizes / total
    a = 1 / (1 - w)
    error = np.sqrt((a * (sums - sizes * centre) ** 2).sum(-1)) / total[..., 0]
    freedom = _degrees_of_freedom(w, a, sizes * (1 + (sizes - 1) * WORKING_CORRELATION))

    centre = centre[..., 0]
    half = special.stdtrit(freedom, 0.975) * error
    low = np.maximum(np.minimum(centre - half, mean), lowest)
    high = np.minimum(np.maximum(centre + half, mean), highest)
    return low, high, 2 * special.stdtr(freedom, -np.abs(centre) / error), freedom


def _degrees_of_freedom(w: Floats, a: Floats, v: Floats) -> Floats:
    """Satterthwaite's degrees of freedom tr(B)^2 / tr(B^2) of the sum of a e^2, without documents x documents matrices.

    v is the variance of a document's sum in the working model. Residuals e = (I - w 1')(sum - its expectation) have
    covariances C = diag(v) - v w' - w v' + V w w' with V the sum of v, and B is C with rows scaled by a.
    """
    total = v.sum(-1, keepdims=True)
    off = w * (total * w - 2 * v)  # the diagonal of C - diag(v)
    vv, ww, wv = ((a * product).sum(-1) for product in (v * v, w * w, w * v))
    total_ = total[..., 0]
    square = 2 * vv * ww + 2 * wv**2 + ww * total_ * (ww * total_ - 4 * wv) + (a * a * v * (v + 2 * off)).sum(-1)
    return np.asarray((a * (v + off)).sum(-1) ** 2 / square)
