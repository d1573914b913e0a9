"""What a run will ask, write and cost, told before anything is spent."""

import math
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import orjson

from smt_plugin.backends.base import Backend, CacheUse, Deferred, Keep, Reply, Request
from smt_plugin.config import Price, RunFile
from smt_plugin.corpus import Document, estimate_tokens, read_documents, split_document
from smt_plugin.errors import BadInput
from smt_plugin.faithfulness.verdicts import JUDGE
from smt_plugin.generation.asker import AGAIN, messages_about
from smt_plugin.generation.completions import CompletionStore, PromptUse
from smt_plugin.generation.gate_seen import GateSeen, gate_seen
from smt_plugin.generation.generate import generate_run, methods_of, part_tokens_of, prompts_of
from smt_plugin.generation.summary import Summary, read_generated
from smt_plugin.generation.waiting import rank_of, rank_reached
from smt_plugin.methods.base import TEXT_TOKENS, Answer, Ask, Method, Unparsable
from smt_plugin.progress import duration
from smt_plugin.prompts import Prompts
from smt_plugin.records import generated_folders
from smt_plugin.training.h100 import PEAK_FLOPS, UTILIZATION

# Output tokens a second and H100, by a part of the model's name, in the order of looking. vLLM 0.15 with tuned
# settings, up to 4,096 tokens a reply (datatrove's inference benchmark); the 70B is Llama 3.3 in FP8 on two GPUs with
# prompts of 1,000 tokens (TensorRT-LLM's performance overview; 398 with prompts of 8,000 tokens in no cache).
SPEEDS = {
    "Qwen3-30B-A3B": 5310,
    "Qwen3-4B": 8086,
    "Qwen3-8B": 6443,
    "Qwen3-14B": 4549,
    "Qwen3-32B": 2078,
    "70B": 2209,
}
# A part of the budget by which a plan may miss it without a word.
_MUCH_OVER = 0.05
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([MB])(?:-A(\d+(?:\.\d+)?)([MB]))?(?![a-z])", re.IGNORECASE)
_PARAMETERS = {"M": 1e6, "B": 1e9}
# Models of fewer parameters lose much of what they write: SmolLM2 135M wrote 2.5 times as much for the same records as
# was planned without a loss, in replies that could not be used or were cut (docs/smollm2.md).
_SMALL, _SMALL_WRITES = 1e9, 2.5


@dataclass(slots=True)
class PromptPlan:
    """One prompt's part of the plan, in calls and tokens; what the store holds is left out of the tokens."""

    calls: float = 0
    stored: float = 0
    new_tokens: float = 0
    cached_tokens: float = 0
    output_tokens: float = 0


@dataclass(slots=True)
class MethodPlan:
    """What a method's budget reaches: `parts` of the documents, for about so many `tokens`, `round_tokens` a round."""

    budget: int
    round_tokens: float
    parts: int = 0
    tokens: float = 0


@dataclass(slots=True)
class Plan:
    """What is left to ask, by prompt.

    Attributes:
        methods: how far each method's budget reaches, in all, with what the store holds.
        measured: completions of these prompts, off which their sizes were read.
        guessed: prompts whose sizes are guesses, since no completion of theirs is there.
        gate: what the records so far tell of the gate, by which the calls of AGAIN are planned; None without a gate.
    """

    model: str
    prompts: dict[str, PromptPlan]
    measured: int
    guessed: list[str]
    num_parts: int
    tokens_per_second: float | None = None
    gpus: int = 0
    methods: dict[str, MethodPlan] = field(default_factory=dict)
    gate: GateSeen | None = None

    def total(self, name: str) -> float:
        """Return the sum of a field of PromptPlan over all prompts."""
        return float(sum(getattr(plan, name) for plan in self.prompts.values()))


