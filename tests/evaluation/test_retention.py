"""A stand-in task of invented sums, since lm-eval's own tasks take their data from the hub."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from smt_plugin.cli.app import cli
from smt_plugin.config import EvaluateSection, read_run_file
from smt_plugin.errors import BadInput
from smt_plugin.evaluation.arms import outdated, ready_arms
from smt_plugin.evaluation.retention import retention_arms, retention_results
from smt_plugin.report.results import RunResults
from smt_plugin.report.sections import forgotten
from smt_plugin.training.trainings import Training, trainings_of
from tests.report.test_report import finish_arm
from tests.tiny_llama import MICROWORLD_LIKE, make_model, make_tokenizer

TASK = """\
task: stand_in_sums
dataset_path: json
dataset_kwargs:
  data_files: {data}
test_split: train
output_type: multiple_choice
doc_to_text: "{{{{ question }}}}"
doc_to_choice: "{{{{ options }}}}"
doc_to_target: "{{{{ answer }}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_norm
    aggregation: mean
    higher_is_better: true
"""


def make_task(folder: Path) -> None:
    rows = [
        {"question": f"{n} and {n}?", "options": [str(n + k) for k in range(4)], "answer": n % 4} for n in range(12)
    ]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "stand_in_sums.yaml").write_text(TASK.format(data=folder / "sums.jsonl"))


def test_one_command_asks_both_models_the_same_questions_and_the_report_shows_what_was_forgotten(
    tmp_path: Path,
) -> None:
    make_task(tmp_path)
    for name in ("base", "run/model"):
        make_model(make_tokenizer(tmp_path / name, MICROWORLD_LIKE))
    run_file = tmp_path / "smt.yaml"
    run_file.write_text(
        "run: run\ncorpus: corpus\nbackend: {kind: microworld}\nmethods: {synthetic_qa: {tokens: 1K}}\n"
        f"train: {{config: microworld/full, base_model: {tmp_path / 'base'}}}\n"
        "evaluate:\n  benchmark: microworld\n  arms: [base_rag]\n  batch_size: '4'\n"
        "  retention: {tasks: [stand_in_sums], include_path: ., limit: 10}\n"
    )
    result = CliRunner().invoke(cli, ["retention", str(run_file)])
    assert result.exit_code == 0, result.output
    assert "skipped" not in result.output
    assert CliRunner().invoke(cli, ["retention", str(run_file)]).output.count("done before, skipped") == 2
    settings = read_run_file(run_file)
    assert settings.evaluate is not None
    arms, _ = retention_arms(
        settings.run, settings.evaluate, str(tmp_path / "base"), trainings_of(settings.run, settings.mix.budgets)
    )
    assert outdated(arms) == []
    (tmp_path / "run" / "more.yaml").write_text("task: of the run, not among the tasks")
    assert outdated(arms) == []
    (tmp_path / "stand_in_sums.yaml").write_text((tmp_path / "stand_in_sums.yaml").read_text() + "# changed\n")
    assert len(outdated(arms)) == 2
    (change,) = retention_results(tmp_path / "run")
    assert (change.task, change.metric, change.before.questions) == ("stand_in_sums", "acc_norm", 10)
    # The same weights before and after.
    assert (change.before.mean, change.difference.mean) == (change.after.mean, 0.0)
    finish_arm(tmp_path / "run", "base_rag", [0.5, 1.0, 0.75, 0.75])
    shown = CliRunner().invoke(cli, ["report", str(run_file)])
    assert "What was forgotten" in shown.output
    assert "stand_in_sums" in (tmp_path / "run" / "report.html").read_text()


def write_samples(run: Path, name: str, values: list[float], task: str = "sums_of_two") -> None:
    folder = run / "retention" / name / "model"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"doc_id": n, "doc_hash": f"h{n}", "filter": reader, "metrics": ["bleu", "exact_match"], "exact_match": value}
        for n, value in enumerate(values)
        for reader, value in (("strict-match", 0.0), ("flexible-extract", value))
    ]
    (folder / f"samples_{task}_2026-11-21T03.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "retention" / name / "arm.json").write_text("{}")


def test_a_loss_is_told_with_its_interval_from_the_forgiving_reader(tmp_path: Path) -> None:
    assert retention_results(tmp_path) == []
    write_samples(tmp_path, "base", [1.0] * 60)
    assert retention_results(tmp_path) == []
    write_samples(tmp_path, "trained", [1.0, 0.0, 1.0] * 20)
    (change,) = retention_results(tmp_path)
    assert (change.task, change.metric) == ("sums_of_two", "exact_match")
    assert change.difference.mean == pytest.approx(-1 / 3)
    assert change.difference.low < -1 / 3 < change.difference.high < 0
    (row,) = forgotten(RunResults(tmp_path, [], changes=[change])).rows
    assert list(row[:6]) == ["sums_of_two", "trained", "exact_match", "60", "100.0%", "66.7%"]


def test_different_questions_or_tasks_are_not_compared(tmp_path: Path) -> None:
    write_samples(tmp_path, "base", [1.0, 0.0])
    write_samples(tmp_path, "trained", [1.0, 0.0, 0.0])
    with pytest.raises(BadInput, match="answered different questions of sums_of_two"):
        retention_results(tmp_path)
    write_samples(tmp_path, "trained", [1.0, 0.0], task="other")
    with pytest.raises(BadInput, match="other was asked of one model only"):
        retention_results(tmp_path)


def test_one_question_a_task_gives_no_verdict(tmp_path: Path) -> None:
    for name in ("base", "trained"):
        write_samples(tmp_path, name, [1.0])
    (change,) = retention_results(tmp_path)
    assert (change.before.mean, change.difference.refusal) == (1.0, "no verdict from 1 document; it takes 4")


def test_a_model_whose_path_lm_eval_would_cut_at_a_comma_is_refused(tmp_path: Path) -> None:
    section = EvaluateSection(benchmark="microworld", arms=["base"])
    with pytest.raises(BadInput, match="the model my, base: lm_eval takes a comma in its name"):
        ready_arms(tmp_path, section, "my, base", [])
    training = Training(tmp_path / "one, two")
    training.model.mkdir(parents=True)
    (training.model / "model.safetensors").touch()
    with pytest.raises(BadInput, match=r"the model .*one, two/model: lm_eval takes a comma"):
        retention_arms(tmp_path, section, "base", [training])


def test_the_suite_is_named_in_plain_commands_and_needs_the_trained_model(tmp_path: Path) -> None:
    section = EvaluateSection(benchmark="microworld")
    with pytest.raises(BadInput, match="run: axolotl train"):
        retention_arms(tmp_path, section, "base", [Training(tmp_path)])
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").touch()
    (before, after), missing = retention_arms(tmp_path, section, "base", [Training(tmp_path)])
    assert missing == []
    suite = "--tasks arc_challenge,hellaswag,winogrande,gsm8k,ifeval --apply_chat_template"
    assert suite in before.text
    assert "pretrained=base,enable_thinking=False" in before.text
    assert (
        before.text.split("--tasks")[1].split("--output_path")[0]
        == after.text.split("--tasks")[1].split("--output_path")[0]
    )
