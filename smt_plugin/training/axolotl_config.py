"""Write a run's axolotl config: a shipped or own config, filled in for the run's mix -> `<run>/axolotl.yaml`."""

import shlex
from pathlib import Path
from typing import Any

import yaml

from smt_plugin.config import RunFile
from smt_plugin.errors import BadInput
from smt_plugin.files import write_text
from smt_plugin.mixing.manifest import CHAT_FILE, MANIFEST_FILE, TEXT_FILE, TRAINING_FILES, VALIDATION, read_manifest
from smt_plugin.training.shipped import base_model_of, read_config
from smt_plugin.training.trainings import Training

# How axolotl reads the two forms, where the config does not say it itself.
_READ_AS: dict[str, dict[str, Any]] = {
    "messages": {
        "ds_type": "json",
        "type": "chat_template",
        "field_messages": "messages",
        "roles_to_train": ["assistant"],
        "train_on_eos": "turn",
    },
    "text": {"ds_type": "json", "type": "completion", "field": "text"},
}


def trained_config(
    run_folder: Path, config: str | Path, base_model: str | None = None, overrides: dict[str, Any] | None = None
) -> dict[str, Any]:
    """A config's keys with the model that it trains, as far as they can be known and checked before there is a mix.

    Args:
        run_folder: where the mix will be.
        config: shipped name or path.
        base_model: replaces the config's.
        overrides: top-level keys that win over the config's.

    Raises:
        BadInput: no such config, a key of the wrong type, no model, or a path that axolotl would misunderstand.
    """
    values = {**read_config(config), **(overrides or {})}
    _check_types(config, values)
    values["base_model"] = base_model_of(config, base_model or values.get("base_model"))
    if values.get("tokenizer_config"):
        values["tokenizer_config"] = base_model_of(config, values["tokenizer_config"])
    if problem := taken_for_mpt(values):
        raise BadInput(f"config {config}: {problem}")
    if problem := taken_for_pattern(run_folder.resolve()):
        raise BadInput(f"run folder {problem}")
    return values


def target_tokenizer(run_file: RunFile) -> str:
    """The tokenizer by which the texts of a run's mix are counted: the mix's own, else that of what is trained.

    Raises:
        BadInput: as `trained_config`.
    """
    trained = trained_config(run_file.run, run_file.train.config, run_file.train.base_model)
    return str(run_file.mix.tokenizer or trained.get("tokenizer_config") or trained["base_model"])


def taken_for_pattern(path: Path) -> str | None:
    """What is wrong with a data file's path in which `datasets`, which axolotl reads with, finds a pattern."""
    if not {*"*?["} & {*str(path)}:
        return None
    return f"{path}: axolotl takes `*`, `?` and `[` in a path for a pattern and finds no file; move it to another."


def taken_for_mpt(values: dict[str, Any]) -> str | None:
    """What is wrong with a model whose path axolotl, which looks for `mpt` anywhere in it, takes for an MPT model's."""
    name = values.get("base_model")
    if not values.get("gradient_checkpointing") or not isinstance(name, str) or "mpt" not in name.lower():
        return None
    return (
        f"base_model {name}: axolotl takes every model with `mpt` in its path or name for an MPT model, and those it "
        "does not train with gradient_checkpointing; move the model to a path without it (as in `prompt`, `attempt`)."
    )


