"""What goes wrong around a run: disks, folders, endpoints, clocks, signals. Nothing durable may be lost or repaid.

Each test runs the real `smt generate` against a real server on this machine, breaks something and mends it again.
"""

import asyncio
import ctypes
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from smt_plugin.config import read_run_file
from smt_plugin.generation.completions import CompletionStore
from smt_plugin.generation.stale import stale_records
from tests.backends.test_replies import ODD_USAGES
from tests.endpoint import MODEL, Endpoint, in_thread, mark_of, status

ROOT = Path(__file__).parents[2]
CONCURRENCY = 8
TOKENS = {"synthetic_qa": 8000, "active_reading": 8000, "focal_rewrite": 8000}


def write_run_file(folder: Path, *urls: str, tokens: int = 8000, run: str = "run", **backend: object) -> None:
    settings = {"endpoints": urls, "model": MODEL, "max_concurrency": CONCURRENCY, "patience": 20, **backend}
    methods = {name: {"tokens": tokens, "seed": 1} for name in ("synthetic_qa", "active_reading", "focal_rewrite")}
    content = {"run": run, "corpus": str(folder / "corpus"), "backend": settings, "methods": methods}
    (folder / "smt.yaml").write_text(json.dumps(content))


def start(
    folder: Path, command: str = "generate", before: Callable[[], object] | None = None, **environment: str
) -> Any:
    return subprocess.Popen(
        [sys.executable, "-m", "smt_plugin", command, "smt.yaml"],
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
        assert "completions.sqlite cannot be read or written (" in said
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
        assert f"{full}: No space left on device" in said
        assert records(folder / "run") == set()
        assert not full.is_symlink()
        goes_on(folder, endpoint, calm)


def test_usable_answers_beside_odd_counts_are_bought_once_and_it_is_told_once(folder: Path, calm: set[str]) -> None:
    with in_thread(Endpoint()) as endpoint:
        endpoint.usages = ODD_USAGES
        write_run_file(folder, endpoint.url)
        said = finish(start(folder))
        assert max(Counter(asked(endpoint)).values()) == 1
        # Those that the budget asks for, give or take what is counted otherwise.
        assert 0.9 < len(records(folder / "run")) / len(calm) < 1.1
    assert said.count("\n") == said.count("counts no tokens, or not as they can be") == 1


def test_more_requests_than_files_are_allowed_at_first_are_in_flight_at_once(folder: Path) -> None:
    def few_files() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    endpoint = Endpoint()
    endpoint.seconds = 0.5
    with in_thread(endpoint):
        write_run_file(folder, endpoint.url, max_concurrency=100)
        said = finish(start(folder, before=few_files))
    assert "Too many open files" not in said
    assert endpoint.most_under_way > 40


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
        for wait in (0.02, 0.2):
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


def wait_until(endpoint: Endpoint, count: int) -> None:
    """Wait until the endpoint has been asked so often."""
    while len(endpoint.bodies) < count:
        time.sleep(0.005)


@pytest.mark.parametrize("seconds", [2.0, pytest.param(60.0, marks=pytest.mark.slow)])
def test_an_endpoint_that_is_gone_for_a_while_is_waited_for(folder: Path, calm: set[str], seconds: float) -> None:
    endpoint = Endpoint()
    endpoint.seconds = 0.02
    with in_thread(endpoint):
        write_run_file(folder, endpoint.url, patience=10 * seconds)
        process = start(folder)
        wait_until(endpoint, 40)
    time.sleep(seconds)
    assert process.poll() is None
    with in_thread(endpoint, int(endpoint.url.split(":")[2].removesuffix("/v1"))):
        finish(process)
    assert records(folder / "run") == calm
    # Only what was in flight when it went is asked again.
    assert sum(count - 1 for count in Counter(asked(endpoint)).values()) <= CONCURRENCY


class Silent(Endpoint):
    """Accepts requests and never answers one; it knows its models."""

    async def chat(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        await asyncio.sleep(3600)
        raise AssertionError


def test_one_of_two_endpoints_dead_dying_or_silent_stalls_nothing(folder: Path, calm: set[str]) -> None:
    def check(*urls: str) -> None:
        write_run_file(folder, *urls, timeout=1)
        began = time.monotonic()
        finish(start(folder))
        assert records(folder / "run") == calm
        assert time.monotonic() - began < 60
        (folder / "run" / "completions.sqlite").unlink()

    good = Endpoint()
    with in_thread(good), socket.socket() as listener:
        check("http://127.0.0.1:9/v1", good.url)
        check(good.url, "http://127.0.0.1:9/v1")
        # Not even the question for its models is answered.
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        check(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", good.url)
        with in_thread(Silent()) as silent:
            check(silent.url, good.url)
            assert 0 < len(silent.bodies) < 30
        dying = Endpoint()
        dying.seconds = 0.05
        with in_thread(dying):
            write_run_file(folder, dying.url, good.url, timeout=1)
            process = start(folder)
            wait_until(dying, 10)
        finish(process)
        assert records(folder / "run") == calm


def test_a_clock_that_jumps_changes_nothing(folder: Path, calm: set[str]) -> None:
    (folder / "sitecustomize.py").write_text(
        "import itertools, time\n"
        "real, count = time.time, itertools.count()\n"
        "time.time = lambda: real() + (-1) ** next(count) * 86400 * 365\n"
    )
    with in_thread(Endpoint()) as endpoint:
        endpoint.faults = {n: lambda request: status(429, {"Retry-After": "0.05"}) for n in (3, 30, 60)}
        write_run_file(folder, endpoint.url)
        began = time.monotonic()
        finish(start(folder, PYTHONPATH=f"{folder}{os.pathsep}{ROOT}"))
        assert time.monotonic() - began < 60
    assert records(folder / "run") == calm


def test_a_second_process_on_the_run_is_refused_and_the_first_unharmed(folder: Path, calm: set[str]) -> None:
    endpoint = Endpoint()
    endpoint.seconds = 0.5
    with in_thread(endpoint):
        write_run_file(folder, endpoint.url)
        first = start(folder)
        wait_until(endpoint, 6)
        said = finish(start(folder), 2)
        assert f"in use by process {first.pid} on {socket.gethostname()} (" in said
        assert said.count("\n") == 1
        endpoint.seconds = 0
        finish(first)
        assert records(folder / "run") == calm
        assert max(Counter(asked(endpoint)).values()) == 1


def bound_by_permissions() -> None:
    """Take from root what lets it write where permissions forbid it; others have not got it."""
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)


@pytest.mark.parametrize(
    ("forbidden", "says"),
    [
        ("", "completions.sqlite cannot be written (attempt to write a readonly database)"),
        ("records", "synthetic_qa.jsonl.partial cannot be written (Permission denied)"),
        ("completions.lock", "completions.lock cannot be written (Permission denied); fix its permissions"),
        ("completions.sqlite", "completions.sqlite cannot be written (attempt to write a readonly database)"),
    ],
)
def test_what_must_not_be_written_is_named_before_anything_is_asked(
    folder: Path, calm: set[str], forbidden: str, says: str
) -> None:
    with in_thread(Endpoint()) as endpoint:
        write_run_file(folder, endpoint.url)
        (folder / "run" / "records").mkdir(parents=True)
        (folder / "run" / "completions.lock").touch()
        (folder / "run" / "completions.sqlite").touch()
        path = folder / "run" / forbidden
        path.chmod(0o555)
        said = finish(start(folder, before=bound_by_permissions), 2)
        path.chmod(0o755)
        assert said.count("\n") == 1
        assert says in said
        assert endpoint.bodies == []
        finish(start(folder))
        assert records(folder / "run") == calm


@pytest.mark.parametrize("lost", ["moved", "deleted", "deleted and made anew", "records deleted", "unwritable"])
def test_a_run_folder_that_is_lost_while_generating_stops_the_paying(folder: Path, lost: str) -> None:
    run = folder / "run"
    endpoint = Endpoint()
    endpoint.seconds = 0.1
    with in_thread(endpoint):
        write_run_file(folder, endpoint.url, tokens=30_000)
        process = start(folder, before=bound_by_permissions)
        wait_until(endpoint, 2 * CONCURRENCY)
        if lost == "moved":
            run.rename(folder / "elsewhere")
        elif lost == "unwritable":
            run.chmod(0o555)
        else:
            shutil.rmtree(run / "records" if lost == "records deleted" else run)
            if lost == "deleted and made anew":
                run.mkdir()
        before = len(endpoint.bodies)
        said = finish(process, 1)
        # What was in flight, and what was sent while the first of that came back.
        assert len(endpoint.bodies) - before <= 2 * CONCURRENCY
        run.chmod(0o755) if lost == "unwritable" else None
    assert said.count("\n") == 1
    assert f"{run}" in said
    assert "is gone or cannot be written any more" in said
    if lost in ("moved", "deleted"):
        assert not run.exists()


@pytest.mark.parametrize("change", ["rewritten", "added", "removed", "emptied"])
def test_documents_that_change_while_generating_stop_the_run_and_the_next_goes_on(folder: Path, change: str) -> None:
    for n in range(40):
        (folder / "corpus" / f"tale {n}.txt").write_text(f"Tale {n} tells of {n}. " * 20)
    last = folder / "corpus" / "tale 9.txt"
    endpoint = Endpoint()
    endpoint.seconds = 0.02
    with in_thread(endpoint):
        write_run_file(folder, endpoint.url, tokens=3000, max_concurrency=2)
        process = start(folder)
        wait_until(endpoint, 2)
        if change == "added":
            last.with_name("tale 99.txt").write_text("A tale more.")
        elif change == "removed":
            last.unlink()
        else:
            last.write_text("Another tale." if change == "rewritten" else "")
        said = finish(process, 1)
        assert said.count("\n") == 1
        assert f"the corpus {folder / 'corpus'} has changed since this command began: " in said
        assert "tale 9" in said or "it holds 45 documents and held 46" in said
        assert records(folder / "run") == set()
        last.write_text("A third tale.")
        endpoint.seconds = 0
        durable, before = marks(folder / "run"), len(endpoint.bodies)
        finish(start(folder))
        assert not set(durable) & set(asked(endpoint)[before:])


def test_a_folder_that_cannot_be_made_is_named(folder: Path) -> None:
    for place in (str(folder / "smt.yaml" / "run"), "/proc/run"):
        write_run_file(folder, "http://127.0.0.1:9/v1", run=place)
        said = finish(start(folder), 2)
        assert said.startswith("error: ")
        assert f"{place}" in said
        assert "Not a directory; give another path" in said or "cannot be made (" in said
        assert said.count("\n") == 1


@pytest.mark.parametrize("damage", ["half", "zeros", "garbage"])
def test_a_damaged_store_is_named_with_the_mend_and_never_taken_for_an_empty_one(folder: Path, damage: str) -> None:
    with in_thread(Endpoint()) as endpoint:
        write_run_file(folder, endpoint.url)
        finish(start(folder))
        path = folder / "run" / "completions.sqlite"
        content = path.read_bytes()
        before = len(endpoint.bodies)
        path.write_bytes(
            {
                "half": content[: len(content) // 2 + 100],
                "zeros": content[:4096] + bytes(len(content) - 4096),
                "garbage": b"no database" * 1000,
            }[damage]
        )
        damaged = path.read_bytes()
        for command in ("generate", "plan"):
            said = finish(start(folder, command=command), 2)
            assert "completions.sqlite" in said
            assert "move it away" in said
            assert said.count("\n") == 1
        assert len(endpoint.bodies) == before
        assert path.read_bytes() == damaged


def test_ctrl_c_while_a_store_is_replayed_stops_and_keeps_the_records(folder: Path) -> None:
    with in_thread(Endpoint()) as endpoint:
        write_run_file(folder, endpoint.url, tokens=40_000)
        finish(start(folder))
        before, written, size = len(endpoint.bodies), records(folder / "run"), len(marks(folder / "run"))
        # Slow to look at, as a store of millions is.
        (folder / "sitecustomize.py").write_text(
            "import time\nfrom smt_plugin.generation.completions import CompletionStore\nget = CompletionStore.get\n"
            "def slow(self, key):\n    time.sleep(0.002)\n    open('looked', 'a').close()\n    return get(self, key)\n"
            "CompletionStore.get = slow\n"
        )
        process = start(folder, PYTHONPATH=f"{folder}{os.pathsep}{ROOT}")
        while not (folder / "looked").exists():
            time.sleep(0.005)
        time.sleep(0.2)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert finish(process, 130).strip() == "stopped; run the same command again to go on"
        assert time.monotonic() - began < 10
        assert (len(endpoint.bodies), records(folder / "run"), len(marks(folder / "run"))) == (before, written, size)


def test_a_run_killed_at_any_rename_of_its_end_lets_no_mix_take_the_records_and_ends_whole_the_next_time(
    folder: Path, calm: set[str]
) -> None:
    (folder / "sitecustomize.py").write_text(
        "import os, signal\nreplace = os.replace\ndone = []\n"
        "def dying(*names):\n"
        "    if len(done) == int(os.environ['DIES_AT']):\n        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    done.append(names)\n    replace(*names)\n"
        "os.replace = dying\n"
    )
    with in_thread(Endpoint()) as endpoint:
        write_run_file(folder, endpoint.url)
        finish(start(folder))
        before = len(endpoint.bodies)
        half = []
        # The counts, three files of records and three of findings, the counts again, the run file.
        for dies_at in range(9):
            killed = start(folder, PYTHONPATH=f"{folder}{os.pathsep}{ROOT}", DIES_AT=str(dies_at))
            finish(killed, -signal.SIGKILL)
            if stale_records(read_run_file(folder / "smt.yaml"), TOKENS).hopeless:
                half.append(dies_at)
            else:
                assert records(folder / "run") == calm
            finish(start(folder))
            assert records(folder / "run") == calm
        assert half == [1, 2, 3, 4, 5, 6, 7]
        assert len(endpoint.bodies) == before
        assert not list((folder / "run" / "records").glob("*.partial"))


def test_a_run_killed_while_its_disk_hangs_repays_no_more_than_may_be_in_flight(folder: Path, calm: set[str]) -> None:
    (folder / "sitecustomize.py").write_text(
        "import time\n"
        "from smt_plugin.generation.completions import CompletionStore\n"
        "work, pauses = CompletionStore._find_and_commit, [0] * 5 + [600]\n"
        "def slow(store, items):\n"
        "    time.sleep(0 if all(isinstance(item, str) for item in items) else pauses.pop(0))\n"
        "    return work(store, items)\n"
        "CompletionStore._find_and_commit = slow\n"
    )
    with in_thread(Endpoint()) as endpoint:
        write_run_file(folder, endpoint.url)
        process = start(folder, PYTHONPATH=f"{folder}{os.pathsep}{ROOT}")
        count = 0
        while count < 6 or count < len(endpoint.bodies):
            count = len(endpoint.bodies)
            time.sleep(0.5)
        process.kill()
        assert finish(process, -signal.SIGKILL).count("\n") == 0
        lost = set(asked(endpoint)) - set(marks(folder / "run"))
        assert 0 < len(lost) <= CONCURRENCY
        (folder / "sitecustomize.py").unlink()
        goes_on(folder, endpoint, calm)


def test_a_key_that_the_server_repeats_reaches_no_file_and_no_output(folder: Path) -> None:
    key = "sk-very-secret-0123456789"

    async def repeat(code: int, request: web.Request) -> web.Response:
        said = f"not with {request.headers['Authorization']}"
        return web.Response(status=code, text=said, headers={"X-Key": said})

    with in_thread(Endpoint(api_key=key)) as endpoint:
        write_run_file(folder, endpoint.url)
        codes = {0: 400, 1: 429, 2: 500, 3: 200, 4: 422, 5: 418, 20: 400, 60: 503}
        endpoint.faults = {number: partial(repeat, code) for number, code in codes.items()}
        process = start(folder, OPENAI_API_KEY=f" {key}\n")
        output, errors = process.communicate(timeout=60)
        assert "x status 400: not with Bearer (the API key)" in output
        endpoint.faults = {len(endpoint.bodies): partial(repeat, 401)}
        write_run_file(folder, endpoint.url, tokens=16_000)
        said = finish(start(folder, OPENAI_API_KEY=key), 2)
        assert "answered status 401 to a completion: not with Bearer (the API key)" in said
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.name == "run.yaml" for path in files)
    assert all(b"very-secret" not in path.read_bytes() for path in files)
    assert "very-secret" not in output + errors + said


class Refusing(Endpoint):
    """Answers what `why` returns a status for with that status and `words`."""

    def __init__(self, why: Callable[[int, dict[str, Any]], int | None], words: str) -> None:
        super().__init__()
        self.why = why
        self.words = words
        self.came: list[dict[str, Any]] = []

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.came.append(body)
        if (refused := self.why(len(self.came), body)) is not None:
            return web.json_response({"error": {"message": self.words}}, status=refused)
        return await super().chat(request)


@pytest.mark.parametrize(("code", "words"), [(400, "Billing hard limit has been reached."), (402, "no credits left")])
def test_an_empty_account_stops_the_run_and_the_same_command_goes_on_once_it_is_filled(
    folder: Path, calm: set[str], code: int, words: str
) -> None:
    endpoint = Refusing(lambda number, body: code if number > 20 else None, words)
    with in_thread(endpoint):
        write_run_file(folder, endpoint.url)
        said = finish(start(folder), 1)
        assert f'refused the account 3 times in a row (status {code}: {{"error": {{"message": "{words}"' in said
        # What was in flight, three in a row, and a tiny request.
        assert len(endpoint.came) <= 20 + 2 * CONCURRENCY + 3 + 1
        store = CompletionStore(folder / "run")
        assert {completion.status for completion in store.all()} == {"done"}
        asyncio.run(store.close())
        endpoint.why = lambda number, body: None
        goes_on(folder, endpoint, calm)


def test_prompts_that_always_fail_are_given_up_said_and_asked_again_when_told(folder: Path, calm: set[str]) -> None:
    (folder / "sitecustomize.py").write_text(
        "from smt_plugin.backends import endpoint\nendpoint._FIRST_PAUSE = endpoint._LONGEST_PAUSE = 0.01\n"
    )
    python_path = f"{folder}{os.pathsep}{ROOT}"
    endpoint = Refusing(
        lambda number, body: 500 if "Story 3 tells of 3" in body["messages"][-1]["content"] else None, "boom"
    )
    with in_thread(endpoint):
        write_run_file(folder, endpoint.url, patience=5)
        said = finish(start(folder, PYTHONPATH=python_path), 1)
        assert re.search(r"given up: \d+ prompts that .* ask them again with the same command and --retry-failed", said)
        written = records(folder / "run")
        assert written
        assert {json.loads(line)["doc_id"] for line in calm} - {json.loads(line)["doc_id"] for line in written} == {
            "story 3.txt"
        }
        # Nothing is asked again unless told.
        before = len(endpoint.came)
        finish(start(folder, PYTHONPATH=python_path), 1)
        assert len(endpoint.came) == before
        endpoint.why = lambda number, body: None
        process = subprocess.run(
            [sys.executable, "-m", "smt_plugin", "generate", "smt.yaml", "--retry-failed"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert process.returncode == 0, process.stderr
        assert records(folder / "run") == calm


def test_another_shape_of_the_request_asks_nothing_again(folder: Path, calm: set[str]) -> None:
    with in_thread(Endpoint()) as endpoint:
        write_run_file(folder, endpoint.url)
        finish(start(folder))
        before = len(endpoint.bodies)
        options = {"max_tokens": None, "max_completion_tokens": 900, "top_p": None, "system": None}
        write_run_file(folder, endpoint.url, options=options, structured_output=False)
        finish(start(folder))
        assert len(endpoint.bodies) == before
        assert records(folder / "run") == calm
