import errno
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import pytest

from smt_plugin.errors import BadInput
from smt_plugin.files import (
    cache_dir,
    check_target,
    content_hash,
    file_hash,
    lock_file,
    locked,
    read_bytes,
    read_json,
    read_json_if_there,
    read_jsonl,
    write_json,
    write_jsonl,
    write_text,
)


def test_two_processes_that_write_one_file_leave_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    other = f"import pathlib;from smt_plugin.files import write_jsonl; write_jsonl(pathlib.Path({str(path)!r}), [{{}}])"

    def rows() -> Iterator[dict[str, Any]]:
        yield {"n": 0}
        subprocess.run([sys.executable, "-c", other], check=True)
        assert list(read_jsonl(path)) == [(1, {})]
        yield {"n": 1}

    assert write_jsonl(path, rows()) == 2
    assert list(read_jsonl(path)) == [(1, {"n": 0}), (2, {"n": 1})]
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_file_as_it_was_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"n": 1})
    with pytest.raises(TypeError):
        write_json(path, {"n": object()})
    assert path.read_bytes() == b'{\n  "n": 1\n}\n'
    write_text(path, "Zwölf\n")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert path.read_text(encoding="utf-8") == "Zwölf\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_hash_of_values_is_that_of_their_json_with_sorted_keys() -> None:
    # Completion keys, verdicts' keys and the hash of frozen documents are such; another one would lose them.
    expected = hashlib.sha256(b'{"a":"\xc3\xb6","b":1}["x",null]').hexdigest()
    assert content_hash(iter([{"b": 1, "a": "ö"}, ["x", None]])) == expected


def test_what_a_killed_writer_left_is_removed_by_the_next_but_not_what_one_at_work_has(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    other = (
        "import os, pathlib; from smt_plugin.files import write_jsonl\n"
        f"write_jsonl(pathlib.Path({str(path)!r}), ({{}} for n in range(9) if n < 5 or os.kill(os.getpid(), 9)))"
    )
    assert subprocess.run([sys.executable, "-c", other], check=False).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.endswith(".partial")

    def rows() -> Iterator[dict[str, Any]]:
        assert not left.exists()
        (at_work,) = tmp_path.iterdir()
        write_json(path, {})
        assert at_work.exists()
        yield {"n": 1}

    write_jsonl(path, rows())
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_is_held_by_one_process_freed_by_its_end_and_removed_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "some.lock"
    hold = f"import pathlib, os; from smt_plugin.files import lock_file; f = lock_file(pathlib.Path({str(path)!r}))\n"
    with locked(path):
        held = subprocess.run([sys.executable, "-c", hold], check=False, capture_output=True, text=True)
        assert f"in use by process {os.getpid()} on " in held.stderr
    assert not path.exists()
    subprocess.run([sys.executable, "-c", f"{hold}os.kill(os.getpid(), 9)"], check=False)
    assert path.exists()
    with locked(path):
        pass
    assert not path.exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_where_the_file_system_has_no_locks_that_is_said_and_the_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    def refuse(file: object, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("smt_plugin.files.fcntl.flock", refuse)
    with locked(tmp_path / "some.lock"):
        write_json(tmp_path / "value.json", 1)
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"smt: the file system of {tmp_path} has no locks (")
    assert (tmp_path / "value.json").read_bytes() == b"1\n"


def test_the_kept_hash_of_a_large_file_is_that_of_its_content_though_size_and_date_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("smt_plugin.files._LARGE", 1)
    monkeypatch.setattr("smt_plugin.files._SETTLED", -1)
    path = tmp_path / "weights"
    for content in (b"one", b"two"):
        path.write_bytes(content)
        os.utime(path, (1000, 1000))
        assert file_hash(path) == file_hash(path) == hashlib.sha256(content).hexdigest()
    assert len(list((tmp_path / "cache/smt-plugin/hashes").iterdir())) == 2


def test_a_cache_folder_into_which_everybody_may_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = cache_dir()
    folder.mkdir()
    folder.chmod(0o775)
    assert cache_dir() == folder
    folder.chmod(0o777)
    with pytest.raises(BadInput, match=f"everybody may write into the cache folder {folder}; .* chmod o-w"):
        cache_dir()


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_what_is_made_can_be_read_by_its_user_alone(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_json(tmp_path / "value.json", 1)
        write_jsonl(tmp_path / "one" / "two" / "rows.jsonl", [{}])
        lock_file(tmp_path / "lock").close()
    finally:
        os.umask(before)
    made = [path for path in tmp_path.rglob("*") if path.stat().st_mode & 0o777 != (0o700 if path.is_dir() else 0o600)]
    assert made == []


def test_a_umask_that_is_stricter_stays(tmp_path: Path) -> None:
    before = os.umask(0o277)
    try:
        write_json(tmp_path / "value.json", 1)
    finally:
        os.umask(before)
    assert (tmp_path / "value.json").stat().st_mode & 0o777 == 0o400


class Kept(TypedDict):
    count: int
    names: NotRequired[list[str]]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"count": NaN}', "not valid JSON"),
        (b"[1]", "expected `object`, got `array`"),
        (b"{}", "object missing required field `count`"),
        (b'{"count": "7"}', r"expected `int`, got `str` - at `\$\.count`"),
        (b'{"count": %d}' % 10**30, r"expected `int`, got `float` - at `\$\.count`"),
        (b'{"count": 1, "names": [null]}', r"expected `str`, got `null` - at `\$\.names\[0\]`"),
    ],
)
def test_a_broken_file_of_ours_is_named_with_the_field_and_what_writes_it_anew(
    tmp_path: Path, content: bytes, says: str
) -> None:
    path = tmp_path / "kept.json"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=rf"kept\.json: {says}.*; remove it and run `smt keep` again\.$"):
        read_json(path, Kept, "smt keep")


