"""Stands in for `vllm serve` where a test needs it to fail: serves the local endpoint, or breaks as told.

Like vLLM it takes its key from VLLM_API_KEY, has an engine in a process of its own that a killed server leaves
behind, and gets slow (`--seconds`) or cut off at any moment. Its answers depend on the request alone, so that every
replica gives the same.
"""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.endpoint import MODEL, Endpoint, answer


class Deterministic(Endpoint):
    """Answers by prompt and seed."""

    async def chat(self, request: web.Request) -> web.StreamResponse:
        refused = await self.models(request)
        if refused.status != 200:
            return refused
        body: dict[str, Any] = await request.json()
        await asyncio.sleep(self.seconds)
        print("answered", flush=True)
        text = answer(body["messages"][-1]["content"], str(body.get("seed")))
        reply = {"message": {"content": text}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 10, "completion_tokens": len(text) // 4}
        return web.json_response({"choices": [reply], "usage": usage})


async def health(request: web.Request) -> web.Response:
    return web.Response()


async def main(host: str, port: int, seconds: float) -> None:
    endpoint = Deterministic(os.environ["VLLM_API_KEY"])
    endpoint.seconds = seconds
    app = web.Application()
    app.router.add_get("/v1/models", endpoint.models)
    app.router.add_post("/v1/chat/completions", endpoint.chat)
    app.router.add_get("/health", health)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    print("Application startup complete", flush=True)
    await asyncio.sleep(3600)


def option(name: str, default: str) -> str:
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default


print("fake vLLM", sys.argv[1:], "GPUs", os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
assert sys.argv[1] == MODEL
if "--break" in sys.argv:
    sys.exit("CUDA out of memory, or so")
if "--hang" in sys.argv:
    time.sleep(3600)
if "--once" in sys.argv:
    # The folder holds a file for each replica that was started, of two.
    starts = Path(option("--once", ""))
    if len(list(starts.glob("start-*"))) == 2:
        sys.exit("started before")
    (starts / f"start-{os.getpid()}").touch()
engine = subprocess.Popen(["sh", "-c", "sleep 3600; :", "engine", *sys.argv[1:]])
asyncio.run(main(option("--host", ""), int(option("--port", "")), float(option("--seconds", "0"))))
