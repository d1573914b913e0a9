"""Synthetic question-answer pairs: open questions, each answer an explanation that ends in the answer."""

from dataclasses import dataclass, field
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
    parse_items,
    record_of,
)
from smt_plugin.records import Record

# What a pair is taken for before one was seen; our guess.
_PAIR_TOKENS = 110


@dataclass(frozen=True, kw_only=True)
class SyntheticQA(Sampled):
    """One call a round asks for `pairs_per_call` pairs about the whole document.

    Temperature 1.0, top-p 1.0 and 2048 tokens are the paper's (arXiv 2603.23562); several pairs a call
    is our default, since the paper does not say.
    """

    name: ClassVar[str] = "synthetic_qa"
    temperature: float = field(default=1.0, metadata={"help": "sampling temperature, 0 to 2"})
    top_p: float = field(default=1.0, metadata={"help": "nucleus sampling, 0 to 1"})
    max_tokens: int = field(default=2048, metadata={"help": "longest reply, in tokens"})
    pairs_per_call: int = field(default=8, metadata={"help": "question-answer pairs asked for in one call"})

    async def round(self, document: Document, r: int, complete: Complete) -> list[Record]:
        """Return one record a pair, in the order of the reply."""
        answer = await complete(self.ask(document, r))
        if answer is None:
            return []
        pairs: list[dict[str, str]] = answer.value
        sizes = [len(pair["question"]) + len(pair["answer"]) for pair in pairs]
        return [
            record_of(
                self.name,
                document,
                r,
                index,
                answer,
                messages=[
                    {"role": "user", "content": pair["question"]},
                    {"role": "assistant", "content": pair["answer"]},
                ],
                # The call's tokens are shared out by length, so that a method's records add up to its bill.
                tokens=_share(answer.tokens, sizes, index),
            )
            for index, pair in enumerate(pairs)
        ]

    def ask(self, document: Document, r: int) -> Ask:
        """The call of round `r`; focal rewriting asks the very same one to draw its questions."""
        pairs = [{"question": f"Question {n}?", "answer": "Answer."} for n in range(self.pairs_per_call)]
        return Ask(
            document,
            "synthetic_qa/pairs",
            {"num_pairs": self.pairs_per_call},
            self.sampling,
            sample=r,
            parse=parse_pairs,
            schema=pairs_schema(self.pairs_per_call),
            example=orjson.dumps({"pairs": pairs}).decode(),
            example_tokens=self.pairs_per_call * _PAIR_TOKENS,
        )


def _share(total: int, sizes: list[int], index: int) -> int:
    before, whole = sum(sizes[:index]), sum(sizes)
    return total * (before + sizes[index]) // whole - total * before // whole


def pairs_schema(num_pairs: int) -> dict[str, Any]:
    """JSON schema of a reply with 1 to `num_pairs` pairs."""
    pair = json_object(question=json_text(600), answer=json_text(2000))
    return json_object(pairs=json_list(pair, 1, num_pairs))


def parse_pairs(reply: Reply) -> list[dict[str, str]]:
    """Return the non-empty, distinct {question, answer} pairs of a JSON reply; raises Unparsable if there is none."""
    distinct: dict[str, dict[str, str]] = {}
    fault = "no pair with a question and an answer"
    for pair in parse_items(reply, "pairs", "question"):
        if not isinstance(pair, dict):
            fault = "a pair is not an object"
            continue
        question, answer = pair.get("question"), pair.get("answer")
        if not isinstance(question, str) or not isinstance(answer, str):
            fault = "a pair lacks its question or its answer"
        elif question.strip() and answer.strip():
            distinct.setdefault(question.strip(), {"question": question.strip(), "answer": answer.strip()})
    if not distinct:
        raise Unparsable(fault)
    return list(distinct.values())
