"""What a server refuses: a field of the request, the account that pays, or this one prompt."""

import logging
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import orjson

from smt_plugin.backends.base import Reply, Request
from smt_plugin.backends.request_body import NEWER_LIMIT, SCHEMA, SYSTEM, fields_of, request_body

log = logging.getLogger(__name__)
# Characters of a server's words.
_LONGEST_SHOWN = 500
# What no field is to blame for: the key, the account, the time, the size, the traffic, a gateway.
_NEVER_OF_FIELD = (401, 402, 403, 407, 408, 413, 425, 429, 502, 503, 504, 529)
_TOO_LONG = re.compile(
    r"context.{0,9}(length|window|size)|maximum context|max_model_len|exceed\w* .{0,40}context|(prompt|input)\W.{0,40}"
    r"too long",
    re.IGNORECASE,
)
_ACCOUNT = re.compile(
    r"billing|insufficient.{0,3}(balance|credit|funds?|quota)|(credits?|balance).{0,25}(too low|exhausted|depleted|"
    r"used up|insufficient|negative|run out)|(out of|not enough|no|more) credits?\b|exceeded your.{0,20}quota|"
    r"quota.{0,20}(exceeded|exhausted|reached|used up)|(exceed|exhaust|reach)\w* .{0,20}quota|"
    r"(spend\w*|usage|budget|account|monthly|key).{0,20}(limit|\bcap\b|exceeded)|"
    r"(payment|subscription).{0,20}(required|overdue|expired)|in arrears|account.{0,30}(suspend|deactivat|disabled)",
    re.IGNORECASE,
)
_PASSES = re.compile(
    r"\b(per|a|each).(second|minute|hour)|(retry|again) (in|after)|retry_?delay|\b[rt]p[mhs]\b|too many requests",
    re.IGNORECASE,
)
# The names by which servers speak of a field that they refuse, where these are not its own.
_OTHER_NAMES = {
    SYSTEM: r"\bsystem\b|roles must alternate|\bdeveloper\b",
    SCHEMA: r"response.?format|json.?schema|\bschema\b|grammar|guided|structured",
    "max_tokens": r"max_(completion_)?tokens",
}
# Where none is named: the likeliest first, then what the user has set.
_ORDER = [SCHEMA, SYSTEM, "max_tokens", NEWER_LIMIT, "top_p", "temperature", "seed"]
TINY_PROMPT = "Say yes."
# Requests with the same complaint for which no field was to blame, after which it is taken at its word.
_MOST_IN_VAIN = 3


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request was not answered.

    Attributes:
        message: the server's words, or what happened to the connection, on one line.
        status: of HTTP, 0 where there was none.
        retry_after: seconds that the server asked for.
        overloaded: the endpoint has to rest.
        counts: the request itself may be to blame.
    """

    message: str
    status: int = 0
    retry_after: float | None = None
    overloaded: bool = False
    counts: bool = True

    @property
    def reason(self) -> str:
        """Status and words as they are shown."""
        words = self.message[:_LONGEST_SHOWN]
        return (f"status {self.status}: {words}" if self.status else words).removesuffix(": ")

    @property
    def of_prompt(self) -> bool:
        """Whether the server will never answer this request, unless one of its fields is to blame."""
        return self.status in (400, 413, 422)

    @property
    def of_address(self) -> bool:
        """Whether the key or the address may be wrong."""
        return (self.status in (401, 403, 404) and not self.of_account) or 300 <= self.status < 400

    @property
    def of_model(self) -> bool:
        """Whether the server does not know the model."""
        return self.status == 404 or (self.status in (400, 403, 422) and "model" in self.message.lower())

    @property
    def of_account(self) -> bool:
        """Whether the account is to blame, by status or words: no money or no quota is left, whatever the prompt."""
        if self.status not in (400, 403, 429):
            return self.status == 402
        # A limit of requests a minute passes by itself, though some speak of quota and billing there, too.
        passes = self.status == 429 and (self.retry_after is not None or _PASSES.search(self.message))
        return not passes and _ACCOUNT.search(self.message) is not None

    @property
    def may_be_of_field(self) -> bool:
        """Whether a field may be to blame; servers differ in the status, and some answer 500."""
        known = self.status in _NEVER_OF_FIELD or self.of_account or _TOO_LONG.search(self.message)
        return 400 <= self.status < 600 and not known


class Refusals:
    """What the model at one server was found to refuse, by leaving out one field at a time.

    Args:
        options: the user's, see `request_body`.

    Attributes:
        left_out: the fields that are left out of every request.
    """

    def __init__(self, model: str, options: dict[str, Any]) -> None:
        self.left_out: frozenset[str] = frozenset()
        self._model = model
        self._options = options
        self._taken: set[str] = set()
        self._schemas_taken: set[bytes] = set()
        self._in_vain: Counter[str] = Counter()

    def body(self, request: Request, left_out: frozenset[str] | None = None) -> dict[str, Any]:
        """Return what is sent for a request now, or with these fields left out."""
        return request_body(request, self._model, self._options, self.left_out if left_out is None else left_out)

    def note_answer(self, body: dict[str, Any]) -> None:
        """Remember that a body was answered: none of its fields is refused."""
        self._taken.update(fields_of(body))
        if SCHEMA in body:
            self._schemas_taken.add(orjson.dumps(body[SCHEMA]))

    def worth_finding(self, request: Request, failure: Failure) -> bool:
        """Whether a field that no answered request had may be to blame for a failure."""
        if not failure.may_be_of_field or self._in_vain[_complaint(failure)] >= _MOST_IN_VAIN:
            return False
        return bool(self._suspects(self.body(request), failure))

    def _suspects(self, body: dict[str, Any], failure: Failure) -> list[str]:
        """Return the fields of a body that may be refused, those that the server names first."""
        suspects = fields_of(body) - self._taken
        if SCHEMA in body and orjson.dumps(body[SCHEMA]) not in self._schemas_taken:
            suspects.add(SCHEMA)

        def place(name: str) -> tuple[int, int, str]:
            named = re.search(_OTHER_NAMES.get(name, rf"\b{re.escape(name)}\b"), failure.message, re.IGNORECASE)
            rank = _ORDER.index(name) if name in _ORDER else len(_ORDER)
            return named.start() if named else len(failure.message), rank, name

        return sorted(suspects, key=place)

    async def find(
        self,
        request: Request,
        failure: Failure,
        send: Callable[[dict[str, Any]], Awaitable[Reply | Failure]],
        place: str,
    ) -> Reply | Failure:
        """Ask a request that failed again, without one field at a time, and then without all that may be refused.

        What has to be left out is left out from now on, and is said once.

        Args:
            send: sends a body once.
            place: names the server.

        Returns:
            The answer, or why there is none: the request's own failure where no field is to blame.
        """

        async def ask(left_out: frozenset[str]) -> Reply | Failure:
            return await send(self.body(request, left_out))

        left_out, outcome = await self._one_by_one(request, failure, ask)
        if isinstance(outcome, Failure) and outcome.may_be_of_field:
            suspects = self._suspects(self.body(request), failure)
            left_out = self.left_out | set(suspects)
            outcome = await ask(left_out) if len(suspects) > 1 else outcome
        if isinstance(outcome, Failure):
            self._in_vain[_complaint(failure)] += outcome.may_be_of_field
            return failure if outcome.may_be_of_field else outcome
        found = left_out - self.left_out
        for name in sorted(found) if len(found) > 1 else ():
            needed = await ask(left_out - {name})
            if isinstance(needed, Reply):
                left_out, outcome = left_out - {name}, needed
        # Its fault may have passed by itself meanwhile.
        if isinstance(once_more := await ask(self.left_out), Reply):
            return once_more
        # Nor is a field to blame that a prompt of other words may have: then it is this prompt.
        tiny = [{**each, "content": TINY_PROMPT} for each in request.messages]
        body = self.body(replace(request, messages=tiny, image=None))
        other = await send(body)
        if isinstance(other, Reply):
            self.note_answer(body)
        if isinstance(other, Reply) or _complaint(other) != _complaint(failure):
            return failure
        log.warning("%s", _note(sorted(left_out - self.left_out), failure, place))
        self.left_out = left_out
        return outcome

    async def _one_by_one(
        self, request: Request, failure: Failure, ask: Callable[[frozenset[str]], Awaitable[Reply | Failure]]
    ) -> tuple[frozenset[str], Reply | Failure]:
        """Leave out one field at a time; another complaint than before shows that the last one was refused, too."""
        left_out = self.left_out
        while True:
            for name in self._suspects(self.body(request, left_out), failure):
                outcome = await ask(left_out | {name})
                if isinstance(outcome, Reply) or not outcome.may_be_of_field:
                    return left_out | {name}, outcome
                if _complaint(outcome) != _complaint(failure):
                    left_out, failure = left_out | {name}, outcome
                    break
            else:
                return left_out, failure


def _complaint(failure: Failure) -> str:
    """What a server complains of, without the numbers and names that differ from one request to the next."""
    return re.sub(r"\S*\d\S*", "#", failure.reason)


def _note(names: list[str], failure: Failure, place: str) -> str:
    """Say what is left out, and what is done instead."""
    what = {SCHEMA: "JSON schema", SYSTEM: "system message"}
    instead = {
        SCHEMA: "the prompt alone asks for JSON",
        SYSTEM: "its text stands in the user's turn",
        "max_tokens": f"{NEWER_LIMIT} is sent instead",
    }
    refused = " and no ".join(what.get(name, f"`{name}`") for name in names)
    going_on = "; ".join(instead[name] for name in names if name in instead and NEWER_LIMIT not in names)
    return f"{place} takes no {refused} ({failure.reason}); going on without" + (f": {going_on}." if going_on else ".")
