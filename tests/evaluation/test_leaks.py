from collections import defaultdict
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner
from msgspec import structs
from msgspec.structs import asdict

from smt_plugin.cli.app import cli
from smt_plugin.config import LeaksSection
from smt_plugin.corpus import Document, read_documents
from smt_plugin.errors import BadInput
from smt_plugin.evaluation.leaks import (
    dropped_from_mix,
    find_leaks,
    leaking_records,
    read_leaks,
)
from smt_plugin.files import read_jsonl
from smt_plugin.question import Question, read_questions
from smt_plugin.rejects import Verdict, add_verdicts
from smt_plugin.report.results import leaks_text
from tests.quality_data import write_lines
from tests.tiny_llama import MICROWORLD_LIKE, make_model, make_tokenizer

QUESTIONS = [
    Question("kites", "d", "How many kites did Oru fly over the old mill that day?", ["8", "9"], 1),
    Question("pears", "d", "What did the captain of the late ferry bring to Holm?", ["Pears", "Figs"], 0),
    Question("who", "d", "Who won?", ["Oru", "Yun"], 0),
]


DOCUMENT = Document("d", "The Late Ferry", "Yun brought pears to Holm. Oru flew nine kites over the mill.")


def write_records(run: Path, rows: list[dict[str, Any]]) -> None:
    (run / "records").mkdir(parents=True, exist_ok=True)
    numbered = [{"id": f"r{number}", "doc_id": "d"} | row for number, row in enumerate(rows)]
    write_lines(run / "records" / "synthetic_qa.jsonl", numbered)


def pair(question: str, answer: str = "It is so.") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def test_a_question_asked_again_in_nearly_the_same_words_is_a_leak_and_another_is_not(tmp_path: Path) -> None:
    write_records(
        tmp_path,
        [
            pair("So how many kites did Oru fly over the old mill that one day?"),
            pair("What did the ferry carry, and who was its captain?"),
            pair("Who won the race of Holm?"),
        ],
    )
    leaks = find_leaks(tmp_path, [DOCUMENT], QUESTIONS)
    # The race is another question than a short one whose words it holds.
    assert leaks["asked"].keys() == {"kites"}
    assert (leaks["leaked"], leaks["questions"]) == (["kites"], 3)
    assert read_leaks(tmp_path) == leaks


def test_a_rewrite_leaks_by_the_question_it_was_made_for_and_by_quoting_one(tmp_path: Path) -> None:
    text = "They all asked: what did the captain of the late ferry bring to Holm? Nobody could say who won."
    write_records(tmp_path, [{"text": text, "messages": None}, {"text": "Kites.", "question": QUESTIONS[0].question}])
    leaks = find_leaks(tmp_path, [DOCUMENT], QUESTIONS)
    # Nobody asks "Who won?" there.
    assert (leaks["asked"], leaks["quoted"]) == ({"kites": 1.0, "pears": 1.0}, {"pears": 1.0})


def test_what_was_found_does_not_outlive_the_records(tmp_path: Path) -> None:
    assert read_leaks(tmp_path) is None
    with pytest.raises(BadInput, match=r"run `smt generate RUN\.YAML` first"):
        find_leaks(tmp_path, [DOCUMENT], QUESTIONS)
    write_records(tmp_path, [pair("Who won?")])
    find_leaks(tmp_path, [DOCUMENT], QUESTIONS)
    write_records(tmp_path, [pair("Who won, then?")])
    assert read_leaks(tmp_path) is None


def test_a_question_of_the_same_pattern_about_another_document_is_no_leak(tmp_path: Path) -> None:
    other = Document("e", "The Lamp", "Ana lit a lamp in Holm.")
    write_records(tmp_path, [pair(QUESTIONS[0].question) | {"doc_id": "e"}, pair("Who won?") | {"doc_id": "e"}])
    assert find_leaks(tmp_path, [DOCUMENT, other], QUESTIONS)["leaked"] == []


