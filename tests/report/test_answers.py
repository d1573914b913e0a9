"""What the side-by-side page holds; how it behaves in a browser is in test_browser.py."""

import base64
import gzip
import json
import re
import tracemalloc
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from smt_plugin.report.answers import (
    LEAST_CHARACTERS,
    MOST_CHARACTERS,
    filters,
    matches,
    shortened,
    states,
    write_answers,
)
from smt_plugin.report.results import RunResults, arm_results
from smt_plugin.training.trainings import Training

RIGHT, WRONG = ("The answer is (B).", "B", "right"), ("The answer is (A).", "A", "wrong")
NOTHING, NO_OPTION = ("Who can say?", None, "nothing"), ("The answer is (Z).", None, "no_option")
Answer = tuple[str | None, str | None, str]
ODD = {
    "markup": '</script><img src=x onerror="document.title=1"><!-- {{ 7 * 7 }} & &lt; ',
    "signs": "line\u2028separator \x00 \U0001f600 \\u003c \"quoted\" 'single'",
    "arabic": "الجواب الصحيح هو (B).",
    "chinese": "正确答案是（B）。",
}


def write_arm(
    run: Path, arm: str, answers: Mapping[str, Iterable[Answer]], free_form: bool = False, **doc: Any
) -> None:
    """Write what lm-eval and `smt evaluate` leave of an arm; question `3-x` is about document 3."""
    folder = run / "results" / arm / "model"
    folder.mkdir(parents=True)
    with (folder / "samples_x_2026.jsonl").open("w") as file:
        for question_id, given in answers.items():
            texts, read, state = zip(*given, strict=True)
            unread = sum(each in ("nothing", "no_option") for each in state)
            row = {
                "doc": {
                    "question_id": question_id,
                    "doc_id": question_id.split("-")[0],
                    "identity": f"Story {question_id.split('-')[0]}",
                    "question": f"What of {question_id}?",
                    "options": [] if free_form else ["Sand", "Salt"],
                    "answer": -1 if free_form else 1,
                    "gold": "Salt",
                    "readings": [{"read": r, "state": s} for r, s in zip(read, state, strict=True)],
                    **doc,
                },
                "acc": state.count("right") / len(state),
                "unparsed": unread / len(state),
                "no_option": state.count("no_option") / len(state),
                "resps": [texts],
            }
            file.write(json.dumps(row) + "\n")
    (folder.parent / "arm.json").write_text("{}")


def results_of(run: Path, *arms: str) -> RunResults:
    return RunResults(run, arm_results(run, arms))


def questions_in(html: str) -> list[dict[str, Any]]:
    """The questions that the page's blocks hold."""
    blocks = re.findall(r'class="block">([^<]*)</script>', html)
    return [question for block in blocks for question in json.loads(gzip.decompress(base64.b64decode(block)))]


def index_in(html: str) -> Any:
    found = re.search(r'id="index">(.*?)</script>', html)
    assert found
    return json.loads(found[1])


def test_an_arm_is_right_at_a_question_where_more_than_half_of_its_answers_are() -> None:
    assert states(0.625, 0) == ["right"]
    assert states(0.5, 3) == ["wrong", "unread"]
    assert matches({"base": "wrong", "trained": "unread"}, {"base": ["wrong"], "trained": ["right", "unread"]})
    assert not matches({"base": "wrong", "trained": "unread"}, {"base": ["wrong"], "trained": ["right"]})
    assert not matches({"base": "wrong"}, {})


def test_the_page_offers_where_training_wins_and_loses_with_the_number_of_questions(tmp_path: Path) -> None:
    rag = {"1-a": [RIGHT] * 4, "1-b": [RIGHT] * 4, "2-a": [WRONG] * 4, "2-b": [WRONG] * 4, "3-a": [RIGHT] * 4}
    trained = {"1-a": [WRONG] * 4, "1-b": [NOTHING, *[WRONG] * 3], "2-a": [RIGHT] * 4, "2-b": [NO_OPTION] * 4}
    write_arm(tmp_path, "base_rag", rag)
    write_arm(tmp_path, "trained-10M", trained | {"3-a": [RIGHT] * 4})
    results = results_of(tmp_path, "base_rag")
    assert [each.name for each in filters(results.arms)] == ["all arms wrong", "all arms right"]
    results = RunResults(tmp_path, arm_results(tmp_path, ["base_rag", "trained"], [Training(tmp_path, "10M")]))
    html = write_answers(results).read_text()
    for link in (
        '<a href="#base_rag=right&amp;trained-10M=wrong">base + RAG right, trained on 10M, closed-book wrong (2)</a>',
        '<a href="#base_rag=wrong&amp;trained-10M=right">trained on 10M, closed-book right, base + RAG wrong (1)</a>',
        '<a href="#base_rag=wrong&amp;trained-10M=wrong">all arms wrong (1)</a>',
        '<a href="#base_rag=right&amp;trained-10M=right">all arms right (1)</a>',
    ):
        assert link in html
    index = index_in(html)
    assert index["documents"] == [["1", "Story 1"], ["2", "Story 2"], ["3", "Story 3"]]
    assert index["questions"][1] == [0, [["right"], ["wrong", "unread"]], 1]
    assert index["questions"][3] == [1, [["wrong"], ["wrong", "unread"]], 4]
    row = re.search(r"Story 1</a></td><td>2</td><td>(.*)</td></tr>", html)
    assert row
    assert row[1].split("</td><td>") == ["100.0%", "0.0%", "1"]


