from pathlib import Path

import pytest

from smt_plugin.cli.quickstart import RUN_FILE, write_files
from smt_plugin.corpus import read_documents
from smt_plugin.errors import BadInput
from smt_plugin.microworld import archive


def write(folder: Path) -> None:
    write_files(folder, RUN_FILE, lambda: archive.write(folder / "archive"))


def test_a_second_quickstart_goes_on_and_one_with_a_changed_run_file_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "quickstart"
    write(folder)
    files = sorted((folder / "archive").iterdir())
    before = [file.read_bytes() for file in files]
    files[0].write_text("{}")
    write(folder)
    assert [file.read_bytes() for file in files] == before
    assert sorted((folder / "archive").iterdir()) == files
    changed = RUN_FILE.replace("120K", "60K")
    (folder / "smt.yaml").write_text(changed)
    with pytest.raises(BadInput, match=r"smt\.yaml is there already and is not what `smt quickstart` writes"):
        write(folder)
    assert (folder / "smt.yaml").read_text() == changed
    assert any(read_documents(folder / "archive"))


def test_a_file_in_the_place_of_the_quickstarts_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=r"file cannot be made \(something else has its name\); mend that, or"):
        write(tmp_path / "file")