def test_a_short_question_asked_in_a_long_text_is_a_leak(tmp_path: Path) -> None:
    write_records(tmp_path, [{"text": "It was late. Who won? They went home, and the ferry left without them."}])
    assert find_leaks(tmp_path, [DOCUMENT], QUESTIONS)["leaked"] == ["who"]


def test_statements_and_options_leak_a_question_and_are_named_so(tmp_path: Path) -> None:
    texts = ["That day Oru did fly fifty kites over the old mill.", "The captain brought pears, for sure."]
    write_records(tmp_path, [{"text": text} for text in texts])
    leaks = find_leaks(tmp_path, [DOCUMENT], [structs.replace(QUESTIONS[0], options=["9", "50"])])
    assert (list(leaks["stated"]), leaks["leaking_records"]) == (["kites"], 1)
    ((_, row),) = read_jsonl(tmp_path / "leaks.jsonl")
    assert row["reason"].startswith("states, nearly in its words, evaluation question kites (")


def test_the_labelled_records_are_told_apart(tmp_path: Path) -> None:
    """Without the forms that only a better embedder finds; the script prints the whole table."""
    folder = Path(__file__).parents[2] / "benchmarks" / "leaks"
    documents = list(read_documents(folder))
    rows = [row for _, row in read_jsonl(folder / "records.jsonl")]
    write_records(tmp_path, rows)
    find_leaks(tmp_path, documents, read_questions(folder / "questions.jsonl", documents))
    found = {row["id"]: row["question_id"] for _, row in read_jsonl(tmp_path / "leaks.jsonl")}
    hits: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        hits[row["form"]].append(found.get(row["id"]) == row["leaks"])
    clean = hits.pop("clean") + hits.pop("clean, of another document")
    assert len(clean) > 200
    assert sum(clean) / len(clean) > 0.98
    by_words = hits.keys() - {"heavy paraphrase", "German", "French", "Spanish", "Chinese"}
    assert len(by_words) > 17
    assert [form for form in by_words if sum(hits[form]) < 0.8 * len(hits[form])] == []


def test_what_an_older_version_found_is_looked_for_anew(tmp_path: Path) -> None:
    write_records(tmp_path, [pair("Who won?")])
    leaks = find_leaks(tmp_path, [DOCUMENT], QUESTIONS)
    (tmp_path / "leaks.json").write_bytes(orjson.dumps({key: leaks[key] for key in leaks if key != "looked_for"}))
    assert read_leaks(tmp_path) is None
    (tmp_path / "leaks.jsonl").write_text("")
    assert leaking_records(tmp_path, [DOCUMENT], QUESTIONS).keys() == {"r0"}


def test_an_embedding_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    write_records(tmp_path, [pair("Who won?")])
    with pytest.raises(BadInput, match=r"the embedding model '/no/model' cannot be loaded"):
        find_leaks(tmp_path, [DOCUMENT], QUESTIONS, None, LeaksSection(embedding="/no/model"))


def test_other_options_or_settings_make_leaks_looked_for_anew(tmp_path: Path) -> None:
    write_records(tmp_path, [pair("What did the late ferry's captain bring along to Holm?", "The answer is pears.")])
    strict = LeaksSection(alike=1, alike_told=1)
    assert leaking_records(tmp_path, [DOCUMENT], QUESTIONS[:1], None, strict) == {}
    write_records(tmp_path, [{"text": "So they say: forty, fifty, sixty, seventy."}])
    assert leaking_records(tmp_path, [DOCUMENT], QUESTIONS[:1]) == {}
    options = ["40", "50", "60", "70"]
    assert leaking_records(tmp_path, [DOCUMENT], [structs.replace(QUESTIONS[0], options=options)]).keys() == {"r0"}


