"""Do the report's 95 % intervals hold what they say, and does its paired test err 5 times in 100, with few documents?

    python benchmarks/intervals.py            # 4,000 simulated benchmarks a cell
    python benchmarks/intervals.py --quick    # a quarter of the cells, 1,000 a cell

A cell is a number of documents, a kind of sizes (questions a document), a true accuracy, samples a question, and how
much the answers about one document agree (their intra-document correlation). Sizes that are equal or QuALITY's are
fixed, lognormal and Pareto ones are drawn anew for every benchmark; accuracy does not depend on size, so that the truth
is known: the mean over questions of all documents that could have been drawn. Three arms answer the same questions: two
that are equally good, and one that is 10 points better (worse, from 90 % on). Half of a document's effect is an arm's
own. In every cell stands beside the report's interval the plain one: cluster-robust (CR1) t with as many degrees of
freedom as documents less one.

Prints the cells as Markdown, the worst of the correlations each, the worst of every size and number of documents, and
whether the target is met; ends with status 1 if not. Where a verdict is given, 93 % of the intervals of accuracies and
of differences should hold the truth at least, and 7 % of equally good arms differ at most; 15 or more documents of
equal or QuALITY's sizes should not be refused at 10 to 90 %. "Conservative" is what holds the truth in more than 97 %.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass
from functools import lru_cache, partial
from itertools import groupby, product

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from smt_plugin.evaluation.intervals import LEAST_DOCUMENTS, effective_documents, intervals

QUALITY_HELD_OUT = [
    16,
    1,
    1,
    1,
    14,
    1,
    1,
    1,
    13,
    1,
    1,
    1,
    11,
    1,
    1,
    1,
    9,
    1,
    1,
    1,
]  # spread: also its first 10 are uneven
SIZES = ("equal", "QuALITY", "lognormal", "Pareto")
DOCUMENTS = (4, 5, 10, 15, 20, 40, 100, 265)
ACCURACIES = (0.02, 0.1, 0.5, 0.9, 0.98)
SAMPLES = (1, 8)
CORRELATIONS = (0.05, 0.2)
GAIN = 0.1
LEAST_COVERAGE, MOST_FALSE_POSITIVES, CONSERVATIVE = 0.93, 0.07, 0.97
LEAST_VERDICTS = 200  # of fewer a rate says too little to be judged
AT_ONCE = 1_000_000  # questions in memory
Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Cell:
    """What is simulated."""

    sizes: str
    documents: int
    accuracy: float
    samples: int
    correlation: float


@dataclass(frozen=True)
class Rates:
    """Shares of the benchmarks that are given a verdict, NaN where none is; `plain` is the plain cluster t's.

    Attributes:
        power: a difference of 10 points is found.
        width, difference_width: median, as a multiple of the plain interval's.
        refused: share of all benchmarks.
        verdicts: number of them.
    """

    coverage: float
    plain_coverage: float
    difference_coverage: float
    false_positives: float
    plain_false_positives: float
    power: float
    plain_power: float
    width: float
    difference_width: float
    refused: float
    verdicts: int


def draw_sizes(kind: str, documents: int, benchmarks: int, rng: np.random.Generator) -> Counts:
    """Questions a document, of shape (benchmarks, documents)."""
    shape = (benchmarks, documents)
    if kind == "equal":
        return np.full(shape, 12)
    if kind == "QuALITY":
        return np.broadcast_to(np.resize(QUALITY_HELD_OUT, documents), shape)
    heavy = 4 * np.exp(1.5 * rng.standard_normal(shape)) if kind == "lognormal" else 2 / rng.random(shape)
    return np.ceil(heavy.clip(max=1000)).astype(np.int64)


@lru_cache
def latent_share(accuracy: float, correlation: float) -> float:
    """The share of the latent variance that is the document's, so that right answers about one correlate so much."""
    points, weights = np.polynomial.hermite_e.hermegauss(61)
    threshold, weights = special.ndtri(accuracy), weights / weights.sum()

    def missing(share: float) -> float:
        chance = special.ndtr((threshold + np.sqrt(share) * points) / np.sqrt(1 - share))
        return float((weights @ chance**2 - accuracy**2) / (accuracy * (1 - accuracy)) - correlation)

    return float(optimize.brentq(missing, 1e-6, 0.97))


