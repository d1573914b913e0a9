"""What is known of an axolotl config under check, read once for all checks, and what a check yields."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson

from smt_plugin.errors import BadInput
from smt_plugin.files import read_bytes
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
    files: list[DataFile]  # the local JSONL files of `datasets`
    findings: list[Finding]  # what was found while all this was read: data, validation, tokenizer, texts


def look_at(path: Path, values: dict[Any, Any], num_gpus: int) -> Known:
    """Read what the checks of a config go by; axolotl must be installed."""
    accepted, refused = read_values(values)
    findings: list[Finding] = []
    files, held_out = (_data_files(key, values, accepted, findings) for key in ("datasets", "test_datasets"))
    config, problems = validated(accepted, refused, num_gpus)
    findings += map(Problem, problems)
    deepspeed = _deepspeed(config.deepspeed, findings)
    tokenizer = None
    if accepted.get("base_model"):
        config.base_model = config.base_model_config = base_model_of(path, accepted["base_model"])
        config.tokenizer_config = config.tokenizer_config or config.base_model
        tokenizer = _tokenizer(config, findings)
    if config.sequence_len and config.base_model:
        mixed: dict[Path | str, Mapping[str, Any]] = {}
        for folder in dict.fromkeys(data.path.parent for data in files):
            if (folder / MANIFEST_FILE).is_file():
                mixed |= _manifest(folder / MANIFEST_FILE, config, tokenizer, findings)
        held_out = [
            look_into(each, config, tokenizer, mixed.get(each.path.name, {}), counts=False) for each in held_out
        ]
        files = [look_into(each, config, tokenizer, mixed.get(each.path, {}), counts=True) for each in files]
        findings += [Problem(problem) for data in (*held_out, *files) for problem in data.problems]
    return Known(values, num_gpus, accepted, refused, config, deepspeed, tokenizer, files, findings)


def _data_files(key: str, values: dict[Any, Any], accepted: dict[str, Any], findings: list[Finding]) -> list[DataFile]:
    """The local JSONL files among `datasets` or `test_datasets`; what is to be said of other entries is added."""
    files: list[DataFile] = []
    listed = values.get(key)
    for index, entry in enumerate(listed if isinstance(listed, list) else ()):
        if any(entry is each for each in accepted.get(key) or ()):
            data = _data_file(f"{key}[{index}]", entry, files)
            if isinstance(data, DataFile):
                files.append(data)
            else:
                findings.append(data)
    return files


def _data_file(where: str, entry: Any, others: list[DataFile]) -> DataFile | Finding:
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str) or not entry["path"]:
        return Problem(f"{where}: it has no `path`; add the data's file.")
    path = Path(entry["path"])
    if path.suffix != ".jsonl" or entry.get("type") not in ("completion", "chat_template"):
        if (path.is_absolute() or path.suffix in _DATA_FILES) and not path.exists():
            return Problem(f"{where}: {path} does not exist; fix the path.")
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
        problem = f"{path} does not exist; run `smt mix`, or fix the path."
    elif entry.get("ds_type") not in (None, "json"):
        problem = f"ds_type {entry['ds_type']!r} cannot read {path}; write json."
    elif not os.access(path, os.R_OK):
        problem = f"{path} cannot be read; fix its permissions."
    elif twin := next((data.where for data in others if data.path.resolve() == path.resolve()), None):
        problem = f"{path} stands under {twin} already, and would be read twice; remove one."
    return Problem(f"{where}: {problem}") if problem else DataFile(where, path, entry)


def _deepspeed(settings: Any, findings: list[Finding]) -> dict[str, Any]:
    """The config's DeepSpeed settings, which may stand in a file of their own; empty without."""
    if isinstance(settings, str):
        try:
            settings = orjson.loads(read_bytes(Path(settings), "fix the path"))
        except BadInput as error:
            findings.append(Problem(f"deepspeed: {error}"))
        except orjson.JSONDecodeError as error:
            findings.append(Problem(f"deepspeed: {settings} cannot be read as JSON ({gist(error)}); fix the path."))
    return settings if isinstance(settings, dict) else {}


def _tokenizer(config: Any, findings: list[Finding]) -> Any:
    """The tokenizer as axolotl sets it up; None where it cannot be loaded."""
    from axolotl.loaders import load_tokenizer

    try:
        return load_tokenizer(config)
    # The hub, the network and every tokenizer class have errors of their own.
    except Exception as error:
        why = gist(error)
        if isinstance(error, ValueError) and "chat_template" in str(error):
            problem = f"chat_template: axolotl refuses it: {why}; remove the key, or take another template."
            findings.append(Problem(problem))
        # What the hub, the network and missing files raise is an OSError.
        elif isinstance(error, ValueError) and not isinstance(error, OSError):
            findings.append(Problem(f"base_model: axolotl refuses it: {why}."))
        else:
            note = f"tokenizer {config.tokenizer_config}: it cannot be loaded here ({why})"
            findings.append(Note(f"{note}, so chat template, turn ends and lengths were not checked."))
        return None


def _manifest(path: Path, config: Any, tokenizer: Any, findings: list[Finding]) -> dict[Path | str, Mapping[str, Any]]:
    """What a manifest of `smt mix` says of the mix's files, by path, and of those held out, by name.

    `tokens` is None where axolotl would not encode the texts as they were measured.
    """
    try:
        manifest = read_manifest(path)
        files: dict[Path | str, Mapping[str, Any]] = {
            path.parent / each: file for each, file in manifest["files"].items()
        }
        held_out: dict[Path | str, Mapping[str, Any]] = dict(manifest["validation"].items())
        length = manifest["settings"]["sequence_len"]
        name, fingerprint = manifest["tokenizer"]["name"], manifest["tokenizer"]["sha256"]
        versions = {package: manifest["versions"][package] for package in ("transformers", "tokenizers")}
    except (BadInput, KeyError):
        findings.append(Note(f"{path}: it is no manifest of `smt mix`, so the files beside it are counted anew."))
        return {}
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
        return files | held_out
    findings.append(Problem(problem))
    return {key: {**file, "tokens": None} for key, file in files.items()} | held_out
