"""A run with several budgets through all commands behind the mix: each has its own model, arms and card."""

import json
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from smt_plugin.cli.app import cli
from smt_plugin.errors import BadInput
from smt_plugin.evaluation.arms import arms_of, model_hash
from smt_plugin.evaluation.retention import retention_results
from smt_plugin.training.trainings import Training, trainings_of
from tests.evaluation.test_retention import write_samples
from tests.report.test_report import finish_arm
from tests.tiny_llama import MICROWORLD_LIKE, make_model, make_tokenizer
from tests.training_records import write_records

WORSE, BETTER, BEST = [0.0, 0.5, 0.25, 0.25], [0.5, 0.5, 0.25, 0.75], [1.0, 0.5, 0.75, 1.0]


def smt(*arguments: str) -> Result:
    result = CliRunner().invoke(cli, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit | BadInput), result.exception
    return result


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    """A run with mixes of 1K and 3K tokens, of which only the smaller one's model is there."""
    write_records(tmp_path, count=60)
    base = make_model(make_tokenizer(tmp_path / "base", MICROWORLD_LIKE))
    run_file = tmp_path / "smt.yaml"
    run_file.write_text(
        "run: run\ncorpus: corpus\nbackend: {kind: microworld}\nmethods: {synthetic_qa: {tokens: 1K}}\n"
        "mix: {budgets: [3K, 1K], replay_share: 0, sequence_len: 512}\n"
        f"train: {{config: microworld/full, base_model: {base}}}\n"
        "evaluate: {benchmark: microworld, arms: [base_rag, trained, trained_rag]}\n"
    )
    assert smt("mix", str(run_file)).exit_code == 0
    make_model(make_tokenizer(tmp_path / "run/model-1K", MICROWORLD_LIKE))
    return run_file


def train_the_other(run: Path) -> None:
    make_model(make_tokenizer(run / "model-3K", MICROWORLD_LIKE))


def test_each_budget_that_is_trained_is_evaluated_and_the_other_is_named(run_file: Path) -> None:
    run = run_file.parent / "run"
    result = smt("evaluate", str(run_file), "--dry-run")
    assert result.exit_code == 1
    commands = result.stdout.splitlines()
    assert [shlex.split(command)[-1].rpartition("/")[2] for command in commands] == [
        "base_rag",
        "trained-1K",
        "trained_rag-1K",
    ]
    assert any(word.startswith(f"pretrained={run / 'model-1K'},") for word in shlex.split(commands[1]))
    assert result.stderr.splitlines()[0] == (
        f"missing: arm trained-3K: there is no trained model in {run / 'model-3K'}; run: axolotl train "
        f"{run / 'mix/3K/axolotl.yaml'}"
    )
    train_the_other(run)
    result = smt("evaluate", str(run_file), "--arm", "trained-3K", "--arm", "base", "--dry-run")
    assert (result.exit_code, result.stderr) == (0, "")
    assert [shlex.split(line)[-1].rpartition("/")[2] for line in result.stdout.splitlines()] == ["trained-3K", "base"]


def test_the_report_has_a_row_each_and_the_curve_once_two_budgets_are_there(run_file: Path) -> None:
    run = run_file.parent / "run"
    finish_arm(run, "base_rag", BETTER)
    finish_arm(run, "trained-1K", WORSE)
    result = smt("report", str(run_file))
    assert result.exit_code == 1
    assert "missing arms: trained-3K, trained_rag-1K, trained_rag-3K" in result.stderr
    assert f"missing: there is no trained model in {run / 'model-3K'}" in result.stderr
    assert "trained on 1K" in result.stdout
    assert (run / "report.html").read_text().count("<figure>") == 1
    train_the_other(run)
    finish_arm(run, "trained-3K", BEST)
    assert "missing: there is no" not in smt("report", str(run_file)).stderr
    html = (run / "report.html").read_text()
    assert html.count("<figure>") == 2
    assert "<td>trained on 3K, closed-book</td>" in html
    arms = {arm["arm"]: arm for arm in json.loads((run / "report.json").read_text())["arms"]}
    for budget in ("1K", "3K"):
        tokens = json.loads((run / "mix" / budget / "manifest.json").read_text())["tokens"]
        assert arms[f"trained-{budget}"]["mix_tokens"] == tokens
        assert f"trained on, {budget}</dt><dd>{tokens:,} tokens: " in html
        # A tick of the curve.
        assert f"<!-- {tokens:,} -->" in html
    assert arms["trained-3K"]["difference"]["mean"] == pytest.approx(0.3125)


