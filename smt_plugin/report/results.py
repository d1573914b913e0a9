"""The arms of a run, read into what a report is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smt_plugin.errors import BadInput
from smt_plugin.evaluation.arm_results import read_arm, read_seconds, read_tokens
from smt_plugin.evaluation.arms import arms_of, split_arm
from smt_plugin.evaluation.intervals import Estimate, estimate
from smt_plugin.evaluation.leaks import question_hash, read_leaks
from smt_plugin.evaluation.tune import read_tuned
from smt_plugin.mixing.manifest import MANIFEST_FILE, read_manifest
from smt_plugin.training.trainings import Training

if TYPE_CHECKING:
    pass

REFERENCE = "base_rag"


ARM_NAMES = {
    "base": "base, closed-book",
    "base_rag": "base + RAG",
    "base_full": "base + full document",
    "trained": "trained, closed-book",
    "trained_rag": "trained + RAG",
    "trained_full": "trained + full document",
}


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
        pairs = [row["acc"] - reference[row["question_id"]]["acc"] for row in rows]
        difference = estimate(pairs, doc_ids, difference=True)
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


def arm_name(arm: str) -> str:
    kind, budget = split_arm(arm)
    return ARM_NAMES[kind].replace("trained", f"trained on {budget}") if budget else ARM_NAMES[kind]
