"""From a mix to `axolotl train`: the written config, what is really trained on, and a real training."""

import json
import os
import shutil
from itertools import groupby
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from click.testing import CliRunner

from smt_plugin.cli.app import cli
from smt_plugin.config import MixSection
from smt_plugin.errors import BadInput
from smt_plugin.mixing.mix import mix_budgets, mix_run
from smt_plugin.training.axolotl_config import trained_config, write_axolotl_config
from smt_plugin.training.axolotl_schema import unknown_keys
from smt_plugin.training.shipped import base_model_of, read_config
from smt_plugin.training.trainings import Training
from tests.tiny_llama import LLAMA_LIKE, MICROWORLD_LIKE, QWEN_LIKE, Style, make_model, make_tokenizer
from tests.training_records import CHATS, QUESTION, TEXTS, write_records

os.environ["AXOLOTL_DO_NOT_TRACK"] = "1"

# The parts of the shipped CPU config that this tiny model needs otherwise.
TINY = {"num_epochs": 2, "logging_steps": 1, "dataloader_pin_memory": False}
STYLES = {"llama": LLAMA_LIKE, "qwen": QWEN_LIKE, "microworld": MICROWORLD_LIKE}


def mixed_run(folder: Path, style: Style, records: int = 0) -> tuple[Path, dict[str, Any]]:
    """A run whose mix, for a model of the given style, holds all of its records; and the mix's manifest."""
    model = make_model(make_tokenizer(folder / "base", style))
    run, replay = write_records(folder, records), folder / "replay.jsonl"
    settings = MixSection(
        tokenizer=str(model), tokens=1_000_000, replay=str(replay), replay_share=0.9, sequence_len=256
    )
    return run, mix_run(run, settings)


def written(run: Path, config: str | Path = "microworld/full", **options: Any) -> dict[str, Any]:
    options.setdefault("base_model", str(run.parent / "base"))
    values: dict[str, Any] = yaml.safe_load(write_axolotl_config(run, config, **options).read_text())
    return values


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return mixed_run(tmp_path, MICROWORLD_LIKE)[0]


def test_paths_length_model_and_output_are_filled_in(run: Path) -> None:
    values = written(run)
    assert values["base_model"] == str(run.parent / "base")
    assert values["sequence_len"] == 256
    assert values["output_dir"] == str(run / "model")
    names = ("qa.jsonl", "rewrites.jsonl", "replay.jsonl", "replay_qa.jsonl")
    assert [entry["path"] for entry in values["datasets"]] == [str(run / "mix" / name) for name in names]
    assert unknown_keys(values) == []


def test_commands_to_paste_are_quoted(tmp_path: Path) -> None:
    (tmp_path / "my runs").mkdir()
    run, _ = mixed_run(tmp_path / "my runs", MICROWORLD_LIKE)
    path = write_axolotl_config(run, "microworld/full", base_model=str(run.parent / "base"))
    assert path.read_text().splitlines()[1] == f"# Run: axolotl train '{path}'"
    assert str(Training(run).unready()).endswith(f"; run: axolotl train '{path}'")


def test_files_that_the_mix_lacks_are_left_out_and_other_data_sets_kept(run: Path) -> None:
    for name in ("qa.jsonl", "replay.jsonl", "replay_qa.jsonl"):
        (run / "mix" / name).unlink(missing_ok=True)
    manifest = orjson.loads((run / "mix/manifest.json").read_bytes())
    manifest["files"] = {"rewrites.jsonl": manifest["files"]["rewrites.jsonl"]}
    (run / "mix/manifest.json").write_bytes(orjson.dumps(manifest))
    own = {**read_config("microworld/full"), "datasets": [{"path": "someone/data", "type": "alpaca"}]}
    (run / "own.yaml").write_text(yaml.safe_dump(own))
    values = written(run, run / "own.yaml")
    assert [entry["path"] for entry in values["datasets"]] == [str(run / "mix/rewrites.jsonl"), "someone/data"]
    assert values["datasets"][0]["type"] == "completion"


