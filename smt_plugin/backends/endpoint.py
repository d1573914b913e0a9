"""The client of any OpenAI-compatible endpoint."""

import asyncio
import logging
import math
import random
import re
import resource
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import orjson

from smt_plugin.backends.base import BackendDown, CacheUse, Keep, Refused, Reply, Request, cancel_all
from smt_plugin.backends.loose_json import read_body
from smt_plugin.errors import BadInput, without_key

if TYPE_CHECKING:
    import aiohttp

log = logging.getLogger(__name__)
# Requests that an endpoint gets at first; a doubling start finds its limit in a few rounds of answers.
_FIRST_LIMIT = 16.0
# Seconds before another try, and characters of a server's words that are shown, at most.
_LONGEST_PAUSE = 60.0
_LONGEST_MESSAGE = 500
# Failures of one request, while others are answered, after which it is refused: it would be retried for ever.
_MOST_FAILURES = 10
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


@dataclass(slots=True)
class _Endpoint:
    """What is known of one endpoint: `limit` is how many requests it may hold now, `busy` how many it holds.

    `waiting` are requests that prefer it, oldest first, each with the time since when it waits and its future place.
    Times are the event loop's, in seconds; `answered` is the last answer's, `pause` is how long it rests after the
    next failure; `failures` came since the last answer. `cache` is what its metrics said last; `under_way` holds the
    scopes of requests sent to it.
    """

    url: str
    limit: float
    busy: int = 0
    answered: float = 0.0
    resting_until: float = 0.0
    pause: float = 1.0
    grows_fast: bool = True
    failures: int = 0
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
    that has room. Rate limits, server errors, broken connections and malformed replies are retried with
    growing pauses; a request that keeps failing while others are answered is refused.

    Args:
        endpoints: base URLs, each ending before `/chat/completions`, e.g. `http://127.0.0.1:8000/v1`.
        api_key: bearer token, or None; it appears in no message and no log.
        max_concurrency: most requests in flight, over all endpoints.
        timeout: seconds for one request.
        patience: seconds with nothing but failures, from all endpoints, before BackendDown.

    Raises:
        BadInput: an API key that no request can carry.
    """

    def __init__(
        self,
        endpoints: list[str],
        model: str,
        api_key: str | None = None,
        max_concurrency: int = 256,
        timeout: float = 1800.0,
        patience: float = 600.0,
        structured_output: bool = True,
    ) -> None:
        self.model = model
        self._most = max(1.0, max_concurrency / len(endpoints))
        self._endpoints = [_Endpoint(url.rstrip("/"), min(_FIRST_LIMIT, self._most)) for url in endpoints]
        # What prefers which endpoint, the longest unused first.
        self._own: dict[str, _Endpoint] = {}
        self._headers = {"Content-Type": "application/json"}
        self._api_key = api_key
        if api_key:
            if not (api_key.isascii() and api_key.isprintable()):
                raise BadInput("the API key holds a line break or a letter beyond ASCII; set the key as it was given.")
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._timeout = timeout
        self._patience = patience
        self._structured_output = structured_output
        self._schema_works = False
        self._failing_since: float | None = None
        self._answers = 0
        self._queried = self._hit = 0
        self._gone = ""
        self._session: aiohttp.ClientSession | None = None
        self._watcher: asyncio.Task[None] | None = None

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
            BadInput: no endpoint can be reached, the key is refused, or the model is not served.
        """
        import aiohttp

        _allow_files(round(self._most * len(self._endpoints)) + _OTHER_FILES)
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=self._timeout, connect=30),
            connector=aiohttp.TCPConnector(limit=0),
        )
        problems = await asyncio.gather(*(self._probe(endpoint.url) for endpoint in self._endpoints))
        if all(problems):
            raise BadInput(str(problems[0]))
        for problem in filter(None, problems):
            log.warning("%s Going on with the others.", problem)
        await asyncio.gather(*(self._look_at_cache(endpoint) for endpoint in self._endpoints))
        self._watcher = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        """Cut the requests of endpoints that are silent, and whose server does not answer at all: they go elsewhere."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            now = asyncio.get_running_loop().time()
            silent = [each for each in self._endpoints if each.busy and now - each.answered > _SILENT_SECONDS]
            problems = await asyncio.gather(*(self._probe(endpoint.url) for endpoint in silent))
            for endpoint, problem in zip(silent, problems, strict=True):
                if problem is not None and now - endpoint.answered > _SILENT_SECONDS:
                    log.warning("%s Its requests go to others, or wait for it.", problem)
                    _cut(endpoint)

    async def _probe(self, endpoint: str) -> str | None:
        """Return what is wrong with an endpoint, as one sentence, or None."""
        import aiohttp

        assert self._session is not None
        try:
            async with self._session.get(
                f"{endpoint}/models",
                timeout=aiohttp.ClientTimeout(total=min(_PROBE_SECONDS, self._timeout)),
                allow_redirects=False,
            ) as response:
                if 300 <= response.status < 400:
                    return self._moved(endpoint, response.headers.get("Location", ""))
                if response.status in (401, 403):
                    return f"endpoint {endpoint} refused the API key (status {response.status}); set the right one."
                # Not every server has this route; then the first completion will tell.
                if response.status != 200:
                    return None
                body = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError) as error:
            reason = self._clean(str(error) or type(error).__name__)
            return f"endpoint {endpoint} cannot be reached ({reason}); start the server or fix the address."
        except ValueError:
            return f"endpoint {endpoint} is no OpenAI-compatible server, by its answer to /models; fix the address."
        entries = body.get("data") if isinstance(body, dict) else None
        served = [entry.get("id") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
        if served and self.model not in served:
            names = self._clean(", ".join(map(str, served[:5])))
            return f"endpoint {endpoint} does not serve the model {self.model!r} but {names}; take one of its names."
        return None

    def _moved(self, endpoint: str, location: str) -> str:
        target = self._clean(location.removesuffix("/models").removesuffix("/chat/completions"))
        return f"endpoint {endpoint} redirects to {target or 'nowhere'}; give that address instead."

    def _clean(self, text: str) -> str:
        """Return a server's words as they may be shown: on one line, not too long, without the API key."""
        return " ".join(without_key(text, self._api_key).split())[:_LONGEST_MESSAGE]

    async def complete(self, request: Request, keep: Keep | None = None) -> Reply:
        """Send one request until it is answered; its place is free for another when `keep` has returned.

        Raises:
            Refused: status 400, 413 or 422, or ten failures of this request while others were answered.
            BadInput: status 401, 403 or 404 or a redirection from the last endpoint, which no request would survive.
            BackendDown: see `patience`.
        """
        with_schema = self._structured_output and request.schema is not None
        payload = orjson.dumps(request_body(request, self.model, with_schema))
        pause = 1.0
        failures = 0
        answers_before = -1
        while True:
            endpoint = await self._take(request.affinity)
            try:
                outcome = await self._ask(endpoint, request, payload, with_schema)
                if isinstance(outcome, Reply):
                    if keep is not None:
                        await keep(outcome)
                    return outcome
            finally:
                endpoint.busy -= 1
                self._hand_out()
            if outcome is None:
                continue
            now = asyncio.get_running_loop().time()
            self._failing_since = self._failing_since or now
            if now - self._failing_since > self._patience:
                raise BackendDown(
                    f"no endpoint has answered for {self._patience:.0f} s; the last said: {outcome.reason}"
                )
            endpoint.failures += 1
            failures += outcome.counts
            answers_before = self._answers if answers_before < 0 else answers_before
            if failures >= _MOST_FAILURES and self._answers > answers_before:
                raise Refused(f"failed {failures} times while others were answered: {outcome.reason}")
            if outcome.overloaded or endpoint.failures >= _FAILURES_BEFORE_REST:
                self._rest(endpoint, outcome, now)
            if not outcome.overloaded:
                # The jitter spreads the retries of many waiting requests.
                wait = pause * random.uniform(0.5, 1.5) if outcome.retry_after is None else outcome.retry_after
                log.info("endpoint %s: %s; trying again in %.1f s", endpoint.url, outcome.reason, wait)
                await asyncio.sleep(wait)
                pause = min(pause * 2, _LONGEST_PAUSE)

    async def _ask(
        self, endpoint: _Endpoint, request: Request, payload: bytes, with_schema: bool
    ) -> "Reply | _Failure | None":
        """Send one request once; None where the endpoint takes no request at all and leaves them to the others."""
        if self._gone:
            raise BackendDown(self._gone)
        try:
            outcome = await self._post(endpoint, payload)
        except BadInput as error:
            if all(each is endpoint or each.resting_until == math.inf for each in self._endpoints):
                raise
            if endpoint.resting_until < math.inf:
                log.warning("%s Going on with the others.", error)
                self.rest(self._endpoints.index(endpoint))
            return None
        except Refused as error:
            self._failing_since = None
            if not with_schema or self._schema_works:
                raise
            # Some servers refuse a schema that they cannot enforce, but answer without one.
            outcome = await self._post(endpoint, orjson.dumps(request_body(request, self.model, False)))
            if isinstance(outcome, Reply) and self._structured_output:
                log.warning("endpoint %s takes no JSON schema (%s); going on without.", endpoint.url, error)
                self._structured_output = False
        if isinstance(outcome, Reply):
            self._failing_since = None
            endpoint.answered = asyncio.get_running_loop().time()
            self._answers += 1
            self._schema_works |= with_schema and self._structured_output
            self._grow(endpoint)
        return outcome

    async def cache_use(self) -> CacheUse | None:
        """Return the use of the prefix caches of vLLM servers, from their `/metrics`; None for other servers."""
        await asyncio.gather(*(self._look_at_cache(endpoint) for endpoint in self._endpoints if endpoint.cache))
        caches = [endpoint.cache for endpoint in self._endpoints if endpoint.cache]
        if not caches:
            return None
        return CacheUse(sum(cache.capacity for cache in caches), self._queried, self._hit)

    async def _look_at_cache(self, endpoint: _Endpoint) -> None:
        """Read an endpoint's metrics and count what came since the last ones, which stay where none can be read."""
        import aiohttp

        assert self._session is not None
        url = endpoint.url.removesuffix("/v1") + "/metrics"
        with suppress(aiohttp.ClientError, TimeoutError, ValueError, OverflowError):
            async with self._session.get(url, timeout=aiohttp.ClientTimeout(total=5)) as response:
                if response.status == 200 and (now := _cache_of_metrics(await response.text())):
                    last = endpoint.cache or now
                    if now.queried < last.queried:  # a restarted server counts from zero
                        last = CacheUse(0, 0, 0)
                    self._queried += now.queried - last.queried
                    self._hit += now.hit - last.hit
                    endpoint.cache = now

    def _grow(self, endpoint: _Endpoint) -> None:
        """Raise the limit after an answer: by one an answer at first, later by one a whole limit of answers."""
        endpoint.pause = 1.0
        endpoint.failures = 0
        step = 1.0 if endpoint.grows_fast else 1.0 / endpoint.limit
        if endpoint.busy >= int(endpoint.limit):
            endpoint.limit = min(endpoint.limit + step, self._most)
            self._hand_out()

    def _rest(self, endpoint: _Endpoint, failure: "_Failure", now: float) -> None:
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

    async def _post(self, endpoint: _Endpoint, payload: bytes) -> "Reply | _Failure":
        """Return the reply, or why there was none this time."""
        import aiohttp

        assert self._session is not None
        try:
            async with asyncio.timeout(None) as scope:
                endpoint.under_way.add(scope)
                try:
                    async with self._session.post(
                        f"{endpoint.url}/chat/completions", data=payload, allow_redirects=False
                    ) as response:
                        content = await response.read()
                        status = response.status
                        headers = response.headers
                finally:
                    endpoint.under_way.discard(scope)
        except aiohttp.ClientConnectorError as error:
            return _Failure(self._clean(str(error)), overloaded=True, counts=False)
        except TimeoutError:
            return _Failure("no answer in time", overloaded=True)
        except aiohttp.ClientError as error:
            return _Failure(self._clean(str(error) or type(error).__name__))
        fault = ""
        if status == 200:
            try:
                return reply_of(read_body(content))
            except (ValueError, KeyError, IndexError, TypeError, AttributeError):
                fault = ", but no OpenAI chat completion"
        message = self._clean(content[: 4 * _LONGEST_MESSAGE].decode(errors="replace"))
        if status in (400, 413, 422):
            raise Refused(f"status {status}: {message}")
        if 300 <= status < 400:
            raise BadInput(self._moved(endpoint.url, headers.get("Location", "")))
        if status in (401, 403, 404):
            fix = "the address must end before /chat/completions, often in /v1" if status == 404 else "set another key"
            raise BadInput(f"endpoint {endpoint.url} answered status {status} to a completion: {message}; {fix}.")
        overloaded = status in (429, 503, 529)
        retry_after = _seconds(headers.get("Retry-After"), headers.get("Date"))
        reason = f"status {status}{fault}: {message}".removesuffix(": ")
        return _Failure(reason, retry_after, overloaded, counts=not overloaded)

    def rest(self, number: int) -> None:
        """Send nothing to an endpoint until `revive`: its server is gone, so its requests go to the others, or wait."""
        endpoint = self._endpoints[number]
        endpoint.resting_until, endpoint.pause = math.inf, _LONGEST_PAUSE
        _cut(endpoint)

    def revive(self, number: int, url: str) -> None:
        """Send to an endpoint again; its server is new and may have another address."""
        endpoint = self._endpoints[number]
        endpoint.url, endpoint.resting_until, endpoint.pause = url, 0.0, 1.0
        endpoint.limit, endpoint.grows_fast = min(_FIRST_LIMIT, self._most), True
        endpoint.failures = 0
        self._failing_since = None
        self._hand_out()

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


