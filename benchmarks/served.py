"""Real documents and one vLLM server for the benchmarks of generation: starting, asking, and asking again.

The server is vLLM's CPU build with the tiny Llama of tests/vllm_server, made on the spot.
"""

import asyncio
import json
import sqlite3
import subprocess
import sys
import time
import urllib.request
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp

from smt_plugin.corpus import read_documents
from smt_plugin.errors import BadInput
from smt_plugin.generation.completions import CompletionStore
from smt_plugin.prompts import Prompts
from tests.vllm_server.markov_llama import make_markov_llama
from tests.vllm_server.server import ARGUMENTS, VLLM, Server, ServerFailed, running_server, vllm_environment


@dataclass(frozen=True, slots=True)
class Call:
    """A completion as it was asked for, and the server's counts of its tokens."""

    doc_id: str
    messages: list[dict[str, str]]
    sampling: dict[str, Any]
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Served:
    """A running server, the documents to ask about, and the folder in which all happens."""

    folder: Path
    model: Path
    corpus: Path
    num_documents: int
    server: Server
    environment: dict[str, str]

    def smt_generate(self, name: str, methods: dict[str, Any], concurrency: int) -> float:
        """Run the command in a new run folder `name`; return the seconds from its process's start to its end."""
        server = self.server
        content: dict[str, Any] = {
            "run": name,
            "corpus": str(self.corpus),
            "backend": {
                "endpoints": [server.url],
                "model": server.model,
                "api_key_variable": "SMT_BENCHMARK_KEY",
                "max_concurrency": concurrency,
            },
            "methods": methods,
        }
        (self.folder / f"{name}.yaml").write_text(json.dumps(content))  # JSON is YAML
        return self.run(
            [sys.executable, "-m", "smt_plugin", "generate", f"{name}.yaml"], {"SMT_BENCHMARK_KEY": server.api_key}
        )

    def run(self, command: list[str], environment: dict[str, str]) -> float:
        """Run a command, with some more environment variables; return its seconds."""
        started = time.perf_counter()
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment | environment, capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - started
        if done.returncode:
            raise BadInput(f"{' '.join(command[:4])} failed: {(done.stdout + done.stderr)[-2000:]}")
        return seconds

    def empty_cache(self) -> None:
        """Empty the server's prefix cache."""
        request = urllib.request.Request(self.server.root + "/reset_prefix_cache", method="POST")
        request.add_header("Authorization", f"Bearer {self.server.api_key}")
        with urllib.request.urlopen(request, timeout=60) as response:
            assert json.load(response) == {"success": True}, "the prefix cache was not emptied"

    def calls(self, name: str) -> list[Call]:
        """Return the calls of the run `name`, in the order in which they were asked for."""
        documents = {document.id: document for document in read_documents(self.corpus)}
        prompts = Prompts()
        calls = {}
        store = CompletionStore(self.folder / name)
        try:
            for completion in store.all():
                document = documents[completion.doc_id]
                messages = prompts.messages(
                    completion.prompt,
                    identity=document.identity,
                    document=document.text.strip(),
                    **completion.variables,
                )
                reply = completion.reply
                counts = (reply.prompt_tokens, reply.cached_tokens, reply.completion_tokens)
                calls[completion.key] = Call(document.id, messages, completion.sampling, *counts)
        finally:
            asyncio.run(store.close())
        with closing(sqlite3.connect(store.path)) as connection:
            order = connection.execute("SELECT hex(key) FROM completions ORDER BY created - seconds").fetchall()
        return [calls[key.lower()] for (key,) in order]

    def replay(self, calls: list[Call], concurrency: int) -> tuple[list[Call], float]:
        """Send calls again in their order, with the lengths they had: nothing kept, nothing checked, no retries.

        Returns the calls with the new counts, and the seconds from the first request to the last answer.
        """
        return asyncio.run(_replay(self.server, calls, concurrency))


async def _replay(server: Server, calls: list[Call], concurrency: int) -> tuple[list[Call], float]:
    places = asyncio.Semaphore(concurrency)

    async def send(call: Call, session: aiohttp.ClientSession) -> Call:
        sampling = call.sampling | fixed_length(call.completion_tokens)
        body = {"model": server.model, "messages": call.messages, **sampling}
        async with places, session.post(f"{server.url}/chat/completions", json=body) as response:
            response.raise_for_status()
            usage = (await response.json())["usage"]
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        return Call(
            call.doc_id, call.messages, call.sampling, usage["prompt_tokens"], cached, usage["completion_tokens"]
        )

    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    headers = {"Authorization": f"Bearer {server.api_key}"}
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as session:
        started = time.perf_counter()
        answered = await asyncio.gather(*(send(call, session) for call in calls))
        return answered, time.perf_counter() - started


def fixed_length(tokens: int) -> dict[str, Any]:
    """Return the sampling parameters under which vLLM writes exactly so many tokens."""
    return {"max_tokens": tokens, "min_tokens": tokens, "ignore_eos": True}


def add_arguments(parser: ArgumentParser, documents: int, concurrency: int) -> None:
    """Add the arguments that all benchmarks with a server have, with their defaults."""
    parser.add_argument("--corpus", type=Path, required=True, help="documents, as `corpus:` of a run file takes them")
    parser.add_argument("--documents", type=int, default=documents, help=f"how many of them (default {documents})")
    parser.add_argument(
        "--concurrency", type=int, default=concurrency, help=f"requests in flight at most (default {concurrency})"
    )


@contextmanager
def serve(corpus: Path, documents: int, arguments: dict[str, Any]) -> Iterator[Served]:
    """Start a server for the first documents of a corpus, and end the program with one sentence where that fails.

    Args:
        arguments: options of `vllm serve`, without dashes, beside those of the tests.
    """
    if not Path(VLLM).is_file():
        sys.exit(f"there is no vLLM beside {sys.executable}; run `make .venv-vllm/ready` and use that Python.")
    try:
        chosen = list(islice(read_documents(corpus), documents))
        with TemporaryDirectory() as name:
            folder = Path(name)
            with (folder / "documents.jsonl").open("w", encoding="utf-8") as file:
                for document in chosen:
                    row = {"doc_id": document.id, "title": document.title, "text": document.text}
                    file.write(json.dumps(row | {"meta": document.meta}) + "\n")
            # The development mode has the route that empties the cache.
            environment = vllm_environment(folder / "vllm") | {"VLLM_SERVER_DEV_MODE": "1"}
            model = make_markov_llama(folder / "model", layers=1)
            with running_server(model, environment, folder / "server.log", ARGUMENTS | arguments) as server:
                yield Served(folder, model, folder / "documents.jsonl", len(chosen), server, environment)
    except (BadInput, ServerFailed) as error:
        sys.exit(str(error))
