"""Fifty runs killed at random moments against a server that misbehaves: nothing is lost and nothing paid twice."""

import asyncio
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from smt_plugin.backends.refusals import TINY_PROMPT
from smt_plugin.generation.completions import Completion, CompletionStore
from tests.endpoint import MODEL, Endpoint, answer, in_thread

ROOT = Path(__file__).parents[2]
KILLS = 50
CONCURRENCY = 16
TOKENS = {"synthetic_qa": 90_000, "active_reading": 60_000, "focal_rewrite": 60_000}


class Misbehaving(Endpoint):
    """Answers by content, so that every run gets the same; one request in eight meets a fault instead.

    `log` holds the mark of every request, `paid` of those that were worked on, `abandoned` of those whose client
    had gone when the answer was ready.
    """

    def __init__(self, faulty: bool) -> None:
        super().__init__()
        self.rng = random.Random(0)
        self.faulty = faulty
        self.log: list[str] = []
        self.paid: list[str] = []
        self.abandoned: Counter[str] = Counter()

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        prompt = body["messages"][-1]["content"]
        if prompt == TINY_PROMPT:  # no completion, but a question whether the server is well
            return web.json_response({"choices": [{"message": {"content": "Yes"}, "finish_reason": "stop"}]})
        mark = hashlib.sha256(orjson.dumps([body["messages"], body["seed"]])).hexdigest()[:16]
        self.log.append(mark)
        if self.faulty and self.rng.random() < 1 / 8:
            fault = self.rng.randrange(5)
            if fault == 0:
                return web.Response(status=429, headers={"Retry-After": "0.02"})
            if fault == 1:
                return web.Response(status=500)
            if fault == 2:
                await asyncio.sleep(30)
            if fault == 3:
                assert request.transport is not None
                request.transport.close()
                return web.Response()
            return web.Response(text="<html>")
        # Nobody pays for a refusal, which may come twice: with a JSON schema and without.
        if int(mark, 16) % 40 == 1:
            return web.Response(status=400, text=f"never {mark}")
        self.paid.append(mark)
        if self.faulty:
            await asyncio.sleep(self.rng.uniform(0.02, 0.1))
            self.abandoned[mark] += request.transport is None or request.transport.is_closing()
        text = (
            f"I will not. {mark}"
            if int(mark, 16) % 20 == 0
            else answer(prompt, mark).replace("What is", f"What {mark}")
        )
        text = (
            text
            if mark in text
            else text.replace("A text about", f"A text {mark} about").replace("List", f"List {mark}")
        )
        reply = {"message": {"content": text}, "finish_reason": "stop"}
        return web.json_response(
            {"choices": [reply], "usage": {"prompt_tokens": 10, "completion_tokens": len(text) // 4}}
        )


def start(folder: Path, url: str, scale: float) -> "subprocess.Popen[bytes]":
    run_file = {
        "run": "run",
        "corpus": str(folder.parent / "corpus"),
        "backend": {"endpoints": [url], "model": MODEL, "max_concurrency": CONCURRENCY, "timeout": 1.0},
        "methods": {name: {"tokens": int(tokens * scale), "seed": 1} for name, tokens in TOKENS.items()},
    }
    folder.mkdir(exist_ok=True)
    (folder / "smt.yaml").write_text(json.dumps(run_file))
    return subprocess.Popen(
        [sys.executable, "-m", "smt_plugin", "generate", "smt.yaml"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def finish(process: "subprocess.Popen[bytes]") -> None:
    _, errors = process.communicate()
    # The server refuses some prompts, which is told.
    assert process.returncode == 1, errors[-2000:].decode()
    assert b"ask them again with the same command and --retry-failed" in errors


def stored(run: Path) -> dict[str, Completion]:
    """The durable completions by the server's mark, which stands in the text or in the words of a refusal."""
    if not (run / "completions.sqlite").is_file():
        return {}
    store = CompletionStore(run)
    try:
        completions = list(store.all())
    finally:
        asyncio.run(store.close())
    found = {re.findall(r"\b[0-9a-f]{16}\b", each.reply.text or each.reason)[0]: each for each in completions}
    assert len(found) == len(completions), "an answer was stored twice"
    return found


def records(run: Path) -> set[str]:
    rows: list[dict[str, Any]] = []
    for path in sorted((run / "records").glob("*.jsonl")):
        rows += [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == len({row["id"] for row in rows})
    return {json.dumps(row, sort_keys=True) for row in rows}


@pytest.mark.slow
def test_fifty_killed_runs_lose_nothing_and_pay_nothing_durable_twice(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    for n in range(12):
        (tmp_path / "corpus" / f"story {n}.txt").write_text(f"Story {n} tells of {n}. " * (20 + 10 * n))
    rng = random.Random(1)
    run = tmp_path / "killed" / "run"
    with in_thread(Misbehaving(faulty=True)) as server:
        assert isinstance(server, Misbehaving)
        durable_at: list[tuple[int, set[str]]] = []
        lost: Counter[str] = Counter()
        kills = 0
        scale = 1.0
        while kills < KILLS:
            paid_before, abandoned_before, gave_up = len(server.paid), server.abandoned.copy(), set[str]()
            process = start(tmp_path / "killed", server.url, scale)
            # Half of them at any moment, half while requests are in flight, however slow the machine is to start.
            if rng.random() < 0.5:
                requests_before = len(server.log)
                while len(server.log) == requests_before and process.poll() is None:
                    time.sleep(0.005)
            try:
                process.wait(timeout=rng.uniform(0, 1.6))
            except subprocess.TimeoutExpired:
                gave_up = set(server.abandoned - abandoned_before)
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
            assert process.stderr is not None
            process.stderr.close()
            assert process.returncode in (1, -signal.SIGKILL)
            if process.returncode == 1:
                # A fast machine got through before fifty kills: there has to be more to do.
                scale *= 1.3
            durable = set(stored(run))
            durable_at.append((len(server.log), durable))
            lost_now = set(server.paid[paid_before:]) - durable
            # In flight are those whose answer is under way or not on the disk yet.
            assert len(lost_now - gave_up) <= CONCURRENCY
            lost.update(lost_now)
        assert durable_at[-1][1], "nothing was ever stored"
        finish(start(tmp_path / "killed", server.url, scale))
        for position, durable in durable_at:
            assert not durable & set(server.log[position:])
        # Paid again is only what was in flight when its client was killed or gave up waiting.
        for mark, count in Counter(server.paid).items():
            assert count - 1 <= lost[mark] + server.abandoned[mark]
        assert sum(count - 1 for count in Counter(server.paid).values()) <= (KILLS + 1) * CONCURRENCY
    with in_thread(Misbehaving(faulty=False)) as server:
        finish(start(tmp_path / "calm", server.url, scale))
    assert records(run) == records(tmp_path / "calm" / "run")
    killed, calm = stored(run), stored(tmp_path / "calm" / "run")
    assert {completion.status for completion in killed.values()} == {"done", "rejected", "refused"}
    # Rounds asked ahead differ, but not what any of them was answered.
    for mark in killed.keys() & calm.keys():
        assert (killed[mark].key, killed[mark].reply) == (calm[mark].key, calm[mark].reply)
