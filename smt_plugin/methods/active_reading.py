"""Active Reading: ask for study strategies that fit the document, then apply each of them to it."""

import asyncio
import re
from dataclasses import dataclass
from typing import ClassVar

from smt_plugin.backends.base import Reply
from smt_plugin.corpus import Document
from smt_plugin.methods.base import Ask, Complete, Sampled, Unparsable, text_records
from smt_plugin.records import Record

_HEADING = re.compile(r"^##(?!#)[ \t]*(?=\S)", re.MULTILINE)
# A model that never stops listing must not multiply the calls of its document.
MAX_STRATEGIES = 30
# Eight strategies, our guess.
_EXAMPLE = "\n".join(f"## Strategy {n}\nAs it says." for n in range(8))


@dataclass(frozen=True, kw_only=True)
class ActiveReading(Sampled):
    """A round is one call for strategies and one for each strategy (Active Reading, as arXiv 2603.23562 uses it)."""

    name: ClassVar[str] = "active_reading"

    async def round(self, document: Document, r: int, complete: Complete) -> list[Record]:
        """Return one record a strategy that gave a text, in the order of the strategies."""
        strategies = await complete(strategies_ask(self, document, r))
        if strategies is None:
            return []
        answers = await asyncio.gather(
            *(complete(self.text_ask(document, "apply", r, strategy=strategy)) for strategy in strategies.value)
        )
        return text_records(self.name, document, r, answers, strategies)


def strategies_ask(method: Sampled, document: Document, r: int) -> Ask:
    """The call for the strategies of round `r`; two methods with the same sampling share it."""
    return Ask(
        document,
        "active_reading/strategies",
        {},
        method.sampling,
        sample=r,
        parse=parse_strategies,
        example=_EXAMPLE,
    )


def parse_strategies(reply: Reply) -> list[str]:
    """Return the distinct strategies of a reply, one from each `## ` heading to the next, heading included."""
    starts = [match.end() for match in _HEADING.finditer(reply.text)]
    if not starts:
        raise Unparsable('no "## " heading')
    parts = _HEADING.split(reply.text)[1:]
    if reply.finish_reason == "length" and len(parts) > 1:
        parts.pop()
    return list(dict.fromkeys(part.strip() for part in parts))[:MAX_STRATEGIES]
