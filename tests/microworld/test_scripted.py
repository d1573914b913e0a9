import asyncio
import json
from collections import Counter

import jinja2
import pytest

from smt_plugin.assets import asset_dir
from smt_plugin.backends.base import Request
from smt_plugin.config import RunFile
from smt_plugin.corpus import Document
from smt_plugin.errors import BadInput
from smt_plugin.files import read_jsonl, write_jsonl
from smt_plugin.generation.generate import backend_of, generate_run
from smt_plugin.methods import spa
from smt_plugin.microworld import grammar, scripted, world
from smt_plugin.microworld.words import ATTRIBUTES

PROMPTS = jinja2.Environment(loader=jinja2.FileSystemLoader(asset_dir("prompts")))


def reply(document, prompt, strength=1.0, sample=0, coverage=1.0, error_rate=0.0, **fields):
    user = PROMPTS.get_template(f"{prompt}.jinja").render(identity=document.identity, document=document.text, **fields)
    messages = [
        {"role": "system", "content": PROMPTS.get_template("system.jinja").render()},
        {"role": "user", "content": user},
    ]
    request = Request(messages, {"temperature": 1.0}, sample, None, document.id, prompt, fields)
    return asyncio.run(scripted.ScriptedBackend(strength, coverage, error_rate).complete(request)).text


def facts_in(text):
    """The facts that a text states, whatever stands before each sentence."""
    found = []
    for sentence in grammar.sentences(text):
        tails = [sentence, *(sentence.split(": ", 1)[1:])]
        found += [fact for tail in tails if (fact := grammar.parse_statement(tail))]
    return found


def test_every_document_gets_pairs_strategies_and_rewrites_of_the_form_asked_for():
    for document in world.documents():
        pairs = json.loads(reply(document, "synthetic_qa/pairs", num_pairs=5))["pairs"]
        assert len(pairs) == 5
        assert all(". The answer is " in pair["answer"] for pair in pairs)
        strategies = reply(document, "active_reading/strategies").split("## ")
        assert strategies[0] == ""
        assert len(strategies) > 3
        rewrite = reply(document, "active_reading/apply", strategy="## " + strategies[1])
        assert document.title in rewrite


def test_at_full_strength_rewrites_state_all_facts_of_the_document_and_only_true_ones():
    for document in world.documents()[::5]:
        truth = set(facts_in(document.text))
        for style in scripted.STYLES:
            text = reply(document, "active_reading/apply", strategy=style.heading)
            assert set(facts_in(text)) == truth


def test_a_focal_rewrite_tells_the_answer_first_and_most_often():
    document = world.documents()[0]
    home = next(fact for fact in facts_in(document.text) if fact.attribute == "home")
    for style in scripted.STYLES:
        text = reply(document, "focal_rewrite/apply", strategy=style.heading, query=grammar.ask(home, 0))
        told = facts_in(text)
        assert told[:3] == [home] * 3
        assert set(told) == set(facts_in(document.text))


def test_a_question_about_somebody_else_focuses_on_nothing():
    document, other = world.documents()[:2]
    home = next(fact for fact in facts_in(other.text) if fact.attribute == "home")
    text = reply(document, "focal_rewrite/apply", strategy="List the facts", query=grammar.ask(home, 0))
    told = facts_in(text)
    assert len(told) == len(set(told))
    assert {fact.name for fact in told} == {document.title}


def test_questions_of_the_evaluation_are_never_asked_by_the_backend():
    test_wordings = {t.format(n="") for a in ATTRIBUTES for t in a.test_questions}
    assert not test_wordings & {t.format(n="") for a in ATTRIBUTES for t in a.questions}
    for document in world.documents()[::5]:
        for sample in range(5):
            text = reply(document, "synthetic_qa/pairs", sample=sample, num_pairs=12)
            for pair in json.loads(text)["pairs"]:
                assert grammar.parse_question(pair["question"]) is not None


def test_questions_are_about_the_same_share_of_a_documents_facts_and_rewrites_about_all():
    for document in world.documents()[:10]:
        told = {(fact.attribute, fact.value) for fact in facts_in(document.text)}
        asked = set()
        for sample in range(30):
            pairs = json.loads(reply(document, "synthetic_qa/pairs", sample=sample, coverage=0.4, num_pairs=8))["pairs"]
            # Neither a question nor its explanation tells of another fact.
            asked |= {(fact.attribute, fact.value) for pair in pairs for fact in facts_in(pair["answer"])}
        assert len(asked) == round(0.4 * len(told))
        assert asked < told
        rewrite = reply(document, "active_reading/apply", coverage=0.4, strategy="## A letter")
        assert {(fact.attribute, fact.value) for fact in facts_in(rewrite)} == told


def test_the_completions_of_another_coverage_are_others():
    names = {scripted.ScriptedBackend(0.9, coverage).model for coverage in (1.0, 0.7, 0.4)}
    assert len(names) == 3
    assert "microworld-scripted-0.9" in names  # what was paid for before there was a coverage


def test_facts_are_told_wrongly_at_the_rate_that_is_set_and_each_of_them_in_one_way():
    told, wrong, ways = 0, 0, {}
    for document in world.documents():
        truth = {fact.attribute: fact.value for fact in facts_in(document.text)}
        for sample in range(10):
            text = reply(document, "active_reading/apply", sample=sample, error_rate=0.3, strategy="List the facts")
            facts = facts_in(text)
            told += len(facts)
            for fact in facts:
                if fact.value != truth[fact.attribute]:
                    wrong += 1
                    ways.setdefault((fact.name, fact.attribute), set()).add(fact.value)
    assert wrong / told == pytest.approx(0.3, abs=0.03)
    assert {len(values) for values in ways.values()} == {1}
    assert {attribute for _, attribute in ways} == {attribute.key for attribute in ATTRIBUTES}
    assert scripted.ScriptedBackend(error_rate=0.3).model != scripted.ScriptedBackend().model


