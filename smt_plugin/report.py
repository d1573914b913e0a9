"""Read the results of all arms into a table and `<run>/report.html`."""

import io
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader

from smt_plugin.config import RunFile
from smt_plugin.errors import BadInput, require
from smt_plugin.evaluate import ARMS, arms_of, read_arm, read_seconds, read_tokens, split_arm
from smt_plugin.intervals import Estimate, estimate
from smt_plugin.jsonl import read_json, write_json
from smt_plugin.leaks import dropped_from_mix, question_hash, read_leaks
from smt_plugin.mix import MANIFEST_FILE, read_manifest
from smt_plugin.official_files import OFFICIAL
from smt_plugin.records import generated_folders
from smt_plugin.retention import Change
from smt_plugin.training_data import Training, trainings_of
from smt_plugin.tune import read_tuned

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

REFERENCE = "base_rag"
# Our choice: where half the answers cannot be read, the number is about their form.
_MANY_UNPARSED = 0.5
ARM_NAMES = {
    "base": "base, closed-book",
    "base_rag": "base + RAG",
    "base_full": "base + full document",
    "trained": "trained, closed-book",
    "trained_rag": "trained + RAG",
    "trained_full": "trained + full document",
}


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


@dataclass(frozen=True, slots=True)
class ArmResult:
    """One arm of the table; everything but the name is None where the arm is missing.

    Attributes:
        arm: of several budgets' trainings with the budget, as in `trained-10M`.
        accuracy: mean over questions of the mean over samples, 0 to 1.
        difference: accuracy less that of base + RAG on the same questions.
        unparsed: share of samples that stated no answer, which count as wrong.
        without_leaks: accuracy on the questions that no synthetic record nearly asks or quotes; None unless
            `smt leaks` found some.
        n: samples a question.
        prompt_tokens: mean of a question's prompt, in the model's tokens.
        answer_tokens: mean of a sampled answer.
        cut: how many prompts lost their beginning, since they did not fit into the model's context.
        seconds: of the whole lm_eval run, loading included.
        mix_tokens: of the mix that a trained arm of one of several budgets was trained on.
    """

    arm: str
    accuracy: Estimate | None = None
    difference: Estimate | None = None
    unparsed: float | None = None
    without_leaks: Estimate | None = None
    n: int | None = None
    prompt_tokens: float | None = None
    answer_tokens: float | None = None
    cut: int = 0
    seconds: float | None = None
    mix_tokens: int | None = None


def arm_results(
    run: Path,
    names: Sequence[str],
    trainings: Sequence[Training] = (),
    sources: Mapping[str, Path] | None = None,
) -> list[ArmResult]:
    """Read the arms of a run in the order given, without the documents that retrieval was tuned on.

    Args:
        trainings: default: the run's only one.
        sources: the mix's records from elsewhere, in which leaks were looked for, too.

    Raises:
        BadInput: an unknown arm, no arm is there, two arms answered different questions, or other ones than those in
            which leaks were looked for, or an arm has answers about fewer than two documents.
    """
    arms = arms_of(names, trainings or [Training(run)])
    tuned_on = set((read_tuned(run) or {"held_out": []})["held_out"])
    rows = {arm: _rows_less(tuned_on, read_arm(run / "results" / arm)) for arm in arms}
    if all(answered is None for answered in rows.values()):
        raise BadInput(f"{run / 'results'} holds no finished arm; run `smt evaluate` first.")
    reference = {row["question_id"]: row for row in rows.get(REFERENCE) or []}
    leaks = read_leaks(run, sources)
    for arm, answered in rows.items():
        if leaks and any(
            leaks["question_hashes"].get(row["question_id"]) != question_hash(row["question"]) for row in answered or ()
        ):
            raise BadInput(
                f"the arm {arm} answered other questions than `smt leaks` looked for; run `smt evaluate` and `smt "
                "leaks` again."
            )
        documents = {row["doc_id"] for row in answered or ()}
        if answered is not None and len(documents) < 2:
            less = f" other than the {len(tuned_on)} that retrieval was tuned on" if tuned_on else ""
            raise BadInput(
                f"the arm {arm} answered questions about {len(documents)} document(s){less}, and an interval needs "
                "two; raise or remove evaluate.limit, or add questions about others, and run `smt evaluate` again."
            )
    leaked = set(leaks["leaked"] if leaks else ())
    return [
        replace(_arm_result(arm, rows[arm], reference, leaked, run / "results" / arm), mix_tokens=_mix_tokens(training))
        for arm, training in arms.items()
    ]


