"""What came out of a study: cells with their accuracies, curves with their laws, and slopes compared."""

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from smt_plugin.errors import BadInput
from smt_plugin.evaluation.arm_results import read_arm
from smt_plugin.evaluation.intervals import Estimate, estimate
from smt_plugin.report.results import REFERENCE, beside
from smt_plugin.study import laws
from smt_plugin.study.cells import Cell

Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class CellResult:
    """An arm of a cell; `accuracy` is None where it is missing, `difference` also where base + RAG is."""

    cell: Cell
    arm: str
    accuracy: Estimate | None = None
    difference: Estimate | None = None


@dataclass(frozen=True, slots=True)
class Value:
    """A number with its 95 % interval and the p-value of "it is 0"."""

    mean: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True, slots=True)
class Law:
    """A line of accuracy over the logarithm of tokens.

    Attributes:
        slope: accuracy for each doubling.
        bend: change of the slope with each doubling.
        at: tokens -> the line's height, at the budgets and between them.
        crossing: tokens at which it reaches base + RAG; None where that is not in the range, or where there is no such
            arm.
        crossing_low, crossing_high: the ends of its interval; None where they are not in the range.
        may_cross: whether any budget in the range can be the crossing; None where there is no base + RAG.
    """

    slope: Value
    bend: Value
    at: dict[int, Value]
    crossing: float | None = None
    crossing_low: float | None = None
    crossing_high: float | None = None
    may_cross: bool | None = None


