"""What do wrong records cost, and what does a gate save? The tables and the figure of docs/study-faithfulness.md.

    smt study run examples/studies/faithfulness.yaml
    python -m benchmarks.wrong_records examples/studies/faithfulness.yaml [--plot docs/study-faithfulness.svg]

Reads what the study left and runs nothing. Accuracies are means over the seeds' trainings; differences are paired by
question and seed, clustered by document, and hold the variance of training (`smt_plugin/study/laws.py`). Ends with
status 1 while cells are missing.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from smt_plugin.config import read_study_file
from smt_plugin.corpus import read_documents
from smt_plugin.evaluation.arm_results import read_arm
from smt_plugin.files import read_jsonl, write_text
from smt_plugin.generation.summary import read_generated
from smt_plugin.microworld import grammar
from smt_plugin.rejects import read_verdicts
from smt_plugin.report.plots import axes_of, svg_of
from smt_plugin.report.sections import accuracy_text, p_text, points_text
from smt_plugin.study import laws
from smt_plugin.study.cells import Cell, cells_of, configs_of
from smt_plugin.study.results import Value
from smt_plugin.study.run import is_done

RATES = (0, 5, 10, 20, 40)
GATES = {"": "none", "-code": "by code", "-judge": "a perfect judge"}
COLORS = {"": "#b5532a", "-code": "#7a5195", "-judge": "#2f7d4f"}
# What the check by code can see when it is wrong: years, names and months.
SEEN = ("born", "founded", "river", "hill", "fair", "home")
Answers = dict[str, tuple[str, float]]  # question -> document, accuracy


def generator(rate: int, gate: str) -> str:
    """The name in the study file; without errors no gate rejects anything."""
    return f"wrong-{rate}{gate if rate else ''}"


def read_answers(cell: Cell, configs: dict[str, str]) -> Answers | None:
    """The trained model's, or None where they are missing or of other settings."""
    rows = read_arm(cell.run_file.run / "results" / "trained") if is_done(cell, configs[cell.target]) else None
    return rows and {row["question_id"]: (row["doc_id"], float(row["acc"])) for row in rows}


def curve_of(answers: list[Answers], is_asked: Callable[[str], bool] = lambda question: True) -> laws.Curve:
    """One generator's answers of all seeds, as a curve of one budget."""
    questions = sorted(question for question in answers[0] if is_asked(question))
    accuracies = [[[seed[question][1] for question in questions]] for seed in answers]
    return laws.make_curve([1], accuracies, [answers[0][question][0] for question in questions])


def is_on_one_fact(question: str) -> bool:
    """Whether a question is on one fact, by its id: the two words of a name, and what is asked."""
    return question.count("-") == 2


def is_about_seen(question: str) -> bool | None:
    """Whether a question on one fact is about what the check by code can see; None of two facts."""
    return question.rpartition("-")[2] in SEEN if is_on_one_fact(question) else None


def records_row(run: Path, archive: Path) -> list[str]:
    """Of a generator's records how many its gate rejected, and how many of the others are wrong, which is known."""
    truth = {}
    for document in read_documents(archive):
        truth[document.id] = {grammar.parse_statement(sentence) for sentence in grammar.sentences(document.text)}
    count = read_generated(run).methods["synthetic_qa"]
    rejected = read_verdicts(run)
    kept = wrong = 0
    for _, row in read_jsonl(run / "records" / "synthetic_qa.jsonl"):
        if row["id"] not in rejected:
            said = [each for turn in row["messages"] for each in grammar.sentences(turn["content"])]
            told = {fact for fact in map(grammar.parse_statement, said) if fact is not None}
            kept += 1
            wrong += not told <= truth[row["doc_id"]]
    again = sum(count.asked_again.values()), sum(count.repaired.values())
    return [f"{count.records:,}", f"{again[0]:,}", f"{again[1]:,}", f"{count.rejected:,}", f"{wrong / kept:.1%}"]


def print_table(head: list[str], rows: list[list[str]]) -> None:
    """Print Markdown."""
    for cells in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(cells)} |")
    print()


def points(bounds: laws.Bounds | Value) -> str:
    """A difference with its interval."""
    return points_text(*(float(each) for each in (bounds.mean, bounds.low, bounds.high)))


