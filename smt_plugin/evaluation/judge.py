"""Judge free-form answers: equal numbers by code, all else by a model, whose verdicts are kept.

Without a judge there is no score: nothing here falls back to comparing texts.
"""

import asyncio
import os
import re
import sqlite3
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import orjson
from pydantic import ValidationError

from smt_plugin.backends.base import BackendDown, Refused, Request
from smt_plugin.backends.endpoint import OpenAIBackend
from smt_plugin.backends.vllm_server import VLLMBackend
from smt_plugin.config import JudgeSection, first_problem
from smt_plugin.errors import BadInput
from smt_plugin.evaluation.same_number import Answer, same_number
from smt_plugin.files import cache_dir, content_hash, read_jsonl
from smt_plugin.prompts import Prompts

API_KEY_VARIABLE = "SMT_JUDGE_API_KEY"


_ATTEMPTS = 3


_Result = TypeVar("_Result")


_VERDICT = re.compile(r"VERDICT\W+(CORRECT|WRONG|INCORRECT)\b", re.IGNORECASE)


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


def judge(answers: Sequence[Answer], settings: JudgeSection) -> list[bool]:
    """Return whether each answer is correct, in order; each different one is asked about once, ever.

    Raises:
        BadInput: the endpoint cannot be reached, refuses the key, a request or the model.
        RuntimeError: the judge gives no verdict, or no answer at all.
    """
    verdicts = {answer: True for answer in answers if same_number(answer)}
    rest = [answer for answer in dict.fromkeys(answers) if answer not in verdicts]
    prompts = Prompts()
    keys = {answer: _key(answer, prompts, settings) for answer in rest}
    with _Kept() as kept:
        verdicts |= {answer: found for answer in rest if (found := kept.get(keys[answer])) is not None}
        missing = [answer for answer in rest if answer not in verdicts]
        if missing:

            async def ask_all(backend: OpenAIBackend) -> list[BaseException | None]:
                # What is paid for is kept at once, and even if another fails.
                return await asyncio.gather(
                    *(ask_and_keep(answer, backend) for answer in missing), return_exceptions=True
                )

            async def ask_and_keep(answer: Answer, backend: OpenAIBackend) -> None:
                reply = await _ask(answer, prompts, settings, backend)
                verdicts[answer] = bool(verdict_of(reply))
                kept.put(keys[answer], verdicts[answer], reply)

            for error in _with_backend(settings, ask_all):
                if isinstance(error, BackendDown):
                    raise RuntimeError(f"judge: {error}")
                if error is not None:
                    raise error
    return [verdicts[answer] for answer in answers]


def check_judge(settings: JudgeSection) -> None:
    """Find out that the judge is there before hours are spent on answers that it must judge; start it if it is local.

    Raises:
        BadInput: the endpoint cannot be reached, refuses the key, or does not serve the model; vLLM is not there.
        RuntimeError: the server does not get healthy; the end of its log is in the message.
    """

    async def nothing(backend: OpenAIBackend) -> None:
        pass

    try:
        _with_backend(settings, nothing)
    except BadInput as error:
        raise BadInput(f"judge: {error}") from None


