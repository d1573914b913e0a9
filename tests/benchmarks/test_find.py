import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from smt_plugin import benchmarks
from smt_plugin.benchmarks.find import check, load, official_of
from smt_plugin.corpus import Document
from smt_plugin.errors import BadInput
from smt_plugin.question import Question
from tests.quality_data import STORIES, official_rows, own_rows, write_lines, write_official, write_own


@pytest.fixture(autouse=True)
def _no_data_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SMT_QUALITY_DIR", raising=False)
    monkeypatch.delenv("SMT_MICROWORLD_DIR", raising=False)


def test_the_official_files_become_one_document_an_article_with_the_questions_of_both_writers(
    tmp_path: Path,
) -> None:
    documents, questions = load("quality", write_official(tmp_path / "q"))
    assert [document.identity for document in documents] == [
        '"The Salt Clock" by Ada Brine (1951)',
        '"Nine Kites" by Tom Vale',
        '"Glass Harvest" (1960)',
        '"The Late Ferry" by Ada Brine (1953)',
    ]
    assert [document.text for document in documents] == [story[4] for story in STORIES]
    assert len(questions) == 8
    first, second = (question for question in questions if question.doc_id == "50001")
    assert (first.question, first.answer, first.meta) == (
        "What did the clock run on?",
        1,
        {"hard": False, "split": "train"},
    )
    assert (second.options, second.answer) == (["Oru", "Yun", "Mirel", "Petra"], 2)
    assert second.meta["hard"] is True


def test_our_own_files_hold_the_same_questions_as_the_official_ones(tmp_path: Path) -> None:
    _, official = load("quality", write_official(tmp_path / "official"))
    _, own = load("quality", write_own(tmp_path / "own"))
    assert [(q.question_id, q.doc_id, q.question, q.options, q.answer) for q in own] == [
        (q.question_id, q.doc_id, q.question, q.options, q.answer) for q in official
    ]


def test_an_explicit_folder_goes_before_the_variable_and_that_before_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents, questions = own_rows()
    for name, count in (("explicit", 1), ("variable", 2), ("cache/smt-plugin/quality", 3)):
        write_own(tmp_path / name)
        write_lines(tmp_path / name / "questions.jsonl", questions[:count])
    assert len(load("quality")[1]) == 3
    monkeypatch.setenv("SMT_QUALITY_DIR", str(tmp_path / "variable"))
    assert len(load("quality")[1]) == 2
    assert len(load("quality", tmp_path / "explicit")[1]) == 1
    assert len(documents) == 4


def test_without_data_the_message_says_what_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # no download
    with pytest.raises(BadInput) as error:
        load("quality")
    places = ("SMT_QUALITY_DIR", "--metadata", "--data", "evaluate.data", str(tmp_path / "cache"))
    for part in ("QuALITY.v1.0.1.htmlstripped.train", *places):
        assert part in str(error.value)
    with pytest.raises(BadInput, match="does not hold the quality data"):
        load("quality", tmp_path)


def test_the_microworld_needs_no_files_but_takes_them(tmp_path: Path) -> None:
    documents, questions = load("microworld")
    assert {question.doc_id for question in questions} <= {document.id for document in documents}
    assert any(len(question.evidence) == 2 for question in questions)
    assert len(load("microworld", write_own(tmp_path / "m"))[1]) == 8


def test_the_benchmarks_are_the_folders_of_tasks_and_an_unknown_one_is_refused() -> None:
    assert {"corpus", "financebench", "longhealth", "microworld", "quality"} <= set(benchmarks.names())
    published = {name for name in benchmarks.names() if official_of(name)}
    assert published >= {"financebench", "longhealth", "quality"}
    assert not published & {"corpus", "microworld"}
    with pytest.raises(
        BadInput, match="unknown benchmark 'trivia'; choose one of: chronicle, corpus, financebench, longhealth"
    ):
        load("trivia")
    assert official_of("trivia") is None


