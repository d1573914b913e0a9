"""Runs `smt` commands that are killed with SIGKILL just before they change a file for the n-th time.

`python -m tests.kills ROOT MODULE ...` imports the modules, which takes most of a command's time, and then runs in a
fork what each line of its standard input asks for: `{"arguments": [...], "kill_at": 3}`. It answers each with a line
that holds the exit status, how many changes there were below ROOT, and the files that were opened to be written.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate")


class Driver:
    """Asks a process that has everything imported to run commands in forks."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    def smt(self, *arguments: str, kill_at: int | None = None) -> dict[str, Any]:
        """Run a command and return `status` (-9 where it was killed), `changes`, `written` (names) and `said`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"arguments": arguments, "kill_at": kill_at}).encode() + b"\n")
        self._process.stdin.flush()
        result: dict[str, Any] = json.loads(self._process.stdout.readline())
        return result


@contextmanager
def driver(root: Path, modules: list[str], environment: dict[str, str], folder: Path) -> Iterator[Driver]:
    """A driver whose commands run in `folder`, and count the changes below `root`."""
    path = os.pathsep.join([*filter(None, [environment.get("PYTHONPATH")]), str(ROOT)])
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.kills", str(root), *modules],
        cwd=folder,
        env={**os.environ, **environment, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        yield Driver(process)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


def _watch(root: str, kill_at: int | None, report: int) -> None:
    """Count the changes below a folder, tell the pipe `report` of each, and kill this process at one."""
    own, count = os.getpid(), 0

    def name_of(path: Any, folder: Any = -1) -> str:
        if isinstance(path, int):
            return ""
        name = os.fsdecode(path)
        if isinstance(folder, int) and folder >= 0:
            name = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), name)
        return os.path.abspath(name)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
                return
            name = name_of(path)
            if os.path.isdir(name):  # a file in it that never has a name
                return
        elif event in _CHANGES:
            name = name_of(arguments[0], arguments[1] if event in ("os.remove", "os.rmdir") else -1)
        else:
            return
        if name.startswith(root) and os.getpid() == own:
            count += 1
            os.write(report, f"{event} {name}\n".encode())
            if count == kill_at:
                os.kill(own, signal.SIGKILL)

    sys.addaudithook(hook)


def _run(root: str, arguments: list[str], kill_at: int | None) -> dict[str, Any]:
    read, write = os.pipe()
    output = os.memfd_create("output")
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            os.close(read)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.argv = ["smt", *arguments]
            main = import_module("smt_plugin.cli.app").main
            _watch(root, kill_at, write)
            main()
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as pipe:
        events = [line.rstrip("\n").partition(" ") for line in pipe]
    ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    said = os.pread(output, 10**6, 0).decode(errors="replace")
    os.close(output)
    written = sorted({name for event, _, name in events if event == "open"})
    return {"status": ended, "changes": len(events), "written": written, "said": said[-4000:]}


def _serve(root: str, modules: list[str]) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for module in modules:
        import_module(module)
    for line in sys.stdin:
        asked = json.loads(line)
        answers.write(json.dumps(_run(root, asked["arguments"], asked["kill_at"])) + "\n")
        answers.flush()


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2:])