def test_a_new_mix_gets_a_new_folder_of_prepared_data(tmp_path: Path) -> None:
    run, _ = mixed_run(tmp_path, MICROWORLD_LIKE)
    first = written(run)["dataset_prepared_path"]
    assert written(run)["dataset_prepared_path"] == first
    mix_run(run, MixSection(tokenizer=str(tmp_path / "base"), tokens=500, sequence_len=256))
    assert written(run)["dataset_prepared_path"] != first


def test_a_config_without_the_turn_end_gets_it_and_one_with_another_is_refused(run: Path) -> None:
    own = read_config("microworld/full")
    del own["eot_tokens"]
    (run / "own.yaml").write_text(yaml.safe_dump(own))
    assert written(run, run / "own.yaml")["eot_tokens"] == ["<|end|>"]
    with pytest.raises(BadInput, match=r"eot_tokens \['<\|im_end\|>'\] lacks <\|end\|>"):
        written(run, "qwen3-8b/full")


def test_a_tokenizer_other_than_the_models_is_named_in_the_config(run: Path) -> None:
    values = written(run, base_model="some/model")
    assert (values["base_model"], values["tokenizer_config"]) == ("some/model", str(run.parent / "base"))
    assert "tokenizer_config" not in written(run)


def test_a_config_written_for_one_mix_serves_another_and_brings_none_of_its_data(tmp_path: Path) -> None:
    base = str(make_model(make_tokenizer(tmp_path / "base", MICROWORLD_LIKE)))
    run = write_records(tmp_path, count=60)
    nested = MixSection(tokenizer=base, budgets=[1000, 3000], replay_share=0, sequence_len=256, validation_rounds=1)
    (small, _), (large, _) = mix_budgets(run, nested)
    own = run / "own.yaml"
    shutil.copy(write_axolotl_config(run, "microworld/full", base, mix_folder=small), own)
    values = written(run, own, mix_folder=large, base_model=base)
    assert {Path(entry["path"]).parent for entry in values["datasets"]} == {large}
    assert {Path(entry["path"]).parent for entry in values["test_datasets"]} == {run / "mix"}
    own.write_text(yaml.safe_dump({**values, "val_set_size": 0.1}))
    assert written(run, own, mix_folder=large, base_model=base)["val_set_size"] == 0
    (_, _), (large, _) = mix_budgets(run, nested.model_copy(update={"validation_rounds": 0}))
    assert "test_datasets" not in written(run, own, mix_folder=large, base_model=base)
    mine = {"path": "mine.jsonl", "type": "completion"}
    own.write_text(yaml.safe_dump({**values, "test_datasets": [mine]}))
    assert written(run, own, mix_folder=large, base_model=base)["test_datasets"] == [mine]


def test_a_configs_own_tokenizer_measures_the_mix(tmp_path: Path) -> None:
    write_records(tmp_path, count=60)
    base = make_model(make_tokenizer(tmp_path / "base", MICROWORLD_LIKE))
    other = make_tokenizer(tmp_path / "other", MICROWORLD_LIKE)
    own = {**read_config("microworld/full"), "base_model": str(base), "tokenizer_config": str(other)}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    run_file = tmp_path / "smt.yaml"
    run_file.write_text(
        "run: run\ncorpus: corpus\nbackend: {kind: microworld}\nmethods: {synthetic_qa: {tokens: 1K}}\n"
        "mix: {tokens: 1K, replay_share: 0, sequence_len: 256}\ntrain: {config: own.yaml}\n"
    )
    assert CliRunner().invoke(cli, ["mix", str(run_file)]).exit_code == 0
    assert json.loads((tmp_path / "run/mix/manifest.json").read_text())["tokenizer"]["name"] == str(other)
    assert yaml.safe_load((tmp_path / "run/axolotl.yaml").read_text())["tokenizer_config"] == str(other)


@pytest.mark.parametrize("letter", "[*?")
def test_a_run_folder_whose_path_axolotl_takes_for_a_pattern_is_refused(tmp_path: Path, letter: str) -> None:
    with pytest.raises(BadInput, match=r"run folder .*: axolotl takes `\*`, `\?` and `\[` in a path for a pattern"):
        trained_config(tmp_path / f"run{letter}1", "microworld/full")