def test_a_file_of_an_earlier_or_later_version_is_read_as_far_as_it_is_known(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    path.write_bytes(b'\xef\xbb\xbf{"count": 1, "other": []}')
    assert read_json(path, Kept, "smt keep") == {"count": 1}
    assert read_json_if_there(tmp_path / "none.json", Kept, "smt keep") is None


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop", "nowhere", "/dev/zero", "/proc/self/mem"])
def test_what_is_no_file_or_cannot_be_read_is_told_and_never_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "input"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("input" if kind == "loop" else kind)
    for read in (
        read_bytes,
        lambda path: list(read_jsonl(path)),
        lambda path: read_json_if_there(path, Kept, "smt keep"),
    ):
        with pytest.raises(BadInput, match=f"^{path} (is|cannot be read)"):
            read(path)


def test_a_line_that_is_more_than_the_memory_holds_is_told_by_its_file(tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    with path.open("wb") as file:
        file.truncate(2**34)
    code = (
        "import pathlib, resource, sys\nfrom smt_plugin.files import read_jsonl\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))\nlist(read_jsonl(pathlib.Path(sys.argv[1])))"
    )
    found = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert found.stderr.splitlines()[-1].endswith(
        f"BadInput: {path} cannot be read (Cannot allocate memory); give the path of a JSONL file."
    )


def test_where_nothing_can_be_written_is_found_out_before_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.iterdir())
    for name in ("file/x", "loop", "loop/x", "pipe", "pipe/x", "", "x" * 300, f"new/{'x' * 300}"):
        with pytest.raises(BadInput):
            check_target(tmp_path / name, with_folder=True)
    check_target(tmp_path / "new" / "folder" / "x", with_folder=True)
    assert sorted(tmp_path.iterdir()) == before


def test_a_full_disk_is_told_with_the_file_that_was_written(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    code = (
        "import pathlib, resource, sys\nfrom smt_plugin.files import write_json\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9, 9))\nwrite_json(pathlib.Path(sys.argv[1]), 'x' * 99)"
    )
    found = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert found.stderr.splitlines()[-1] == f"OSError: [Errno 27] File too large: '{path}'"
    assert list(tmp_path.iterdir()) == []
