"""Servers that Ray places on the nodes of a cluster, each owned by an actor."""

import asyncio
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smt_plugin.backends import server_process
from smt_plugin.backends.server_process import STOP_SECONDS, ServerProcess, free_port, tail
from smt_plugin.errors import BadInput, first_line, require

log = logging.getLogger(__name__)
_CONNECT_SECONDS = 10.0
_CALL_SECONDS = 20.0
_SAY_EVERY_SECONDS = 15.0
_CHUNK_BYTES = 1 << 20
# No objects go through Ray's store; by default it would take a third of the memory.
_OBJECT_STORE_BYTES = 100 << 20
# What the nodes get of this process's environment, where they do not set it themselves: nearly vLLM's own choice.
_PASSED_ON = ("VLLM_", "HF_")


def connect(address: str, replicas: int, resources: dict[str, float]) -> bool:
    """Connect to a Ray cluster and check that it is large enough; return whether there was no connection yet.

    Args:
        address: `auto` for the cluster that runs here, `local` for a new one on this machine, `host:port`, or
            `ray://host:port` from outside the cluster.
        resources: what one replica needs.

    Raises:
        BadInput: Ray is not installed, there is no such cluster, or it can never hold so many replicas.
    """
    # Read by Ray when it is imported.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = require("ray", "ray")
    is_first = not ray.is_initialized()
    if is_first:
        _reachable(address)
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address == "local":
            options |= {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
        # Ray would have this process exit on SIGTERM without stopping anything.
        before = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address=address, **options)
        except (ConnectionError, ImportError, RuntimeError, ValueError) as error:
            raise _no_cluster(address, str(error)) from None
        finally:
            signal.signal(signal.SIGTERM, before)
    # The nodes need Ray, but not this package.
    for module in (sys.modules[__name__], server_process):
        ray.cloudpickle.register_pickle_by_value(module)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = sum(int(min(node.get(name, 0) / amount for name, amount in resources.items())) for node in nodes)
    if room < replicas:
        has = {name: sum(node.get(name, 0) for node in nodes) for name in resources if name != "memory"}
        if is_first:
            disconnect()
        raise BadInput(
            f"backend.ray: {replicas} replicas need {_words(resources)} each, on one node, but the cluster of "
            f"{len(nodes)} node(s) with {_words(has)} in all has room for {room}; add nodes, or fix "
            "`backend.replicas` or `backend.resources`."
        )
    return is_first


def disconnect() -> None:
    """Leave the cluster; one that `connect` started ends."""
    require("ray", "ray").shutdown()


