"""The client of any OpenAI-compatible endpoint."""

import asyncio
import logging
import math
import random
import re
import resource
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import orjson

from smt_plugin.backends.base import BackendDown, CacheUse, Keep, Refused, Reply, Request, cancel_all
from smt_plugin.backends.body import ACCEPTED, Body, TooLarge
from smt_plugin.backends.loose_json import read_body
from smt_plugin.backends.refusals import TINY_PROMPT, Failure, Refusals
from smt_plugin.backends.replies import read_reply, reply_of
from smt_plugin.backends.request_body import NEWER_LIMIT, SCHEMA
from smt_plugin.errors import BadInput
from smt_plugin.masking import answer_without_key, without_key
from smt_plugin.terminal import shown

if TYPE_CHECKING:
    import aiohttp
    from multidict import CIMultiDictProxy

log = logging.getLogger(__name__)
# Requests that an endpoint gets at first; a doubling start finds its limit in a few rounds of answers.
_FIRST_LIMIT = 16.0
# Seconds before another try, at first and at most, and characters of a server's words that are
# read, at most.
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
_LONGEST_MESSAGE = 2000
# Seconds before another try of a request that fails at a server which answers others, at most.
_LONGEST_PAUSE_OF_WELL = 5.0
# Failures of one request, while others are answered, after which it is refused: it would be retried for ever.
_MOST_FAILURES = 10
# Failures of one request after which the server is asked whether it answers at all.
_FAILURES_BEFORE_CHECK = 3
# Refusals of the account in a row after which an endpoint is left.
_MOST_ACCOUNT_REFUSALS = 3
_TINY = Request([{"role": "user", "content": TINY_PROMPT}], {"max_tokens": 16}, 0, None, "")
_ADDRESS_FIX = "the address must end before /chat/completions, often in /v1"
# Failures of an endpoint in a row after which it rests.
_FAILURES_BEFORE_REST = 8
# Seconds that a request waits for the endpoint that has its document cached before any other may take it.
_SPILL_AFTER = 1.0
# Seconds without an answer after which an endpoint is asked whether it is still there, and between such looks.
_SILENT_SECONDS = 60.0
_WATCH_SECONDS = 15.0
_PROBE_SECONDS = 30.0
# Files that a process has open beside its connections, with room to spare.
_OTHER_FILES = 256
# Documents whose endpoint is remembered: more than any cache holds.
_MOST_REMEMBERED = 4096
# The header in which vLLM takes the data-parallel rank that shall answer.
_RANK = "X-data-parallel-rank"


@dataclass(slots=True)
class _Endpoint:
    """What is known of one endpoint: `limit` is how many requests it may hold now, `busy` how many it holds.

    Of a vLLM server with several data-parallel ranks, each with a prefix cache of its own, each `rank` counts as one;
    the endpoints of a server have its number in common.
    `waiting` are requests that prefer it, oldest first, each with the time since when it waits and its future place.
    Times are the event loop's, in seconds; `answered` is the last answer's, `pause` is how long it rests after the
    next failure; `failures` and `account_refusals` came since the last answer. `well_at` is when it last answered a
    request, `unwell_at` when it failed a tiny one. `other_models` are what it lists in place of ours. `cache` is what
    its metrics said last; `under_way` holds the scopes of requests sent to it.
    """

    url: str
    limit: float
    server: int
    rank: int | None = None
    busy: int = 0
    answered: float = 0.0
    resting_until: float = 0.0
    pause: float = 1.0
    grows_fast: bool = True
    failures: int = 0
    account_refusals: int = 0
    well_at: float = 0.0
    unwell_at: float = -math.inf
    proxy: str | None = None
    other_models: str = ""
    cache: CacheUse | None = None
    under_way: set[asyncio.Timeout] = field(default_factory=set)
    waiting: "deque[tuple[float, asyncio.Future[_Endpoint]]]" = field(default_factory=deque)

    @property
    def fails(self) -> bool:
        """Whether it had to rest twice in a row, with no answer between."""
        return self.pause > 2.0

    @property
    def load(self) -> float:
        """Requests it holds or will hold, for each that it may hold."""
        return (self.busy + len(self.waiting)) / self.limit


