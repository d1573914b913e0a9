from collections import Counter
from pathlib import Path

import orjson
import pytest

from smt_plugin.errors import BadInput
from smt_plugin.evaluation.lm_eval_link import dataset
from smt_plugin.evaluation.scoring import process_results
from smt_plugin.evaluation.unread_choice import choice_of
from tests.endpoint import MODEL, serve_in_thread
from tests.quality_data import write_own

OPTIONS = ["A red kite", "A kite", "The mill's old wheel", "No one knows"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def reads(prompt: str, count: str) -> str:
    reply = prompt.split("<reply>")[1].split("</reply>")[0]
    if "wooden thing that turned" in reply:
        return "<think>CHOICE: A</think>It means the wheel.\nCHOICE: C"
    if "a lighthouse" in reply:
        return "A lighthouse is no option.\n**CHOICE: OTHER**"
    return "It settles on nothing.\nCHOICE: NONE"


def doc(endpoint: str = "") -> dict[str, object]:
    judge = orjson.dumps({"endpoint": endpoint, "model": MODEL}).decode() if endpoint else ""
    return {"identity": "the story", "question": "What flew?", "options": OPTIONS, "answer": 2, "judge": judge}


SAMPLES = [
    "In my view it was the wooden thing that turned by the water.",
    "It must have been a lighthouse, I would guess.",
    "Hard to say; several of them would do.",
    "The answer is (C).",
    None,
    "<think>It was the wooden thing that turned, but",
]


def test_the_judge_reads_only_what_code_could_not_and_the_score_says_how_much() -> None:
    with serve_in_thread(reads) as endpoint:
        asked = doc(endpoint.url)
        scores = process_results(asked, [SAMPLES])
        assert scores == {"acc": 2 / 6, "unparsed": 4 / 6, "no_option": 1 / 6, "by_judge": 1 / 6}
        assert asked["readings"][0] == {"read": "C", "state": "right", "by_judge": True}  # type: ignore[index]
        assert asked["readings"][3] == {"read": "C", "state": "right"}  # type: ignore[index]
        assert len(endpoint.bodies) == 3  # neither what was read, nor what says nothing
        process_results(doc(endpoint.url), [SAMPLES])
        assert len(endpoint.bodies) == 3  # each reply is paid for once


def test_without_being_told_to_no_judge_is_asked() -> None:
    assert process_results(doc(), [SAMPLES]) == {"acc": 1 / 6, "unparsed": 5 / 6, "no_option": 0.0, "by_judge": 0.0}


@pytest.mark.parametrize(
    ("reply", "choice"),
    [
        ("CHOICE: B", 1),
        ("CHOICE: (B)", 1),
        ("**CHOICE:** D", 3),
        ("It could be CHOICE: A.\nCHOICE: NONE", -1),
        ("CHOICE: OTHER", -2),
        ("CHOICE: followed by the option's letter", None),
        ("CHOICE: F", None),
        ("It chooses B.", None),
        ("<think>CHOICE: A", None),
        ("", None),
    ],
)
def test_a_reading_is_the_last_choice_named_of_those_that_there_are(reply: str, choice: int | None) -> None:
    assert choice_of(reply, 4) == choice


def test_what_the_judge_cannot_read_either_states_nothing_and_too_much_of_it_is_an_error_that_names_the_prompt(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("smt_plugin.evaluation.judge._counts", Counter())
    unread = [f"Hm, {n}." for n in range(5)]
    with serve_in_thread(lambda prompt, count: "I like it.") as endpoint:
        assert process_results(doc(endpoint.url), [unread[:1]])["unparsed"] == 1
        assert "gave no choice in 3 attempts for 1 of 1 answers; it said: 'I like it.'" in caplog.text
        with pytest.raises(RuntimeError, match=r"gave no choice in 3 attempts for 5 of 5 answers.*judge/choice"):
            process_results(doc(endpoint.url), [unread[1:]])


def test_questions_carry_the_judge_only_where_it_is_to_read(tmp_path: Path) -> None:
    data = write_own(tmp_path)
    with serve_in_thread(reads) as endpoint:
        judge = {"endpoint": endpoint.url, "model": MODEL}
        rows = dataset("quality", "none", str(data), judge=judge)["test"]
        assert {row["judge"] for row in rows} == {""}
        rows = dataset("quality", "none", str(data), judge=judge, read_by_judge=True)["test"]
        assert [orjson.loads(row["judge"]) for row in rows] == [judge] * len(rows)
    with pytest.raises(BadInput, match="read_by_judge"):
        dataset("quality", "none", str(data), read_by_judge=True)
