"""Run methods over documents under a token budget: completions into the store, records onto disk."""

import asyncio
import hashlib
import logging
import math
import os
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from typing import IO, Any, NamedTuple

import orjson

from smt_plugin.backends.base import Backend, CacheUse, Deferred, Reply, cancel_all, together
from smt_plugin.backends.endpoint import OpenAIBackend
from smt_plugin.backends.thoughts import without_thoughts
from smt_plugin.backends.vllm_server import VLLMBackend
from smt_plugin.config import RunFile, parse_tokens
from smt_plugin.corpus import Document, SteadyCorpus, document_hash, estimate_tokens, split_document
from smt_plugin.errors import BadInput, naming
from smt_plugin.faithfulness.check import Source, turns_of
from smt_plugin.faithfulness.findings import FindingsFile
from smt_plugin.faithfulness.verdicts import JUDGE, judge_of, start_judge
from smt_plugin.files import content_hash, make_folder, private, write_json
from smt_plugin.generation.asker import AGAIN, Asker, asking, messages_about
from smt_plugin.generation.completions import CompletionStore
from smt_plugin.generation.contradictions import Repeated, fitting
from smt_plugin.generation.gate import ClaimJudge, Gate, Round, changed_verdicts, gate_of, gated_round
from smt_plugin.generation.summary import MethodCount, Summary, generated_path, read_generated
from smt_plugin.generation.waiting import Reach, first_in_rank
from smt_plugin.methods import make_method, method_class, options_of, prompt_folders, uses
from smt_plugin.methods.base import Answer, Ask, Method, Unparsable
from smt_plugin.prompts import Prompts
from smt_plugin.records import Record, shard_folder
from smt_plugin.rejects import add_verdicts, read_verdicts

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


