"""A relay between lm-eval and a model's server: one request that fails loses no arm, and no answer is paid for twice.

lm-eval ends where a single request has failed a few times, and keeps nothing of what was answered before.
"""

import asyncio
import logging
import os
import secrets
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from smt_plugin.backends.base import BackendDown, Refused, Request
from smt_plugin.backends.endpoint import OpenAIBackend
from smt_plugin.errors import BadInput
from smt_plugin.evaluation.arms import Arm
from smt_plugin.files import content_hash, make_file

log = logging.getLogger(__name__)
_PATH = "/chat/completions"
# Of lm-eval's model: what it needs to reach a server, and our client does not know.
_NOT_OURS = ("verify_certificate", "ca_cert_path", "auth_token", "header")
_PATIENCE = 600.0  # seconds without any answer
_LARGEST = 2**28  # bytes of a request: whole documents


@contextmanager
def relayed(arm: Arm, environment: dict[str, str]) -> Iterator[Arm]:
    """Give an arm that asks a chat server a relay to it, for as long as the block runs; other arms stay as they are.

    Requests are retried, shaped and read as in generation. One that is given up is answered with an empty text, which
    counts as unparsed. Answers are kept beside the arm's folder until `forget`.

    Args:
        environment: of its command; proxies are told to leave the relay alone, and the key in it is the relay's own,
            so that nobody else on this machine can ask at our cost.

    Raises:
        BadInput: the server cannot be reached, or refuses the key.
        BackendDown: when the block ends, where the server stopped answering.
    """
    arguments = arm.model_arguments
    address = str(arguments.get("base_url", ""))
    if arm.settings.model != "local-chat-completions" or not address.endswith(_PATH) or set(_NOT_OURS) & set(arguments):
        yield arm
        return
    relay = _Relay(arm, address.removesuffix(_PATH))
    with relay.running() as url:
        for name in ("NO_PROXY", "no_proxy"):
            environment[name] = ",".join(filter(None, [environment.get(name), "127.0.0.1"]))
        environment["OPENAI_API_KEY"] = relay.key
        asked = arm.settings.model_args.replace(f"base_url={address}", f"base_url={url}{_PATH}")
        yield replace(arm, settings=arm.settings.model_copy(update={"model_args": asked}))
    for reason, count in relay.failed.most_common():
        log.warning("arm %s: %s requests were given up: %s", arm.name, count, reason)
    if relay.error is not None:
        raise relay.error


def forget(arm: Arm) -> None:
    """Take away the answers that were kept of an arm, which is done."""
    for path in _kept_in(arm).parent.glob(f"{_kept_in(arm).name}*"):
        path.unlink()


def _kept_in(arm: Arm) -> Path:
    return arm.folder.with_name(f".{arm.folder.name}.answers.sqlite")


class _Relay:
    """A server of this machine that answers as the model's does.

    Attributes:
        key: without it nothing is answered.
        failed: reason -> requests that were given up.
        error: why none is answered any more.
    """

    def __init__(self, arm: Arm, endpoint: str) -> None:
        key = os.environ.get("OPENAI_API_KEY") or None
        # lm_eval asks for `model`, where that is given, and not for `pretrained`.
        model = str(arm.model_arguments.get("model") or arm.model)
        self._backend = OpenAIBackend([endpoint], model, key, patience=_PATIENCE)
        self.key = secrets.token_hex(16)
        self._stamp = arm.stamp()
        self._path = _kept_in(arm)
        # How often the same request has come: its samples.
        self._asked: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.error: BadInput | BackendDown | None = None

    @contextmanager
    def running(self) -> Iterator[str]:
        """Serve in another thread, and give the base URL."""
        url: list[str] = []
        started = threading.Event()
        with asyncio.Runner() as runner:
            loop, stop = runner.get_loop(), asyncio.Event()

            async def serve() -> None:
                try:
                    await self._backend.start()
                    make_file(self._path)
                    with closing(sqlite3.connect(self._path, isolation_level=None)) as self._kept:
                        self._kept.execute(
                            "CREATE TABLE IF NOT EXISTS answers (key TEXT, sample INTEGER, body BLOB, "
                            "PRIMARY KEY (key, sample))"
                        )
                        await self._serve(url, started, stop)
                except BadInput as error:
                    self.error = error
                finally:
                    await self._backend.close()
                    started.set()

            thread = threading.Thread(target=runner.run, args=(serve(),))
            thread.start()
            started.wait()
            try:
                if self.error is not None:
                    raise self.error
                yield url[0]
            finally:
                loop.call_soon_threadsafe(stop.set)
                thread.join()

    async def _serve(self, url: list[str], started: threading.Event, stop: asyncio.Event) -> None:
        app = web.Application(client_max_size=_LARGEST)
        app.router.add_post(_PATH, self._chat)
        server = web.AppRunner(app, shutdown_timeout=0.1)
        await server.setup()
        site = web.TCPSite(server, "127.0.0.1", 0)
        await site.start()
        url.append(f"http://127.0.0.1:{server.addresses[0][1]}")
        started.set()
        try:
            await stop.wait()
        finally:
            await server.cleanup()

    async def _chat(self, request: web.Request) -> web.Response:
        if not secrets.compare_digest(request.headers.get("Authorization", "").encode(), f"Bearer {self.key}".encode()):
            raise web.HTTPUnauthorized
        body: dict[str, Any] = orjson.loads(await request.read())
        key = content_hash([[self._stamp, body]])[:32]
        sample = self._asked[key]
        self._asked[key] += 1
        row = self._kept.execute("SELECT body FROM answers WHERE key = ? AND sample = ?", (key, sample)).fetchone()
        if row is not None:
            return web.Response(body=row[0], content_type="application/json")
        # A server may take no null for a field that is not set.
        sampling = {k: v for k, v in body.items() if k not in ("model", "messages") and v is not None}
        try:
            reply = await self._backend.complete(Request(body["messages"], sampling, sample, None, key))
        except Refused as error:
            self.failed[str(error)] += 1
            return web.json_response(_completion("", "refused"))
        except (BackendDown, BadInput) as error:
            self.error = error
            return web.json_response({"error": {"message": str(error)}}, status=503)
        answer = orjson.dumps(_completion(reply.text, reply.finish_reason))
        self._kept.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", (key, sample, answer))
        return web.Response(body=answer, content_type="application/json")


def _completion(text: str, finish_reason: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}]}
