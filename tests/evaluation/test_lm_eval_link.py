"""Pointers are written into a copy of the installed lm-eval, so that the environment stays as it is."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from smt_plugin.assets import asset_dir
from smt_plugin.evaluation.lm_eval_link import task_files
from tests.quality_data import write_own
from tests.tiny_llama import MICROWORLD_LIKE, make_model, make_tokenizer

ROOT = Path(__file__).parents[2]
BENCHMARKS = ("chronicle", "corpus", "financebench", "longhealth", "microworld", "quality")
LIKELIHOOD = ("chronicle", "corpus", "longhealth", "quality")
PROMISED = {f"{benchmark}_smt{arm}" for benchmark in BENCHMARKS for arm in ("", "_full", "_rag", "_all")}
PROMISED |= {f"{benchmark}_smt{arm}_ll" for benchmark in LIKELIHOOD for arm in ("", "_full", "_rag")}
TASKS = [path.stem for path in task_files()]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with lm-eval in it, without its own thousands of task files."""
    spec = find_spec("lm_eval")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).parent

    def own_tasks(folder: str, names: list[str]) -> list[str]:
        return [n for n in names if Path(folder) == source / "tasks" and not n.endswith(".py")]

    shutil.copytree(source, tmp_path / "site" / "lm_eval", ignore=own_tasks)
    return tmp_path / "site"


