"""Focal Rewriting: Active Reading whose every rewrite is conditioned on one synthetic question of the document."""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from smt_plugin.corpus import Document
from smt_plugin.methods.active_reading import strategies_ask
from smt_plugin.methods.base import Ask, Complete, Sampled, stable_draw, text_records
from smt_plugin.methods.synthetic_qa import SyntheticQA
from smt_plugin.records import Record


@dataclass(frozen=True, kw_only=True)
class FocalRewrite(Sampled):
    """A round applies the strategies of Active Reading's round, each focused on a question (arXiv 2603.23562).

    The questions of round `r` are those of `synthetic_qa` round `r`, asked here if they are not paid for
    yet. One question a strategy, drawn anew for each, is our default: the paper does not say.
    """

    name: ClassVar[str] = "focal_rewrite"
    uses: ClassVar[dict[str, type[Any]]] = {"synthetic_qa": SyntheticQA}
    synthetic_qa: SyntheticQA = field(
        default_factory=SyntheticQA, metadata={"help": "options of the method that asks the questions"}
    )

    async def round(self, document: Document, r: int, complete: Complete) -> list[Record]:
        """Return one record a strategy that gave a text, in the order of the strategies."""
        strategies, pairs = await asyncio.gather(
            complete(strategies_ask(self, document, r)), complete(self.questions_ask(document, r))
        )
        if strategies is None or pairs is None:
            return []
        questions = [
            pairs.value[stable_draw(len(pairs.value), document.text, r, index)]["question"]
            for index in range(len(strategies.value))
        ]
        answers = await asyncio.gather(
            *(
                complete(self.text_ask(document, "apply", r, strategy=strategy, query=question))
                for strategy, question in zip(strategies.value, questions, strict=True)
            )
        )
        records = text_records(self.name, document, r, answers, strategies, pairs)
        return [replace(record, question=questions[record.index]) for record in records]

    def questions_ask(self, document: Document, r: int) -> Ask:
        """The call for the questions that a round's rewrites are focused on."""
        return self.synthetic_qa.ask(document, r)