def test_what_models_say_is_text_whatever_it_holds(tmp_path: Path) -> None:
    answers = {f"1-{name}": [(text, "B", "right"), (None, None, "nothing")] for name, text in ODD.items()}
    # The question and what identifies its document come from somebody's files.
    write_arm(tmp_path, "base", answers, question=ODD["markup"], identity=ODD["markup"])
    html = write_answers(results_of(tmp_path, "base")).read_text()
    assert "<img" not in html
    assert "<!--" not in html
    assert "\u2028" not in html
    # A block, the index and the script.
    assert len(re.findall(r"<script|</script", html, re.IGNORECASE)) == 6
    questions = questions_in(html)
    assert [question["answers"][0][0]["text"] for question in questions] == list(ODD.values())
    assert {question["answers"][0][1]["text"] for question in questions} == {""}
    assert {question["question"] for question in questions} == {ODD["markup"]}
    assert index_in(html)["documents"] == [["1", ODD["markup"]]]
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?\s*(?:https?:)?//|@import|url\(", html)


def test_long_answers_are_cut_in_their_middle_with_a_count(tmp_path: Path) -> None:
    text = "".join(f"{n:>9} " for n in range(1000))
    assert shortened(text, 10_000) == {"text": text}
    write_arm(tmp_path, "base", {"1-a": [(text, "B", "right")]})
    ((answer,),) = questions_in(write_answers(results_of(tmp_path, "base")).read_text())[0]["answers"]
    assert text.startswith(answer["text"])
    assert text.endswith(answer["end"])
    assert len(answer["text"]) + len(answer["end"]) == MOST_CHARACTERS
    assert answer["left_out"] == 10_000 - MOST_CHARACTERS
    assert len(answer["end"]) > len(answer["text"])


def test_an_arm_that_is_missing_is_named_and_what_was_not_asked_has_no_answers(tmp_path: Path) -> None:
    write_arm(tmp_path, "base", {"1-a": [RIGHT], "1-b": [WRONG]})
    write_arm(tmp_path, "base_full", {"1-a": [RIGHT]})
    html = write_answers(results_of(tmp_path, "base", "base_rag", "base_full", "trained")).read_text()
    assert "Without results yet: base + RAG; trained, closed-book." in html
    assert [arm["arm"] for arm in index_in(html)["arms"]] == ["base", "base_full"]
    first, second = questions_in(html)
    assert all(first["answers"])
    assert second["answers"][1] is None
    assert index_in(html)["questions"][1] == [0, [["wrong"], []], 0]


def test_free_form_answers_stand_beside_the_right_one_with_what_was_read_in_them(tmp_path: Path) -> None:
    given = [
        ("It was white. The answer is: salt", "salt", "right"),
        ("So. The answer is: " + "x" * 900, "x" * 900, "wrong"),
    ]
    write_arm(tmp_path, "base", {"1-a": given}, free_form=True)
    (question,) = questions_in(write_answers(results_of(tmp_path, "base")).read_text())
    assert (question["options"], question["gold"]) == ([], "Salt")
    right, wrong = question["answers"][0]
    assert right == {"text": given[0][0], "read": "salt", "state": "right"}
    assert wrong["text"] == given[1][0]
    assert len(wrong["read"]) == 200


def test_results_of_before_what_was_read_was_noted_are_shown_without_it(tmp_path: Path) -> None:
    write_arm(tmp_path, "base", {"1-a": [RIGHT, NOTHING]}, readings=None)
    html = write_answers(results_of(tmp_path, "base")).read_text()
    assert [answer["state"] for answer in questions_in(html)[0]["answers"][0]] == ["unknown"] * 2
    assert index_in(html)["questions"] == [[0, [["wrong", "unread"]], 1]]


def test_documents_that_retrieval_was_tuned_on_are_left_out_as_in_the_report(tmp_path: Path) -> None:
    write_arm(tmp_path, "base", {"1-a": [RIGHT], "2-a": [WRONG]})
    tuned = {"by": "recall", "chosen": {}, "held_out": ["1"], "questions": 1, "tried": []}
    (tmp_path / "tune.json").write_text(json.dumps(tuned))
    html = write_answers(results_of(tmp_path, "base")).read_text()
    assert [question["id"] for question in questions_in(html)] == ["2-a"]
    assert "1 question about 1 document," in " ".join(html.split())


def test_a_large_page_is_written_with_little_memory_and_its_answers_are_cut_shorter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons = "The story says that the wheel turned, so the answer is not clear yet. " * 40
    answers = {f"{n % 50}-{n}": [(f"{n} {k} {reasons}", "B", "right") for k in range(8)] for n in range(600)}
    for arm in ("base", "base_rag", "trained"):
        write_arm(tmp_path, arm, answers)
    size = sum(path.stat().st_size for path in tmp_path.rglob("samples_*.jsonl"))
    results = results_of(tmp_path, "base", "base_rag", "trained")
    monkeypatch.setattr("smt_plugin.report.answers._CHARACTERS_OF_ALL", 1_000_000)
    tracemalloc.start()
    try:
        path = write_answers(results)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size > 40e6
    assert peak < size / 8
    lengths = {
        len(answer["text"] + answer["end"])
        for question in questions_in(path.read_text())
        for answer in question["answers"][0]
    }
    assert lengths == {LEAST_CHARACTERS}