def python(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(site), str(ROOT)])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=site,
        env={**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def link(site: Path, call: str) -> str:
    """What a function of the module returns, as text; or its error."""
    code = "from smt_plugin import errors\nfrom smt_plugin.evaluation import lm_eval_link as link\n"
    code += f"try:\n    print({call})\n"
    result = python(site, "-c", code + "except errors.BadInput as error:\n    print('BadInput:', error)")
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def pointers(site: Path) -> dict[str, str]:
    """What was installed, by name."""
    return {path.name: path.read_text() for path in (site / "lm_eval" / "tasks" / "smt_plugin").iterdir()}


def test_every_task_file_is_named_like_its_task() -> None:
    assert set(TASKS) >= PROMISED
    for path in task_files():
        assert re.search(rf"^(task|group): {path.stem}$", path.read_text(), re.MULTILINE)


def test_the_bare_task_name_works_after_installing_and_no_more_after_uninstalling(site: Path, tmp_path: Path) -> None:
    data = json.dumps({"data": str(write_own(tmp_path / "quality"))})
    model = make_model(make_tokenizer(tmp_path / "model", MICROWORLD_LIKE))
    run = ["-m", "lm_eval", "--model", "hf", "--model_args", f"pretrained={model}", "--tasks", "quality_smt"]
    run += ["--metadata", data, "--limit", "2", "--batch_size", "16", "--gen_kwargs", "max_gen_toks=4"]
    folder = site / "lm_eval" / "tasks" / "smt_plugin"
    assert link(site, "len(link.install())") == str(len(TASKS))
    assert sorted(path.stem for path in folder.iterdir()) == TASKS
    result = python(site, *run)
    assert result.returncode == 0, result.stderr
    assert "|quality_smt|" in result.stdout
    assert link(site, "len(link.uninstall())") == str(len(TASKS))
    assert not folder.exists()
    assert link(site, "link.uninstall()") == "[]"
    assert "not found" in python(site, *run).stderr.lower()


def test_installing_twice_changes_nothing(site: Path) -> None:
    first = link(site, "link.install()")
    before = pointers(site)
    assert link(site, "link.install()") == first
    assert pointers(site) == before


def test_pointers_to_another_place_and_of_other_tasks_are_replaced_by_installing(site: Path) -> None:
    link(site, "link.install()")
    before = pointers(site)
    folder = site / "lm_eval" / "tasks" / "smt_plugin"
    (folder / "quality_smt.yaml").write_text('include: "/gone/quality_smt.yaml"\ntask: quality_smt\n')
    (folder / "old_smt.yaml").write_text('include: "/gone/old_smt.yaml"\ntask: old_smt\n')
    (folder / "quality_smt_rag.yaml").unlink()
    # A kill may leave a part of a pointer, which is never one that lm_eval reads.
    (folder / "quality_smt_full.yaml.7.partial").write_text('include: "/go')
    link(site, "link.install()")
    assert pointers(site) == before


def test_a_pointer_that_cannot_be_written_whole_leaves_the_old_one(site: Path) -> None:
    link(site, "link.install()")
    before = pointers(site)
    code = (
        "import os, smt_plugin.files as files, smt_plugin.evaluation.lm_eval_link as link\n"
        "def full(*paths): raise OSError(28, 'No space left on device')\n"
        "os.fsync = full\n"
        "try:\n    link.install()\nexcept link.BadInput as error:\n    print(error)"
    )
    assert "No space left on device" in python(site, "-c", code).stdout
    assert pointers(site) == before


def test_a_folder_with_other_things_in_it_is_left_alone(site: Path) -> None:
    folder = site / "lm_eval" / "tasks" / "smt_plugin"
    folder.mkdir()
    (folder / "utils.py").write_text("")
    for call in ("link.install()", "link.uninstall()"):
        assert "holds files that are not ours (utils.py)" in link(site, call)
    assert [path.name for path in folder.iterdir()] == ["utils.py"]


OTHERS = {
    "mine.yaml": "task: mine\n",
    "quality_smt_mine.yaml": "task: quality_smt_mine\ninclude: other.yaml\ndoc_to_text: x\n",
    "my_smt.yaml": "group: my_smt\ntask:\n  - arc_easy\n",
    "draft.partial": "half a text",
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_others_put_beside_the_pointers_is_neither_deleted_nor_written_over(site: Path, name: str) -> None:
    link(site, "link.install()")
    (site / "lm_eval" / "tasks" / "smt_plugin" / name).write_text(OTHERS[name])
    before = pointers(site)
    for call in ("link.install()", "link.uninstall()"):
        assert f"holds files that are not ours ({name})" in link(site, call)
    assert pointers(site) == before


def test_no_link_is_followed_into_a_folder_of_others(site: Path, tmp_path: Path) -> None:
    others = tmp_path / "others"
    others.mkdir()
    (others / "precious.yaml").write_text("task: precious\n")
    (others / "quality_smt.yaml").write_text('include: "/x/quality_smt.yaml"\ntask: quality_smt\n')
    before = {path.name: path.read_text() for path in others.iterdir()}
    folder = site / "lm_eval" / "tasks" / "smt_plugin"
    folder.symlink_to(others)
    for call in ("link.install()", "link.uninstall()"):
        assert "smt_plugin is a link, and what it leads to is not ours" in link(site, call)
    folder.unlink()
    folder.mkdir()
    (folder / "quality_smt.yaml").symlink_to(others / "quality_smt.yaml")
    for call in ("link.install()", "link.uninstall()"):
        assert "holds files that are not ours (quality_smt.yaml)" in link(site, call)
    assert {path.name: path.read_text() for path in others.iterdir()} == before


def test_pointers_can_be_read_by_all_who_use_that_lm_eval_however_strict_the_umask(site: Path) -> None:
    link(site, "__import__('os').umask(0o077) and link.install()")
    folder = site / "lm_eval" / "tasks" / "smt_plugin"
    assert folder.stat().st_mode & 0o777 == 0o755
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}


def test_a_place_that_cannot_be_written_names_the_other_way(site: Path) -> None:
    # A file in the folder's place refuses writing even to root, whom permissions do not stop.
    tasks = site / "lm_eval" / "tasks"
    (tasks / "smt_plugin").write_text("")
    said = link(site, "link.install()")
    assert said.startswith(f"BadInput: cannot write into {tasks / 'smt_plugin'}")
    assert f"--include_path {asset_dir('lm_eval_tasks')}" in said


def test_without_lm_eval_the_message_names_the_extra(tmp_path: Path) -> None:
    code = (
        "import smt_plugin.evaluation.lm_eval_link as link\n"
        "link.find_spec = lambda name: None\n"
        "try:\n    link.install()\nexcept link.BadInput as error:\n    print(error)"
    )
    assert "pip install 'smt-plugin[eval]'" in python(tmp_path, "-c", code).stdout
