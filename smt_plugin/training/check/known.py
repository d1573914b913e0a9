"""What is known of an axolotl config under check, read once for all checks, and what a check yields."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson

from smt_plugin.errors import BadInput
from smt_plugin.mixing.manifest import MANIFEST_FILE, read_manifest
from smt_plugin.mixing.ruler import Ruler
from smt_plugin.training.axolotl_config import taken_for_pattern
from smt_plugin.training.axolotl_schema import gist, read_values, shown, validated
from smt_plugin.training.check.texts import DataFile, look_into
from smt_plugin.training.shipped import base_model_of

_DATA_FILES = (".jsonl", ".json", ".parquet", ".arrow", ".csv", ".txt", ".gz", ".zst")
# Keys of an entry with which axolotl takes only a part of a file.
_PART_OF_FILE = ("shards", "shards_idx")


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check says, in a line."""

    text: str


class Problem(Finding):
    """What would go wrong, and how to fix it."""


class Note(Finding):
    """What could not be checked, or what to know."""


class Fact(Finding):
    """Something of the training's size."""


@dataclass(frozen=True, slots=True)
class Known:
    """An axolotl config and what is known of it."""

    values: dict[Any, Any]  # as they stand in the config's file
    num_gpus: int  # of the training, all nodes together
    accepted: dict[str, Any]  # the values that axolotl takes, each by itself
    refused: dict[str, list[str]]  # key -> what is wrong with its value; keys that axolotl does not know are in neither
    config: Any  # as axolotl's validation returns it, or as it stands in the file if that refuses it
    deepspeed: dict[str, Any]  # DeepSpeed's settings; empty without
    tokenizer: Any  # as axolotl sets it up; None where it cannot be loaded
    unusable: list[Finding]  # what axolotl's validation refuses; settings or a tokenizer that cannot be read
    files: list[DataFile]  # the local JSONL files of `datasets`
    held_out: list[DataFile]  # those of `test_datasets`, which are not counted
    mixes: list[Finding]  # why what the manifests beside the files say of the texts does not hold here


def look_at(path: Path, values: dict[Any, Any], num_gpus: int) -> Known:
    """Read what the checks of a config go by; axolotl must be installed."""
    accepted, refused = read_values(values)
    config, problems = validated(accepted, refused, num_gpus)
    deepspeed, unread = _deepspeed(config.deepspeed)
    tokenizer, unloaded = None, list[Finding]()
    if accepted.get("base_model"):
        config.base_model = config.base_model_config = base_model_of(path, accepted["base_model"])
        config.tokenizer_config = config.tokenizer_config or config.base_model
        tokenizer, unloaded = _tokenizer(config)
    unusable = [*map(Problem, problems), *unread, *unloaded]
    files, held_out = (
        [entry for entry in entries(key, values, accepted) if isinstance(entry, DataFile)]
        for key in ("datasets", "test_datasets")
    )
    mixed: dict[Path | str, dict[str, Any]] = {}
    mixes: list[Finding] = []
    if config.sequence_len and config.base_model:
        for folder in dict.fromkeys(data.path.parent for data in files):
            if (folder / MANIFEST_FILE).is_file():
                said, findings = _manifest(folder / MANIFEST_FILE, config, tokenizer)
                mixed |= said
                mixes += findings
        files = [look_into(data, config, tokenizer, mixed.get(data.path, {}), counts=True) for data in files]
        held_out = [
            look_into(data, config, tokenizer, mixed.get(data.path.name, {}), counts=False) for data in held_out
        ]
    return Known(values, num_gpus, accepted, refused, config, deepspeed, tokenizer, unusable, files, held_out, mixes)


def entries(key: str, values: dict[Any, Any], accepted: dict[str, Any]) -> Iterator[DataFile | Finding]:
    """The local JSONL files among `datasets` or `test_datasets`, and what is to be said of the other entries."""
    files: list[DataFile] = []
    listed = values.get(key)
    for index, entry in enumerate(listed if isinstance(listed, list) else ()):
        if any(entry is each for each in accepted.get(key) or ()):
            data = _data_file(f"{key}[{index}]", entry, files)
            if isinstance(data, DataFile):
                files.append(data)
            yield data


