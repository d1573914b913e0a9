"""A process that ends with everything it started, whatever happens to its owner: a server, or lm_eval."""

import logging
import os
import signal
import socket
import subprocess
import time
from contextlib import nullcontext, suppress
from pathlib import Path

log = logging.getLogger(__name__)

STOP_SECONDS = 30.0


def tail(path: Path) -> str:
    """Return the last lines of a log as a part of a sentence."""
    lines = path.read_text(errors="replace").strip().splitlines()
    return f"its log {path} ends with: {' | '.join(lines[-3:])}" if lines else f"its log {path} is empty"


# Waits for the end of a pipe whose other end only the owner holds, and then ends the server's process group. A line
# in the pipe means that there is nothing left to do. The kernel's own signal to a child whose parent is gone is not
# enough: vLLM loses a SIGTERM while it starts, and a SIGKILL leaves its engine running. It runs in the background of a
# shell that exits, so that it is nobody's child: Ray kills the children of a worker that ends.
_GUARD = """
exec 3<&0
{
    if ! read -r _ <&3; then
        kill -s TERM -- "-$0"
        seconds=0
        while [ "$seconds" -lt 10 ] && kill -s 0 -- "-$0"; do sleep 1; seconds=$((seconds + 1)); done
        kill -s KILL -- "-$0"
    fi
} >/dev/null 2>&1 &
"""


class ServerProcess:
    """A running program, the leader of a process group of its own; made by starting it.

    Args:
        log: gets the program's output, after what it already holds; with None the output goes to the terminal.
    """

    def __init__(self, command: list[str], environment: dict[str, str], log: Path | None) -> None:
        with log.open("ab") if log is not None else nullcontext() as output:
            self._server = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.pid = self._server.pid
        self._guard = subprocess.Popen(
            ["sh", "-c", _GUARD, str(self.pid)], stdin=subprocess.PIPE, start_new_session=True
        )
        self._guard.wait()

    def status(self) -> int | None:
        """Return the exit status, or None while the program runs."""
        return self._server.poll()

    def wait(self) -> int:
        """Return the exit status when the program has ended."""
        return self._server.wait()

    def stop(self, seconds: float) -> None:
        """End the program and everything it started: politely, and by force after this many seconds."""
        if self.status() is not None:
            # What the program left behind has nobody to tell it to end well: vLLM's engine would use all of the time.
            seconds = min(seconds, 2.0)
        for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, 5.0)):
            deadline = time.monotonic() + patience
            self._signal(number)
            while self._signal(0) and time.monotonic() < deadline:
                time.sleep(0.05)
        self._server.wait()
        assert self._guard.stdin is not None
        with suppress(BrokenPipeError):
            self._guard.stdin.write(b"\n")
            self._guard.stdin.close()

    def _signal(self, number: int) -> bool:
        """Send a signal to the group; return whether there is still one. Signal 0 only asks."""
        self._server.poll()  # reaps the leader, which would count as alive otherwise
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return False
        return True


def free_port(host: str) -> int:
    """Return a port of `host`, an address of this machine, that nothing listens on."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