@dataclass(frozen=True, slots=True)
class CurveResult:
    """One arm of one mix, generator, target and corpus over all budgets.

    Attributes:
        group: what it can be compared within: corpus, target and arm.
        points: budget -> the accuracy of each training that is done.
        missing: names of the cells that are.
        seeds: how many trainings stand behind each budget.
        law: None where there is none, for the reason of `no_law`.
        means, above: budget -> the mean accuracy over all seeds, and how far it is above base + RAG's; empty where
            cells are missing or the documents are too few, the latter also without base + RAG.
    """

    name: str
    group: str
    points: dict[int, list[Estimate]]
    missing: list[str]
    seeds: int
    law: Law | None
    no_law: str = ""
    means: dict[int, Value] = field(default_factory=dict)
    above: dict[int, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Compared:
    """How much steeper, or better, a curve is than another on the same questions; `holm` is the corrected p-value."""

    group: str
    curve: str
    other: str
    difference: Value
    holm: float


@dataclass(frozen=True, slots=True)
class StudyResults:
    """All that the report of a study is made of.

    Attributes:
        slopes: the slopes of every two curves of a group that have laws.
        largest: the accuracies of every two curves of a group at the largest budget.
        reference: group -> base + RAG's accuracy, where it is there.
        not_compared: a sentence for each pair of curves that could not be compared.
    """

    study: Path
    cells: list[CellResult]
    curves: list[CurveResult]
    slopes: list[Compared]
    largest: list[Compared]
    reference: dict[str, Estimate] = field(default_factory=dict)
    not_compared: list[str] = field(default_factory=list)

    @property
    def groups(self) -> list[str]:
        """What curves can be compared within, as `CurveResult.group` has it."""
        return list(dict.fromkeys(curve.group for curve in self.curves))

    @property
    def missing(self) -> list[str]:
        """The names of the cells of which an arm is missing."""
        return list(dict.fromkeys(result.cell.name for result in self.cells if result.accuracy is None))


def read_study(study: Path, cells: Sequence[Cell], left: Collection[str] = ()) -> StudyResults:
    """Read all answers of a study that are there, and fit what they allow.

    Args:
        left: names of cells that are not done: their answers, if there are any, are of other settings.

    Raises:
        BadInput: none is there, or two arms that are compared answered different questions.
    """
    found: list[CellResult] = []
    answers: dict[tuple[str, str], Rows] = {}
    references = {
        place: _answers_of(place) for place in {_reference_of(cell, arm) for cell in cells for arm in cell.arms}
    }
    for cell in cells:
        for arm in cell.arms:
            rows = None if cell.name in left else _answers_of(cell.run_file.run / "results" / arm)
            if rows is not None:
                answers[cell.name, arm] = rows
            found.append(_cell_result(cell, arm, rows, references[_reference_of(cell, arm)]))
    if not answers:
        raise BadInput(f"{study} holds no finished cell; run `smt study run` first.")
    by_curve: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        for arm in cell.arms:
            by_curve[_group(cell, arm), _curve_name(cell)].append(cell)
    arm_of = {_group(cell, arm): arm for cell in cells for arm in cell.arms}
    fitted: list[tuple[CurveResult, _Fit | None]] = [
        _curve(name, group, arm_of[group], own, answers, references[_reference_of(own[0], arm_of[group])])
        for (group, name), own in by_curve.items()
    ]
    reference = {
        group: _estimate(rows)
        for (group, _), own in by_curve.items()
        if (rows := references[_reference_of(own[0], arm_of[group])]) is not None
    }
    pairs, not_compared = _pairs(fitted)
    with_laws = [(one, other) for one, other in pairs if one[0].law and other[0].law]
    largest = max(cell.budget for cell in cells)
    return StudyResults(
        study,
        found,
        [curve for curve, _ in fitted],
        _compare(with_laws, laws.slope_difference),
        _compare(pairs, partial(laws.difference, tokens=largest)),
        reference,
        not_compared,
    )


@dataclass(frozen=True, slots=True)
class _Fit:
    curve: laws.Curve
    questions: list[str]
    seeds: list[int | None]


def _answers_of(folder: Path) -> Rows | None:
    """An arm's answers without their texts, since a study has many."""
    rows = read_arm(folder)
    return rows and [{key: row[key] for key in ("question_id", "doc_id", "acc")} for row in rows]


def _reference_of(cell: Cell, arm: str) -> Path:
    """The folder of what an arm is compared with: base + RAG, scored as it is."""
    return cell.base.run / "results" / beside(arm, REFERENCE)


def _group(cell: Cell, arm: str) -> str:
    return ", ".join(filter(None, [cell.corpus, cell.target, arm]))


def _curve_name(cell: Cell) -> str:
    return ", ".join(filter(None, [cell.mix, cell.generator]))


def _cell_result(cell: Cell, arm: str, rows: Rows | None, reference: Rows | None) -> CellResult:
    if rows is None:
        return CellResult(cell, arm)
    difference = None
    if reference is not None:
        others = {row["question_id"]: row["acc"] for row in reference}
        if others.keys() != {row["question_id"] for row in rows}:
            raise BadInput(
                f"the cell {cell.name} and {_reference_of(cell, arm)} answered different questions; remove "
                f"{cell.run_file.run / 'cell.json'}, and run `smt study run` again."
            )
        values = [row["acc"] - others[row["question_id"]] for row in rows]
        difference = estimate(values, [row["doc_id"] for row in rows], difference=True)
    return CellResult(cell, arm, _estimate(rows), difference)


def _estimate(rows: Rows) -> Estimate:
    return estimate([row["acc"] for row in rows], [row["doc_id"] for row in rows])


def _curve(
    name: str, group: str, arm: str, cells: list[Cell], answers: dict[tuple[str, str], Rows], reference: Rows | None
) -> tuple[CurveResult, _Fit | None]:
    missing = [cell.name for cell in cells if (cell.name, arm) not in answers]
    done = {(cell.seed, cell.budget): answers[cell.name, arm] for cell in cells if (cell.name, arm) in answers}
    budgets = sorted({cell.budget for cell in cells})
    seeds = list(dict.fromkeys(cell.seed for cell in cells))
    points = {budget: [_estimate(rows) for (_, own), rows in done.items() if own == budget] for budget in budgets}
    if missing:
        no_law = f"{len(missing)} of {len(cells)} cells are missing"
        return CurveResult(name, group, points, missing, len(seeds), None, no_law), None
    document = {row["question_id"]: row["doc_id"] for row in done[seeds[0], budgets[0]]}
    questions = sorted(document)
    accuracies = [[_in_order(done[seed, budget], questions, name) for budget in budgets] for seed in seeds]
    own = None if reference is None else _in_order(reference, questions, name)
    curve = laws.make_curve(budgets, accuracies, [document[question] for question in questions], own)
    if why := laws.why_no_estimate(curve):
        return CurveResult(name, group, points, missing, len(seeds), None, why), None
    law, no_law = (None, why) if (why := laws.why_no_law(curve)) else (_law(curve), "")
    means = {budget: _value(laws.accuracy(curve, budget)) for budget in budgets}
    above = {} if own is None else {budget: _value(laws.above_reference(curve, budget)) for budget in budgets}
    found = CurveResult(name, group, points, missing, len(seeds), law, no_law, means, above)
    return found, _Fit(curve, questions, seeds)


def _in_order(rows: Rows, questions: list[str], name: str) -> list[float]:
    """The accuracies on these questions, in their order."""
    found = {row["question_id"]: float(row["acc"]) for row in rows}
    if found.keys() != set(questions):
        raise BadInput(
            f"the cells of {name} answered different questions; remove their cell.json, and run `smt study run` again."
        )
    return [found[question] for question in questions]


def _law(curve: laws.Curve) -> Law:
    places = sorted({*map(int, np.geomspace(curve.tokens[0], curve.tokens[-1], 25).round()), *curve.tokens})
    height = laws.height(curve, places)
    at = {
        place: Value(*(float(each[n]) for each in (height.mean, height.low, height.high, height.p_value)))
        for n, place in enumerate(places)
    }
    law = Law(_value(laws.slope(curve)), _value(laws.bend(curve)), at)
    if curve.reference is None:
        return law
    found = laws.crossing(curve)
    return replace(
        law,
        crossing=_in_range(float(found.tokens)),
        crossing_low=_in_range(float(found.low)),
        crossing_high=_in_range(float(found.high)),
        may_cross=bool(not np.isnan(found.low)),
    )


def _in_range(tokens: float) -> float | None:
    return tokens if isfinite(tokens) and tokens > 0 else None


def _value(bounds: laws.Bounds) -> Value:
    return Value(float(bounds.mean), float(bounds.low), float(bounds.high), float(bounds.p_value))


_Fitted = tuple[CurveResult, _Fit]


def _pairs(fitted: list[tuple[CurveResult, _Fit | None]]) -> tuple[list[tuple[_Fitted, _Fitted]], list[str]]:
    """Every two curves of a group, the later one first, and a sentence on each two that cannot be compared."""
    pairs, sentences = [], []
    for (curve, fit), (other, other_fit) in combinations(fitted, 2):
        if curve.group != other.group or fit is None or other_fit is None:
            continue
        if fit.questions != other_fit.questions or fit.seeds != other_fit.seeds:
            sentences.append(f"{curve.group}: {curve.name} and {other.name} have other questions or seeds")
            continue
        pairs.append(((other, other_fit), (curve, fit)))
    return pairs, sentences


def _compare(
    pairs: list[tuple[_Fitted, _Fitted]], difference: Callable[[laws.Curve, laws.Curve], laws.Bounds]
) -> list[Compared]:
    """Compare the two curves of each pair, the p-values corrected for the number of all pairs."""
    found = [_value(difference(fit.curve, other_fit.curve)) for (_, fit), (_, other_fit) in pairs]
    corrected = laws.holm([value.p_value for value in found])
    return [
        Compared(curve.group, curve.name, other.name, value, holm)
        for ((curve, _), (other, _)), value, holm in zip(pairs, found, corrected, strict=True)
    ]