def test_each_budget_has_a_card_with_its_own_data_and_arms(run_file: Path) -> None:
    run = run_file.parent / "run"
    result = smt("card", str(run_file))
    assert result.exit_code == 1
    assert f"missing: there is no trained model in {run / 'model-3K'}; run: axolotl train" in result.stderr
    train_the_other(run)
    for arm, accuracies in (("base_rag", BETTER), ("trained-1K", WORSE), ("trained-3K", BEST)):
        finish_arm(run, arm, accuracies)
        model = run / f"model-{arm.partition('-')[2]}"
        (run / "results" / arm / "arm.json").write_text(json.dumps({"model": model_hash(model)}))
    smt("report", str(run_file))
    assert smt("card", str(run_file)).exit_code == 0
    card = (run / "model-3K/README.md").read_text()
    assert "budget asked: 3K; at most 512 tokens a text" in card
    assert "| base_rag | 50.0% |" in card
    assert "| trained-3K | 81.2% |" in card
    assert "trained-1K" not in card
    assert "output_dir: model-3K" in card
    assert "path: mix/3K/qa.jsonl" in card
    assert str(run.parent) not in card
    assert "budget asked: 1K;" in (run / "model-1K/README.md").read_text()


def test_what_each_budget_forgot_is_told_apart(tmp_path: Path) -> None:
    write_samples(tmp_path, "base", [1.0] * 60)
    write_samples(tmp_path, "trained-10M", [1.0, 0.0] * 30)
    trainings = trainings_of(tmp_path, [30_000_000, 10_000_000])
    (change,) = retention_results(tmp_path, trainings)
    assert (change.model, change.difference.mean) == ("trained-10M", -0.5)
    write_samples(tmp_path, "trained-30M", [0.0] * 60)
    assert [change.difference.mean for change in retention_results(tmp_path, trainings)] == [-0.5, -1.0]


def test_an_arm_of_an_unknown_budget_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    budgets = trainings_of(tmp_path, [10_000_000, 30_000_000])
    assert list(arms_of(["trained", "base", "trained_rag-30M"], budgets)) == [
        *("trained-10M", "trained-30M", "base", "trained_rag-30M")
    ]
    for name in ("trained-20M", "base-10M", "other"):
        with pytest.raises(BadInput, match=rf"unknown arm '{name}'.*as in trained-10M \(10M, 30M\)"):
            arms_of([name], budgets)
    assert arms_of(["trained"], [Training(tmp_path)]) == {"trained": Training(tmp_path)}
    with pytest.raises(BadInput, match="unknown arm 'trained-10M'"):
        arms_of(["trained-10M"], [Training(tmp_path)])


def test_an_unknown_arm_of_the_command_line_is_told_as_such(run_file: Path) -> None:
    error = smt("evaluate", str(run_file), "--arm", "trained-1k", "--dry-run").exception
    assert str(error).startswith("--arm: unknown arm 'trained-1k'; use some of base, ")


def test_an_adapter_that_is_not_merged_is_not_taken_for_a_model(tmp_path: Path) -> None:
    training = Training(tmp_path, "10M")
    training.output.mkdir()
    training.mix.mkdir(parents=True)
    training.config.write_text("adapter: lora\n")
    (training.output / "adapter_model.safetensors").touch()
    assert training.unready() == (
        f"the adapter in {tmp_path / 'model-10M'} is not merged yet; run: axolotl merge-lora "
        f"{tmp_path / 'mix/10M/axolotl.yaml'}"
    )