async def make_plan(
    run_file: RunFile,
    backend: Backend,
    probe_seconds: float = 0.0,
    on_progress: Callable[[Summary], None] = lambda summary: None,
) -> Plan:
    """Work out what is left to ask for the budgets of a run file.

    Args:
        probe_seconds: generate for so long first; its completions stay in the store, so nothing of it is wasted.

    Raises:
        BadInput: the run file, the corpus or the backend is not as it should be, or no reply came in time.
    """
    speed = await _probe(run_file, backend, probe_seconds, on_progress) if probe_seconds else None
    methods, prompts = methods_of(run_file), prompts_of(run_file)
    seen = await look_back(run_file, backend.model)
    gate = gate_seen(run_file, backend.model, seen.asked_again) if run_file.gate else None
    total_length = num_parts = 0
    part_tokens = min(part_tokens_of(run_file, folder) for folder in generated_folders(run_file.run, all_shards=False))
    first_rank = math.inf
    first: Document | None = None
    # What the model's tokenizer makes of an estimated token.
    ratios: list[float] = []
    for document in read_documents(run_file.corpus):
        total_length += len(document.text)
        parts = split_document(document, part_tokens)
        num_parts += len(parts)
        first_rank = min(first_rank, *map(rank_of, parts))
        first = first or parts[0]
        if len(parts) == 1 and document.id in seen.prompt_tokens:
            ratios += [
                tokens / _estimate(prompts, document, prompt, variables)
                for prompt, variables, tokens in seen.prompt_tokens.pop(document.id)
                if tokens  # some servers count none
            ]
    assert first is not None
    ratio = sum(ratios) / len(ratios) if ratios else 1.0
    shapes = {name: await _shape(method, first, prompts, seen) for name, (method, _) in methods.items()}
    plans: dict[str, PromptPlan] = defaultdict(PromptPlan)
    # What the gate rejects counts towards no budget; where it let nothing pass, the documents are given up.
    passed = {name: (gate and gate.passed.get(name)) or 1.0 for name in methods}
    reach = {
        name: MethodPlan(budget, shapes[name].record_tokens * passed[name]) for name, (_, budget) in methods.items()
    }
    ranks = {
        name: max(rank_reached(plan.budget, total_length, plan.round_tokens), first_rank)
        for name, plan in reach.items()
    }
    for document in read_documents(run_file.corpus):
        for part in split_document(document, part_tokens):
            fraction = len(part.text) / total_length
            rounds = {}
            for name, plan in reach.items():
                if rank_of(part) <= ranks[name]:
                    own = plan.budget * fraction
                    rounds[name] = max(1, math.ceil(own / plan.round_tokens))
                    plan.parts += 1
                    plan.tokens += max(own, plan.round_tokens)
            if not rounds:
                continue
            _add_part(plans, shapes, rounds, estimate_tokens(part.text) * ratio, ratio)
    is_small = _is_small(backend.model)
    again_plan = _again_plan(plans, gate, seen, prompts, ratio) if gate else PromptPlan()
    for name, asked in plans.items():
        use = seen.uses[name]
        asked.stored = min(use.done, round(asked.calls))
        left = 1 - asked.stored / asked.calls
        is_guessed = not (use.done or use.rejected)
        again = _SMALL_WRITES if is_small and is_guessed else 1 + use.rejected / max(use.done, 1)
        asked.new_tokens *= left * again
        asked.cached_tokens *= left * again
        asked.output_tokens *= left * again
    measured = sum(seen.uses[name].done for name in plans)
    guessed = [name for name in plans if not seen.uses[name].done]
    gpus = run_file.price.gpus if run_file.price else 0
    rows = {**plans, **({AGAIN: again_plan} if again_plan.calls else {})}
    return Plan(backend.model, rows, measured, guessed, num_parts, speed, gpus, reach, gate)