def _data_file(where: str, entry: Any, others: list[DataFile]) -> DataFile | Finding:
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str) or not entry["path"]:
        return Problem(f"{where}: it has no `path`; add the data's file.")
    path = Path(entry["path"])
    if path.suffix != ".jsonl" or entry.get("type") not in ("completion", "chat_template"):
        if (path.is_absolute() or path.suffix in _DATA_FILES) and not path.exists():
            return Problem(f"{where}: {path} does not exist; mend the path.")
        what = "is no JSONL file" if path.suffix != ".jsonl" else f"is of the type {entry.get('type')}"
        return Note(f"{where}: {path} {what} and was not looked into, nor counted.")
    problem = None
    if pattern := taken_for_pattern(path):
        problem = pattern
    elif part := next((key for key in _PART_OF_FILE if entry.get(key) is not None), None):
        problem = f"with `{part}` axolotl reads only a part of {path}; remove it."
    elif entry.get("split") not in (None, "train"):
        problem = f"split {shown(entry['split'])} is not all of {path}; write train."
    elif not path.is_file():
        problem = f"{path} does not exist; run `smt mix`, or mend the path."
    elif entry.get("ds_type") not in (None, "json"):
        problem = f"ds_type {entry['ds_type']!r} cannot read {path}; write json."
    elif not os.access(path, os.R_OK):
        problem = f"{path} cannot be read; mend its permissions."
    elif twin := next((data.where for data in others if data.path.resolve() == path.resolve()), None):
        problem = f"{path} stands under {twin} already, and would be read twice; remove one."
    return Problem(f"{where}: {problem}") if problem else DataFile(where, path, entry)


def _deepspeed(settings: Any) -> tuple[dict[str, Any], list[Finding]]:
    """The config's DeepSpeed settings, which may stand in a file of their own; empty without."""
    if isinstance(settings, str):
        try:
            settings = orjson.loads(Path(settings).read_bytes())
        except (OSError, ValueError) as error:
            return {}, [Problem(f"deepspeed: {settings} cannot be read as JSON ({gist(error)}); mend the path.")]
    return settings if isinstance(settings, dict) else {}, []


def _tokenizer(config: Any) -> tuple[Any, list[Finding]]:
    """The tokenizer as axolotl sets it up; None where it cannot be loaded."""
    from axolotl.loaders import load_tokenizer

    try:
        return load_tokenizer(config), []
    # The hub, the network and every tokenizer class have errors of their own.
    except Exception as error:
        why = gist(error)
        if isinstance(error, ValueError) and "chat_template" in str(error):
            problem = f"chat_template: axolotl refuses it: {why}; remove the key, or take another template."
            return None, [Problem(problem)]
        # What the hub, the network and missing files raise is an OSError.
        if isinstance(error, ValueError) and not isinstance(error, OSError):
            return None, [Problem(f"base_model: axolotl refuses it: {why}.")]
        note = f"tokenizer {config.tokenizer_config}: it cannot be loaded here ({why})"
        return None, [Note(f"{note}, so chat template, turn ends and lengths were not checked.")]


def _manifest(path: Path, config: Any, tokenizer: Any) -> tuple[dict[Path | str, dict[str, Any]], list[Finding]]:
    """What a manifest of `smt mix` says of the mix's files, by path, and of those held out, by name.

    `tokens` is None where axolotl would not encode the texts as they were measured.
    """
    try:
        manifest = read_manifest(path)
        files: dict[Path | str, dict[str, Any]] = {path.parent / name: file for name, file in manifest["files"].items()}
        held_out = dict(manifest["validation"])
        length = int(manifest["settings"]["sequence_len"])
        name, fingerprint = manifest["tokenizer"]["name"], manifest["tokenizer"]["sha256"]
        versions = {package: manifest["versions"][package] for package in ("transformers", "tokenizers")}
    except (BadInput, OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}, [Note(f"{path}: it is no manifest of `smt mix`, so the files beside it are counted anew.")]
    if length > config.sequence_len:
        problem = (
            f"sequence_len: {config.sequence_len}, but the mix was cut to {length} tokens; set mix.sequence_len and "
            "run `smt mix` again."
        )
    elif name != config.tokenizer_config:
        problem = (
            f"tokenizer_config: {config.tokenizer_config}, but the mix was cut with the tokenizer {name}; set "
            "mix.tokenizer and run `smt mix` again."
        )
    # Other versions may write the same tokenizer otherwise.
    elif (
        tokenizer is not None
        and all(version(package) == number for package, number in versions.items())
        and Ruler(name, length).fingerprint != fingerprint
    ):
        problem = f"tokenizer_config: {name} or its chat template was changed after `smt mix`; run `smt mix` again."
    else:
        return files | held_out, []
    return {key: {**file, "tokens": None} for key, file in files.items()} | held_out, [Problem(problem)]