def test_a_module_and_a_folder_of_tasks_make_a_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tasks" / "trivia").mkdir(parents=True)
    (tmp_path / "tasks" / "trivia" / "trivia_smt.yaml").write_text("task: trivia_smt\n")
    (tmp_path / "tasks" / "_shared").mkdir()
    (tmp_path / "tasks" / "_shared" / "_question.yaml").write_text("")
    monkeypatch.setattr(benchmarks, "asset_dir", lambda _: tmp_path / "tasks")
    module = ModuleType("trivia")
    data = [Document("d", "T", "Text.")], [Question("q", "d", "Why?", ["a", "b"], 0)]
    module.__dict__.update(WANTED="trivia.txt", read=lambda folder: data)
    monkeypatch.setitem(sys.modules, "smt_plugin.benchmarks.trivia", module)
    assert benchmarks.names() == ["trivia"]
    assert load("trivia", tmp_path) == data
    assert check("trivia", tmp_path).facts == [f"1 questions about 1 documents in {tmp_path}"]
    assert len(load("trivia", write_own(tmp_path / "own"))[1]) == 8
    with pytest.raises(
        BadInput, match=r"no trivia data: put trivia\.txt, or documents\.jsonl and questions\.jsonl, into"
    ):
        load("trivia")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"answer": 4}, "from 0 to 3"),
        ({"answer": -1}, "from 0 to 3"),
        ({"answer": True}, "expected `int | str`, got `bool` - at `$.answer`"),
        ({"answer": 1.0}, "expected `int | str`, got `float` - at `$.answer`"),
        ({"answer": "B"}, "from 0 to 3"),
        ({"options": ["only one"]}, "expected `array` of length >= 2 - at `$.options`"),
        ({"options": [str(n) for n in range(27)]}, "expected `array` of length <= 26 - at `$.options`"),
        ({"options": ["Tea", " "]}, "expected `str` that is not blank - at `$.options[1]`"),
        ({"options": "Tea"}, "expected `array | null`, got `str` - at `$.options`"),
        ({"options": None}, "needs a string as 'answer'"),
        ({"options": ["Tea", "Rum", "Tea ", "Beer"], "answer": 0}, "the right option 'Tea' is given twice"),
        ({"options": None, "answer": " "}, "expected `str` that is not blank - at `$.answer`"),
        ({"question": " "}, "expected `str` that is not blank - at `$.question`"),
        ({"doc_id": 50001}, "expected `str`, got `int` - at `$.doc_id`"),
        ({"question_id": "50001_W0_1"}, "given twice"),
        ({"doc_id": "nowhere"}, "unknown document 'nowhere'"),
        ({"meta": {"evidence": ["nowhere"]}}, "unknown document 'nowhere'"),
        ({"meta": []}, None),
        ({"meta": "x"}, "expected `object`, got `str` - at `$.meta`"),
        ({"meta": {"evidence": "50001"}}, "meta: expected `array | null`, got `str` - at `$.evidence`"),
        ({"meta": {"evidence": [3]}}, "meta: expected `str | object`, got `int` - at `$.evidence[0]`"),
        ({"meta": {"evidence": [{}]}}, "meta: object missing required field `page` - at `$.evidence[0]`"),
        ({"meta": {"evidence": [{"page": -1}]}}, "meta: expected `int` >= 0 - at `$.evidence[0].page`"),
        ({"meta": {"evidence": [{"page": True}]}}, "meta: expected `int`, got `bool` - at `$.evidence[0].page`"),
        (
            {"meta": {"evidence": [{"page": 1, "doc_id": None}]}},
            "meta: expected `str`, got `null` - at `$.evidence[0].doc_id`",
        ),
        ({"meta": {"evidence": ["50001", {"page": 1}, {"page": 0, "doc_id": "50002"}]}}, None),
    ],
)
def test_a_bad_question_is_named_by_file_and_line(tmp_path: Path, change: dict[str, Any], says: str | None) -> None:
    folder = write_own(tmp_path / "q")
    rows = own_rows()[1]
    rows[2] |= change
    write_lines(folder / "questions.jsonl", rows)
    if says is None:
        assert len(load("quality", folder)[1]) == 8
        return
    with pytest.raises(BadInput, match=r"questions\.jsonl, line 3: ") as error:
        load("quality", folder)
    assert says in str(error.value)


@pytest.mark.parametrize("field", ["question_id", "doc_id", "question", "answer"])
def test_a_question_that_lacks_a_field_is_named_by_file_line_and_field(tmp_path: Path, field: str) -> None:
    folder = write_own(tmp_path / "q")
    rows = own_rows()[1]
    del rows[2][field]
    write_lines(folder / "questions.jsonl", rows)
    with pytest.raises(BadInput, match=rf"questions\.jsonl, line 3: object missing required field `{field}`"):
        load("quality", folder)


def test_a_line_that_is_not_json_is_named(tmp_path: Path) -> None:
    folder = write_own(tmp_path / "q")
    with (folder / "questions.jsonl").open("a") as file:
        file.write('{"question_id": "x"')
    with pytest.raises(BadInput, match=r"questions\.jsonl, line 9: not valid JSON"):
        load("quality", folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"gold_label": 0}, "1 to 4"),
        ({"gold_label": 5}, "1 to 4"),
        ({"gold_label": True}, "expected `int | null`, got `bool` - at `$.questions[0].gold_label`"),
        ({"gold_label": None}, "the test file has no labels"),
        ({"options": []}, "expected `array` of length >= 2 - at `$.questions[0].options`"),
        ({"question": ""}, "expected `str` that is not blank - at `$.questions[0].question`"),
        ({"question_unique_id": "50001_W0_1"}, "given twice"),
    ],
)
def test_a_bad_question_of_an_official_file_is_named_by_file_and_line(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    folder = write_official(tmp_path / "q")
    rows = official_rows()["train"]
    rows[1]["questions"][0] |= change
    write_lines(folder / "QuALITY.v1.0.1.htmlstripped.train", rows)
    with pytest.raises(BadInput, match=r"htmlstripped\.train, line 2") as error:
        load("quality", folder)
    assert says in str(error.value)


def test_a_missing_official_file_is_asked_for(tmp_path: Path) -> None:
    folder = write_official(tmp_path / "q")
    (folder / "QuALITY.v1.0.1.htmlstripped.dev").unlink()
    with pytest.raises(BadInput, match=r"htmlstripped\.dev"):
        load("quality", folder)
