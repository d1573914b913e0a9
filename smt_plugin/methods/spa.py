"""SPA, a baseline: seven fixed ways of writing about the whole document."""

import asyncio
from dataclasses import dataclass, field
from typing import ClassVar

from smt_plugin.corpus import Document
from smt_plugin.methods.base import Complete, Sampled, text_records
from smt_plugin.records import Record

STEPS = ("key_concepts", "mind_map", "implications", "critical_questions", "case_study", "discussion", "teacher")


@dataclass(frozen=True, kw_only=True)
class Spa(Sampled):
    """A round is one call for each of the seven prompts (arXiv 2603.22213); temperature and top-p 1.0 are its authors'.

    They give the prompts equal shares of tokens; here each gets as many calls, and what it writes in them.
    """

    name: ClassVar[str] = "spa"
    temperature: float = field(default=1.0, metadata={"help": "sampling temperature, 0 to 2"})
    top_p: float = field(default=1.0, metadata={"help": "nucleus sampling, 0 to 1"})

    async def round(self, document: Document, r: int, complete: Complete) -> list[Record]:
        """Return one record a prompt that gave a text, in the order of the prompts."""
        answers = await asyncio.gather(*(complete(self.text_ask(document, step, r)) for step in STEPS))
        return text_records(self.name, document, r, answers)