class OpenAIBackend:
    """Client of one or several OpenAI-compatible endpoints that serve the same model.

    Each endpoint has a limit of requests that grows while it answers and is halved when it is overloaded
    (additive increase, multiplicative decrease, with a doubling start). A document's requests prefer one
    endpoint, the least busy one when its first request came; after waiting for a second they may go to another
    that has room. Each rank of a vLLM server with data parallelism counts as an endpoint. Rate limits, server
    errors, broken connections and malformed replies are retried with growing pauses; a request that keeps failing
    while others are answered is refused.

    Args:
        endpoints: base URLs, each ending before `/chat/completions`, e.g. `http://127.0.0.1:8000/v1`.
        api_key: bearer token, or None; it appears in no message and no log.
        max_concurrency: most requests in flight, over all endpoints.
        timeout: seconds for one request.
        patience: seconds with nothing but failures, from all endpoints, before BackendDown.
        structured_output: send JSON schemas where a request has one.
        options: set, rename or null fields of every request, see `request_body`.

    Raises:
        BadInput: an API key that no request can carry.
    """

    # Servers that we started ourselves are behind no proxy.
    _own_servers: ClassVar[bool] = False

    def __init__(
        self,
        endpoints: list[str],
        model: str,
        api_key: str | None = None,
        max_concurrency: int = 256,
        timeout: float = 1800.0,
        patience: float = 600.0,
        structured_output: bool = True,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.model = model
        self._max_concurrency = max_concurrency
        self._endpoints = [_Endpoint(url.rstrip("/"), 1.0, number) for number, url in enumerate(endpoints)]
        self._share_out()
        # What prefers which endpoint, the longest unused first.
        self._own: dict[str, _Endpoint] = {}
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": ACCEPTED}
        self._api_key = api_key
        if api_key:
            if not (api_key.isascii() and api_key.isprintable()):
                raise BadInput("the API key holds a line break or a letter beyond ASCII; set the key as it was given.")
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._timeout = timeout
        self._patience = patience
        unstructured = {} if structured_output else {SCHEMA: None}
        self._refusals = Refusals(model, unstructured | (options or {}))
        # One request at a time finds out what is refused, or whether a server is well.
        self._finding, self._checking = asyncio.Lock(), asyncio.Lock()
        self.context: int | None = None
        self._failing_since: float | None = None
        self._queried = self._hit = 0
        self._gone = ""
        self._session: aiohttp.ClientSession | None = None
        self._watcher: asyncio.Task[None] | None = None

    def _share_out(self) -> None:
        """Give each endpoint its part of the requests that may be in flight."""
        self._most = max(1.0, self._max_concurrency / len(self._endpoints))
        for endpoint in self._endpoints:
            endpoint.limit = min(_FIRST_LIMIT, self._most)

    @property
    def concurrency(self) -> int:
        """Requests that the endpoints may hold together now."""
        return sum(int(endpoint.limit) for endpoint in self._endpoints)

    @property
    def has_room(self) -> bool:
        """Whether an endpoint could take more requests than prefer it now."""
        now = asyncio.get_running_loop().time()
        return any(each.resting_until <= now and each.load < 1 for each in self._endpoints)

    async def start(self) -> None:
        """Ask each endpoint for its models.

        Raises:
            BadInput: no endpoint can be reached, the key is refused, or the model is neither listed nor served; or the
                environment names a proxy of a kind that is not known.
        """
        import aiohttp

        _allow_files(round(self._most * len(self._endpoints)) + _OTHER_FILES)
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            connector=aiohttp.TCPConnector(limit=0),
            auto_decompress=False,
        )
        if not self._own_servers:
            for endpoint in self._endpoints:
                endpoint.proxy = _proxy_of(endpoint.url)
        problems = await asyncio.gather(*(self._probe_models(endpoint) for endpoint in self._endpoints))
        if all(problems):
            raise BadInput(str(problems[0]))
        for problem in filter(None, problems):
            log.warning("%s Going on with the others.", problem)
        ranks = await asyncio.gather(*(self._look_at_cache(endpoint) for endpoint in self._endpoints))
        self._endpoints = [each for pair in zip(self._endpoints, ranks, strict=True) for each in _of_ranks(*pair)]
        self._share_out()
        self._watcher = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        """Cut the requests of endpoints that are silent, and whose server does not answer at all: they go elsewhere."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            now = asyncio.get_running_loop().time()
            silent = [each for each in self._endpoints if each.busy and now - each.answered > _SILENT_SECONDS]
            problems = await asyncio.gather(*(self._probe(endpoint) for endpoint in silent))
            for endpoint, problem in zip(silent, problems, strict=True):
                if problem is not None and now - endpoint.answered > _SILENT_SECONDS:
                    log.warning("%s Its requests go to others, or wait for it.", problem)
                    _cut(endpoint)

    async def _probe_models(self, endpoint: _Endpoint) -> str | None:
        """Return what is wrong with an endpoint, as one sentence, or None; a model that it does not list is tried."""
        problem = await self._probe(endpoint)
        if problem is not None or not endpoint.other_models:
            return problem
        log.warning(
            "endpoint %s lists the models %s and not %r, which is tried all the same.",
            endpoint.url,
            endpoint.other_models,
            self.model,
        )
        outcome = await self._ask_tiny(endpoint)
        if isinstance(outcome, Failure) and outcome.of_model:
            return (
                f"endpoint {endpoint.url} does not serve the model {self.model!r} but {endpoint.other_models} "
                f"({outcome.reason}); take one of its names."
            )
        return None

    async def _probe(self, endpoint: _Endpoint) -> str | None:
        """Return what is wrong with an endpoint, as one sentence, or None, and note what it lists without our model."""
        import aiohttp

        try:
            seconds = min(_PROBE_SECONDS, self._timeout)
            status, headers, content = await self._send("GET", f"{endpoint.url}/models", endpoint, timeout=seconds)
            if 300 <= status < 400:
                return self._moved(endpoint.url, headers.get("Location", ""))
            if status in (401, 403):
                return f"endpoint {endpoint.url} refused the API key (status {status}); set the right one."
            # Not every server has this route; then the first completion will tell.
            if status != 200:
                return None
            body = read_body(content)
        except TooLarge as error:
            return f"endpoint {endpoint.url} cannot be used ({error}); fix the address."
        except (aiohttp.ClientError, TimeoutError) as error:
            reason = self._clean(str(error) or type(error).__name__)
            return f"endpoint {endpoint.url} cannot be reached ({reason}); start the server or fix the address."
        except ValueError:
            return f"endpoint {endpoint.url} is no OpenAI-compatible server, by its answer to /models; fix the address."
        entries = body.get("data") if isinstance(body, dict) else None
        contexts = [entry for entry in (_context_of(body, self.model), self.context) if entry]
        self.context = min(contexts, default=None)
        served = [entry.get("id") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
        endpoint.other_models = "" if self.model in served else self._clean(", ".join(map(str, served[:5])))
        return None

    async def _send(
        self, method: str, url: str, endpoint: _Endpoint, data: bytes | None = None, timeout: float | None = None
    ) -> "tuple[int, CIMultiDictProxy[str], bytes]":
        """Return status, headers and body of an answer; a redirection is not followed, since the key would go with it.

        Args:
            timeout: seconds, in place of those of a request.

        Raises:
            aiohttp.ClientError, TimeoutError: there is none.
            ValueError: its body is too large, or packed in another way than was asked for.
        """
        import aiohttp

        assert self._session is not None
        limit = aiohttp.ClientTimeout(total=timeout or self._timeout, connect=30)
        headers = {} if endpoint.rank is None else {_RANK: str(endpoint.rank)}
        async with self._session.request(
            method, url, data=data, headers=headers, timeout=limit, allow_redirects=False, proxy=endpoint.proxy
        ) as response:
            body = Body(response.headers.get("Content-Encoding"))
            async for block in response.content.iter_any():
                body.add(block)
            return response.status, response.headers, body.content()

    def _moved(self, endpoint: str, location: str) -> str:
        target = self._clean(location.removesuffix("/models").removesuffix("/chat/completions"))
        return f"endpoint {endpoint} redirects to {target or 'nowhere'}; give that address instead."

    def _clean(self, text: str) -> str:
        """Return a server's words as they may be kept and shown: on one line, without the API key, and not too long.

        They are cut last, or a part of the key might be left.
        """
        return shown(" ".join(without_key(text, self._api_key).split()))[:_LONGEST_MESSAGE]

    def _without_key(self, reply: Reply) -> Reply:
        """Return a reply as it may be kept."""
        text, finish_reason = (answer_without_key(each, self._api_key) for each in (reply.text, reply.finish_reason))
        return replace(reply, text=text, finish_reason=finish_reason)

    async def complete(self, request: Request, keep: Keep | None = None) -> Reply:
        """Send one request until it is answered; its place is free for another when `keep` has returned.

        Raises:
            Refused: status 400, 413 or 422, whatever fields are left out, or ten failures of this request while the
                server answers others, or a tiny request.
            BadInput: a wrong key or address, or a redirection, of the last endpoint.
            BackendDown: see `patience`; or the last endpoint refuses the account that pays.
        """
        pause = _FIRST_PAUSE
        failures = 0
        failed_at: float | None = None
        body: dict[str, Any] = {}
        left_out: frozenset[str] | None = None
        while True:
            endpoint = await self._take(request.affinity)
            try:
                if self._gone:
                    raise BackendDown(self._gone)
                if left_out is not self._refusals.left_out:
                    left_out, body = self._refusals.left_out, self._refusals.body(request)
                    payload = orjson.dumps(body)
                sent_at = asyncio.get_running_loop().time()
                outcome: Reply | Failure | None = await self._post(endpoint, payload)
                # A server's fault may pass by itself.
                if isinstance(outcome, Failure) and (outcome.status < 500 or failures):
                    outcome = await self._without_what_is_refused(endpoint, request, left_out, outcome)
                if isinstance(outcome, Reply):
                    self._note_answer(endpoint)
                    self._refusals.note_answer(
                        body if left_out is self._refusals.left_out else self._refusals.body(request)
                    )
                    outcome = _told_of_the_limit(outcome, body)
                    if keep is not None:
                        await keep(outcome)
                    return outcome
                # Before its place goes to another request.
                if outcome is not None and await self._is_left(endpoint, outcome):
                    continue
            finally:
                endpoint.busy -= 1
                self._hand_out()
            if outcome is None:
                continue
            now = asyncio.get_running_loop().time()
            failing_since = self._failing_since = self._failing_since or now
            failures += outcome.counts
            impatient = now - failing_since > self._patience
            well = False
            if outcome.counts and (impatient or failures >= _FAILURES_BEFORE_CHECK):
                well = await self._is_well(endpoint, failed_at or sent_at)
            if impatient and not well:
                raise BackendDown(
                    f"no endpoint has answered for {self._patience:.0f} s; the last said: {outcome.reason}"
                )
            if well and failures >= _MOST_FAILURES:
                raise Refused(f"failed {failures} times while others were answered: {outcome.reason}")
            failed_at = now
            endpoint.failures += 1
            if outcome.overloaded or endpoint.failures >= _FAILURES_BEFORE_REST:
                self._rest(endpoint, outcome, now)
            if not outcome.overloaded:
                # The jitter spreads the retries of many waiting requests.
                wait = pause * random.uniform(0.5, 1.5) if outcome.retry_after is None else outcome.retry_after
                log.info("endpoint %s: %s; trying again in %.1f s", endpoint.url, outcome.reason, wait)
                await asyncio.sleep(wait)
                pause = min(pause * 2, _LONGEST_PAUSE_OF_WELL if well else _LONGEST_PAUSE)

    async def _without_what_is_refused(
        self, endpoint: _Endpoint, request: Request, left_out: frozenset[str], failure: Failure
    ) -> "Reply | Failure | None":
        """Find out, one request at a time, whether the server refuses a field; None where that was just found."""
        if not self._refusals.worth_finding(request, failure):
            return failure
        async with self._finding:
            if left_out is not self._refusals.left_out:
                return None
            if not self._refusals.worth_finding(request, failure):
                return failure

            async def send(body: dict[str, Any]) -> Reply | Failure:
                return await self._post(endpoint, orjson.dumps(body))

            return await self._refusals.find(request, failure, send, f"endpoint {endpoint.url}")

    def _note_answer(self, endpoint: _Endpoint) -> None:
        """Count an answer: the endpoint is well and may get more."""
        self._failing_since = None
        endpoint.answered = endpoint.well_at = asyncio.get_running_loop().time()
        endpoint.account_refusals = 0
        self._grow(endpoint)

    async def _is_well(self, endpoint: _Endpoint, since: float) -> bool:
        """Whether an endpoint has answered since a time of the event loop, or answers a tiny request now."""
        async with self._checking:
            now = asyncio.get_running_loop().time()
            if endpoint.well_at > since or now - endpoint.unwell_at < _WATCH_SECONDS:
                return endpoint.well_at > since
            outcome = await self._ask_tiny(endpoint)
            if isinstance(outcome, Reply):
                self._failing_since = None
                endpoint.well_at = asyncio.get_running_loop().time()
                endpoint.failures, endpoint.pause = 0, 1.0
                return True
            endpoint.unwell_at = asyncio.get_running_loop().time()
            if outcome.of_address:
                self._leave(endpoint, BadInput(self._wrong_address(endpoint, outcome)))
            return False

    async def _ask_tiny(self, endpoint: _Endpoint) -> Reply | Failure:
        """Ask for one word, as a server that lists its models may still complete nothing."""
        body = self._refusals.body(_TINY)
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                return await self._post(endpoint, orjson.dumps(body))
        except TimeoutError:
            return Failure("no answer in time")

    async def _is_left(self, endpoint: _Endpoint, failure: Failure) -> bool:
        """Whether an endpoint was left to the others, since it takes no request at all.

        Raises:
            Refused: it will not take this request.
            BadInput, BackendDown: it was the last endpoint.
        """
        if failure.of_account:
            await self._refuse_account(endpoint, failure)
        elif failure.of_prompt:
            self._failing_since = None
            raise Refused(failure.reason)
        elif failure.of_address:
            # One that answers another request means this prompt, which may be flagged.
            may_be_of_prompt = failure.status in (403, 404)
            if not (may_be_of_prompt and (endpoint.well_at or await self._is_well(endpoint, 0.0))):
                self._leave(endpoint, BadInput(self._wrong_address(endpoint, failure)))
        return endpoint.resting_until == math.inf

    async def _refuse_account(self, endpoint: _Endpoint, failure: Failure) -> None:
        """Count a refusal of the account, and leave the endpoint after some in a row; see `_is_left`.

        A server that answers a tiny request spoke of the prompt.
        """
        now = asyncio.get_running_loop().time()
        self._rest(endpoint, failure, now)
        endpoint.account_refusals += 1
        if endpoint.account_refusals < _MOST_ACCOUNT_REFUSALS:
            return
        async with self._checking:
            if self._gone:
                raise BackendDown(self._gone)
            if endpoint.account_refusals < _MOST_ACCOUNT_REFUSALS:  # somebody who came before has found it well
                return
            # Asked now: an answer that comes meanwhile may have been begun while there was money.
            if failure.status in (400, 403) and isinstance(await self._ask_tiny(endpoint), Reply):
                endpoint.account_refusals = 0
                raise Refused(failure.reason)
            self._give_up_account(endpoint, failure)

    def _give_up_account(self, endpoint: _Endpoint, failure: Failure) -> None:
        error = BackendDown(
            f"endpoint {endpoint.url} refused the account {_MOST_ACCOUNT_REFUSALS} times in a row ({failure.reason}); "
            "settle that with the provider: no prompt is to blame, and none was given up"
        )
        try:
            self._leave(endpoint, error)
        except BackendDown:
            self.give_up(str(error))
            raise

    def _leave(self, endpoint: _Endpoint, error: Exception) -> None:
        """Leave an endpoint that takes no request at all to the others; raises the error where there are none."""
        if all(each.server == endpoint.server or each.resting_until == math.inf for each in self._endpoints):
            raise error
        if endpoint.resting_until < math.inf:
            log.warning("%s Going on with the others.", error)
            self.rest(endpoint.server)

    def _wrong_address(self, endpoint: _Endpoint, failure: Failure) -> str:
        if 300 <= failure.status < 400:
            return failure.message
        fix = "set another key"
        if failure.status == 404:
            fix = f"it lists the models {endpoint.other_models}" if endpoint.other_models else _ADDRESS_FIX
        return f"endpoint {endpoint.url} answered status {failure.status} to a completion: {failure.message}; {fix}."

    async def cache_use(self) -> CacheUse | None:
        """Return the use of the prefix caches of vLLM servers, from their `/metrics`; None for other servers."""
        await asyncio.gather(*(self._look_at_cache(endpoint) for endpoint in self._endpoints if endpoint.cache))
        caches = [endpoint.cache for endpoint in self._endpoints if endpoint.cache]
        if not caches:
            return None
        return CacheUse(sum(cache.capacity for cache in caches), self._queried, self._hit)

    async def _look_at_cache(self, endpoint: _Endpoint) -> int:
        """Read an endpoint's metrics and count what came since the last ones, which stay where none can be read.

        Returns:
            How many engines the metrics tell of, each with its own cache: the ranks of data parallelism; else 1.
        """
        import aiohttp

        url = endpoint.url.removesuffix("/v1") + "/metrics"
        with suppress(aiohttp.ClientError, TimeoutError, ValueError, OverflowError):
            status, _, content = await self._send("GET", url, endpoint, timeout=5)
            text = content.decode(errors="replace")
            if status == 200 and (now := _cache_of_metrics(text)):
                last = endpoint.cache or now
                if now.queried < last.queried:  # a restarted server counts from zero
                    last = CacheUse(0, 0, 0)
                self._queried += now.queried - last.queried
                self._hit += now.hit - last.hit
                endpoint.cache = now
                engines = len(set(_ENGINE.findall(text)))
                # To more engines than requests no document could keep.
                return engines if 1 < engines <= self._max_concurrency else 1
        return 1

    def _grow(self, endpoint: _Endpoint) -> None:
        """Raise the limit after an answer: by one an answer at first, later by one a whole limit of answers."""
        endpoint.pause = 1.0
        endpoint.failures = 0
        step = 1.0 if endpoint.grows_fast else 1.0 / endpoint.limit
        if endpoint.busy >= int(endpoint.limit):
            endpoint.limit = min(endpoint.limit + step, self._most)
            self._hand_out()

    def _rest(self, endpoint: _Endpoint, failure: Failure, now: float) -> None:
        """Halve the limit and send nothing for a while, once for all requests that failed together."""
        if endpoint.resting_until > now:
            return
        wait = endpoint.pause * random.uniform(0.5, 1.5) if failure.retry_after is None else failure.retry_after
        log.warning("endpoint %s: %s; it rests for %.1f s", endpoint.url, failure.reason, wait)
        endpoint.limit = max(1.0, endpoint.limit / 2)
        endpoint.grows_fast = False
        endpoint.pause = min(endpoint.pause * 2, _LONGEST_PAUSE)
        endpoint.resting_until = now + wait
        asyncio.get_running_loop().call_later(wait + 0.001, self._hand_out)

    async def _take(self, affinity: str) -> _Endpoint:
        """Wait for a place on an endpoint, the document's own if that comes soon."""
        own = self._own.pop(affinity, None)
        if own is None or own.fails:
            own = min(self._endpoints, key=lambda each: (each.fails, each.load))
        self._own[affinity] = own
        if len(self._own) > _MOST_REMEMBERED:
            del self._own[next(iter(self._own))]
        loop = asyncio.get_running_loop()
        place: asyncio.Future[_Endpoint] = loop.create_future()
        own.waiting.append((loop.time(), place))
        self._hand_out()
        if not place.done() and len(self._endpoints) > 1:
            loop.call_later(_SPILL_AFTER + 0.001, self._hand_out)
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                place.result().busy -= 1
                self._hand_out()
            raise

    def _hand_out(self) -> None:
        """Give free places to waiting requests: an endpoint's own first, then those that wait too long elsewhere."""
        now = asyncio.get_running_loop().time()
        open_endpoints = [each for each in self._endpoints if each.resting_until <= now]
        for endpoint in open_endpoints:
            _give_places(endpoint, endpoint)
        for endpoint in sorted(open_endpoints, key=lambda each: each.load):
            for other in self._endpoints:
                if other is not endpoint:
                    # Nobody waits for an endpoint that rests.
                    before = now if other.resting_until > now else now - _SPILL_AFTER
                    _give_places(endpoint, other, before)

    async def _post(self, endpoint: _Endpoint, payload: bytes) -> Reply | Failure:
        """Return the reply, or why there was none this time."""
        import aiohttp

        named_rank = endpoint.rank is not None
        try:
            async with asyncio.timeout(None) as scope:
                endpoint.under_way.add(scope)
                try:
                    url = f"{endpoint.url}/chat/completions"
                    status, headers, content = await self._send("POST", url, endpoint, payload)
                finally:
                    endpoint.under_way.discard(scope)
        except aiohttp.ClientConnectorError as error:
            return Failure(self._clean(str(error)), overloaded=True, counts=False)
        except TimeoutError:
            return Failure("no answer in time", overloaded=True)
        except (aiohttp.ClientError, ValueError) as error:
            return Failure(self._clean(str(error) or type(error).__name__))
        message = ""
        if status == 200:
            body = None
            try:
                body = read_reply(content)
                return self._without_key(reply_of(body))
            except (ValueError, KeyError, IndexError, TypeError, AttributeError):
                # Some gateways pass on a refusal under status 200.
                status = _status_within(body)
                message = "no OpenAI chat completion: " if status == 200 else ""
        if 300 <= status < 400:
            return Failure(self._moved(endpoint.url, headers.get("Location", "")), status)
        message += self._clean(content.decode(errors="replace"))
        if status == 400 and named_rank and "data_parallel_rank" in message:
            # There are fewer ranks than there were; from now on the server chooses.
            endpoint.rank = None
            return Failure(message, counts=False)
        overloaded = status in (402, 429, 503, 529)
        retry_after = _seconds(headers.get("Retry-After"), headers.get("Date"))
        failure = Failure(message, status, retry_after, overloaded, counts=not overloaded)
        return replace(failure, overloaded=True, counts=False) if failure.of_account else failure

    def rest(self, number: int) -> None:
        """Send nothing to a server until `revive`: it is gone, so its requests go to the others, or wait."""
        for endpoint in self._of_server(number):
            endpoint.resting_until, endpoint.pause = math.inf, _LONGEST_PAUSE
            _cut(endpoint)

    def revive(self, number: int, url: str) -> None:
        """Send to a server again; it is new and may have another address."""
        for endpoint in self._of_server(number):
            endpoint.url, endpoint.resting_until, endpoint.pause = url, 0.0, 1.0
            endpoint.limit, endpoint.grows_fast = min(_FIRST_LIMIT, self._most), True
            endpoint.failures = 0
        self._failing_since = None
        self._hand_out()

    def _of_server(self, number: int) -> list[_Endpoint]:
        return [endpoint for endpoint in self._endpoints if endpoint.server == number]

    def give_up(self, reason: str) -> None:
        """Let every request, waiting or to come, raise BackendDown: no endpoint will answer any more."""
        self._gone = reason
        for endpoint in self._endpoints:
            endpoint.resting_until = 0.0
        self._hand_out()

    async def close(self) -> None:
        """Close the connections."""
        if self._watcher is not None:
            await cancel_all([self._watcher])
        if self._session is not None:
            await self._session.close()


