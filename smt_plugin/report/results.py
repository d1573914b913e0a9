"""What is known of a run, read into values that a report is made of."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from smt_plugin.benchmarks.find import official_of
from smt_plugin.config import EvaluateSection, RunFile
from smt_plugin.errors import BadInput
from smt_plugin.evaluation.arm_results import read_arm, read_empty, read_seconds, read_tokens
from smt_plugin.evaluation.arms import ARMS, LIKELIHOOD, arms_of, is_likelihood, split_arm
from smt_plugin.evaluation.audit_results import Audit, is_outdated, read_audit
from smt_plugin.evaluation.intervals import Estimate, estimate
from smt_plugin.evaluation.leaks import dropped_from_mix, question_hash, read_leaks
from smt_plugin.evaluation.retention import Change, retention_results
from smt_plugin.evaluation.tune import read_tuned, tuned_on
from smt_plugin.generation.summary import read_generated
from smt_plugin.mixing.manifest import MANIFEST_FILE, read_manifest
from smt_plugin.records import generated_folders
from smt_plugin.report.facts import arm_facts
from smt_plugin.training.trainings import Training, trainings_of

REFERENCE = "base_rag"
READING = "base_full"
ARM_NAMES = {
    "base": "base, closed-book",
    "base_rag": "base + RAG",
    "base_full": "base + full document",
    "trained": "trained, closed-book",
    "trained_rag": "trained + RAG",
    "trained_full": "trained + full document",
}
ARM_NAMES |= {f"{arm}{LIKELIHOOD}": f"{name}, by likelihood" for arm, name in ARM_NAMES.items()}


def beside(arm: str, other: str) -> str:
    """The arm `other` of the kind of scoring that `arm` has: by answers, or by the likelihood of the options."""
    return f"{other}{LIKELIHOOD}" if is_likelihood(arm) else other


@dataclass(frozen=True, slots=True)
class ArmResult:
    """One arm of the table; everything but the name is None where the arm is missing.

    Attributes:
        arm: of several budgets' trainings with the budget, as in `trained-10M`.
        accuracy: mean over questions of the mean over samples, 0 to 1.
        difference: accuracy less that of base + RAG, scored in the same way, on the same questions.
        to_reading: of a trained arm, accuracy less that of base + full document on the same questions.
        chance: accuracy of guessing: the mean of 1 / options over the questions with options; None where none has any.
        free_form: how many questions have no options.
        unparsed: share of samples of which no answer could be read, which count as wrong.
        no_option: the part of these that state something, but none of the options.
        by_judge: share of samples whose option the judge's model read, since code could not.
        of_read: accuracy among the samples that could be read; None where none could.
        empty: answers that came back empty.
        without_leaks: accuracy on the questions that leak into no synthetic record; None unless `smt leaks` found
            some that do.
        n: samples a question.
        prompt_tokens: mean of a question's prompt, in the model's tokens.
        answer_tokens: mean of a sampled answer; 0 by likelihood.
        cut: how many prompts lost their beginning, since they did not fit into the model's context.
        cut_documents: in how many prompts documents lost their ends, so that they fit.
        seconds: of the whole lm_eval run, loading included.
        mix_tokens: of the mix that a trained arm of one of several budgets was trained on.
    """

    arm: str
    accuracy: Estimate | None = None
    difference: Estimate | None = None
    to_reading: Estimate | None = None
    chance: float | None = None
    free_form: int = 0
    unparsed: float | None = None
    no_option: float | None = None
    by_judge: float = 0.0
    of_read: float | None = None
    empty: int = 0
    without_leaks: Estimate | None = None
    n: int | None = None
    prompt_tokens: float | None = None
    answer_tokens: float | None = None
    cut: int = 0
    cut_documents: int = 0
    seconds: float | None = None
    mix_tokens: int | None = None

    @property
    def name(self) -> str:
        """What a reader calls the arm: `trained_rag-10M` is "trained on 10M + RAG"."""
        kind, budget = split_arm(self.arm)
        return ARM_NAMES[kind].replace("trained", f"trained on {budget}") if budget else ARM_NAMES[kind]

    @property
    def kind(self) -> str:
        """The arm without its budget."""
        return split_arm(self.arm)[0]

    @property
    def is_trained(self) -> bool:
        """Whether the trained model answered."""
        return ARMS[split_arm(self.arm)[0]][0]


@dataclass(slots=True)
class Faithfulness:
    """How many of a method's records were compared with their documents, and how many say what these do not.

    Attributes:
        findings: kind of what a document lacks -> records that say some.
        unchecked: what could not be compared -> records.
        rejected: records that the gate let not pass.
    """

    method: str
    records: int = 0
    checked: int = 0
    unfaithful: int = 0
    rejected: int = 0
    findings: Counter[str] = field(default_factory=Counter)
    unchecked: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class RunResults:
    """All that the report of a run is made of.

    Attributes:
        facts: name -> value of what a reader should know about the run.
        changes: what `smt retention` found; empty where it has not run through.
        faithfulness: what `smt generate` found in the records, by method.
        outdated: arms whose settings, model, mix, data or tasks have changed since they were answered.
        audit: what `smt audit` found; None where it has not run through.
        audit_outdated: whether the records have changed since.
        unready: a sentence for each trained model that is not there or not up to date.
    """

    run: Path
    arms: list[ArmResult]
    facts: dict[str, str] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    faithfulness: list[Faithfulness] = field(default_factory=list)
    outdated: list[str] = field(default_factory=list)
    unready: list[str] = field(default_factory=list)
    audit: Audit | None = None
    audit_outdated: bool = False

    @property
    def missing(self) -> list[str]:
        """The arms that have not been run, or not been finished."""
        return [result.arm for result in self.arms if result.accuracy is None]


def read_results(settings: RunFile, section: EvaluateSection, outdated: list[str]) -> RunResults:
    """Read all that the report of a run is made of.

    Args:
        section: the run file's section `evaluate`.
        outdated: arms that `smt evaluate` would run again; those of a model trained on another mix are added.

    Raises:
        BadInput: as `arm_results` and `retention_results`.
    """
    run, trainings = settings.run, trainings_of(settings.run, settings.mix.budgets)
    results = arm_results(run, section.arms, trainings, settings.mix.sources)
    trained_on = arms_of(section.arms, trainings)
    for result in results:
        training = trained_on[result.arm]
        if result.accuracy is not None and training is not None and training.is_stale():
            outdated = [*outdated, result.arm]
    done = [result for result in results if result.accuracy is not None]
    answered = [result.arm for result in done]
    facts = arm_facts(run, answered, trainings, done[0].chance, done[0].free_form) | run_facts(settings)
    if outdated:
        facts["not up to date"] = (
            f"{', '.join(outdated)}: settings, model, mix, data or tasks have changed since; `smt evaluate` runs them "
            "again"
        )
    unready = [sentence for training in trainings if (sentence := training.unready())]
    audit = read_audit(run)
    return RunResults(
        run,
        results,
        facts,
        retention_results(run, trainings),
        faithfulness_of(run),
        outdated,
        unready,
        audit,
        audit is not None and is_outdated(run, audit),
    )


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
            which leaks were looked for, or an arm answered only what retrieval was tuned on.
    """
    arms = arms_of(names, trainings or [Training(run)])
    left_out = tuned_on(run)
    answered = {
        arm: [row for row in rows if row["doc_id"] not in left_out]
        for arm in arms
        if (rows := read_arm(run / "results" / arm)) is not None
    }
    if not answered:
        raise BadInput(f"{run / 'results'} holds no finished arm; run `smt evaluate` first.")
    compared = [beside(arm, other) for arm in ("base", f"base{LIKELIHOOD}") for other in (REFERENCE, READING)]
    others = {arm: {row["question_id"]: row["acc"] for row in answered.get(arm, ())} for arm in compared}
    leaks = read_leaks(run, sources)
    for arm, rows in answered.items():
        if leaks and any(
            leaks["question_hashes"].get(row["question_id"]) != question_hash(row["question"]) for row in rows
        ):
            raise BadInput(
                f"the arm {arm} answered other questions than `smt leaks` looked for; run `smt evaluate` and `smt "
                "leaks` again."
            )
        if not rows:
            raise BadInput(
                f"the arm {arm} answered no question but those about the {len(left_out)} documents that retrieval was "
                "tuned on; raise or remove evaluate.limit, or add questions about others, and run `smt evaluate` again."
            )
        reference = beside(arm, REFERENCE)
        if arm != reference and others[reference] and {row["question_id"] for row in rows} != others[reference].keys():
            raise BadInput(f"the arms {arm} and {reference} answered different questions; run `smt evaluate` anew.")
    leaked = set(leaks["leaked"] if leaks else ())
    results = [ArmResult(arm, mix_tokens=_mix_tokens(training)) for arm, training in arms.items()]
    return [
        _scored(result, answered[result.arm], others, leaked, run) if result.arm in answered else result
        for result in results
    ]


