"""What a record claims, piece by piece: the sentences of a text, or each question of a dialogue with its answer."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from smt_plugin.faithfulness.names import SHORTENED
from smt_plugin.sentences import sentences_in

ANSWER = " Answer: "  # between a question and its answer, in their claim
_COUNTED = re.compile(r"^\W*\d{1,3}\.$")  # "1." before an item of a list


def claims_of(text: str | None, messages: Sequence[Mapping[str, Any]] | None) -> list[str]:
    """Return what a record claims, in its order, each on one line.

    The sentences of a text are its claims: they can be counted, found again and have a length, which a model's own
    paraphrase of a text has not. In a dialogue each answer is one, together with the question before it, since either
    says little without the other.
    """
    if text is not None:
        return sentences_of(text)
    claims, asked = [], ""
    for turn in messages or []:
        said = " ".join(str(turn.get("content") or "").split())
        if turn.get("role") == "assistant":
            claims.append(f"Question: {asked}{ANSWER}{said}" if asked else said)
            asked = ""
        elif turn.get("role") == "user":
            asked = f"{asked} {said}".strip()
    return claims


def sentences_of(text: str) -> list[str]:
    """Return the sentences of a text, and what stands on a line of its own, without those that hold no letter or digit.

    A short form such as "Dr." ends none, nor does the number of an item.
    """
    found = []
    for line in text.splitlines():
        piece = ""
        for more in sentences_in(line):
            piece += more
            if not SHORTENED.search(piece) and not _COUNTED.match(piece):
                found.append(piece)
                piece = ""
        found.append(piece)
    return [" ".join(piece.split()) for piece in found if any(map(str.isalnum, piece))]