def _allow_files(count: int) -> None:
    """Let this process open this many files, connections included, as far as the system lets it; many allow 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (count if hard == resource.RLIM_INFINITY else min(count, hard), hard)
        )


def _of_ranks(endpoint: _Endpoint, ranks: int) -> list[_Endpoint]:
    """Return what is sent to in place of an endpoint: itself, or each of its data-parallel ranks."""
    if ranks == 1:
        return [endpoint]
    # Its metrics are read once for all ranks.
    others = [replace(endpoint, rank=rank, cache=None, under_way=set(), waiting=deque()) for rank in range(1, ranks)]
    endpoint.rank = 0
    return [endpoint, *others]


def _cut(endpoint: _Endpoint) -> None:
    """Give up the requests sent to an endpoint: a machine that is gone cuts no connections itself."""
    while endpoint.under_way:
        endpoint.under_way.pop().reschedule(0.0)


def _give_places(endpoint: _Endpoint, preferred: _Endpoint, before: float = float("inf")) -> None:
    """Give an endpoint's free places to those that wait for `preferred` since `before` or longer."""
    waiting = preferred.waiting
    while waiting and endpoint.busy < int(endpoint.limit) and (waiting[0][1].done() or waiting[0][0] <= before):
        _, place = waiting.popleft()
        if not place.done():
            # An idle endpoint was not silent.
            endpoint.answered = endpoint.answered if endpoint.busy else asyncio.get_running_loop().time()
            endpoint.busy += 1
            place.set_result(endpoint)


