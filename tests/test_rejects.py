import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from smt_plugin.errors import BadInput
from smt_plugin.rejects import Verdict, add_verdicts, read_verdicts, rejected, rejects_hash, rejects_path


def lines(run: Path) -> list[str]:
    return rejects_path(run).read_text().splitlines()


def test_the_last_word_on_a_record_holds_and_open_takes_it_back(tmp_path: Path) -> None:
    add_verdicts(tmp_path, [Verdict("a"), Verdict("b"), Verdict("a", verdict="keep")])
    assert {name: verdict.verdict for name, verdict in read_verdicts(tmp_path).items()} == {"a": "keep", "b": "reject"}
    add_verdicts(tmp_path, [Verdict("a", verdict="open"), Verdict("b", verdict="open")])
    assert read_verdicts(tmp_path) == {}
    assert len(lines(tmp_path)) == 5


def test_a_persons_word_goes_before_the_gates_whichever_came_last(tmp_path: Path) -> None:
    add_verdicts(tmp_path, [Verdict("a", verdict="keep"), Verdict("a", by="gate", reason="a number")])
    assert read_verdicts(tmp_path)["a"].verdict == "keep"
    add_verdicts(tmp_path, [Verdict("a", verdict="open")])
    assert read_verdicts(tmp_path)["a"].why == "rejected by the gate: a number"
    assert read_verdicts(tmp_path, by="person") == {}


def test_rejected_are_those_of_the_methods_and_those_without_one(tmp_path: Path) -> None:
    rejects_path(tmp_path).write_text(
        '{"id": "by hand"}\n{"id": "w", "method": "wrap"}\n{"id": "s", "method": "spa"}\n'
    )
    assert set(rejected(tmp_path, ["wrap"])) == {"by hand", "w"}
    assert rejects_hash(["a", "b"]) == rejects_hash(["b", "a"]) != rejects_hash(["a"])


def test_a_run_without_the_file_has_no_verdicts(tmp_path: Path) -> None:
    assert read_verdicts(tmp_path) == {}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"id": "a", "verd', "line 2: not valid JSON (unexpected"),
        ("{", "; correct the line or remove it."),
        ('{"id": " "}', "line 2: expected `str` that is not blank - at `$.id`; correct the line or remove it."),
        ('{"id": "a", "verdict": "perhaps"}', "line 2: invalid enum value 'perhaps' - at `$.verdict`"),
        ('["a"]', "line 2: expected a JSON object, e.g. {...}; correct the line or remove it."),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    rejects_path(tmp_path).write_text(f'{{"id": "b"}}\n{line}\n')
    with pytest.raises(BadInput) as error:
        read_verdicts(tmp_path)
    assert said in str(error.value)


def test_a_line_without_its_end_is_not_written_on(tmp_path: Path) -> None:
    rejects_path(tmp_path).write_text('{"id": "by hand"}')
    add_verdicts(tmp_path, [Verdict("a")])
    assert set(read_verdicts(tmp_path)) == {"by hand", "a"}


def test_what_does_not_fit_on_the_disk_leaves_no_half_line(tmp_path: Path) -> None:
    add_verdicts(tmp_path, [Verdict("a")])
    before = rejects_path(tmp_path).read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            add_verdicts(tmp_path, [Verdict("b")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert rejects_path(tmp_path).read_bytes() == before


def test_a_process_that_is_killed_while_it_rejects_leaves_whole_lines(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from smt_plugin.rejects import Verdict, add_verdicts
number = 0
while True:
    add_verdicts(Path(sys.argv[1]), [Verdict(f"{number}", reason="wrong " * 500)])
    print(number, flush=True)
    number += 1
"""
    told = -1
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        told = int(process.stdout.readline())
        time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        told = max([told, *(int(line) for line in process.stdout if line.endswith("\n"))])
        process.wait()
        process.stdout.close()
        found = [json.loads(line)["id"] for line in lines(tmp_path)]
        # All that was told to be written is there, and at most one more.
        last = int(found[-1])
        assert last in (told, told + 1)
    assert rejects_path(tmp_path).read_bytes().endswith(b"\n")


def test_the_file_is_for_this_user_alone(tmp_path: Path) -> None:
    add_verdicts(tmp_path, [Verdict("a")])
    assert rejects_path(tmp_path).stat().st_mode & 0o077 == 0
