"""Some hundred of the hostile inputs that `tests/hostile.py` makes; run as a program, that tries all of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

KINDS = (
    "bytes",
    "node",
    "key",
    "yaml",
    "run key",
    "shard",
    "number",
    "word",
    "setting",
    "prompt",
    "zip",
    "target",
    "full",
    "open files",
    "large",
)


def test_hostile_inputs_of_every_kind_end_in_one_short_sentence_and_change_nothing() -> None:
    # In a process of its own: one that has trained or embedded before can be copied, but not embed in the copy.
    run = subprocess.run(
        [sys.executable, "-m", "tests.hostile", "--most", "30"],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["wrong"] == 0, run.stdout
    assert set(found["tried"]) == set(KINDS)
    assert sum(found["tried"].values()) > 400