def write_axolotl_config(
    run_folder: Path,
    config: str | Path,
    base_model: str | None = None,
    overrides: dict[str, Any] | None = None,
    mix_folder: Path | None = None,
) -> Path:
    """Write `<run>/axolotl.yaml`, ready for `axolotl train`, and return its path.

    For one of several nested mixes it is `<run>/mix/<budget>/axolotl.yaml`, and the result `<run>/model-<budget>`.

    Filled in: the paths of the mix's files (an entry of the config for the same file name keeps its
    other keys; one whose file this mix lacks is left out), sequence length, tokenizer, turn end and
    padding tokens, a folder for prepared data that is named by the mix's content (axolotl's own
    cache would not notice new contents), and `<run>/model` for the result.

    Args:
        run_folder: a run with a mix in it.
        config: shipped name or path.
        base_model: replaces the config's.
        overrides: top-level keys that win over the config's, e.g. `{"num_epochs": 4}`.
        mix_folder: one of several nested mixes; default: the run's only one.

    Raises:
        BadInput: no mix, no such config, or a config that contradicts the mix or its tokenizer.
    """
    folder = run_folder.resolve()
    mix = (mix_folder or run_folder / "mix").resolve()
    training = Training(folder, "" if mix == folder / "mix" else mix.name)
    manifest_path = mix / MANIFEST_FILE
    if not manifest_path.is_file():
        raise BadInput(f"{manifest_path} does not exist; run `smt mix` first.")
    manifest = read_manifest(manifest_path)
    tokenizer = manifest["tokenizer"]
    values = trained_config(folder, config, base_model, overrides)
    # What the mix was measured with is what axolotl must encode with.
    values.pop("tokenizer_config", None)
    if values["base_model"] != tokenizer["name"]:
        values["tokenizer_config"] = tokenizer["name"]
    has_chat = any(entry["form"] == "messages" for entry in manifest["files"].values())
    if has_chat and tokenizer["turn_end"] is not None:
        ends = values.setdefault("eot_tokens", [tokenizer["turn_end"]])
        if tokenizer["turn_end"] not in ends:
            raise BadInput(
                f"config {config}: eot_tokens {ends} lacks {tokenizer['turn_end']}, with which the chat template "
                f"of {tokenizer['name']} ends a turn: the model would never learn to stop; add it."
            )
    if not has_chat and not tokenizer["has_chat_template"] and values.get("chat_template") == "tokenizer_default":
        # axolotl would not start, though no text needs a template.
        del values["chat_template"]
    if tokenizer["pad_token"] is None and "pad_token" not in (values.get("special_tokens") or {}):
        values["special_tokens"] = {**(values.get("special_tokens") or {}), "pad_token": tokenizer["eos_token"]}
    entries = values.get("datasets") or []
    # Those of another mix would be gone, or be trained on by this one.
    held_out = [entry for entry in values.pop("test_datasets", None) or [] if not _is_mix_file(entry)]
    if manifest["validation"]:
        own = _datasets([e for e in entries if _is_mix_file(e)], manifest["validation"], folder / "mix")
        held_out = [*({**entry, "split": "train"} for entry in own), *held_out]
        # Packing needs more than a few held-out texts, and axolotl takes no part of the data beside held-out files.
        values |= {"eval_sample_packing": False, "val_set_size": 0}
        if not any(values.get(key) for key in ("eval_strategy", "eval_steps", "evals_per_epoch")):
            values["eval_strategy"] = "epoch"
    if held_out:
        values["test_datasets"] = held_out
    values["datasets"] = _datasets(entries, manifest["files"], mix)
    values["sequence_len"] = manifest["settings"]["sequence_len"]
    values["dataset_prepared_path"] = str(folder / "prepared" / manifest["content_hash"][:16])
    values["output_dir"] = str(training.output)
    path = training.config
    text = (
        f"# Written by `smt mix` from the config {config}; a new mix writes it anew.\n"
        f"# Run: axolotl train {shlex.quote(str(path))}\n"
        + yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=110)
    )
    write_text(path, text)
    return path


def _check_types(config: str | Path, values: dict[str, Any]) -> None:
    for key in ("datasets", "test_datasets"):
        entries = values.get(key)
        if entries is not None and not (isinstance(entries, list) and all(isinstance(each, dict) for each in entries)):
            raise BadInput(f"config {config}: {key}: give a list of entries, each with `path` and `type`.")
    if not isinstance(values.get("special_tokens") or {}, dict):
        raise BadInput(f"config {config}: special_tokens: give `name: token` lines.")
    if not isinstance(values.get("eot_tokens") or [], list):
        raise BadInput(f"config {config}: eot_tokens: give a list of tokens.")


def _datasets(entries: list[dict[str, Any]], files: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """The mix's files, each read as the config says, then the config's other data sets."""
    own = {Path(str(entry.get("path"))).name: entry for entry in entries if _is_mix_file(entry)}
    # A form that the config reads in its own way is read so in replay as well.
    like = {"messages": own.get(CHAT_FILE), "text": own.get(TEXT_FILE)}
    mixed = []
    for name, file in files.items():
        entry = own.get(name.removeprefix(VALIDATION)) or like[file["form"]] or _READ_AS[file["form"]]
        # Without the kind of file axolotl goes by what stands anywhere in the path, such as `.txt`.
        mixed.append({"ds_type": "json", **entry, "path": str(folder / name)})
    return mixed + [entry for entry in entries if not _is_mix_file(entry)]


def _is_mix_file(entry: dict[str, Any]) -> bool:
    path = Path(str(entry.get("path")))
    # Of several budgets each has a folder in `mix`.
    in_mix = "mix" in (path.parent.name, path.parent.parent.name)
    return in_mix and path.name.removeprefix(VALIDATION) in TRAINING_FILES