def test_overrides_win(run: Path) -> None:
    assert written(run, overrides={"num_epochs": 7})["num_epochs"] == 7


def test_missing_configs_models_and_mixes_are_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"config llama/full: no such file; give a path, or one of: .*qwen3-8b/full"):
        base_model_of("llama/full")
    (tmp_path / "own.yaml").write_text("sequence_len: 128\n")
    with pytest.raises(BadInput, match="names no base_model"):
        base_model_of(tmp_path / "own.yaml")
    with pytest.raises(BadInput, match=r"manifest\.json does not exist; run `smt mix` first"):
        write_axolotl_config(tmp_path / "nothing", "microworld/full")


def test_a_model_that_axolotl_would_take_for_an_mpt_model_is_refused_before_anything_is_mixed(tmp_path: Path) -> None:
    write_records(tmp_path, count=60)
    base = make_tokenizer(tmp_path / "Prompts/base", LLAMA_LIKE)
    run_file = tmp_path / "smt.yaml"
    run_file.write_text(
        "run: run\ncorpus: corpus\nbackend: {kind: microworld}\nmethods: {synthetic_qa: {tokens: 1K}}\n"
        f"mix: {{tokens: 1K, replay_share: 0}}\ntrain: {{config: llama-3.2-1b/full, base_model: {base}}}\n"
    )
    result = CliRunner().invoke(cli, ["mix", str(run_file)])
    assert isinstance(result.exception, BadInput)
    assert str(result.exception).startswith(
        f"config llama-3.2-1b/full: base_model {base}: axolotl takes every model with `mpt` in its path"
    )
    assert not (tmp_path / "run/mix").exists()
    # Without gradient checkpointing axolotl does not mind.
    assert trained_config(tmp_path, "microworld/full", str(base))["base_model"] == str(base)


def test_the_base_model_of_a_shipped_config_is_its_hub_name_and_a_folder_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert base_model_of("qwen3-8b/full") == "Qwen/Qwen3-8B"
    assert (Path(base_model_of("microworld/full")) / "tokenizer.json").is_file()
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    assert base_model_of("qwen3-8b/full", "model") == str(tmp_path / "model")


def prepared(folder: Path, style: Style, **overrides: Any) -> tuple[Any, Any, dict[str, Any]]:
    """The loaded axolotl config, its data after axolotl's preprocessing, and the mix's manifest."""
    from axolotl.cli.config import load_cfg
    from axolotl.common.datasets import load_datasets

    run, manifest = mixed_run(folder, style, records=overrides.pop("records", 0))
    config = read_config("microworld/full")
    del config["eot_tokens"]
    (folder / "own.yaml").write_text(yaml.safe_dump(config))
    written(run, folder / "own.yaml", overrides={**TINY, **overrides})
    loaded = load_cfg(str(run / "axolotl.yaml"))
    return loaded, load_datasets(cfg=loaded), manifest


def spans(row: dict[str, Any], tokenizer: Any) -> str:
    """A row's text in pieces, those that are trained on marked by `+`."""
    pairs = list(zip(row["input_ids"], row["labels"], strict=True))
    assert all(label in (-100, token) for token, label in pairs)
    pieces = [(trained, [token for token, _ in group]) for trained, group in groupby(pairs, lambda p: p[1] != -100)]
    return "".join(
        f"{'+' if trained else ' '} {json.dumps(tokenizer.decode(tokens), ensure_ascii=False)}\n"
        for trained, tokens in pieces
    )


