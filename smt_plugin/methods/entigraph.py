"""EntiGraph, a baseline: the document's entities, then a text about every pair and every triple of them."""

import asyncio
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, ClassVar

import orjson

from smt_plugin.backends.base import Reply
from smt_plugin.corpus import Document
from smt_plugin.methods.base import (
    Ask,
    Complete,
    Sampled,
    Unparsable,
    json_list,
    json_object,
    json_text,
    parse_json,
    record_of,
    stable_draw,
    text_records,
)
from smt_plugin.records import Record

# Fifteen entities, our guess.
_EXAMPLE = orjson.dumps({"summary": "A summary.", "entities": [f"entity {n}" for n in range(15)]}).decode()


@dataclass(frozen=True, kw_only=True)
class EntiGraph(Sampled):
    """Round 0 trains on the summary, too; each round takes the next relations, pairs before triples (arXiv 2409.07431).

    Within pairs and within triples the order is a stable shuffle, our default: so a small budget reaches all
    entities. When every triple is told, the rounds are empty and the budget stays unmet.
    """

    name: ClassVar[str] = "entigraph"
    max_entities: int = field(default=30, metadata={"help": "entities kept of a document, 2 to 40"})
    relations_per_round: int = field(default=8, metadata={"help": "pairs or triples in one round"})

    async def round(self, document: Document, r: int, complete: Complete) -> list[Record]:
        """Return the records of the round's relations in their order, the summary before those of round 0."""
        entities = await complete(
            Ask(
                document,
                "entigraph/entities",
                {"max_entities": self.max_entities},
                self.sampling,
                sample=0,
                parse=self.parse,
                schema=json_object(summary=json_text(6000), entities=json_list(json_text(120), 2, self.max_entities)),
                example=_EXAMPLE,
            )
        )
        if entities is None:
            return []
        relations = _relations(document, entities.value["entities"])
        first = r * self.relations_per_round
        answers = await asyncio.gather(
            *(
                complete(self.relation_ask(document, relation))
                for relation in relations[first : first + self.relations_per_round]
            )
        )
        records = text_records(self.name, document, r, answers, entities, start=1)
        if r > 0:
            return records
        # The list of entities is paid for but not trained on, so the summary's share of the tokens is by length.
        summary = entities.value["summary"]
        written = len(summary) + sum(map(len, entities.value["entities"]))
        tokens = entities.tokens * len(summary) // written
        return [record_of(self.name, document, 0, 0, entities, text=summary, tokens=tokens), *records]

    def relation_ask(self, document: Document, relation: tuple[str, ...]) -> Ask:
        """The call for a text about a pair or a triple; it is asked once a document, whatever the round."""
        variables = dict(zip(("first", "second", "third"), relation, strict=False))
        return self.text_ask(document, "pair" if len(relation) == 2 else "triple", 0, **variables)

    def parse(self, reply: Reply) -> dict[str, Any]:
        """Return {summary, entities} of a JSON reply, the entities distinct and at most `max_entities`."""
        value = parse_json(reply, keep_whole=True)
        summary, entities = (value.get("summary"), value.get("entities")) if isinstance(value, dict) else (None, None)
        if not isinstance(summary, str) or not summary.strip():
            raise Unparsable("no summary")
        if not isinstance(entities, list) or not all(isinstance(entity, str) for entity in entities):
            raise Unparsable("no list of entities")
        distinct = list(dict.fromkeys(entity.strip() for entity in entities if entity.strip()))[: self.max_entities]
        if len(distinct) < 2:
            raise Unparsable("fewer than two entities")
        return {"summary": summary.strip(), "entities": distinct}


def _relations(document: Document, entities: list[str]) -> list[tuple[str, ...]]:
    """All pairs, then all triples, each shuffled in a way that depends on the document and the entities alone."""
    ordered: list[tuple[str, ...]] = []
    for size in (2, 3):
        ordered += sorted(combinations(entities, size), key=lambda group: stable_draw(2**60, document.text, *group))
    return ordered
