"""A study's report: sections for a terminal and for one HTML page, SVG figures, CSV and JSON."""

from collections.abc import Sequence
from pathlib import Path

from smt_plugin.files import write_csv, write_json, write_text
from smt_plugin.mixing.manifest import budget_name
from smt_plugin.report.report import page
from smt_plugin.report.sections import Section, accuracy_text, difference_text, interval_text, p_text, points_text
from smt_plugin.study.figures import scaling_figure
from smt_plugin.study.laws import LEAST_BUDGETS
from smt_plugin.study.results import Compared, CurveResult, Law, StudyResults, Value

# Below this a bend is told; as for all our intervals.
_LEVEL = 0.05


def sections_of(results: StudyResults) -> list[Section]:
    """Return the report's sections in their order: a figure for every group, laws and means, each compared, cells."""
    figures = [
        Section(
            f"Accuracy over tokens: {group}",
            plot=scaling_figure([c for c in results.curves if c.group == group], results.reference.get(group)),
            note=_trainings(results.curves),
        )
        for group in results.groups
    ]
    return [
        *figures,
        _laws(results),
        _slopes(results),
        _means(results),
        _largest(results),
        _cells(results),
    ]


def write_report(results: StudyResults, sections: Sequence[Section]) -> Path:
    """Write `report.html` (self-contained), `report.json`, `cells.csv`, `laws.csv` and a `figure-<group>.svg` for every
    group into the study's folder, and return the first one's path.
    """
    doubts = [f"missing: {name}" for name in results.missing] + results.not_compared
    arms = ", ".join(dict.fromkeys(result.arm for result in results.cells))
    facts = {
        "study": results.study.name,
        "cells": f"{len({r.cell.name for r in results.cells})}, {len(results.missing)} of them missing",
        "arms of the trained models": arms,
        "variance of training": _trainings(results.curves),
    }
    path = results.study / "report.html"
    write_text(path, page("smt study", "What do more tokens bring?", facts, sections, doubts))
    for section in sections:
        if section.plot:
            name = section.title.partition(": ")[2].replace(", ", ".")  # names have no dots
            write_text(results.study / f"figure-{name}.svg", section.plot)
    write_csv(results.study / "cells.csv", _cell_rows(results))
    write_csv(results.study / "laws.csv", _law_rows(results))
    write_json(
        results.study / "report.json",
        {
            "facts": facts,
            "missing": results.missing,
            "cells": [
                {"name": r.cell.name, "arm": r.arm, "accuracy": r.accuracy, "difference": r.difference}
                for r in results.cells
            ],
            "curves": [_curve_data(curve) for curve in results.curves],
            "slopes": results.slopes,
            "largest": results.largest,
            "base_rag": results.reference,
        },
    )
    return path


def _trainings(curves: Sequence[CurveResult]) -> str:
    if all(curve.seeds == 1 for curve in curves):
        return "There is one training a cell: the variance of training is left out of all intervals."
    return (
        f"{max(curve.seeds for curve in curves)} trainings a cell: the intervals of laws and means hold the variance "
        "of training."
    )


def _named(results: StudyResults, name: str, group: str) -> str:
    """A curve's name, or two curves', with their group where there are several."""
    return f"{name} ({group})" if len(results.groups) > 1 else name


def _laws(results: StudyResults) -> Section:
    curves = results.curves
    if not any(curve.law for curve in curves):
        none = [(_named(results, curve.name, curve.group), curve.no_law) for curve in curves]
        return Section("Laws: none is fitted", ("curve", "since"), none)
    rows = []
    for curve in curves:
        name = _named(results, curve.name, curve.group)
        if curve.law is None:
            rows.append((name, f"no law: {curve.no_law}", "", "", ""))
            continue
        law = curve.law
        rows.append((name, _points(law.slope), p_text(law.slope.p_value), _bend(law.bend), crossing_text(law)))
    return Section(
        "Laws: accuracy = a + b log2(tokens)",
        ("curve", "points a doubling", "p", "bend, points a doubling", "reaches base + RAG at"),
        rows,
        note=f"With 95 % intervals over documents. {_trainings(curves)}",
        explanation=(
            f"No law is fitted to fewer than {LEAST_BUDGETS} budgets, to a curve with missing cells, or to too few "
            "documents. The bend is how much the slope changes with each doubling; where its interval leaves 0 out, "
            "the curve is no straight line, and what the line says between and beyond the budgets is off. A crossing "
            "is looked for between the smallest and the largest budget only."
        ),
    )


def crossing_text(law: Law) -> str:
    """Say where a line reaches base + RAG."""
    if law.may_cross is None:
        return "no base + RAG"
    if not law.may_cross:
        return "not in the range"
    low = "below the range" if law.crossing_low is None else _tokens(law.crossing_low)
    high = "beyond the range" if law.crossing_high is None else _tokens(law.crossing_high)
    begin = "not in the range" if law.crossing is None else _tokens(law.crossing)
    return f"{begin} ({low} to {high})"


def _tokens(tokens: float) -> str:
    return budget_name(int(float(f"{tokens:.2g}")))


def _bend(bend: Value) -> str:
    if bend.p_value >= _LEVEL:
        return f"none shown: {_points(bend)}"
    return f"{'flattens' if bend.mean < 0 else 'steepens'}: {_points(bend)}"


def _slopes(results: StudyResults) -> Section:
    return Section(
        "Slopes compared, paired",
        ("curve less curve", "points a doubling", "p", "p (Holm)"),
        _compared_rows(results, results.slopes),
        note="On the same questions; the last column is corrected for all rows of this table.",
    )