@pytest.mark.parametrize("name", STYLES)
def test_what_is_trained_on_is_as_in_the_golden_file(tmp_path: Path, name: str, request: pytest.FixtureRequest) -> None:
    from transformers import AutoTokenizer

    _, data, manifest = prepared(tmp_path, STYLES[name])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    rows = list(data.train_dataset)
    text = "\n".join(sorted(spans(row, tokenizer) for row in rows))
    path = Path(__file__).parents[1] / "golden" / f"as_trained-{name}.txt"
    if request.config.getoption("--write-golden"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
    # Nothing cut, nothing left out: as many rows and tokens as the mix counted.
    assert len(rows) == sum(file["rows"] for file in manifest["files"].values())
    assert sum(len(row["input_ids"]) for row in rows) == manifest["tokens"]


@pytest.mark.parametrize("name", STYLES)
def test_in_the_golden_files_every_text_is_there_begins_once_and_ends_trained(name: str) -> None:
    style = STYLES[name]
    text = (Path(__file__).parents[1] / "golden" / f"as_trained-{name}.txt").read_text(encoding="utf-8")
    rows = [[(line[0], json.loads(line[2:])) for line in row.splitlines()] for row in text.split("\n\n")]
    whole = ["".join(piece for _, piece in row) for row in rows]
    answers = [turn["content"] for chat in CHATS for turn in chat if turn["role"] == "assistant"]
    for expected in (*TEXTS, *answers):
        assert any(expected in each for each in whole), expected
    turn_end = "<|end|>" if style is MICROWORLD_LIKE else style.end_of_text
    for row, each in zip(rows, whole, strict=True):
        assert style.begin is None or each.count(style.begin) == 1
        trained = [piece for mark, piece in row if mark == "+"]
        is_text = len(row) == 1
        assert trained
        assert all(piece.endswith(style.end_of_text if is_text else turn_end) for piece in trained)
        assert is_text or not any(QUESTION["content"] in piece for piece in trained)


def test_packed_and_unpacked_losses_agree(tmp_path: Path) -> None:
    import torch
    from axolotl.train import setup_model_and_trainer

    losses, counts, rows = {}, {}, {}
    for packing in (True, False):
        folder = tmp_path / str(packing)
        folder.mkdir()
        config, data, _ = prepared(folder, LLAMA_LIKE, records=20, sample_packing=packing)
        trainer, model, *_ = setup_model_and_trainer(config, data)
        model.eval()
        losses[packing], counts[packing], rows[packing] = 0.0, 0, 0
        for batch in trainer.get_train_dataloader():
            labels = batch.pop("labels")
            batch.pop("num_items_in_batch", None)
            with torch.no_grad():
                logits = model(**batch).logits
            each = torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=-100, reduction="none")
            starts = batch["position_ids"][0, 1:] == 0 if "position_ids" in batch else torch.zeros_like(each).bool()
            # A text's first token has no text before it: packed, it stands behind another text's end.
            kept = (labels[0, 1:] != -100) & ~starts
            losses[packing] += float(each[kept].sum())
            counts[packing] += int(kept.sum())
            rows[packing] += 1
    assert rows[True] < 0.7 * rows[False]
    assert counts[True] == counts[False]
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)


def test_a_config_of_ones_own_with_values_of_the_wrong_kind_is_refused_with_the_key(run: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    lists = [(key, value) for key in ("datasets", "test_datasets") for value in ("mix/qa.jsonl", [5], {}, "")]
    for key, value in (*lists, ("special_tokens", ["x"]), ("eot_tokens", "x")):
        own.write_text(yaml.safe_dump({key: value}))
        with pytest.raises(BadInput, match=rf"own\.yaml: {key}: give "):
            written(run, own)


def test_an_adapter_of_an_earlier_training_is_no_trained_model(run: Path) -> None:
    (run / "model").mkdir()
    (run / "model" / "adapter_model.safetensors").touch()
    assert "there is no trained model in" in str(Training(run).unready())


def test_every_file_of_the_mix_is_read_as_json_wherever_it_lies(run: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    values = read_config("microworld/full")
    for entry in values["datasets"]:
        entry.pop("ds_type", None)
    own.write_text(yaml.safe_dump(values))
    path = write_axolotl_config(run, own, base_model=values["base_model"])
    assert {entry["ds_type"] for entry in yaml.safe_load(path.read_text())["datasets"]} == {"json"}
