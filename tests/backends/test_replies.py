"""The forms in which servers send a chat completion, through the real client."""

import asyncio
import json
from functools import partial
from typing import Any

import pytest
from aiohttp import web

from smt_plugin.backends.base import Reply, Request
from smt_plugin.backends.endpoint import OpenAIBackend
from smt_plugin.backends.replies import read_reply, reply_of
from smt_plugin.backends.thoughts import without_thoughts
from tests.endpoint import MODEL, Endpoint, serve

REQUEST = Request([{"role": "user", "content": "Hello"}], {"max_tokens": 900}, 0, None, "d")


def asked(*responses: bytes) -> tuple[Reply, int]:
    """Return the reply of a client whose server sends these bytes first, and how often it was asked."""

    async def odd(content: bytes, request: web.Request) -> web.Response:
        return web.Response(body=content)

    async def run() -> tuple[Reply, int]:
        async with serve(Endpoint()) as endpoint:
            endpoint.faults = {number: partial(odd, content) for number, content in enumerate(responses)}
            backend = OpenAIBackend([endpoint.url], MODEL)
            await backend.start()
            reply = await backend.complete(REQUEST)
            await backend.close()
            return reply, len(endpoint.bodies)

    return asyncio.run(run())


def message(**fields: Any) -> bytes:
    choice = {"message": {"role": "assistant", **fields}, "finish_reason": "stop"}
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}).encode()


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"content": "A text."}, "A text."),
        ({"content": [{"type": "text", "text": "A "}, {"type": "text", "text": "text."}]}, "A text."),
        (
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
                    {"type": "text", "text": "A text."},
                ]
            },
            "A text.",
        ),
        ({"content": [{"type": "reasoning", "text": "Hm."}, {"type": "text", "text": "A text."}]}, "A text."),
        ({"content": None, "reasoning_content": "Hm."}, None),
        ({"content": "", "reasoning": "Hm."}, None),
        ({"reasoning_content": "Hm.", "content": "A text."}, "A text."),
        ({"content": None, "reasoning_content": None}, ""),
        ({"content": []}, ""),
    ],
)
def test_content_is_a_text_a_list_of_parts_or_null_beside_thoughts(fields: dict[str, Any], text: str | None) -> None:
    reply, times = asked(message(**fields))
    assert without_thoughts(reply.text) == text
    assert (times, reply.completion_tokens) == (1, 5)


ODD_USAGES: list[Any] = [
    *("many", "", [], [1, 2], 5, -3, True, None, {}, float("nan"), float("inf")),
    *({"prompt_tokens": 3, "completion_tokens": odd} for odd in ("5", -5, 0, True, None, [5], {}, float("nan"), 1e300)),
    *({"prompt_tokens": 3, "completion_tokens": odd} for odd in (2_000_000_000, 10**30, 2**20)),
    {"prompt_tokens": {}, "completion_tokens": "x"},
    {"prompt_tokens": 2_000_000_000, "completion_tokens": 5},
]


@pytest.mark.parametrize("usage", ODD_USAGES, ids=repr)
def test_a_text_beside_odd_counts_is_taken_and_counted_by_its_length(usage: Any) -> None:
    choice = {"message": {"content": "A text of the reply."}, "finish_reason": "stop"}
    reply, times = asked(json.dumps({"choices": [choice], "usage": usage}).encode())
    assert times == 1
    assert (reply.text, reply.is_counted) == ("A text of the reply.", False)
    # By length 5, and what the text cannot have is taken for thoughts.
    assert reply.completion_tokens - reply.thought_tokens == 5
    assert reply.completion_tokens <= 2**20
    assert reply.prompt_tokens <= 3


@pytest.mark.parametrize("field", ["prompt_tokens_details", "completion_tokens_details"])
@pytest.mark.parametrize("odd", ["x", [1], 5, {"cached_tokens": 2**31, "reasoning_tokens": 2**31}])
def test_odd_details_of_counts_change_no_count(field: str, odd: Any) -> None:
    usage = {"prompt_tokens": 30, "completion_tokens": 5, field: odd}
    body = {"choices": [{"message": {"content": "A text of the reply."}}], "usage": usage}
    assert reply_of(body) == Reply("A text of the reply.", "stop", 30, 0, 5)
    assert reply_of(body).is_counted


@pytest.mark.parametrize("choices", ["more", "null before", "alone"])
@pytest.mark.parametrize("finish_reason", [None, 5, True, [], ["length"], {"a": "length"}, "x" * 10_000])
def test_an_odd_end_or_odd_choices_beside_a_text_lose_nothing(choices: str, finish_reason: Any) -> None:
    choice = {"index": "first", "message": {"content": "A text."}, "finish_reason": finish_reason}
    odd = {"more": [choice, 5, None], "null before": [None, {}, choice], "alone": choice}[choices]
    reply = reply_of({"id": [1], "created": "soon", "model": {}, "object": 7, "choices": odd})
    assert reply.text == "A text."
    assert reply.finish_reason in ("stop", "x" * 100)


def events(*chunks: Any, end: str = "data: [DONE]\n\n") -> bytes:
    lines = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
    return f": ping\n\nevent: message\n{lines}{end}".encode()


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}], "usage": None}


def test_a_stream_that_nobody_asked_for_is_put_together() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 4}}
    chunks = [delta(role="assistant"), delta(content="A "), delta(content="téxt."), delta("length", content=None)]
    reply, times = asked(events(*chunks, usage))
    assert (reply, times) == (Reply("A téxt.", "length", 7, 0, 4), 1)
    thinking, _ = asked(events(delta(reasoning_content="Hm. "), delta("stop", reasoning_content="Hm.")))
    assert thinking.text == "<think>Hm. Hm."


def test_a_stream_with_odd_events_and_further_choices_gives_the_text_of_the_first() -> None:
    other = {"choices": [{"index": 1, "delta": {"content": "Another."}, "finish_reason": "length"}]}
    odd = [{"choices": each} for each in (None, {}, 5, [None], [{"delta": "x"}], [{"delta": {"reasoning": [1]}}])]
    counts: list[Any] = [{"usage": "many"}, {"usage": {"prompt_tokens": 7, "completion_tokens": 4}}, {"usage": 5}]
    reply, times = asked(events(delta(content="A "), other, *odd, delta("stop", content="text."), *counts))
    assert (reply, times) == (Reply("A text.", "stop", 7, 0, 4), 1)


def test_a_stream_that_breaks_off_or_ends_in_an_error_is_asked_for_again() -> None:
    broken = events(delta(content="A "), end="")
    wrong = events(delta(content="A "), {"error": {"message": "gone"}})
    reply, times = asked(broken, wrong)
    assert reply.text.startswith("A text about")
    assert times == 3


def test_what_is_no_text_is_no_reply() -> None:
    with pytest.raises(TypeError):
        reply_of({"choices": [{"message": {"content": 5}}]})
    with pytest.raises(ValueError, match="breaks off"):
        read_reply(b'data: {"choices": []}\n')