def _told_of_the_limit(reply: Reply, body: dict[str, Any]) -> Reply:
    """Return a reply that says it was cut where it has as many tokens as it may; some servers say "stop" of it."""
    limit = body.get(NEWER_LIMIT) or body.get("max_tokens")
    full = isinstance(limit, int) and reply.completion_tokens >= limit
    return replace(reply, finish_reason="length") if full and reply.finish_reason == "stop" else reply


def _status_within(body: Any) -> int:
    """Return the status of the error in a body that came with status 200, or 200."""
    error = body.get("error") if isinstance(body, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code < 600 else 200


def _proxy_of(url: str) -> str | None:
    """Return the proxy that the environment names for an address (HTTPS_PROXY and the like, NO_PROXY), or None.

    This machine's own addresses need none, as in Go.

    Raises:
        BadInput: it is no HTTP proxy.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host == "localhost" or host == "::1" or host.startswith("127.") or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy and "://" not in proxy:
        proxy = f"http://{proxy}"
    if proxy and not proxy.startswith(("http://", "https://")):
        raise BadInput(
            f"the environment's proxy for {parts.scheme}://{host} is of the kind {proxy.partition(':')[0]}, but only "
            f"HTTP proxies are known; set {parts.scheme.upper()}_PROXY to one, or NO_PROXY={host}."
        )
    return proxy or None


def _seconds(retry_after: str | None, date: str | None) -> float | None:
    """Read a Retry-After header, seconds or a date; the server's own date counts, since clocks may differ."""
    try:
        seconds = float(retry_after or "")
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(retry_after or "") - parsedate_to_datetime(date or "")).total_seconds()
        except (ValueError, TypeError):
            return None
    return min(seconds, 300.0) if seconds > 0 else None