async def generate_run(
    run_file: RunFile,
    backend: Backend,
    *,
    judge: Backend | None = None,
    only: Collection[str] = (),
    shard: tuple[int, int] | None = None,
    retry_refused: bool = False,
    rounds_ahead: int = MAX_ROUNDS_AHEAD,
    on_progress: Callable[[Summary], None] = lambda summary: None,
) -> Summary:
    """Fill the budget of each method of a run file and write `<run>/records/<method>.jsonl`.

    Each record is compared with its document, and `<run>/faithfulness/<method>.jsonl` lists what the document lacks.
    With a gate, replies with such findings are asked again, and records that keep them go to `<run>/rejects.jsonl`;
    these count towards no budget. What a judge in the gate says is kept where `smt audit` finds it.
    Everything in the store is reused, so that a run is resumed, extended or repaired by calling this again. Where
    the backend defers an answer, everything is still asked that does not depend on it, and no records are written.

    Args:
        judge: the backend of `evaluate.judge`, where `judge` is in the run file's gate.
        only: names of methods to choose; all where empty.
        shard: (i, n): only the i-th of n shards of the documents, i from 1, in a folder of its own below the run's.
        retry_refused: ask again what the backend once refused.
        rounds_ahead: rounds of one method and document that may be under way at once.
        on_progress: called after each document and about once a second.

    Raises:
        BadInput: the run file, the corpus, a prompt or the backend is not as it should be; nothing was asked for then.
        BackendDown: no endpoint answered for too long; what came before is kept.
        Lost: the run folder was taken away, or cannot be written any more.
        RuntimeError: the documents have changed meanwhile, or the judge says too little; what came before is kept.
    """
    assert (judge is not None) == (JUDGE in run_file.gate)
    run = shard_folder(run_file.run, shard)
    methods, prompts = methods_of(run_file, only), prompts_of(run_file)
    part_tokens = run_file.max_document_tokens
    read_verdicts(run_file.run)  # a broken line is told before anything is spent
    corpus = SteadyCorpus(run_file.corpus)
    total_length = own_length = num_documents = num_parts = 0

    def own_parts() -> Iterator[Document]:
        nonlocal total_length, own_length, num_documents, num_parts
        for document in corpus:
            total_length += len(document.text)
            if in_shard(document, shard):
                own_length += len(document.text)
                num_documents += 1
                split = split_document(document, part_tokens)
                num_parts += len(split)
                yield from split

    # The first pass checks every document before anything is spent.
    first = first_in_rank(own_parts())
    for part in first[:1]:
        await rehearse([method for method, _ in methods.values()], prompts, part)
    share = own_length / total_length
    budgets = {
        name: MethodCount(round(budget * share), gate=gate_of(run_file)) for name, (_, budget) in methods.items()
    }
    summary = Summary(budgets, num_documents, num_parts)
    started = time.monotonic()
    # Everything gets closed, even where closing one of them fails.
    async with AsyncExitStack() as closing:
        store = CompletionStore(run)
        closing.push_async_callback(store.close)
        files = {name: closing.enter_context(_partial_records(run, name)) for name in methods}
        for file in files.values():
            store.guard.watch(Path(file.name))
        outputs = {
            name: _Output(file, closing.enter_context(FindingsFile(run, name)), {}) for name, file in files.items()
        }
        closing.push_async_callback(backend.close)
        claim_judge = None
        if judge is not None:
            summary.judge = Summary({})
            asking_judge = asking(judge, run / "audit", Prompts(run_file.prompts), summary.judge)
            claim_judge = ClaimJudge(judge_of(run_file), await closing.enter_async_context(asking_judge))
            await start_judge(judge)
        gate = Gate(run_file.gate, claim_judge) if run_file.gate else None
        await backend.start()
        if (fits := fitting(part_tokens, backend.context, longest_reply(methods))) < part_tokens:
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
            measured = _measured_before(run, name, count)
            reaches[name] = Reach(count.budget, own_length, num_parts, first, measured)
        # Without them it is not known of others whether the budget reaches them.
        begun = [] if all(reach.is_decided for reach in reaches.values()) else first

        async def run_part(part: Document) -> None:
            fraction, source = len(part.text) / total_length, Source(part)
            await together(run_method(part, source, name, fraction) for name in methods)
            on_progress(summary)

        async def run_method(part: Document, source: Source, name: str, fraction: float) -> None:
            (method, budget), count, reach = methods[name], summary.methods[name], reaches[name]
            if await reach.has(part):
                count.waiting -= goes_further
                budget_here, output = budget * fraction, outputs[name]
                await _run_method(part, source, method, budget_here, rounds_ahead, asker, gate, count, output, reach)
            else:
                count.waiting += not goes_further

        async def look() -> None:
            summary.cache = await backend.cache_use()
            summary.reckon(run_file.price, time.monotonic() - started)
            if claim_judge is not None:
                claim_judge.asker.summary.reckon(claim_judge.settings.price, time.monotonic() - started)

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
                for document in corpus:
                    wanted = len(document.text) * tokens_per_character
                    if in_shard(document, shard) and (stored.get(document.id, 0) > wanted * _DONE_SHARE) == done:
                        yield from filter(is_wanted, split_document(document, part_tokens))

        def is_short(name: str) -> bool:
            count = summary.methods[name]
            is_open = count.waiting > 0 and not count.stopped and not summary.deferred
            return reaches[name].extend(count.tokens if is_open else count.budget)

        def further_parts() -> Iterator[Document]:
            for document in corpus:
                if in_shard(document, shard):
                    for part in split_document(document, part_tokens):
                        if any(reach.reaches(part) for reach in reaches.values()):
                            yield part

        goes_further = False
        try:
            await look()
            await keep_busy(parts(), run_part, asker, backend, summary)
            while any([is_short(name) for name in reaches]):
                goes_further = True
                await keep_busy(further_parts(), run_part, asker, backend, summary)
            if claim_judge is not None:
                claim_judge.check(is_all=True)
            await look()
        finally:
            await cancel_all([ticker])
            await asker.close()
        if not summary.deferred:
            for file in files.values():
                with naming(Path(file.name)):
                    file.flush()
                    os.fsync(file.fileno())
            for name, count in summary.methods.items():
                count.round_tokens, count.is_whole = reaches[name].round_tokens, False
            # First, so that no kill lets the new ones pass for what the old ones were made with.
            _write_summary(run, summary)
            for name, output in outputs.items():
                place = Path(output.records.name.removesuffix(".partial"))
                if changed := changed_verdicts(run_file.run, name, place, output.rejected):
                    add_verdicts(run_file.run, changed)
            for file in files.values():
                os.replace(file.name, file.name.removesuffix(".partial"))
            for output in outputs.values():
                output.findings.write()
            for name, count in summary.methods.items():
                count.options, count.is_whole = options_of(methods[name][0]), True
            _write_summary(run, summary)
    on_progress(summary)
    return summary


