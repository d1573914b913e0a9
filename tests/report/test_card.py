import json
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from smt_plugin.cli.app import cli
from smt_plugin.config import MixSection
from smt_plugin.errors import BadInput
from smt_plugin.evaluation.arms import model_hash
from smt_plugin.mixing.mix import mix_run
from smt_plugin.report.card import write_card
from smt_plugin.report.report import write_report
from smt_plugin.report.results import RunResults, arm_results
from smt_plugin.report.sections import sections_of
from smt_plugin.training.axolotl_config import write_axolotl_config
from smt_plugin.training.trainings import Training
from tests.report.test_report import finish_arm
from tests.tiny_llama import MICROWORLD_LIKE, make_model, make_tokenizer
from tests.training_records import write_records

RUN_FILE = """\
run: .
corpus: documents
backend: {endpoints: ["http://127.0.0.1:8000/v1"], model: some/Writer-30B}
methods: {synthetic_qa: {tokens: 1M}}
"""


def first_record(run: Path) -> dict[str, str]:
    return {json.loads((run / "records/synthetic_qa.jsonl").open().readline())["id"]: "a leak"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with a mix, a config, and a model in the place of the trained one, with the card that axolotl writes."""
    run = write_records(tmp_path, count=20)
    base = make_model(make_tokenizer(tmp_path / "base", MICROWORLD_LIKE))
    settings = MixSection(tokenizer=str(base), tokens=3000, replay=str(tmp_path / "replay.jsonl"), sequence_len=256)
    mix_run(run, settings, seed=7, drop=first_record(run))
    write_axolotl_config(run, "microworld/full", base_model=str(base))
    make_model(make_tokenizer(run / "model", MICROWORLD_LIKE))
    trained(run)
    return run


def trained(run: Path) -> str:
    """Write the card that axolotl writes after a training by the run's config, and return it."""
    config = (run / "axolotl.yaml").read_text()
    text = f"# x\n<!-- This model card has been generated automatically -->\n```yaml\n{config}\n```\n"
    (run / "model" / "README.md").write_text(text)
    return text


def answer(run: Path, arm: str, accuracies: list[float]) -> None:
    """Write what an evaluation of the model that is there leaves."""
    shutil.rmtree(run / "results" / arm, ignore_errors=True)
    finish_arm(run, arm, accuracies)
    (run / "results" / arm / "arm.json").write_text(json.dumps({"model": model_hash(run / "model")}))


def report_on(run: Path, *arms: str, outdated: tuple[str, ...] = ()) -> None:
    results = RunResults(run, arm_results(run, arms), outdated=list(outdated))
    write_report(results, sections_of(results))


def test_a_card_says_on_what_and_how_the_model_was_trained_and_names_no_folder(run: Path) -> None:
    (run / "run.yaml").write_text(RUN_FILE)
    text = write_card(Training(run)).read_text()
    manifest = json.loads((run / "mix/manifest.json").read_text())
    qa = manifest["sources"]["synthetic_qa"]
    assert f"| synthetic_qa | {qa['tokens']:,} | {qa['share']:.1%} | {qa['records']:,} |" in text
    assert "budget asked: 3,000; at most 256 tokens a text; seed 7" in text
    assert manifest["content_hash"][:16] in text
    assert "learning_rate: 0.001" in text
    assert "path: mix/qa.jsonl" in text
    assert f"- axolotl {version('axolotl')}" in text
    assert "None since the training." in text
    assert "documents that `some/Writer-30B` wrote about a corpus" in text
    assert "records were dropped; mix/dropped.jsonl says which and why" in text
    assert str(run.parent) not in text


def test_a_card_names_no_key_and_no_password(run: Path) -> None:
    path = run / "axolotl.yaml"
    config = yaml.safe_load(path.read_text())
    config |= {"comet_api_key": "SECRET1", "mlflow_tracking_uri": "https://me:SECRET2@host/x", "wandb_name": "tried"}
    config |= {"callback": "https://hooks.slack.com/services/T1/B2/SECRET3", "webhook_url": "https://x/SECRET4"}
    config |= {"report_to_url": "https://host/x?token=SECRET5&n=1", "note": "api_key=SECRET6"}
    path.write_text(yaml.safe_dump(config))
    trained(run)
    text = write_card(Training(run)).read_text()
    assert "SECRET" not in text
    assert "mlflow_tracking_uri: https://host/x" in text
    assert "wandb_name: tried" in text


@pytest.mark.parametrize(
    "name",
    ["{{ 7 * 7 }}", "{% endif %}", "a: b", "- x", "null", "2024", "yes", "---", "a\n---\nb", "é # \u2028 {a", "'\""],
)
def test_a_cards_metadata_stay_yaml_whatever_the_base_model_is_called(run: Path, name: str) -> None:
    path = run / "axolotl.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"base_model": name}))
    trained(run)
    text = write_card(Training(run)).read_text(encoding="utf-8")
    head, body = text.removeprefix("---\n").split("\n---\n", 1)
    tags = ["synthetic-data", "axolotl", "smt-plugin"]
    assert yaml.safe_load(head) == {"base_model": name, "library_name": "transformers", "tags": tags}
    assert body.startswith(f"\n# {name}, trained on synthetic text about a corpus\n")


def test_a_card_shows_the_results_that_came_after_the_training(run: Path) -> None:
    answer(run, "trained", [1.0, 0.0, 1.0, 0.5])
    answer(run, "base_rag", [1.0, 0.0, 0.0, 0.0])
    report_on(run, "base", "base_rag", "trained")
    card = write_card(Training(run)).read_text()
    assert "| trained | 62.5% |" in card
    assert "| base_rag | 25.0% |" in card
    assert "| base |" not in card
    # A copy is as good, whatever the dates of its files.
    shutil.copytree(run, run.parent / "copy", copy_function=shutil.copyfile)
    assert write_card(Training(run.parent / "copy")).read_text() == card
    # Trained again since: these answers are another model's, also where a new report shows them.
    weights = run / "model/model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"!")
    report_on(run, "base_rag", "trained")
    card = write_card(Training(run)).read_text()
    assert "| trained |" not in card
    assert "| base_rag | 25.0% |" in card
    # Answered again since the report.
    (run / "results/base_rag/arm.json").write_text('{"model": "other"}')
    assert "None since the training." in write_card(Training(run)).read_text()


def test_the_data_of_a_lora_model_are_those_its_adapter_was_trained_on(run: Path) -> None:
    config = run / "axolotl.yaml"
    config.write_text(config.read_text() + "adapter: lora\n")
    (run / "model").rename(run / "merged")
    (run / "model").mkdir()
    (run / "merged").rename(run / "model/merged")
    (run / "model/merged/README.md").unlink()
    (run / "model/adapter_model.safetensors").touch()
    trained(run)
    assert "(a LoRA adapter, merged)" in write_card(Training(run)).read_text()
    # Another mix after the training, then merged.
    content = json.loads((run / "mix/manifest.json").read_text())["content_hash"]
    (run / "mix/manifest.json").write_text((run / "mix/manifest.json").read_text().replace(content, "0" * 64))
    with pytest.raises(BadInput, match=r"was trained on another mix than the one in .*mix; run: axolotl train"):
        write_card(Training(run))


def test_a_card_names_no_folder_where_paths_have_spaces_either(run: Path) -> None:
    config = run / "axolotl.yaml"
    values = yaml.safe_load(config.read_text())
    values["base_model"] = "/home/jane doe/models/" + "a long name " * 12
    config.write_text(yaml.safe_dump(values))
    trained(run)
    text = write_card(Training(run)).read_text()
    assert "jane doe" not in text
    assert "a long name a long name" in text


def test_a_card_names_the_arms_that_the_report_calls_not_up_to_date(run: Path) -> None:
    run_file = run / "smt.yaml"
    run_file.write_text(
        f"{RUN_FILE}train: {{config: microworld/full, base_model: {run.parent / 'base'}}}\n"
        "evaluate: {benchmark: microworld, arms: [base_rag, trained]}\n"
    )
    for arm, accuracies in (("trained", [1.0, 0.0, 1.0, 0.5]), ("base_rag", [1.0, 0.0, 0.0, 0.0])):
        answer(run, arm, accuracies)
    # Their arm.json says nothing of the settings that they were answered with.
    result = CliRunner().invoke(cli, ["report", str(run_file)])
    assert "not up to date: base_rag, trained: settings" in result.stderr
    card = write_card(Training(run)).read_text()
    assert "Settings, model, data or tasks have changed since these were answered: base_rag, trained." in card
    report_on(run, "base_rag", "trained", outdated=("base_rag",))
    card = write_card(Training(run)).read_text()
    assert "| trained | 62.5% |" in card
    assert "have changed since these were answered: base_rag." in card


def test_a_card_of_a_run_that_is_reached_through_a_link_names_no_folder(run: Path) -> None:
    link = run.parent / "link"
    link.symlink_to(run, target_is_directory=True)
    mix_run(
        link,
        MixSection(tokenizer=str(run.parent / "base"), tokens=3000, replay_share=0, sequence_len=256),
        drop=first_record(run),
    )
    write_axolotl_config(link, "microworld/full", base_model=str(run.parent / "base"))
    make_model(make_tokenizer(link / "model", MICROWORLD_LIKE))
    trained(run)
    for place in (link, run):
        text = write_card(Training(place)).read_text()
        assert "records were dropped; mix/dropped.jsonl says which and why" in text
        assert str(run.parent) not in text


def test_a_card_replaces_the_trainers_and_its_own_but_none_that_was_edited(run: Path) -> None:
    path = write_card(Training(run))
    first = path.read_text()
    assert write_card(Training(run)).read_text() == first
    path.write_text(first.replace("Meant for", "Not meant for"))
    with pytest.raises(BadInput, match=r"README\.md was edited; move it away first"):
        write_card(Training(run))
    assert "Not meant for" in path.read_text()
    path.write_text("# Mine\n")
    with pytest.raises(BadInput, match="was edited"):
        write_card(Training(run))


def test_no_card_is_written_without_a_model_or_for_another_config_or_mix(run: Path) -> None:
    config = run / "axolotl.yaml"
    before = config.read_text()
    config.write_text(before.replace("learning_rate: 0.001", "learning_rate: 0.002"))
    # The card of `smt card` tells as well as that of the training.
    for _ in range(2):
        with pytest.raises(BadInput, match=r"axolotl\.yaml is another config than the one that the model in .* was"):
            write_card(Training(run))
        config.write_text(before)
        write_card(Training(run))
        config.write_text(before.replace("learning_rate: 0.001", "learning_rate: 0.002"))
    config.write_text(before)
    mix_run(run, MixSection(tokenizer=str(run.parent / "base"), tokens=2000, replay_share=0, sequence_len=256))
    with pytest.raises(BadInput, match=r"was trained on another mix than the one in .*mix; run: axolotl train"):
        write_card(Training(run))
    for file in (run / "model").glob("*.safetensors"):
        file.unlink()
    with pytest.raises(BadInput, match=r"there is no trained model in .*model; run: axolotl train"):
        write_card(Training(run))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("report.json", "{", r"not valid JSON \(.*\); remove it and run `smt report` again"),
        ("report.json", "{}", "object missing required field `arms`; remove it and run `smt report` again"),
        ("mix/manifest.json", "{", r"not valid JSON \(.*\); remove it and run `smt mix` again"),
        ("mix/manifest.json", "{}", "object missing required field `settings`; remove it and run `smt mix` again"),
        ("mix/manifest.json", "[]", "expected `object`, got `array`; remove it and run `smt mix` again"),
        ("axolotl.yaml", "learning_rate: 0.1\n", "it names no base_model"),
        ("run.yaml", "{}\n", "run: this key is missing"),
    ],
)
def test_a_broken_file_of_the_run_is_named_and_the_card_stays_as_it_was(
    run: Path, name: str, content: str, says: str
) -> None:
    before = (run / "model/README.md").read_text()
    (run / name).write_text(content)
    with pytest.raises(BadInput, match=rf"{name}: {says}") as caught:
        write_card(Training(run))
    assert "\n" not in str(caught.value)
    assert (run / "model/README.md").read_text() == before
