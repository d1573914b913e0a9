import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import pytest

from smt_plugin.errors import BadInput
from smt_plugin.files import (
    check_target,
    content_hash,
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
            check_target(tmp_path / name, make_folder=True)
    check_target(tmp_path / "new" / "folder" / "x", make_folder=True)
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