def longest_reply(methods: Mapping[str, tuple[Method, int]]) -> int:
    """The most tokens that a method of those that `methods_of` gave lets a reply have; 0 where none says."""
    return max((int(getattr(method, "max_tokens", 0)) for method, _ in methods.values()), default=0)


async def rehearse(methods: Iterable[Method], prompts: Prompts, document: Document) -> None:
    """Render every prompt of the methods about a document, as if examples had come back, before one is paid for.

    Raises:
        BadInput: one cannot be rendered.
    """

    async def complete(ask: Ask) -> Answer | None:
        messages_about(ask.document, prompts, ask.prompt, ask.variables)
        try:
            value = ask.read(Reply(ask.example, "stop", 0, 0, ask.example_tokens))
        except Unparsable:  # a method from elsewhere need not have an example
            return None
        return Answer(value, "", ask.example_tokens, ask.prompt, "", "", ask.sampling)

    for method in methods:
        # The second round asks what only follows on the first.
        for r in range(2):
            await method.round(document, r, complete)


def part_tokens_of(run_file: RunFile, folder: Path) -> int:
    """Return above how many tokens documents were split in a folder of records, or will be as far as can be known."""
    return min(run_file.max_document_tokens, read_generated(folder).part_tokens or run_file.max_document_tokens)


def _measured_before(folder: Path, name: str, count: MethodCount) -> float:
    """Tokens of a round of a method by an earlier call's summary; 0 if there is none, or of another model or options.

    The same number at each call keeps the documents of a smaller budget among those of a larger one.
    """
    before = read_generated(folder).methods.get(name)
    return before.round_tokens if before is not None and before.measured_with == count.measured_with else 0.0


def _write_summary(folder: Path, summary: Summary) -> None:
    """Write a call's summary; methods that it left alone stay as an earlier call wrote them, like their records."""
    methods = read_generated(folder).methods | summary.methods
    write_json(generated_path(folder), asdict(replace(summary, methods=methods)))


@contextmanager
def _partial_records(run: Path, name: str) -> Iterator[IO[bytes]]:
    """Open the file that becomes `<run>/records/<name>.jsonl` once it is whole, and goes away where it does not."""
    path = run / "records" / f"{name}.jsonl.partial"
    try:
        make_folder(path.parent)
        file = open(path, "wb", opener=private)  # noqa: SIM115
    except OSError as error:
        raise BadInput(f"{path} cannot be written ({error.strerror}); fix the folder's permissions.") from None
    try:
        yield file
    finally:
        with suppress(OSError):  # after a full disk, which was told before
            file.close()
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
                # It may wait for what another has failed to tell.
                forget_ended()
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


class _Output(NamedTuple):
    """Where the records of a method go, what is found in them, and which are rejected for which kinds of findings."""

    records: IO[bytes]
    findings: FindingsFile
    rejected: dict[str, tuple[str, ...]]


