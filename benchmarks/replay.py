"""The requests of a finished `smt generate`, and a plain client that sends them again: for other benchmarks here."""

import asyncio
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from smt_plugin.completions import CompletionStore
from smt_plugin.corpus import read_documents
from smt_plugin.prompts import Prompts


@dataclass(frozen=True, slots=True)
class Call:
    """A completion as it was asked for, and the server's counts of its tokens."""

    doc_id: str
    messages: list[dict[str, str]]
    sampling: dict[str, Any]
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


def calls_of(run: Path, corpus: Path) -> list[Call]:
    """Return the calls of a run, in the order in which they were asked for."""
    documents = {document.id: document for document in read_documents(corpus)}
    prompts = Prompts()
    calls = {}
    store = CompletionStore(run)
    try:
        for completion in store.all():
            document = documents[completion.doc_id]
            messages = prompts.messages(
                completion.prompt, identity=document.identity, document=document.text.strip(), **completion.variables
            )
            reply = completion.reply
            counts = (reply.prompt_tokens, reply.cached_tokens, reply.completion_tokens)
            calls[completion.key] = Call(document.id, messages, completion.sampling, *counts)
    finally:
        asyncio.run(store.close())
    with closing(sqlite3.connect(run / "completions.sqlite")) as connection:
        order = connection.execute("SELECT hex(key) FROM completions ORDER BY created - seconds").fetchall()
    return [calls[key.lower()] for (key,) in order]


async def replay(url: str, api_key: str, model: str, calls: list[Call], concurrency: int) -> tuple[list[Call], float]:
    """Send calls again, in their order and with the lengths they had: nothing kept, nothing checked, no retries.

    Returns the calls with the new counts, and the seconds from the first request to the last answer.
    """
    places = asyncio.Semaphore(concurrency)

    async def send(call: Call, session: aiohttp.ClientSession) -> Call:
        length = call.completion_tokens
        body = {"model": model, "messages": call.messages, **call.sampling, **fixed_length(length)}
        async with places, session.post(f"{url}/chat/completions", json=body) as response:
            response.raise_for_status()
            usage = (await response.json())["usage"]
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        counts = (usage["prompt_tokens"], cached, usage["completion_tokens"])
        return Call(call.doc_id, call.messages, call.sampling, *counts)

    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    headers = {"Authorization": f"Bearer {api_key}"}
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as session:
        started = time.perf_counter()
        answered = await asyncio.gather(*(send(call, session) for call in calls))
        return answered, time.perf_counter() - started


def fixed_length(tokens: int) -> dict[str, Any]:
    """Return the sampling parameters under which vLLM writes exactly so many tokens."""
    return {"max_tokens": tokens, "min_tokens": tokens, "ignore_eos": True}
