import asyncio
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from smt_plugin.backends.base import Reply
from smt_plugin.backends.endpoint import OpenAIBackend
from smt_plugin.benchmarks.find import load
from smt_plugin.cli.app import cli
from smt_plugin.config import RunFile
from smt_plugin.corpus import other_files, read_documents
from smt_plugin.errors import BadInput
from smt_plugin.evaluation.make_questions import make_questions, parse_questions
from smt_plugin.evaluation.question_answers import KNOWN, OTHERWISE
from smt_plugin.evaluation.question_faults import LONGEST, POINTS_AT_TEXT, Fault, read_draft
from smt_plugin.evaluation.questions_page import sentences
from smt_plugin.files import write_jsonl
from smt_plugin.generation.summary import Summary
from smt_plugin.methods.base import Unparsable
from smt_plugin.records import shard_folder
from tests.endpoint import MODEL, Endpoint, serve, serve_in_thread
from tests.endpoint import answer as training_answer
from tests.evaluation.test_question_faults import BAD, BAD_FREE, GOOD, GOOD_FREE


def examiner(prompt: str, sample: str) -> str:
    """Write three new questions a call, and another one each time again; answer them; training prompts as ever."""
    if "This is a question about" in prompt and "<given_answer>" not in prompt:
        return examinee(prompt)
    if "Set an examination" not in prompt:
        return training_answer(prompt, sample)
    story = prompt.split("\n")[1]
    rows: list[Any] = [{"question": "What is it?"}]
    for n in ("same", *(f"{sample}.{n}" for n in range(3))):
        rows.append(written(f"Who is in {story} at {n}?", n, "answered in a few words" in prompt))
    return json.dumps({"questions": rows})


honest = examiner  # tests put others in its place


def written(question: str, n: str, free_form: bool = False) -> dict[str, Any]:
    answers = (
        {"answer": f"Number {n}"}
        if free_form
        else {"right": f"Right {n}", "wrong": [f"Wrong {n} {k}" for k in range(3)]}
    )
    return {"question": question, **answers}


def examinee(prompt: str) -> str:
    """Know every right option where the document is shown, and nothing else; then say (A)."""
    right = re.search(r"^\((.)\) Right", prompt, re.MULTILINE)
    if "<document>" in prompt:
        return (
            f"The document says so. The answer is ({right[1]})."
            if right
            else f"The answer is: Number {place_of(prompt)}"
        )
    return "I guess. The answer is (A)." if right else "The answer is: nobody knows"


def place_of(prompt: str) -> str:
    return re.findall(r" at (\S+)\?\n", prompt)[-1]


def writing(endpoint: Endpoint) -> list[str]:
    """The prompts that asked for questions."""
    prompts = [body["messages"][-1]["content"] for body in endpoint.bodies]
    return [prompt for prompt in prompts if "Set an examination" in prompt]


def answering(endpoint: Endpoint) -> list[str]:
    """The prompts that asked for answers."""
    prompts = [body["messages"][-1]["content"] for body in endpoint.bodies]
    return [prompt for prompt in prompts if "This is a question about" in prompt and "<given_answer>" not in prompt]


def ask(
    run: Path,
    corpus: Path,
    per_document: int = 6,
    free_form: bool = False,
    unknown_only: bool = False,
    on_progress: Callable[[int, Summary], None] = lambda done, summary: None,
    **settings: Any,
) -> tuple[dict[str, Any], Endpoint]:
    async def main() -> tuple[dict[str, Any], Endpoint]:
        endpoint = Endpoint()
        endpoint.answer = examiner
        async with serve(endpoint):
            backend = OpenAIBackend([endpoint.url], MODEL)
            written = {"run": run, "corpus": corpus, "backend": {"kind": "microworld"}, "methods": {"wrap": {}}}
            run_file = RunFile.model_validate(written | settings)
            made = await make_questions(run_file, backend, per_document, free_form, unknown_only, on_progress)
            return made, endpoint

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
    assert len(writing(endpoint)) == 8
    assert sum("response_format" in body for body in endpoint.bodies) == 8
    # Each is answered three times with the document and three times without.
    assert sum("<document>" in prompt for prompt in answering(endpoint)) == len(answering(endpoint)) / 2 == 24 * 3


