"""A training that is killed and resumed ends as one that was left alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from smt_plugin.config import MixSection
from smt_plugin.mixing.mix import mix_run
from smt_plugin.training.axolotl_config import write_axolotl_config
from tests.tiny_llama import MICROWORLD_LIKE, make_model, make_tokenizer
from tests.training_records import write_records

OFTEN = {"num_epochs": 3, "save_strategy": "steps", "save_steps": 5, "logging_steps": 1, "dataloader_pin_memory": False}


def start(config: Path, output: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """Start `axolotl train` with another output folder."""
    own = config.with_name(f"{output.name}.yaml")
    own.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), "output_dir": str(output)}))
    axolotl = Path(sys.executable).parent / "axolotl"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "AXOLOTL_DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1"}
    with output.with_suffix(".log").open("ab") as log:
        command = [axolotl, "train", own, "--launcher", "python", *arguments]
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def finished(process: subprocess.Popen[bytes], output: Path) -> dict[int, float]:
    """Wait for a training, and return its loss at every step."""
    assert process.wait(600) == 0, output.with_suffix(".log").read_text(errors="replace")[-3000:]
    last = max(output.glob("checkpoint-*"), key=lambda folder: int(folder.name.removeprefix("checkpoint-")))
    history = json.loads((last / "trainer_state.json").read_text())["log_history"]
    return {entry["step"]: entry["loss"] for entry in history if "loss" in entry}


@pytest.mark.slow
def test_a_killed_and_resumed_training_ends_as_two_that_were_left_alone(tmp_path: Path) -> None:
    base = make_model(make_tokenizer(tmp_path / "base", MICROWORLD_LIKE))
    run = write_records(tmp_path, count=60)
    mix_run(run, MixSection(tokenizer=str(base), replay=str(tmp_path / "replay.jsonl"), sequence_len=256))
    config = write_axolotl_config(run, "microworld/full", base_model=str(base), overrides=OFTEN)

    left_alone = {name: start(config, run / name) for name in ("first", "second")}
    alone = [finished(process, run / name) for name, process in left_alone.items()]
    killed = run / "killed"
    process = start(config, killed)
    deadline = time.monotonic() + 600
    while not (killed / "checkpoint-10" / "trainer_state.json").is_file():
        assert process.poll() is None, killed.with_suffix(".log").read_text(errors="replace")[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (killed / "model.safetensors").exists()
    resumed = finished(start(config, killed, "--auto-resume-from-checkpoints"), killed)

    assert "auto-resume" in killed.with_suffix(".log").read_text(errors="replace")
    steps = max(alone[0])
    assert steps > 20
    assert max(resumed) == steps
    apart = max(abs(alone[0][step] - alone[1][step]) for step in alone[0])
    assert abs(resumed[steps] - alone[0][steps]) <= apart + 1e-6
    weights = [load_file(run / name / "model.safetensors") for name in ("first", "second", "killed")]
    for key, first in weights[0].items():
        difference = float((first - weights[1][key]).abs().max())
        assert float((first - weights[2][key]).abs().max()) <= difference + 1e-6