def _mix_tokens(training: Training | None) -> int | None:
    """The size of one of several mixes; None of the base model, of a run's only mix, and where it is not there."""
    path = training.mix / MANIFEST_FILE if training is not None and training.budget else None
    return int(read_manifest(path)["tokens"]) if path is not None and path.is_file() else None


def _rows_less(doc_ids: set[str], rows: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    return None if rows is None else [row for row in rows if row["doc_id"] not in doc_ids]


def _arm_result(
    arm: str,
    rows: list[dict[str, Any]] | None,
    reference: dict[str, dict[str, Any]],
    leaked: set[str],
    folder: Path,
) -> ArmResult:
    if not rows:
        return ArmResult(arm)
    doc_ids = [row["doc_id"] for row in rows]
    difference = None
    if reference and arm != REFERENCE:
        if {row["question_id"] for row in rows} != set(reference):
            raise BadInput(f"the arms {arm} and {REFERENCE} answered different questions; run `smt evaluate` anew.")
        difference = estimate([row["acc"] - reference[row["question_id"]]["acc"] for row in rows], doc_ids)
    prompt_tokens, answer_tokens, cut = None, None, 0
    if (tokens := read_tokens(folder)) and tokens["questions"]:
        prompt_tokens = tokens["prompts"] / tokens["questions"]
        answer_tokens = tokens["answers"] / tokens["samples"]
        cut = tokens.get("cut", 0)
    return ArmResult(
        arm,
        accuracy=estimate([row["acc"] for row in rows], doc_ids),
        difference=difference,
        unparsed=sum(row["unparsed"] for row in rows) / len(rows),
        without_leaks=_estimate_without(rows, leaked),
        n=max(row["n"] for row in rows),
        prompt_tokens=prompt_tokens,
        answer_tokens=answer_tokens,
        cut=cut,
        seconds=read_seconds(folder),
    )


def _estimate_without(rows: list[dict[str, Any]], leaked: set[str]) -> Estimate | None:
    """The accuracy on the other questions; None where nothing leaked, or too little is left for an interval."""
    kept = [row for row in rows if row["question_id"] not in leaked]
    if len(kept) == len(rows) or len({row["doc_id"] for row in kept}) < 2:
        return None
    return estimate([row["acc"] for row in kept], [row["doc_id"] for row in kept])


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
        sentences.append(f"{answer}: {_arm_name(result.arm)}, is {place} base + RAG (95 % interval {interval}).")
    return sentences


def doubts(results: list[ArmResult], run: Path) -> list[str]:
    """Name what makes an arm's number say less than it seems to: prompts that were cut, answers without an option."""
    sentences = []
    for result in results:
        if result.cut:
            questions = result.accuracy.questions if result.accuracy else 0
            sentences.append(
                f"{_arm_name(result.arm)}: {result.cut:,} of {questions:,} prompts were longer than the model's "
                "context and lost their beginning; give a model of a longer context, or leave the arm out"
            )
        if result.unparsed is not None and result.unparsed >= _MANY_UNPARSED:
            sentences.append(
                f"{_arm_name(result.arm)}: {result.unparsed:.0%} of the answers state none of the options, and count "
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


def _arm_name(arm: str) -> str:
    kind, budget = split_arm(arm)
    return ARM_NAMES[kind].replace("trained", f"trained on {budget}") if budget else ARM_NAMES[kind]


def _cells(result: ArmResult) -> list[str]:
    name = _arm_name(result.arm)
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
    official = OFFICIAL.get(run_file.evaluate.benchmark) if run_file.evaluate else None
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


def plot(results: list[ArmResult]) -> str:
    """Draw the arms with their intervals, base + RAG as a line across, and return the picture as SVG text."""
    require("matplotlib", "eval")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 0.6 * len(results) + 1.2))
    axes = figure.add_subplot()
    for place, result in enumerate(reversed(results)):
        color = "#b5532a" if ARMS[split_arm(result.arm)[0]][0] else "#3b6ea5"
        accuracy = result.accuracy
        if accuracy is None:
            axes.text(50, place, "missing", ha="center", va="center", color="#888888", style="italic")
            continue
        mean = accuracy.mean * 100
        errors = [[mean - accuracy.low * 100], [accuracy.high * 100 - mean]]
        axes.errorbar(mean, place, xerr=errors, fmt="o", color=color, capsize=4, markersize=7)
        number = axes.annotate(f"{mean:.1f}", (mean, place), xytext=(0, 9), textcoords="offset points", ha="center")
        # On white, so that the line does not strike the number through.
        number.set(color=color, bbox={"fc": "white", "ec": "white", "pad": 1})
        if result.arm == REFERENCE:
            axes.axvline(mean, color=color, linestyle=":", linewidth=1, zorder=0)
    axes.set_yticks(range(len(results)), [_arm_name(result.arm) for result in reversed(results)])
    axes.set_ylim(-0.6, len(results) - 0.3)
    axes.set_xlim(0, 100)
    axes.set_xlabel("accuracy, %, with 95 % interval")
    axes.spines[["top", "right"]].set_visible(False)
    return _svg(figure)