async def _run_method(
    part: Document,
    source: Source,
    method: Method,
    budget: float,
    rounds_ahead: int,
    asker: Asker,
    gate: Gate | None,
    count: MethodCount,
    output: _Output,
    reach: Reach,
) -> None:
    """Ask for rounds until the document's part of the budget (tokens) is met, write its records, and check them.

    Several rounds are under way at once, but they are taken in order, so what is kept does not depend on
    which came back first.
    """
    tokens = kept = empty = taken = 0
    full, ahead = False, 1
    texts: set[int] = set()
    made_from = {"document_hash": document_hash(part)}
    rounds: list[asyncio.Task[Round | None]] = []

    def begin(first: int, end: int) -> None:
        for r in range(first, end):
            rounds.append(asyncio.create_task(run_round(part, method, r, asker, count, gate, source)))

    try:
        while not full and (tokens < budget or not kept) and empty < MAX_EMPTY_ROUNDS:
            missing = 1 if taken == 0 or tokens == 0 else math.ceil((budget - tokens) * taken / tokens)
            # Few at first: a server that gives the same text each time is found out by the second round.
            most = min(max(missing, 1), rounds_ahead if taken > 1 else max(rounds_ahead // 8, 1))
            begin(taken + len(rounds), taken + min(most, ahead))
            found = await rounds.pop(0)
            if taken == 0:
                reach.tell(part, None if found is None else sum(record.tokens for record in found.passed))
            if found is None:
                # The later rounds are wanted, too, and may be asked for now.
                begin(taken + 1 + len(rounds), taken + most)
                await asyncio.gather(*rounds)
                return
            taken += 1
            # As long as the store has all answers, none is asked for that may not be wanted.
            ahead = ahead if found.is_stored else rounds_ahead
            count.note_gate(found.asked, found.repaired)
            distinct = _distinct(found.records, texts)
            count.repeated += len(found.records) - len(distinct)
            empty = 0 if any(record.id not in found.rejected for record in distinct) else empty + 1
            for record in distinct:
                is_rejected = record.id in found.rejected
                # The first round is kept whole, since no less of it can be asked for; later on the last record stays
                # only if that leaves the total nearer to the budget.
                full = not is_rejected and taken > 1 and kept > 0 and tokens + record.tokens / 2 > budget
                if full:
                    break
                with naming(Path(output.records.name)):
                    output.records.write(orjson.dumps(record.to_json() | made_from) + b"\n")
                    checked = source.check(turns_of(record.text, record.messages))
                    output.findings.add(record, checked.findings)
                count.note(checked)
                count.records += 1
                if is_rejected:
                    output.rejected[record.id] = found.rejected[record.id]
                    count.note_rejected(found.rejected[record.id])
                    continue
                kept += 1
                tokens += record.tokens
                count.tokens += record.tokens
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


async def run_round(
    part: Document,
    method: Method,
    r: int,
    asker: Asker,
    count: MethodCount,
    gate: Gate | None = None,
    source: Source | None = None,
) -> Round | None:
    """Return a round, or None if an answer was deferred; then all was asked that could be.

    Args:
        source: what the gate, if there is one, compares records with.
    """
    deferred, is_stored = False, True

    def note_call() -> None:
        nonlocal is_stored
        is_stored = False

    async def complete(ask: Ask) -> Answer | None:
        nonlocal deferred
        for name in [ask.prompt, *([AGAIN] if AGAIN in ask.variables else [])]:
            count.prompts[name] = asker.prompts.hash(name)
        try:
            return await asker.ask(ask, note_call)
        except Deferred:
            deferred = True
            return None

    async def reply_of(key: str) -> str:
        completion = await asker.store.find(key)
        assert completion is not None
        return without_thoughts(completion.reply.text) or completion.reply.text

    if source is not None and gate is not None:
        found = await gated_round(part, source, method, r, complete, reply_of, gate)
    else:
        found = Round(await method.round(part, r, complete))
    found.is_stored = is_stored
    return None if deferred else found


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
    methods: dict[str, tuple[Method, int]] = {}
    for name, options in method_options(run_file).items():
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


def method_options(run_file: RunFile) -> dict[str, dict[str, Any]]:
    """Return the options of each method of a run file, with those that it takes over of the methods that it uses.

    Raises:
        BadInput: an unknown method.
    """
    sections = {method_class(name): options for name, options in run_file.methods.items()}
    found = {}
    for name, options in run_file.methods.items():
        found[name] = dict(options)
        for key, used in uses(method_class(name)).items():
            if used in sections:
                found[name].setdefault(key, {k: v for k, v in sections[used].items() if k != "tokens"})
    return found


def backend_of(run_file: RunFile, shard: tuple[int, int] | None = None) -> Backend:
    """Make the backend of a run file, or of one of its shards; the API key comes from the environment."""
    settings = run_file.backend
    if settings.kind == "microworld":
        from smt_plugin.microworld.scripted import ScriptedBackend

        return ScriptedBackend(settings.strength, settings.question_coverage, settings.error_rate)
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