# The tokens that a prompt and its reply may have, as vLLM and SGLang, OpenRouter and Together, LM Studio, Mistral, Groq
# and llama.cpp name them in a model list; what is loaded counts before what the model could do.
_CONTEXTS = (
    "max_model_len",
    "loaded_context_length",
    "context_length",
    "max_context_length",
    "context_window",
    "n_ctx",
)


def _context_of(models: Any, name: str) -> int | None:
    """Return the context of a model by a server's list of models, in tokens; None if it does not say."""
    entries = models.get("data") if isinstance(models, dict) else None
    found = [each for each in entries if isinstance(each, dict)] if isinstance(entries, list) else []
    entry = next((each for each in found if each.get("id") == name), found[0] if len(found) == 1 else {})
    places = [each for each in (entry, entry.get("meta")) if isinstance(each, dict)]
    said = (each.get(key) for each in places for key in _CONTEXTS)
    return next((tokens for tokens in said if isinstance(tokens, int) and tokens > 0), None)


_METRIC = re.compile(r"^vllm:(prefix_cache_queries|prefix_cache_hits)(?:_total)?\{[^}\n]*\} (\S+)$", re.MULTILINE)
_CACHE_CONFIG = re.compile(r"^vllm:cache_config_info\{([^}\n]*)\}", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="(\d+)"')
_ENGINE = re.compile(r'^vllm:cache_config_info\{[^}\n]*\bengine="(\d+)"', re.MULTILINE)


def _cache_of_metrics(text: str) -> CacheUse | None:
    """Read vLLM's metrics (Prometheus text), summed over the engines behind one endpoint; None if not vLLM's."""
    capacity = 0
    for config in _CACHE_CONFIG.findall(text):
        labels = {name: int(value) for name, value in _LABEL.findall(config)}
        # Older versions do not report the size in tokens.
        blocks = labels.get("num_gpu_blocks", 0) * labels.get("block_size", 0)
        capacity += labels.get("kv_cache_size_tokens", blocks)
    if not capacity:
        return None
    counts = {"prefix_cache_queries": 0, "prefix_cache_hits": 0}
    for name, value in _METRIC.findall(text):
        counts[name] += int(float(value))
    return CacheUse(capacity, counts["prefix_cache_queries"], counts["prefix_cache_hits"])
