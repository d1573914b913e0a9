import asyncio
import json

import pytest

from smt_plugin.backends.base import Reply
from smt_plugin.corpus import Document
from smt_plugin.methods.base import Answer, Ask, Unparsable
from smt_plugin.methods.entigraph import EntiGraph

ENTITIES = ["keeper", "lamp", "log", "sea"]


def rounds(document: Document, count: int) -> tuple[list[list[tuple[str, ...]]], list[list[int]]]:
    """Return the relations that each round asked for, and the indices of its records."""
    asked: list[tuple[str, ...]] = []

    async def complete(ask: Ask) -> Answer:
        value: object = "A text."
        if ask.prompt == "entigraph/entities":
            value = {"summary": "A summary.", "entities": ENTITIES}
        else:
            asked.append(tuple(ask.variables.values()))
        return Answer(value, ask.prompt, 100, ask.prompt, "h", "m", ask.sampling)

    async def main() -> tuple[list[list[tuple[str, ...]]], list[list[int]]]:
        relations, indices = [], []
        for r in range(count):
            asked.clear()
            records = await EntiGraph(relations_per_round=4).round(document, r, complete)
            relations.append(list(asked))
            indices.append([record.index for record in records])
        return relations, indices

    return asyncio.run(main())


def test_rounds_go_through_every_pair_and_then_every_triple_once(document: Document) -> None:
    relations, indices = rounds(document, 4)
    told = [relation for r in relations for relation in r]
    assert [len(relation) for relation in told] == [2] * 6 + [3] * 4
    assert len(set(told)) == 10
    # The summary is the first record of round 0; when all is told, the rounds are empty.
    assert indices == [[0, 1, 2, 3, 4], [1, 2, 3, 4], [1, 2], []]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"entities": ["a", "b"]}, "no summary"),
        ({"summary": "s"}, "no list of entities"),
        ({"summary": "s", "entities": ["a", "a "]}, "fewer than two entities"),
        ([], "no summary"),
    ],
)
def test_a_reply_of_another_form_is_unparsable_for_a_named_reason(value: object, reason: str) -> None:
    with pytest.raises(Unparsable, match=reason):
        EntiGraph().parse(Reply(json.dumps(value), "stop", 1, 0, 1))


def test_a_list_of_entities_that_was_cut_off_keeps_the_whole_ones_if_the_summary_is_whole() -> None:
    text = json.dumps({"summary": "Of a lamp.", "entities": ENTITIES})
    cut = Reply(text[: text.index("og")], "length", 1, 0, 1)
    assert EntiGraph().parse(cut) == {"summary": "Of a lamp.", "entities": ["keeper", "lamp"]}
    with pytest.raises(Unparsable, match="JSON cut off by max_tokens"):
        EntiGraph().parse(Reply(text[:18], "length", 1, 0, 1))
