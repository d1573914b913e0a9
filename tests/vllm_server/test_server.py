"""What the client and the methods rely on, asked of a real vLLM server."""

import asyncio
from typing import Any

import pytest

from smt_plugin.backends.base import Refused, Reply, Request
from smt_plugin.backends.endpoint import OpenAIBackend
from smt_plugin.corpus import Document
from smt_plugin.errors import BadInput
from smt_plugin.methods.active_reading import parse_strategies
from smt_plugin.methods.base import Ask, Unparsable, parse_text
from smt_plugin.methods.synthetic_qa import pairs_schema, parse_pairs
from smt_plugin.prompts import Prompts
from tests.processes import wait_for
from tests.vllm_server.server import Server

pytestmark = pytest.mark.vllm

CACHE_BLOCK_TOKENS = 128  # vLLM's on CPUs; what fills no block is not cached
DIARY = Document(
    id="diary",
    title="The Diary of the Dam",
    text="".join(f"On day {day} the water stood {day * 7 % 31} feet high.\n" for day in range(1, 200)),
)


def messages(prompt: str = "active_reading/strategies", **variables: Any) -> list[dict[str, str]]:
    return Prompts().messages(prompt, identity=DIARY.identity, document=DIARY.text, **variables)


def request(content: list[dict[str, str]], schema: dict[str, Any] | None = None, **sampling: Any) -> Request:
    return Request(content, {"temperature": 1.0, "top_p": 1.0, "max_tokens": 2048} | sampling, 0, schema, DIARY.id)


async def ask(server: Server, *requests: Request, **changes: Any) -> list[Reply]:
    settings = {"model": server.model, "api_key": server.api_key} | changes
    backend = OpenAIBackend([server.url], **settings)
    try:
        await backend.start()
        return list(await asyncio.gather(*(backend.complete(request) for request in requests)))
    finally:
        await backend.close()


def test_every_reply_held_to_the_schema_of_pairs_parses(server: Server) -> None:
    prompt = messages("synthetic_qa/pairs", num_pairs=3)
    replies = asyncio.run(ask(server, *[request(prompt, pairs_schema(3), max_tokens=4096)] * 12))
    assert all(1 <= len(parse_pairs(reply)) <= 3 for reply in replies)


def test_a_schemas_bounds_on_counts_and_lengths_hold(server: Server) -> None:
    schema = pairs_schema(2)
    pairs = schema["properties"]["pairs"]
    pairs["minItems"] = 2
    for name in ("question", "answer"):
        pairs["items"]["properties"][name] = {"type": "string", "minLength": 20, "maxLength": 40}
    replies = asyncio.run(ask(server, *[request(messages(), schema)] * 6))
    for reply in replies:
        parsed = parse_pairs(reply)
        assert len(parsed) == 2
        # The parser strips white space at the ends, so only the upper bound is left to see.
        assert all(len(pair[name]) <= 40 for pair in parsed for name in ("question", "answer"))


def test_strategies_and_free_texts_need_no_schema(server: Server) -> None:
    replies = asyncio.run(ask(server, *[request(messages(), temperature=0.7, top_p=0.95)] * 6))
    assert all(parse_strategies(reply) for reply in replies)
    assert all(parse_text(reply) for reply in replies)


def test_a_reply_that_runs_into_max_tokens_says_so(server: Server) -> None:
    (reply,) = asyncio.run(ask(server, request(messages(), max_tokens=1)))
    assert reply.finish_reason == "length"
    assert reply.completion_tokens == 1


def test_a_reply_that_repetition_detection_ends_is_read_as_a_loop_and_not_as_whole(server: Server) -> None:
    options = {"repetition_detection": {"max_pattern_size": 64, "min_count": 3}}
    # Without chance a Markov chain goes round until something stops it, or ends before it does.
    content = [{"role": "user", "content": "Tell me of the dam."}]
    endless, ended = (
        asyncio.run(ask(server, request(content, temperature=0.0, max_tokens=1024), options=each))[0]
        for each in ({}, options)
    )
    assert (endless.finish_reason, endless.completion_tokens) == ("length", 1024)
    assert ended.finish_reason == "repetition"
    assert ended.completion_tokens < 500
    assert endless.text.startswith(ended.text)
    asked = Ask(DIARY, "wrap/rewrite", {}, {"max_tokens": 1024}, 0, parse_text)
    assert any("over and over" in what for what in asked.losses(ended))
    with pytest.raises(Unparsable, match="cut off by repetition_detection before a first sentence ended"):
        asked.read(ended)


def test_a_documents_second_call_takes_the_document_from_the_prefix_cache(server: Server) -> None:
    def hits_and_queries() -> tuple[float, float]:
        return server.metric("vllm:prefix_cache_hits_total"), server.metric("vllm:prefix_cache_queries_total")

    salt = "A document that no other test has sent.\n"
    first = Prompts().messages("active_reading/strategies", identity="x", document=salt + DIARY.text)
    second = Prompts().messages("synthetic_qa/pairs", identity="x", document=salt + DIARY.text, num_pairs=3)
    hits, queries = hits_and_queries()
    (cold,) = asyncio.run(ask(server, request(first, max_tokens=1)))
    (warm,) = asyncio.run(ask(server, request(second, max_tokens=1)))
    assert cold.cached_tokens < CACHE_BLOCK_TOKENS * 2
    # The two prompts part after the document, so all of its whole blocks are there.
    assert warm.cached_tokens > 0.8 * warm.prompt_tokens
    assert warm.cached_tokens % CACHE_BLOCK_TOKENS == 0
    after = hits + cold.cached_tokens + warm.cached_tokens, queries + cold.prompt_tokens + warm.prompt_tokens
    # vLLM counts what a step hit after it has sent the answers of that step.
    assert wait_for(lambda: hits_and_queries() == after, 10), (hits_and_queries(), after)


def test_a_prompt_longer_than_the_context_is_refused_with_the_servers_words(server: Server) -> None:
    long = [{"role": "user", "content": DIARY.text * 20}]
    with pytest.raises(Refused, match="maximum context length is 32768 tokens"):
        asyncio.run(ask(server, request(long)))


def test_a_wrong_key_and_a_wrong_model_are_named_before_anything_is_asked(server: Server) -> None:
    with pytest.raises(BadInput, match=r"refused the API key \(status 401\)") as refused:
        asyncio.run(ask(server, api_key="not-the-key"))
    assert "not-the-key" not in str(refused.value)
    with pytest.raises(BadInput, match=f"does not serve the model 'other' but {server.model}"):
        asyncio.run(ask(server, model="other"))