def _mix_tokens(training: Training | None) -> int | None:
    """The size of one of several mixes; None of the base model, of a run's only mix, and where it is not there."""
    path = training.mix / MANIFEST_FILE if training is not None and training.budget else None
    return read_manifest(path)["tokens"] if path is not None and path.is_file() else None


def _scored(
    result: ArmResult, rows: list[dict[str, Any]], others: Mapping[str, dict[str, float]], leaked: set[str], run: Path
) -> ArmResult:
    """The result of an arm with all that its answers (`rows`) and its folder say."""
    folder = run / "results" / result.arm
    ids = [row["doc_id"] for row in rows]

    def less(other: dict[str, float]) -> Estimate | None:
        """The accuracy less another arm's on the same questions; None where that did not answer them."""
        if other.keys() != {row["question_id"] for row in rows}:
            return None
        return estimate([row["acc"] - other[row["question_id"]] for row in rows], ids, difference=True)

    reference = beside(result.arm, REFERENCE)
    kept = [row for row in rows if row["question_id"] not in leaked]
    enough = 0 < len(kept) < len(rows)
    tokens = read_tokens(folder)
    guesses = [1 / row["options"] for row in rows if row["options"]]
    acc, unparsed, no_option, by_judge = (
        sum(row[metric] for row in rows) / len(rows) for metric in ("acc", "unparsed", "no_option", "by_judge")
    )
    return replace(
        result,
        accuracy=_estimate(rows),
        difference=less(others[reference]) if result.arm != reference else None,
        to_reading=less(others[beside(result.arm, READING)]) if result.is_trained else None,
        chance=sum(guesses) / len(guesses) if guesses else None,
        free_form=len(rows) - len(guesses),
        unparsed=unparsed,
        no_option=no_option,
        by_judge=by_judge,
        of_read=acc / (1 - unparsed) if unparsed < 1 else None,
        empty=read_empty(folder),
        without_leaks=_estimate(kept) if enough else None,
        n=max(row["n"] for row in rows),
        prompt_tokens=tokens["prompts"] / tokens["questions"] if tokens and tokens["questions"] else None,
        answer_tokens=tokens["answers"] / max(1, tokens["samples"]) if tokens and tokens["questions"] else None,
        cut=tokens.get("cut", 0) if tokens else 0,
        cut_documents=tokens.get("cut_documents", 0) if tokens else 0,
        seconds=read_seconds(folder),
    )


