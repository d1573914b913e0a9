"""Read the results of all arms into a table and `<run>/report.html`."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader

from smt_plugin.benchmarks.find import official_of
from smt_plugin.config import RunFile
from smt_plugin.evaluation.arms import ARMS, split_arm
from smt_plugin.evaluation.intervals import Estimate
from smt_plugin.evaluation.leaks import dropped_from_mix, read_leaks
from smt_plugin.evaluation.retention import Change
from smt_plugin.evaluation.tune import read_tuned
from smt_plugin.files import read_json, write_json
from smt_plugin.mixing.manifest import MANIFEST_FILE, read_manifest
from smt_plugin.records import generated_folders
from smt_plugin.training.trainings import trainings_of

if TYPE_CHECKING:
    from rich.table import Table
from smt_plugin.report.plots import plot, scaling_plot
from smt_plugin.report.results import REFERENCE, ArmResult, arm_name

# Our choice: where half the answers cannot be read, the number is about their form.
_MANY_UNPARSED = 0.5


COLUMNS = (
    "arm",
    "accuracy",
    "95 % interval",
    "questions (documents)",
    "less base + RAG, paired",
    "p",
    "n",
    "unparsed",
    "without leaks",
    "tokens in / out",
    "seconds",
)


RETENTION_COLUMNS = ("task", "model", "metric", "questions", "before", "after", "after less before, paired", "p")


def verdicts(results: list[ArmResult]) -> list[str]:
    """Answer for each trained arm whether training beat retrieval, by the paired interval."""
    sentences = []
    for result in results:
        difference = result.difference
        if difference is None or not ARMS[split_arm(result.arm)[0]][0]:
            continue
        answer = "Yes" if difference.low > 0 else "No" if difference.high < 0 else "Not shown"
        place = f"{abs(difference.mean) * 100:.1f} points {'above' if difference.mean > 0 else 'below'}"
        interval = f"{difference.low * 100:+.1f} to {difference.high * 100:+.1f}"
        sentences.append(f"{answer}: {arm_name(result.arm)}, is {place} base + RAG (95 % interval {interval}).")
    return sentences


def doubts(results: list[ArmResult], run: Path) -> list[str]:
    """Name what makes an arm's number say less than it seems to: prompts that were cut, answers without an option."""
    sentences = []
    for result in results:
        if result.cut:
            questions = result.accuracy.questions if result.accuracy else 0
            sentences.append(
                f"{arm_name(result.arm)}: {result.cut:,} of {questions:,} prompts were longer than the model's "
                "context and lost their beginning; give a model of a longer context, or leave the arm out"
            )
        if result.unparsed is not None and result.unparsed >= _MANY_UNPARSED:
            sentences.append(
                f"{arm_name(result.arm)}: {result.unparsed:.0%} of the answers state none of the options, and count "
                f"as wrong; read some in {run / 'results' / result.arm}"
            )
    return sentences


def tables(results: list[ArmResult]) -> "list[Table]":
    """Return the results as two tables for a terminal of 80 columns: what was scored, and how; a missing arm says so.

    `report.html` has all of it in one.
    """
    rows = rows_of(results)
    scores = _table("Accuracy, with 95 % intervals clustered by document")
    scores.caption = "The intervals leave out what training again with another seed would change."
    scores.caption_justify = "left"
    for column in ("arm", "accuracy", "less base + RAG, paired", "p"):
        scores.add_column(column, justify="left" if column == "arm" else "right", no_wrap=column != "arm")
    for result, (arm, _, _, _, difference, p_value, *_) in zip(results, rows, strict=True):
        scores.add_row(arm, _interval(result.accuracy) if result.accuracy else "missing", difference, p_value)
    details = _table("How it was scored")
    places = [COLUMNS.index(column) for column in ("questions (documents)", "n", "unparsed")]
    places += [COLUMNS.index("without leaks")] * any(result.without_leaks for result in results)
    places += [COLUMNS.index(column) for column in ("tokens in / out", "seconds")]
    for place in (0, *places):
        details.add_column(COLUMNS[place], justify="left" if place == 0 else "right", no_wrap=place == 0)
    for result, cells in zip(results, rows, strict=True):
        if result.accuracy is not None:
            details.add_row(*(cells[place] for place in (0, *places)))
    return [scores, details]


def _table(title: str) -> "Table":
    from rich import box
    from rich.table import Table

    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))


def rows_of(results: list[ArmResult]) -> list[list[str]]:
    """Return the table's cells as text."""
    return [_cells(result) for result in results]


def _cells(result: ArmResult) -> list[str]:
    name = arm_name(result.arm)
    accuracy, difference, unparsed = result.accuracy, result.difference, result.unparsed
    if accuracy is None or unparsed is None:
        return [name, "missing", *[""] * (len(COLUMNS) - 2)]
    cells = [
        name,
        f"{accuracy.mean:.1%}",
        f"{accuracy.low:.1%} to {accuracy.high:.1%}",
        f"{accuracy.questions} ({accuracy.documents})",
    ]
    if difference is None:
        cells += ["reference" if result.arm == REFERENCE else "no base + RAG", ""]
    else:
        cells += [_difference(difference), _p_value(difference)]
    clean = result.without_leaks
    tokens = "not known"
    if result.prompt_tokens is not None:
        tokens = f"{result.prompt_tokens:,.0f} / {result.answer_tokens:,.0f}"
    return [
        *cells,
        str(result.n),
        f"{unparsed:.1%}",
        _interval(clean) if clean else "",
        tokens,
        f"{result.seconds:,.0f}" if result.seconds is not None else "",
    ]


