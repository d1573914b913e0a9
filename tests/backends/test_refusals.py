"""Real servers on this machine that refuse a field, an account or one prompt, each in its own way."""

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from smt_plugin.backends import endpoint as endpoints
from smt_plugin.backends.base import BackendDown, Refused, Reply, Request
from smt_plugin.backends.endpoint import OpenAIBackend
from smt_plugin.backends.refusals import Failure
from smt_plugin.errors import BadInput
from tests.endpoint import MODEL, Endpoint, serve

MESSAGES = [{"role": "system", "content": "Be exact."}, {"role": "user", "content": "Hello"}]
SAMPLING = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 9, "seed": 3}
REQUEST = Request(MESSAGES, SAMPLING, 4, {"type": "object"}, "d1")
Body = dict[str, Any]


class Refusing(Endpoint):
    """Answers what `why` returns a status and words for with those; `bodies` are all that came, answered or not."""

    def __init__(self, why: Callable[[Body], tuple[int, str] | None]) -> None:
        super().__init__()
        self.why = why
        self.came: list[Body] = []

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.came.append(body)
        if (refusal := self.why(body)) is not None:
            # A rate limit is told from an empty account by this header.
            headers = {} if refusal[0] == 429 else {"Retry-After": "0.02"}
            return web.json_response({"error": {"message": refusal[1]}}, status=refusal[0], headers=headers)
        return await super().chat(request)


def ask(server: Endpoint, *requests: Request, **settings: Any) -> list[Reply]:
    async def run() -> list[Reply]:
        async with serve(server):
            backend = OpenAIBackend([server.url], MODEL, **settings)
            try:
                await backend.start()
                return await asyncio.gather(*(backend.complete(request) for request in requests))
            finally:
                await backend.close()

    return asyncio.run(run())


def has_system(body: Body) -> bool:
    return body["messages"][0]["role"] == "system"


def without(*names: str) -> Callable[[Body], bool]:
    return lambda body: not any(name in body for name in names)


@pytest.mark.parametrize(
    ("refused", "status", "words", "note"),
    [
        ("max_tokens", 400, "Unsupported parameter: 'max_tokens'; give 'max_completion_tokens'.", "no `max_tokens`"),
        ("max_tokens", 500, "Internal Server Error", "no `max_tokens`"),
        ("system", 400, "System role not supported", "no system message"),
        ("system", 500, "Conversation roles must alternate user/assistant/user/assistant", "no system message"),
        ("system", 404, "", "no system message"),
        ("response_format", 500, "type must be one of text or json_object", "no JSON schema"),
        ("response_format", 422, "extra fields not permitted", "no JSON schema"),
        ("response_format", 404, "No endpoints found that support the requested parameters", "no JSON schema"),
        ("top_p", 400, "`temperature` and `top_p` cannot both be specified for this model.", "no `top_p`"),
        ("seed", 422, "", "no `seed`"),
        ("temperature", 400, "only the default (1) value is supported", "no `temperature`"),
        ("chat_template_kwargs", 400, "Unrecognized request argument", "no `chat_template_kwargs`"),
    ],
)
def test_a_refused_field_is_found_out_once_whatever_the_status_and_left_out(
    refused: str, status: int, words: str, note: str, caplog: pytest.LogCaptureFixture
) -> None:
    def why(body: Body) -> tuple[int, str] | None:
        return (status, words) if (has_system(body) if refused == "system" else refused in body) else None

    server = Refusing(why)
    options = {"chat_template_kwargs": {"enable_thinking": False}} if refused == "chat_template_kwargs" else {}
    with caplog.at_level(logging.WARNING):
        replies = ask(server, *[REQUEST] * 20, options=options)
    assert len(replies) == 20
    assert len([line for line in caplog.messages if "going on without" in line]) == 1
    assert f"takes {note} (status {status}" in caplog.text
    # What is not refused is sent on.
    fields = {*SAMPLING, "response_format", *options, "model", "messages"} - {refused}
    last = server.bodies[-1]
    assert set(last) == fields | ({"max_completion_tokens"} if refused == "max_tokens" else set())
    assert has_system(last) == (refused != "system")
    assert "Be exact." in json.dumps(last["messages"])


@pytest.mark.parametrize("named", [True, False], ids=["each named", "none named"])
def test_several_refused_fields_are_all_found_and_no_other(named: bool, caplog: pytest.LogCaptureFixture) -> None:
    def why(body: Body) -> tuple[int, str] | None:
        found = [name for name in ("max_tokens", "temperature", "top_p") if name in body]
        return (400, f"Unsupported parameter: {found[0]}" if named else "Bad Request") if found else None

    server = Refusing(why)
    with caplog.at_level(logging.WARNING):
        assert len(ask(server, *[REQUEST] * 5)) == 5
    assert set(server.bodies[-1]) == {"model", "messages", "seed", "response_format", "max_completion_tokens"}
    assert server.bodies[-1]["max_completion_tokens"] == 9
    assert "takes no `max_tokens` and no `temperature` and no `top_p` (" in caplog.text
    assert len(server.came) < 30