def test_a_question_in_other_words_about_the_same_document_is_a_leak_by_its_embedding(tmp_path: Path) -> None:
    reworded = 'In "The Late Ferry": what was it that the late ferry\'s captain brought to Holm?'
    write_records(
        tmp_path,
        [pair(reworded), pair(reworded) | {"doc_id": "other"}, pair('Who owned the mill in "The Late Ferry"?')],
    )
    leaks = find_leaks(tmp_path, [DOCUMENT], QUESTIONS)
    assert (leaks["asked"], leaks["quoted"], list(leaks["alike"])) == ({}, {}, ["pears"])
    assert (leaks["leaked"], leaks["leaking_records"]) == (["pears"], 1)


def test_the_records_that_leak_are_named_with_the_reason_and_looked_for_anew_when_they_change(tmp_path: Path) -> None:
    focal = {"text": "Kites, told at length.", "question": QUESTIONS[0].question}
    write_records(tmp_path, [pair("What colour was the mill?"), focal, pair(QUESTIONS[1].question)])
    dropped = leaking_records(tmp_path, [DOCUMENT], QUESTIONS)
    assert dropped == {
        "r1": "nearly asks evaluation question kites (1.00)",
        "r2": "nearly asks evaluation question pears (1.00)",
    }
    assert leaking_records(tmp_path, [DOCUMENT], QUESTIONS[:1]).keys() == {"r1"}
    write_records(tmp_path, [pair("What colour was the mill?")])
    assert leaking_records(tmp_path, [DOCUMENT], QUESTIONS) == {}


def test_the_mix_leaves_leaking_records_out_focal_ones_by_their_question_and_says_so(tmp_path: Path) -> None:
    run = tmp_path / "run"
    rows = [pair(f"What stands on sign {n}?", f"It says {n * 7919}. The answer is {n * 7919}.") for n in range(30)]
    write_records(run, [row | {"round": n, "index": 0} for n, row in enumerate([*rows, pair(QUESTIONS[0].question)])])
    texts = [f"Sign {n} says {n * 7919}, and nobody on the pier knows why." for n in range(30)]
    focal = [
        {
            "id": f"f{n}",
            "doc_id": "d",
            "round": n,
            "index": 0,
            "text": text,
            "question": QUESTIONS[1 if n == 4 else 2].question,
        }
        for n, text in enumerate(texts)
    ]
    for row in focal[:4] + focal[5:]:
        row["question"] = "What is on the signs of the pier?"
    write_lines(run / "records" / "focal_rewrite.jsonl", focal)
    data = tmp_path / "data"
    data.mkdir()
    write_lines(data / "documents.jsonl", [{"doc_id": "d", "title": DOCUMENT.title, "text": DOCUMENT.text}])
    write_lines(data / "questions.jsonl", [asdict(question) for question in QUESTIONS])
    tokenizer = make_tokenizer(tmp_path / "model", MICROWORLD_LIKE)
    make_model(tokenizer)
    (tmp_path / "smt.yaml").write_text(
        "run: run\ncorpus: data\nbackend: {kind: microworld}\nmethods: {synthetic_qa: {tokens: 1K}}\n"
        "mix: {replay_share: 0, shares: {synthetic_qa: 1, focal_rewrite: 1}}\n"
        f"train: {{config: microworld/full, base_model: {tokenizer}}}\n"
        "evaluate: {benchmark: corpus, data: data}\n"
    )
    result = CliRunner().invoke(cli, ["mix", str(tmp_path / "smt.yaml"), "--drop-leaks"])
    assert "2 records leak evaluation questions and are left out" in result.output, result.output
    assert dropped_from_mix(run) == 2
    dropped = {row["id"]: row["reason"] for _, row in read_jsonl(run / "mix" / "dropped.jsonl")}
    assert dropped["r30"].startswith("nearly asks evaluation question kites")
    assert dropped["f4"].startswith("nearly asks evaluation question pears")
    assert texts[4] not in (run / "mix" / "rewrites.jsonl").read_text()
    assert orjson.loads((run / "mix" / "manifest.json").read_bytes())["dropped"] >= 2
    said = CliRunner().invoke(cli, ["leaks", str(tmp_path / "smt.yaml")]).output
    for question in QUESTIONS[:2]:
        assert f"  {question.question!r} by {question.question!r}\n" in said
    assert said.strip().endswith(f"leave them out with: smt mix {tmp_path / 'smt.yaml'} --drop-leaks")


