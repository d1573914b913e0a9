"""Run methods over documents under a token budget: completions into the store, records onto disk."""

import asyncio
import hashlib
import logging
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import IO, Any

import orjson

from smt_plugin.backends.base import (
    MAX_ATTEMPTS,
    Backend,
    CacheUse,
    Deferred,
    Refused,
    Reply,
    Request,
    cancel_all,
    together,
)
from smt_plugin.backends.endpoint import OpenAIBackend
from smt_plugin.backends.vllm_server import VLLMBackend
from smt_plugin.config import RunFile, parse_tokens
from smt_plugin.corpus import Document, estimate_tokens, read_documents, split_document
from smt_plugin.errors import BadInput
from smt_plugin.files import content_hash, read_json, write_json
from smt_plugin.generation.completions import Completion, CompletionStore, completion_key
from smt_plugin.generation.contradictions import Cut, CutPrompts, Repeated, Repeats, fitting
from smt_plugin.generation.waiting import Reach, first_in_rank
from smt_plugin.methods import make_method, method_class, prompt_folders, uses
from smt_plugin.methods.base import Answer, Ask, Method, Unparsable
from smt_plugin.prompts import Prompts
from smt_plugin.records import Record, shard_folder

log = logging.getLogger(__name__)
# A document that has yielded nothing for so many rounds in a row is given up and reported.
MAX_EMPTY_ROUNDS = 3
# Rounds of one method and document that may be under way at once.
MAX_ROUNDS_AHEAD = 32
# The part of the servers' caches that documents may fill; the rest is for what is being written.
CACHE_SHARE = 0.5
_LOOK_AT_CACHE_SECONDS = 5
# A document may stop somewhat below its budget: with the record that leaves it nearest.
_DONE_SHARE = 0.95
# Completions that the server is to blame for; they are asked again by the next call.
_WITHDRAWN = ("cut", "repeated")
_REPEATED = "the same text as for an earlier sample of the prompt"


@dataclass(slots=True)
class MethodCount:
    """Where one method stands; `tokens` are those of its records, `short` lists documents given up.

    `budget` is that of the documents asked about: in a shard a part of the run's. `parts` are the documents, or parts
    of long ones, that are done; `waiting` those that wait for a larger budget, since a round has about `round_tokens`
    (0: not known; `measured_with` stands for model and options). `repeated` records were dropped, since their text had
    come before; `stopped` says why the method was given up, if it was.
    """

    budget: int
    tokens: int = 0
    records: int = 0
    parts: int = 0
    short: list[str] = field(default_factory=list)
    waiting: int = 0
    round_tokens: float = 0.0
    measured_with: str = ""
    repeated: int = 0
    stopped: str = ""