def test_a_refusal_that_is_no_fields_fault_leaves_the_request_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    server = Refusing(lambda body: (400, "I forbid it") if "bad" in body["messages"][-1]["content"] else None)
    bad = Request([{"role": "user", "content": "bad"}], SAMPLING, 0, None, "d")
    with caplog.at_level(logging.WARNING):
        with pytest.raises(Refused, match=r"status 400: .*I forbid it"):
            ask(server, bad)
        assert len(server.came) == 1 + len(SAMPLING) + 1
        # A prompt that is too long says so, and is not asked again.
        server.why = lambda body: (
            400,
            "This model's maximum context length is 4096 tokens. However, you requested 5000",
        )
        server.came.clear()
        with pytest.raises(Refused, match="maximum context length"):
            ask(server, REQUEST)
    assert len(server.came) == 1
    assert "takes no" not in caplog.text


def test_a_fault_that_passes_by_itself_blames_no_field(caplog: pytest.LogCaptureFixture) -> None:
    server = Refusing(lambda body: (500, "out of memory") if len(server.came) <= 3 else None)
    with caplog.at_level(logging.WARNING):
        assert len(ask(server, *[REQUEST] * 3)) == 3
        ask(server, REQUEST)
    assert "takes no" not in caplog.text
    assert set(server.bodies[-1]) >= {*SAMPLING, "response_format"}


def test_options_set_rename_and_null_any_field() -> None:
    server = Endpoint()
    options = {
        "max_tokens": None,
        "max_completion_tokens": "$max_tokens",
        "top_p": None,
        "temperature": 0.1,
        "system": None,
        "response_format": None,
        "reasoning_effort": "none",
    }
    ask(server, REQUEST, options=options)
    assert server.bodies == [
        {
            "model": MODEL,
            "messages": [{"role": "user", "content": "Be exact.\n\nHello"}],
            "temperature": 0.1,
            "seed": 7,
            "max_completion_tokens": 9,
            "reasoning_effort": "none",
        }
    ]
    # A form of reply of one's own goes where we ask for one.
    plain = Request(MESSAGES, {}, 0, None, "d")
    ask(server, REQUEST, plain, options={"response_format": {"type": "json_object"}})
    assert [body.get("response_format") for body in server.bodies[1:]] == [{"type": "json_object"}, None]


def test_an_empty_system_text_is_not_sent() -> None:
    server = Endpoint()
    ask(server, Request([{"role": "system", "content": ""}, MESSAGES[1]], {}, 0, None, "d"))
    assert server.bodies[0]["messages"] == [MESSAGES[1]]


def test_a_reply_as_long_as_the_limit_that_was_sent_was_cut_whatever_the_server_says() -> None:
    server = Endpoint()
    server.answer = lambda prompt, sample: "four " * 8
    options = {"max_tokens": None, "max_completion_tokens": 10}
    assert [ask(server, REQUEST, options=each)[0].finish_reason for each in (options, {})] == ["length", "length"]
    assert ask(server, REQUEST, options={"max_tokens": 50})[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (402, "Payment Required"),
        (402, "This request requires more credits, or fewer max_tokens."),
        (400, "Billing hard limit has been reached."),
        (400, "Your credit balance is too low to access the API."),
        (400, "You have reached your specified API usage limits."),
        (403, "Key limit exceeded (total limit)."),
        (429, "You exceeded your current quota, please check your plan and billing details."),
        (429, "Insufficient balance"),
        (200, "402"),
    ],
)
def test_an_account_that_is_refused_three_times_in_a_row_stops_with_its_words(status: int, words: str) -> None:
    class Broke(Refusing):
        async def chat(self, request: web.Request) -> web.StreamResponse:
            response = await super().chat(request)
            if status == 200:
                return web.json_response({"error": {"code": 402, "message": "Insufficient credits"}})
            return response

    server = Broke(lambda body: None if status == 200 else (status, words))
    with pytest.raises(BackendDown, match="refused the account 3 times in a row") as caught:
        ask(server, REQUEST, max_concurrency=1)
    assert (words if status != 200 else "Insufficient credits") in str(caught.value)
    assert len(server.came) <= 4  # the last one is a tiny request, where the words might be the prompt's
    assert all("response_format" in body for body in server.came[:3])


