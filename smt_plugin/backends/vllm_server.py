"""Start `vllm serve` for a run, here or on a Ray cluster, replace servers that end, and stop them again."""

import asyncio
import json
import logging
import math
import os
import secrets
import shutil
import time
from pathlib import Path
from typing import Any, Protocol

from smt_plugin.backends.base import cancel_all, together
from smt_plugin.backends.endpoint import OpenAIBackend
from smt_plugin.backends.server_process import STOP_SECONDS, ServerProcess, free_port, tail
from smt_plugin.errors import BadInput
from smt_plugin.files import make_folder, private

log = logging.getLogger(__name__)
# Settings that published measurements found fastest, by a part of the model's name. Qwen3 30B-A3B: 5,310 output
# tokens/s per H100, against 2,977 with vLLM's defaults (datatrove's inference benchmark, vLLM 0.15). A 70B in bf16
# is 141 GB: on four 80 GB GPUs there is room for the documents in the cache (arithmetic, not a measurement).
TUNED: dict[str, dict[str, int]] = {
    "Qwen3-30B-A3B": {"tensor-parallel-size": 2, "max-num-seqs": 512, "max-num-batched-tokens": 32768},
    "Llama-3.1-70B": {"tensor-parallel-size": 4},
    "Llama-3.3-70B": {"tensor-parallel-size": 4},
}
# A server that fails to get healthy, or ends within a minute of that, this many times in a row is given up.
MOST_SHORT_LIVES = 3
_STEADY_SECONDS = 60.0
_LOOK_EVERY_SECONDS = 1.0
_SAY_EVERY_SECONDS = 15.0
# Options that the backend sets itself, and what to do instead.
_RESERVED = {
    "host": "the backend chooses the address",
    "port": "the backend chooses the address",
    "api-key": "each run makes its own key, and on a command line everybody could read it",
}


class Replica(Protocol):
    """One server, which can be started again after it ended."""

    async def start(self) -> str:
        """Start it, stopping what is left of the one before; return its base URL, without waiting until it answers.

        Raises:
            BadInput: the program is not there.
            RuntimeError: there is no place for it.
        """

    async def ended(self) -> str | None:
        """Return None while the server runs, and afterwards why it does not, with the end of its log."""

    async def stop(self) -> None:
        """End it with everything it started."""


