"""Judge free-form answers: equal numbers by code, all else by a model, whose replies are kept.

Without a judge there is no score: nothing here falls back to comparing texts.
"""

import asyncio
import logging
import os
import re
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import orjson
from msgspec import Struct
from pydantic import ValidationError

from smt_plugin.backends.base import (
    MAX_ATTEMPTS,
    MOST_UNUSABLE,
    Backend,
    BackendDown,
    Refused,
    first_usable,
    lasting_options,
)
from smt_plugin.backends.endpoint import OpenAIBackend
from smt_plugin.backends.thoughts import without_thoughts
from smt_plugin.backends.vllm_server import VLLMBackend
from smt_plugin.config import JudgeSection, first_problem
from smt_plugin.errors import BadInput
from smt_plugin.evaluation.same_number import same_number
from smt_plugin.files import Text, cache_dir, content_hash, make_file, read_rows
from smt_plugin.prompts import Prompts

log = logging.getLogger(__name__)
API_KEY_VARIABLE = "SMT_JUDGE_API_KEY"
_FEWEST_UNREAD = 5  # our choice: of fewer replies their share would say too little
_Result = TypeVar("_Result")
_Asked = TypeVar("_Asked", bound=Hashable)
_VERDICT = re.compile(r"VERDICT\W+(CORRECT|WRONG|INCORRECT)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    """A given answer beside the right one; `identity` names the document that the question is about."""

    identity: str
    question: str
    gold: str
    answer: str

    @property
    def verdict_by_code(self) -> bool | None:
        """Whether it is right, where both answers are numbers that code can compare; else None."""
        return same_number(self.gold, self.answer, self.question)


def judge_settings(values: Any) -> JudgeSection:
    """Make the judge's settings of a mapping, as in `--metadata '{"judge": {"endpoint": ...}}'`.

    Raises:
        BadInput: not a mapping, neither an endpoint nor the kind `vllm`, an unknown key, or a value of the wrong kind.
    """
    if not isinstance(values, dict):
        raise BadInput(f'judge: expected {{"endpoint": "http://..."}} or {{"kind": "vllm"}}; got {values!r}.')
    try:
        return JudgeSection.model_validate(values)
    except ValidationError as error:
        raise BadInput(first_problem(error, "judge")) from None


def judge(answers: Sequence[Answer], settings: JudgeSection) -> list[bool | None]:
    """Return whether each answer is correct, in order; each different one is asked about once, ever.

    None stands for an answer on which the judge gave no verdict in several attempts; the next call asks again.

    Raises:
        BadInput: the endpoint cannot be reached, refuses the key, a request or the model.
        RuntimeError: no reply comes, or over a fifth of those to this process, and five at least, hold no verdict.
    """
    prompts = Prompts()
    by_code = {answer: answer.verdict_by_code for answer in answers}
    # The system text is for writing about a document, which the judge does not do.
    messages = {
        answer: prompts.messages("judge/verdict", **asdict(answer))[1:]
        for answer, verdict in by_code.items()
        if verdict is None
    }
    verdicts = ask_judge(messages, settings, verdict_of, "verdict")
    found = by_code | {answer: bool(verdict) for answer, verdict in verdicts.items()}
    return [found[answer] for answer in answers]


def ask_judge(
    messages: Mapping[_Asked, list[dict[str, str]]],
    settings: JudgeSection,
    read: Callable[[str], int | None],
    prompt: str,
) -> dict[_Asked, int]:
    """Ask the judge each of the messages that it never answered, and return what its replies say, if anything.

    Args:
        read: makes a number of a reply, or None of one that cannot be used.
        prompt: the one that the messages are made of, `verdict` or `choice`.

    Raises:
        BadInput, RuntimeError: as `judge`.
    """
    # What a reply depends on; neither the endpoint's address nor fields that are left out are among it.
    options = lasting_options(settings.options)
    keys = {asked: content_hash([[sent, settings.model, options]])[:32] for asked, sent in messages.items()}
    with _kept() as kept:
        found = {
            asked: int(number)
            for asked, key in keys.items()
            for (number,) in kept.execute("SELECT correct FROM verdicts WHERE key = ?", (key,))
        }
        missing = [asked for asked in keys if asked not in found]
        unread: list[str] = []
        if missing:

            async def ask_all(backend: Backend) -> list[BaseException | None]:
                # What is paid for is kept at once, and even if another fails.
                return await asyncio.gather(*(ask(asked, backend) for asked in missing), return_exceptions=True)

            async def ask(asked: _Asked, backend: Backend) -> None:
                number, reply = await _ask(messages[asked], settings, backend, read)
                if number is None:
                    unread.append(reply)
                    return
                found[asked] = number
                kept.execute("INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?)", (keys[asked], number, reply))

            for error in _with_backend(settings, ask_all):
                if isinstance(error, BackendDown):
                    raise RuntimeError(f"judge: {error}")
                if error is not None:
                    raise error
    _count_unread(len(keys), unread, settings.model, prompt)
    return found


_counts: Counter[str] = Counter()


def _count_unread(asked: int, unread: list[str], model: str, prompt: str) -> None:
    """Warn of replies without a verdict, or a choice; where they are too many of all in this process, raise."""
    _counts.update({f"{prompt} asked": asked, f"{prompt} unread": len(unread)})
    if not unread:
        return
    number, total = _counts[f"{prompt} unread"], _counts[f"{prompt} asked"]
    said = (
        f"the judge {model} gave no {prompt} in {MAX_ATTEMPTS} attempts for {number} of {total} answers; it said: "
        f"{unread[-1][-200:]!r}"
    )
    if number >= _FEWEST_UNREAD and number > MOST_UNUSABLE * total:
        raise RuntimeError(f"{said}; use a model that follows the prompt judge/{prompt}")
    log.warning("%s; they count as unparsed.", said)


def check_judge(settings: JudgeSection) -> None:
    """Find out that the judge is there before hours are spent on answers that it must judge; start it if it is local.

    Raises:
        BadInput: the endpoint cannot be reached, refuses the key, or does not serve the model; vLLM is not there.
        RuntimeError: the server does not get healthy; the end of its log is in the message.
    """
    try:
        _with_backend(settings, lambda backend: asyncio.sleep(0))  # to start it is to check it
    except BadInput as error:
        raise BadInput(f"judge: {error}") from None


def serve(settings: JudgeSection) -> tuple[JudgeSection, str]:
    """Start a local judge here, unless it runs, so that other processes can ask it until this one ends.

    Args:
        settings: of the kind `vllm`.

    Returns:
        Settings with its endpoint, whose verdicts are the same, and the key that it wants in SMT_JUDGE_API_KEY.

    Raises:
        BadInput, RuntimeError: as `check_judge`.
    """
    check_judge(settings)
    endpoint, key = _server(settings)[0].first_address
    return settings.model_copy(update={"kind": "openai", "endpoint": endpoint}), key


def _with_backend(settings: JudgeSection, work: Callable[[Backend], Coroutine[Any, Any, _Result]]) -> _Result:
    """Do some work with the judge: in another thread, since the caller may be inside a running event loop."""
    if settings.kind == "vllm":
        server, loop = _server(settings)
        return asyncio.run_coroutine_threadsafe(work(server), loop).result()

    async def once() -> _Result:
        backend = judge_backend(settings)
        try:
            await backend.start()
            return await work(backend)
        finally:
            await backend.close()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, once()).result()


def judge_backend(settings: JudgeSection, options: dict[str, Any] | None = None) -> Backend:
    """Make the judge's client, or its server, which `start` starts, or the microworld's judge.

    Args:
        options: set, rename or null fields of every request.

    Raises:
        BadInput: a key that no request can carry, or arguments that we set ourselves.
    """
    if settings.kind == "microworld":
        from smt_plugin.microworld.scripted import ScriptedBackend

        judge = ScriptedBackend(strength=1)
        judge.model = settings.model
        return judge
    if settings.endpoint is None:
        return _local_judge(settings, options)
    key = os.environ.get(API_KEY_VARIABLE) or None
    return OpenAIBackend([settings.endpoint], settings.model, api_key=key, **_client(settings, options))


def _local_judge(settings: JudgeSection, options: dict[str, Any] | None = None) -> VLLMBackend:
    own = settings.command, 1, settings.arguments, cache_dir() / "judge", settings.startup_timeout
    return VLLMBackend(settings.model, *own, **_client(settings, options))


def _client(settings: JudgeSection, options: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "max_concurrency": settings.concurrency,
        "timeout": settings.timeout,
        "patience": settings.patience,
        "options": options,
    }


_servers: dict[bytes, tuple[VLLMBackend, asyncio.AbstractEventLoop]] = {}
_servers_lock = threading.Lock()


def _server(settings: JudgeSection) -> tuple[VLLMBackend, asyncio.AbstractEventLoop]:
    """The `vllm serve` of these settings, started on first use, and the loop, in another thread, that looks after it.

    Its guard ends it with this process.
    """
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise BadInput(
            "each of several processes would start a server; start it yourself, once, and give `endpoint` instead of "
            "`kind: vllm`."
        )
    key = orjson.dumps([settings.model, settings.command, settings.arguments])
    with _servers_lock:
        if key in _servers:
            return _servers[key]
        backend = _local_judge(settings)
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, daemon=True).start()
        try:
            asyncio.run_coroutine_threadsafe(backend.start(), loop).result()
        except BaseException as error:
            asyncio.run_coroutine_threadsafe(backend.close(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            if isinstance(error, BadInput):
                raise BadInput(str(error).replace("backend.", "")) from None
            raise
        _servers[key] = backend, loop
        return backend, loop


async def _ask(
    messages: list[dict[str, str]],
    settings: JudgeSection,
    backend: Backend,
    read: Callable[[str], int | None],
) -> tuple[int | None, str]:
    """What a reply says, None if none could be used, and the last reply."""
    try:
        return await first_usable(backend, messages, settings.options, "judge", read)
    except Refused as error:
        place = settings.endpoint or settings.model
        raise BadInput(f"judge: {place} refused a request ({error}); fix the judge's `options` or `model`.") from None


def verdict_of(reply: str) -> bool | None:
    """Return the verdict that a judge's reply ends with, or None; what it thought before is not read."""
    found = _VERDICT.findall(without_thoughts(reply) or "")
    return found[-1].upper() == "CORRECT" if found else None


@contextmanager
def _kept() -> Iterator[sqlite3.Connection]:
    """The verdicts of all evaluations, in the cache folder; several processes may use it at once."""
    path = cache_dir() / "verdicts.sqlite"
    try:
        make_file(path)
        # Another thread writes while the one that opened it waits for that thread.
        connection = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        connection.execute("CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, correct INTEGER, reply TEXT)")
    except (OSError, sqlite3.DatabaseError) as error:
        raise BadInput(f"the verdicts in {path} cannot be opened ({error}); move that file away.") from None
    with closing(connection):
        yield connection


class _Label(Struct):
    """A line of labelled answers."""

    question: Text
    gold: Text
    answer: Text
    correct: bool
    identity: str | None = None


@dataclass(frozen=True, slots=True)
class Agreement:
    """How verdicts compare with labels, in numbers of answers; `by_code` are those that needed no model.

    `no_verdict` are left out of all the others.
    """

    both_correct: int
    both_wrong: int
    judge_alone: int
    label_alone: int
    by_code: int
    no_verdict: int

    @property
    def text(self) -> str:
        """The numbers as a sentence, with Cohen's kappa where it is defined."""
        total = self.both_correct + self.both_wrong + self.judge_alone + self.label_alone
        agreed = (self.both_correct + self.both_wrong) / total
        judged, labelled = self.both_correct + self.judge_alone, self.both_correct + self.label_alone
        chance = (judged * labelled + (total - judged) * (total - labelled)) / total**2
        kappa = "undefined, one side never differs" if chance == 1 else f"{(agreed - chance) / (1 - chance):.3f}"
        return (
            f"{total:,} answers: judge and label agree on {agreed:.1%} (Cohen's kappa {kappa}); the judge alone calls "
            f"{self.judge_alone} correct, the label alone {self.label_alone}; {self.by_code} were decided by code"
            + (f"; on {self.no_verdict} more the judge gave no verdict" if self.no_verdict else "")
        )


def agreement(path: Path, settings: JudgeSection) -> Agreement:
    """Judge labelled answers: JSON lines with question, gold, answer, correct (true or false), perhaps identity.

    Raises:
        BadInput: a field is missing or of the wrong kind, or there are no lines; else as `judge`.
        RuntimeError: as `judge`, and where it gave no verdict on any.
    """
    answers, labels = [], []
    for row, _ in read_rows(path, _Label):
        answers.append(Answer(row.identity or "the document", row.question, row.gold, row.answer))
        labels.append(row.correct)
    if not answers:
        raise BadInput(f"{path} holds no labelled answers; give one JSON object a line.")
    verdicts = judge(answers, settings)
    if set(verdicts) == {None}:
        raise RuntimeError(f"the judge {settings.model} gave no verdict on any of the answers; use another model")
    pairs = list(zip(verdicts, labels, strict=True))
    return Agreement(
        both_correct=pairs.count((True, True)),
        both_wrong=pairs.count((False, False)),
        judge_alone=pairs.count((True, False)),
        label_alone=pairs.count((False, True)),
        by_code=sum(answer.verdict_by_code is not None for answer in answers),
        no_verdict=verdicts.count(None),
    )
