"""Which documents wait for a larger budget: where a round about each of them would cost more than there is.

A round is asked for as a whole and kept as a whole, so of documents whose part of the budget is smaller than a round,
only some are asked about: as many as there are rounds in the budget, chosen by a hash, the longer ones more often. A
larger budget asks about the same ones and more. Where rounds turn out smaller than the first ones told, more follow.
"""

import asyncio
import hashlib
import heapq
import math
from collections.abc import Iterable

from smt_plugin.corpus import Document

# So few documents are all asked about. Of more, the first rounds about these tell how many tokens a round has.
_FEW, _MEASURED = 5, 16
# More than a round has, in tokens: thirty strategies, applied at our usual length of texts.
_MOST_ROUND = 25_000
# Below this part of its budget a method goes on to documents that wait (our choice).
NEAR_BUDGET = 0.9


def rank_of(part: Document) -> float:
    """Where a document stands in the order in which a growing budget reaches them: by a hash, and by its length."""
    digest = hashlib.sha256(f"{part.id}\0{part.part}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") + 1) / 2**64 / len(part.text)


def rank_reached(budget: float, total_length: int, round_tokens: float) -> float:
    """The rank up to which a budget reaches, in tokens, over documents of so many characters together."""
    return budget / total_length / round_tokens if round_tokens else math.inf


def first_in_rank(parts: Iterable[Document]) -> list[Document]:
    """The documents that any budget reaches first, a few of them, in their order."""
    return heapq.nsmallest(_MEASURED, parts, key=rank_of)


class Reach:
    """How far a method's budget reaches over the documents, or parts of long ones, of a run.

    Args:
        budget: tokens, for documents of `total_length` characters together, `num_parts` in number.
        first: what `first_in_rank` gives.
        round_tokens: of a round, if that was found out before; 0 if not.
    """

    def __init__(
        self, budget: float, total_length: int, num_parts: int, first: list[Document], round_tokens: float = 0.0
    ) -> None:
        self._budget, self._total_length = budget, total_length
        self._places = {(part.id, part.part): place for place, part in enumerate(first)}
        self._ranks = [rank_of(part) for part in first]
        # Tokens of the first rounds about them, None where their answers are put off.
        self._told: dict[int, int | None] = {}
        self._is_known = [asyncio.Event(), asyncio.Event()]
        # Documents up to the first rank were asked about before the last time that the budget reached further.
        self._before, self._rank = -math.inf, math.inf
        self.round_tokens = round_tokens
        if round_tokens:
            self._reach_to(rank_reached(budget, total_length, round_tokens))
        elif num_parts <= _FEW or budget / num_parts >= _MOST_ROUND:
            self._reach_to(math.inf)

    @property
    def is_decided(self) -> bool:
        """Whether it is known of every document."""
        return self._is_known[1].is_set()

    def reaches(self, part: Document) -> bool:
        """Whether the budget reaches a document that was not asked about before, once that is known."""
        return self._before < rank_of(part) <= self._rank

    def extend(self, tokens: int) -> bool:
        """Reach further, and only to what is further, if all rounds so far came to far less than the budget.

        Returns:
            Whether it does: after more than NEAR_BUDGET of the budget, and after all documents, it does not.
        """
        self._before = self._rank
        if tokens >= NEAR_BUDGET * self._budget or self._rank == math.inf:
            return False
        self._rank = self._rank * self._budget / tokens if tokens else math.inf
        return True

    async def has(self, part: Document) -> bool:
        """Return whether the budget reaches a document, when the first rounds about those before it have told."""
        place = self._places.get((part.id, part.part), _MEASURED)
        if place == 0:
            return True
        await self._is_known[place >= _MEASURED].wait()
        return self.reaches(part)

    def tell(self, part: Document, tokens: int | None) -> None:
        """Say how many tokens the first round about a document has; None if its answers are put off."""
        place = self._places.get((part.id, part.part))
        if place is None or self.is_decided:
            return
        self._told[place] = tokens
        known = [count for count in self._told.values() if count]
        mean = sum(known) / len(known) if known else 0.0
        if len(self._told) == len(self._places):
            is_put_off = None in self._told.values()
            self.round_tokens = 0.0 if is_put_off else mean
            self._reach_to(rank_reached(self._budget, self._total_length, _MOST_ROUND if is_put_off else mean))
        elif place == 0:
            enough = math.ceil(self._budget / tokens) if tokens else _MEASURED
            self._rank = self._ranks[min(enough, len(self._ranks)) - 1]
            self._is_known[0].set()
            if enough <= len(self._ranks):
                self._is_known[1].set()

    def _reach_to(self, rank: float) -> None:
        """Let all know, once rounds were measured; the documents that it was done with belong to it."""
        self._rank = max([rank, *self._ranks[-1:]])  # a shard may have no document
        for known in self._is_known:
            known.set()
