import numpy as np
import pytest
from scipy import linalg, stats

from benchmarks.intervals import QUALITY_HELD_OUT, Cell, simulate
from smt_plugin.evaluation.intervals import (
    PSEUDO_CORRELATION,
    WORKING_CORRELATION,
    Estimate,
    effective_documents,
    estimate,
    intervals,
)


def of_sizes(sizes: list[int]) -> list[str]:
    return [f"d{n}" for n, size in enumerate(sizes) for _ in range(size)]


QUALITY = of_sizes(QUALITY_HELD_OUT)


def width(result: Estimate) -> float:
    return result.high - result.low


def test_one_question_a_document_gives_the_textbook_t_interval_of_the_values_and_one_right_and_one_wrong_answer() -> (
    None
):
    values = [0.0, 1.0, 1.0, 0.5, 0.25, 1.0]
    result = estimate(values, [f"d{n}" for n in range(6)])
    added = [*values, 0.0, 1.0]
    low, high = stats.t.interval(0.95, 7, np.mean(added), stats.sem(added))
    assert (result.mean, result.method) == (pytest.approx(0.625), "cluster-robust t, 7.0 degrees of freedom")
    assert (result.low, result.high) == (pytest.approx(low), pytest.approx(high))


def by_matrices(sums: np.ndarray, sizes: np.ndarray, weight: float, lowest: float) -> tuple[float, float, float]:
    """The mean, CR2's standard error and Satterthwaite's degrees of freedom, with two documents of a weight added.

    By a regression of the documents' means, weighted by their sizes, on a constant.
    """
    sums, sizes = np.array([*sums, lowest * weight, weight]), np.array([*sizes, weight, weight])
    shares = sizes / sizes.sum()
    residual_maker = np.eye(len(sizes)) - np.outer(np.ones(len(sizes)), shares)
    adjusted = shares * [linalg.fractional_matrix_power(np.array([[1 - share]]), -0.5)[0, 0] for share in shares]
    working = np.diag((1 + (sizes - 1) * WORKING_CORRELATION) / sizes)
    half = np.diag(adjusted) @ residual_maker
    moments = half @ working @ half.T
    freedom = np.trace(moments) ** 2 / np.trace(moments @ moments)
    return sums.sum() / sizes.sum(), np.linalg.norm(half @ (sums / sizes)), freedom


def test_uneven_documents_give_what_cr2_and_satterthwaite_give_by_their_matrices() -> None:
    rng = np.random.default_rng(2)
    sizes = np.array([30.0, 7.0, 1.0, 12.0, 1.0])
    sums = np.array([rng.random(int(size)).sum() for size in sizes])
    weight = 1 + ((sizes**2).sum() / sizes.sum() - 1) * PSEUDO_CORRELATION

    centre, error, freedom = by_matrices(sums, sizes, weight, 0.0)
    accuracy = intervals(sums, sizes, 0.0, 1.0)
    assert accuracy[:2] == pytest.approx(stats.t.interval(0.95, freedom, centre, error))
    assert accuracy[3] == pytest.approx(freedom)

    # Of a difference the far end is that of heavy invented documents, and the near one that of light ones.
    far_centre, far_error, far_freedom = by_matrices(sums / 4, sizes, weight, -1.0)
    centre, error, freedom = by_matrices(sums / 4, sizes, 1.0, -1.0)
    low, high, p_value, _ = intervals(sums / 4, sizes, -1.0, 1.0)
    assert low == pytest.approx(stats.t.interval(0.95, freedom, centre, error)[0])
    assert high == pytest.approx(stats.t.interval(0.95, far_freedom, far_centre, far_error)[1])
    assert p_value == pytest.approx(2 * stats.t.sf(centre / error, freedom))


def test_questions_that_agree_within_a_document_give_a_wider_interval() -> None:
    values = [0.0, 1.0] * 60
    together = estimate(values, [f"{'even' if n % 2 else 'odd'} {n % 6}" for n in range(120)])
    apart = estimate(values, [f"d{n}" for n in range(120)])
    assert width(together) > 3 * width(apart)


@pytest.mark.parametrize("difference", [False, True])
def test_two_documents_are_refused_a_verdict_whatever_they_say(difference: bool) -> None:
    result = estimate([1.0] * 40, ["a", "b"] * 20, difference=difference)
    assert (result.mean, result.low, result.high) == (1.0, -1.0 if difference else 0.0, 1.0)
    assert (result.p_value, result.method) == (1.0, "refused")
    assert result.refusal == "no verdict from 2 documents; it takes 4"


def test_one_document_among_many_small_ones_is_refused_and_the_number_needed_is_named() -> None:
    result = estimate([1.0, 0.0] * 60, of_sizes([100] + [1] * 20), difference=True)
    assert result.effective_documents == pytest.approx(120**2 / (100**2 + 20))
    assert result.refusal == (
        "no verdict from 21 documents, which say as much as 1.4 of equal sizes; it takes about 59 of such sizes, or 4 "
        "of equal"
    )
    assert (result.low, result.high, result.p_value) == (-1.0, 1.0, 1.0)


def test_the_effective_number_is_the_number_where_sizes_are_equal_and_less_where_they_are_not() -> None:
    assert effective_documents(np.full(7, 3.0)) == pytest.approx(7)
    assert estimate([0.5] * len(QUALITY), QUALITY).effective_documents == pytest.approx(78**2 / 838)