def draw_sums(sizes: Counts, cell: Cell, accuracies: Iterable[float], rng: np.random.Generator) -> list[Floats]:
    """For each arm the sum of every document's answers; an answer is right if a sum of normal effects is positive."""
    flat = sizes.ravel()
    starts = np.concatenate([[0], np.cumsum(flat)[:-1]])
    documents, questions = (rng.standard_normal(n, dtype=np.float32) for n in (len(flat), flat.sum()))
    arms = []
    for accuracy in accuracies:
        share = latent_share(accuracy, cell.correlation)
        own = rng.standard_normal(len(flat), dtype=np.float32)
        rest = np.float32(np.sqrt((1 - share) / 2))  # half of it the question's, half the answer's
        document = special.ndtri(accuracy) + np.sqrt(share / 2) * (documents + own)
        chance = special.ndtr(np.repeat((document / rest).astype(np.float32), flat) + questions)
        right = rng.random(len(chance)) < chance if cell.samples == 1 else rng.binomial(cell.samples, chance)
        arms.append(np.add.reduceat(right, starts, dtype=np.float64).reshape(sizes.shape) / cell.samples)
    return arms


def plain_intervals(sums: Floats, sizes: Floats, lowest: float, highest: float) -> tuple[Floats, Floats]:
    """The plain cluster t interval, not cut."""
    documents, total = sizes.shape[-1], sizes.sum(-1)
    mean = sums.sum(-1) / total
    squares = ((sums - sizes * mean[:, None]) ** 2).sum(-1)
    half = special.stdtrit(documents - 1, 0.975) * np.sqrt(squares * documents / (documents - 1)) / total
    return mean - half, mean + half


