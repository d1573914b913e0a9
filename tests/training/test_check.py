"""`smt check` on written configs with one thing wrong each: one sentence a problem, never a traceback."""

import copy
import json
import os
import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from smt_plugin.cli.app import cli
from smt_plugin.config import MixSection
from smt_plugin.errors import BadInput
from smt_plugin.mixing.mix import mix_budgets, mix_run
from smt_plugin.rejects import Verdict, add_verdicts
from smt_plugin.training.axolotl_config import write_axolotl_config
from smt_plugin.training.check import CHECKS, Checked, check_config
from smt_plugin.training.check.known import Finding, Known, Note, Problem
from smt_plugin.training.shipped import config_files, read_config
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
    mix_run(run, MixSection(tokenizer=str(base), replay=str(tmp_path / "replay.jsonl"), sequence_len=256))
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


def test_a_mix_that_knows_nothing_of_a_later_reject_is_named(config: Path) -> None:
    run = config.parent
    record = json.loads((run / "records/synthetic_qa.jsonl").read_text().splitlines()[0])
    add_verdicts(run, [Verdict(record["id"], "synthetic_qa")])
    assert only_problem(check_config(config, 1)) == (
        f"datasets: rejects.jsonl rejects other records than when the mix in {run}/mix was made; run `smt mix` again."
    )
    add_verdicts(run, [Verdict(record["id"], "synthetic_qa", "open"), Verdict("other", "a_method_that_is_not_mixed")])
    assert check_config(config, 1).problems == []
    (run / "rejects.jsonl").write_text("{")
    assert "rejects.jsonl, line 1: not valid JSON" in only_problem(check_config(config, 1))


def test_unknown_keys_are_named(config: Path) -> None:
    found = check_config(changed(config, learning_rat=1e-4), 1)
    assert only_problem(found) == (
        "learning_rat: axolotl does not know this key and would ignore it; remove it or fix its name."
    )


def test_what_axolotl_refuses_is_told_in_its_words(config: Path) -> None:
    assert "warmup_steps" in only_problem(check_config(changed(config, warmup_steps=3), 1))