@dataclass(slots=True)
class Summary:
    """What a call of `generate_run` did; token counts are the server's, of completions asked for in this call.

    Attributes:
        num_parts: documents, a long one counted once for each of its parts, which have at most `part_tokens`.
        completion_tokens: what is paid for; `thought_tokens` of them went into thoughts, which no budget counts.
        asked: completions paid for now, rejected ones included; `reused` those found in the store.
        deferred: completions that the backend put off; with any, no records are written.
        failures: reason -> how many, for rejected and refused completions, old and new.
        given_up: refused completions, old and new.
        losses: what -> how many, for what completions that are used have lost on the way, old and new.
        cache: the use of the servers' prefix caches by their own count, or None where they do not say.
        money: what the completions asked for in this call cost, or None without prices.
    """

    methods: dict[str, MethodCount]
    num_documents: int = 0
    num_parts: int = 0
    part_tokens: int = 0
    asked: int = 0
    reused: int = 0
    rejected: int = 0
    refused: int = 0
    deferred: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    given_up: int = 0
    losses: dict[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    thought_tokens: int = 0
    seconds: float = 0.0
    cache: CacheUse | None = None
    money: float | None = None
    currency: str = ""

    @property
    def cache_share(self) -> float | None:
        """Part of the prompt tokens that came out of the prefix caches: the servers' count, else the replies'."""
        if self.cache is not None:
            return self.cache.hit / self.cache.queried if self.cache.queried else None
        return self.cached_tokens / self.prompt_tokens if self.cached_tokens else None

    @property
    def unmet(self) -> list[str]:
        """One sentence for each method that missed its budget."""
        stopped = [f"{name}: {count.stopped}" for name, count in self.methods.items() if count.stopped]
        return stopped + [
            f"{name}: {len(count.short)} of {self.num_parts} documents yielded too little "
            f"({count.tokens:,} of {count.budget:,} tokens), e.g. {count.short[0]!r}"
            for name, count in self.methods.items()
            if count.short and not count.stopped
        ]

    @property
    def text(self) -> str:
        """The summary as a person reads it."""
        lines = [
            f"{name:>16}: {count.tokens:,} of {count.budget:,} tokens in {count.records:,} records"
            for name, count in self.methods.items()
        ]
        cached = f" ({self.cache_share:.1%} from the cache)" if self.cache_share is not None else ""
        thoughts = f" ({self.thought_tokens:,} of them thoughts)" if self.thought_tokens else ""
        cost = f", {self.money:,.2f} {self.currency}" if self.money is not None else ""
        lines.append(
            f"{self.asked:,} completions asked, {self.reused:,} reused; {self.prompt_tokens:,} tokens in{cached}, "
            f"{self.completion_tokens:,} out{thoughts}, {self.seconds:,.1f} s{cost}"
        )
        if self.cache is not None and self.cache.queried:
            lines.append(
                f"prefix cache: {self.cache.hit:,} of {self.cache.queried:,} prompt tokens hit, as the servers count; "
                f"{self.cache.capacity:,} tokens fit in"
            )
        lines += [
            f"{name}: {count.waiting:,} of {self.num_parts:,} documents wait for a larger budget: this one is less "
            "than a round for each"
            for name, count in self.methods.items()
            if count.waiting
        ]
        if repeated := sum(count.repeated for count in self.methods.values()):
            lines.append(f"{repeated:,} records were dropped: the same text had come before for the same prompt")
        if self.failures:
            lines.append("replies that could not be used, by reason; the counts above are without them:")
            lines += [f"{number:>8,} x {reason}" for reason, number in Counter(self.failures).most_common(10)]
        if self.losses:
            lines.append("lost on the way, of replies that could be used:")
            lines += [f"{number:>8,} x {what}" for what, number in self.losses.items()]
        return "\n".join(lines)


@dataclass(slots=True)
class Asker:
    """Answers asks from the store or the backend, each prompt once, however many tasks want it.

    Attributes:
        num_calls: how often an answer was waited for, be it one that is under way for somebody else.
        tells_repeats: whether samples of a prompt that are the same are the server's fault.
    """

    backend: Backend
    store: CompletionStore
    prompts: Prompts
    summary: Summary
    retry_refused: bool
    num_calls: int = 0
    _under_way: dict[str, asyncio.Task[Completion]] = field(default_factory=dict)
    _failed: set[str] = field(default_factory=set)
    _with_losses: set[str] = field(default_factory=set)
    _asked_estimate: float = 0.0
    tells_repeats: bool = True
    _repeats: Repeats = field(default_factory=Repeats)
    _cut: CutPrompts = field(init=False)

    def __post_init__(self) -> None:
        self._cut = CutPrompts(self.backend)

    @property
    def tokens_per_estimate(self) -> float:
        """How many tokens the model's tokenizer makes of what `estimate_tokens` takes for one."""
        return self.summary.prompt_tokens / self._asked_estimate if self.summary.prompt_tokens else 1.0

    async def ask(self, ask: Ask) -> Answer | None:
        """Return a usable answer, None if there is none; raises Cut or Repeated where the server is at fault."""
        messages = self.prompts.messages(
            ask.prompt, identity=ask.document.identity, document=ask.document.text.strip(), **ask.variables
        )[0 if ask.has_system else 1 :]
        for attempt in range(MAX_ATTEMPTS):
            request = Request(
                messages,
                ask.sampling,
                ask.sample * MAX_ATTEMPTS + attempt,
                ask.schema,
                f"{ask.document.id}\0{ask.document.part}",
                ask.prompt,
                ask.variables,
            )
            key = completion_key(request, self.backend.model)
            completion = await self._completion(key, request, ask, attempt)
            if completion.status == "refused" or completion.status in _WITHDRAWN:
                return None
            with suppress(Unparsable):
                value = ask.read(completion.reply)
                self._count_losses(key, ask.losses(completion.reply))
                return Answer(
                    value=value,
                    key=key,
                    tokens=ask.text_tokens(completion.reply),
                    prompt=ask.prompt,
                    prompt_hash=completion.prompt_hash,
                    model=completion.model,
                    sampling=completion.sampling,
                )
        return None

    async def _completion(self, key: str, request: Request, ask: Ask, attempt: int) -> Completion:
        if key not in self._under_way:
            stored = await self.store.find(key)
            again = stored is not None and (
                stored.status in _WITHDRAWN or (stored.status == "refused" and self.retry_refused)
            )
            # What was refused anew is not asked a third time for another method that shares it.
            if stored is not None and (not again or key in self._failed):
                self.summary.reused += 1
                self._count_failure(stored)
                if stored.status not in _WITHDRAWN:
                    self._repeats.note(request, stored, is_new=False)
                    self._cut.suspects(request, stored.reply)
                # Replays of a whole store must still let other tasks run.
                if self.summary.reused % 100 == 0:
                    await asyncio.sleep(0)
                return stored
            # Another task may have begun to ask while this one waited for the store.
            if key not in self._under_way:
                task = asyncio.create_task(self._pay(key, request, ask, attempt))
                self._under_way[key] = task
                task.add_done_callback(lambda done: self._forget(key, done))
        self.num_calls += 1
        # Shielded: whoever asked first may no longer want it, but others may, and it is paid for.
        return await asyncio.shield(self._under_way[key])

    def _forget(self, key: str, task: asyncio.Task[Completion]) -> None:
        del self._under_way[key]
        # Read here, since whoever asked may have been stopped by another failure meanwhile.
        if not task.cancelled():
            task.exception()

    async def close(self) -> None:
        """Stop what is still under way, which nobody waits for any more."""
        await cancel_all(self._under_way.values())
        await self._cut.close()

    async def _pay(self, key: str, request: Request, ask: Ask, attempt: int) -> Completion:
        started = time.monotonic()
        kept: list[Completion] = []

        async def keep(reply: Reply, status: str = "done", reason: str = "", is_checked: bool = False) -> None:
            # Found out when the reply has left its place to another request.
            if status == "done" and not is_checked and self._cut.suspects(request, reply):
                return
            if status == "done":
                try:
                    ask.read(reply)
                except Unparsable as error:
                    status, reason = "rejected", str(error)
            completion = Completion(
                key=key,
                status=status,
                reason=reason,
                doc_id=ask.document.id,
                prompt=ask.prompt,
                prompt_hash=self.prompts.hash(ask.prompt),
                model=self.backend.model,
                sampling=ask.sampling,
                sample=ask.sample,
                attempt=attempt,
                variables=ask.variables,
                reply=reply,
                seconds=time.monotonic() - started,
            )
            if (
                self.tells_repeats
                and completion.status != "refused"
                and self._repeats.note(request, completion, is_new=True)
            ):
                completion = replace(completion, status="repeated", reason=_REPEATED)
            await self.store.put(completion)
            kept.append(completion)

        try:
            self._repeats.check(ask.prompt)
            reply = await self.backend.complete(request, keep)
            if not kept:
                reason = await self._cut.reason(request, reply)
                await keep(reply, "cut" if reason else "done", reason, is_checked=True)
        except Deferred:
            self.summary.deferred += 1
            raise
        except Refused as error:
            await keep(Reply("", "refused", 0, 0, 0), "refused", str(error))
        self._count(kept[0], request, ask)
        await self._withdraw(kept[0])
        return kept[0]

    async def _withdraw(self, completion: Completion) -> None:
        """Withdraw what was stored before the server was known to cut prompts or to repeat itself."""
        if completion.status == "cut":
            try:
                self._cut.check(completion.reason)
            except Cut:
                if self._cut.limit is not None:
                    await self.store.withdraw("cut", completion.reason, prompt_tokens=self._cut.limit)
                raise
        try:
            self._repeats.check(completion.prompt)
        except Repeated:
            await self.store.withdraw("repeated", _REPEATED, keys=self._repeats.keys.pop(completion.prompt, []))
            raise

    def _count(self, completion: Completion, request: Request, ask: Ask) -> None:
        """Count a completion that was paid for now."""
        summary, reply = self.summary, completion.reply
        summary.asked += 1
        summary.rejected += completion.status == "rejected"
        summary.refused += completion.status == "refused"
        if reply.prompt_tokens:
            self._asked_estimate += sum(estimate_tokens(message["content"]) for message in request.messages)
        summary.prompt_tokens += reply.prompt_tokens
        summary.cached_tokens += reply.cached_tokens
        summary.completion_tokens += reply.completion_tokens
        if completion.status == "done":
            summary.thought_tokens += reply.completion_tokens - ask.text_tokens(reply)
        self._count_failure(completion)

    def _count_losses(self, key: str, losses: dict[str, int]) -> None:
        """Count what a usable completion has lost, once, however many methods share it."""
        if losses and key not in self._with_losses:
            self._with_losses.add(key)
            for what, number in losses.items():
                self.summary.losses[what] = self.summary.losses.get(what, 0) + number

    def _count_failure(self, completion: Completion) -> None:
        """Count a completion without a usable answer, once, however many methods share it."""
        if completion.status != "done" and completion.key not in self._failed:
            self._failed.add(completion.key)
            self.summary.given_up += completion.status == "refused"
            failures = self.summary.failures
            failures[completion.reason] = failures.get(completion.reason, 0) + 1


async def generate_run(
    run_file: RunFile,
    backend: Backend,
    *,
    only: Collection[str] = (),
    shard: tuple[int, int] | None = None,
    retry_refused: bool = False,
    rounds_ahead: int = MAX_ROUNDS_AHEAD,
    on_progress: Callable[[Summary], None] = lambda summary: None,
) -> Summary:
    """Fill the budget of each method of a run file and write `<run>/records/<method>.jsonl`.

    Everything in the store is reused, so that a run is resumed, extended or repaired by calling this again. Where
    the backend defers an answer, everything is still asked that does not depend on it, and no records are written.

    Args:
        only: names of methods to choose; all where empty.
        shard: (i, n): only the i-th of n shards of the documents, i from 1, in a folder of its own below the run's.
        retry_refused: ask again what the backend once refused.
        rounds_ahead: rounds of one method and document that may be under way at once.
        on_progress: called after each document and about once a second.

    Raises:
        BadInput: the run file, the corpus, a prompt or the backend is not as it should be; nothing was asked for then.
        BackendDown: no endpoint answered for too long; what came before is kept.
    """
    run, price = shard_folder(run_file.run, shard), run_file.price
    methods, prompts = methods_of(run_file, only), prompts_of(run_file)
    part_tokens = run_file.max_document_tokens
    total_length = own_length = num_documents = num_parts = 0

    def own_parts() -> Iterator[Document]:
        nonlocal total_length, own_length, num_documents, num_parts
        for document in read_documents(run_file.corpus):
            total_length += len(document.text)
            if in_shard(document, shard):
                own_length += len(document.text)
                num_documents += 1
                split = split_document(document, part_tokens)
                num_parts += len(split)
                yield from split

    # The first pass checks every document before anything is spent.
    first = first_in_rank(own_parts())
    share = own_length / total_length
    budgets = {name: MethodCount(round(budget * share)) for name, (_, budget) in methods.items()}
    summary = Summary(budgets, num_documents, num_parts, currency=price.currency if price else "")
    started = time.monotonic()
    # Everything gets closed, even where closing one of them fails.
    async with AsyncExitStack() as closing:
        store = CompletionStore(run)
        closing.push_async_callback(store.close)
        files = {name: closing.enter_context(_partial_records(run, name)) for name in methods}
        closing.push_async_callback(backend.close)
        await backend.start()
        longest = max((int(getattr(method, "max_tokens", 0)) for method, _ in methods.values()), default=0)
        if (fits := fitting(part_tokens, backend.context, longest)) < part_tokens:
            part_tokens, before = fits, num_parts
            total_length = own_length = num_documents = num_parts = 0
            first = first_in_rank(own_parts())
            if num_parts > before:
                log.warning(
                    "the server's context is %s tokens, so documents of more than %s are split (max_document_tokens "
                    "says %s).",
                    f"{backend.context:,}",
                    f"{fits:,}",
                    f"{run_file.max_document_tokens:,}",
                )
            summary.num_parts = num_parts
        summary.part_tokens = part_tokens
        asker = Asker(backend, store, prompts, summary, retry_refused)
        reaches: dict[str, Reach] = {}
        for name, count in summary.methods.items():
            count.measured_with = content_hash([[backend.model, repr(methods[name][0])]])[:16]
            measured = _measured_before(run / "generate.json", name, count)
            reaches[name] = Reach(count.budget, own_length, num_parts, first, measured)
        # Without them it is not known of others whether the budget reaches them.
        begun = [] if all(reach.is_decided for reach in reaches.values()) else first

        async def run_part(part: Document) -> None:
            fraction = len(part.text) / total_length
            await together(run_method(part, name, fraction) for name in methods)
            on_progress(summary)

        async def run_method(part: Document, name: str, fraction: float) -> None:
            (method, budget), count, reach = methods[name], summary.methods[name], reaches[name]
            if await reach.has(part):
                await _run_method(part, method, budget * fraction, rounds_ahead, asker, count, files[name], reach)
            else:
                count.waiting += 1

        async def look() -> None:
            summary.cache = await backend.cache_use()
            summary.seconds = time.monotonic() - started
            if price is not None:
                cached = summary.prompt_tokens * (summary.cache_share or 0.0)
                summary.money = price.of(summary.prompt_tokens, cached, summary.completion_tokens, summary.seconds)

        async def tick() -> None:
            while True:
                await look()
                for _ in range(_LOOK_AT_CACHE_SECONDS):
                    await asyncio.sleep(1)
                    summary.seconds = time.monotonic() - started
                    on_progress(summary)

        ticker = asyncio.create_task(tick())
        stored = store.tokens_of_documents()
        tokens_per_character = sum(budget for _, budget in methods.values()) / total_length

        def is_wanted(part: Document) -> bool:
            if part in begun:
                return False
            if any(not reach.is_decided or reach.reaches(part) for reach in reaches.values()):
                return True
            for count in summary.methods.values():
                count.waiting += 1
            return False

        def parts() -> Iterator[Document]:
            yield from begun
            # What has most probably met its budget comes last: the servers have work before it is all read again.
            for done in (False, True):
                for document in read_documents(run_file.corpus):
                    wanted = len(document.text) * tokens_per_character
                    if in_shard(document, shard) and (stored.get(document.id, 0) > wanted * _DONE_SHARE) == done:
                        yield from filter(is_wanted, split_document(document, part_tokens))

        try:
            await look()
            await keep_busy(parts(), run_part, asker, backend, summary)
            await look()
        finally:
            await cancel_all([ticker])
            await asker.close()
        if not summary.deferred:
            for file in files.values():
                file.flush()
                os.fsync(file.fileno())
            for file in files.values():
                os.replace(file.name, file.name.removesuffix(".partial"))
    on_progress(summary)
    for name, reach in reaches.items():
        summary.methods[name].round_tokens = reach.round_tokens
    if not summary.deferred:
        _write_summary(run / "generate.json", summary)
    return summary


def part_tokens_of(run_file: RunFile, folder: Path) -> int:
    """Return above how many tokens documents were split in a folder of records, or will be as far as can be known."""
    path = folder / "generate.json"
    found = read_json(path, "smt generate", "methods").get("part_tokens") if path.is_file() else None
    return min(run_file.max_document_tokens, int(found or run_file.max_document_tokens))


def _measured_before(path: Path, name: str, count: MethodCount) -> float:
    """Tokens of a round of a method by an earlier call's summary; 0 if there is none, or of another model or options.

    The same number at each call keeps the documents of a smaller budget among those of a larger one.
    """
    methods = read_json(path, "smt generate", "methods")["methods"] if path.is_file() else {}
    before = methods.get(name, {})
    return float(before.get("round_tokens", 0)) if before.get("measured_with") == count.measured_with else 0.0


def _write_summary(path: Path, summary: Summary) -> None:
    """Write a call's summary; methods that it left alone stay as an earlier call wrote them, like their records."""
    content = asdict(summary)
    if path.is_file():
        content["methods"] = read_json(path, "smt generate", "methods")["methods"] | content["methods"]
    write_json(path, content)


@contextmanager
def _partial_records(run: Path, name: str) -> Iterator[IO[bytes]]:
    """Open the file that becomes `<run>/records/<name>.jsonl` once it is whole, and goes away where it does not."""
    path = run / "records" / f"{name}.jsonl.partial"
    try:
        path.parent.mkdir(exist_ok=True)
        file = path.open("wb")
    except OSError as error:
        raise BadInput(f"{path} cannot be written ({error.strerror}); fix the folder's permissions.") from None
    try:
        with file:
            yield file
    finally:
        path.unlink(missing_ok=True)


def in_shard(document: Document, shard: tuple[int, int] | None) -> bool:
    """Whether a document belongs to the i-th of n shards: by a hash of its id, so that others change nothing."""
    number, count = shard or (1, 1)
    digest = hashlib.sha256(document.id.encode()).digest()
    return int.from_bytes(digest[:8], "big") % count == number - 1


async def keep_busy(
    parts: Iterator[Document],
    run_part: Callable[[Document], Coroutine[Any, Any, None]],
    asker: Asker,
    backend: Backend,
    summary: Summary,
) -> None:
    """Run documents side by side, letting the next one in whenever a server has room for its calls and its text.

    Few documents at a time keep their calls close together, and all of them in the servers' prefix caches.
    """
    tasks: dict[asyncio.Task[None], float] = {}
    ended: list[asyncio.Task[None]] = []

    def forget_ended() -> None:
        done = ended.copy()
        ended.clear()
        for task in done:
            del tasks[task]
        # All errors are read, since asyncio complains of those that nobody reads.
        for error in [task.exception() for task in done]:
            if error is not None:
                raise error

    try:
        for part in parts:
            estimate = estimate_tokens(part.text)
            while tasks and (
                len(tasks) >= backend.concurrency
                or not backend.has_room
                or (summary.cache is not None and not _fits(estimate, tasks, asker, summary.cache))
            ):
                await asyncio.sleep(0.005)
                forget_ended()
            task = asyncio.create_task(run_part(part))
            tasks[task] = estimate
            task.add_done_callback(ended.append)
            # Documents that are in the store pass by one after another, so that they do not fill the memory.
            calls_before = asker.num_calls
            while asker.num_calls == calls_before and not task.done():
                await asyncio.sleep(0.001)
            forget_ended()
        while tasks:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            # One that has ended just now is not among `ended` yet.
            await asyncio.sleep(0)
            forget_ended()
    finally:
        await cancel_all(tasks)


def _fits(estimate: float, tasks: dict[asyncio.Task[None], float], asker: Asker, cache: CacheUse) -> bool:
    return (sum(tasks.values()) + estimate) * asker.tokens_per_estimate <= cache.capacity * CACHE_SHARE


async def _run_method(
    part: Document,
    method: Method,
    budget: float,
    rounds_ahead: int,
    asker: Asker,
    count: MethodCount,
    file: IO[bytes],
    reach: Reach,
) -> None:
    """Ask for rounds until the document's part of the budget (tokens) is met, and write its records.

    Several rounds are under way at once, but they are taken in order, so what is kept does not depend on
    which came back first.
    """
    tokens = kept = empty = taken = 0
    full = False
    texts: set[int] = set()
    rounds: list[asyncio.Task[list[Record] | None]] = []
    try:
        while not full and (tokens < budget or not kept) and empty < MAX_EMPTY_ROUNDS:
            missing = 1 if taken == 0 or tokens == 0 else math.ceil((budget - tokens) * taken / tokens)
            # Few at first: a server that gives the same text each time is found out by the second round.
            ahead = rounds_ahead if taken > 1 else max(rounds_ahead // 8, 1)
            while len(rounds) < min(max(missing, 1), ahead):
                r = taken + len(rounds)
                rounds.append(asyncio.create_task(_round(part, method, r, asker)))
            records = await rounds.pop(0)
            if taken == 0:
                reach.tell(part, None if records is None else sum(record.tokens for record in records))
            if records is None:
                # The later rounds are wanted, too, and may be asked for now.
                await asyncio.gather(*rounds)
                return
            taken += 1
            distinct = _distinct(records, texts)
            count.repeated += len(records) - len(distinct)
            empty = 0 if distinct else empty + 1
            for record in distinct:
                # The first round is kept whole, since no less of it can be asked for; later on the last record stays
                # only if that leaves the total nearer to the budget.
                full = taken > 1 and kept > 0 and tokens + record.tokens / 2 > budget
                if full:
                    break
                file.write(orjson.dumps(record.to_json()) + b"\n")
                kept += 1
                tokens += record.tokens
                count.tokens += record.tokens
                count.records += 1
    except Repeated as error:
        reach.tell(part, 0)
        count.stopped = str(error)
    finally:
        await cancel_all(rounds)
    if empty >= MAX_EMPTY_ROUNDS:
        count.short.append(part.id if part.part == 0 else f"{part.id}, part {part.part + 1}")
    count.parts += 1


def _distinct(records: list[Record], texts: set[int]) -> list[Record]:
    """Return the records of completions that say something new; hashes of what they say are added to `texts`."""
    distinct: list[Record] = []
    for _, group in groupby(records, key=lambda record: (record.completions[0], record.prompt)):
        made = list(group)
        said = hash((made[0].prompt, *((record.text, str(record.messages)) for record in made)))
        if said not in texts:
            texts.add(said)
            distinct += made
    return distinct


async def _round(part: Document, method: Method, r: int, asker: Asker) -> list[Record] | None:
    """Return a round's records, or None if an answer was deferred; then all was asked that could be."""
    deferred = False

    async def complete(ask: Ask) -> Answer | None:
        nonlocal deferred
        try:
            return await asker.ask(ask)
        except Deferred:
            deferred = True
            return None

    records = await method.round(part, r, complete)
    return None if deferred else records


def prompts_of(run_file: RunFile) -> Prompts:
    """Return the prompts of a run: of its own folder, then the shipped ones, then those that come with its methods."""
    folders = [folder for name in run_file.methods for folder in prompt_folders(method_class(name))]
    return Prompts(run_file.prompts, folders, run_file.language)


def methods_of(run_file: RunFile, only: Collection[str] = ()) -> dict[str, tuple[Method, int]]:
    """Return the methods of a run file with their budgets in tokens.

    A method that uses another one uses it with the options that the run file gives it, unless its own say otherwise.

    Args:
        only: names to choose; all where empty.

    Raises:
        BadInput: an unknown method or option, or a budget that is missing or no number of tokens.
    """
    for name in only:
        if name not in run_file.methods:
            raise BadInput(f"the run file has no method {name!r} but {', '.join(run_file.methods)}.")
    sections = {method_class(name): options for name, options in run_file.methods.items()}
    methods: dict[str, tuple[Method, int]] = {}
    for name, options in run_file.methods.items():
        options = dict(options)
        for key, used in uses(method_class(name)).items():
            if used in sections:
                options.setdefault(key, {k: v for k, v in sections[used].items() if k != "tokens"})
        try:
            budget = parse_tokens(options.pop("tokens"))
        except KeyError:
            raise BadInput(f"methods.{name}: no budget; add e.g. `tokens: 50M`.") from None
        except ValueError as error:
            raise BadInput(f"methods.{name}.tokens: {error}.") from None
        method = make_method(name, options)
        if not only or name in only:
            methods[name] = (method, budget)
    return methods


def backend_of(run_file: RunFile, shard: tuple[int, int] | None = None) -> Backend:
    """Make the backend of a run file, or of one of its shards; the API key comes from the environment."""
    settings = run_file.backend
    if settings.kind == "microworld":
        from smt_plugin.microworld.scripted import ScriptedBackend

        return ScriptedBackend(strength=settings.strength)
    client: dict[str, Any] = {
        "max_concurrency": settings.max_concurrency,
        "timeout": settings.timeout,
        "patience": settings.patience,
        "structured_output": settings.structured_output,
        "options": settings.options,
    }
    if settings.kind == "vllm":
        return VLLMBackend(
            settings.model,
            settings.command,
            settings.replicas,
            settings.arguments,
            log_folder=shard_folder(run_file.run, shard) if shard else run_file.run,
            startup_timeout=settings.startup_timeout,
            ray=settings.ray,
            resources=settings.resources,
            **client,
        )
    api_key = os.environ.get(settings.api_key_variable, "").strip() or None
    return OpenAIBackend(settings.endpoints, settings.model, api_key=api_key, **client)
