"""A server of several data-parallel ranks, each with a prefix cache of its own."""

import asyncio
import re
import urllib.request
from pathlib import Path

import pytest

from smt_plugin.backends.base import Reply, Request
from smt_plugin.backends.vllm_server import VLLMBackend
from tests.vllm_server.server import ARGUMENTS, VLLM_SERVE

pytestmark = pytest.mark.vllm

DOCUMENTS = [
    "".join(f"In the year {1800 + year} parish {n} had {year * 17 + n * 100} people.\n" for year in range(100))
    for n in range(6)
]


def test_a_documents_requests_all_go_to_one_rank_and_find_it_cached(
    model_folder: Path, vllm_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in vllm_environment.items():
        monkeypatch.setenv(name, value)

    async def run() -> tuple[list[list[Reply]], str]:
        arguments = {**ARGUMENTS, "data-parallel-size": 2}
        backend = VLLMBackend(str(model_folder), VLLM_SERVE, 1, arguments, tmp_path, max_concurrency=32)
        try:
            await backend.start()
            rounds = []
            for question in ("What?", "When?", "Who?", "Where?"):
                asked = [
                    Request([{"role": "user", "content": text + question}], {"max_tokens": 8}, 0, None, text)
                    for text in DOCUMENTS
                ]
                rounds.append(list(await asyncio.gather(*map(backend.complete, asked))))
            address = backend.first_address[0].removesuffix("/v1")
            with urllib.request.urlopen(f"{address}/metrics") as response:
                return rounds, response.read().decode()
        finally:
            await backend.close()

    (first, *others), metrics = asyncio.run(run())
    read = sum(reply.prompt_tokens for reply in first)
    assert all(reply.cached_tokens < 300 for reply in first)
    assert all(reply.cached_tokens > 0.8 * reply.prompt_tokens for later in others for reply in later)
    looked_up = re.findall(r'^vllm:prefix_cache_queries_total\{engine="(\d)".*\} (\S+)$', metrics, re.MULTILINE)
    assert [engine for engine, _ in looked_up] == ["0", "1"]
    # Half of the documents each.
    assert [float(tokens) for _, tokens in looked_up] == pytest.approx([2 * read, 2 * read], rel=0.01)