def simulate(cell: Cell, benchmarks: int, seed: int = 0) -> Rates:
    """Simulate many benchmarks of one cell."""
    rng = np.random.default_rng(
        [seed, SIZES.index(cell.sizes), cell.documents, *(round(100 * x) for x in astuple(cell)[2:])]
    )
    gain = GAIN if cell.accuracy < 0.9 else -GAIN
    sizes = draw_sizes(cell.sizes, cell.documents, benchmarks, rng)
    step = max(1, AT_ONCE * benchmarks // int(sizes.sum()))
    parts = [
        draw_sums(sizes[n : n + step], cell, (cell.accuracy, cell.accuracy, cell.accuracy + gain), rng)
        for n in range(0, benchmarks, step)
    ]
    given = effective_documents(sizes.astype(float)) >= LEAST_DOCUMENTS
    first, equal, better = (np.concatenate(arm)[given] for arm in zip(*parts, strict=True))
    real = sizes[given].astype(float)
    if not len(real):
        return Rates(*[np.nan] * 9, refused=1.0, verdicts=0)

    def rates(method: Callable[..., tuple[Floats, ...]]) -> tuple[float, ...]:
        low, high, *_ = method(first, real, 0.0, 1.0)
        low_equal, high_equal, *_ = method(equal - first, real, -1.0, 1.0)
        low_better, high_better, *_ = method(better - first, real, -1.0, 1.0)
        return (
            np.mean((low <= cell.accuracy) & (cell.accuracy <= high)),
            np.mean((low_better <= gain) & (gain <= high_better)),
            np.mean((low_equal > 0) | (high_equal < 0)),
            np.mean((low_better > 0) | (high_better < 0)),
            np.median(high - low),
            np.median(high_better - low_better),
        )

    ours, plain = rates(intervals), rates(plain_intervals)
    return Rates(
        coverage=ours[0],
        plain_coverage=plain[0],
        difference_coverage=ours[1],
        false_positives=ours[2],
        plain_false_positives=plain[2],
        power=ours[3],
        plain_power=plain[3],
        width=ours[4] / plain[4] if plain[4] else np.inf,
        difference_width=ours[5] / plain[5] if plain[5] else np.inf,
        refused=1 - len(real) / benchmarks,
        verdicts=len(real),
    )


def worst(rates: list[Rates]) -> Rates:
    """The least coverage and power, the most false positives, width and refusals, of those with enough verdicts."""
    judged = [r for r in rates if r.verdicts >= LEAST_VERDICTS]
    refused, verdicts = max(r.refused for r in rates), min(r.verdicts for r in rates)
    if not judged:
        return Rates(*[np.nan] * 9, refused=refused, verdicts=verdicts)
    columns = list(zip(*map(astuple, judged), strict=True))[:9]
    chosen = [min, min, min, max, max, min, min, max, max]
    return Rates(*(choose(column) for choose, column in zip(chosen, columns, strict=True)), refused, verdicts)


def failures(cell: Cell, rates: Rates) -> list[str]:
    """What a cell misses of the target."""
    found = []
    if rates.verdicts >= LEAST_VERDICTS:
        if min(rates.coverage, rates.difference_coverage) < LEAST_COVERAGE:
            found.append(f"coverage {rates.coverage:.1%}, of differences {rates.difference_coverage:.1%}")
        if rates.false_positives > MOST_FALSE_POSITIVES:
            found.append(f"false positives {rates.false_positives:.1%}")
    if rates.refused and cell.sizes in ("equal", "QuALITY") and cell.documents >= 15 and 0.1 <= cell.accuracy <= 0.9:
        found.append(f"{rates.refused:.0%} refused")
    return found


HEAD = (
    "coverage",
    "plain",
    "of differences",
    "false positives",
    "plain",
    "power",
    "plain",
    "width",
    "of differences",
    "refused",
    "conservative",
)


def row(rates: Rates) -> list[str]:
    """A row's cells, in the order of HEAD."""
    if np.isnan(rates.coverage):
        return [""] * (len(HEAD) - 2) + [f"{rates.refused:.0%}", ""]
    values = astuple(rates)
    widths = ["infinite" if np.isinf(width) else f"{width:.2f}" for width in values[7:9]]
    shares = [*(f"{value:.1%}" for value in values[:5]), *(f"{power:.0%}" for power in values[5:7])]
    conservative = min(rates.coverage, rates.difference_coverage) > CONSERVATIVE
    return [*shares, *widths, f"{rates.refused:.0%}", "yes" if conservative else ""]


def print_table(names: tuple[str, ...], rows: list[list[str]]) -> None:
    """Print Markdown."""
    for cells in ([*names, *HEAD], ["---"] * (len(names) + len(HEAD)), *rows):
        print(f"| {' | '.join(cells)} |")
    print(flush=True)


def main() -> None:
    """Print the tables and the verdict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmarks", type=int, default=4000, help="simulated benchmarks a cell")
    parser.add_argument("--quick", action="store_true", help="1,000 benchmarks a cell and a quarter of the cells")
    parser.add_argument(
        "--correlations", type=float, nargs="+", default=CORRELATIONS, help="of answers about a document"
    )
    options = parser.parse_args()
    count, documents, samples = options.benchmarks, DOCUMENTS, SAMPLES
    if options.quick:
        count, documents, samples = 1000, (4, 10, 20, 40), (1,)
    cells = [Cell(*values) for values in product(SIZES, documents, ACCURACIES, samples, options.correlations)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        results = list(zip(cells, pool.map(partial(simulate, benchmarks=count), cells), strict=True))

    rows = []
    for key, group in groupby(results, key=lambda result: astuple(result[0])[:4]):
        kind, number, accuracy, n = key
        rows.append([kind, str(number), f"{accuracy:.0%}", str(n), *row(worst([rates for _, rates in group]))])
    print_table(("sizes", "documents", "accuracy", "n"), rows)
    rows = []
    for key, group in groupby(results, key=lambda result: astuple(result[0])[:2]):
        rows.append([key[0], str(key[1]), *row(worst([rates for _, rates in group]))])
    print("The worst of each column over accuracies, n and correlations:\n")
    print_table(("sizes", "documents"), rows)

    missed = [f"{cell}: {'; '.join(found)}" for cell, rates in results if (found := failures(cell, rates))]
    judged = [rates for _, rates in results if rates.verdicts >= LEAST_VERDICTS]
    wide = sum(min(rates.coverage, rates.difference_coverage) > CONSERVATIVE for rates in judged)
    print(
        f"{len(results)} cells of {count:,} benchmarks; {len(judged)} judged, the others have fewer than "
        f"{LEAST_VERDICTS} verdicts. Conservative (more than {CONSERVATIVE:.0%} hold the truth): {wide}. Refused: "
        f"{np.mean([rates.refused for _, rates in results]):.1%} of the benchmarks."
    )
    print("The target is missed in:" if missed else "The target is met.", *missed, sep="\n")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