def _again_plan(
    plans: dict[str, PromptPlan], gate: GateSeen, seen: "Seen", prompts: Prompts, ratio: float
) -> PromptPlan:
    """Plan the calls that ask again: as many of each prompt's as its replies so far give reason to.

    Such a call's prompt begins with the one that it asks again, which was read just before.

    Args:
        plans: of the other calls, all of them, also what is stored.
    """
    objection = estimate_tokens(prompts.messages(AGAIN, said=[""])[-1]["content"])
    found = PromptPlan()
    for name, objected in gate.objected.items():
        if name not in plans:
            continue
        asked, use, again = plans[name], seen.uses[name], seen.again[name]
        calls = asked.calls * objected / gate.replies[name]
        stored = min(again.done, calls)
        left = calls - stored
        # Of those that were asked again more is known than of all others.
        like = again if again.done else use
        tries = left * (1 + like.rejected / max(like.done, 1))
        reply = asked.output_tokens / asked.calls
        found.calls += calls
        found.stored += stored
        found.new_tokens += tries * (reply + objection * ratio)
        found.cached_tokens += tries * (asked.new_tokens + asked.cached_tokens) / asked.calls
        found.output_tokens += tries * (again.completion_tokens / again.done if again.done else reply)
    return found


def plan_text(plan: Plan, run_file: RunFile) -> str:
    """Return the plan as a person reads it: calls, tokens, hours and money."""
    lines = table_lines(plan)
    lines.append(f"tokens are those left to pay for; {plan.num_parts:,} documents or parts of long ones.")
    for name, each in plan.methods.items():
        over = each.tokens / each.budget - 1
        if each.parts < plan.num_parts or over > _MUCH_OVER:
            lines.append(
                f"{name}: {each.budget:,} tokens are less than a round of about {each.round_tokens:,.0f} for every "
                f"document: {each.parts:,} are asked about, {plan.num_parts - each.parts:,} wait for a larger budget; "
                f"about {each.tokens:,.0f} tokens ({over:+.0%})."
            )
    if plan.measured:
        lines.append(f"Sizes are means over {plan.measured:,} completions of this run.")
    if plan.guessed:
        which = f"The sizes of {', '.join(plan.guessed)}" if plan.measured else "Sizes"
        lines.append(
            f"{which} are guesses ({TEXT_TOKENS} tokens a text, if its `max_tokens` allows it; "
            + (f"{_SMALL_WRITES} times as much for so small a model" if _is_small(plan.model) else "all replies usable")
            + "); `--probe 60` measures them."
        )
    lines.append("Calls are asked ahead: where a document has only a few rounds, up to a fifth more than these.")
    lines += gate_lines(plan, run_file)
    lines.append("Cached: what a server with a prefix cache reads once a document, as vLLM does.")
    return "\n".join([*lines, *cost_lines(plan, run_file.price, "`--probe 60` measures one")])


def gate_lines(plan: Plan, run_file: RunFile) -> list[str]:
    """Say by what a gate's calls were planned, or that they were not; nothing without a gate."""
    if not run_file.gate:
        return []
    objected, replies = (counts.total() for counts in (plan.gate.objected, plan.gate.replies)) if plan.gate else (0, 0)
    unknown = [name for name in plan.methods if not plan.gate or name not in plan.gate.passed]
    of = f" of {', '.join(unknown)}" if replies else ""
    not_known = f"What the gate will ask again{of} is not among them: a call for each reply with a finding."
    known = f"{AGAIN}: by the records so far; the gate objected to {objected:,} of the {replies:,} replies in them."
    lines = [" ".join([*([known] if replies else []), *([not_known] if unknown else [])])]
    if JUDGE in run_file.gate:
        lines.append("The gate's judge is not among them: about a call of its for each record.")
    return lines


