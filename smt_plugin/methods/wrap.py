"""WRAP, a baseline: the whole document rewritten so that it is easier to understand."""

from dataclasses import dataclass
from typing import ClassVar

from smt_plugin.corpus import Document
from smt_plugin.methods.base import Complete, Sampled, text_records
from smt_plugin.records import Record


@dataclass(frozen=True, kw_only=True)
class Wrap(Sampled):
    """A round is one rewrite (Maini et al. 2024, arXiv 2401.16380; in the one style that arXiv 2603.23562 compares)."""

    name: ClassVar[str] = "wrap"

    async def round(self, document: Document, r: int, complete: Complete) -> list[Record]:
        """Return the one record of the round, or none if no text came."""
        return text_records(self.name, document, r, [await complete(self.text_ask(document, "rewrite", r))])
