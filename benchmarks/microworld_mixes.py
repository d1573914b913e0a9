"""Questions, documents, or both? Four mixes at equal tokens in the microworld, trained and asked closed-book.

    python benchmarks/microworld_mixes.py --folder mixes --plot docs/microworld.svg

For every seed: an invented archive, records of three methods, base closed-book and base + RAG; then for every budget
and mix `smt mix`, `axolotl train` and `smt evaluate`, with the quickstart's settings. A training stands in a folder
of its own, and what is done is skipped, so the command can be stopped and given again. The tables are printed at the
end, and hold the seeds that are complete.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import yaml

from smt_plugin.cli.quickstart import RUN_FILE, run_command
from smt_plugin.config import parse_tokens
from smt_plugin.evaluation.arm_results import read_arm
from smt_plugin.evaluation.intervals import Estimate, estimate
from smt_plugin.microworld import archive
from smt_plugin.mixing.manifest import budget_name

MIXES = {
    "questions": {"synthetic_qa": 1},
    "documents": {"active_reading": 1},
    "mixed": {"synthetic_qa": 1, "active_reading": 1},
    "focal": {"synthetic_qa": 1, "focal_rewrite": 1},
}
METHODS = ("synthetic_qa", "active_reading", "focal_rewrite")
# Used for no choice: the base model was chosen by seed 1001, the quickstart's sizes and these budgets by seed 1.
SEEDS = (7, 11, 13)
# The largest is the quickstart's. More is generated than mixed: a fifth of the question-answer pairs are duplicates.
BUDGETS = (40_000, 80_000, 160_000)
GENERATED_PER_TOKEN = 2.5
REFERENCES = {"base": "base, closed-book", "base_rag": "base + RAG"}
COLORS = {"questions": "#3b6ea5", "documents": "#7a7a7a", "mixed": "#b5532a", "focal": "#2f7d4f"}

Answers = dict[str, tuple[float, str]]  # question -> accuracy, document; both named with their seed


@dataclass(frozen=True)
class Training:
    """One trained model: `answers` as above, token counts from the mix and from what axolotl made of it."""

    seed: int
    budget: int
    mix: str
    record_tokens: int
    tokens: int
    loss_tokens: int
    epochs: int
    seconds: float
    unparsed: float
    answers: Answers


def run_file(run: str, budget: int, **changes: Any) -> str:
    """The quickstart's run file with only the run's folder, what is generated, the mix and the arms changed."""
    values = yaml.safe_load(RUN_FILE)
    values["run"] = run
    values["methods"] = {method: {"tokens": round(budget * GENERATED_PER_TOKEN)} for method in METHODS}
    for section, entries in changes.items():
        values[section] = {**values[section], **entries}
    text: str = yaml.safe_dump(values, sort_keys=False)
    return text


def write_run_file(path: Path, text: str) -> None:
    """Write a run file; results of other settings are not to be taken for those of these."""
    if path.exists() and path.read_text() != text:
        raise SystemExit(f"{path} is of other settings or another version; use another --folder")
    path.write_text(text)


def prepare(folder: Path, seed: int, largest: int) -> None:
    """Make one seed's archive and records, and ask the base model."""
    if not (folder / "archive" / "replay.jsonl").exists():
        archive.write(folder / "archive", seed)
    write_run_file(folder / "base.yaml", run_file("base", largest, evaluate={"arms": list(REFERENCES)}))
    if all(read_arm(folder / "base" / "results" / arm) for arm in REFERENCES):
        return
    run_command(["smt", "generate", "base.yaml"], folder)
    run_command(["smt", "evaluate", "base.yaml"], folder)


