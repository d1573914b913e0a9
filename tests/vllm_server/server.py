"""Start `vllm serve` of the CPU build, and stop it for certain: for the tests of this folder and for benchmarks/."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODEL = "markov-llama"
VLLM = str(Path(sys.executable).parent / "vllm")
VLLM_SERVE = [VLLM, "serve"]
ARGUMENTS: dict[str, Any] = {
    "enable-prefix-caching": True,
    "enable-prompt-tokens-details": True,
    "enforce-eager": True,  # compiling takes longer than it saves here
    "dtype": "float32",
    "max-num-seqs": 32,
}
START_SECONDS = 600.0
STOP_SECONDS = 30.0


class ServerFailed(Exception):
    """The server did not get healthy; the message ends with the end of its log."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server; `url` is its address as `backend.endpoints` wants it."""

    url: str
    model: str
    api_key: str

    @property
    def root(self) -> str:
        """The address of the routes outside the OpenAI API."""
        return self.url.removesuffix("/v1")

    def metric_lines(self, name: str) -> list[str]:
        """Return the lines of /metrics that hold a metric."""
        with urllib.request.urlopen(self.root + "/metrics", timeout=30) as response:
            lines: list[str] = response.read().decode().splitlines()
        found = [line for line in lines if line.startswith((name + "{", name + " "))]
        assert found, f"{name} is not among the server's metrics"
        return found

    def metric(self, name: str) -> float:
        """Return a counter of /metrics, summed over its labels."""
        return sum(float(line.rsplit(" ", 1)[1]) for line in self.metric_lines(name))


def vllm_environment(folder: Path) -> dict[str, str]:
    """Return the environment variables under which the CPU build runs on a machine of two cores.

    Args:
        folder: for what vLLM needs to find and to keep.
    """
    # The command looks for the distribution `vllm`, but the CPU build goes by another name.
    metadata = folder / "vllm-0.32.0.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n")
    return os.environ | {
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join([str(folder), str(Path(__file__).parents[2])]),
        "VLLM_CACHE_ROOT": str(folder / "cache"),
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB, some 500,000 tokens of the Markov Llama
        "VLLM_NO_USAGE_STATS": "1",
    }


@contextmanager
def running_server(
    model_folder: Path, environment: dict[str, str], log: Path, arguments: dict[str, Any] = ARGUMENTS
) -> Iterator[Server]:
    """Start a server, wait until it is healthy, and stop it and all its processes at the end.

    Args:
        environment: see `vllm_environment`.
        log: file for what the server says.
        arguments: options of `vllm serve`, without dashes.

    Raises:
        ServerFailed: it ended, or was not healthy in time.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    api_key = os.urandom(16).hex()
    command = [*VLLM_SERVE, str(model_folder), "--served-model-name", MODEL]
    command += ["--host", "127.0.0.1", "--port", str(port), "--api-key", api_key]
    command += [f"--{name}" if value is True else f"--{name}={value}" for name, value in arguments.items()]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    guard = _guard(process.pid)
    try:
        _wait_until_healthy(f"http://127.0.0.1:{port}/health", process, log)
        yield Server(f"http://127.0.0.1:{port}/v1", MODEL, api_key)
    finally:
        _end_group(process)
        guard.kill()
        guard.wait()


def _guard(group: int) -> "subprocess.Popen[bytes]":
    """End the server even where this process is killed: its end of the pipe closes, and `read` returns.

    The kernel's own signal to a child whose parent is gone does not do: vLLM loses a SIGTERM while it
    starts, and a SIGKILL leaves its engine running.
    """
    script = 'read _; kill -s TERM -- "-$0"; sleep 10; kill -s KILL -- "-$0"'
    return subprocess.Popen(["sh", "-c", script, str(group)], stdin=subprocess.PIPE, start_new_session=True)


def _wait_until_healthy(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise ServerFailed("the vLLM server did not start; its log ends:\n" + log.read_text(errors="replace")[-4000:])


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    """End the server and every process it started: politely, then for certain."""
    group = process.pid  # since start_new_session made the server the leader of its own group
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(group, number)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline and _is_alive(process, group):
            time.sleep(0.1)


def _is_alive(process: "subprocess.Popen[bytes]", group: int) -> bool:
    process.poll()  # reaps the leader, which would count as alive otherwise
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