@pytest.mark.parametrize("shard", [None, (1, 2)])
def test_a_run_may_be_generated_in_shards_or_whole_after_its_questions(
    tmp_path: Path, corpus: Path, shard: tuple[int, int] | None
) -> None:
    ask(tmp_path / "run", corpus, per_document=2)
    assert shard_folder(tmp_path / "run", shard) == tmp_path / "run" / ("shards/1-of-2" if shard else "")


def test_progress_tells_every_reply_long_before_a_document_is_done(tmp_path: Path, corpus: Path) -> None:
    told: list[tuple[int, int]] = []
    _, endpoint = ask(tmp_path / "run", corpus, on_progress=lambda done, sofar: told.append((done, sofar.asked)))
    assert told == sorted(told)
    assert told[-1] == (4, len(endpoint.bodies))
    # A document takes two calls for questions and 36 for answers.
    assert len({asked for done, asked in told if not done}) > 10


def test_a_long_document_is_asked_about_part_by_part(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    pages = "\n\n".join(f"Chapter {n}\n" + f"On day {n} the ferry came late. " * 40 for n in range(8))
    (corpus / "long.txt").write_text(pages)
    _, endpoint = ask(tmp_path / "run", corpus, per_document=6, max_document_tokens=900)
    sent = [prompt.split("</document>")[0] for prompt in writing(endpoint)]
    assert len(set(sent)) > 2
    # A question is answered with the part that it was asked about.
    for prompt in answering(endpoint):
        if "<document>" in prompt:
            part, _, _ = prompt.partition("</document>")
            assert part in sent
    assert all(len(text) < len(pages) / 2 for text in sent)
    assert {question.doc_id for question in load("corpus", corpus)[1]} == {"long.txt"}
    assert len(load("corpus", corpus)[1]) == 6


def test_a_document_of_more_parts_than_questions_is_asked_about_from_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_question(prompt: str, sample: str) -> str:
        if "This is a question about" in prompt:
            return re.sub(r".*\n\((.)\) a\n.*", r"The answer is (\1).", prompt, flags=re.DOTALL)
        row = {"question": f"Who came late on day {day_of(prompt)}?", "right": "a", "wrong": ["b", "c", "d"]}
        return json.dumps({"questions": [row]})

    def day_of(prompt: str) -> int:
        return int(prompt.split("Day ")[1].split(".")[0])

    monkeypatch.setattr("tests.evaluation.test_make_questions.examiner", one_question)
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "long.txt").write_text("\n\n".join(f"Day {n}. " + "The ferry came late. " * 40 for n in range(40)))
    _, endpoint = ask(tmp_path / "run", corpus, per_document=4, max_document_tokens=900)
    days = [day_of(prompt) for prompt in writing(endpoint)]
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
    path = corpus / "documents.jsonl"
    path.write_bytes(path.read_bytes().replace(b"the", b"any"))
    assert len(load("corpus", corpus)[1]) == 24
    assert "are not those that" in capsys.readouterr().err


