"""What is known of an axolotl config under check, read once for all checks, and what a check yields."""

import os
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson

from smt_plugin.errors import BadInput
from smt_plugin.mixing.manifest import MANIFEST_FILE, read_manifest
from smt_plugin.mixing.ruler import Ruler
from smt_plugin.training.axolotl_config import taken_for_mpt, taken_for_pattern
from smt_plugin.training.axolotl_schema import gist, read_values, shown, validated
from smt_plugin.training.check.texts import DataFile, Texts, read_texts
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
class Mix:
    """What the manifest of `smt mix` in a folder of data says of its files, and of the held-out ones by name."""

    files: dict[Path, dict[str, Any]] = field(default_factory=dict)
    held_out: dict[str, dict[str, Any]] = field(default_factory=dict)
    finding: Finding | None = None  # why it cannot be used, or axolotl would not encode the texts as they were measured


@dataclass(frozen=True, slots=True)
class Known:
    """An axolotl config and what is known of it."""

    values: dict[Any, Any]  # as they stand in the config's file
    num_gpus: int  # of the training, all nodes together
    accepted: dict[str, Any]  # the values that axolotl takes, each by itself
    refused: dict[str, list[str]]  # key -> what is wrong with its value; keys that axolotl does not know are in neither
    mpt: str | None  # why axolotl would take the model for an MPT model
    config: Any  # as axolotl's validation returns it, or as it stands in the file if that refuses it
    complaints: dict[str, str]  # place in the config -> why axolotl's validation refuses it
    deepspeed: dict[str, Any]  # DeepSpeed's settings; empty without
    tokenizer: Any  # as axolotl sets it up; None where it cannot be loaded
    unread: list[Finding]  # of DeepSpeed's settings or a tokenizer that cannot be read
    files: list[DataFile]  # the local JSONL files of `datasets`
    skipped: list[Finding]  # of entries of `datasets` and `test_datasets` that are no such files
    mixes: list[Mix]  # those whose files are trained on
    texts: dict[str, Texts]  # by place in the config: of held-out files, not counted, then of `files`


def look_at(path: Path, values: dict[Any, Any], num_gpus: int) -> Known:
    """Read what the checks of a config go by; axolotl must be installed."""
    accepted, refused = read_values(values)
    mpt = taken_for_mpt(accepted)
    # With any other name axolotl goes on to the rest.
    config, complaints = validated(accepted | {"base_model": "model"} if mpt else accepted, num_gpus)
    deepspeed, no_deepspeed = _deepspeed(config.deepspeed)
    tokenizer, no_tokenizer = None, None
    if accepted.get("base_model"):
        config.base_model = config.base_model_config = base_model_of(path, accepted["base_model"])
        config.tokenizer_config = config.tokenizer_config or config.base_model
        tokenizer, no_tokenizer = _tokenizer(config)
    files, skipped = _data_files("datasets", values, accepted)
    held_out, more_skipped = _data_files("test_datasets", values, accepted)
    mixes: list[Mix] = []
    texts: dict[str, Texts] = {}
    if config.sequence_len and config.base_model:
        folders = dict.fromkeys(data.path.parent for data in files)
        mixes = [_mix_in(folder, config, tokenizer) for folder in folders if (folder / MANIFEST_FILE).is_file()]
        for data in held_out:
            file = next((mix.held_out[data.path.name] for mix in mixes if data.path.name in mix.held_out), None)
            texts[data.where] = read_texts(data, config, tokenizer, file, Texts())
        for data in files:
            mix = next((mix for mix in mixes if data.path in mix.files), Mix())
            file = mix.files.get(data.path)
            measured = Texts(file["rows"], file["tokens"]) if file and not mix.finding else None
            texts[data.where] = read_texts(data, config, tokenizer, file, measured)
    return Known(
        values=values,
        num_gpus=num_gpus,
        accepted=accepted,
        refused=refused,
        mpt=mpt,
        config=config,
        complaints=complaints,
        deepspeed=deepspeed,
        tokenizer=tokenizer,
        unread=[finding for finding in (no_deepspeed, no_tokenizer) if finding],
        files=files,
        skipped=skipped + more_skipped,
        mixes=mixes,
        texts=texts,
    )


def _data_files(key: str, values: dict[Any, Any], accepted: dict[str, Any]) -> tuple[list[DataFile], list[Finding]]:
    """The local JSONL files among `datasets` or `test_datasets`, each there and readable, and what of the others."""
    files: list[DataFile] = []
    findings: list[Finding] = []
    entries = values.get(key)
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        if any(entry is each for each in accepted.get(key) or ()):
            data = _data_file(f"{key}[{index}]", entry, files)
            if isinstance(data, DataFile):
                files.append(data)
            else:
                findings.append(data)
    return files, findings


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


def _deepspeed(settings: Any) -> tuple[dict[str, Any], Problem | None]:
    """The config's DeepSpeed settings, which may stand in a file of their own; empty without."""
    if isinstance(settings, str):
        try:
            settings = orjson.loads(Path(settings).read_bytes())
        except (OSError, ValueError) as error:
            return {}, Problem(f"deepspeed: {settings} cannot be read as JSON ({gist(error)}); mend the path.")
    return settings if isinstance(settings, dict) else {}, None


def _tokenizer(config: Any) -> tuple[Any, Finding | None]:
    """The tokenizer as axolotl sets it up; None where it cannot be loaded, and why."""
    from axolotl.loaders import load_tokenizer

    try:
        return load_tokenizer(config), None
    # The hub, the network and every tokenizer class have errors of their own.
    except Exception as error:
        why = gist(error)
        if isinstance(error, ValueError) and "chat_template" in str(error):
            problem = f"chat_template: axolotl refuses it: {why}; remove the key, or take another template."
            return None, Problem(problem)
        # What the hub, the network and missing files raise is an OSError.
        if isinstance(error, ValueError) and not isinstance(error, OSError):
            return None, Problem(f"base_model: axolotl refuses it: {why}.")
        note = f"tokenizer {config.tokenizer_config}: it cannot be loaded here ({why})"
        return None, Note(f"{note}, so chat template, turn ends and lengths were not checked.")


def _mix_in(folder: Path, config: Any, tokenizer: Any) -> Mix:
    path = folder / MANIFEST_FILE
    try:
        manifest = read_manifest(path)
        files = {folder / name: file for name, file in manifest["files"].items()}
        held_out = dict(manifest["validation"])
        length = int(manifest["settings"]["sequence_len"])
        name, fingerprint = manifest["tokenizer"]["name"], manifest["tokenizer"]["sha256"]
        versions = {package: manifest["versions"][package] for package in ("transformers", "tokenizers")}
    except (BadInput, OSError, ValueError, KeyError, TypeError, AttributeError):
        note = Note(f"{path}: it is no manifest of `smt mix`, so the files beside it are counted anew.")
        return Mix(finding=note)
    problem = None
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
    return Mix(files, held_out, Problem(problem) if problem else None)