def _largest(results: StudyResults) -> Section:
    tokens = max(result.cell.budget for result in results.cells)
    return Section(
        f"Accuracies compared at {budget_name(tokens)} tokens, paired",
        ("curve less curve", "points", "p", "p (Holm)"),
        _compared_rows(results, results.largest),
        note="The largest budget. On the same questions; the last column is corrected for all rows of this table. "
        + _trainings(results.curves),
    )


def _compared_rows(results: StudyResults, compared: Sequence[Compared]) -> list[tuple[str, ...]]:
    return [
        (
            _named(results, f"{each.curve} less {each.other}", each.group),
            _points(each.difference),
            p_text(each.difference.p_value),
            p_text(each.holm),
        )
        for each in compared
    ]


def _means(results: StudyResults) -> Section:
    """The means over the seeds; with one seed the cells tell the same."""
    rows = [
        (
            _named(results, curve.name, curve.group),
            budget_name(tokens),
            accuracy_text(mean.mean, mean.low, mean.high),
            *((_points(curve.above[tokens]), p_text(curve.above[tokens].p_value)) if curve.above else ("", "")),
        )
        for curve in results.curves
        if curve.seeds > 1
        for tokens, mean in curve.means.items()
    ]
    return Section(
        "Means over the trainings, with 95 % intervals over documents and trainings",
        ("curve", "tokens", "accuracy", "vs base + RAG, paired", "p"),
        rows,
    )


def _cells(results: StudyResults) -> Section:
    """All cells; the arm and the number of questions are told once where they are the same of all."""
    arms = {result.arm for result in results.cells}
    counts = {result.accuracy.questions for result in results.cells if result.accuracy}
    rows = []
    for result in results.cells:
        row = {"cell": result.cell.name, "arm": result.arm, "accuracy": "missing", "questions": ""}
        row |= {"vs base + RAG, paired": "", "p": ""}
        if result.accuracy is not None:
            row |= {"accuracy": interval_text(result.accuracy), "questions": str(result.accuracy.questions)}
            row["vs base + RAG, paired"] = "no base + RAG"
        if (difference := result.difference) is not None:
            row |= {"vs base + RAG, paired": difference_text(difference), "p": p_text(difference.p_value)}
        if len(arms) == 1:
            del row["arm"]
        if len(counts) == 1:
            del row["questions"]
        rows.append(row)
    same = [f"Arm {arms.pop()}."] if len(arms) == 1 else []
    same += [f"{counts.pop()} questions each."] if len(counts) == 1 else []
    return Section(
        "Cells, with 95 % intervals clustered by document",
        tuple(rows[0]),
        [tuple(row.values()) for row in rows],
        note=" ".join([*same, "The intervals leave out what training again with another seed would change."]),
        explanation="Each cell is a run of its own: `smt report` on its run file tells more, and shows its answers.",
    )


def _points(value: Value) -> str:
    return points_text(value.mean, value.low, value.high)


def _cell_rows(results: StudyResults) -> list[Sequence[object]]:
    head = ("cell", "corpus", "generator", "target", "mix", "tokens", "seed", "arm", "questions", "documents")
    numbers = ("accuracy", "low", "high", "vs_base_rag", "vs_base_rag_low", "vs_base_rag_high", "p")
    rows: list[Sequence[object]] = [(*head, *numbers)]
    for result in results.cells:
        cell, accuracy, difference = result.cell, result.accuracy, result.difference
        place = (cell.name, cell.corpus, cell.generator, cell.target, cell.mix, cell.budget, cell.seed, result.arm)
        scored = (
            (accuracy.questions, accuracy.documents, accuracy.mean, accuracy.low, accuracy.high) if accuracy else ()
        )
        paired = (difference.mean, difference.low, difference.high, difference.p_value) if difference else ()
        values = [*scored, *paired]
        rows.append((*place, *values, *[""] * (len(rows[0]) - len(place) - len(values))))
    return rows


def _law_rows(results: StudyResults) -> list[Sequence[object]]:
    rows: list[Sequence[object]] = [
        (
            *("curve", "group", "seeds", "slope", "slope_low", "slope_high", "slope_p"),
            *("bend", "bend_low", "bend_high", "bend_p"),
            *("may_cross", "crossing", "crossing_low", "crossing_high", "no_law"),
        )
    ]
    for curve in results.curves:
        law = curve.law
        if law is None:
            rows.append((curve.name, curve.group, curve.seeds, *[""] * 12, curve.no_law))
            continue
        values = [number for each in (law.slope, law.bend) for number in (each.mean, each.low, each.high, each.p_value)]
        ends = (law.may_cross, law.crossing, law.crossing_low, law.crossing_high)
        rows.append((curve.name, curve.group, curve.seeds, *values, *("" if end is None else end for end in ends), ""))
    return rows


def _curve_data(curve: CurveResult) -> dict[str, object]:
    """A curve as JSON, whose keys are texts."""
    law = None
    if curve.law is not None:
        law = {name: getattr(curve.law, name) for name in Law.__slots__ if name != "at"}
        law["at"] = [{"tokens": tokens, "height": value} for tokens, value in curve.law.at.items()]
    return {
        "name": curve.name,
        "group": curve.group,
        "seeds": curve.seeds,
        "points": [{"tokens": budget, "trainings": found} for budget, found in curve.points.items()],
        "missing": curve.missing,
        "means": [{"tokens": budget, "accuracy": mean} for budget, mean in curve.means.items()],
        "above_base_rag": [{"tokens": budget, "points": above} for budget, above in curve.above.items()],
        "law": law,
        "no_law": curve.no_law,
    }