def table_lines(plan: Plan) -> list[str]:
    """The calls and tokens of each prompt, and of all, as lines of a table."""
    head = f"{'prompt':<28}{'calls':>12}{'in store':>12}{'in, new':>16}{'in, cached':>18}{'out':>16}"
    total = PromptPlan(*(plan.total(each.name) for each in fields(PromptPlan)))
    return [head] + [
        f"{name:<28}{p.calls:>12,.0f}{p.stored:>12,.0f}{p.new_tokens:>16,.0f}{p.cached_tokens:>18,.0f}"
        f"{p.output_tokens:>16,.0f}"
        for name, p in {**plan.prompts, "all": total}.items()
    ]


def cost_lines(plan: Plan, price: Price | None, how_to_measure: str, key: str = "price") -> list[str]:
    """The hours, FLOP and money of a plan, a line each.

    Args:
        key: of the run file, which sets the price.
        how_to_measure: what to do where no speed is known, as the end of a sentence.
    """
    lines = []
    hours, source = gpu_hours(plan)
    if hours is not None:
        lines.append(f"time: {hours:,.2f} GPU-hours ({source})" if plan.gpus or "published" in source else source)
    flop = flop_of(plan)
    if flop is not None:
        lines.append(
            f"for reference, M parameters and D tokens out: C = 2 M D = {flop:.2e} FLOP, "
            f"{flop / (UTILIZATION * PEAK_FLOPS) / 3600:,.2f} H100-hours at {UTILIZATION * 100:.0f} % of "
            f"{PEAK_FLOPS / 1e12:.0f} TFLOP/s"
        )
    if price is None:
        lines.append(f"money: set `{key}` in the run file to see it.")
    else:
        if price.gpus and hours is None:
            lines.append(f"money: without a speed the GPUs' price is left out; {how_to_measure}.")
        least, most = money_of(plan, price)
        more = f", {most:,.2f} where no prompt comes from a cache" if most > least else ""
        lines.append(f"money: {least:,.2f} {price.currency}{more}")
    return lines


def money_of(plan: Plan, price: Price) -> tuple[float, float]:
    """What is left to pay, with all and without any of the prompts from a cache; without GPUs whose speed is not known.

    It is in the price's currency.
    """
    new, cached, output = (plan.total(name) for name in ("new_tokens", "cached_tokens", "output_tokens"))
    hours, _ = gpu_hours(plan)
    seconds = (hours or 0.0) * 3600 / price.gpus if price.gpus else 0.0
    least, most = (price.of(new + cached, hits, output, seconds) for hits in (cached, 0))
    return least, most


def flop_of(plan: Plan) -> float | None:
    """C = 2 M D for D output tokens of M parameters (Han et al. 2026); None where the model's name tells no size."""
    parameters = parameters_of(plan.model)
    return None if parameters is None else 2 * parameters * plan.total("output_tokens")


def _is_small(model: str) -> bool:
    return (parameters_of(model) or math.inf) < _SMALL


def parameters_of(model: str) -> float | None:
    """How many parameters a model has, the active ones where some are not, by its name; None where it tells no size."""
    size = _SIZE.search(model)
    return None if size is None else float(size[3] or size[1]) * _PARAMETERS[(size[4] or size[2]).upper()]


def gpu_hours(plan: Plan) -> tuple[float | None, str]:
    """GPU-hours for the output tokens of a plan, if a speed is known, and where that comes from."""
    output = plan.total("output_tokens")
    if plan.tokens_per_second is not None:
        seconds = output / plan.tokens_per_second
        said = f"{plan.tokens_per_second:,.0f} output tokens/s in the probe"
        if plan.gpus:
            return seconds / 3600 * plan.gpus, f"{duration(seconds)} on {plan.gpus} GPUs; {said}"
        return seconds / 3600, f"time: {duration(seconds)} on these servers ({said})"
    for name, speed in SPEEDS.items():
        if name in plan.model:
            return output / speed / 3600, f"published: {speed:,} output tokens/s and H100 for {name}; a probe measures"
    return None, ""


@dataclass(frozen=True, slots=True)
class _Call:
    """A call of a round: what tells it from others, the estimated tokens of its prompt without the document, and the
    output tokens of its reply, seen or guessed.
    """

    prompt: str
    identity: str
    extra_tokens: float
    reply_tokens: float = field(compare=False)