def train(folder: Path, mix: str, budget: int, largest: int) -> None:
    """Mix, train and evaluate once, leaving out what is done."""
    name = f"{mix}-{budget_name(budget)}"
    sources = {method: f"base/records/{method}.jsonl" for method in MIXES[mix]}
    settings = {"shares": MIXES[mix], "sources": sources, "tokens": budget}
    write_run_file(folder / f"{name}.yaml", run_file(name, largest, mix=settings, evaluate={"arms": ["trained"]}))
    done = folder / name / "trained.json"
    if not done.exists():
        run_command(["smt", "mix", f"{name}.yaml"], folder)  # fails where a source runs dry
        started = time.monotonic()
        run_command(["axolotl", "train", f"{name}/axolotl.yaml", "--launcher", "python"], folder)
        done.write_bytes(orjson.dumps({"seconds": time.monotonic() - started}))
    if not read_arm(folder / name / "results" / "trained"):
        run_command(["smt", "evaluate", f"{name}.yaml"], folder)


def answers_of(results: Path, seed: int) -> Answers | None:
    """An arm's accuracies, or None where it is not done."""
    rows = read_arm(results)
    return rows and {f"{seed}/{row['question_id']}": (row["acc"], f"{seed}/{row['doc_id']}") for row in rows}


def read_training(folder: Path, seed: int, budget: int, mix: str) -> Training | None:
    """Read what `train` left, or None where it did not end."""
    import datasets

    run = folder / f"{mix}-{budget_name(budget)}"
    rows = read_arm(run / "results" / "trained")
    answers = answers_of(run / "results" / "trained", seed)
    if rows is None or answers is None:
        return None
    manifest = orjson.loads((run / "mix" / "manifest.json").read_bytes())
    # A training that was stopped and begun anew may have left an earlier one.
    prepared = max((run / "prepared" / manifest["content_hash"][:16]).glob("*/"), key=lambda path: path.stat().st_mtime)
    labels = datasets.load_from_disk(str(prepared))["labels"]
    return Training(
        seed,
        budget,
        mix,
        manifest["record_tokens"],
        manifest["tokens"],
        sum(label != -100 for row in labels for label in row),
        yaml.safe_load((run / "axolotl.yaml").read_text())["num_epochs"],
        orjson.loads((run / "trained.json").read_bytes())["seconds"],
        sum(row["unparsed"] for row in rows) / len(rows),
        answers,
    )


def of_answers(*arms: Answers, combine: Callable[..., float] = lambda value: value) -> Estimate:
    """Estimate a combination of arms' accuracies on the same questions, clustered by document."""
    first = arms[0]
    if any(set(arm) != set(first) for arm in arms):
        raise SystemExit("arms answered different questions")
    values = [combine(*(arm[question][0] for arm in arms)) for question in first]
    return estimate(values, [document for _, document in first.values()], difference=len(arms) > 1)


def less(a: float, b: float) -> float:
    """The difference of two arms on one question."""
    return a - b


def by_seed(answers: Answers, seed: int) -> Answers:
    """The answers of one seed."""
    return {question: value for question, value in answers.items() if question.startswith(f"{seed}/")}


def seed_interval(means: list[float]) -> tuple[float, float, float]:
    """A t interval over the seeds' means and the p-value of "it is 0"; wide, with as few seeds as here."""
    from scipy import stats

    if len(means) < 2 or np.ptp(means) < 1e-9:
        return float("nan"), float("nan"), float("nan")
    test = stats.ttest_1samp(means, 0.0)
    interval = test.confidence_interval(0.95)
    return float(interval.low), float(interval.high), float(test.pvalue)


def points(value: Estimate) -> str:
    """A difference in points with its interval."""
    return f"{value.mean * 100:+.1f} ({value.low * 100:+.1f} to {value.high * 100:+.1f})"


def p_text(p_value: float) -> str:
    """A p-value as one prints it."""
    return "" if np.isnan(p_value) else f"{p_value:.3f}" if p_value >= 0.001 else "< 0.001"


def table(*rows: list[str]) -> str:
    """A Markdown table; the first row is its head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], f"|{' --- |' * len(rows[0])}", *lines[1:], ""])


def joined(trainings: list[Training], mix: str, budget: int) -> Answers:
    """All seeds' answers of a mix at a budget."""
    return {q: value for t in trainings if (t.mix, t.budget) == (mix, budget) for q, value in t.answers.items()}


