"""lm-eval on a real vLLM: in its own process, and at a server; the samples of a question must differ on both."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from smt_plugin.assets import asset_dir
from tests.quality_data import write_own
from tests.vllm_server.server import Server

pytestmark = pytest.mark.vllm


def samples(tmp_path: Path, environment: dict[str, str], *arguments: str) -> list[list[str]]:
    """Run quality_smt on two questions and return the eight answers to each."""
    metadata = json.dumps({"data": str(write_own(tmp_path / "data"))})
    command = [sys.executable, "-m", "lm_eval", "run", "--tasks", "quality_smt", "--metadata", metadata]
    command += ["--include_path", str(asset_dir("lm_eval_tasks")), "--apply_chat_template", "--limit", "2"]
    command += ["--log_samples", "--output_path", str(tmp_path / "out"), *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
    (path,) = (tmp_path / "out").rglob("samples_quality_smt_*.jsonl")
    return [json.loads(line)["filtered_resps"] for line in path.read_text().splitlines()]


def check(answers: list[list[str]]) -> None:
    assert len(answers) == 2
    for (eight,) in answers:
        assert len(eight) == 8
        assert all(eight)
        assert len(set(eight)) > 1


def test_in_process_the_samples_of_a_question_differ(
    tmp_path: Path, model_folder: Path, vllm_environment: dict[str, str]
) -> None:
    model_args = f"pretrained={model_folder},dtype=float32,enforce_eager=True,max_model_len=4096,enable_thinking=False"
    check(
        samples(
            tmp_path,
            vllm_environment,
            *("--model", "vllm", "--model_args", model_args, "--batch_size", "auto"),
            *("--gen_kwargs", "max_gen_toks=32"),
        )
    )


def test_at_a_server_they_differ_too_since_no_seed_is_sent(tmp_path: Path, server: Server) -> None:
    environment = os.environ | {"OPENAI_API_KEY": server.api_key, "HF_HUB_OFFLINE": "1"}
    model_args = f"model={server.model},base_url={server.url}/chat/completions,num_concurrent=4,tokenizer_backend=None"
    arguments = ["--model", "local-chat-completions", "--model_args", model_args, "--batch_size", "1"]
    check(samples(tmp_path / "none", environment, *arguments, "--gen_kwargs", '{"seed": null, "max_gen_toks": 32}'))