class VLLMBackend(OpenAIBackend):
    """One `vllm serve` a replica, each with its own GPUs and endpoint, started again when it ends.

    Where a server has data-parallel ranks, requests name theirs (see OpenAIBackend): vLLM itself does not know
    which rank has a document in its prefix cache. The servers take only requests with the run's own key, a random
    one that they get through the environment.

    Args:
        command: what starts a server, up to the model's name, e.g. `["vllm", "serve"]`; the program may lie in
            another environment.
        arguments: options of `vllm serve` without dashes, which override the tuned ones; True and False stand for a
            flag and its `--no-`, a mapping for JSON.
        log_folder: gets `vllm-<n>.log`.
        startup_timeout: seconds until every replica must be healthy; on Ray, also until it must have a place.
        ray: address of the Ray cluster that places the replicas (see ray_servers.py), or None for this machine.
        resources: what one replica needs from Ray, e.g. `{"GPU": 4}`; default: a GPU for each of its ranks.

    Raises:
        BadInput: an argument that the backend has to set itself, or a parallel size that is not a number.
    """

    _own_servers = True

    def __init__(
        self,
        model: str,
        command: list[str],
        replicas: int,
        arguments: dict[str, Any],
        log_folder: Path,
        startup_timeout: float = 1800.0,
        ray: str | None = None,
        resources: dict[str, float] | None = None,
        **options: Any,
    ) -> None:
        self._run_key = secrets.token_hex(16)
        # The endpoints' addresses are known once the servers are placed.
        super().__init__(["http://127.0.0.1:0/v1"] * replicas, model, api_key=self._run_key, **options)
        self._num_replicas = replicas
        self._command = command
        self._arguments = {**tuned(model), **{name.replace("_", "-"): value for name, value in arguments.items()}}
        for name in _RESERVED.keys() & self._arguments.keys():
            raise BadInput(f"backend.arguments: remove {name}: {_RESERVED[name]}.")
        self._gpus_each = math.prod(map(self._parallel, ("tensor", "pipeline", "data")))
        self._log_folder = log_folder
        self._startup_timeout = startup_timeout
        self._ray = ray
        self._resources = resources
        self._replicas: list[Replica] = []
        self._supervisors: list[asyncio.Task[None]] = []
        self._num_given_up = 0
        self._must_disconnect = False

    @property
    def first_address(self) -> tuple[str, str]:
        """The base URL of the first server, once it is started, and the key that it wants."""
        return self._endpoints[0].url, self._run_key

    async def start(self) -> None:
        """Start the servers and wait for them.

        Raises:
            BadInput: the program, the GPUs or the Ray cluster are not there.
            RuntimeError: a server ended, or was not healthy in time; the end of its log is in the message.
        """
        self._replicas = self._on_ray(self._ray) if self._ray else self._on_this_machine()
        urls = await together(self._bring_up(number) for number in range(len(self._replicas)))
        for number, url in enumerate(urls):
            self.revive(number, f"{url}/v1")
        await super().start()
        self._supervisors = [asyncio.create_task(self._keep_up(number)) for number in range(len(urls))]

    def _on_this_machine(self) -> list[Replica]:
        if shutil.which(self._command[0]) is None:
            raise BadInput(
                f"backend.command: {self._command[0]} is not found; install vLLM in an environment of its own and "
                "give the path of its `vllm`."
            )
        devices = gpus_of_replicas(self._num_replicas, self._gpus_each)
        return [
            _LocalReplica(self._command_line, self._run_key, gpus, self._log(number))
            for number, gpus in enumerate(devices)
        ]

    def _on_ray(self, address: str) -> list[Replica]:
        from smt_plugin.backends.ray_servers import RayReplica, connect

        resources = self._resources or {"GPU": self._gpus_each}
        self._must_disconnect = connect(address, self._num_replicas, resources)
        return [
            RayReplica(number, self._command_line, self._run_key, resources, self._log(number), self._startup_timeout)
            for number in range(self._num_replicas)
        ]

    def _parallel(self, kind: str) -> int:
        name = f"{kind}-parallel-size"
        size = str(self._arguments.get(name, 1))
        if not (size.isdecimal() and int(size) > 0):
            raise BadInput(f"backend.arguments.{name}: {size!r} is no number of GPUs; fix it.")
        return int(size)

    @property
    def _command_line(self) -> list[str]:
        line = [*self._command, self.model]
        for name, value in self._arguments.items():
            if isinstance(value, bool):
                line.append(f"--{name}" if value else f"--no-{name}")
            elif isinstance(value, list):
                line += [f"--{name}", *map(str, value)]
            else:
                line += [f"--{name}", json.dumps(value) if isinstance(value, dict) else str(value)]
        return line

    def _log(self, number: int) -> Path:
        """Return the file of a replica's log, emptied."""
        make_folder(self._log_folder)
        path = self._log_folder / f"vllm-{number}.log"
        open(path, "wb", opener=private).close()
        return path

    async def _bring_up(self, number: int) -> str:
        """Start a server, wait until it is healthy and return its base URL."""
        import aiohttp

        replica = self._replicas[number]
        url = await replica.start()
        started = said = time.monotonic()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            while True:
                reason = await replica.ended()
                if reason is not None:
                    raise RuntimeError(f"before it was healthy, {reason}")
                try:
                    async with session.get(f"{url}/health", allow_redirects=False) as response:
                        if response.status == 200:
                            return url
                except (aiohttp.ClientError, TimeoutError):
                    pass
                now = time.monotonic()
                if now - started > self._startup_timeout:
                    log_path = self._log_folder / f"vllm-{number}.log"
                    raise RuntimeError(f"vLLM was not healthy at {url} after {now - started:.0f} s; {tail(log_path)}")
                if now - said > _SAY_EVERY_SECONDS:
                    said = now
                    log.warning("waiting for vLLM %d at %s, %.0f s so far", number, url, now - started)
                await asyncio.sleep(0.5)

    async def _keep_up(self, number: int) -> None:
        try:
            await self._supervise(number)
        except Exception as error:  # whatever it is, no request may wait for ever
            self.give_up(f"vLLM {number} is supervised no more: {error}")

    async def _supervise(self, number: int) -> None:
        """Start a server again whenever it ends, until it ends too often in a row to be worth it."""
        replica = self._replicas[number]
        short_lives = 0
        while True:
            since = time.monotonic()
            while (reason := await replica.ended()) is None:
                await asyncio.sleep(_LOOK_EVERY_SECONDS)
            self.rest(number)
            short_lives = short_lives + 1 if time.monotonic() - since < _STEADY_SECONDS else 0
            url = None
            while url is None:
                if short_lives >= MOST_SHORT_LIVES:
                    await replica.stop()
                    self._give_up_replica(number, reason)
                    return
                log.warning("vLLM %d is started again: %s", number, reason)
                try:
                    url = await self._bring_up(number)
                except (BadInput, RuntimeError, OSError) as error:
                    reason = str(error)
                    short_lives += 1
            log.warning("vLLM %d is healthy again at %s", number, url)
            self.revive(number, f"{url}/v1")

    def _give_up_replica(self, number: int, reason: str) -> None:
        self._num_given_up += 1
        sentence = (
            f"vLLM {number} ended {MOST_SHORT_LIVES} times in a row without staying healthy, the last time: {reason}"
        )
        left = len(self._replicas) - self._num_given_up
        if left:
            log.warning("%s. Going on with the other %d.", sentence, left)
        else:
            self.give_up(sentence)

    async def close(self) -> None:
        """Close the connections and stop the servers with everything they started."""
        await cancel_all(self._supervisors)
        await super().close()
        await asyncio.gather(*(replica.stop() for replica in self._replicas))
        self._replicas = []
        if self._must_disconnect:
            from smt_plugin.backends.ray_servers import disconnect

            disconnect()


