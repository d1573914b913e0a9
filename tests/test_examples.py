import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from smt_plugin.assets import asset_dir
from smt_plugin.cli.app import cli
from smt_plugin.config import read_run_file, retrieval_settings
from smt_plugin.config.run_file import load_yaml
from smt_plugin.files import read_jsonl
from smt_plugin.generation.generate import methods_of
from tests.endpoint import MODEL, Endpoint, in_thread

EXAMPLES = Path(__file__).parent.parent / "examples"
RUN_FILES = sorted(
    path.relative_to(EXAMPLES).as_posix()
    for path in EXAMPLES.rglob("*.yaml")
    if path.parent.name != "studies" and path.name != "study-sky.yaml"
)


@pytest.mark.parametrize("name", RUN_FILES)
def test_every_run_file_names_what_there_is(name: str) -> None:
    settings = read_run_file(EXAMPLES / name)
    assert set(settings.mix.shares) <= set(methods_of(settings))
    assert (asset_dir("axolotl_configs") / f"{settings.train.config}.yaml").is_file()
    assert settings.evaluate is not None
    retrieval_settings(settings.evaluate.benchmark, settings.evaluate.retrieval)
    if settings.mix.budgets:
        assert max(settings.mix.budgets) <= sum(budget for _, budget in methods_of(settings).values())


@pytest.mark.parametrize("name", [name for name in RUN_FILES if name != "quality.yaml"])
def test_a_run_on_the_examples_documents_can_be_planned(name: str) -> None:
    result = CliRunner().invoke(cli, ["plan", str(EXAMPLES / name)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "3 documents" in result.output
    assert not read_run_file(EXAMPLES / name).run.exists()


def test_the_own_documents_are_generated_from(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES / "own-documents", tmp_path, dirs_exist_ok=True)
    run_file = tmp_path / "smt.yaml"
    with in_thread(Endpoint()) as endpoint:
        text = run_file.read_text().replace("http://127.0.0.1:8000/v1", endpoint.url)
        run_file.write_text(text.replace("Qwen/Qwen3-30B-A3B-Instruct-2507", MODEL))
        result = CliRunner().invoke(cli, ["generate", str(run_file)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    for method in ("synthetic_qa", "focal_rewrite"):
        records = [row for _, row in read_jsonl(tmp_path / "run" / "records" / f"{method}.jsonl")]
        assert {row["doc_id"] for row in records} == {path.name for path in (tmp_path / "documents").iterdir()}
        assert sum(row["tokens"] for row in records) == pytest.approx(20_000, rel=0.05)


@pytest.fixture
def said(tmp_path: Path) -> Callable[..., str]:
    """Runs a script in whose stead `smt` and `ray` say what they were asked, and returns that."""
    for name in ("smt", "ray"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
        (tmp_path / name).chmod(0o755)

    def run(script: list[str], **environment: str) -> str:
        own = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"} | environment
        return subprocess.run(script, env=own, capture_output=True, text=True, check=True).stdout

    return run


def test_the_array_job_gives_each_job_its_shard(said: Callable[..., str]) -> None:
    script = ["sh", str(EXAMPLES / "shards.sh"), "my run.yaml"]
    assert said(script, SLURM_ARRAY_TASK_ID="2") == "smt generate my run.yaml --shard 2/4\n"


def test_the_array_job_of_a_study_gives_each_job_its_cells(said: Callable[..., str]) -> None:
    script = ["sh", str(EXAMPLES / "study-array.sh"), "my study.yaml"]
    asked = said(script, SLURM_ARRAY_TASK_ID="3", SLURM_ARRAY_TASK_COUNT="12")
    assert asked == "smt study run my study.yaml --cell 3/12\n"


def test_the_ray_jobs_of_a_study_get_all_its_parts(said: Callable[..., str], tmp_path: Path) -> None:
    study = tmp_path / "my study.yaml"
    study.touch()
    asked = said(["sh", str(EXAMPLES / "study-ray.sh"), str(study), "2", "8"])
    begin = f"ray job submit --no-wait --entrypoint-num-gpus 8 -- smt study run {study} --cell"
    assert asked == f"{begin} 1/2\n{begin} 2/2\n"


def test_each_node_of_skypilot_gets_its_cells(said: Callable[..., str]) -> None:
    task = load_yaml(EXAMPLES / "study-sky.yaml")
    asked = said(["sh", "-c", task["run"]], SKYPILOT_NODE_RANK="3", SKYPILOT_NUM_NODES="4", STUDY="my study.yaml")
    assert asked == "smt study run my study.yaml --cell 4/4\n"
