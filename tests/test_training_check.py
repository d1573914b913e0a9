"""`smt check` on written configs with one thing wrong each: one sentence a problem, never a traceback."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from smt_plugin.cli import cli
from smt_plugin.mix import MixSettings, mix_run
from smt_plugin.training_check import Checked, check_config
from smt_plugin.training_data import write_axolotl_config
from tests.tiny_llama import LLAMA_LIKE, make_model, make_tokenizer
from tests.training_records import CHATS, write, write_records

os.environ["AXOLOTL_DO_NOT_TRACK"] = "1"
TINY = {"eot_tokens": ["<|eot_id|>"], "warmup_ratio": 0.1}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(make_tokenizer(tmp_path_factory.mktemp("base"), LLAMA_LIKE))


@pytest.fixture
def config(tmp_path: Path, base: Path) -> Path:
    run = write_records(tmp_path, count=60)
    mix_run(run, MixSettings(str(base), replay=tmp_path / "replay.jsonl", sequence_len=256))
    return write_axolotl_config(run, "microworld/full", base_model=str(base), overrides=TINY)


def changed(config: Path, **changes: Any) -> Path:
    """The config with some keys changed; None takes a key out."""
    values = {**yaml.safe_load(config.read_text()), **changes}
    config.write_text(yaml.safe_dump({key: value for key, value in values.items() if value is not None}))
    return config


def with_own_data(config: Path, chats: list[Any], texts: list[str]) -> Path:
    """The config with data of its own, which no mix measured."""
    own = config.parent.parent / "own"
    own.mkdir()
    write(own / "chats.jsonl", [{"messages": chat} for chat in chats])
    write(own / "texts.jsonl", [{"text": text} for text in texts])
    entries = yaml.safe_load(config.read_text())["datasets"]
    return changed(
        config,
        datasets=[entries[0] | {"path": str(own / "chats.jsonl")}, entries[1] | {"path": str(own / "texts.jsonl")}],
    )


def only_problem(found: Checked) -> str:
    assert len(found.problems) == 1, found.problems
    return found.problems[0]


def test_what_smt_mix_writes_has_no_problem_and_its_size_is_the_mixes(config: Path) -> None:
    found = check_config(config, num_gpus=1)
    assert (found.problems, found.notes) == ([], [])
    manifest = json.loads((config.parent / "mix/manifest.json").read_text())
    rows = sum(file["rows"] for file in manifest["files"].values())
    assert found.facts[0] == f"tokens: {manifest['tokens']:,} in {rows} texts, 5 times over"


def test_counted_anew_the_tokens_are_those_that_the_mix_counted(config: Path) -> None:
    measured = check_config(config, num_gpus=1).facts
    (config.parent / "mix/manifest.json").unlink()
    assert check_config(config, num_gpus=1).facts == measured


def test_the_steps_are_those_that_axolotl_takes(config: Path) -> None:
    from axolotl.cli.config import load_cfg
    from axolotl.common.datasets import load_datasets

    said = check_config(config, num_gpus=1).facts[1]
    steps = load_datasets(cfg=load_cfg(str(config))).total_num_steps
    assert int(said.split("about ")[1].split(":")[0]) == pytest.approx(steps, rel=0.2)


def test_unknown_keys_are_named(config: Path) -> None:
    found = check_config(changed(config, learning_rat=1e-4), 1)
    assert only_problem(found) == (
        "learning_rat: axolotl does not know this key and would ignore it; remove it or mend its name."
    )


def test_what_axolotl_refuses_is_told_in_its_words(config: Path) -> None:
    assert "warmup_steps" in only_problem(check_config(changed(config, warmup_steps=3), 1))


def test_a_plugin_that_cannot_be_imported_is_a_problem(config: Path) -> None:
    found = check_config(changed(config, plugins=["axolotl.integrations.nowhere.Plugin"]), 1)
    assert "nowhere" in found.problems[0]


def test_data_that_is_not_there_is_named(config: Path) -> None:
    gone = config.parent / "mix" / "qa.jsonl"
    gone.unlink()
    assert only_problem(check_config(config, 1)) == (
        f"datasets[0]: {gone} does not exist; run `smt mix`, or mend the path."
    )


def test_an_untrained_turn_end_is_named(config: Path, base: Path) -> None:
    tokenizer = json.loads((base / "tokenizer_config.json").read_text())
    assert tokenizer["eos_token"] == "<|eot_id|>"
    found = check_config(
        changed(config, eot_tokens=["<|start_header_id|>"], special_tokens={"eos_token": "<|end_header_id|>"}), 1
    )
    assert any(
        "<|eot_id|>, which ends the answers" in problem and "eot_tokens" in problem for problem in found.problems
    )


def test_a_chat_template_that_writes_otherwise_than_the_tokenizers_is_named(config: Path) -> None:
    found = check_config(changed(config, chat_template="llama3"), 1)
    assert any(
        "chat_template llama3 writes" in problem and "tokenizer_default" in problem for problem in found.problems
    )


def test_texts_that_are_too_long_are_counted_and_the_first_named(config: Path) -> None:
    found = check_config(with_own_data(config, CHATS * 10, ["short. " * 10] * 20 + ["so long. " * 40] * 3), 1)
    assert "3 of 23 texts of" in only_problem(found)
    assert "(the first in line 21, of 362 tokens)" in only_problem(found)


def test_a_row_without_the_field_that_is_read_is_named(config: Path) -> None:
    path = with_own_data(config, CHATS * 10, ["fine. " * 20] * 20)
    file = path.parent.parent / "own" / "texts.jsonl"
    file.write_text(file.read_text() + '{"content": "no text here"}\n')
    assert f"{file}, line 21: no `text` to train on" in only_problem(check_config(path, 1))


def test_a_begin_token_in_the_data_is_named(config: Path) -> None:
    found = check_config(with_own_data(config, CHATS * 10, ["<|begin_of_text|>Twice begun. " * 9] * 20), 1)
    assert "texts begin with two <|begin_of_text|>" in only_problem(found)


def test_a_mix_that_was_changed_by_hand_or_is_for_another_tokenizer_or_length_is_named(
    config: Path, tmp_path: Path
) -> None:
    other = make_model(make_tokenizer(tmp_path / "other", LLAMA_LIKE))
    found = check_config(changed(config, base_model=str(other)), 1)
    assert all("was cut with the tokenizer" in problem for problem in found.problems)
    assert len(found.problems) >= 3
    found = check_config(changed(config, base_model=str(config.parent.parent / "other"), sequence_len=128), 1)
    assert any("sequence_len: 128, but the mix was cut to 256 tokens" in problem for problem in found.problems)
    file = config.parent / "mix" / "qa.jsonl"
    file.write_text(file.read_text() + "\n")
    found = check_config(changed(config, base_model=str(other)), 1)
    assert any("qa.jsonl was changed after `smt mix`" in problem for problem in found.problems)


def test_too_few_steps_and_no_warm_up_are_named(config: Path) -> None:
    found = check_config(changed(config, num_epochs=1, gradient_accumulation_steps=32), 1)
    assert any("optimizer steps, too few to learn from (under 10)" in problem for problem in found.problems)
    assert any("is no warm-up at all" in problem for problem in found.problems)


def test_more_steps_than_the_data_has_are_named(config: Path) -> None:
    assert "max_steps: 9000 steps go" in only_problem(check_config(changed(config, max_steps=9000), 1))


def test_prepared_data_that_is_older_than_the_files_is_named(config: Path) -> None:
    from axolotl.cli.config import load_cfg
    from axolotl.common.datasets import load_datasets

    path = with_own_data(config, CHATS * 10, ["fine. " * 20] * 20)
    load_datasets(cfg=load_cfg(str(path)))
    assert check_config(path, 1).problems == []
    file = path.parent.parent / "own" / "texts.jsonl"
    file.write_text('{"text": "Another text. It is new."}\n' * 20)
    assert "axolotl would train on the old data; delete it" in only_problem(check_config(path, 1))


def test_without_its_tokenizer_the_rest_is_checked_and_the_size_goes_by_the_name(config: Path) -> None:
    found = check_config(changed(config, base_model="nobody/Tiny-8B", tokenizer_config="nobody/Tiny-8B", eot=1), 4)
    assert "cannot be loaded here" in found.notes[0]
    assert found.problems[0].startswith("eot: axolotl does not know")


def test_hours_and_memory_follow_from_the_shipped_formula(config: Path) -> None:
    name = json.loads((config.parent / "mix/manifest.json").read_text())["tokenizer"]["name"]
    changed(config, base_model="nobody/Tiny-8B", tokenizer_config=name)
    facts = "\n".join(check_config(config, 4).facts)
    assert "6 x 8e+09 parameters (by its name" in facts
    assert "4 GPUs x 0.4 x 9.89e+14 FLOP/s x 3600 s" in facts


def test_the_command_exits_with_2_and_a_sentence_a_problem(config: Path) -> None:
    result = CliRunner().invoke(cli, ["check", str(changed(config, learning_rat=1, datasets=[]))])
    assert result.exit_code == 2
    assert f"error: {config}: learning_rat: axolotl does not know" in result.output
    assert f"error: {config}: datasets: there are none" in result.output
    assert "Traceback" not in result.output