def summary(trainings: list[Training], base: dict[str, Answers], seeds: list[int], budgets: list[int]) -> str:
    """Mean accuracy over the seeds: base, then every mix at every budget."""
    head = ["budget", "mix", "accuracy", "95 %, documents", "95 %, seeds"]
    rows = [head + [f"seed {seed}" for seed in seeds] + ["vs base + RAG, paired", "p"]]
    arms = [("", name, base[arm]) for arm, name in REFERENCES.items()]
    arms += [(budget_name(budget), mix, joined(trainings, mix, budget)) for budget in budgets for mix in MIXES]
    for budget, name, answers in arms:
        all_seeds = of_answers(answers)
        means = [of_answers(by_seed(answers, seed)).mean for seed in seeds]
        low, high, _ = seed_interval(means)
        difference = of_answers(answers, base["base_rag"], combine=less)
        is_reference = answers == base["base_rag"]
        rows.append(
            [
                budget,
                name,
                f"{all_seeds.mean:.1%}",
                f"{all_seeds.low:.1%} to {all_seeds.high:.1%}",
                "" if np.isnan(low) else f"{low:.1%} to {high:.1%}",
                *(f"{mean:.1%}" for mean in means),
                "reference" if is_reference else points(difference),
                "" if is_reference else p_text(difference.p_value),
            ]
        )
    return table(*rows)


def differences(trainings: list[Training], seeds: list[int], budgets: list[int]) -> str:
    """Every two mixes at every budget, paired, with p-values before and after Holm's correction for all of them."""
    from statsmodels.stats.multitest import multipletests

    pairs = [(budget, b, a) for budget in budgets for a, b in combinations(MIXES, 2)]
    arms = [(joined(trainings, a, budget), joined(trainings, b, budget)) for budget, a, b in pairs]
    found = [of_answers(a, b, combine=less) for a, b in arms]
    holm = multipletests([value.p_value for value in found], method="holm")[1]
    head = ["budget", "mix less mix", "points, 95 %, documents", "p", "p (Holm)"]
    rows = [head + [f"seed {seed}" for seed in seeds] + ["p, seeds"]]
    for (budget, name, other), (a, b), value, corrected in zip(pairs, arms, found, holm, strict=True):
        each = [of_answers(by_seed(a, seed), by_seed(b, seed), combine=less).mean for seed in seeds]
        rows.append(
            [
                budget_name(budget),
                f"{name} - {other}",
                points(value),
                p_text(value.p_value),
                p_text(float(corrected)),
                *(f"{mean * 100:+.1f}" for mean in each),
                p_text(seed_interval(each)[2]),
            ]
        )
    return table(*rows)


def slopes(trainings: list[Training], seeds: list[int], budgets: list[int]) -> str:
    """Points of accuracy for each doubling of the tokens: the slope of a straight line through the budgets."""
    x = np.log2(budgets)
    weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()

    def slope(*accuracies: float) -> float:
        return float(weights @ np.array(accuracies))

    def slopes_differ(*accuracies: float) -> float:
        return slope(*accuracies[: len(budgets)]) - slope(*accuracies[len(budgets) :])

    rows = [["mix", "points a doubling, 95 %, documents", *(f"seed {seed}" for seed in seeds)]]
    arms = {mix: [joined(trainings, mix, budget) for budget in budgets] for mix in MIXES}
    compared = [(mix, arms[mix], slope) for mix in MIXES]
    for mix, other in (("mixed", "questions"), ("mixed", "documents"), ("focal", "mixed")):
        compared.append((f"{mix} - {other}", arms[mix] + arms[other], slopes_differ))
    for name, answers, combine in compared:
        each = [of_answers(*(by_seed(arm, seed) for arm in answers), combine=combine).mean for seed in seeds]
        cells = [f"{mean * 100:+.1f}" for mean in each]
        rows.append([name, points(of_answers(*answers, combine=combine)), *cells])
    return table(*rows)