@dataclass(slots=True)
class _Shape:
    """What a round of a method is made of; calls in `once` are asked once a document, the others every round."""

    once: set[_Call]
    every: Counter[_Call]
    record_tokens: float


def _add_part(
    plans: dict[str, PromptPlan],
    shapes: dict[str, _Shape],
    rounds: dict[str, int],
    document_tokens: float,
    ratio: float,
) -> None:
    """Add one part's calls; a call that two methods share is asked as often as the one that needs more rounds does."""
    calls: dict[_Call, float] = {}
    for name, shape in shapes.items():
        if name not in rounds:
            continue
        for call in shape.once:
            calls[call] = max(calls.get(call, 0), 1)
        for call, count in shape.every.items():
            calls[call] = max(calls.get(call, 0), rounds[name] * count)
    reads = 1.0
    for call, times in calls.items():
        plan = plans[call.prompt]
        plan.calls += times
        plan.new_tokens += times * call.extra_tokens * ratio + reads * document_tokens
        plan.cached_tokens += (times - reads) * document_tokens
        plan.output_tokens += times * call.reply_tokens
        reads = 0.0


async def _shape(method: Method, document: Document, prompts: Prompts, seen: "Seen") -> _Shape:
    """Play two rounds of a method with the replies that were seen or are guessed."""
    # The calls of each round with their samples; keys of a dict, which keep their order.
    played: list[dict[tuple[_Call, int], None]] = []
    tokens = 0.0
    for r in range(2):
        played.append({})

        async def complete(ask: Ask) -> Answer | None:
            text = ask.document.text.strip()
            extra = _estimate(prompts, ask.document, ask.prompt, ask.variables) - estimate_tokens(text)
            values = orjson.dumps([ask.variables, ask.sampling], option=orjson.OPT_SORT_KEYS).decode()
            call = _Call(ask.prompt, values, extra, seen.reply_tokens(ask))
            played[-1].setdefault((call, ask.sample), None)
            reply = seen.reply(ask)
            try:
                value = ask.read(reply)
            except Unparsable as error:
                raise BadInput(
                    f"the method of the prompt {ask.prompt} cannot read the reply that is typical of it, "
                    f"{reply.text[:40]!r} ({error}); give its Ask an `example` that its `parse` takes."
                ) from None
            return Answer(value, "", ask.text_tokens(reply), ask.prompt, "", "", ask.sampling)

        records = await method.round(document, r, complete)
        tokens = sum(record.tokens for record in records) or tokens
    once = {call for call, _ in played[0].keys() & played[1].keys()}
    every = Counter(call for call, _ in played[1] if call not in once)
    return _Shape(once, every, max(tokens, 1.0))


def _estimate(prompts: Prompts, document: Document, prompt: str, variables: dict[str, Any]) -> float:
    messages = messages_about(document, prompts, prompt, variables)
    return sum(estimate_tokens(message["content"]) for message in messages)


