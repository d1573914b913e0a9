from pathlib import Path

from smt_plugin.report.results import RunResults, arm_results
from smt_plugin.report.verdicts import verdicts
from smt_plugin.training.trainings import Training
from tests.report.test_report import finish_arm, html_of

QUESTIONS = (
    "Does knowledge in the weights beat RAG?",
    "Does training add to RAG?",
    "How far is it from reading the document?",
)


def answers(results: RunResults) -> tuple[list[str], list[str], list[str]]:
    """The answers to the three questions, and nothing else."""
    weights, rag, reading = verdicts(results)
    assert (weights.question, rag.question, reading.question) == QUESTIONS
    return weights.answers, rag.answers, reading.answers


def test_three_questions_are_answered_by_the_paired_intervals_with_their_counts(tmp_path: Path) -> None:
    finish_arm(tmp_path, "base_rag", [0.5, 0.5, 0.25, 0.5, 0.5, 0.5] * 4)
    finish_arm(tmp_path, "base_full", [1.0, 1.0, 0.75, 1.0, 1.0, 1.0] * 4)
    for arm, less in (("base", 0.0), ("trained", -0.25), ("trained_rag", 0.5)):
        finish_arm(tmp_path, arm, [0.5 + less, 0.5 + less, 0.25 + less, 0.5 + less, 0.5 + less, 0.25 + less] * 4)
    arms = ["base", "base_rag", "trained", "base_full", "trained_rag"]
    results = RunResults(tmp_path, arm_results(tmp_path, arms))
    (weights,), (rag,), (reading, reading_rag) = answers(results)
    assert weights.startswith("No: trained closed-book is 29.2 points below base + RAG (95 % interval -")
    assert weights.endswith(", 24 questions about 12 documents).")
    assert rag.startswith("Yes: trained + RAG is 45.8 points above base + RAG (95 % interval +")
    assert reading.startswith("Below: trained closed-book is 79.2 points below base + full document (95 % i")
    assert reading_rag.startswith("No difference shown: trained + RAG is 4.2 points below base + full document (95 % i")
    html = html_of(results)
    assert all(sentence.split(" (")[0] in html for sentence in (*QUESTIONS, weights, rag, reading, reading_rag))


def test_too_few_documents_give_no_verdict_and_equal_arms_no_difference(tmp_path: Path) -> None:
    finish_arm(tmp_path, "base_rag", [0.5, 0.5, 0.5, 0.5])
    finish_arm(tmp_path, "trained", [1.0, 1.0, 1.0, 1.0])
    (sentence,), _, _ = answers(RunResults(tmp_path, arm_results(tmp_path, ["base_rag", "trained"])))
    assert sentence.startswith("Not known of trained closed-book: no verdict from 2 documents; it takes ")
    finish_arm(tmp_path / "b", "base_rag", [0.5, 0.5, 0.5, 0.5] * 5)
    finish_arm(tmp_path / "b", "trained", [0.5, 0.5, 0.5, 0.5] * 5)
    (sentence,), _, _ = answers(RunResults(tmp_path, arm_results(tmp_path / "b", ["base_rag", "trained"])))
    assert sentence.startswith("Not shown: between trained closed-book and base + RAG no difference was seen (95 % i")


def test_what_was_not_asked_and_what_is_not_there_yet_are_said_instead_of_an_answer(tmp_path: Path) -> None:
    finish_arm(tmp_path, "base", [0.5, 0.5, 0.25, 0.5] * 4)
    assert answers(RunResults(tmp_path, arm_results(tmp_path, ["base"]))) == (
        ["Not asked: evaluate.arms has no trained and no base_rag."],
        ["Not asked: evaluate.arms has no trained_rag and no base_rag."],
        ["Not asked: evaluate.arms has no trained and no base_full."],
    )
    finish_arm(tmp_path, "base_full", [0.5, 0.5, 0.25, 0.5] * 4)
    asked = ["base", "base_rag", "base_full", "trained", "trained_rag"]
    assert answers(RunResults(tmp_path, arm_results(tmp_path, asked))) == (
        ["Not known: there are no results of base + RAG yet."],
        ["Not known: there are no results of base + RAG yet."],
        [
            "Not known: there are no results of trained closed-book yet.",
            "Not known: there are no results of trained + RAG yet.",
        ],
    )


def test_several_budgets_are_answered_for_one_by_one(tmp_path: Path) -> None:
    for arm in ("base_rag", "trained-10M"):
        finish_arm(tmp_path, arm, [0.5, 0.5, 0.25, 0.5] * 4)
    trainings = [Training(tmp_path, "10M"), Training(tmp_path, "30M")]
    results = RunResults(tmp_path, arm_results(tmp_path, ["base_rag", "trained"], trainings))
    weights, _, _ = answers(results)
    assert weights[0].startswith("Not shown: between trained on 10M closed-book and base + RAG no difference")
    assert weights[1] == "Not known: there are no results of trained on 30M closed-book yet."


def test_arms_that_answered_different_questions_are_not_compared_in_the_headline(tmp_path: Path) -> None:
    finish_arm(tmp_path, "trained", [0.5, 0.5, 0.25, 0.5] * 4)
    finish_arm(tmp_path, "base_full", [0.5, 0.5, 0.25, 0.5] * 3)
    arms = arm_results(tmp_path, ["trained", "base_full"])
    _, _, (sentence,) = answers(RunResults(tmp_path, arms))
    assert sentence == "Not known: trained closed-book and base + full document answered different questions."
