import subprocess
import sys
import time
import tracemalloc

import pytest

from smt_plugin.evaluation.scoring import process_results
from smt_plugin.evaluation.stated_choice import stated_choice


def stated_answer(text: str, options: list[str]) -> int | None:
    return stated_choice(text, options).option


OPTIONS = ["A red kite", "A kite", "The mill's old wheel", "No one knows"]


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("The answer is (B).", 1),
        ("So the ANSWER IS B", 1),
        ("the answer is (c)", 2),
        ("The answer is B.", 1),
        ("The answer is: D) No one knows", 3),
        ("The answer is **(C)**.", 2),
        ("The correct answer is option C.", 2),
        ("the answer is therefore [D]", 3),
        ("The answer is $\\boxed{B}$.", 1),
        ("The answer is \\(\\boxed{\\text{(B)}}\\)", 1),
        ("The answer is B because kites fly.", 1),
        ("The answer is:\n\n(D)", 3),
        ("The answer is a kite.", 1),
        ("The answer is a red kite, of course.", 0),
        ("the answer is the mill s old WHEEL .", 2),
        ("The answer is “No one knows”.", 3),
        ("The answer is (A). Wait, no: the answer is (D).", 3),
        ("The answer is (B). I hope this answer is clear to everyone.", 1),
        ("The answer is (E).", None),
        ("The answer is not (B).", None),
        ("The answer is A tall man.", None),
        ("(B)", 1),
        ("The answer is", None),
        ("The answer is a kitesurfer.", None),
        ("", None),
    ],
)
def test_the_last_stated_answer_is_read_by_letter_or_by_text(text: str, index: int | None) -> None:
    assert stated_answer(text, OPTIONS) == index


def test_an_option_that_looks_like_a_lead_word_is_still_found() -> None:
    options = ["Clearly a lie", "Letter by letter", "Option trading", "1912"]
    for index, option in enumerate(options):
        assert stated_answer(f"The answer is {option.lower()} .", options) == index


@pytest.mark.parametrize("options", [["-5%", "5%", "0.5%"], ["C++", "C#", "C"], ["It rose.", "It rose?"]])
def test_options_that_differ_in_signs_alone_are_told_apart_or_not_read(options: list[str]) -> None:
    for index, option in enumerate(options):
        assert stated_answer(f"The answer is {option}", options) == index
        assert stated_answer(f"The answer is: **{option}**", options) == index
    assert stated_answer("The answer is (it rose).", ["It rose!", "It rose?"]) is None


def test_an_option_that_an_official_file_gives_twice_is_right_in_both_places() -> None:
    doc = {"options": ["Rum", "Tea", "Rum"], "answer": 2, "judge": ""}
    assert process_results(doc, [["The answer is (A).", "The answer is (C).", "The answer is rum.", "Tea"]]) == {
        "acc": 0.75,
        "unparsed": 0.0,
        "no_option": 0.0,
        "by_judge": 0.0,
    }


def test_every_option_is_read_from_its_own_letter_and_text() -> None:
    options = [f"{word} thing" for word in "red blue green grey pink".split()]
    for index, option in enumerate(options):
        assert stated_answer(f"Reasons. The answer is ({'ABCDE'[index]}).", options) == index
        assert stated_answer(f"Reasons. The answer is {option}.", options) == index


def test_all_samples_count_and_what_cannot_be_read_is_wrong() -> None:
    doc = {"options": OPTIONS, "answer": 1, "judge": ""}
    samples = ["The answer is (B)."] * 3 + ["The answer is (A)."] * 2 + ["Who can say?", None, "The answer is (Z)."]
    assert process_results(doc, [samples]) == {"acc": 3 / 8, "unparsed": 3 / 8, "no_option": 1 / 8, "by_judge": 0}
    # Which lm-eval writes into its file of samples, for those who look.
    read = ["B", "B", "B", "A", "A", None, None, None]
    state = ["right"] * 3 + ["wrong"] * 2 + ["nothing", "nothing", "no_option"]
    assert doc["readings"] == [{"read": r, "state": s} for r, s in zip(read, state, strict=True)]


def test_degenerate_repetition_is_scored_fast() -> None:
    started = time.process_time()
    for _ in range(20):
        assert stated_answer("the answer is so " * 1000, OPTIONS) is None
    assert time.process_time() - started < 20


def test_a_whole_qualitys_answers_are_scored_in_under_a_minute() -> None:
    doc = {"options": OPTIONS, "answer": 1, "judge": ""}
    reasons = "The story says that the wheel turned, so the answer is not clear yet. " * 20
    started = time.process_time()
    total = sum(
        process_results(doc, [[f"{reasons}{n} The answer is ({'ABCD'[(n + k) % 4]})." for k in range(8)]])["acc"]
        for n in range(4609)
    )
    assert total == 4609 / 4
    assert time.process_time() - started < 60


def test_four_times_the_answers_take_no_more_memory() -> None:
    doc = {"options": OPTIONS, "answer": 1, "judge": ""}

    def peak(questions: int) -> int:
        tracemalloc.start()
        total = 0.0
        for n in range(questions):
            samples = [f"{'So it goes. ' * 100}{n} {k} The answer is ({'ABCD'[k % 4]})." for k in range(8)]
            total += process_results(doc, [samples])["acc"]
        assert total == questions / 4
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(100)  # caches of patterns fill
    assert peak(1200) < 1.2 * peak(300)


def test_lm_eval_ends_with_the_number_of_empty_answers() -> None:
    code = (
        "from smt_plugin.evaluation.scoring import process_results\n"
        "doc = {'options': ['a', 'b'], 'answer': 0, 'judge': ''}\n"
        "print([process_results(doc, [texts])['unparsed'] for texts in TEXTS])"
    )

    def said(texts: str) -> tuple[str, str]:
        done = subprocess.run([sys.executable, "-c", code.replace("TEXTS", texts)], capture_output=True, text=True)
        return done.stdout, done.stderr

    assert said("[['(A)', 'The answer is (B).']]") == ("[0.0]\n", "")
    unparsed, told = said("[['(A)', None, ' '], ['', 'The answer is (B).', '(B)']]")
    assert unparsed.startswith("[0.66")
    assert told.startswith("smt: 3 of 6 answers came back empty and count as unparsed; raise max_gen_toks, or turn")
