from collections import Counter
from pathlib import Path

import pytest

from smt_plugin.benchmarks.find import load
from smt_plugin.microworld import chronicle, grammar, plain_knowledge

SEEDS = range(1, 12)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_article_tells_each_fact_once_and_nothing_else_that_the_grammar_could_read(seed: int) -> None:
    for document in chronicle.documents(seed):
        facts = [fact for text in grammar.sentences(document.text) if (fact := grammar.parse_statement(text))]
        kind = "place" if any(fact.attribute == "river" for fact in facts) else "person"
        assert sorted(fact.attribute for fact in facts) == sorted(grammar.keys(kind))
        assert {fact.name for fact in facts} == {document.title}
        assert 100 <= len(document.text.split()) <= 300


@pytest.mark.parametrize("seed", SEEDS)
def test_there_are_twenty_documents_and_120_questions_whose_answers_stand_in_their_evidence(seed: int) -> None:
    documents = {document.id: document for document in chronicle.documents(seed)}
    questions = chronicle.questions(seed)
    assert len(documents) == 20
    assert Counter(row["meta"]["kind"] for row in questions) == {"one fact": 90, "two facts": 30}
    assert len({row["question_id"] for row in questions}) == 120
    for row in questions:
        text = documents[row["meta"]["evidence"][-1]].text.lower()
        assert row["options"][row["answer"]].lower() in text
        assert len(set(row["options"])) == 4


def test_no_answer_is_given_away_by_its_place() -> None:
    places = Counter(row["answer"] for seed in SEEDS for row in chronicle.questions(seed))
    assert all(0.2 < count / places.total() < 0.3 for count in places.values())


def test_the_same_seed_gives_the_same_files_and_another_seed_other_people(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        chronicle.write(tmp_path / name, seed)
    for file in ("documents.jsonl", "questions.jsonl", "replay.jsonl"):
        contents = [(tmp_path / name / file).read_bytes() for name in "abc"]
        assert contents[0] == contents[1] != contents[2]
    assert load("chronicle", tmp_path / "a") == load("chronicle")


def test_the_general_set_has_eighty_questions_with_four_different_options() -> None:
    rows = plain_knowledge.rows()
    assert len({row["question"] for row in rows}) == len(rows) == 80
    assert {len(set(row["options"])) for row in rows} == {4}
    assert {row["options"][row["answer"]] for row in rows} >= {"Paris", "honey", "the east"}