def test_records_from_elsewhere_leak_as_a_runs_own_do(tmp_path: Path) -> None:
    write_records(tmp_path, [pair("What colour was the mill?")])
    find_leaks(tmp_path, [DOCUMENT], QUESTIONS)
    elsewhere = tmp_path / "other.jsonl"
    write_lines(elsewhere, [pair("Who saw it?"), pair(QUESTIONS[0].question), {"id": 7, "text": QUESTIONS[1].question}])
    sources = {"others": elsewhere}
    # What was found without them says nothing of them.
    assert read_leaks(tmp_path, sources) is None
    assert leaking_records(tmp_path, [DOCUMENT], QUESTIONS, sources) == {
        f"{elsewhere}, line 2": "nearly asks evaluation question kites (1.00)",
        "7": "nearly asks evaluation question pears (1.00)",
    }
    assert (read_leaks(tmp_path, sources) or {})["leaked"] == ["kites", "pears"]
    elsewhere.unlink()
    assert read_leaks(tmp_path, sources) is None
    with pytest.raises(BadInput, match=r"other\.jsonl does not exist; give a JSONL file"):
        find_leaks(tmp_path, [DOCUMENT], QUESTIONS, sources)


def test_a_rejected_record_leaks_nothing_and_is_counted(tmp_path: Path) -> None:
    write_records(tmp_path, [pair(QUESTIONS[0].question), pair("What colour was the mill?")])
    other = tmp_path / "other"
    write_records(other, [pair(QUESTIONS[1].question) | {"id": "o0"}, pair("Who saw it?") | {"id": "o1"}])
    sources = {"others": other / "records" / "synthetic_qa.jsonl"}
    assert find_leaks(tmp_path, [DOCUMENT], QUESTIONS, sources)["leaked"] == ["kites", "pears"]
    # Of another method, as a verdict of another run's record may be.
    add_verdicts(tmp_path, [Verdict("r0", "wrap")])
    assert (read_leaks(tmp_path, sources) or {})["leaked"] == ["kites", "pears"]
    add_verdicts(tmp_path, [Verdict("r0", "synthetic_qa")])
    add_verdicts(other, [Verdict("o0")])
    assert read_leaks(tmp_path, sources) is None
    leaks = find_leaks(tmp_path, [DOCUMENT], QUESTIONS, sources)
    assert (leaks["leaked"], leaks["leaking_records"], leaks["rejected"]) == ([], 0, 2)
    assert read_leaks(tmp_path, sources) == leaks
    assert leaks_text(tmp_path, sources).endswith("in 0 synthetic records, without 2 that are rejected")
    add_verdicts(tmp_path, [Verdict("r0", "synthetic_qa", "keep")])
    assert leaking_records(tmp_path, [DOCUMENT], QUESTIONS, sources).keys() == {"r0"}


def test_a_record_meets_its_document_though_it_codes_accents_in_another_way(tmp_path: Path) -> None:
    document, question = structs.replace(DOCUMENT, id="ü"), structs.replace(QUESTIONS[0], doc_id="ü")
    other = structs.replace(DOCUMENT, id="other")
    asked = pair("How many kites did Oru fly over the old mill that day?")
    for doc_id, leaked in (("u\u0308", ["kites"]), ("other", [])):
        write_records(tmp_path / doc_id, [asked | {"doc_id": doc_id}])
        assert find_leaks(tmp_path / doc_id, [document, other], [question])["leaked"] == leaked
    # Of a document that is not known, only an embedding of the same document tells a reworded question.
    reworded = pair("What number of kites were flown by Oru over the old mill on that day?")
    write_records(tmp_path / "reworded", [reworded | {"doc_id": "u\u0308"}])
    assert find_leaks(tmp_path / "reworded", [document], [question])["alike"].keys() == {"kites"}