def main() -> None:
    """Print the tables; draw the figure if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study_file", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    study, run_file = read_study_file(options.study_file.absolute())
    cells, configs = cells_of(study, run_file), configs_of(study, run_file)
    made = {cell.generator: cell.generated.run for cell in cells}
    found: dict[str, list[Answers]] = {name: [] for name in made}
    for cell in cells:
        if (answers := read_answers(cell, configs)) is not None:
            found[cell.generator].append(answers)
    rows = [
        [f"{rate} %", said, *records_row(made[name], run_file.corpus)]
        for rate in RATES
        for gate, said in GATES.items()
        if (rate or not gate) and (made[name := generator(rate, gate)] / "generate.json").is_file()
    ]
    print_table(
        ["told wrongly", "gate", "records", "asked again", "repaired", "rejected", "wrong among the rest"], rows
    )
    seeds = len(study.seeds)
    done = {name: curve_of(answers) for name, answers in found.items() if len(answers) == seeds}
    rows = []
    for rate in RATES:
        row = [f"{rate} %"]
        for gate in GATES:
            if curve := done.get(generator(rate, gate)):
                mean = laws.accuracy(curve, 1)
                row.append(accuracy_text(float(mean.mean), float(mean.low), float(mean.high)))
            else:
                row.append("missing")
        rows.append(row)
    print_table(["told wrongly", *(f"gate: {said}" for said in GATES.values())], rows)
    if missing := [name for name in found if name not in done]:
        print(f"missing: {', '.join(missing)}; run `smt study run {options.study_file}`")
        sys.exit(1)
    tests = {
        "H1: 40 % less 0 %, no gate": laws.difference(done["wrong-40"], done["wrong-0"], 1),
        "H2: at 40 %, judge less no gate": laws.difference(done["wrong-40-judge"], done["wrong-40"], 1),
        "H3: at 40 %, code less no gate": laws.difference(done["wrong-40-code"], done["wrong-40"], 1),
        "H4: at 40 %, judge less code": laws.difference(done["wrong-40-judge"], done["wrong-40-code"], 1),
    }
    corrected = laws.holm([float(each.p_value) for each in tests.values()])
    others = {
        "H5: at 5 %, code less no gate": laws.difference(done["wrong-5-code"], done["wrong-5"], 1),
        "H5: at 5 %, judge less no gate": laws.difference(done["wrong-5-judge"], done["wrong-5"], 1),
        "H7: 40 % with judge less 0 %": laws.difference(done["wrong-40-judge"], done["wrong-0"], 1),
    }
    for said, is_seen in (("what it sees", True), ("the others", False)):

        def is_asked(question: str, is_seen: bool = is_seen) -> bool:
            return is_about_seen(question) is is_seen

        code, none = (curve_of(found[name], is_asked) for name in ("wrong-40-code", "wrong-40"))
        number = int(code.sizes.sum())
        others[f"H6: at 40 %, code less no gate, {number} questions on {said}"] = laws.difference(code, none, 1)
    rows = [
        [name, points(each), p_text(float(each.p_value)), p_text(holm)]
        for (name, each), holm in zip(tests.items(), corrected, strict=True)
    ]
    rows += [[name, points(each), p_text(float(each.p_value)), ""] for name, each in others.items()]
    print_table(["difference", "points, 95 %", "p", "p (Holm, H1 to H4)"], rows)
    if options.plot:
        write_text(options.plot, figure(done))


def figure(done: dict[str, laws.Curve]) -> str:
    """Accuracy over the error rate, a line for each gate."""
    picture, axes = axes_of(4.0)
    for place, (gate, said) in enumerate(GATES.items()):
        means = [laws.accuracy(done[generator(rate, gate)], 1) for rate in RATES]
        aside = [rate + 0.4 * (place - 1) for rate in RATES]  # so that no dot hides another
        draw_means(axes, aside, means, COLORS[gate], f"gate: {said}")
    axes.set_xticks(RATES)
    axes.set_xlabel("facts told wrongly, %")
    axes.set_ylabel("closed-book accuracy, %, with 95 % interval")
    axes.legend(frameon=False)
    return svg_of(picture)


def draw_means(
    axes: Any, places: Sequence[float], means: Sequence[laws.Bounds | Value], color: str, label: str
) -> None:
    """Draw accuracies with their intervals, in percent, joined by a line."""
    values = [float(mean.mean) * 100 for mean in means]
    errors = [
        [value - float(mean.low) * 100 for value, mean in zip(values, means, strict=True)],
        [float(mean.high) * 100 - value for value, mean in zip(values, means, strict=True)],
    ]
    axes.errorbar(places, values, yerr=errors, fmt="o-", color=color, capsize=3, label=label)


if __name__ == "__main__":
    main()