def test_equal_arms_show_no_difference_and_an_interval_that_is_not_of_zero_width() -> None:
    result = estimate([0.0] * len(QUALITY), QUALITY, difference=True)
    assert (result.mean, result.p_value, result.method) == (0.0, 1.0, "no difference seen")
    assert result.low == pytest.approx(-result.high)
    assert 0.03 < result.high < 0.5


def test_answers_all_right_or_all_wrong_give_an_interval_that_ends_at_the_bound_and_narrows_with_documents() -> None:
    few, many = (estimate([1.0] * 12 * documents, of_sizes([12] * documents)) for documents in (8, 98))
    assert few.high == many.high == 1.0
    assert 0.5 < few.low < many.low < 0.995
    wrong = estimate([0.0] * 96, of_sizes([12] * 8))
    assert (wrong.low, wrong.high, wrong.p_value) == (0.0, pytest.approx(1 - few.low), 1.0)


def test_95_of_98_right_give_an_interval_below_one_that_holds_what_an_exact_binomial_one_holds() -> None:
    result = estimate([1.0] * 95 + [0.0] * 3, [f"d{n}" for n in range(98)])
    exact = stats.binomtest(95, 98).proportion_ci(method="exact")
    assert result.low == pytest.approx(exact.low, abs=0.01)
    assert exact.high - 0.005 < result.high <= 1.0
    together = estimate([1.0] * 95 + [0.0] * 3, of_sizes([14] * 7))
    assert together.low < result.low
    assert together.high == 1.0


def test_a_larger_difference_has_a_smaller_p_value_and_the_interval_leaves_zero_out_where_p_is_below_5_percent() -> (
    None
):
    rng = np.random.default_rng(4)
    noise = rng.choice([-0.5, 0.0, 0.5], len(QUALITY))
    results = [estimate((noise + shift).tolist(), QUALITY, difference=True) for shift in np.linspace(0, 0.5, 26)]
    p_values = [result.p_value for result in results if result.mean > 0]
    assert p_values == sorted(p_values, reverse=True)
    assert p_values[0] > 0.05 > p_values[-1]
    assert all((result.p_value < 0.05) == (result.low > 0 or result.high < 0) for result in results)


def test_a_difference_that_is_never_negative_is_none_of_accuracies() -> None:
    values = [0.0] * 70 + [1.0] * 8
    taken_for_one, difference = estimate(values, QUALITY), estimate(values, QUALITY, difference=True)
    assert taken_for_one.low >= 0 > difference.low


def test_a_metric_with_values_above_one_is_bounded_by_the_largest_seen() -> None:
    result = estimate([0.0, 40.0, 35.0, 38.0, 31.0, 20.0], [f"d{n}" for n in range(6)])
    assert 0 <= result.low < result.mean < result.high <= 40


def test_a_single_document_gives_no_verdict() -> None:
    result = estimate([0.0, 1.0], ["a", "a"])
    assert result.refusal == "no verdict from 1 document; it takes 4"
    assert (result.low, result.high, result.p_value) == (0, 1, 1)


@pytest.mark.parametrize("accuracy", [0.1, 0.5, 0.98])
@pytest.mark.parametrize("sizes", ["equal", "QuALITY"])
def test_twenty_documents_keep_coverage_and_false_positives(sizes: str, accuracy: float) -> None:
    rates = simulate(Cell(sizes, 20, accuracy, 1, 0.2), 3000)
    assert rates.refused == 0
    assert rates.coverage >= 0.93
    assert rates.difference_coverage >= 0.93
    assert rates.false_positives <= 0.07
    assert rates.width <= 1.5 or accuracy == 0.98
    assert rates.power > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("documents", [5, 40, 265])
@pytest.mark.parametrize("sizes", ["lognormal", "Pareto"])
def test_documents_of_very_uneven_sizes_keep_coverage_and_false_positives(sizes: str, documents: int) -> None:
    for accuracy in (0.02, 0.5, 0.9):
        rates = simulate(Cell(sizes, documents, accuracy, 8, 0.2), 3000)
        assert min(rates.coverage, rates.difference_coverage) >= 0.93
        assert rates.false_positives <= 0.07


def test_weights_count_values_as_often_and_equal_ones_change_nothing() -> None:
    values, doc_ids = [0.0, 1.0, 1.0, 0.5, 0.0, 1.0], ["a", "a", "b", "c", "d", "e"]
    assert estimate(values, doc_ids, weights=[2.0] * 6) == estimate(values, doc_ids)
    weighted = estimate(values, doc_ids, weights=[1, 1, 2, 4, 1, 3])
    assert weighted.mean == pytest.approx((1 + 2 + 2 + 3) / 12)
    # Of a document's sizes only the shares count, and of the number of values: as if these had been given so often.
    repeated = [(0.0, "a"), (1.0, "a"), *[(1.0, "b")] * 2, *[(0.5, "c")] * 4, (0.0, "d"), *[(1.0, "e")] * 3]
    often = estimate(*zip(*repeated, strict=True))
    assert (weighted.mean, weighted.effective_documents) == pytest.approx((often.mean, often.effective_documents))
    assert (weighted.questions, often.questions) == (6, 12)
    assert weighted.low <= often.low
    assert often.high <= weighted.high
