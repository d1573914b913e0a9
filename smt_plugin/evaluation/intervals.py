"""Means and 95 % intervals of questions that share documents."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from smt_plugin.errors import BadInput, require

# Below this many documents the percentile bootstrap covers too little, and a t interval is used.
BOOTSTRAP_FROM = 50
BOOTSTRAP_RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95 % interval and the p-value of "it is 0", over `questions` in `documents`.

    The interval holds the variance of drawing documents and questions (and of sampling answers); it leaves
    out that of training again with another seed.
    """

    mean: float
    low: float
    high: float
    p_value: float
    questions: int
    documents: int
    method: str


def estimate(values: Sequence[float], doc_ids: Sequence[str]) -> Estimate:
    """Estimate the mean of one value a question, with errors clustered by document.

    Fewer than 50 documents: cluster-robust t interval with as many degrees of freedom as documents minus one
    (Cameron and Miller 2015, section VI). Else: percentile bootstrap over documents. The p-value is the t
    test's in both.

    Raises:
        BadInput: fewer than two documents, which give no interval.
    """
    statsmodels = require("statsmodels.api", "eval")
    stats = require("scipy.stats", "eval")
    documents, cluster = np.unique(np.asarray(doc_ids), return_inverse=True)
    if len(documents) < 2:
        raise BadInput(
            f"{len(values)} questions about {len(documents)} document(s) give no interval; use at least two."
        )
    y = np.asarray(values, dtype=float)
    mean = float(y.mean())
    if np.ptp(y) == 0:
        # No variance was seen, so none can be estimated.
        low = high = mean
        return Estimate(mean, low, high, 1.0 if mean == 0 else 0.0, len(y), len(documents), "no variance seen")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = statsmodels.OLS(y, np.ones((len(y), 1))).fit(
            cov_type="cluster", cov_kwds={"groups": cluster, "df_correction": True}, use_t=True
        )
        p_value = float(fit.pvalues[0])
    if len(documents) < BOOTSTRAP_FROM:
        low, high = (float(bound) for bound in fit.conf_int(0.05)[0])
        return Estimate(mean, low, high, p_value, len(y), len(documents), "cluster-robust t")
    sums = np.bincount(cluster, weights=y)
    counts = np.bincount(cluster)
    result = stats.bootstrap(
        (sums, counts),
        lambda s, c, axis: s.sum(axis=axis) / c.sum(axis=axis),
        paired=True,
        n_resamples=BOOTSTRAP_RESAMPLES,
        batch=500,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Estimate(mean, float(result.low), float(result.high), p_value, len(y), len(documents), "document bootstrap")