def test_an_account_without_money_leaves_the_work_to_another_endpoint(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        broke = Refusing(lambda body: (402, "no money"))
        async with serve(broke), serve(Endpoint()) as rich:
            backend = OpenAIBackend([broke.url, rich.url], MODEL, max_concurrency=8)
            await backend.start()
            requests = [Request(MESSAGES, {}, 0, None, f"d{n}") for n in range(40)]
            assert len(await asyncio.gather(*map(backend.complete, requests))) == 40
            await backend.close()
            assert len(broke.came) < 12

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    assert "no money" in caplog.text


def test_a_prompt_whose_refusal_speaks_of_billing_is_no_refused_account() -> None:
    server = Refusing(
        lambda body: (400, "blocked: 'a billing dispute'") if "billing" in body["messages"][-1]["content"] else None
    )
    with pytest.raises(Refused, match="a billing dispute"):
        ask(server, Request([{"role": "user", "content": "a billing dispute"}], {}, 0, None, "d"))


@pytest.mark.parametrize(
    ("status", "words", "account"),
    [
        (429, "Rate limit reached for requests per minute. Limit: 3 / min. Please try again in 20s.", False),
        (429, "You exceeded your current quota, please check your plan and billing. Please retry in 34.1s.", False),
        (429, "Too Many Requests", False),
        (400, "max_tokens is too large: 9000", False),
        (500, "billing service down", False),
        (429, "insufficient_quota", True),
        (403, "Your account has been suspended", True),
    ],
)
def test_limits_that_pass_are_told_from_an_empty_account(status: int, words: str, account: bool) -> None:
    assert Failure(words, status).of_account is account
    assert not Failure(words, 429, retry_after=3.0).of_account


@pytest.mark.parametrize("status", [500, 403, 404])
def test_a_request_that_always_fails_is_given_up_though_nothing_else_is_asked(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "_LONGEST_PAUSE", 0.02)
    server = Refusing(lambda body: (status, "boom") if body["messages"][-1]["content"] == "poison" else None)

    async def run() -> None:
        async with serve(server):
            backend = OpenAIBackend([server.url], MODEL, patience=0.5)
            await backend.start()
            poison = Request([{"role": "user", "content": "poison"}], SAMPLING, 0, None, "d")
            with pytest.raises(Refused, match=f"failed 10 times while others were answered: status {status}"):
                await asyncio.wait_for(backend.complete(poison), 60)
            assert (await backend.complete(REQUEST)).text
            await backend.close()

    asyncio.run(run())
    # A tiny request told each time that the server is well.
    assert sum(body["messages"][-1]["content"] == "Say yes." for body in server.came) <= 10


def test_a_server_that_fails_every_request_is_down_and_its_prompts_are_not_given_up() -> None:
    with pytest.raises(BackendDown, match="no endpoint has answered for 1 s; the last said: status 500"):
        ask(Refusing(lambda body: (500, "boom")), REQUEST, patience=1)


def test_a_key_that_is_withdrawn_midway_is_named_and_no_prompt_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "_LONGEST_PAUSE", 0.02)
    server = Refusing(lambda body: (403, "this key may do nothing") if len(server.came) > 3 else None)
    with pytest.raises(BadInput, match=r"answered status 403 to a completion: .*this key may do nothing"):
        ask(server, *[REQUEST] * 6, max_concurrency=1)


def test_proxies_of_the_environment_are_used_except_where_it_says_no(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with serve(Endpoint()) as proxy, serve(Endpoint()) as direct:
            monkeypatch.setenv("HTTP_PROXY", proxy.url.removesuffix("/v1"))
            monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
            for name in ("NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"):
                monkeypatch.delenv(name, raising=False)
            # The name is nobody's: only the proxy can answer for it.
            backend = OpenAIBackend(["http://models.invalid/v1"], MODEL)
            await backend.start()
            assert (await backend.complete(REQUEST)).text
            await backend.close()
            assert len(proxy.bodies) == 1
            monkeypatch.setenv("no_proxy", "other.example,.invalid")
            with pytest.raises(BadInput, match=r"models\.invalid/v1 cannot be reached"):
                await OpenAIBackend(["http://models.invalid/v1"], MODEL).start()
            # A server on this machine is behind no proxy.
            backend = OpenAIBackend([direct.url], MODEL)
            await backend.start()
            await backend.complete(REQUEST)
            await backend.close()
            assert (len(proxy.bodies), len(direct.bodies)) == (1, 1)
            monkeypatch.delenv("no_proxy")
            monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:9")
            with pytest.raises(BadInput, match="is of the kind socks5, but only HTTP proxies are known"):
                await OpenAIBackend(["http://models.invalid/v1"], MODEL).start()

    asyncio.run(run())


def test_the_first_prompt_of_all_that_is_refused_as_it_stands_costs_no_field_to_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # A filter that takes the same words in another shape, as one that knows texts by their hash would.
    server = Refusing(lambda body: (400, "not this") if body["messages"] == MESSAGES else None)
    with caplog.at_level(logging.WARNING), pytest.raises(Refused, match="not this"):
        ask(server, REQUEST)
    assert not [record for record in caplog.records if "going on without" in record.message]
    assert has_system(server.came[-1])