class _LocalReplica:
    """A server on this machine; `gpus` is its CUDA_VISIBLE_DEVICES, or None for the environment's own."""

    def __init__(self, command_line: list[str], api_key: str, gpus: str | None, log_path: Path) -> None:
        self._command_line = command_line
        self._environment = os.environ | {"VLLM_API_KEY": api_key}
        if gpus is not None:
            self._environment["CUDA_VISIBLE_DEVICES"] = gpus
        self._log = log_path
        self.process: ServerProcess | None = None

    async def start(self) -> str:
        await self.stop()
        port = free_port("127.0.0.1")
        command = [*self._command_line, "--host", "127.0.0.1", "--port", str(port)]
        log.warning("starting %s (log: %s)", " ".join(command), self._log)
        self.process = ServerProcess(command, self._environment, self._log)
        return f"http://127.0.0.1:{port}"

    async def ended(self) -> str | None:
        status = self.process.status() if self.process else None
        return None if status is None else f"vLLM ended with status {status}; {tail(self._log)}"

    async def stop(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            await asyncio.to_thread(process.stop, STOP_SECONDS)


def tuned(model: str) -> dict[str, int]:
    """Return the measured settings for a model, or none where nothing is known of it."""
    return next((dict(settings) for part, settings in TUNED.items() if part in model), {})


def gpus_of_replicas(replicas: int, gpus_each: int) -> list[str | None]:
    """Return CUDA_VISIBLE_DEVICES for each replica; one replica keeps the environment's own.

    Raises:
        BadInput: CUDA_VISIBLE_DEVICES names fewer GPUs than the replicas need.
    """
    if replicas == 1:
        return [None]
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = named.split(",") if named else [str(n) for n in range(replicas * gpus_each)]
    if len(devices) < replicas * gpus_each:
        raise BadInput(
            f"backend.replicas: {replicas} replicas of {gpus_each} GPUs need {replicas * gpus_each}, but "
            f"CUDA_VISIBLE_DEVICES names {len(devices)}."
        )
    return [",".join(devices[n * gpus_each : (n + 1) * gpus_each]) for n in range(replicas)]
