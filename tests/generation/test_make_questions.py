import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from smt_plugin.backends.base import Reply
from smt_plugin.backends.endpoint import OpenAIBackend
from smt_plugin.benchmarks.find import load
from smt_plugin.cli.app import cli
from smt_plugin.config import RunFile
from smt_plugin.errors import BadInput
from smt_plugin.files import write_jsonl
from smt_plugin.generation.make_questions import make_questions, parse_questions
from smt_plugin.methods.base import Unparsable
from tests.endpoint import MODEL, Endpoint, serve, serve_in_thread
from tests.endpoint import answer as training_answer


def examiner(prompt: str, sample: str) -> str:
    """Write three new questions a call, and another one each time again; training prompts as ever."""
    if "Set an examination" not in prompt:
        return training_answer(prompt, sample)
    story = prompt.split("\n")[1]
    rows: list[dict[str, Any]] = [{"question": "What is it?"}]
    for n in ("same", *(f"{sample}.{n}" for n in range(3))):
        question = {"question": f"Who is in {story} at {n}?"}
        if "answered in a few words" in prompt:
            rows.append({**question, "answer": f"Number {n}"})
        else:
            rows.append({**question, "right": f"Right {n}", "wrong": [f"Wrong {n} {k}" for k in range(3)]})
    return json.dumps({"questions": rows})


def ask(
    run: Path, corpus: Path, per_document: int = 6, free_form: bool = False, **settings: Any
) -> tuple[dict[str, Any], Endpoint]:
    async def main() -> tuple[dict[str, Any], Endpoint]:
        endpoint = Endpoint()
        endpoint.answer = examiner
        async with serve(endpoint):
            backend = OpenAIBackend([endpoint.url], MODEL)
            written = {"run": run, "corpus": corpus, "backend": {"kind": "microworld"}, "methods": {"wrap": {}}}
            run_file = RunFile.model_validate(written | settings)
            return await make_questions(run_file, backend, per_document, free_form), endpoint

    return asyncio.run(main())


def test_each_document_gets_its_questions_with_one_right_option_in_changing_places(
    tmp_path: Path, corpus: Path
) -> None:
    manifest, endpoint = ask(tmp_path / "run", corpus)
    _, questions = load("corpus", corpus)
    assert [question.doc_id for question in questions] == [f"d{n}" for n in range(1, 5) for _ in range(6)]
    assert len({question.question for question in questions}) == 24
    for question in questions:
        assert question.options is not None
        assert isinstance(question.answer, int)
        assert question.options[question.answer].startswith("Right")
        assert sum(option.startswith("Wrong") for option in question.options) == 3
    assert len({question.answer for question in questions}) == 4
    assert (manifest["questions"], manifest["short"], manifest["model"]) == (24, [], MODEL)
    # Four questions a call, one of them the same, in two calls a document; the schema goes along.
    assert len(endpoint.bodies) == 8
    assert all("response_format" in body for body in endpoint.bodies)


def test_a_long_document_is_asked_about_part_by_part(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    pages = "\n\n".join(f"Chapter {n}\n" + f"On day {n} the ferry came late. " * 40 for n in range(8))
    (corpus / "long.txt").write_text(pages)
    _, endpoint = ask(tmp_path / "run", corpus, per_document=6, max_document_tokens=900)
    sent = [body["messages"][-1]["content"].split("</document>")[0] for body in endpoint.bodies]
    assert len(set(sent)) > 2
    assert all(len(text) < len(pages) / 2 for text in sent)
    assert {question.doc_id for question in load("corpus", corpus)[1]} == {"long.txt"}
    assert len(load("corpus", corpus)[1]) == 6


def test_a_document_of_more_parts_than_questions_is_asked_about_from_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_question(prompt: str, sample: str) -> str:
        row = {"question": f"Who came late on day {day_of(prompt)}?", "right": "a", "wrong": ["b", "c", "d"]}
        return json.dumps({"questions": [row]})

    def day_of(prompt: str) -> int:
        return int(prompt.split("Day ")[1].split(".")[0])

    monkeypatch.setattr("tests.generation.test_make_questions.examiner", one_question)
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "long.txt").write_text("\n\n".join(f"Day {n}. " + "The ferry came late. " * 40 for n in range(40)))
    _, endpoint = ask(tmp_path / "run", corpus, per_document=4, max_document_tokens=900)
    days = [day_of(body["messages"][-1]["content"]) for body in endpoint.bodies]
    assert days == sorted(days)
    assert len(days) == 4
    assert days[0] == 0
    assert days[-1] > 25


def test_free_form_questions_have_a_text_for_an_answer(tmp_path: Path, corpus: Path) -> None:
    ask(tmp_path / "run", corpus, free_form=True)
    assert {(question.options, str(question.answer)[:6]) for question in load("corpus", corpus)[1]} == {
        (None, "Number")
    }


def test_the_set_is_frozen_and_neither_made_again_nor_changed_unseen(tmp_path: Path, corpus: Path) -> None:
    ask(tmp_path / "run", corpus)
    path = corpus / "questions.jsonl"
    before = path.read_bytes()
    with pytest.raises(BadInput, match=r"questions\.jsonl is there already"):
        ask(tmp_path / "run", corpus)
    path.write_bytes(before.replace(b"Right", b"right", 1))
    with pytest.raises(BadInput, match="has changed since `smt questions` froze it"):
        load("corpus", corpus)
    path.write_bytes(before)
    assert len(load("corpus", corpus)[1]) == 24


