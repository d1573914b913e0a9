"""What a backend is: a request in, a reply out."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

# How often a prompt is asked whose replies cannot be used.
MAX_ATTEMPTS = 3
# Our choice: a part of replies, verdicts or answers that may be unusable without hiding what the others say.
MOST_UNUSABLE = 0.2


@dataclass(frozen=True, slots=True)
class Image:
    """A picture that goes with a request: `key` names its content, `png` makes it when it is sent."""

    key: str
    png: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Request:
    """What a backend is asked.

    Attributes:
        sampling: `temperature`, `top_p`, `max_tokens` and, if the user set one, `seed`.
        sample: tells apart repeated asks of the same messages, attempts included; never sent but in the seed.
        schema: JSON schema that the reply must follow, or None.
        affinity: names a document or a part of one; its requests prefer one replica, whose cache holds the document.
        prompt, variables: what the messages were rendered from, for backends that understand prompts by their names;
            never sent.
        image: stands behind the text of the last message.
    """

    messages: list[dict[str, str]]
    sampling: dict[str, Any]
    sample: int
    schema: dict[str, Any] | None
    affinity: str
    prompt: str = ""
    variables: dict[str, Any] = field(default_factory=dict)
    image: Image | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back; `finish_reason` is `stop`, `length` or another word of the server's, as are the token counts.

    `thought_tokens` are those of `completion_tokens` that went into thoughts which are not in the text. Where a
    server gave no counts, or none that can be, `is_counted` is false and what stands here was told by length.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    thought_tokens: int = 0
    is_counted: bool = field(default=True, compare=False)


class Refused(Exception):
    """The backend will never answer this request (a prompt too long, a request it forbids)."""


class BackendDown(Exception):
    """No endpoint has answered for longer than the user's patience."""


class Deferred(Exception):
    """The backend does not answer now but another time: a batch file has yet to be worked off, or time is up."""


@dataclass(frozen=True, slots=True)
class CacheUse:
    """The prefix caches of a backend's servers, all together, by the servers' own count, in tokens.

    Attributes:
        capacity: what fits in.
        queried, hit: prompt tokens looked up since `start`, and those found.
    """

    capacity: int
    queried: int
    hit: int


Keep = Callable[[Reply], Awaitable[None]]
"""Makes a reply durable."""


class Backend(Protocol):
    """Something that completes chat messages.

    `concurrency` is how many requests it can take now; `has_room` whether a server would have nothing to do with
    those that it was given; `context` how many tokens a prompt and its reply may have together, None where that is not
    known, which a server tells at `start`.
    """

    @property
    def model(self) -> str: ...

    @property
    def concurrency(self) -> int: ...

    @property
    def has_room(self) -> bool: ...

    @property
    def context(self) -> int | None: ...

    async def start(self) -> None:
        """Check that the backend is there; raises BadInput if it is not."""

    async def complete(self, request: Request, keep: Keep | None = None) -> Reply:
        """Answer one request, raising Refused, Deferred or BackendDown; called by many tasks at once.

        A reply is handed to `keep` first; until that returns, the request counts as in flight, so that a crash makes
        no more of them lose what they cost than may be in flight at once.
        """

    async def cache_use(self) -> CacheUse | None:
        """Ask the servers for the use of their prefix caches; None where they do not say."""

    async def close(self) -> None:
        """Let go of connections."""


_Result = TypeVar("_Result")


async def together(coroutines: Iterable[Coroutine[Any, Any, _Result]]) -> list[_Result]:
    """Run coroutines side by side and return their results; when one fails, stop the others and raise its error."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await cancel_all(tasks)


async def cancel_all(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until all of them have ended; their errors are dropped."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def with_options(fields: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return a request's fields as the user wants them: null leaves a field out, `$name` has the value of `name`."""
    renamed = {name: fields.get(value[1:]) if _is_name(value) else value for name, value in options.items()}
    return {name: value for name, value in (fields | renamed).items() if value is not None}


def lasting_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that may change what is answered: those that leave out or rename a field do not."""
    return {name: value for name, value in options.items() if value is not None and not _is_name(value)}


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("$")


_Read = TypeVar("_Read")


async def first_usable(
    backend: Backend,
    messages: list[dict[str, str]],
    options: dict[str, Any],
    affinity: str,
    read: Callable[[str], _Read | None],
) -> tuple[_Read | None, str]:
    """Ask until `read` makes something of a reply's text, at most MAX_ATTEMPTS times.

    Args:
        options: the user's, which set, rename or null sampling parameters of every request.

    Returns:
        What was read, None if no reply could be used, and the last reply's text.

    Raises:
        Refused, BackendDown: as `Backend.complete`.
    """
    text = ""
    for attempt in range(MAX_ATTEMPTS):
        # A reply that cannot be used would come again at temperature 0.
        sampling = with_options({"temperature": 0.0 if attempt == 0 else 0.7, "max_tokens": 1024}, options)
        text = (await backend.complete(Request(messages, sampling, attempt, None, affinity))).text
        if (found := read(text)) is not None:
            return found, text
    return None, text