def retention_rows(changes: list[Change]) -> list[list[str]]:
    """Return the cells of the table of what was forgotten."""
    return [
        [
            change.task,
            change.model,
            change.metric,
            str(change.before.questions),
            f"{change.before.mean:.1%}",
            f"{change.after.mean:.1%}",
            _difference(change.difference),
            _p_value(change.difference),
        ]
        for change in changes
    ]


def retention_table(changes: list[Change]) -> "Table":
    """Return what was forgotten as a table for the terminal."""
    shown = _table("What was forgotten: lm-eval's own tasks before and after training")
    for column in RETENTION_COLUMNS:
        shown.add_column(column, justify="left" if column == "task" else "right")
    for cells in retention_rows(changes):
        shown.add_row(*cells)
    return shown


def _difference(difference: Estimate) -> str:
    return f"{difference.mean * 100:+.1f} ({difference.low * 100:+.1f} to {difference.high * 100:+.1f})"


def _interval(accuracy: Estimate) -> str:
    return f"{accuracy.mean:.1%} ({accuracy.low * 100:.1f} to {accuracy.high * 100:.1f})"


def _p_value(difference: Estimate) -> str:
    return f"{difference.p_value:.3f}" if difference.p_value >= 0.001 else "< 0.001"


def write_report(
    run: Path,
    results: list[ArmResult],
    facts: dict[str, str],
    changes: Sequence[Change] = (),
    outdated: Sequence[str] = (),
) -> Path:
    """Write `report.html` (self-contained) and `report.json` into the run folder and return the former's path.

    Args:
        facts: name -> value of what a reader should know about the run, shown above the table.
        changes: what `smt retention` found, shown below it.
        outdated: arms whose settings, model, data or tasks have changed since; `smt card` names them.
    """
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    rows = rows_of(results)
    methods = sorted({result.accuracy.method for result in results if result.accuracy})
    html = environment.get_template("report.html.jinja").render(
        facts=facts,
        columns=COLUMNS,
        rows=rows,
        verdicts=verdicts(results),
        doubts=doubts(results, run),
        plot=plot(results),
        scaling=scaling_plot(results),
        methods=methods,
        retention_columns=RETENTION_COLUMNS,
        retention_rows=retention_rows(list(changes)),
    )
    path = run / "report.html"
    path.write_text(html, encoding="utf-8")
    data = {
        "facts": facts,
        "arms": [asdict(result) for result in results],
        "outdated": list(outdated),
        "retention": [asdict(change) for change in changes],
    }
    write_json(run / "report.json", data)
    return path


def run_facts(run_file: RunFile) -> dict[str, str]:
    """Return what a reader of the report should know: models, budgets and the mix."""
    facts = {"run": run_file.run.name, "corpus": run_file.corpus.name, "training": run_file.train.config}
    official = official_of(run_file.evaluate.benchmark) if run_file.evaluate else None
    if official is not None:
        facts["benchmark"] = f"{official.source}; licence: {official.licence}"
    generated: dict[str, Counter[str]] = defaultdict(Counter)
    for folder in generated_folders(run_file.run):
        if (folder / "generate.json").is_file():
            for name, count in read_json(folder / "generate.json", "smt generate", "methods")["methods"].items():
                generated[name].update(tokens=count["tokens"], records=count["records"])
    for name, total in generated.items():
        facts[name] = f"{total['tokens']:,} tokens in {total['records']:,} records"
    for training in trainings_of(run_file.run, run_file.mix.budgets):
        if (training.mix / MANIFEST_FILE).is_file():
            mix = read_manifest(training.mix / MANIFEST_FILE)
            shares = ", ".join(f"{name} {source['tokens']:,}" for name, source in mix["sources"].items())
            name = f"trained on, {training.budget}" if training.budget else "trained on"
            facts[name] = f"{mix['tokens']:,} tokens: {shares}"
    if tuned := read_tuned(run_file.run):
        facts["retrieval"] = (
            f"tuned by {tuned['by']} on {tuned['questions']:,} questions about {len(tuned['held_out'])} documents "
            "(the first fifth by title), which left all numbers below; chosen: "
            + ", ".join(f"{name} {value}" for name, value in tuned["chosen"].items())
        )
    if dropped := dropped_from_mix(run_file.run):
        facts["left out of the mix"] = f"{dropped:,} records that leak evaluation questions"
    if (run_file.run / "leaks.json").is_file():
        facts["leaks"] = leaks_text(run_file.run, run_file.mix.sources)
    return facts


def leaks_text(run: Path, sources: Mapping[str, Path] | None = None) -> str:
    """What `smt leaks` found in a run's records and the mix's from elsewhere, as a sentence."""
    leaks = read_leaks(run, sources)
    if leaks is None:
        return "not known: the records have changed since; run `smt leaks` again"
    share = len(leaks["leaked"]) / leaks["questions"]
    return (
        f"{len(leaks['leaked']):,} of {leaks['questions']:,} evaluation questions ({share:.1%}) are nearly asked "
        f"({len(leaks['asked']):,}), asked in other words ({len(leaks['alike']):,}) or quoted "
        f"({len(leaks['quoted']):,}) by {leaks['leaking_records']:,} synthetic records"
    )
