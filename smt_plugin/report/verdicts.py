"""The headline: three questions about the trained model, answered by paired intervals."""

from dataclasses import dataclass

from smt_plugin.evaluation.arms import ARMS, is_likelihood
from smt_plugin.evaluation.intervals import Estimate
from smt_plugin.report.results import ARM_NAMES, READING, REFERENCE, ArmResult, RunResults, beside

_TRAINED = tuple(kind for kind, (is_trained, _) in ARMS.items() if is_trained and not is_likelihood(kind))


@dataclass(frozen=True, slots=True)
class Verdict:
    """A question and its answers: a sentence for each arm that it is about, or one that says why there is none."""

    question: str
    answers: list[str]


def verdicts(results: RunResults) -> list[Verdict]:
    """Answer three questions: do the weights beat RAG, does training add to RAG, how far is reading the document?

    Arms by answers and arms by likelihood are not compared: the answers are about the kind of the run's first arm.
    """
    yes_or_no, place = ("Yes", "No", "Not shown"), ("Above", "Below", "No difference shown")
    return [
        Verdict("Does knowledge in the weights beat RAG?", _answers(results, ("trained",), REFERENCE, yes_or_no)),
        Verdict("Does training add to RAG?", _answers(results, ("trained_rag",), REFERENCE, yes_or_no)),
        Verdict("How far is it from reading the document?", _answers(results, _TRAINED, READING, place)),
    ]


def _answers(results: RunResults, kinds: tuple[str, ...], other: str, words: tuple[str, str, str]) -> list[str]:
    """Say where the arms of these kinds stand beside another arm; the words are for above, below and neither."""
    first = results.arms[0].arm
    other, kinds = beside(first, other), tuple(beside(first, kind) for kind in kinds)
    others = [result for result in results.arms if result.arm == other]
    arms = [result for result in results.arms if result.kind in kinds]
    if lacking := [kind for kind, there in ((kinds[0], arms), (other, others)) if not there]:
        return [f"Not asked: evaluate.arms has no {' and no '.join(lacking)}."]
    if others[0].accuracy is None:
        return [f"Not known: there are no results of {others[0].name} yet."]
    is_rag = other == beside(first, REFERENCE)
    differences = [(arm, arm.difference if is_rag else arm.to_reading) for arm in arms]
    return [_answer(arm, difference, other, words) for arm, difference in differences]


def _answer(arm: ArmResult, difference: Estimate | None, other: str, words: tuple[str, str, str]) -> str:
    name, other_name = arm.name.replace(", closed-book", " closed-book"), ARM_NAMES[other]
    if arm.accuracy is None:
        return f"Not known: there are no results of {name} yet."
    if difference is None:
        return f"Not known: {name} and {other_name} answered different questions."
    if difference.refusal:
        return f"Not known of {name}: {difference.refusal}."
    above, below, neither = words
    word = above if difference.low > 0 else below if difference.high < 0 else neither
    scope = (
        f"95 % interval {difference.low * 100:+.1f} to {difference.high * 100:+.1f}, "
        f"{difference.questions:,} questions about {difference.documents:,} documents"
    )
    if difference.method == "no difference seen":
        return f"{word}: between {name} and {other_name} no difference was seen ({scope})."
    side = "above" if difference.mean > 0 else "below"
    points = f"{abs(difference.mean) * 100:.1f}"
    place = "level with" if points == "0.0" else f"{points} points {side}"
    return f"{word}: {name} is {place} {other_name} ({scope})."
