import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from smt_plugin.cli.app import cli
from smt_plugin.config import read_study_file
from smt_plugin.generation.generate import methods_of
from smt_plugin.microworld import archive

STUDIES = sorted((Path(__file__).parents[2] / "examples" / "studies").glob("figure-*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_a_study_can_be_planned_once_its_archive_is_there(path: Path, tmp_path: Path) -> None:
    shutil.copytree(path.parent, tmp_path, dirs_exist_ok=True)
    archive.write(tmp_path / "archive")
    study, run_file = read_study_file(tmp_path / path.name)
    # What a mix at the largest budget takes of each method, with the fifth of the questions that are duplicates.
    for mix in study.mixes.values():
        for method, share in mix.shares.items():
            needed = max(study.budgets) * share / sum(mix.shares.values())
            assert methods_of(run_file)[method][1] > needed / 0.8
    result = CliRunner().invoke(cli, ["study", "plan", str(tmp_path / path.name)], catch_exceptions=False)
    assert result.exit_code == 0
    assert f"{len(study.mixes) * len(study.budgets)} cells, 0 of them done" in result.output