@dataclass(frozen=True, slots=True)
class _Failure:
    """A passing failure.

    Attributes:
        retry_after: seconds that the server asked for.
        overloaded: the endpoint has to rest.
        counts: the request itself may be to blame.
    """

    reason: str
    retry_after: float | None = None
    overloaded: bool = False
    counts: bool = True


def request_body(request: Request, model: str, structured_output: bool) -> dict[str, Any]:
    """Return the body of a chat completion request, as the OpenAI API has it."""
    body: dict[str, Any] = {"model": model, "messages": request.messages, **request.sampling}
    if "seed" in body:
        body["seed"] += request.sample
    if request.schema is not None and structured_output:
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "reply", "schema": request.schema}}
    return body


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


def reply_of(body: dict[str, Any]) -> Reply:
    """Read an OpenAI chat completion; raises KeyError, IndexError, TypeError or AttributeError if it is none.

    Where a server counts no tokens, one is assumed for every four bytes.
    """
    choice = body["choices"][0]
    message = choice["message"]
    text = message.get("content") or ""
    if not isinstance(text, str):
        raise TypeError("the content is not a text")
    finish_reason = choice.get("finish_reason") or "stop"
    # vLLM says so of requests that it drops; they have to be asked again.
    if finish_reason in ("abort", "error"):
        raise KeyError(finish_reason)
    usage = body.get("usage") or {}
    details = usage.get("prompt_tokens_details") or {}
    prompt_tokens = _count(usage.get("prompt_tokens"), 0)
    return Reply(
        text=text,
        finish_reason=str(finish_reason),
        prompt_tokens=prompt_tokens,
        cached_tokens=min(_count(details.get("cached_tokens"), 0), prompt_tokens),
        completion_tokens=_count(usage.get("completion_tokens"), math.ceil(len(text.encode()) / 4)),
    )


def _count(value: Any, otherwise: int) -> int:
    """Return a server's count of tokens, or `otherwise` where it is not a valid count."""
    return int(value) if isinstance(value, int | float) and 0 < value < 2**31 else otherwise


_METRIC = re.compile(r"^vllm:(prefix_cache_queries|prefix_cache_hits)(?:_total)?\{[^}]*\} (\S+)$", re.MULTILINE)
_CACHE_CONFIG = re.compile(r"^vllm:cache_config_info\{([^}]*)\}", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="(\d+)"')


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
