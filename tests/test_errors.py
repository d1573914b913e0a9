import errno
from pathlib import Path

import pytest

from smt_plugin.errors import fault_of, naming, shortened, why_no_file


def test_what_is_too_long_in_a_sentence_loses_its_middle_and_the_rest_stays() -> None:
    path = f"/data/{'x' * 5000}/questions.jsonl"
    said = shortened(f"{path}, line 3: not valid JSON\n(unexpected end); fix it.")
    assert said.startswith("/data/xxx")
    assert said.endswith("/questions.jsonl, line 3: not valid JSON (unexpected end); fix it.")
    assert len(said) < 300
    assert len(shortened("no " * 2_000_000)) < 700
    assert shortened("a short one.") == "a short one."


def test_an_error_of_the_file_system_names_its_path_and_whether_that_is_what_is_wrong(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 5000)
    with pytest.raises(OSError, match="too long") as caught:
        long.stat()
    assert fault_of(caught.value) == (f"{long}: File name too long", True)
    with pytest.raises(OSError, match="No space") as caught, naming(tmp_path / "full"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert fault_of(caught.value) == (f"{tmp_path / 'full'}: No space left on device", False)
    with pytest.raises(OSError, match="memory") as caught, naming(tmp_path / "large"):
        raise MemoryError
    assert fault_of(caught.value) == (f"{tmp_path / 'large'}: Cannot allocate memory", False)
    assert fault_of(MemoryError()) == ("the memory is full", False)


def test_what_is_no_file_is_called_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "gone").symlink_to("nowhere")
    said = [why_no_file(tmp_path / name) for name in ("", "loop", "gone", "none", "x" * 5000)]
    assert said == [
        "is a folder",
        "is no file (Too many levels of symbolic links)",
        "is a link to nothing",
        "does not exist",
        "is no file (File name too long)",
    ]
