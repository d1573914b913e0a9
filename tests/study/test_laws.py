from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from benchmarks.scaling_laws import Cell, simulate
from smt_plugin.evaluation.intervals import estimate
from smt_plugin.study import laws

TOKENS = [100_000, 200_000, 400_000, 800_000]
DOCUMENTS, QUESTIONS = 30, 8
DOC_IDS = [f"d{n}" for n in range(DOCUMENTS) for _ in range(QUESTIONS)]


def answers(
    rng: np.random.Generator, expected: list[float], seeds: int = 1, samples: int = 8, spread: float = 0.0
) -> np.ndarray:
    """Accuracies of seeds, budgets and questions, which agree within documents."""
    of_document = np.repeat(rng.normal(0, 0.1, DOCUMENTS), QUESTIONS)
    of_training = spread * rng.standard_normal((seeds, len(expected), 1))
    chance = (np.array(expected)[:, None] + of_document + of_training).clip(0, 1)
    return rng.binomial(samples, chance) / samples


def test_a_known_slope_and_crossing_are_within_their_intervals() -> None:
    rng = np.random.default_rng(1)
    reference = rng.binomial(8, 0.42, len(DOC_IDS)) / 8
    curve = laws.make_curve(TOKENS, answers(rng, [0.3, 0.38, 0.46, 0.54], seeds=3), DOC_IDS, reference)
    slope, bend, crossing = laws.slope(curve), laws.bend(curve), laws.crossing(curve)
    assert slope.low < 0.08 < slope.high
    assert slope.low > 0.05
    assert slope.p_value < 0.01
    assert bend.low < 0 < bend.high
    # 0.42 is reached half a doubling after 200K tokens.
    assert crossing.low < 200_000 * 2**0.5 < crossing.high
    assert 200_000 < crossing.tokens < 400_000
    assert crossing.high / crossing.low < 2.5


def test_the_slope_is_that_of_least_squares_and_its_interval_that_of_the_questions_slopes() -> None:
    rng = np.random.default_rng(2)
    given = answers(rng, [0.3, 0.35, 0.4, 0.45])
    slope = laws.slope(laws.make_curve(TOKENS, given, DOC_IDS))
    straight = np.polyfit(np.repeat(np.log2(TOKENS), len(DOC_IDS)), given[0].ravel(), 1)[0]
    assert slope.mean == pytest.approx(straight)
    # The house's interval of one value a question, whose invented documents lie at 1 where a slope's do at 0.4.
    each = estimate(list(np.polyfit(np.log2(TOKENS), given[0], 1)[0] / 0.4), DOC_IDS, difference=True)
    near = each.low * 0.4
    assert slope.low == pytest.approx(near)


def test_the_bend_is_twice_the_coefficient_of_a_parabola_and_found_where_the_curve_is_a_plateau() -> None:
    rng = np.random.default_rng(3)
    given = answers(rng, [0.3, 0.5, 0.5, 0.5])
    bend = laws.bend(laws.make_curve(TOKENS, given, DOC_IDS))
    parabola = np.polyfit(np.log2(TOKENS), given[0].mean(1), 2)[0]
    assert bend.mean == pytest.approx(2 * parabola)
    assert bend.high < 0


def test_the_lines_height_is_that_of_the_least_squares_line() -> None:
    given = answers(np.random.default_rng(4), [0.3, 0.35, 0.4, 0.45], seeds=2)
    height = laws.height(laws.make_curve(TOKENS, given, DOC_IDS), [100_000, 300_000])
    line = np.polyfit(np.log2(TOKENS), given.mean((0, 2)), 1)
    assert height.mean == pytest.approx(np.polyval(line, np.log2([100_000, 300_000])))
    assert (height.low < height.mean).all()
    assert (height.mean < height.high).all()


def test_trainings_that_differ_make_intervals_wider_than_those_that_do_not() -> None:
    widths = []
    for spread in (0.0, 0.1):
        given = answers(np.random.default_rng(5), [0.3, 0.35, 0.4, 0.45], seeds=3, spread=spread)
        slope = laws.slope(laws.make_curve(TOKENS, given, DOC_IDS))
        widths.append(float(slope.high - slope.low))
    assert widths[1] > 2 * widths[0]


def test_where_only_trainings_differ_the_interval_is_students_over_seeds() -> None:
    slopes = np.array([0.02, 0.05, 0.11])
    one_answer = 0.3 + slopes[:, None, None] * np.log2(np.array(TOKENS) / TOKENS[0])[None, :, None]
    given = np.broadcast_to(one_answer, (3, 4, len(DOC_IDS) * 100))
    slope = laws.slope(laws.make_curve(TOKENS, given, [f"d{n % 1000}" for n in range(given.shape[2])]))
    low, high = stats.t.interval(0.95, 2, slopes.mean(), stats.sem(slopes))
    assert (slope.low, slope.high) == (pytest.approx(low, abs=0.001), pytest.approx(high, abs=0.001))
    assert slope.p_value == pytest.approx(stats.ttest_1samp(slopes, 0).pvalue, abs=0.002)


