"""Batch files worked off by the real `vllm run-batch`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vllm_server.server import VLLM_SERVE

pytestmark = pytest.mark.vllm

ROOT = Path(__file__).parents[2]


def smt(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a command of `smt` in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "smt_plugin", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_vllm_run_batch_does_the_work_of_a_run(
    model_folder: Path, vllm_environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "archive").mkdir()
    for name in ("Mill", "Weir"):
        (tmp_path / "archive" / f"{name}.txt").write_text(f"The {name} ground rye until the flood of 1911. " * 60)
    content = {
        "run": "run",
        "corpus": "archive",
        "backend": {"endpoints": ["http://127.0.0.1:9/v1"], "model": str(model_folder)},
        "methods": {"synthetic_qa": {"tokens": 10, "pairs_per_call": 2}, "wrap": {"tokens": 10, "max_tokens": 256}},
    }
    (tmp_path / "smt.yaml").write_text(json.dumps(content))
    exported = smt(tmp_path, "batch", "export", "smt.yaml", "requests")
    assert exported.returncode == 0, exported.stderr
    assert "4 requests in 1 files: requests/requests-0001.jsonl" in exported.stdout
    work = subprocess.run(
        [
            VLLM_SERVE[0],
            "run-batch",
            *("-i", "requests/requests-0001.jsonl", "-o", "results.jsonl", "--model", str(model_folder)),
            *("--enforce-eager", "--dtype", "float32", "--enable-prompt-tokens-details"),
        ],
        cwd=tmp_path,
        env=vllm_environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert work.returncode == 0, work.stdout[-2000:] + work.stderr[-2000:]
    imported = smt(tmp_path, "batch", "import", "smt.yaml", "results.jsonl")
    assert imported.returncode == 0, imported.stdout + imported.stderr
    assert "4 results: 4 taken (0 rejected, 0 refused), 0 failed for now, 0 known already" in imported.stdout
    for method in ("synthetic_qa", "wrap"):
        lines = (tmp_path / "run" / "records" / f"{method}.jsonl").read_text().splitlines()
        assert {json.loads(line)["doc_id"] for line in lines} == {"Mill.txt", "Weir.txt"}