def test_questions_that_are_there_are_frozen_also_where_a_call_was_killed_right_after_writing_them(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_and_die(path: Path, rows: list[dict[str, Any]]) -> None:
        write_jsonl(path, rows)
        if path.name == "questions.jsonl":
            raise KeyboardInterrupt

    monkeypatch.setattr("smt_plugin.evaluation.make_questions.write_jsonl", write_and_die)
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
    monkeypatch.setattr("tests.evaluation.test_make_questions.examiner", lambda prompt, sample: "I would rather not.")
    with pytest.raises(BadInput, match=r"wrote no usable question .*not JSON"):
        ask(tmp_path / "other", corpus)
    assert not (corpus / "questions.jsonl").exists()


def test_a_reply_without_one_question_in_the_form_is_asked_for_again() -> None:
    good = {"question": "Who?", "right": "A", "wrong": ["B", "C", "D"]}
    bad = {"question": "Who?", "answer": "A"}
    assert parse_questions(Reply(json.dumps({"questions": [bad, good]}), "stop", 0, 0, 0), free_form=False) == [
        bad,
        good,
    ]
    with pytest.raises(Unparsable, match="no question with four options"):
        parse_questions(Reply(json.dumps({"questions": [bad, "Who?"]}), "stop", 0, 0, 0), free_form=False)


@pytest.mark.parametrize("free_form", [True, False])
def test_a_question_that_was_cut_off_anywhere_is_dropped_and_those_before_it_are_kept(free_form: bool) -> None:
    answers: dict[str, Any] = {"answer": "A"} if free_form else {"right": "A", "wrong": ["B", "C", "D"]}
    rows = [{"question": f"{name}?", **answers} for name in ("Who", "Where")]
    text = json.dumps({"questions": rows})
    # Behind the third wrong option a question is whole, closed or not.
    for end in range(text.index("}, {") + 1, text.rindex('"')):
        found = parse_questions(Reply(text[:end], "length", 0, 0, 0), free_form)
        assert found[0] == rows[0]
        assert all(isinstance(read_draft(row, "d", 0, free_form), Fault) for row in found[1:])
    assert parse_questions(Reply(json.dumps(rows), "stop", 0, 0, 0), free_form) == rows


def about(rows: list[Any], known: Callable[[str], bool] = lambda question: False) -> Callable[[str, str], str]:
    """A model that writes these questions about the first document, and others about the rest.

    It always answers rightly with the document, and without it where `known` says so of the question.
    """
    right = {row["question"]: str(row.get("right") or row.get("answer")) for row in rows if isinstance(row, dict)}

    def reply(prompt: str, sample: str) -> str:
        if "Set an examination" in prompt and "Story 1" in prompt:
            return json.dumps({"questions": rows})
        question = next((text for text in right if f"\n\n{text}\n" in prompt), None)
        if question is None or "Set an examination" in prompt or "<given_answer>" in prompt:
            return honest(prompt, sample)
        if "<document>" not in prompt and not known(question):
            return "The answer is (A)." if "\n(A) " in prompt else "The answer is: nobody knows"
        letter = re.search(rf"^\((.)\) {re.escape(right[question])}$", prompt, re.MULTILINE)
        return f"The answer is ({letter[1]})." if letter else f"The answer is: {right[question]}"

    return reply


def dropped(corpus: Path, doc_id: str = "d1") -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (corpus / "questions.dropped.jsonl").read_text().splitlines()]
    return [row for row in rows if row["doc_id"] == doc_id]


@pytest.mark.parametrize(("free_form", "bad", "good"), [(False, BAD, GOOD), (True, BAD_FREE, GOOD_FREE)])
def test_of_bad_and_good_questions_the_bad_are_dropped_with_their_reasons_and_the_good_stay(
    tmp_path: Path,
    corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
    free_form: bool,
    bad: list[tuple[str, Any]],
    good: list[Any],
) -> None:
    rows = [*(row for _, row in bad), *good]
    monkeypatch.setattr("tests.evaluation.test_make_questions.examiner", about(rows))
    manifest, endpoint = ask(tmp_path / "run", corpus, len(good), free_form)
    questions = [question for question in load("corpus", corpus)[1] if question.doc_id == "d1"]
    assert [question.question for question in questions] == [row["question"] for row in good]
    found = dropped(corpus)
    assert [(row["reason"], row["written"]) for row in found[: len(bad)]] == [(reason, row) for reason, row in bad]
    counted = Counter(json.loads(line)["reason"] for line in (corpus / "questions.dropped.jsonl").open())
    assert manifest["dropped"] == counted
    # No answer is paid for to a question that its own words condemn.
    about_first = [prompt for prompt in answering(endpoint) if 'question about "Story 1".' in prompt]
    assert len(about_first) == len(good) * 6