def serve(values: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Start a local judge here, unless it runs, so that other processes can ask it until this one ends.

    Args:
        values: settings of the kind `vllm`, as `judge_settings` takes them.

    Returns:
        Settings with its endpoint, whose verdicts are the same, and the key that it wants in SMT_JUDGE_API_KEY.

    Raises:
        BadInput, RuntimeError: as `check_judge`.
    """
    settings = judge_settings(values)
    check_judge(settings)
    endpoint, key = _server(settings).backend.first_address
    return settings.model_copy(update={"kind": "openai", "endpoint": endpoint}).values, key


def _with_backend(settings: JudgeSection, work: Callable[[OpenAIBackend], Coroutine[Any, Any, _Result]]) -> _Result:
    """Do some work with the judge: in another thread, since the caller may be inside a running event loop."""
    endpoint = settings.endpoint
    if endpoint is None:
        server = _server(settings)
        return asyncio.run_coroutine_threadsafe(work(server.backend), server.loop).result()

    async def once() -> _Result:
        backend = OpenAIBackend(
            [endpoint],
            settings.model,
            api_key=os.environ.get(API_KEY_VARIABLE) or None,
            max_concurrency=settings.concurrency,
            timeout=600,
            patience=settings.patience,
        )
        try:
            await backend.start()
            return await work(backend)
        finally:
            await backend.close()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, once()).result()


class _Server:
    """A `vllm serve` of this process, which its guard ends with it, and the thread that looks after it."""

    def __init__(self, settings: JudgeSection) -> None:
        self.backend = VLLMBackend(
            settings.model,
            settings.command,
            1,
            settings.arguments,
            cache_dir() / "judge",
            settings.startup_timeout,
            max_concurrency=settings.concurrency,
            timeout=600,
            patience=settings.patience,
        )
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        try:
            asyncio.run_coroutine_threadsafe(self.backend.start(), self.loop).result()
        except BaseException:
            asyncio.run_coroutine_threadsafe(self.backend.close(), self.loop).result()
            self.loop.call_soon_threadsafe(self.loop.stop)
            raise


_servers: dict[bytes, _Server] = {}


_servers_lock = threading.Lock()


def _server(settings: JudgeSection) -> _Server:
    """The server of these settings, started on first use."""
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise BadInput(
            "each of several processes would start a server; start it yourself, once, and give `endpoint` instead of "
            "`kind: vllm`."
        )
    key = orjson.dumps([settings.model, settings.command, settings.arguments])
    with _servers_lock:
        if key not in _servers:
            try:
                _servers[key] = _Server(settings)
            except BadInput as error:
                raise BadInput(str(error).replace("backend.", "")) from None
        return _servers[key]


async def _ask(answer: Answer, prompts: Prompts, settings: JudgeSection, backend: OpenAIBackend) -> str:
    text = ""
    for attempt in range(_ATTEMPTS):
        # A reply without a verdict would come again at temperature 0.
        sampling = {"temperature": 0.0 if attempt == 0 else 0.7, "max_tokens": 1024, **settings.options}
        try:
            reply = await backend.complete(Request(_messages(answer, prompts), sampling, attempt, None, "judge"))
        except Refused as error:
            place = settings.endpoint or settings.model
            raise BadInput(
                f"judge: {place} refused a request ({error}); mend the judge's `options` or `model`."
            ) from None
        if verdict_of(reply.text) is not None:
            return reply.text
        text = reply.text
    raise RuntimeError(
        f"the judge {settings.model} gave no verdict in {_ATTEMPTS} attempts on the answer {answer.answer[:80]!r}; it "
        f"said: {text[-200:]!r}; use a model that follows the prompt judge/verdict"
    )


def verdict_of(reply: str) -> bool | None:
    """Return the verdict that a judge's reply ends with, or None; what it thought before is not read."""
    found = _VERDICT.findall(reply.rpartition("</think>")[2])
    return found[-1].upper() == "CORRECT" if found else None


def _messages(answer: Answer, prompts: Prompts) -> list[dict[str, str]]:
    # The system text is for writing about a document, which the judge does not do.
    return prompts.messages(
        "judge/verdict",
        identity=answer.identity,
        question=answer.question,
        gold=answer.gold,
        answer=answer.answer,
    )[1:]


def _key(answer: Answer, prompts: Prompts, settings: JudgeSection) -> str:
    """What a verdict depends on; the endpoint's address is not among it."""
    return content_hash([[_messages(answer, prompts), settings.model, settings.options]])[:32]


class _Kept:
    """The verdicts of all evaluations, in the cache folder; several processes may use it at once."""

    def __enter__(self) -> "_Kept":
        path = cache_dir() / "verdicts.sqlite"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Another thread writes while the one that opened it waits for that thread.
            self._connection = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, correct INTEGER, reply TEXT)"
            )
        except (OSError, sqlite3.DatabaseError) as error:
            raise BadInput(f"the verdicts in {path} cannot be opened ({error}); move that file away.") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def get(self, key: str) -> bool | None:
        row = self._connection.execute("SELECT correct FROM verdicts WHERE key = ?", (key,)).fetchone()
        return None if row is None else bool(row[0])

    def put(self, key: str, correct: bool, reply: str) -> None:
        self._connection.execute("INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?)", (key, correct, reply))


@dataclass(frozen=True, slots=True)
class Agreement:
    """How verdicts compare with labels, in numbers of answers; `by_code` are those that needed no model."""

    both_correct: int
    both_wrong: int
    judge_alone: int
    label_alone: int
    by_code: int

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
        )


def agreement(path: Path, settings: JudgeSection) -> Agreement:
    """Judge labelled answers: JSON lines with question, gold, answer, correct (true or false), perhaps identity.

    Raises:
        BadInput: a field is missing or of the wrong kind, or there are no lines; else as `judge`.
    """
    answers, labels = [], []
    for number, row in read_jsonl(path):
        texts: dict[str, Any] = {name: row.get(name) for name in ("question", "gold", "answer")}
        whole = all(isinstance(text, str) and text for text in texts.values())
        if not whole or not isinstance(row.get("correct"), bool):
            raise BadInput(
                f"{path}, line {number}: expected question, gold, answer as texts and correct as true or false."
            )
        answers.append(Answer(str(row.get("identity") or "the document"), **texts))
        labels.append(row["correct"])
    if not answers:
        raise BadInput(f"{path} holds no labelled answers; give one JSON object a line.")
    pairs = list(zip(judge(answers, settings), labels, strict=True))
    return Agreement(
        both_correct=pairs.count((True, True)),
        both_wrong=pairs.count((False, False)),
        judge_alone=pairs.count((True, False)),
        label_alone=pairs.count((False, True)),
        by_code=_count(same_number(answer) for answer in answers),
    )


def _count(values: Iterable[bool]) -> int:
    return sum(1 for value in values if value)