def _reachable(address: str) -> None:
    """Check that somebody listens at `host:port`, where Ray would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise _no_cluster(address, str(error)) from None


def _no_cluster(address: str, reason: str) -> BadInput:
    said = " ".join(reason.split()).rstrip(".")
    return BadInput(
        f"backend.ray: no Ray cluster at {address!r} ({said}); start one with `ray start --head`, or set `ray: local`."
    )


def _words(resources: dict[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items())


@dataclass(repr=False, eq=False)
class RayReplica:
    """A server on a node of the cluster, owned by an actor there, which Ray places anew after either has ended.

    Args:
        command_line: without host and port.
        resources: what Ray has to reserve for it.
        log_path: gets what the server writes on its node.
        timeout: seconds until Ray must have found a place.
    """

    number: int
    command_line: list[str]
    api_key: str
    resources: dict[str, float]
    log_path: Path
    timeout: float
    _actor: Any = field(default=None, init=False)
    _placed: bool = field(default=False, init=False)
    _node: str = field(default="", init=False)
    _offset: int = field(default=0, init=False)

    async def start(self) -> str:
        """Have an actor placed and start the server there; see `Replica.start`."""
        await self.stop()
        import ray

        self._placed = False
        self._offset = 0
        self._actor = ray.remote(_Host).options(**_actor_options(self.resources)).remote()
        node_id, address = await self._wait_for_place()
        self._placed = True
        self._node = f"node {address}"
        # Only a server on another machine has to be reachable from outside its own.
        here = not ray.util.client.ray.is_connected() and node_id == ray.get_runtime_context().get_node_id()
        host = "127.0.0.1" if here else address
        # Passed as arguments of a call, which Ray records nowhere, unlike an actor's runtime environment.
        environment = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
        try:
            port, there = await _result(
                self._actor.start.remote(self.command_line, host, environment, self.api_key), _CALL_SECONDS
            )
        except (ray.exceptions.RayError, TimeoutError) as error:
            raise RuntimeError(f"Ray did not start vLLM {self.number} on {self._node}: {first_line(error)}") from None
        if not port:
            raise RuntimeError(f"backend.command: {self.command_line[0]} is not found on {self._node}")
        log.warning(
            "starting %s on %s, port %d (log: %s; there: %s)",
            " ".join(self.command_line),
            self._node,
            port,
            self.log_path,
            there,
        )
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def _wait_for_place(self) -> tuple[str, str]:
        """Return the id of the node where the actor is, and its address."""
        import ray

        started = time.monotonic()
        place = asyncio.ensure_future(_result(self._actor.where.remote(), self.timeout))
        try:
            while not place.done():
                await asyncio.wait([place], timeout=_SAY_EVERY_SECONDS)
                if not place.done():
                    seconds = time.monotonic() - started
                    log.warning("waiting for Ray to place vLLM %d, %.0f s so far", self.number, seconds)
            node_id, address = place.result()
        except TimeoutError:
            raise RuntimeError(
                f"in {self.timeout:.0f} s Ray found no node with {_words(self.resources)} free for "
                f"vLLM {self.number}; wait until others are done, or lower backend.replicas"
            ) from None
        except ray.exceptions.RayError as error:
            raise RuntimeError(f"Ray could not place vLLM {self.number}: {first_line(error)}") from None
        finally:
            place.cancel()
        return node_id, address

    async def ended(self) -> str | None:
        """Fetch the new part of the log, and say whether the server has ended; see `Replica.ended`."""
        import ray

        status = None
        try:
            whole = False
            while not whole:
                status, chunk = await _result(self._actor.look.remote(self._offset), _CALL_SECONDS)
                self._keep(chunk)
                whole = len(chunk) < _CHUNK_BYTES
        except (TimeoutError, ray.exceptions.ActorUnavailableError):
            # A network that stutters; if the node is gone, Ray says so in the end.
            return None
        except (ray.exceptions.RayError, ConnectionError) as error:
            self._forget()
            return f"its Ray actor on {self._node} is gone ({first_line(error)}); {tail(self.log_path)}"
        return None if status is None else f"vLLM ended with status {status} on {self._node}; {tail(self.log_path)}"

    def _keep(self, chunk: bytes) -> None:
        self._offset += len(chunk)
        if chunk:
            with self.log_path.open("ab") as file:
                file.write(chunk)

    def _forget(self) -> None:
        """Let go of the actor; what it started ends with it."""
        import ray

        actor, self._actor = self._actor, None
        with suppress(Exception):  # it may be gone, and the cluster with it
            ray.kill(actor)

    async def stop(self) -> None:
        """Stop the server, and the actor with it."""
        if self._actor is None:
            return
        if self._placed:
            with suppress(Exception):  # the end of the actor ends the server, too
                self._keep(await _result(self._actor.stop.remote(self._offset, STOP_SECONDS), STOP_SECONDS + 10))
        self._forget()


class _Host:
    """The actor: owns one server on its node."""

    def __init__(self) -> None:
        self._server: ServerProcess | None = None
        self._log = Path()

    def where(self) -> tuple[str, str]:
        """Return the id and the address of the node."""
        import ray

        return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()

    def start(
        self, command_line: list[str], host: str, environment: dict[str, str], api_key: str
    ) -> tuple[int | None, str]:
        """Start the server; return its port, or None if there is no such program, and the path of its log."""
        if shutil.which(command_line[0]) is None:
            return None, ""
        handle, path = tempfile.mkstemp(prefix="smt-vllm-", suffix=".log")
        os.close(handle)
        self._log = Path(path)
        port = free_port(host)
        environment = {**environment, **os.environ, "VLLM_API_KEY": api_key}
        # Ray's own setting for its workers, mostly 1; vLLM knows better.
        environment.pop("OMP_NUM_THREADS", None)
        command = [*command_line, "--host", host, "--port", str(port)]
        self._server = ServerProcess(command, environment, self._log)
        return port, path

    def look(self, offset: int) -> tuple[int | None, bytes]:
        """Return the server's exit status, or None while it runs, and a part of its log, from `offset` on."""
        assert self._server is not None
        status = self._server.status()
        with self._log.open("rb") as file:
            file.seek(offset)
            return status, file.read(_CHUNK_BYTES)

    def stop(self, offset: int, seconds: float) -> bytes:
        """End the server; return the rest of its log, which the run folder then has whole, and delete the file here."""
        if self._server is None:
            return b""
        self._server.stop(seconds)
        with self._log.open("rb") as file:
            file.seek(offset)
            rest = file.read()
        self._log.unlink()
        return rest


def _actor_options(resources: dict[str, float]) -> dict[str, Any]:
    """Return Ray's options for an actor that needs these resources."""
    names = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
    known = {names[name]: amount for name, amount in resources.items() if name in names}
    return {"num_cpus": 0, "resources": {k: v for k, v in resources.items() if k not in names}, **known}


async def _result(reference: Any, seconds: float) -> Any:
    """Wait for what a call of an actor returns; raises TimeoutError."""
    async with asyncio.timeout(seconds):  # until Python 3.12 wait_for may overlook that it was cancelled
        return await asyncio.wrap_future(reference.future())