def test_a_model_that_axolotl_takes_for_an_mpt_model_is_told_why(
    config: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shutil.copytree(base, tmp_path / "attempt")
    changed(config, base_model=str(model), tokenizer_config=str(base), gradient_checkpointing=True)
    assert only_problem(check_config(config, 1)).startswith(f"base_model {model}: axolotl takes every model with `mpt`")
    # And axolotl really does.
    monkeypatch.setattr("smt_plugin.training.axolotl_schema.taken_for_mpt", lambda values: None)
    assert "not supported for MPT models" in only_problem(check_config(config, 1))


def test_a_plugin_that_cannot_be_imported_is_a_problem(config: Path) -> None:
    found = check_config(changed(config, plugins=["axolotl.integrations.nowhere.Plugin"]), 1)
    assert "nowhere" in found.problems[0]


def test_data_that_is_not_there_is_named(config: Path) -> None:
    gone = config.parent / "mix" / "qa.jsonl"
    gone.unlink()
    assert only_problem(check_config(config, 1)) == (
        f"datasets[0]: {gone} does not exist; run `smt mix`, or fix the path."
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


def test_questions_that_are_trained_with_the_answers_are_named(config: Path) -> None:
    written = config.read_text()
    for problem in check_config(changed(config, train_on_inputs=True), 1).problems:
        assert "qa.jsonl: the user's turns are trained, too; set roles_to_train: [assistant]" in problem
    assert len(check_config(config, 1).problems) == 2
    config.write_text(written)
    datasets = yaml.safe_load(written)["datasets"]
    datasets[0]["roles_to_train"] = ["user"]
    assert "set roles_to_train: [assistant]" in only_problem(check_config(changed(config, datasets=datasets), 1))


def test_a_chat_template_that_is_not_there_is_named_and_not_written_where_no_text_needs_it(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(tmp_path / "base", LLAMA_LIKE)
    (tokenizer / "chat_template.jinja").unlink()
    base = make_model(tokenizer)
    run = write_records(tmp_path, count=60)
    mix_run(run, MixSection(tokenizer=str(base), replay_share=0, qa_form="text", sequence_len=256))
    config = write_axolotl_config(run, "microworld/full", base_model=str(base), overrides={"warmup_ratio": 0.1})
    assert "chat_template" not in yaml.safe_load(config.read_text())
    assert check_config(config, 1).problems == []
    found = check_config(changed(config, chat_template="tokenizer_default"), 1)
    assert "chat_template: axolotl refuses it: `chat_template choice is tokenizer_default" in only_problem(found)


def test_a_file_that_stands_twice_is_named_and_texts_that_are_held_out_are_not_counted(config: Path) -> None:
    datasets = yaml.safe_load(config.read_text())["datasets"]
    assert "stands under datasets[0] already" in only_problem(
        check_config(changed(config, datasets=[*datasets, datasets[0]]), 1)
    )
    whole = check_config(changed(config, datasets=datasets), 1)
    half = check_config(changed(config, val_set_size=0.5), 1)
    assert half.notes[0].startswith("val_set_size: 0.5 holds 50.0% of the texts out")
    tokens = [int(found.facts[0].split()[1].replace(",", "")) for found in (whole, half)]
    assert tokens[0] == pytest.approx(2 * tokens[1], abs=1)


def test_held_out_rows_without_the_field_that_is_read_are_named(config: Path) -> None:
    datasets = yaml.safe_load(config.read_text())["datasets"]
    tests = [{**entry, "field": "body", "split": "train"} for entry in datasets if entry["type"] == "completion"]
    found = check_config(changed(config, test_datasets=tests[:1], eval_sample_packing=False), 1)
    assert "no `body` to train on, which test_datasets[0]" in only_problem(found)


def test_a_micro_batch_of_the_command_line_counts(config: Path) -> None:
    assert "(1 x 4 x 2 GPUs = 8 rows a step)" in check_config(config, 2).facts[1]
    assert "(3 x 4 x 2 GPUs = 24 rows a step)" in check_config(config, 2, micro_batch_size=3).facts[1]


def test_texts_that_are_too_long_are_counted_and_the_first_named(config: Path) -> None:
    found = check_config(with_own_data(config, CHATS * 10, ["short. " * 10] * 20 + ["so long. " * 40] * 3), 1)
    assert "3 of 23 texts of" in only_problem(found)
    assert "(the first in line 21, of 362 tokens)" in only_problem(found)


def test_a_row_without_the_field_that_is_read_is_named(config: Path) -> None:
    path = with_own_data(config, CHATS * 10, ["fine. " * 20] * 20)
    file = path.parent.parent / "own" / "texts.jsonl"
    for touched in (path.parent / "prepared").rglob("*.arrow"):
        os.utime(touched, (1, 1))
    assert check_config(path, 1).problems == []
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
    assert "was cut with the tokenizer" in only_problem(found)
    found = check_config(changed(config, base_model=str(config.parent.parent / "other"), sequence_len=128), 1)
    assert any("sequence_len: 128, but the mix was cut to 256 tokens" in problem for problem in found.problems)
    file = config.parent / "mix" / "qa.jsonl"
    file.write_text(file.read_text() + "\n")
    found = check_config(changed(config, base_model=str(other)), 1)
    assert any("qa.jsonl was changed after `smt mix`" in problem for problem in found.problems)


def test_a_chat_template_that_was_changed_after_the_mix_is_named(config: Path, tmp_path: Path) -> None:
    base = make_model(make_tokenizer(tmp_path / "mine", LLAMA_LIKE))
    mix_run(config.parent, MixSection(tokenizer=str(base), replay=str(tmp_path / "replay.jsonl"), sequence_len=256))
    path = write_axolotl_config(config.parent, "microworld/full", base_model=str(base), overrides=TINY)
    assert check_config(path, 1).problems == []
    template = base / "chat_template.jinja"
    template.write_text(template.read_text() + "{# as it was #}")
    assert f"{base} or its chat template was changed after `smt mix`; run" in only_problem(check_config(path, 1))


@pytest.mark.parametrize("key", ["files", "settings", "tokenizer", "validation", "versions"])
def test_a_manifest_whose_inside_is_broken_is_no_manifest_and_all_is_counted_anew(config: Path, key: str) -> None:
    measured = check_config(config, 1).facts
    path = config.parent / "mix/manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: ["broken"]}))
    found = check_config(config, 1)
    assert (found.problems, found.facts) == ([], measured)
    assert "it is no manifest of `smt mix`" in found.notes[0]


def test_held_out_rows_of_another_mix_are_named(config: Path, base: Path) -> None:
    run = config.parent
    mixed = MixSection(
        tokenizer=str(base), replay=str(run.parent / "replay.jsonl"), sequence_len=256, validation_rounds=1
    )
    _, (large, _) = mix_budgets(run, mixed.model_copy(update={"budgets": [2000, 4000]}))
    path = write_axolotl_config(run, "microworld/full", str(base), TINY | {"num_epochs": 20}, large)
    assert check_config(path, 1).problems == []
    # The larger mix stays, and is trained on what is held out now.
    mix_budgets(run, mixed.model_copy(update={"budgets": [2000], "validation_rounds": 5}))
    found = check_config(path, 1)
    assert found.problems
    assert all("validation_" in problem and "was changed after `smt mix`" in problem for problem in found.problems)


@pytest.mark.parametrize(
    ("changes", "entry", "says"),
    [
        ({}, {"shards": 10}, "datasets[0]: with `shards` axolotl reads only a part of"),
        ({}, {"split": "train[:10%]"}, "datasets[0]: split 'train[:10%]' is not all of"),
        ({"min_sample_len": 100}, {}, "min_sample_len: with it axolotl leaves a part of the texts out"),
        ({"dataset_shard_num": 4}, {}, "dataset_shard_num: with it axolotl leaves a part of the texts out"),
        ({"skip_prepare_dataset": True}, {}, "skip_prepare_dataset: axolotl would find no tokens"),
    ],
)
def test_keys_with_which_axolotl_trains_on_less_than_the_mix_are_named(
    config: Path, changes: dict[str, Any], entry: dict[str, Any], says: str
) -> None:
    entries = yaml.safe_load(config.read_text())["datasets"]
    assert says in only_problem(
        check_config(changed(config, datasets=[entries[0] | entry, *entries[1:]], **changes), 1)
    )


def test_a_path_that_axolotl_takes_for_a_pattern_is_named(config: Path) -> None:
    folder = config.parent.parent / "x[y]z"
    folder.mkdir()
    write(folder / "texts.jsonl", [{"text": "Fine. " * 20}] * 20)
    entry = {"path": str(folder / "texts.jsonl"), "type": "completion", "field": "text", "ds_type": "json"}
    found = check_config(changed(config, datasets=[*yaml.safe_load(config.read_text())["datasets"], entry]), 1)
    assert "axolotl takes `*`, `?` and `[` in a path for a pattern" in only_problem(found)


def test_data_of_another_kind_beside_the_mix_is_left_to_axolotl(config: Path) -> None:
    own = config.parent.parent
    write(own / "alpaca.jsonl", [{"instruction": "Say it.", "input": "", "output": "It."}] * 20)
    (own / "array.json").write_text(json.dumps([{"text": "Fine."}] * 20))
    entries = [
        {"path": str(own / "alpaca.jsonl"), "type": "alpaca", "ds_type": "json"},
        {"path": str(own / "array.json"), "type": "completion", "ds_type": "json"},
    ]
    found = check_config(changed(config, datasets=yaml.safe_load(config.read_text())["datasets"] + entries), 1)
    assert found.problems == []
    assert "alpaca.jsonl is of the type alpaca and was not looked into" in found.notes[0]
    assert "array.json is no JSONL file and was not looked into" in found.notes[1]


def test_gpus_that_share_a_row_count_once(config: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    values = yaml.safe_load(config.read_text())
    # Tensor parallelism wants untied embeddings.
    shape = LlamaConfig.from_pretrained(values["base_model"], tie_word_embeddings=False)
    untied = shutil.copytree(values["base_model"], config.parent.parent / "untied")
    LlamaForCausalLM(shape).save_pretrained(untied)
    changed(config, base_model=str(untied), tokenizer_config=values["base_model"], num_epochs=200)
    together = {"tensor_parallel_size": 2, "fsdp_version": 2, "fsdp_config": {"reshard_after_forward": True}}
    alone, shared = (check_config(changed(config, **keys), 8) for keys in ({}, together))
    assert (alone.problems, shared.problems) == ([], [])
    assert "(1 x 4 x 8 GPUs = 32 rows a step)" in alone.facts[1]
    assert "(1 x 4 x 4 groups of 2 GPUs = 16 rows a step)" in shared.facts[1]
    assert any(
        "2 GPUs share a row, of which 3 GPUs are no multiple" in line for line in check_config(config, 3).problems
    )
    # Which axolotl refuses; the tokenizer is there.
    tied = check_config(changed(config, base_model=values["base_model"]), 8)
    assert only_problem(tied).startswith("base_model: axolotl refuses it: ")


def test_a_quantized_base_model_takes_less_memory(config: Path) -> None:
    lora = {"lora_r": 8, "lora_alpha": 16, "lora_target_linear": True}
    plain = check_config(changed(config, adapter="lora", **lora), 1)
    quantized = check_config(changed(config, adapter="qlora", load_in_4bit=True, **lora), 1)
    assert "memory: 2 bytes x " in plain.facts[-1]
    assert "memory: 0.5 bytes x " in quantized.facts[-1]


def test_too_few_steps_and_no_warm_up_are_named(config: Path) -> None:
    found = check_config(changed(config, num_epochs=1, gradient_accumulation_steps=32), 1)
    assert any("optimizer steps, too few to learn from (under 10)" in problem for problem in found.problems)
    assert any("is no warm-up at all" in problem for problem in found.problems)


def test_more_steps_than_the_data_has_are_named(config: Path) -> None:
    assert "max_steps: 9000 steps go" in only_problem(check_config(changed(config, max_steps=9000), 1))


def test_prepared_data_of_other_files_is_named_whatever_their_dates(config: Path) -> None:
    from axolotl.cli.config import load_cfg
    from axolotl.common.datasets import load_datasets

    path = with_own_data(config, CHATS * 10, ["fine. " * 20] * 20)
    load_datasets(cfg=load_cfg(str(path)))
    assert check_config(path, 1).problems == []
    file = path.parent.parent / "own" / "texts.jsonl"
    for touched in (path.parent / "prepared").rglob("*.arrow"):
        os.utime(touched, (1, 1))
    assert check_config(path, 1).problems == []
    file.write_text('{"text": "Another text. It is new."}\n' * 20)
    os.utime(file, (0, 0))
    assert "axolotl would train on the old data; delete it" in only_problem(check_config(path, 1))


def test_a_config_of_an_earlier_mix_is_named(config: Path) -> None:
    run, tokenizer = config.parent, yaml.safe_load(config.read_text())["base_model"]
    mix_run(run, MixSection(tokenizer=tokenizer, tokens=1500, replay_share=0, sequence_len=256))
    assert any("is for another mix than the one in" in said for said in check_config(config, 1).problems)


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


def test_values_of_the_wrong_kind_are_named_with_the_rest_that_is_wrong(config: Path) -> None:
    (config.parent / "mix/qa.jsonl").unlink()
    odd = {"sequence_len": [2048], "num_epochs": "many", "micro_batch_size": 0, "warmup_ratio": 2, "optimizer": "adamm"}
    entries = yaml.safe_load(config.read_text())["datasets"]
    found = check_config(changed(config, **odd, learning_rat=1, datasets=[entries[0], {**entries[1], "type": 3}]), 1)
    assert sorted(found.problems) == [
        f"datasets[0]: {entries[0]['path']} does not exist; run `smt mix`, or fix the path.",
        "datasets[1].type: axolotl refuses 3: Input should be a valid string.",
        "learning_rat: axolotl does not know this key and would ignore it; remove it or fix its name.",
        "micro_batch_size: 0 makes no sense; give a number above 0.",
        "num_epochs: axolotl refuses 'many': Input should be a valid number, unable to parse string as a number.",
        "optimizer: neither axolotl nor transformers knows 'adamm'; fix its name.",
        "sequence_len: axolotl refuses [2048]: Input should be a valid integer.",
        "warmup_ratio: 2 makes no sense; give a number from 0 to 1.",
    ]


def test_numbers_written_as_text_are_read_as_axolotl_reads_them(config: Path) -> None:
    facts = check_config(config, 1).facts
    texts = {"sequence_len": "256", "num_epochs": "5", "micro_batch_size": "1", "learning_rate": "1e-3"}
    found = check_config(changed(config, **texts), 1)
    assert (found.problems, found.facts) == ([], facts)


def test_texts_are_also_measured_where_axolotl_refuses_something_else(config: Path) -> None:
    path = with_own_data(config, CHATS * 10, ["short. " * 10] * 20 + ["so long. " * 40] * 3)
    found = check_config(changed(path, warmup_steps=3), 1)
    assert len(found.problems) == 2
    assert "warmup_steps" in found.problems[0]
    assert "3 of 23 texts of" in found.problems[1]


def test_held_out_data_and_deepspeed_settings_that_are_not_there_are_named(config: Path) -> None:
    entry = {"path": str(config.parent / "mix/validation_qa.jsonl"), "type": "chat_template", "split": "train"}
    found = check_config(changed(config, test_datasets=[entry], deepspeed="nowhere/zero3.json"), 4)
    assert found.problems == [
        f"test_datasets[0]: {entry['path']} does not exist; run `smt mix`, or fix the path.",
        "deepspeed: nowhere/zero3.json does not exist; fix the path.",
    ]


def test_deepspeed_settings_in_a_file_of_their_own_count_as_those_in_the_config(config: Path, tmp_path: Path) -> None:
    (tmp_path / "zero3.json").write_text('{"zero_optimization": {"stage": 3}}')
    facts = check_config(changed(config, deepspeed=str(tmp_path / "zero3.json")), 4).facts
    assert "16 bytes x 2.88e+04 (weights, gradients, two moments) = 0.000461 GB over 4 GPUs" in facts[-1]


def test_a_turn_without_content_is_named_with_its_line(config: Path) -> None:
    broken = [*CHATS * 10, [{"role": "user"}]]
    said = only_problem(check_config(with_own_data(config, broken, ["fine. " * 20] * 20), 1))
    assert "chats.jsonl, line 41: a turn has no `role`, or no `content`" in said


def test_a_key_given_twice_is_an_error_since_yaml_would_keep_the_last(config: Path) -> None:
    config.write_text(config.read_text() + "num_epochs: 7\n")
    result = CliRunner().invoke(cli, ["check", str(config)])
    assert "the key 'num_epochs' is given twice" in str(result.exception)


ODD = [None, "", "nonsense", "7", -1, 0, 1.5, float("nan"), 10**400, True, [], [None], {}, {1: {"x": None}}, "\0"]


def places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The keys and indexes that lead to each value in a config."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [each for key, below in inner for each in [(*place, key), *places(below, (*place, key))]]


def mutated(values: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """A config with a value at a random place replaced by an odd one or taken out, or with a foreign key beside it."""
    values = copy.deepcopy(values)
    place = rng.choice(places(values))
    holder: Any = values
    for key in place[:-1]:
        holder = holder[key]
    kind = rng.random()
    if kind < 0.2:
        del holder[place[-1]]
    elif kind < 0.3 and isinstance(holder, dict):
        holder[rng.choice(["unheard_of", 3])] = rng.choice(ODD)
    else:
        holder[place[-1]] = copy.deepcopy(rng.choice(ODD))
    return values


@pytest.mark.parametrize("name", ["as written by smt mix", *config_files()])
def test_whatever_stands_in_a_config_there_is_a_sentence_a_problem_and_no_traceback(name: str, config: Path) -> None:
    rng = random.Random(name)
    written = name not in config_files()
    values = read_config(config if written else name)
    for _ in range(30 if written else 6):
        config.write_text(yaml.safe_dump(mutated(values, rng)))
        result = CliRunner().invoke(cli, ["check", str(config)])
        what = config.read_text() + result.output
        assert result.exit_code in (0, 2) or isinstance(result.exception, BadInput), what
        problems = [line for line in result.stderr.splitlines() if not line.startswith("note: ")]
        assert all(re.fullmatch(rf"error: {re.escape(str(config))}: \S.*[.)]", line) for line in problems), what
        assert len(problems) == len(set(problems)), what


def test_the_command_exits_with_2_and_a_sentence_a_problem(config: Path) -> None:
    result = CliRunner().invoke(cli, ["check", str(changed(config, learning_rat=1, datasets=[]))])
    assert result.exit_code == 2
    assert f"error: {config}: learning_rat: axolotl does not know" in result.output
    assert f"error: {config}: datasets: there are none" in result.output
    assert "Traceback" not in result.output


def test_a_check_of_ones_own_is_a_function_that_yields_and_a_problem_is_named_once(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(known: Known) -> Iterator[Finding]:
        yield Problem(f"seed: {known.config.seed}\nis no number of ours")
        yield Note(f"{len(known.files)} files")

    monkeypatch.setattr("smt_plugin.training.check.CHECKS", (check, *CHECKS, check))
    found = check_config(config, num_gpus=1)
    assert (found.problems, found.notes) == (["seed: 42 is no number of ours"], ["4 files", "4 files"])


def test_a_run_file_is_told_from_a_config(tmp_path: Path) -> None:
    path = tmp_path / "smt.yaml"
    path.write_text("run: run\ncorpus: c\nbackend: {kind: microworld}\nmethods: {synthetic_qa: {tokens: 1K}}\n")
    with pytest.raises(BadInput, match=r"smt\.yaml is a run file; `smt mix` writes the config to check, axolotl\.yaml"):
        check_config(path, num_gpus=1)


def test_packages_that_the_training_needs_and_that_are_not_here_are_noted(config: Path) -> None:
    config.write_text(re.sub("attn_implementation: .*", "attn_implementation: flash_attention_2", config.read_text()))
    (note,) = check_config(config, num_gpus=1).notes
    assert note.startswith("flash_attn is not installed here")


@pytest.mark.parametrize(
    ("extra", "mend"),
    [
        ("flash-attn", "the training needs it; where you train: pip install 'axolotl[flash-attn,deepspeed]=="),
        ("deepspeed", "the training loads kernels-community/flash-attn2 from the hub."),
    ],
)
def test_the_note_on_flash_attention_goes_by_what_the_installed_axolotl_has_as_an_extra(
    config: Path, monkeypatch: pytest.MonkeyPatch, extra: str, mend: str
) -> None:
    config.write_text(re.sub("attn_implementation: .*", "attn_implementation: flash_attention_2", config.read_text()))
    told = Message()
    told["Provides-Extra"] = extra
    monkeypatch.setattr("smt_plugin.training.check.keys.metadata", lambda name: told)
    (note,) = check_config(config, num_gpus=1).notes
    assert mend in note


def test_a_model_that_reads_pictures_wants_torchvision_and_another_does_not(
    config: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: set[str] = set()
    monkeypatch.setattr("smt_plugin.training.check.keys.find_spec", lambda name: name in there or None)
    assert not [note for note in check_config(config, num_gpus=1).notes if "torchvision" in note]
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "config.json").write_text('{"model_type": "qwen3_5"}')
    changed(config, base_model=str(pictures), tokenizer_config=str(base))
    (note,) = (note for note in check_config(config, num_gpus=1).notes if "torchvision" in note)
    assert "reads pictures (qwen3_5)" in note
    there.add("torchvision")
    assert not [note for note in check_config(config, num_gpus=1).notes if "torchvision" in note]


def test_checkpoints_of_an_earlier_mix_are_named_before_a_training_goes_on_from_them(config: Path) -> None:
    checkpoint = config.parent / "model" / "checkpoint-20"
    checkpoint.mkdir(parents=True)
    (note,) = check_config(config, num_gpus=1).notes
    assert "nothing tells which mix" in note
    own, log = yaml.safe_load(config.read_text())["dataset_prepared_path"], checkpoint.parent / "debug.log"
    for prepared, is_own in ((own, True), (f"{own[:-1]}!", False)):
        log.write_text(f'  "dataset_prepared_path": "{prepared}",\n[INFO] Saving model checkpoint to {checkpoint}\n')
        found = check_config(config, num_gpus=1)
        assert found.notes == []
        if is_own:
            assert found.problems == []
        else:
            said = only_problem(found)
            assert "checkpoint-20 is of another mix" in said
            assert "--auto-resume-from-checkpoints would go on from it; delete the checkpoints" in said


def test_folders_that_a_training_would_go_on_from_or_write_over_are_named(config: Path, base: Path) -> None:
    assert "is the base model's folder" in only_problem(check_config(changed(config, output_dir=str(base)), 1))
    config = changed(config, output_dir=str(config.parent / "model"), resume_from_checkpoint="/nope/checkpoint-1")
    assert only_problem(check_config(config, 1)).startswith("resume_from_checkpoint: /nope/checkpoint-1 does not exist")


def test_a_tokenizer_that_numbers_the_models_tokens_otherwise_is_named(config: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    base = Path(yaml.safe_load(config.read_text())["base_model"])
    more = AutoTokenizer.from_pretrained(base)
    more.add_tokens(["<new>"])
    more.save_pretrained(tmp_path / "more")
    other = make_tokenizer(tmp_path / "other", replace(LLAMA_LIKE, specials=LLAMA_LIKE.specials[::-1]))
    run = config.parent
    for tokenizer, is_fine in ((tmp_path / "more", True), (other, False)):
        mix_run(run, MixSection(tokenizer=str(tokenizer), replay=str(tmp_path / "replay.jsonl"), sequence_len=256))
        path = write_axolotl_config(run, "microworld/full", base_model=str(base), overrides=TINY)
        said = check_config(path, num_gpus=1).problems
        assert any("are others than those of" in problem for problem in said) != is_fine


@pytest.mark.parametrize(("micro", "accumulation", "epochs"), [(3, 5, 3), (1, 40, 6), (4, 1, 1.5), (2, 3, 2)])
def test_steps_of_an_unpacked_training_are_those_that_axolotl_counts(
    config: Path, micro: int, accumulation: int, epochs: float
) -> None:
    from axolotl.utils.dict import DictDefault
    from axolotl.utils.trainer import calculate_total_num_steps
    from datasets import Dataset

    keys = {"micro_batch_size": micro, "gradient_accumulation_steps": accumulation, "num_epochs": epochs}
    values = {**keys, "sample_packing": False, "max_steps": None, "warmup_ratio": None, "warmup_steps": 1}
    found = check_config(changed(config, **values), num_gpus=1)
    steps = int(re.search(r"about ([\d,]+):", found.facts[1])[1])  # type: ignore[index]
    manifest = json.loads((config.parent / "mix/manifest.json").read_text())
    rows = sum(file["rows"] for file in manifest["files"].values())
    data = Dataset.from_dict({name: [[1]] * rows for name in ("input_ids", "labels")})
    theirs = calculate_total_num_steps(DictDefault(keys | {"batch_size": micro * accumulation}), data)
    assert steps == theirs


def test_keys_that_axolotl_knows_by_another_name_and_streamed_data_are_no_problem(config: Path) -> None:
    fsdp = {"fsdp_offload_params": False, "fsdp_version": 2, "offload_parms": True}
    said = check_config(changed(config, fsdp_config=fsdp), num_gpus=2).problems
    assert [problem.split(":")[0] for problem in said if "does not know" in problem] == ["fsdp_config.offload_parms"]
    streamed = changed(
        config, fsdp_config=None, datasets=None, pretraining_dataset=[{"path": "some/set"}], max_steps=50
    )
    said = check_config(streamed, num_gpus=1).problems
    assert not [problem for problem in said if problem.startswith("datasets")]


def test_data_of_other_kinds_must_be_there_too(config: Path) -> None:
    entries = yaml.safe_load(config.read_text())["datasets"]
    gone = [{"path": "/nope/alpaca.jsonl", "type": "alpaca"}, {"path": "gone.parquet", "type": "completion"}]
    said = check_config(changed(config, datasets=[*entries, *gone]), num_gpus=1).problems
    assert [problem.split(" does not")[0] for problem in said] == [
        f"datasets[{len(entries)}]: /nope/alpaca.jsonl",
        f"datasets[{len(entries) + 1}]: gone.parquet",
    ]


def test_a_warm_up_as_long_as_the_training_is_named(config: Path) -> None:
    said = only_problem(check_config(changed(config, warmup_ratio=None, warmup_steps=1000), num_gpus=1))
    assert said.startswith("warmup_steps: 1000 of ")
