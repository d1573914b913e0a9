import asyncio
import json
from pathlib import Path

from benchmarks.mechanism import asked_questions
from smt_plugin.backends.base import Request
from smt_plugin.microworld import archive, grammar, world
from smt_plugin.microworld.scripted import ScriptedBackend


def test_the_questions_told_asked_about_are_those_on_facts_that_the_generator_asks_about(tmp_path: Path) -> None:
    archive.write(tmp_path / "archive", 21)
    backend = ScriptedBackend(1.0, question_coverage=0.4)
    told = set()
    for document in world.documents(21):
        messages = [{"role": "user", "content": f"<document>{document.text}</document>"}]
        for sample in range(20):
            request = Request(messages, {}, sample, None, document.id, "synthetic_qa/pairs", {"num_pairs": 9})
            for pair in json.loads(asyncio.run(backend.complete(request)).text)["pairs"]:
                facts = filter(None, map(grammar.parse_statement, grammar.sentences(pair["answer"])))
                told |= {f"{document.id}-{fact.attribute}" for fact in facts}
    assert told == asked_questions(tmp_path / "archive", 0.4)
    questions = {row["question_id"] for row in world.questions(21)}
    assert len(questions & told) > 50
    assert len({question for question in questions - told if question.count("-") == 2}) > 50