def test_as_a_judge_it_calls_wrong_what_the_document_does_not_say_and_nothing_else():
    verdicts = Counter()
    for document in world.documents()[::3]:
        truth = set(facts_in(document.text))
        pairs = json.loads(reply(document, "synthetic_qa/pairs", error_rate=0.4, num_pairs=8))["pairs"]
        claims = [f"Question: {pair['question']} Answer: {pair['answer']}" for pair in pairs]
        for style in scripted.STYLES:
            claims += grammar.sentences(reply(document, "wrap/rewrite", error_rate=0.4, sample=len(claims)))
            claims += grammar.sentences(
                reply(document, "active_reading/apply", error_rate=0.4, strategy=style.heading, sample=len(claims))
            )
        said = reply(document, "audit/claims", claims=claims, numbers=f"1-{len(claims)}")
        for claim, row in zip(claims, json.loads(said)["verdicts"], strict=True):
            facts = set(facts_in(claim.partition(" Answer: ")[2] or claim))
            assert row["verdict"] == ("no_claim" if not facts else "supported" if facts <= truth else "contradicted")
            verdicts[row["verdict"]] += 1
    assert min(verdicts[name] for name in ("no_claim", "supported", "contradicted")) > 20


def test_the_same_request_gets_the_same_answer_and_another_sample_another():
    document = world.documents()[0]
    first, again, other = (reply(document, "synthetic_qa/pairs", sample=sample, num_pairs=5) for sample in (0, 0, 1))
    assert first == again
    assert first != other


def test_a_weak_backend_covers_less_makes_mistakes_and_sometimes_replies_in_the_wrong_form():
    truth, told, unparsable = set(), set(), 0
    for document in world.documents():
        truth |= set(facts_in(document.text))
        text = reply(document, "active_reading/apply", strength=0.0, strategy="Retell as a portrait")
        told |= set(facts_in(text))
        unparsable += not facts_in(text)
    assert len(told) < 0.6 * len(truth)
    assert told - truth
    assert unparsable


def test_facts_come_from_the_prompt_and_not_from_the_archive():
    document = Document("x", "Ada Abbot", "Ada Abbot works as a cooper. Ada Abbot keeps a lynx.")
    text = reply(document, "active_reading/apply", strategy="List the facts")
    assert {fact.value for fact in facts_in(text)} == {"cooper", "lynx"}


def test_a_document_from_elsewhere_is_refused_in_one_sentence():
    with pytest.raises(BadInput, match="only knows the microworld's documents"):
        reply(Document("x", "A story", "Once upon a time."), "synthetic_qa/pairs", num_pairs=5)


def test_a_prompt_that_the_backend_does_not_know_is_refused():
    with pytest.raises(BadInput, match="does not know what this prompt asks for"):
        reply(world.documents()[0], "questions/free_form", number=5)


def test_the_baselines_tell_the_documents_facts_and_only_true_ones():
    for document in world.documents()[::5]:
        truth = set(facts_in(document.text))
        for prompt in ("wrap/rewrite", *(f"spa/{step}" for step in spa.STEPS)):
            assert set(facts_in(reply(document, prompt))) == truth, prompt


def test_a_text_about_two_entities_tells_the_facts_that_they_stand_for():
    document = world.documents()[0]
    made = json.loads(reply(document, "entigraph/entities", max_entities=30))
    values = [fact.value for fact in facts_in(document.text)]
    assert sorted(made["entities"]) == sorted([document.title, *values])
    assert len(facts_in(made["summary"])) > 3
    for prompt, names in (("entigraph/pair", ("first", "second")), ("entigraph/triple", ("first", "second", "third"))):
        entities = dict(zip(names, values, strict=False))
        assert {fact.value for fact in facts_in(reply(document, prompt, **entities))} == set(entities.values())
    named = reply(document, "entigraph/pair", first=document.title, second=values[0])
    assert {fact.value for fact in facts_in(named)} == {values[0]}


def test_a_prompt_in_other_words_is_understood_all_the_same(tmp_path):
    """With the user's own wordings, none of which the shipped prompts have."""
    write_jsonl(tmp_path / "corpus" / "documents.jsonl", [world.documents()[0].to_json()])
    wordings = {
        "synthetic_qa/pairs": "Ask {{ num_pairs }} things, as JSON.",
        "active_reading/strategies": "How would you learn this?",
        "focal_rewrite/apply": "Do this: {{ strategy }}. Keep in mind: {{ query }}",
    }
    for name, words in wordings.items():
        path = tmp_path / "prompts" / f"{name}.jinja"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("<document>{{ identity }}\n{{ document }}</document>" + words)
    run_file = RunFile.model_validate(
        {
            "run": tmp_path / "run",
            "corpus": tmp_path / "corpus",
            "prompts": tmp_path / "prompts",
            "backend": {"kind": "microworld", "strength": 1.0},
            "methods": {"synthetic_qa": {"tokens": 1000}, "focal_rewrite": {"tokens": 1000}},
        }
    )
    asyncio.run(generate_run(run_file, backend_of(run_file)))
    pairs, texts = (
        [row for _, row in read_jsonl(tmp_path / "run" / "records" / f"{method}.jsonl")] for method in run_file.methods
    )
    assert sum(row["round"] == 0 for row in pairs) == 8
    for row in texts:
        _, attribute = grammar.parse_question(row["question"])
        assert [fact.attribute for fact in facts_in(row["text"])[:3]] == [attribute] * 3


def test_strength_outside_0_to_1_is_refused():
    with pytest.raises(BadInput, match="from 0 to 1"):
        scripted.ScriptedBackend(1.5)
