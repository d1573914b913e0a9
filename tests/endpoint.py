"""A real HTTP server that speaks the OpenAI chat API on this machine, and misbehaves when told to."""

import asyncio
import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from typing import Any

from aiohttp import web

MODEL = "test-model"
_NUMBERS = count()


def mark_of(prompt: str, sample: str) -> str:
    """The eight hexadecimal digits that `answer` puts into its text."""
    return hashlib.sha256((prompt + sample).encode()).hexdigest()[:8]


def answer(prompt: str, sample: str) -> str:
    """Answer a shipped prompt in the form it asks for, differently for each document and sample."""
    mark = mark_of(prompt, sample)
    if "<given_answer>" in prompt:
        gold, given = (prompt.split(f"<{tag}>")[1].split("</")[0] for tag in ("right_answer", "given_answer"))
        return f"VERDICT: {'CORRECT' if given == gold else 'WRONG'}"
    if "<statements>" in prompt:
        bounds = re.findall(r"with these numbers: ([\d, -]+)", prompt)[0].split(", ")
        numbers = [n for each in bounds for n in range(int(each.split("-")[0]), int(each.split("-")[-1]) + 1)]
        return json.dumps({"verdicts": [{"number": n, "why": "So it is.", "verdict": "supported"} for n in numbers]})
    if "question-answer pairs" in prompt:
        pairs = [{"question": f"What is {mark} {n}?", "answer": f"It is {n}. The answer is {n}."} for n in range(4)]
        return json.dumps({"pairs": pairs})
    if "Propose study strategies" in prompt:
        return f"## List {mark}\nList everything.\n\n## Retell {mark}\nRetell everything."
    if "what it is made of" in prompt:
        return json.dumps({"summary": f"A summary of {mark}.", "entities": [f"{mark} {n}" for n in range(5)]})
    return f"A text about {mark}. " + "It says many things. " * 10


def embedding(text: str) -> list[float]:
    """An embedding in which texts that share words are near each other."""
    vector = [0.001] * 64
    for word in re.findall(r"[a-z]{4,}", text.lower()):
        vector[hashlib.sha256(word.encode()).digest()[0] % 64] += 1.0
    length = sum(value * value for value in vector) ** 0.5
    return [value / length for value in vector]


class Endpoint:
    """Counts what it is asked; `faults` maps the n-th request (from 0) to a function that makes its response.

    A request with a seed gets the same answer whenever it comes, another one its next answer.
    """

    def __init__(self, api_key: str | None = None) -> None:
        self._number = next(_NUMBERS)
        self.api_key = api_key
        self.asked: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.under_way = 0
        self.most_under_way = 0
        self.seconds = 0.0
        self.faults: dict[int, Callable[[web.Request], Any]] = {}
        self.answer = answer
        self.metrics = ""
        self.usages: list[Any] = []  # what is said in turn in place of the counts of tokens
        self.embed = embedding
        self.embedded: list[str] = []
        self.url = ""

    async def models(self, request: web.Request) -> web.Response:
        if self.api_key and request.headers.get("Authorization") != f"Bearer {self.api_key}":
            return web.json_response({"error": {"message": "bad key"}}, status=401)
        return web.json_response({"data": [{"id": MODEL}]})

    async def show_metrics(self, request: web.Request) -> web.Response:
        return web.Response(text=self.metrics, status=200 if self.metrics else 404)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        number = len(self.bodies)
        self.bodies.append(body)
        prompt = body["messages"][-1]["content"]
        if not isinstance(prompt, str):
            prompt = json.dumps(prompt)
        self.asked[prompt] += 1
        number_of_prompt = self.asked[prompt]  # while this one waits, others of the same prompt may come
        if number in self.faults:
            return await self.faults[number](request)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.under_way -= 1
        # A seed makes the answer depend on the request alone.
        seed = body.get("seed")
        sample = str(number_of_prompt if seed is None else seed)
        # A model does not say the same again because its server was started anew.
        is_sampled = seed is None and self.answer is answer
        text = self.answer(prompt, f"{self._number}.{sample}" if is_sampled else sample)
        usage: Any = {"prompt_tokens": len(prompt) // 4, "completion_tokens": len(text) // 4}
        if self.usages:
            usage = self.usages[number % len(self.usages)]
        return web.json_response(
            {
                "choices": [{"index": 0, "message": {"content": text}, "finish_reason": "stop"}],
                "usage": usage,
            }
        )

    async def embeddings(self, request: web.Request) -> web.Response:
        body = await request.json()
        if self.api_key and request.headers.get("Authorization") != f"Bearer {self.api_key}":
            return web.json_response({"error": {"message": f"bad key: {request.headers}"}}, status=401)
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        self.embedded += texts
        data = [{"object": "embedding", "index": n, "embedding": self.embed(text)} for n, text in enumerate(texts)]
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        return web.json_response({"object": "list", "model": MODEL, "data": data, "usage": usage})


@asynccontextmanager
async def serve(endpoint: Endpoint, port: int = 0) -> AsyncIterator[Endpoint]:
    """Run the server on a port, 0 for a free one; its base URL is `endpoint.url`."""
    app = web.Application(client_max_size=10**8)
    app.router.add_get("/v1/models", endpoint.models)
    app.router.add_get("/metrics", endpoint.show_metrics)
    app.router.add_post("/v1/embeddings", endpoint.embeddings)
    app.router.add_post("/v1/chat/completions", endpoint.chat)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    assert site._server is not None
    endpoint.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/v1"
    try:
        yield endpoint
    finally:
        await runner.cleanup()


async def status(code: int, headers: dict[str, str] | None = None) -> web.Response:
    """A response with an error status."""
    return web.json_response({"error": {"message": f"fault {code}"}}, status=code, headers=headers)


@contextmanager
def in_thread(endpoint: Endpoint, port: int = 0) -> Iterator[Endpoint]:
    """Run the server in a thread of its own, for callers that block and for clients that are killed."""
    started, stop = threading.Event(), asyncio.Event()

    async def run() -> None:
        async with serve(endpoint, port):
            started.set()
            await stop.wait()

    # It cancels, at the end, what is still being answered to clients that were killed.
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        thread = threading.Thread(target=runner.run, args=(run(),))
        thread.start()
        started.wait()
        try:
            yield endpoint
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join()


@contextmanager
def serve_in_thread(reply: Callable[[str, str], str], api_key: str | None = None) -> Iterator[Endpoint]:
    """Run the server in a thread, with a model that replies `reply(prompt, count)`."""
    endpoint = Endpoint(api_key)
    endpoint.answer = reply
    with in_thread(endpoint):
        yield endpoint
