"""Do the report's 95 % intervals cover a known truth 95 times in 100, and does its paired test err 5 times in 100?

    python benchmarks/intervals.py --benchmarks 2000

Simulates benchmarks at the shapes of QuALITY, LongHealth and FinanceBench. A document and a question each have a
difficulty of their own, a question is answered 8 times, and the truth is the mean over all documents and questions
that could have been drawn. Beside the report's interval stands the naive one, which takes questions as independent.
"""

import argparse
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smt_plugin.evaluation.intervals import estimate

# Documents, questions, and whether every document has as many questions as the others.
SHAPES = {"QuALITY": (265, 4609, False), "LongHealth": (20, 400, True), "FinanceBench": (84, 150, False)}
SAMPLES = 8
MEAN, DOCUMENT_SD, QUESTION_SD, ARM_SD = 0.5, 0.7, 1.5, 0.4  # logits; ARM_SD: a document's own effect on one arm
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rates:
    """Shares of the simulated benchmarks: intervals that hold the truth, and p < 0.05 where nothing differs."""

    coverage: float
    naive_coverage: float
    false_positives: float
    naive_false_positives: float


def truth() -> float:
    """The mean accuracy over all documents and questions, by integration over their difficulties."""
    points, weights = np.polynomial.hermite_e.hermegauss(81)
    sd = np.sqrt(DOCUMENT_SD**2 + ARM_SD**2 + QUESTION_SD**2)
    return float((weights / weights.sum()) @ (1 / (1 + np.exp(-(MEAN + sd * points)))))


def draw(documents: int, questions: int, balanced: bool, rng: np.random.Generator) -> tuple[Floats, Floats, list[str]]:
    """One benchmark: the accuracies of two arms that are equally good, a value a question, and its document."""
    if balanced:
        of = np.arange(questions) % documents
    else:  # at least one each, the rest unevenly
        shares = rng.dirichlet(np.full(documents, 4.0))
        of = np.concatenate([np.arange(documents), rng.choice(documents, questions - documents, p=shares)])
    common = MEAN + DOCUMENT_SD * rng.standard_normal(documents)[of] + QUESTION_SD * rng.standard_normal(questions)
    arms = []
    for _ in range(2):
        logits = common + ARM_SD * rng.standard_normal(documents)[of]
        arms.append(rng.binomial(SAMPLES, 1 / (1 + np.exp(-logits))) / SAMPLES)
    return arms[0], arms[1], [f"d{n}" for n in of]


def simulate(shape: str, benchmarks: int, seed: int = 0) -> Rates:
    """Simulate many benchmarks of one shape."""
    rng = np.random.default_rng(seed)
    wanted = truth()
    counts = np.zeros(4)
    for _ in range(benchmarks):
        first, second, doc_ids = draw(*SHAPES[shape], rng)
        ours, paired = estimate(first.tolist(), doc_ids), estimate((first - second).tolist(), doc_ids)
        half = 1.96 * naive_error(first)
        counts += [
            ours.low <= wanted <= ours.high,
            abs(first.mean() - wanted) <= half,
            paired.p_value < 0.05,
            abs((first - second).mean()) > 1.96 * naive_error(first - second),
        ]
    return Rates(*(counts / benchmarks).tolist())


def naive_error(values: Floats) -> float:
    """The standard error of a mean of independent values."""
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmarks", type=int, default=2000, help="simulated benchmarks a shape")
    count = parser.parse_args().benchmarks
    print("| shape | documents | questions | coverage | naive | false positives | naive |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for shape, (documents, questions, _) in SHAPES.items():
        r = simulate(shape, count)
        rates = (r.coverage, r.naive_coverage, r.false_positives, r.naive_false_positives)
        cells = [shape, str(documents), f"{questions:,}", *(f"{rate:.1%}" for rate in rates)]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