def every_training(trainings: list[Training]) -> str:
    """One row a training."""
    names = ["seed", "budget", "mix", "tokens of records", "all tokens", "trained on", "of these with loss"]
    rows = [[*names, "accuracy", "95 %, documents", "unparsed", "seconds of training"]]
    for t in trainings:
        accuracy = of_answers(t.answers)
        counts = (t.record_tokens, t.tokens, t.tokens * t.epochs, t.loss_tokens * t.epochs)
        rows.append(
            [
                str(t.seed),
                budget_name(t.budget),
                t.mix,
                *(f"{count:,}" for count in counts),
                f"{accuracy.mean:.1%}",
                f"{accuracy.low:.1%} to {accuracy.high:.1%}",
                f"{t.unparsed:.1%}",
                f"{t.seconds:.0f}",
            ]
        )
    return table(*rows)


def draw(path: Path, trainings: list[Training], base: dict[str, Answers], seeds: list[int], budgets: list[int]) -> None:
    """Draw accuracy over budget: means with their intervals over documents, and a pale dot for every seed."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "smt"
    figure = Figure(figsize=(7.5, 4.5))
    axes = figure.add_subplot()
    for place, mix in enumerate(MIXES):
        x = np.array(budgets) * 2 ** (0.06 * (place - 1.5))  # side by side, so that no bar hides another
        arms = [joined(trainings, mix, budget) for budget in budgets]
        found = [of_answers(arm) for arm in arms]
        mean = np.array([value.mean for value in found])
        bars = [mean - [value.low for value in found], [value.high for value in found] - mean]
        axes.errorbar(x, mean * 100, yerr=np.array(bars) * 100, fmt="o-", capsize=4, color=COLORS[mix], label=mix)
        for seed in seeds:
            each = [of_answers(by_seed(arm, seed)).mean * 100 for arm in arms]
            axes.plot(x, each, ".", color=COLORS[mix], alpha=0.4)
    for arm, name in REFERENCES.items():
        mean_of_base = of_answers(base[arm]).mean * 100
        axes.axhline(mean_of_base, color="black", linestyle=":", linewidth=1)
        axes.annotate(name, (0.01, mean_of_base), xycoords=("axes fraction", "data"), va="bottom", fontsize=8)
    axes.set_xscale("log", base=2)
    axes.set_xticks(budgets, [budget_name(budget) for budget in budgets])
    axes.set_xlabel("unique tokens of records (trained on five times)")
    axes.set_ylabel("closed-book accuracy, %")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})


def main() -> None:
    """Run what is missing, then print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for everything that is made; kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--budgets", type=parse_tokens, nargs="+", default=BUDGETS, help="tokens of records")
    parser.add_argument("--plot", type=Path, help="where to draw the curve, as SVG")
    parser.add_argument("--read", action="store_true", help="run nothing; tables of the seeds that are complete")
    arguments = parser.parse_args()
    budgets, root = sorted(arguments.budgets), arguments.folder.absolute()
    trainings: list[Training] = []
    seeds: list[int] = []
    base: dict[str, Answers] = {arm: {} for arm in REFERENCES}
    for seed in arguments.seeds:
        folder = root / f"seed-{seed}"
        if not arguments.read:
            prepare(folder, seed, budgets[-1])
            for budget in budgets:
                for mix in MIXES:
                    train(folder, mix, budget, budgets[-1])
        read = [read_training(folder, seed, budget, mix) for budget in budgets for mix in MIXES]
        complete = [training for training in read if training is not None]
        if len(complete) < len(read):
            print(f"seed {seed}: {len(complete)} of {len(read)} trainings are done; left out\n")
            continue
        seeds.append(seed)
        trainings += complete
        for arm in REFERENCES:
            base[arm] |= answers_of(folder / "base" / "results" / arm, seed) or {}
    if not seeds:
        raise SystemExit("no seed is complete")
    print(summary(trainings, base, seeds, budgets))
    print(differences(trainings, seeds, budgets))
    if len(budgets) > 1:
        print(slopes(trainings, seeds, budgets))
    print(every_training(trainings))
    if arguments.plot:
        draw(arguments.plot, trainings, base, seeds, budgets)


if __name__ == "__main__":
    main()