def test_a_question_stays_only_if_most_answers_with_the_document_are_the_right_one(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [written(f"Who came at {n}?", n) for n in ("dawn", "noon", "dusk", "night")]
    for row in rows:
        row["wrong"] = ["Ida Holm", "Piet Aker", "Nils Berg"]
    turns: Counter[str] = Counter()

    def reply(prompt: str, sample: str) -> str:
        if "<document>" in prompt and "This is a question about" in prompt:
            place = place_of(prompt)
            turns[place] += 1
            # The first option, wherever the right one stands; one slip of three; another option each time; no option.
            if place == "dawn":
                return "The answer is (A)."
            if place == "noon" and turns[place] == 1:
                return "It was Ida Holm. The answer is Ida Holm."
            if place == "dusk":
                return "The answer is Piet Aker."
            if place == "night":
                return "The document bears out none of the options."
        return about(rows)(prompt, sample)

    monkeypatch.setattr("tests.evaluation.test_make_questions.examiner", reply)
    ask(tmp_path / "run", corpus, 4)
    assert [q.question for q in load("corpus", corpus)[1] if q.doc_id == "d1"] == ["Who came at noon?"]
    reasons = {row["written"]["question"]: row["reason"] for row in dropped(corpus) if "with_document" in row}
    assert reasons == {f"Who came at {n}?": OTHERWISE for n in ("dawn", "dusk", "night")}
    stated = {row["written"]["question"]: row["with_document"] for row in dropped(corpus) if "with_document" in row}
    assert stated["Who came at dusk?"] == ["Piet Aker"] * 3
    assert stated["Who came at night?"] == [None] * 3


FACTS = [
    {"question": "What is the capital of Austria?", "right": "Vienna", "wrong": ["Graz", "Linz", "Bonn"]},
    {"question": "Who wrote Hamlet?", "right": "Shakespeare", "wrong": ["Marlowe", "Jonson", "Milton"]},
]


@pytest.mark.parametrize("unknown_only", [False, True])
def test_facts_of_the_world_are_told_as_a_rate_and_dropped_only_if_wanted(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, unknown_only: bool
) -> None:
    rows = [*FACTS, *GOOD[:4]]
    facts = {row["question"] for row in FACTS}
    monkeypatch.setattr("tests.evaluation.test_make_questions.examiner", about(rows, lambda text: text in facts))
    manifest, _ = ask(tmp_path / "run", corpus, 6, unknown_only=unknown_only)
    kept = {question.question: question for question in load("corpus", corpus)[1]}
    known = manifest["known"]
    assert (known["always"], known["questions"], known["documents"], known["samples"]) == (2, 24, 4, 3)
    assert 0 <= known["low"] < known["rate"] < known["high"] <= 1
    assert known["rate"] == pytest.approx(sum([2, *(q.meta["known"] for t, q in kept.items() if t not in facts)]) / 24)
    if unknown_only:
        assert not facts & kept.keys()
        assert [row["written"] for row in dropped(corpus) if row["reason"] == KNOWN] == FACTS
        assert manifest["short"] == ["d1"]
    else:
        assert [kept[text].meta["known"] for text in sorted(facts)] == [1, 1]
        assert KNOWN not in manifest["dropped"]
    said = " ".join(sentences(manifest))
    assert f"known already: {known['rate']:.1%} of the answers without the document are right (95 % interval" in said
    assert "24 questions, 4 documents, 3 answers each; chance 25%" in said


def test_without_the_extra_that_has_the_statistics_the_rate_says_that_its_interval_needs_it(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smt_plugin.evaluation.make_questions.find_spec", lambda name: None)
    manifest, _ = ask(tmp_path / "run", corpus, 2)
    assert (manifest["known"]["low"], manifest["known"]["high"]) == (None, None)
    assert "(the interval needs the `eval` extra; 8 questions, 4 documents, 3 answers each" in sentences(manifest)[1]
    code = "import sys; sys.modules.update(numpy=None, scipy=None); import smt_plugin.evaluation.make_questions"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_free_answers_are_compared_by_code_and_else_by_the_backend_with_the_judges_prompt(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"question": "Who came first?", "answer": "Ida Holm"},
        {"question": "What did the pier cost, in dollars?", "answer": "2 million"},
        {"question": "Why did Marta leave?", "answer": "the farm was sold"},
        {"question": "Where did Jonas sleep?", "answer": "in the mill"},
    ]
    answers = ("IDA HOLM.", "$2,000,000", "They sold it", "In the tower")
    said = dict(zip((row["question"] for row in rows), answers, strict=True))
    judged: list[str] = []

    def reply(prompt: str, sample: str) -> str:
        if "<given_answer>" in prompt:
            judged.append(prompt)
            assert "document you are given" not in prompt
            return f"It fits.\nVERDICT: {'CORRECT' if 'They sold it' in prompt else 'WRONG'}"
        question = next((text for text in said if f"\n\n{text}\n" in prompt), "")
        if question and "<document>" in prompt:
            return f"The answer is: {said[question]}"
        return about(rows)(prompt, sample)

    monkeypatch.setattr("tests.evaluation.test_make_questions.examiner", reply)
    ask(tmp_path / "run", corpus, 4, free_form=True)
    kept = [question.question for question in load("corpus", corpus)[1] if question.doc_id == "d1"]
    assert kept == [row["question"] for row in rows[:3]]
    # One verdict serves all samples that say the same; what code compares is judged by none.
    about_first = [prompt for prompt in judged if "Story 1" in prompt]
    assert not any("IDA HOLM" in prompt or "2,000,000" in prompt for prompt in about_first)
    assert sum("They sold it" in prompt for prompt in about_first) == 1


def test_without_the_document_no_text_speaks_of_one(tmp_path: Path, corpus: Path) -> None:
    _, endpoint = ask(tmp_path / "run", corpus)
    for body in endpoint.bodies:
        shown = "<document>" in body["messages"][-1]["content"]
        assert [message["role"] for message in body["messages"]] == (["system", "user"] if shown else ["user"])
        assert shown or "tells of the number" not in body["messages"][-1]["content"]


def test_right_options_that_are_too_often_the_longest_are_dropped_and_made_up_for(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reply(prompt: str, sample: str) -> str:
        if "Set an examination" not in prompt:
            return honest(prompt, sample)
        story, call = prompt.split("\n")[1], int(sample)
        rows = [written(f"Who is in {story} on day {call}.{n}?", f"{call}.{n}") for n in range(8)]
        for n, row in enumerate(rows):
            # Of the first call's, all are the longest; of later calls' one in four.
            row["right"] += " indeed" if call == 1 or n % 4 == 0 else ""
        return json.dumps({"questions": rows})

    monkeypatch.setattr("tests.evaluation.test_make_questions.examiner", reply)
    manifest, _ = ask(tmp_path / "run", corpus, 8)
    assert manifest["questions"] == 32
    assert manifest["dropped"][LONGEST] > 12
    assert manifest["longest"]["share"] < 0.45
    assert f"the right option is the longest in {manifest['longest']['share']:.1%} of 32 questions" in " ".join(
        sentences(manifest)
    )


def test_right_options_stand_in_each_place_equally_often_and_not_in_turn(tmp_path: Path, corpus: Path) -> None:
    ask(tmp_path / "run", corpus)
    places = [question.answer for question in load("corpus", corpus)[1]]
    assert Counter(places) == dict.fromkeys(range(4), 6)
    assert len({tuple(places[start : start + 4]) for start in range(0, 24, 4)}) > 3


def test_the_page_shows_kept_and_dropped_questions_as_text_and_loads_nothing(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"question": "Who wrote <script>alert(1)</script>?", "right": "Ida & Co", "wrong": ["A<b>", "Piet", "Nils"]},
        {"question": 'Who said "I <i>am</i>" on page 3?', "right": "Ida", "wrong": ["Jo", "Piet", "Nils \ud800"]},
        "no <question>",
    ]
    monkeypatch.setattr("tests.evaluation.test_make_questions.examiner", about(rows))
    ask(tmp_path / "run", corpus, 3)
    page = (corpus / "questions.html").read_text()
    texts = [
        "Who wrote &lt;script&gt;alert(1)",
        "Ida &amp; Co &#10003;",
        "A&lt;b&gt;",
        "&lt;i&gt;am",
        "no &lt;question&gt;",
    ]
    for shown in texts:
        assert shown in page, shown
    assert "<script" not in page
    assert not re.search(r"https?:|src=|href=|@import|url\(", page)
    assert "Story 1" in page
    assert "tells of the number" not in page
    assert POINTS_AT_TEXT in page
    assert "on page 3" in page


def test_a_corpus_folder_of_texts_is_read_as_before_with_all_that_was_written_into_it(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for n in range(3):
        (corpus / f"story{n}.txt").write_text("The ferry came late. " * 20)
    ask(tmp_path / "run", corpus)
    names = {path.name for path in corpus.iterdir() if path.suffix != ".txt"}
    assert names == {"questions.jsonl", "questions.manifest.json", "questions.dropped.jsonl", "questions.html"}
    assert [document.id for document in read_documents(corpus)] == ["story0.txt", "story1.txt", "story2.txt"]
    assert other_files(corpus) == {}
    assert len(load("corpus", corpus)[1]) == 18


def test_what_was_dropped_is_there_also_where_nothing_is_left(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reply(prompt: str, sample: str) -> str:
        row = {"question": "Who is named on page 3?", "right": "Ida", "wrong": ["Jo", "Piet", "Nils"]}
        return json.dumps({"questions": [row]})

    monkeypatch.setattr("tests.evaluation.test_make_questions.examiner", reply)
    with pytest.raises(
        BadInput, match=r"wrote no usable question .*16 x points at the text.*questions\.dropped\.jsonl"
    ):
        ask(tmp_path / "run", corpus)
    assert len(dropped(corpus)) == 4
    assert not (corpus / "questions.jsonl").exists()


def test_a_dry_run_says_tokens_and_money_and_asks_nothing(tmp_path: Path, corpus: Path) -> None:
    with serve_in_thread(examiner) as server:
        run_file = tmp_path / "smt.yaml"
        run_file.write_text(
            f"run: run\ncorpus: corpus\nbackend: {{endpoints: ['{server.url}'], model: {MODEL}}}\n"
            "methods: {synthetic_qa: {tokens: 400}}\nprice: {input: 1, cached: 0.1, output: 4}\n"
        )
        command = ["questions", str(run_file), "--per-document", "5"]
        planned = CliRunner().invoke(cli, [*command, "--dry-run"])
        assert planned.exit_code == 0, planned.output
        assert server.bodies == []
        assert not (tmp_path / "run" / "completions.sqlite").exists()
        rows = {line.split()[0]: line.split()[1:] for line in planned.output.splitlines() if line.strip()}
        # One call of five questions a document; five questions, three answers each.
        assert {name: rows[f"questions/{name}"][0] for name in ("multiple_choice", "answer", "recall")} == {
            "multiple_choice": "4",
            "answer": "60",
            "recall": "60",
        }
        assert re.search(r"^money: \d+\.\d\d USD", planned.output, re.MULTILINE)
        made = CliRunner().invoke(cli, command)
        assert made.exit_code == 0, made.output
        assert len(writing(server)) == 8
        assert Counter("<document>" in prompt for prompt in answering(server)) == {True: 60, False: 60}
        (corpus / "questions.jsonl").unlink()
        again = CliRunner().invoke(cli, [*command, "--dry-run"])
    rows = {line.split()[0]: line.split()[1:] for line in again.output.splitlines() if line.strip()}
    assert [rows[name][:3] for name in ("questions/answer", "questions/recall")] == [["60", "60", "0"]] * 2
    assert "Sizes are means over 128 completions of this run." in again.output


def test_by_command_before_generation_which_then_leaves_the_set_alone(tmp_path: Path, corpus: Path) -> None:
    with serve_in_thread(examiner) as server:
        run_file = tmp_path / "smt.yaml"
        run_file.write_text(
            f"run: run\ncorpus: corpus\nbackend: {{endpoints: ['{server.url}'], model: {MODEL}}}\n"
            "methods: {synthetic_qa: {tokens: 400}}\n"
        )
        made = CliRunner().invoke(cli, ["questions", str(run_file), "--per-document", "5"])
        assert made.exit_code == 0, made.output
        assert "20 questions about 4 documents kept, " in made.output
        assert "look at a sample of them in" in made.output
        before = (corpus / "questions.jsonl").read_bytes()
        generated = CliRunner().invoke(cli, ["generate", str(run_file)])
        assert generated.exit_code == 0, generated.output
        assert (corpus / "questions.jsonl").read_bytes() == before
        (corpus / "questions.jsonl").unlink()
        late = CliRunner().invoke(cli, ["questions", str(run_file)])
    assert isinstance(late.exception, BadInput)
    assert "questions are to be fixed before any training text is made" in str(late.exception)
