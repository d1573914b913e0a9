import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smt_plugin.errors import BadInput
from smt_plugin.files import cache_dir, content_hash, lock_file, read_jsonl, write_json, write_jsonl, write_text


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
