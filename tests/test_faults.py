"""What goes wrong around a run: disks, folders, endpoints, clocks, signals. Nothing durable may be lost or repaid.

Each test runs the real `smt generate` against a real server on this machine, breaks something and mends it again.
"""

import asyncio
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smt_plugin.completions import CompletionStore
from tests.endpoint import MODEL, Endpoint, in_thread, mark_of

ROOT = Path(__file__).parent.parent
CONCURRENCY = 8
TOKENS = {"synthetic_qa": 8000, "active_reading": 8000, "focal_rewrite": 8000}


def write_run_file(folder: Path, *urls: str, tokens: int = 8000, **backend: object) -> None:
    settings = {"endpoints": urls, "model": MODEL, "max_concurrency": CONCURRENCY, "patience": 20, **backend}
    methods = {name: {"tokens": tokens, "seed": 1} for name in ("synthetic_qa", "active_reading", "focal_rewrite")}
    content = {"run": "run", "corpus": str(folder / "corpus"), "backend": settings, "methods": methods}
    (folder / "smt.yaml").write_text(json.dumps(content))


def start(folder: Path, *arguments: str, before: Callable[[], object] | None = None, **environment: str) -> Any:
    return subprocess.Popen(
        [sys.executable, "-m", "smt_plugin", "generate", "smt.yaml", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before,
    )


def finish(process: "subprocess.Popen[str]", code: int = 0) -> str:
    """Wait for the end, and return what was said on stderr."""
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors[-3000:]
    assert "Traceback" not in errors
    return errors


def marks(run: Path) -> Counter[str]:
    """The server's mark of every durable completion."""
    store = CompletionStore(run)
    try:
        return Counter(re.findall(r"\b[0-9a-f]{8}\b", completion.reply.text)[0] for completion in store.all())
    finally:
        asyncio.run(store.close())


def asked(endpoint: Endpoint) -> list[str]:
    """The mark of every request, in the order in which they came."""
    return [mark_of(body["messages"][-1]["content"], str(body["seed"])) for body in endpoint.bodies]


def records(run: Path) -> set[str]:
    return {line for path in (run / "records").glob("*.jsonl") for line in path.read_text().splitlines()}


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The records of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("calm")
    make_corpus(folder)
    with in_thread(Endpoint()) as endpoint:
        write_run_file(folder, endpoint.url)
        finish(start(folder))
    return records(folder / "run")


def make_corpus(folder: Path) -> None:
    (folder / "corpus").mkdir()
    for n in range(6):
        (folder / "corpus" / f"story {n}.txt").write_text(f"Story {n} tells of {n}. " * (20 + 10 * n))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a corpus."""
    make_corpus(tmp_path)
    return tmp_path


def goes_on(folder: Path, endpoint: Endpoint, calm: set[str]) -> None:
    """Run again: the records of an undisturbed run, and nothing durable asked for again."""
    durable, before = marks(folder / "run"), len(endpoint.bodies)
    finish(start(folder))
    assert not set(durable) & set(asked(endpoint)[before:])
    assert max(marks(folder / "run").values()) == 1
    assert records(folder / "run") == calm


def test_a_full_disk_under_the_store_stops_the_run_and_the_next_goes_on(folder: Path, calm: set[str]) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    with in_thread(Endpoint()) as endpoint:
        write_run_file(folder, endpoint.url)
        said = finish(start(folder, before=small_files), 1)
        assert said.count("\n") == 1
        assert "completions.sqlite cannot be written" in said
        assert 0 < len(marks(folder / "run")) < len(set(asked(endpoint)))
        goes_on(folder, endpoint, calm)


def test_a_full_disk_under_the_records_stops_the_run_and_the_next_goes_on(folder: Path, calm: set[str]) -> None:
    with in_thread(Endpoint()) as endpoint:
        write_run_file(folder, endpoint.url)
        (folder / "run" / "records").mkdir(parents=True)
        full = folder / "run" / "records" / "focal_rewrite.jsonl.partial"
        full.symlink_to("/dev/full")
        said = finish(start(folder), 1)
        assert said.count("\n") == 1
        assert "No space left on device" in said
        assert records(folder / "run") == set()
        assert not full.is_symlink()
        goes_on(folder, endpoint, calm)


@pytest.mark.parametrize(
    "signals",
    [[signal.SIGINT], [signal.SIGTERM], [signal.SIGHUP], [signal.SIGINT] * 2, [signal.SIGHUP, signal.SIGTERM]],
    ids=["Ctrl-C", "terminate", "terminal closed", "Ctrl-C twice", "hang up and terminate"],
)
def test_a_run_stopped_by_a_signal_says_so_and_the_next_goes_on(
    folder: Path, calm: set[str], signals: list[signal.Signals]
) -> None:
    endpoint = Endpoint()
    endpoint.seconds = 0.05
    with in_thread(endpoint):
        write_run_file(folder, endpoint.url)
        for wait in (0.02, 0.1, 0.3):
            process = start(folder)
            before = len(endpoint.bodies)
            while len(endpoint.bodies) == before:
                time.sleep(0.005)
            time.sleep(wait)
            for number in signals:
                process.send_signal(number)
                time.sleep(0.002)
            said = finish(process, 130).split("\n")
            assert [line for line in said if line and line != "stopping; once more to end at once"] == [
                "stopped; run the same command again to go on"
            ]
        assert records(folder / "run") == set()
        endpoint.seconds = 0
        goes_on(folder, endpoint, calm)


def test_a_third_signal_ends_at_once_and_loses_nothing(folder: Path, calm: set[str]) -> None:
    endpoint = Endpoint()
    endpoint.seconds = 0.05
    with in_thread(endpoint):
        write_run_file(folder, endpoint.url)
        process = start(folder)
        while len(endpoint.bodies) < 30:
            time.sleep(0.005)
        # Stopped as a whole, it takes all three when it goes on.
        process.send_signal(signal.SIGSTOP)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        assert finish(process, 130).startswith("stopping; once more to end at once")
        assert marks(folder / "run")
        endpoint.seconds = 0
        goes_on(folder, endpoint, calm)
