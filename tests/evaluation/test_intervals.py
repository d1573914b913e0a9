import numpy as np
import pytest

from benchmarks.intervals import SHAPES, simulate
from smt_plugin.errors import BadInput
from smt_plugin.evaluation.intervals import estimate


def test_one_question_a_document_gives_the_textbook_t_interval() -> None:
    values = [0.0, 1.0, 1.0, 0.5, 0.25, 1.0]
    result = estimate(values, [f"d{n}" for n in range(6)])
    half = 2.5705818 * np.std(values, ddof=1) / np.sqrt(6)  # t(5) at 97.5 %
    assert (result.mean, result.method) == (pytest.approx(0.625), "cluster-robust t")
    assert result.high - result.mean == pytest.approx(half, rel=1e-6)


def test_questions_that_agree_within_a_document_give_a_wider_interval() -> None:
    values = [0.0, 1.0] * 60
    together = estimate(values, ["a", "b"] * 60)
    apart = estimate(values, [f"d{n}" for n in range(120)])
    assert together.high - together.low > 3 * (apart.high - apart.low)


def test_from_fifty_documents_on_the_interval_is_a_bootstrap_that_agrees_with_the_t_interval() -> None:
    rng = np.random.default_rng(5)
    values = rng.random(400)
    bootstrap = estimate(values, [f"d{n % 80}" for n in range(400)])
    few = estimate(values, [f"d{n % 49}" for n in range(400)])
    assert (bootstrap.method, few.method) == ("document bootstrap", "cluster-robust t")
    assert bootstrap.high - bootstrap.low == pytest.approx(few.high - few.low, rel=0.25)
    assert estimate(values, [f"d{n % 80}" for n in range(400)]) == bootstrap


def test_the_interval_covers_a_known_truth_about_95_times_in_100_at_twenty_documents() -> None:
    rng = np.random.default_rng(3)
    doc_ids = [f"d{n // 20}" for n in range(400)]
    covered = 0
    for _ in range(400):
        document_means = np.clip(rng.normal(0.6, 0.15, 20), 0.02, 0.98)
        values = rng.random(400) < np.repeat(document_means, 20)
        result = estimate(values.astype(float), doc_ids)
        covered += result.low <= 0.6 <= result.high
    assert 0.92 <= covered / 400 <= 0.98


def test_values_that_never_vary_and_a_single_document_are_not_given_a_false_interval() -> None:
    assert estimate([1.0, 1.0, 1.0], ["a", "b", "c"]).method == "no variance seen"
    with pytest.raises(BadInput, match="give no interval"):
        estimate([0.0, 1.0], ["a", "a"])


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_the_interval_covers_and_the_paired_test_errs_as_often_as_they_say_at_each_benchmarks_shape(shape: str) -> None:
    rates = simulate(shape, 2000)
    assert 0.93 <= rates.coverage <= 0.97
    assert 0.03 <= rates.false_positives <= 0.07
    # Questions about one document are not independent; with two a document it hardly shows.
    if shape != "FinanceBench":
        assert rates.naive_coverage < 0.85
        assert rates.naive_false_positives > 0.15
