"""Have a model say of each claim of a text whether the document bears it out."""

from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import orjson

from smt_plugin.backends.base import MOST_UNUSABLE, Backend, Reply, lasting_options, together
from smt_plugin.config import JudgeSection, RunFile
from smt_plugin.corpus import Document, ranges
from smt_plugin.errors import BadInput
from smt_plugin.methods.base import Answer, Ask, Unparsable, json_list, json_object, json_text, parse_items

PROMPT = "audit/claims"
JUDGE = "judge"
"""The kind of a finding for what a judge calls wrong, beside those of the check by code."""
SUPPORTED, CONTRADICTED, NOT_IN_DOCUMENT, NO_CLAIM = "supported", "contradicted", "not_in_document", "no_claim"
VERDICTS = (SUPPORTED, CONTRADICTED, NOT_IN_DOCUMENT, NO_CLAIM)
WRONG = (CONTRADICTED, NOT_IN_DOCUMENT)

# All of these are our choices. What is missing is asked for once more, warmer, since the same reply would come again.
_TEMPERATURES = (0.0, 0.7)
_MAX_TOKENS = 4096
_CLAIMS_A_CALL = 20
VERDICT_TOKENS = 45  # of a claim's entry in a reply, our guess
# Of fewer texts without all their verdicts the share would say too little; nor is it looked at before so many.
_FEWEST_UNREAD, _FIRST_LOOK = 5, 20


class Verdict(NamedTuple):
    """What the judge says of a claim, one of VERDICTS, and why."""

    verdict: str
    why: str


def judge_of(run_file: RunFile) -> JudgeSection:
    """Return the judge that a run file names; raises BadInput where it names none."""
    if run_file.evaluate is None or run_file.evaluate.judge is None:
        raise BadInput(
            "the run file has no evaluate.judge; add `judge: {endpoint: http://..., model: ...}` or `judge: {kind: "
            "vllm, model: ...}` to `evaluate`, best a model of another family than the generator's."
        )
    return run_file.evaluate.judge


async def start_judge(backend: Backend) -> None:
    """Start the judge's client or server; raises BadInput, in the words of the run file's `evaluate.judge`."""
    try:
        await backend.start()
    except BadInput as error:
        raise BadInput(f"judge: {str(error).replace('backend.', 'evaluate.judge.')}") from None


async def judge_claims(
    claims: Sequence[str],
    part: Document,
    settings: JudgeSection,
    ask: Callable[[Ask], Coroutine[Any, Any, Answer | None]],
) -> dict[int, Verdict]:
    """Return number -> verdict of a text's claims, numbered from 1; those that the judge left out twice are missing.

    Args:
        part: the document, or the part of it, that the text was made from.
        ask: gives the answer to an ask, or None where there is no usable one.
    """
    found: dict[int, Verdict] = {}
    for attempt, _ in enumerate(_TEMPERATURES):
        answers = await together(map(ask, asks(claims, part, settings, found, attempt)))
        for answer in filter(None, answers):
            found |= answer.value
    return found


def missing(claims: Sequence[str], verdicts: Collection[int]) -> list[int]:
    """The numbers of the claims, from 1, that have no verdict."""
    return [number for number in range(1, len(claims) + 1) if number not in verdicts]


def check_unread(unread: int, judged: int, model: str, failures: Mapping[str, int], is_all: bool = False) -> None:
    """Raise RuntimeError where over a fifth of the texts that were judged, and five at least, lack verdicts.

    Args:
        failures: why replies could not be used -> how many.
        is_all: whether no more texts come; else the first few say nothing yet.
    """
    if unread >= _FEWEST_UNREAD and unread > MOST_UNUSABLE * judged and (is_all or judged >= _FIRST_LOOK):
        raise RuntimeError(unread_text(unread, judged, model, failures))


def unread_text(unread: int, judged: int, model: str, failures: Mapping[str, int]) -> str:
    """Say that the judge left out claims, why most often, and what to do."""
    why = max(failures, key=lambda reason: failures[reason], default="it left claims out")
    return (
        f"the judge {model} gave no verdict on some claim of {unread:,} of {judged:,} texts (most often: {why}); "
        f"use a model that follows the prompt {PROMPT}, or set evaluate.judge.options"
    )


def asks(
    claims: Sequence[str], part: Document, settings: JudgeSection, verdicts: Collection[int] = (), attempt: int = 0
) -> list[Ask]:
    """The calls for those of a text's claims that have no verdict; each shows the whole text.

    Args:
        verdicts: the numbers of the claims that have one.
        attempt: 0, or 1 for what the first one left out.
    """
    numbers = missing(claims, verdicts)
    # Options of the user's that may change an answer are part of its key.
    sampling = {"temperature": _TEMPERATURES[attempt], "max_tokens": _MAX_TOKENS, **lasting_options(settings.options)}
    return [
        _ask(claims, part, numbers[start : start + _CLAIMS_A_CALL], sampling, attempt)
        for start in range(0, len(numbers), _CLAIMS_A_CALL)
    ]


def _ask(claims: Iterable[str], part: Document, numbers: Sequence[int], sampling: dict[str, Any], attempt: int) -> Ask:
    verdict = {"type": "string", "enum": list(VERDICTS)}
    entry = json_object(number={"type": "integer", "enum": list(numbers)}, why=json_text(300), verdict=verdict)
    typical = [{"number": number, "why": "The document says so.", "verdict": SUPPORTED} for number in numbers]
    return Ask(
        part,
        PROMPT,
        {"claims": list(claims), "numbers": ranges(numbers)},
        sampling,
        attempt,
        partial(read_verdicts, numbers=numbers),
        json_object(verdicts=json_list(entry, len(numbers), len(numbers))),
        orjson.dumps({"verdicts": typical}).decode(),
        VERDICT_TOKENS * len(numbers),
        # The system text is for writing about a document, which the judge does not do.
        has_system=False,
    )


def read_verdicts(reply: Reply, numbers: Collection[int]) -> dict[int, Verdict]:
    """Return number -> verdict of a reply in JSON; a number that has two different verdicts has none.

    Raises:
        Unparsable: there is no verdict on any of the claims asked about.
    """
    found: dict[int, Verdict] = {}
    torn = set()
    for row in parse_items(reply, "verdicts", "verdict"):
        if not isinstance(row, dict):
            continue
        # Of a single claim some models leave out the number.
        number = row.get("number", min(numbers) if len(numbers) == 1 else None)
        number = int(number) if isinstance(number, str) and number.isdecimal() else number
        verdict = "_".join(str(row.get("verdict")).lower().replace("-", " ").replace("_", " ").split())
        if isinstance(number, int) and number in numbers and verdict in VERDICTS:
            if number in found and found[number].verdict != verdict:
                torn.add(number)
            found[number] = Verdict(verdict, str(row.get("why") or ""))
    found = {number: verdict for number, verdict in found.items() if number not in torn}
    if not found:
        raise Unparsable("no verdict on any of the claims")
    return found