@dataclass(slots=True)
class Seen:
    """What the run's stores tell of its replies.

    Attributes:
        uses: prompt -> how often it was answered, at what length, without what the gate had asked again.
        again: prompt -> the same of what the gate had asked again; `asked_again` has the keys of these completions.
        prompt_tokens: document id -> prompt, its variables and its tokens, for one completion of each prompt.
        typical: prompt -> a reply of middling length.
    """

    uses: dict[str, PromptUse] = field(default_factory=lambda: defaultdict(PromptUse))
    prompt_tokens: dict[str, list[tuple[str, dict[str, Any], int]]] = field(default_factory=lambda: defaultdict(list))
    typical: dict[str, Reply] = field(default_factory=dict)
    again: dict[str, PromptUse] = field(default_factory=lambda: defaultdict(PromptUse))
    asked_again: set[bytes] = field(default_factory=set)

    def reply_tokens(self, ask: Ask) -> float:
        """Mean output tokens of the replies to a prompt, or what its method guesses."""
        use = self.uses[ask.prompt]
        if use.done:
            return use.completion_tokens / use.done
        # One less, as a reply that reaches the limit is one that was cut.
        return float(min(ask.example_tokens, ask.sampling.get("max_tokens", math.inf) - 1))

    def reply(self, ask: Ask) -> Reply:
        """Return a typical reply: one of middling length that was seen, with the mean number of tokens."""
        seen = self.typical.get(ask.prompt)
        tokens = round(self.reply_tokens(ask))
        if seen is None:
            return Reply(ask.example, "stop", 0, 0, tokens)
        thoughts = tokens * seen.thought_tokens // max(seen.completion_tokens, 1)
        return Reply(seen.text, seen.finish_reason, 0, 0, tokens, thoughts)


async def look_back(run_file: RunFile, model: str) -> Seen:
    """Read off the run's stores how a model's replies were."""
    seen = Seen()
    for folder in generated_folders(run_file.run, all_shards=False):
        # Planning makes no folders and no stores.
        if not (folder / "completions.sqlite").is_file():
            continue
        store = CompletionStore(folder)
        try:
            for prompt, use in store.uses(model).items():
                seen.uses[prompt] += use
            # Else nothing was asked again, and the bodies need not be read.
            if run_file.gate or any(count.gate for count in read_generated(folder).methods.values()):
                for key, prompt, use in store.uses_with(AGAIN, model):
                    seen.uses[prompt] -= use
                    seen.again[prompt] += use
                    seen.asked_again.add(key)
            for completion in store.typical(model):
                seen.typical[completion.prompt] = completion.reply
                seen.prompt_tokens[completion.doc_id].append(
                    (completion.prompt, completion.variables, completion.reply.prompt_tokens)
                )
        finally:
            await store.close()
    return seen


class _ProbeBackend:
    """Another backend for `seconds`, after which it defers; counts the output tokens of the second half."""

    def __init__(self, backend: Backend, seconds: float) -> None:
        self.model = backend.model
        self.output_tokens = 0
        self._backend = backend
        self._seconds = seconds
        self._started = math.inf

    @property
    def concurrency(self) -> int:
        return self._backend.concurrency

    @property
    def has_room(self) -> bool:
        return self._backend.has_room

    @property
    def context(self) -> int | None:
        return self._backend.context

    async def start(self) -> None:
        await self._backend.start()

    async def complete(self, request: Request, keep: Keep | None = None) -> Reply:
        self._started = min(self._started, time.monotonic())
        if time.monotonic() - self._started > self._seconds:
            raise Deferred
        reply = await self._backend.complete(request, keep)
        if self._seconds / 2 < time.monotonic() - self._started <= self._seconds:
            self.output_tokens += reply.completion_tokens
        return reply

    async def cache_use(self) -> CacheUse | None:
        return await self._backend.cache_use()

    async def close(self) -> None:
        await self._backend.close()


async def _probe(
    run_file: RunFile, backend: Backend, seconds: float, on_progress: Callable[[Summary], None]
) -> float | None:
    """Generate for some seconds and return output tokens a second in their second half, when the servers are full.

    None if the budgets were met before the time was up.
    """
    probe = _ProbeBackend(backend, seconds)
    # A judge is not probed: records that end up in place are then of a gate without it, as `smt mix` tells.
    gate = [kind for kind in run_file.gate if kind != JUDGE]
    summary = await generate_run(run_file.model_copy(update={"gate": gate}), probe, on_progress=on_progress)
    if not summary.deferred:
        return summary.completion_tokens / summary.seconds if summary.asked else None
    if not probe.output_tokens:
        raise BadInput(f"no reply came in the second half of {seconds:g} s; give `--probe` more seconds.")
    return probe.output_tokens / (seconds / 2)