def scaling_plot(results: list[ArmResult]) -> str | None:
    """Draw accuracy by tokens of the mix, base + RAG as a line across, as SVG text; None for fewer than two budgets."""
    curves: dict[str, list[tuple[int, Estimate]]] = defaultdict(list)
    for result in results:
        if result.mix_tokens is not None and result.accuracy is not None:
            curves[split_arm(result.arm)[0]].append((result.mix_tokens, result.accuracy))
    if max(map(len, curves.values()), default=0) < 2:
        return None
    require("matplotlib", "eval")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.5))
    axes = figure.add_subplot()
    for (arm, points), color in zip(curves.items(), ("#b5532a", "#5b8a3c", "#7a5195"), strict=False):
        tokens, means, below, above = zip(
            *((n, e.mean * 100, (e.mean - e.low) * 100, (e.high - e.mean) * 100) for n, e in sorted(points)),
            strict=True,
        )
        axes.errorbar(tokens, means, yerr=[below, above], fmt="o-", color=color, capsize=4, label=ARM_NAMES[arm])
    reference = next((result.accuracy for result in results if result.arm == REFERENCE), None)
    if reference is not None:
        axes.axhline(reference.mean * 100, color="#3b6ea5", linestyle=":", label=ARM_NAMES[REFERENCE])
        axes.axhspan(reference.low * 100, reference.high * 100, color="#3b6ea5", alpha=0.12, linewidth=0)
    ticks = sorted({n for points in curves.values() for n, _ in points})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{n:,}" for n in ticks])
    axes.minorticks_off()
    lowest, highest = axes.get_ylim()
    axes.set_ylim(max(lowest, 0), min(highest, 100))
    axes.set_xlabel("tokens of the mix")
    axes.set_ylabel("accuracy, %, with 95 % interval")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return _svg(figure)


def _svg(figure: "Figure") -> str:
    figure.tight_layout()
    picture = io.StringIO()
    figure.savefig(picture, format="svg", metadata={"Date": None})
    text = picture.getvalue()
    return text[text.index("<svg") :]
