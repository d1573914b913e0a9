"""When does mixing help? The tests of docs/study-mechanism.md.

    smt study run examples/studies/mechanism.yaml --jobs 2
    smt study report examples/studies/mechanism.yaml        # accuracies, laws, figure
    python -m benchmarks.mechanism examples/studies/mechanism.yaml [--plot docs/study-mechanism.svg]
    smt study run examples/studies/mechanism-160K.yaml --jobs 2
    python -m benchmarks.mechanism examples/studies/mechanism.yaml --beside examples/studies/mechanism-160K.yaml

Reads what the study left and runs nothing. Differences are those of accuracies at the largest budget, means over the
seeds' trainings, paired by question and seed, clustered by document; they hold the variance of training where there is
more than one seed (`smt_plugin/study/laws.py`). Seeds of which a cell is missing are left out, and named; ends with
status 1 then.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.wrong_records import (
    Answers,
    curve_of,
    draw_means,
    is_on_one_fact,
    points,
    print_table,
    read_answers,
)
from smt_plugin.config import read_study_file
from smt_plugin.corpus import read_documents
from smt_plugin.files import write_text
from smt_plugin.microworld import grammar
from smt_plugin.microworld.scripted import salient
from smt_plugin.mixing.manifest import budget_name
from smt_plugin.report.plots import svg_of
from smt_plugin.report.sections import accuracy_text, p_text
from smt_plugin.study import laws
from smt_plugin.study.cells import Cell, cells_of, configs_of
from smt_plugin.study.figures import over_tokens
from smt_plugin.study.results import StudyResults, read_study
from smt_plugin.study.run import is_done

ALL, SOME = "all-facts", "two-in-five"
BETWEEN, WEAK_ALL, WEAK_SOME = "seven-in-ten", "weak-all-facts", "weak-two-in-five"
ABOUT = {ALL: "questions about all facts", SOME: "questions about two facts in five"}
COLORS = {"questions": "#3b6ea5", "documents": "#7a7a7a", "mixed": "#b5532a", "focal": "#2f7d4f"}


def asked_questions(archive: Path, coverage: float) -> set[str]:
    """The ids of the questions on one fact that training asks about, too, at some coverage."""
    asked = set()
    for document in read_documents(archive):
        facts = [fact for each in grammar.sentences(document.text) if (fact := grammar.parse_statement(each))]
        asked |= {f"{document.id}-{fact.attribute}" for fact in salient(facts, coverage)}
    return asked


Found = dict[tuple[str, str], dict[int | None, Answers]]


def found_at(cells: Sequence[Cell], configs: dict[str, str], budget: int) -> tuple[Found, list[int | None]]:
    """The answers of each generator and mix by seed, at a budget, and the seeds of which no cell is missing."""
    found: Found = {}
    missing: dict[int | None, list[str]] = {}
    for cell in cells:
        if cell.budget == budget:
            answers = read_answers(cell, configs)
            if answers is None:
                missing.setdefault(cell.seed, []).append(cell.name)
            else:
                found.setdefault((cell.generator, cell.mix), {})[cell.seed] = answers
    for seed, names in missing.items():
        print(f"seed {seed} is left out, since these cells are missing: {', '.join(names)}")
    return found, [seed for seed in dict.fromkeys(cell.seed for cell in cells) if seed not in missing]


def difference(
    found: Found,
    seeds: Sequence[int | None],
    one: tuple[str, str],
    other: tuple[str, str],
    is_asked: Callable[[str], bool] = lambda _: True,
) -> laws.Bounds:
    """How much more accurate the trainings of a generator and mix are than those of another."""
    first, second = (curve_of([found[each][seed] for seed in seeds], is_asked) for each in (one, other))
    return laws.difference(first, second, 1)


def rows_of(tests: dict[str, laws.Bounds]) -> list[list[str]]:
    """A table's rows of differences, their p-values corrected for their number."""
    corrected = laws.holm([float(each.p_value) for each in tests.values()])
    return [
        [name, points(each), p_text(float(each.p_value)), p_text(holm)]
        for (name, each), holm in zip(tests.items(), corrected, strict=True)
    ]


def print_beside(cells: Sequence[Cell], others: Sequence[Cell], configs: dict[str, str]) -> bool:
    """Print the tests of H7 to H9, from cells of the main study and of the one beside it; return whether all is there.

    The two have one archive, its questions, one config, and the seeds in common.
    """
    (budget,) = {cell.budget for cell in others}
    found, seeds = found_at(cells, configs, budget)
    more, more_seeds = found_at(others, configs, budget)
    both = [seed for seed in seeds if seed in more_seeds]
    if not both:
        return False
    found |= more
    print(f"At {budget:,} tokens, {len(both)} training{'s' * (len(both) > 1)} a cell.\n")
    sources = {
        "H7, H8: all facts": ALL,
        "H7: seven in ten": BETWEEN,
        "H7, H8: two in five": SOME,
        "H8: weak, all facts": WEAK_ALL,
        "H8: weak, two in five": WEAK_SOME,
    }
    mixing = {said: difference(found, both, (name, "mixed"), (name, "questions")) for said, name in sources.items()}
    head = ["points, 95 %", "p", "p (Holm, this table)"]
    print_table(["mixed less questions", *head], rows_of(mixing))
    weaker = {
        f"H9: {mix}{'' if mix == 'documents' else f', {ABOUT[strong]}'}": difference(
            found, both, (weak, mix), (strong, mix)
        )
        for strong, weak in ((ALL, WEAK_ALL), (SOME, WEAK_SOME))
        for mix in COLORS
        if (weak, mix) in found
    }
    print_table(["weak less strong", *head], rows_of(weaker))
    return len(both) == len({cell.seed for cell in cells})


