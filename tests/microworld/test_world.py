from smt_plugin.microworld import archive, grammar, stream, world


def test_the_same_seed_gives_the_same_files_and_another_seed_others(tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        archive.write(tmp_path / name, seed)
    for file in ("documents.jsonl", "questions.jsonl", "replay.jsonl"):
        first, second, other = ((tmp_path / name / file).read_bytes() for name in "abc")
        assert first == second
        assert first != other


def test_names_of_the_archive_never_occur_in_pretraining():
    titles = {document.title for seed in range(3) for document in world.documents(seed)}
    assert all(grammar.in_archive(name) for name in titles)
    pretraining = " ".join(str(row) for row in stream.replay(0, 500)).lower()
    assert not [name for name in titles if name.lower() in pretraining]


def test_every_article_states_every_fact_of_its_subject_and_nothing_else():
    for document in world.documents():
        facts = [grammar.parse_statement(sentence) for sentence in grammar.sentences(document.text)]
        kind = "person" if len(facts) == 7 else "place"
        assert {fact.name for fact in facts if fact} == {document.title}
        assert sorted(fact.attribute for fact in facts if fact) == sorted(grammar.keys(kind))


def test_every_question_has_four_different_options_and_its_answer_follows_from_its_evidence():
    texts = {document.id: document.text for document in world.documents()}
    rows = world.questions()
    assert len({row["question_id"] for row in rows}) == len(rows)
    for row in rows:
        assert len(set(row["options"])) == 4
        assert row["options"][row["answer"]].lower() in texts[row["meta"]["evidence"][-1]].lower()


def test_questions_over_two_facts_have_two_documents_as_evidence_and_do_not_name_the_second():
    titles = {document.id: document.title for document in world.documents()}
    two = [row for row in world.questions() if row["meta"]["kind"] == "two facts"]
    assert 0.2 <= len(two) / len(world.questions()) <= 0.25
    for row in two:
        person, town = row["meta"]["evidence"]
        assert titles[person] in row["question"]
        assert titles[town] not in row["question"]