def _estimate(rows: list[dict[str, Any]]) -> Estimate:
    return estimate([row["acc"] for row in rows], [row["doc_id"] for row in rows])


def run_facts(run_file: RunFile) -> dict[str, str]:
    """Return what a reader of the report should know: models, budgets, mixes, retrieval and leaks."""
    facts = {"run": run_file.run.name, "corpus": run_file.corpus.name, "training": run_file.train.config}
    official = official_of(run_file.evaluate.benchmark) if run_file.evaluate else None
    if official is not None:
        facts["benchmark"] = f"{official.source}; licence: {official.licence}"
    generated: dict[str, Counter[str]] = defaultdict(Counter)
    for folder in generated_folders(run_file.run):
        for name, count in read_generated(folder).methods.items():
            generated[name].update(tokens=count.tokens, records=count.records)
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
            + ", ".join(f"{name} {value or 'none'}" for name, value in tuned["chosen"].items())
        )
    if dropped := dropped_from_mix(run_file.run):
        facts["left out of the mix"] = f"{dropped:,} records that leak evaluation questions"
    if (run_file.run / "leaks.json").is_file():
        facts["leaks"] = leaks_text(run_file.run, run_file.mix.sources)
    return facts


def faithfulness_of(run: Path) -> list[Faithfulness]:
    """Add up what `smt generate` counted when it compared records with their documents, over all shards."""
    methods: dict[str, Faithfulness] = {}
    for folder in generated_folders(run):
        for name, count in read_generated(folder).methods.items():
            found = methods.setdefault(name, Faithfulness(name))
            found.records += count.records
            found.checked += count.checked  # 0 of an older version, which compared nothing
            found.unfaithful += count.unfaithful
            found.rejected += count.rejected
            found.findings.update(count.findings)
            found.unchecked.update(count.unchecked)
    return list(methods.values())


def leaks_text(run: Path, sources: Mapping[str, Path] | None = None) -> str:
    """What `smt leaks` found in a run's records and the mix's from elsewhere, as a sentence."""
    leaks = read_leaks(run, sources)
    if leaks is None:
        return "not known: the records, or what is rejected, have changed since; run `smt leaks` again"
    rejected = leaks.get("rejected", 0)
    share = len(leaks["leaked"]) / leaks["questions"]
    return (
        f"{len(leaks['leaked']):,} of {leaks['questions']:,} evaluation questions ({share:.1%}) are nearly asked "
        f"({len(leaks['asked']):,}), asked in other words ({len(leaks['alike']):,}), stated nearly in their words "
        f"({len(leaks['stated']):,}), quoted ({len(leaks['quoted']):,}) or given away by their options "
        f"({len(leaks['options']):,}) in {leaks['leaking_records']:,} synthetic records"
        + (f", without {rejected:,} that are rejected" if rejected else "")
    )
