"""Active Reading: ask for study strategies that fit the document, then apply each of them to it."""

import asyncio
import re
from dataclasses import dataclass
from typing import ClassVar

from smt_plugin.backends.base import Reply
from smt_plugin.corpus import Document
from smt_plugin.methods.base import (
    Ask,
    Complete,
    Sampled,
    Unparsable,
    repeats_itself,
    text_records,
    was_cut,
)
from smt_plugin.records import Record

_HEADING = re.compile(r"^##(?!#)[ \t]*(?=\S)", re.MULTILINE)
# What models write in place of "## ": headings of another level, bold lines, numbers, bold beginnings of lines.
_OTHER_HEADINGS = [re.compile(rf"^#{{{level}}}(?!#)[ \t]*(?=\S)", re.MULTILINE) for level in (1, 3, 4, 5, 6)]
_OTHER_MARKS = [
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        r"^(?=(\*\*|__)[^\n]+\1:?[ \t]*$)",
        r"^(?:(?:Strategy[ \t]+)?\d+[.):][ \t]+|（?[\d一二三四五六七八九十]+[、．）：][ \t]*)(?=\S)",
        r"^(?:[-*][ \t]+)?(?=\*\*[^*\n]+\*\*)",
    )
]
# The number of a heading. With nothing below it, it tells a writer nothing; and weak models list the same strategy
# under one number after another.
_NUMBER = re.compile(r"\W*(?:strategy)?\W*\d*\W*", re.IGNORECASE)
# A model that never stops listing must not multiply the calls of its document.
MAX_STRATEGIES = 30
# Eight strategies, our guess.
_EXAMPLE = "\n".join(f"## Strategy {n}\nAs {n:02} says." for n in range(8))


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
    """Return the strategies of a reply, one from each `## ` heading to the next, heading included.

    Those that differ in their leading numbers alone are one.

    Where there is none, other headings, or else at least two bold lines or numbers, begin the strategies. The last one
    of a reply that was cut is left out if there are others.
    """
    text = reply.text
    # A single heading of a level may be the title of all.
    several = (mark for mark in (*_OTHER_HEADINGS, *_OTHER_MARKS) if len(mark.findall(text)) > 1)
    heading = _HEADING if _HEADING.search(text) else next(several, None)
    heading = heading or next((mark for mark in _OTHER_HEADINGS if mark.search(text)), None)
    if heading is None:
        raise Unparsable("nothing but repetitions" if repeats_itself(reply) else 'no "## " heading')
    marks = list(heading.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    parts = [text[mark.end() : end] for mark, end in zip(marks, ends, strict=True)]
    if was_cut(reply) and len(parts) > 1:
        parts.pop()
    distinct: dict[str, str] = {}
    for part in parts:
        if said := _NUMBER.sub("", part, count=1).strip():
            distinct.setdefault(said, part.strip())
    strategies = list(distinct.values())
    if not strategies:
        raise Unparsable("headings without a strategy")
    return strategies[:MAX_STRATEGIES]
