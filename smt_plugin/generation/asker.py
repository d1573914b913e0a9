"""Answer the asks of methods from the store or the backend: each prompt is paid for once."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from smt_plugin.backends.base import MAX_ATTEMPTS, Backend, Deferred, Refused, Reply, Request, cancel_all
from smt_plugin.control_tokens import defuse
from smt_plugin.corpus import Document, estimate_tokens
from smt_plugin.generation.completions import Completion, CompletionStore, completion_key
from smt_plugin.generation.contradictions import Cut, CutPrompts, Repeated, Repeats
from smt_plugin.generation.summary import Summary
from smt_plugin.methods.base import Answer, Ask, Unparsable
from smt_plugin.prompts import Prompts

log = logging.getLogger(__name__)
# Completions that the server is to blame for; they are asked again by the next call.
_WITHDRAWN = ("cut", "repeated")
_REPEATED = "the same text as for an earlier sample of the prompt"
# The prompt that asks again, and its key among the variables of the first one: the `reply` that came, and a list of
# what it `said` wrongly.
AGAIN = "gate/again"


def messages_about(
    document: Document, prompts: Prompts, name: str, variables: Mapping[str, Any]
) -> list[dict[str, str]]:
    """Render a prompt about a document, or a part of one, as it is asked; with `AGAIN`, the reply and what is wrong."""
    own = {key: value for key, value in variables.items() if key != AGAIN}
    messages = prompts.messages(name, identity=document.identity, document=document.text.strip(), **own)
    if AGAIN in variables:
        messages.append({"role": "assistant", "content": defuse(variables[AGAIN]["reply"])})
        messages.append(prompts.messages(AGAIN, said=variables[AGAIN]["said"])[-1])
    return messages


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
    _has_told_counts: bool = False
    _repeats: Repeats = field(default_factory=Repeats)
    _cut: CutPrompts = field(init=False)

    def __post_init__(self) -> None:
        self._cut = CutPrompts(self.backend)

    @property
    def tokens_per_estimate(self) -> float:
        """How many tokens the model's tokenizer makes of what `estimate_tokens` takes for one."""
        return self.summary.prompt_tokens / self._asked_estimate if self.summary.prompt_tokens else 1.0

    async def ask(self, ask: Ask, on_call: Callable[[], None] = lambda: None) -> Answer | None:
        """Return a usable answer, None if there is none; raises Cut or Repeated where the server is at fault.

        Args:
            on_call: called where the store has no answer, before one is waited for.
        """
        messages = messages_about(ask.document, self.prompts, ask.prompt, ask.variables)[0 if ask.has_system else 1 :]
        for attempt in range(MAX_ATTEMPTS):
            request = Request(
                messages,
                ask.sampling,
                ask.sample * MAX_ATTEMPTS + attempt,
                ask.schema,
                f"{ask.document.id}\0{ask.document.part}",
                ask.prompt,
                ask.variables,
                ask.image,
            )
            key = completion_key(request, self.backend.model)
            completion = await self._completion(key, request, ask, attempt, on_call)
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

    async def _completion(
        self, key: str, request: Request, ask: Ask, attempt: int, on_call: Callable[[], None]
    ) -> Completion:
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
        on_call()
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
        if not reply.is_counted and not self._has_told_counts:
            self._has_told_counts = True
            log.warning(
                "the server counts no tokens, or not as they can be (`usage` of its replies); texts are counted by "
                "length then, a token for 4 bytes."
            )
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
            # Where a reply was to be mended, there is one.
            self.summary.given_up += completion.status == "refused" and AGAIN not in completion.variables
            failures = self.summary.failures
            failures[completion.reason] = failures.get(completion.reason, 0) + 1


@asynccontextmanager
async def asking(
    backend: Backend,
    folder: Path,
    prompts: Prompts,
    summary: Summary,
    retry_refused: bool = False,
    tells_repeats: bool = False,
) -> AsyncIterator[Asker]:
    """Ask with the store in a folder; it and the backend, which the caller starts, are closed at the end.

    Raises:
        BadInput: as `CompletionStore`.
    """
    # Everything gets closed, even where closing one of them fails.
    async with AsyncExitStack() as closing:
        store = CompletionStore(folder)
        closing.push_async_callback(store.close)
        closing.push_async_callback(backend.close)
        asker = Asker(backend, store, prompts, summary, retry_refused, tells_repeats=tells_repeats)
        closing.push_async_callback(asker.close)
        yield asker