def main() -> None:
    """Print the tables; draw the figure if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study_file", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--beside", type=Path, help="the study file of H7 to H9: print their tests alone")
    options = parser.parse_args()
    study, run_file = read_study_file(options.study_file.absolute())
    cells, configs = cells_of(study, run_file), configs_of(study, run_file)
    if options.beside:
        sys.exit(not print_beside(cells, cells_of(*read_study_file(options.beside.absolute())), configs))
    largest = max(study.budgets)
    found, seeds = found_at(cells, configs, largest)
    if not seeds:
        sys.exit(1)
    tests = {
        "H1: all facts, mixed less questions": difference(found, seeds, (ALL, "mixed"), (ALL, "questions")),
        "H2: two in five, mixed less questions": difference(found, seeds, (SOME, "mixed"), (SOME, "questions")),
        "H3: two in five, focal less mixed": difference(found, seeds, (SOME, "focal"), (SOME, "mixed")),
        "H4: all facts, focal less mixed": difference(found, seeds, (ALL, "focal"), (ALL, "mixed")),
    }
    rows = rows_of(tests)
    asked = asked_questions(run_file.corpus, 0.4)
    one_fact = {question for question in next(iter(found[SOME, "mixed"].values())) if is_on_one_fact(question)}
    for said, group in (("asked about", one_fact & asked), ("never asked about", one_fact - asked)):
        each = difference(found, seeds, (SOME, "mixed"), (SOME, "questions"), group.__contains__)
        rows.append([f"H6: two in five, mixed less questions, {len(group)} {said}", points(each)])
        rows[-1] += [p_text(float(each.p_value)), ""]
    print(f"Differences at {largest:,} tokens, {len(seeds)} training{'s' * (len(seeds) > 1)} a cell.\n")
    print_table(["difference", "points, 95 %", "p", "p (Holm, H1 to H4)"], rows)
    # Of these seeds smaller budgets may be missing yet.
    own = [cell for cell in cells if cell.seed in seeds]
    results = read_study(study.study, own, [cell.name for cell in own if not is_done(cell, configs[cell.target])])
    print_curves(results, study.budgets)
    if options.plot:
        write_text(options.plot, figure(results, len(seeds)))
    sys.exit(len(seeds) < len(study.seeds))


def print_curves(results: StudyResults, budgets: list[int]) -> None:
    """Print each curve's accuracies, and its law."""
    rows = []
    for curve in results.curves:
        mix, generator = curve.name.split(", ")
        means = [accuracy_text(each.mean, each.low, each.high) for each in curve.means.values()] or [""] * len(budgets)
        law = ["", ""] if curve.law is None else [points(curve.law.slope), points(curve.law.bend)]
        # Documents are the same whatever the questions are about.
        rows.append([mix, "" if mix == "documents" else ABOUT[generator], *means, *law])
    print_table(["mix", "", *map(budget_name, budgets), "points a doubling", "change of that a doubling"], rows)
    for reference in results.reference.values():
        print(f"base + RAG: {accuracy_text(reference.mean, reference.low, reference.high)}\n")


def figure(results: StudyResults, trainings: int) -> str:
    """Accuracy over tokens of each mix, as far as it is done, with what the questions are about in a panel each."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(7.5, 4.0))
    curves = {curve.name: curve for curve in results.curves}
    for axes, (generator, said) in zip(picture.subplots(1, 2, sharey=True), ABOUT.items(), strict=True):
        for place, (mix, color) in enumerate(COLORS.items()):
            curve = curves[f"{mix}, {ALL if mix == 'documents' else generator}"]
            aside = [tokens * 2 ** (0.06 * (place - 1.5)) for tokens in curve.means]  # so that no dot hides another
            draw_means(axes, aside, list(curve.means.values()), color, mix)
        for reference in results.reference.values():
            axes.axhline(reference.mean * 100, color="black", linestyle=":", linewidth=1, label="base + RAG")
        over_tokens(axes, list(curve.points), budget_name)
        axes.set_title(said, loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    first = picture.axes[0]
    first.set_ylabel(f"closed-book accuracy, %, {trainings} training{'s' * (trainings > 1)} each", fontsize=8)
    first.legend(frameon=False, fontsize=8)
    return svg_of(picture)


if __name__ == "__main__":
    main()