def test_documents_that_changed_since_the_set_was_made_are_said(
    tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(tmp_path / "run", corpus)
    load("corpus", corpus)
    assert capsys.readouterr().err == ""
    path = next(path for path in corpus.iterdir() if not path.name.startswith("questions"))
    path.write_bytes(path.read_bytes().replace(b"the", b"any"))
    assert len(load("corpus", corpus)[1]) == 24
    assert "are not those that" in capsys.readouterr().err


def test_questions_that_are_there_are_frozen_also_where_a_call_was_killed_right_after_writing_them(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_and_die(path: Path, rows: list[dict[str, Any]]) -> None:
        write_jsonl(path, rows)
        raise KeyboardInterrupt

    monkeypatch.setattr("smt_plugin.generation.make_questions.write_jsonl", write_and_die)
    with pytest.raises(KeyboardInterrupt):
        ask(tmp_path / "run", corpus)
    path = corpus / "questions.jsonl"
    assert len(load("corpus", corpus)[1]) == 24
    path.write_bytes(path.read_bytes().replace(b"Right", b"right", 1))
    with pytest.raises(BadInput, match="has changed since `smt questions` froze it"):
        load("corpus", corpus)


@pytest.mark.parametrize("folder", ["records", "shards/1-of-2/records"])
def test_no_questions_are_made_in_a_run_that_holds_records(tmp_path: Path, corpus: Path, folder: str) -> None:
    write_jsonl(tmp_path / "run" / folder / "synthetic_qa.jsonl", [{"id": "r1"}])
    with pytest.raises(BadInput, match="holds records already"):
        ask(tmp_path / "run", corpus)


def test_a_call_that_was_stopped_goes_on_from_the_store(tmp_path: Path, corpus: Path) -> None:
    ask(tmp_path / "run", corpus)
    first = (corpus / "questions.jsonl").read_bytes()
    (corpus / "questions.jsonl").unlink()
    _, endpoint = ask(tmp_path / "run", corpus)
    assert endpoint.bodies == []
    assert (corpus / "questions.jsonl").read_bytes() == first


def test_a_document_that_yields_too_few_is_reported_and_a_set_without_questions_refused(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, _ = ask(tmp_path / "run", corpus, per_document=40)
    assert manifest["short"] == ["d1", "d2", "d3", "d4"]
    (corpus / "questions.jsonl").unlink()
    monkeypatch.setattr("tests.generation.test_make_questions.examiner", lambda prompt, sample: "I would rather not.")
    with pytest.raises(BadInput, match=r"wrote no usable question .*not JSON"):
        ask(tmp_path / "other", corpus)
    assert not (corpus / "questions.jsonl").exists()


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Who?", "right": "A", "wrong": ["B", "C"]},
        {"question": "Who?", "right": "A", "wrong": ["B", "C", "a."]},
        {"question": " ", "right": "A", "wrong": ["B", "C", "D"]},
        {"question": "Who?", "right": "A", "wrong": "BCD"},
        {"question": "Who?", "answer": "A"},
        "Who?",
    ],
)
def test_a_question_without_four_different_options_is_left_out(row: Any) -> None:
    good = {"question": "Who?", "right": "A", "wrong": ["B", "C", "D"]}
    reply = Reply(json.dumps({"questions": [row, good]}), "stop", 0, 0, 0)
    assert parse_questions(reply, free_form=False) == [good]
    with pytest.raises(Unparsable, match="four different options"):
        parse_questions(Reply(json.dumps({"questions": [row]}), "stop", 0, 0, 0), free_form=False)


@pytest.mark.parametrize("free_form", [True, False])
def test_a_question_that_was_cut_off_anywhere_is_dropped_and_those_before_it_are_kept(free_form: bool) -> None:
    answers: dict[str, Any] = {"answer": "A"} if free_form else {"right": "A", "wrong": ["B", "C", "D"]}
    rows = [{"question": f"{name}?", **answers} for name in ("Who", "Where")]
    text = json.dumps({"questions": rows})
    # Behind the third wrong option a question is whole, closed or not.
    for end in range(text.index("}, {") + 1, text.rindex('"')):
        assert parse_questions(Reply(text[:end], "length", 0, 0, 0), free_form) == rows[:1]
    assert parse_questions(Reply(json.dumps(rows), "stop", 0, 0, 0), free_form) == rows


def test_by_command_before_generation_which_then_leaves_the_set_alone(tmp_path: Path, corpus: Path) -> None:
    with serve_in_thread(examiner) as server:
        run_file = tmp_path / "smt.yaml"
        run_file.write_text(
            f"run: run\ncorpus: corpus\nbackend: {{endpoints: ['{server.url}'], model: {MODEL}}}\n"
            "methods: {synthetic_qa: {tokens: 400}}\n"
        )
        made = CliRunner().invoke(cli, ["questions", str(run_file), "--per-document", "5"])
        assert made.exit_code == 0, made.output
        assert "20 questions about 4 documents" in made.output
        before = (corpus / "questions.jsonl").read_bytes()
        generated = CliRunner().invoke(cli, ["generate", str(run_file)])
        assert generated.exit_code == 0, generated.output
        assert (corpus / "questions.jsonl").read_bytes() == before
        (corpus / "questions.jsonl").unlink()
        late = CliRunner().invoke(cli, ["questions", str(run_file)])
    assert isinstance(late.exception, BadInput)
    assert "questions are to be fixed before any training text is made" in str(late.exception)


def test_options_that_differ_in_their_vowel_signs_are_different() -> None:
    row = {"question": "क्या?", "right": "दिन", "wrong": ["दीन", "दान", "दून"]}
    reply = Reply(json.dumps({"questions": [row]}), "stop", 0, 0, 0)
    assert parse_questions(reply, free_form=False) == [row]
