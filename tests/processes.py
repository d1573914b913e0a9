"""Finds the processes that a test's servers are, by something on their command line."""

import time
from collections.abc import Callable
from pathlib import Path


def processes(label: Path | str) -> list[int]:
    """Return the ids of living processes that have `label` as an argument and serve, or are a server's engine."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
            # A process that has ended and waits for its parent has no command line.
            if str(label).encode() in arguments and {b"tests.fake_vllm", b"engine"} & set(arguments):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def wait_for(what: Callable[[], object], seconds: float) -> bool:
    """Wait until `what` holds; return whether it does in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if what():
            return True
        time.sleep(0.1)
    return False