def test_the_p_value_is_below_5_percent_if_and_only_if_the_interval_leaves_0_out() -> None:
    rng = np.random.default_rng(6)
    sides = set()
    for _ in range(200):
        given = answers(rng, [0.3, 0.31, 0.32, 0.33], seeds=3, samples=1)
        slope = laws.slope(laws.make_curve(TOKENS, given, DOC_IDS))
        excluded = bool((slope.low > 0) | (slope.high < 0))
        assert excluded == bool(slope.p_value < 0.05)
        sides.add(excluded)
    assert sides == {True, False}


def test_slopes_are_compared_on_the_same_questions() -> None:
    rng = np.random.default_rng(7)
    # Questions whose slopes differ much, and alike in both curves.
    own = rng.normal(0, 0.1, len(DOC_IDS)) * np.arange(4)[:, None] + 0.3
    curves = [laws.make_curve(TOKENS, (own + step * np.arange(4)[:, None])[None], DOC_IDS) for step in (0.05, 0.03)]
    steeper = laws.slope_difference(*curves)
    assert steeper.mean == pytest.approx(0.02)
    assert 0 < steeper.low < 0.02 < steeper.high
    assert laws.slope(curves[0]).low < laws.slope(curves[1]).high  # each alone does not tell


def test_curves_of_other_questions_or_numbers_of_seeds_are_not_compared() -> None:
    given = answers(np.random.default_rng(8), [0.3, 0.35, 0.4, 0.45], seeds=2)
    curve = laws.make_curve(TOKENS, given, DOC_IDS)
    with pytest.raises(ValueError, match="other questions"):
        laws.slope_difference(curve, laws.make_curve(TOKENS, given[..., :-1], DOC_IDS[:-1]))
    with pytest.raises(ValueError, match="numbers of seeds"):
        laws.slope_difference(curve, laws.make_curve(TOKENS, given[:1], DOC_IDS))


def test_a_crossing_beyond_the_budgets_is_not_in_the_range_and_has_no_interval() -> None:
    given = answers(np.random.default_rng(9), [0.3, 0.32, 0.34, 0.36])
    crossing = laws.crossing(laws.make_curve(TOKENS, given, DOC_IDS, [0.9] * len(DOC_IDS)))
    assert np.isnan([crossing.tokens, crossing.low, crossing.high]).all()


def test_the_end_of_a_crossings_interval_that_is_beyond_the_budgets_is_open() -> None:
    given = answers(np.random.default_rng(10), [0.30, 0.31, 0.32, 0.33], samples=2)
    crossing = laws.crossing(laws.make_curve(TOKENS, given, DOC_IDS, given.mean((0, 1))))
    assert (crossing.low, crossing.high) == (0, np.inf)


def test_a_flat_curve_crosses_nowhere() -> None:
    given = np.full((1, 4, len(DOC_IDS)), 0.5)
    crossing = laws.crossing(laws.make_curve(TOKENS, given, DOC_IDS, [0.5] * len(DOC_IDS)))
    assert np.isnan(crossing.tokens)


def test_fewer_than_three_budgets_or_four_documents_have_no_law() -> None:
    curve = laws.make_curve(TOKENS, answers(np.random.default_rng(11), [0.3, 0.4, 0.5, 0.6]), DOC_IDS)
    assert laws.why_no_law(curve) is None
    two = replace(curve, tokens=TOKENS[:2], sums=curve.sums[:, :2])
    assert laws.why_no_law(two) == "2 budgets; a law takes 3"
    few = replace(curve, sums=curve.sums[..., :3], sizes=curve.sizes[:3])
    assert str(laws.why_no_law(few)).startswith("no verdict from 3 documents")


def test_holms_correction_is_that_of_statsmodels() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p_values = [0.04, 0.001, 0.6, 0.012, 0.02]
    assert laws.holm(p_values) == pytest.approx(multitest.multipletests(p_values, method="holm")[1])


def test_simulated_studies_have_intervals_that_hold_the_truth() -> None:
    rates = simulate(Cell("equal", 40, 3, 0.03, "line", 5), 200)
    # 200 studies of a true coverage of 95 % are in this range in all but one of a million.
    for share in (rates.slope, rates.bend, rates.line, rates.crossing, rates.difference):
        assert 0.88 < share <= 1
    assert rates.holm < 0.12
