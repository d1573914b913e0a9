"""`smt generate` that starts `vllm serve` itself, and leaves nothing of it behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.processes import wait_for
from tests.vllm_server.server import ARGUMENTS, VLLM_SERVE

pytestmark = pytest.mark.vllm


def start(folder: Path, model: Path, environment: dict[str, str], tokens: int = 500) -> "subprocess.Popen[str]":
    """Write a run file for one short document, and start `smt generate` on it.

    Each run serves a copy of the model in its own folder, by which its server can be told from others.
    """
    shutil.copytree(model, folder / "model")
    (folder / "archive").mkdir()
    (folder / "archive" / "Mill.txt").write_text("The mill by the weir ground rye until the flood of 1911. " * 40)
    content: dict[str, Any] = {
        "run": "run",
        "corpus": "archive",
        "backend": {"kind": "vllm", "model": str(folder / "model"), "command": VLLM_SERVE, "arguments": ARGUMENTS},
        "methods": {"synthetic_qa": {"tokens": tokens, "pairs_per_call": 2}},
    }
    (folder / "smt.yaml").write_text(json.dumps(content))
    command = [sys.executable, "-m", "smt_plugin", "generate", "smt.yaml"]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def process_group(model: Path) -> int | None:
    """Return the process group of the server of this model, or None."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
            if str(model).encode() in arguments and b"serve" in arguments:
                return os.getpgid(int(entry.name))
        except (OSError, ValueError):
            continue
    return None


def members(group: int) -> list[str]:
    """Return the names of the processes of a group that have not ended."""
    names = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            name, _, rest = (entry / "stat").read_text().partition("(")[2].rpartition(")")
            state, _, pgrp = rest.split()[:3]
            if int(pgrp) == group and state != "Z":
                names.append(name)
        except (OSError, ValueError):
            continue
    return names


def test_a_run_starts_vllm_serve_and_stops_it(
    tmp_path: Path, model_folder: Path, vllm_environment: dict[str, str]
) -> None:
    smt = start(tmp_path, model_folder, vllm_environment)
    assert wait_for(lambda: process_group(tmp_path / "model"), 60)
    group = process_group(tmp_path / "model")
    assert group is not None
    output, errors = smt.communicate(timeout=600)
    assert smt.returncode == 0, errors
    assert "completions asked" in output
    assert (tmp_path / "run" / "records" / "synthetic_qa.jsonl").read_text().count("\n") > 0
    assert "Application startup complete" in (tmp_path / "run" / "vllm-0.log").read_text()
    assert members(group) == []


def test_ctrl_c_takes_all_of_the_servers_processes_along(
    tmp_path: Path, model_folder: Path, vllm_environment: dict[str, str]
) -> None:
    smt = start(tmp_path, model_folder, vllm_environment)
    assert wait_for(lambda: process_group(tmp_path / "model"), 60)
    group = process_group(tmp_path / "model")
    assert group is not None
    # The engine runs in processes of its own, which are what a careless stop leaves behind.
    assert wait_for(lambda: any("VLLM" in name for name in members(group)), 300)
    smt.send_signal(signal.SIGINT)
    smt.communicate(timeout=60)
    assert wait_for(lambda: not members(group), 60), members(group)


def test_a_server_killed_midway_is_started_again_and_its_engine_is_gone(
    tmp_path: Path, model_folder: Path, vllm_environment: dict[str, str]
) -> None:
    def count(what: str) -> int:
        log = tmp_path / "run" / "vllm-0.log"
        return log.read_text().count(what) if log.exists() else 0

    smt = start(tmp_path, model_folder, vllm_environment, tokens=20_000)
    assert wait_for(lambda: count("POST /v1/chat/completions") > 0, 300)
    group = process_group(tmp_path / "model")
    assert group is not None
    os.kill(group, signal.SIGKILL)
    _, errors = smt.communicate(timeout=600)
    assert smt.returncode == 0, errors
    assert "vLLM 0 is healthy again" in errors
    assert count("Application startup complete") == 2
    assert members(group) == []
    ids = [json.loads(line)["id"] for line in (tmp_path / "run/records/synthetic_qa.jsonl").read_text().splitlines()]
    assert len(ids) == len(set(ids)) > 10
