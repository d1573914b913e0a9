"""When does mixing help? The tests of docs/study-mechanism.md.

    smt study run examples/studies/mechanism.yaml --jobs 2
    smt study report examples/studies/mechanism.yaml        # accuracies, laws, figure
    python -m benchmarks.mechanism examples/studies/mechanism.yaml

Reads what the study left and runs nothing. Differences are those of accuracies at the largest budget, means over the
seeds' trainings, paired by question and seed, clustered by document; they hold the variance of training where there is
more than one seed (`smt_plugin/study/laws.py`). Seeds of which a cell is missing are left out, and named; ends with
status 1 then.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.wrong_records import Answers, curve_of, is_on_one_fact, points, print_table, read_answers
from smt_plugin.config import read_study_file
from smt_plugin.corpus import read_documents
from smt_plugin.microworld import grammar
from smt_plugin.microworld.scripted import salient
from smt_plugin.report.sections import p_text
from smt_plugin.study import laws
from smt_plugin.study.cells import cells_of

ALL, SOME = "all-facts", "two-in-five"


def asked_questions(archive: Path, coverage: float) -> set[str]:
    """The ids of the questions on one fact that training asks about, too, at some coverage."""
    asked = set()
    for document in read_documents(archive):
        facts = [fact for each in grammar.sentences(document.text) if (fact := grammar.parse_statement(each))]
        asked |= {f"{document.id}-{fact.attribute}" for fact in salient(facts, coverage)}
    return asked


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study_file", type=Path)
    options = parser.parse_args()
    study, run_file = read_study_file(options.study_file.absolute())
    largest = max(study.budgets)
    found: dict[tuple[str, str], dict[int | None, Answers]] = {}
    missing: dict[int | None, list[str]] = {}
    for cell in cells_of(study, run_file):
        if cell.budget == largest:
            answers = read_answers(cell)
            if answers is None:
                missing.setdefault(cell.seed, []).append(cell.name)
            else:
                found.setdefault((cell.generator, cell.mix), {})[cell.seed] = answers
    seeds = [seed for seed in study.seeds if seed not in missing]
    for seed, names in missing.items():
        print(f"seed {seed} is left out, since these cells are missing: {', '.join(names)}")
    if not seeds:
        sys.exit(1)

    def difference(
        generator: str, mix: str, other: str, is_asked: Callable[[str], bool] = lambda _: True
    ) -> laws.Bounds:
        one, two = ([found[generator, each][seed] for seed in seeds] for each in (mix, other))
        return laws.difference(curve_of(one, is_asked), curve_of(two, is_asked), 1)

    tests = {
        "H1: all facts, mixed less questions": difference(ALL, "mixed", "questions"),
        "H2: two in five, mixed less questions": difference(SOME, "mixed", "questions"),
        "H3: two in five, focal less mixed": difference(SOME, "focal", "mixed"),
        "H4: all facts, focal less mixed": difference(ALL, "focal", "mixed"),
    }
    corrected = laws.holm([float(each.p_value) for each in tests.values()])
    rows = [
        [name, points(each), p_text(float(each.p_value)), p_text(holm)]
        for (name, each), holm in zip(tests.items(), corrected, strict=True)
    ]
    asked = asked_questions(run_file.corpus, 0.4)
    one_fact = {question for question in next(iter(found[SOME, "mixed"].values())) if is_on_one_fact(question)}
    for said, group in (("asked about", one_fact & asked), ("never asked about", one_fact - asked)):
        each = difference(SOME, "mixed", "questions", group.__contains__)
        rows.append([f"H6: two in five, mixed less questions, {len(group)} {said}", points(each)])
        rows[-1] += [p_text(float(each.p_value)), ""]
    print(f"At {largest:,} tokens, {len(seeds)} training{'s' * (len(seeds) > 1)} a cell.\n")
    print_table(["difference", "points, 95 %", "p", "p (Holm, H1 to H4)"], rows)
    sys.exit(bool(missing))


if __name__ == "__main__":
    main()
