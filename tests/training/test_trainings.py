"""Whether a trained model is up to date is told by content: dates may all be new, or all the same."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from smt_plugin.training.trainings import Training
from tests.tiny_llama import MICROWORLD_LIKE, make_model, make_tokenizer

MIX = "0123456789abcdef"


def write_mix(run: Path, content: str) -> None:
    tokenizer = {"name": "t", "sha256": "0", "has_chat_template": True}
    manifest = {
        "settings": {"sequence_len": 512, "tokens": None, "seed": 0},
        "tokens": 0,
        "record_tokens": 0,
        "tokenizer": tokenizer | {"turn_end": None, "eos_token": None, "pad_token": None},
        "content_hash": content * 4,
        "warnings": [],
        **{name: {} for name in ("sources", "files", "validation", "versions")},
    }
    (run / "mix").mkdir(parents=True, exist_ok=True)
    (run / "mix/manifest.json").write_text(json.dumps(manifest))


def write_card(run: Path) -> None:
    card = f"# x\n\n```yaml\n# Written by smt mix\ndataset_prepared_path: /elsewhere/run/prepared/{MIX}\n\n```\n"
    (run / "model/README.md").write_text(card)


def test_a_model_of_another_mix_is_stale_whatever_the_dates(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)
    (run / "model/model.safetensors").touch()
    write_mix(run, MIX)
    # Without a card nothing tells, and the model is taken.
    assert Training(run).unready() is None
    write_card(run)
    for dates in ((1, 2), (2, 1), (1, 1)):
        for name, date in zip(("mix/manifest.json", "model/model.safetensors"), dates, strict=True):
            os.utime(run / name, (date, date))
        write_mix(run, MIX)
        assert Training(run).unready() is None
        write_mix(run, MIX[::-1])
        assert "was trained on another mix than the one in" in str(Training(run).unready())


def adapt(run: Path, base: Path, seed: int) -> None:
    """Write an adapter of the base model's query projections, as peft does."""
    torch.manual_seed(seed)
    weights = load_file(base / "model.safetensors")
    tensors = {}
    for name in (name for name in weights if name.endswith("q_proj.weight")):
        key, (rows, columns) = f"base_model.model.{name.removesuffix('.weight')}", weights[name].shape
        tensors[f"{key}.lora_A.weight"] = torch.randn(4, columns) * 0.02
        tensors[f"{key}.lora_B.weight"] = torch.randn(rows, 4) * 0.02
    save_file(tensors, run / "model/adapter_model.safetensors")
    settings = {"r": 4, "lora_alpha": 8, "base_model_name_or_path": str(base)}
    (run / "model/adapter_config.json").write_text(json.dumps(settings))


def merge(run: Path, base: Path, kind: torch.dtype) -> None:
    weights, adapter = load_file(base / "model.safetensors"), load_file(run / "model/adapter_model.safetensors")
    for name in weights:
        key = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{key}.lora_A.weight" in adapter:
            weights[name] = weights[name] + 2 * adapter[f"{key}.lora_B.weight"] @ adapter[f"{key}.lora_A.weight"]
    (run / "model/merged").mkdir(exist_ok=True)
    save_file({name: weight.to(kind) for name, weight in weights.items()}, run / "model/merged/model.safetensors")


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
def test_a_merged_model_of_another_adapter_is_known_by_its_weights(tmp_path: Path, kind: torch.dtype) -> None:
    base, run = make_model(make_tokenizer(tmp_path / "base", MICROWORLD_LIKE)), tmp_path / "run"
    (run / "model").mkdir(parents=True)
    (run / "axolotl.yaml").write_text("adapter: lora\n")
    adapt(run, base, seed=1)
    assert "is not merged yet" in str(Training(run).unready())
    merge(run, base, kind)
    # The adapter's date is the later one in a copy.
    os.utime(run / "model/merged/model.safetensors", (1, 1))
    assert Training(run).unready() is None
    adapt(run, base, seed=2)
    os.utime(run / "model/adapter_model.safetensors", (1, 1))
    assert "was merged from another adapter than the one in" in str(Training(run).unready())
    # It cannot be told without the base model.
    shutil.rmtree(base)
    assert Training(run).unready() is None
