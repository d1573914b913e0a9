"""Look through an axolotl config before the first GPU minute: what would go wrong silently, and what it will cost."""

import copy
import hashlib
import logging
import math
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import orjson

from smt_plugin.errors import BadInput, first_line, require
from smt_plugin.mixing.manifest import MANIFEST_FILE, read_manifest
from smt_plugin.mixing.ruler import Ruler
from smt_plugin.training.axolotl_config import taken_for_mpt, taken_for_pattern
from smt_plugin.training.axolotl_schema import known_fields, unknown_keys
from smt_plugin.training.shipped import base_model_of, read_config

# Fewer optimizer steps than this teach next to nothing, whatever the learning rate; our choice.
MIN_STEPS = 10


# An H100's dense bf16 FLOP/s, and the part of it that a good training reaches.
PEAK_FLOPS, UTILIZATION = 989e12, 0.4


_INSTALL = "where you train: pip install 'axolotl[flash-attn,deepspeed]>=0.19,<0.20'"


_BATCH = 512


_DATA_FILES = (".jsonl", ".json", ".parquet", ".arrow", ".csv", ".txt", ".gz", ".zst")


# Keys with which axolotl takes only a part of a file, or of all of them.
_PART_OF_FILE = ("shards", "shards_idx")


_PART_OF_ALL = ("dataset_shard_num", "dataset_shard_idx", "min_sample_len")


# Numbers of which axolotl's schema takes any: what makes sense, in words and as bounds.
_COUNT, _PART = ("above 0", 1e-30, 1e12), ("from 0 to 1", 0.0, 1.0)


_BOUNDS = {
    **dict.fromkeys(("sequence_len", "micro_batch_size", "gradient_accumulation_steps", "num_epochs"), _COUNT),
    **dict.fromkeys(("learning_rate", "lora_r"), _COUNT),
    "warmup_ratio": _PART,
}


# What axolotl's validation asks of the target machine: an H100, whatever this one is.
_GPU = {**dict.fromkeys(("bf16", "fp8", "tf32"), True), "n_node": 1, "compute_capability": "sm_90"}


@dataclass
class Checked:
    """What `smt check` found: problems to mend, notes on what could not be checked, and the training's size."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)


@dataclass
class _Data:
    """One local JSONL file of the config's `datasets`, and what is known of it."""

    where: str
    path: Path
    entry: dict[str, Any]
    tokens: int | None = None
    rows: int = 0

    @property
    def is_chat(self) -> bool:
        return str(self.entry.get("type")) == "chat_template"

    @property
    def key(self) -> str:
        return str(self.entry.get("field_messages", "messages") if self.is_chat else self.entry.get("field", "text"))


@dataclass
class _Mix:
    """What the manifest of a mix says of its files, by path, and of its held-out ones, by name: rows, tokens, sha256;
    and how it was measured.
    """

    files: dict[Path, dict[str, Any]]
    held_out: dict[str, dict[str, Any]]
    sequence_len: int
    tokenizer: str
    fingerprint: str
    versions: dict[str, str]


def check_config(path: Path, num_gpus: int, micro_batch_size: int | None = None) -> Checked:
    """Check an axolotl config, offline and without a GPU. Relative paths are relative to the working directory.

    Args:
        num_gpus: GPUs of the training, all nodes together.
        micro_batch_size: in place of the config's, where axolotl is told another one on its command line.

    Raises:
        BadInput: there is no such file, it is no YAML mapping or a run file, or axolotl is not installed.
    """
    values = read_config(path)
    if {"corpus", "backend", "methods"} <= values.keys():
        raise BadInput(f"{path} is a run file; `smt mix` writes the config to check, axolotl.yaml in its run folder.")
    if micro_batch_size is not None:
        values["micro_batch_size"] = micro_batch_size
    os.environ.setdefault("AXOLOTL_DO_NOT_TRACK", "1")
    # axolotl logs its whole config, and torch warns of what only GPUs need.
    logging.disable(logging.CRITICAL)
    try:
        require("axolotl", "train")
        found = _check(path, values, num_gpus)
        # Names and paths may have line breaks, and several files the same problem.
        found.problems = list(dict.fromkeys(" ".join(problem.split()) for problem in found.problems))
        return found
    finally:
        logging.disable(logging.NOTSET)


def _check(path: Path, values: dict[Any, Any], num_gpus: int) -> Checked:
    found = Checked()
    accepted, refused = _accepted(values, found)
    files = _data_files("datasets", values, accepted, found)
    held_out = _data_files("test_datasets", values, accepted, found)
    if values.get("pretraining_dataset"):
        found.notes.append("pretraining_dataset: it was not looked into, nor counted.")
    elif not values.get("datasets"):
        found.problems.append("datasets: there are none; name at least one file, as `smt mix` does.")
    for key in _PART_OF_ALL:
        if accepted.get(key):
            found.problems.append(f"{key}: with it axolotl leaves a part of the texts out; remove it.")
    if accepted.get("skip_prepare_dataset"):
        found.problems.append("skip_prepare_dataset: axolotl would find no tokens in the texts; remove it.")
    config = _validated(accepted, refused, num_gpus, found)
    deepspeed = _deepspeed(config, found)
    for package, is_needed in (("deepspeed", deepspeed), ("flash_attn", _takes_flash_attention(values))):
        if is_needed and find_spec(package) is None:
            found.notes.append(f"{package} is not installed here, and the training needs it; {_INSTALL}.")
    tokenizer = None
    if accepted.get("base_model"):
        tokenizer = _tokenizer(path, config, found)
    if tokenizer is not None and config.tokenizer_config != config.base_model:
        _check_vocabulary(config, tokenizer, found)
    if config.sequence_len and config.base_model:
        _measure(files, held_out, config, tokenizer, found)
        _check_prepared(files, config, tokenizer, found)
    _check_output(files, config, found)
    if refused or not accepted.get("base_model"):
        found.notes.append("while axolotl refuses keys, not all of texts, lengths, steps and hours can be checked.")
    elif files and all(data.tokens is not None for data in files):
        _size(path, config, files, deepspeed, num_gpus, found)
    return found


def _accepted(values: dict[Any, Any], found: Checked) -> tuple[dict[str, Any], set[str]]:
    """The keys whose values have the type that axolotl wants, and the others, refused; unknown ones are in neither."""
    unknown = []
    try:
        known = known_fields(values)
        unknown = unknown_keys(values)
    except BadInput as error:
        found.problems.append(str(error))
        known = known_fields({})
    for key in unknown:
        found.problems.append(f"{key}: axolotl does not know this key and would ignore it; remove it or mend its name.")
    accepted: dict[str, Any] = {}
    refused = set()

    def take(key: str, place: str, kind: Any, value: Any) -> tuple[Any, bool]:
        value, problem = _tried(kind, value, _BOUNDS.get(key))
        if problem:
            refused.add(key)
            found.problems.append(f"{place}{problem}.")
        return value, problem is None

    from axolotl.utils.schemas.datasets import SFTDataset

    for key, value in values.items():
        if key == "datasets" and isinstance(value, list) and not values.get("rl"):
            # One by one, and as what axolotl takes them for.
            tried = [(entry, *take(key, f"{key}[{n}]", SFTDataset, entry)) for n, entry in enumerate(value)]
            accepted[key] = [entry for entry, _, is_fine in tried if is_fine]
        elif key in known:
            field = known[key]
            kind = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
            value, is_fine = take(key, key, kind, value)
            if is_fine:
                accepted[key] = value
            if is_fine and (problem := _unknown_name(key, value)):
                found.problems.append(f"{key}{problem}.")
    return accepted, refused


def _unknown_name(key: str, value: Any) -> str | None:
    """An optimizer or schedule that training would refuse once the model is loaded; the schema takes any text."""
    from axolotl.utils.schemas.enums import CustomSupportedOptimizers
    from transformers.trainer_utils import SchedulerType
    from transformers.training_args import OptimizerNames

    names = {
        "optimizer": {each.value for kind in (CustomSupportedOptimizers, OptimizerNames) for each in kind},
        "lr_scheduler": {"one_cycle", "rex", *(each.value for each in SchedulerType)},
    }
    if key not in names or value is None or value in names[key]:
        return None
    return f": neither axolotl nor transformers knows {_shown(value)}; mend its name"


def _tried(kind: Any, value: Any, bounds: tuple[str, float, float] | None) -> tuple[Any, str | None]:
    """A value as axolotl's schema reads it, and why it is refused, beginning with the place in it; None if it is not.

    Args:
        bounds: of a number, see _BOUNDS.
    """
    from pydantic import TypeAdapter, ValidationError

    read = value
    try:
        read = TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]
        # Beside keys and indexes the place names the schemas that were tried.
        place = "".join(
            f"[{part}]" if isinstance(part, int) else f".{part}"
            for part in problem["loc"]
            if isinstance(part, int) or _holds(value, part)
        )
        return value, f"{place}: axolotl refuses {_shown(problem['input'])}: {_line(problem['msg'])}"
    # A type that cannot be tried alone is left to axolotl's validation of the whole.
    except Exception:
        return value, None
    if bounds is not None and value is not None:
        with suppress(ValueError):
            read = float(read) if isinstance(read, str) else read
        if isinstance(value, bool) or isinstance(read, str) or not bounds[1] <= read <= bounds[2]:
            return value, f": {_shown(value)} makes no sense; give a number {bounds[0]}"
    if isinstance(read, float) and not math.isfinite(read):
        return value, f": {_shown(value)} makes no sense; give a finite number"
    return read if isinstance(read, int | float) else value, None


def _holds(value: Any, key: str) -> bool:
    """Whether a key stands anywhere in a value."""
    if isinstance(value, dict):
        return key in value or any(_holds(each, key) for each in value.values())
    return isinstance(value, list) and any(_holds(each, key) for each in value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _validated(values: dict[str, Any], refused: set[str], num_gpus: int, found: Checked) -> Any:
    """The config as axolotl's own validation returns it; if it refuses, as it stands in the file."""
    from axolotl.cli.config import prepare_plugins
    from axolotl.utils.config import validate_config
    from axolotl.utils.dict import DictDefault
    from pydantic import ValidationError

    whole = dict(values)
    if problem := taken_for_mpt(values):
        found.problems.append(problem)
        # Any other name, so that axolotl goes on to the rest.
        whole["base_model"] = "model"
    if not isinstance(values.get("datasets"), list) or not values["datasets"]:
        # What is wrong with the data is said already; axolotl wants some before it looks at anything else.
        whole["datasets"] = [{"path": "none.jsonl", "ds_type": "json", "type": "completion"}]
    try:
        config = DictDefault(copy.deepcopy(whole))
        prepare_plugins(config)
        return validate_config(
            config, capabilities={**_GPU, "n_gpu": num_gpus}, env_capabilities={"torch_version": "2.13.0"}
        )
    except ValidationError as error:
        problems = {".".join(map(str, problem["loc"])): _line(problem["msg"]) for problem in reversed(error.errors())}
        for key, problem in reversed(problems.items()):
            if key.split(".")[0] not in refused:
                found.problems.append(f"{key or 'config'}: axolotl refuses it: {problem}.")
    # axolotl's validators raise whatever their code runs into.
    except Exception as error:
        found.problems.append(f"config: axolotl refuses it: {_line(error)}.")
    return DictDefault(copy.deepcopy(whole))


def _line(error: Any) -> str:
    return first_line(error).removeprefix("Value error, ").rstrip(".")


def _data_files(key: str, values: dict[Any, Any], accepted: dict[str, Any], found: Checked) -> list[_Data]:
    """The local JSONL files among `datasets` or `test_datasets`, each there and readable."""
    files: list[_Data] = []
    entries, fine = values.get(key), accepted.get(key) or ()
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        where = f"{key}[{index}]"
        if not any(entry is each for each in fine):
            continue
        if not isinstance(entry, dict) or not isinstance(entry.get("path"), str) or not entry["path"]:
            found.problems.append(f"{where}: it has no `path`; add the data's file.")
            continue
        path = Path(entry["path"])
        if path.suffix != ".jsonl" or entry.get("type") not in ("completion", "chat_template"):
            what = "is no JSONL file" if path.suffix != ".jsonl" else f"is of the type {entry.get('type')}"
            if (path.is_absolute() or path.suffix in _DATA_FILES) and not path.exists():
                found.problems.append(f"{where}: {path} does not exist; mend the path.")
            else:
                found.notes.append(f"{where}: {path} {what} and was not looked into, nor counted.")
        elif problem := taken_for_pattern(path):
            found.problems.append(f"{where}: {problem}")
        elif part := next((key for key in _PART_OF_FILE if entry.get(key) is not None), None):
            found.problems.append(f"{where}: with `{part}` axolotl reads only a part of {path}; remove it.")
        elif entry.get("split") not in (None, "train"):
            found.problems.append(f"{where}: split {_shown(entry['split'])} is not all of {path}; write train.")
        elif not path.is_file():
            found.problems.append(f"{where}: {path} does not exist; run `smt mix`, or mend the path.")
        elif entry.get("ds_type") not in (None, "json"):
            found.problems.append(f"{where}: ds_type {entry['ds_type']!r} cannot read {path}; write json.")
        elif not os.access(path, os.R_OK):
            found.problems.append(f"{where}: {path} cannot be read; mend its permissions.")
        elif twin := next((data.where for data in files if data.path.resolve() == path.resolve()), None):
            found.problems.append(f"{where}: {path} stands under {twin} already, and would be read twice; remove one.")
        else:
            files.append(_Data(where, path, entry))
    return files


def _deepspeed(config: Any, found: Checked) -> dict[str, Any]:
    """The config's DeepSpeed settings, which may stand in a file of their own; empty without."""
    settings = config.deepspeed
    if isinstance(settings, str):
        try:
            settings = orjson.loads(Path(settings).read_bytes())
        except (OSError, ValueError) as error:
            found.problems.append(f"deepspeed: {settings} cannot be read as JSON ({_line(error)}); mend the path.")
    return settings if isinstance(settings, dict) else {}


def _takes_flash_attention(values: dict[Any, Any]) -> bool:
    return bool(values.get("flash_attention")) or values.get("attn_implementation") == "flash_attention_2"


def _tokenizer(path: Path, config: Any, found: Checked) -> Any:
    """The tokenizer as axolotl sets it up; None where it cannot be had."""
    from axolotl.loaders import load_tokenizer

    config.base_model = config.base_model_config = base_model_of(path)
    config.tokenizer_config = config.tokenizer_config or config.base_model
    try:
        return load_tokenizer(config)
    # The hub, the network and every tokenizer class have errors of their own.
    except Exception as error:
        if isinstance(error, ValueError) and "chat_template" in str(error):
            problem = f"chat_template: axolotl refuses it: {_line(error)}; remove the key, or take another template"
            found.problems.append(f"{problem}.")
            return None
        # What the hub, the network and missing files raise is an OSError.
        if isinstance(error, ValueError) and not isinstance(error, OSError):
            found.problems.append(f"base_model: axolotl refuses it: {_line(error)}.")
            return None
        found.notes.append(
            f"tokenizer {config.tokenizer_config}: it cannot be loaded here ({_line(error)}), so chat template, turn "
            "ends and lengths were not checked."
        )
        return None


def _check_vocabulary(config: Any, tokenizer: Any, found: Checked) -> None:
    """A tokenizer that is not the model's own may have more tokens, but none by another number."""
    from transformers import AutoTokenizer

    try:
        own = AutoTokenizer.from_pretrained(config.base_model).get_vocab()
    # There is none, or it cannot be had here.
    except Exception:
        return
    vocabulary = tokenizer.get_vocab()
    if any(vocabulary.get(token) != number for token, number in own.items()):
        found.problems.append(
            f"tokenizer_config: the tokens of {config.tokenizer_config} are others than those of {config.base_model}, "
            "which would read other words than stand there; mix with the model's own tokenizer."
        )


def _measure(files: list[_Data], held_out: list[_Data], config: Any, tokenizer: Any, found: Checked) -> None:
    """Count each file's rows and tokens: by the mix's manifest where it is the mix's own file, else anew."""
    mixed: dict[Path, dict[str, Any]] = {}
    held: dict[str, dict[str, Any]] = {}
    measured_so = set()
    for folder in dict.fromkeys(data.path.parent for data in files):
        if (mix := _mix_in(folder, found)) is None:
            continue
        mixed |= mix.files
        held |= mix.held_out
        if _is_measured_so(mix, config, tokenizer, found):
            measured_so.add(folder)
    for data in held_out:
        if not _is_changed(data, held.get(data.path.name), found):
            _trains_rightly(data, config, tokenizer, found)
    for data in files:
        file = mixed.get(data.path)
        if _is_changed(data, file, found) or not _trains_rightly(data, config, tokenizer, found):
            continue
        if file is not None and data.path.parent in measured_so:
            data.rows, data.tokens = file["rows"], file["tokens"]
        elif tokenizer is not None:
            _count(data, config, tokenizer, found)


def _mix_in(folder: Path, found: Checked) -> _Mix | None:
    """What the manifest of `smt mix` in a folder of data says; None where there is none, or another program's."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        return None
    try:
        manifest = read_manifest(path)
        tokenizer = manifest["tokenizer"]
        return _Mix(
            files={folder / name: file for name, file in manifest["files"].items()},
            held_out=dict(manifest["validation"]),
            sequence_len=int(manifest["settings"]["sequence_len"]),
            tokenizer=tokenizer["name"],
            fingerprint=tokenizer["sha256"],
            versions={name: manifest["versions"][name] for name in ("transformers", "tokenizers")},
        )
    except (BadInput, OSError, ValueError, KeyError, TypeError, AttributeError):
        found.notes.append(f"{path}: it is no manifest of `smt mix`, so the files beside it are counted anew.")
        return None


def _is_changed(data: _Data, file: dict[str, Any] | None, found: Checked) -> bool:
    """Whether a file is another than the mix's manifest says, if that says anything."""
    if file is None:
        return False
    with data.path.open("rb") as content:
        if hashlib.file_digest(content, "sha256").hexdigest() == file["sha256"]:
            return False
    found.problems.append(f"{data.where}: {data.path} was changed after `smt mix`; run `smt mix` again.")
    return True


def _is_measured_so(mix: _Mix, config: Any, tokenizer: Any, found: Checked) -> bool:
    """Whether a mix was measured as axolotl will encode it."""
    problem = None
    if mix.sequence_len > config.sequence_len:
        problem = (
            f"sequence_len: {config.sequence_len}, but the mix was cut to {mix.sequence_len} tokens; set "
            "mix.sequence_len and run `smt mix` again."
        )
    elif mix.tokenizer != config.tokenizer_config:
        problem = (
            f"tokenizer_config: {config.tokenizer_config}, but the mix was cut with the tokenizer {mix.tokenizer}; "
            "set mix.tokenizer and run `smt mix` again."
        )
    # Other versions may write the same tokenizer otherwise.
    elif (
        tokenizer is not None
        and all(version(name) == number for name, number in mix.versions.items())
        and Ruler(mix.tokenizer, mix.sequence_len).fingerprint != mix.fingerprint
    ):
        problem = (
            f"tokenizer_config: {mix.tokenizer} or its chat template was changed after `smt mix`; run `smt mix` again."
        )
    if problem:
        found.problems.append(problem)
    return problem is None


def _rows(data: _Data, found: Checked) -> Iterator[tuple[int, Any]]:
    """Each row's line number and content; ends with a problem at the first row that is none."""
    with data.path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                found.problems.append(f"{data.path}, line {number}: not valid JSON ({error}); mend or remove it.")
                return
            content = row.get(data.key) if isinstance(row, dict) else None
            if not content or not isinstance(content, list if data.is_chat else str):
                found.problems.append(
                    f"{data.path}, line {number}: no `{data.key}` to train on, which {data.where} (type "
                    f"{data.entry.get('type')}) reads; mend the row, or the entry's type and field."
                )
                return
            if data.is_chat and not data.entry.get("message_property_mappings") and not all(map(_is_turn, content)):
                found.problems.append(
                    f"{data.path}, line {number}: a turn has no `role`, or no `content`; mend the row."
                )
                return
            yield number, content


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and bool(turn.get("role")) and ("content" in turn or "tool_calls" in turn)


def _trains_rightly(data: _Data, config: Any, tokenizer: Any, found: Checked) -> bool:
    """Encode the first rows with axolotl's own code and look at what is trained: answers, their ends, begin tokens.

    Without a tokenizer nothing can be said against them.
    """
    from axolotl.prompt_strategies import load
    from axolotl.utils.dict import DictDefault
    from transformers import PreTrainedTokenizerBase

    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        return True
    contents = [content for _, (_, content) in zip(range(8), _rows(data, found), strict=False)]
    if not contents:
        return False
    problem = None
    try:
        strategy = load(data.entry.get("type"), tokenizer, config, DictDefault(data.entry))
        for content in contents:
            row = strategy.tokenize_prompt({data.key: content if data.is_chat else [content]})
            tokens, labels = row["input_ids"], row["labels"]
            if not data.is_chat:
                tokens, labels = tokens[0], labels[0]
            problem = _problem_of_row(data, tokenizer, tokens, labels)
            if problem is None and data.is_chat:
                problem = _problem_of_mask(data, tokenizer, content, tokens, labels)
            if problem:
                break
        if problem is None and data.is_chat:
            problem = _template_problem(data, config, tokenizer, contents)
    # Templates and prompt strategies raise whatever the data makes them run into.
    except Exception as error:
        problem = f"axolotl cannot encode {data.path}: {_line(error)}; mend the entry, the data or eot_tokens"
    if problem:
        found.problems.append(f"{data.where}: {problem}.")
    return problem is None


def _problem_of_row(data: _Data, tokenizer: Any, tokens: list[int], labels: list[int]) -> str | None:
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    if begin is not None and tokens[:2] == [begin, begin]:
        return f"{data.path}: texts begin with two {tokenizer.bos_token}; take it out of the data"
    if all(label == -100 for label in labels):
        return f"{data.path}: nothing of its first row is trained; set roles_to_train to the role of its answers"
    if not data.is_chat:
        return None if labels[-1] == end else f"{data.path}: texts do not end with a trained {tokenizer.eos_token}"
    # The turn's end is the first special token behind the last trained word.
    last = max(place for place, label in enumerate(labels) if label != -100)
    special = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
    if labels[last] in special:
        return None
    closing = next((token for token in tokens[last + 1 :] if token in special), None)
    name = "the end of turns" if closing is None else tokenizer.convert_ids_to_tokens(closing)
    return f"{name}, which ends the answers of {data.path}, is not trained; add it to eot_tokens, or no answer ends"


def _problem_of_mask(data: _Data, tokenizer: Any, turns: Any, tokens: list[int], labels: list[int]) -> str | None:
    """Turns beside the assistant's that are trained, as with axolotl's `train_on_inputs`."""
    if data.entry.get("message_property_mappings") or not all(isinstance(turn.get("content"), str) for turn in turns):
        return None
    trained = tokenizer.decode([token for token, label in zip(tokens, labels, strict=True) if label != -100])
    # Decoding may change white space.
    rest = " ".join(trained.split())
    said = [(turn["role"], " ".join(turn["content"].split())) for turn in turns]
    for role, text in said:
        if role == "assistant":
            rest = rest.replace(text, " ", 1)
    for role, text in said:
        # What is shorter may also stand in a tag, such as <think>.
        if role != "assistant" and len(text) > 8 and text in rest:
            return (
                f"{data.path}: the {role}'s turns are trained, too; set roles_to_train: [assistant] in the entry and "
                "train_on_inputs: false"
            )
    return None


def _template_problem(data: _Data, config: Any, tokenizer: Any, contents: list[Any]) -> str | None:
    """A chat template of the config that writes the data otherwise than the tokenizer's own."""
    from axolotl.utils.chat_templates import get_chat_template_from_config
    from axolotl.utils.dict import DictDefault
    from transformers import AutoTokenizer

    chosen = get_chat_template_from_config(cfg=config, ds_cfg=DictDefault(data.entry), tokenizer=tokenizer)
    own = AutoTokenizer.from_pretrained(config.tokenizer_config).chat_template
    if own is None or chosen == own:
        return None
    for content in contents:
        texts = [tokenizer.apply_chat_template(content, chat_template=each, tokenize=False) for each in (chosen, own)]
        if texts[0] != texts[1]:
            name = getattr(config.chat_template, "value", config.chat_template)
            return (
                f"chat_template {name} writes {data.path} otherwise than the template of "
                f"{config.tokenizer_config}, which the model knows; use tokenizer_default"
            )
    return None


def _count(data: _Data, config: Any, tokenizer: Any, found: Checked) -> None:
    """Count the rows and tokens of a file, and those that are too long."""
    from axolotl.utils.chat_templates import get_chat_template_from_config
    from axolotl.utils.dict import DictDefault

    problems = len(found.problems)
    template = None
    if data.is_chat:
        template = get_chat_template_from_config(cfg=config, ds_cfg=DictDefault(data.entry), tokenizer=tokenizer)
    tokens, long, first_long = 0, 0, ""
    batch: list[tuple[int, Any]] = []

    def write(number: int, chat: Any) -> Any:
        try:
            return tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False)
        # Templates raise whatever the data makes them run into.
        except Exception as error:
            found.problems.append(f"{data.path}, line {number}: it does not fit the chat template: {_line(error)}.")
            return None

    def count_batch() -> None:
        nonlocal tokens, long, first_long
        texts = [content for _, content in batch]
        if data.is_chat:
            texts = [written for number, chat in batch if (written := write(number, chat)) is not None]
        if len(texts) < len(batch):
            return
        encoded = tokenizer(texts, add_special_tokens=not data.is_chat)["input_ids"]
        for (number, _), ids in zip(batch, encoded, strict=True):
            length = len(ids) + (not data.is_chat and ids[-1:] != [tokenizer.eos_token_id])
            tokens += length
            if length > config.sequence_len:
                long += 1
                first_long = first_long or f"the first in line {number}, of {length:,}"
        data.rows += len(batch)
        batch.clear()

    for row in _rows(data, found):
        batch.append(row)
        if len(batch) == _BATCH:
            count_batch()
        if len(found.problems) > problems:
            return
    if batch:
        count_batch()
    if len(found.problems) == problems:
        data.tokens = tokens
    if long:
        does = config.excess_length_strategy or ("drop" if data.is_chat else "cut")
        found.problems.append(
            f"{data.where}: {long:,} of {data.rows:,} texts of {data.path} are longer than sequence_len "
            f"{config.sequence_len} ({first_long} tokens), and axolotl would {does} them silently; "
            "let `smt mix` cut them."
        )


def _check_prepared(files: list[_Data], config: Any, tokenizer: Any, found: Checked) -> None:
    """Prepared data that axolotl would reuse though the files have changed since: its cache looks at names alone."""
    folder = Path(config.dataset_prepared_path or "last_run_prepared")
    candidates = list(folder.iterdir()) if folder.is_dir() else []
    # axolotl cannot name the folder by a config that it refuses.
    with suppress(AttributeError, KeyError, TypeError):
        if tokenizer is not None:
            from axolotl.utils.data.shared import generate_dataset_hash_from_config

            name = generate_dataset_hash_from_config(config, config.datasets, tokenizer.name_or_path)
            candidates = [folder / name]
    for prepared in candidates:
        written = [file.stat().st_mtime for file in prepared.glob("*") if file.is_file()]
        read = [*(data.path for data in files), *Path(str(config.tokenizer_config)).glob("*token*")]
        read += Path(str(config.tokenizer_config)).glob("chat_template*")
        newer = [file for file in read if written and file.is_file() and file.stat().st_mtime > min(written)]
        if newer:
            found.problems.append(
                f"dataset_prepared_path: {prepared} is older than {newer[0]}, and axolotl would train on the old data; "
                "delete it."
            )


def _check_output(files: list[_Data], config: Any, found: Checked) -> None:
    """What a training would go on from, or write over."""
    output = Path(config.output_dir or "model-out")
    if config.base_model and output.resolve() == Path(config.base_model).resolve():
        found.problems.append(
            f"output_dir: {output} is the base model's folder, which would be written over; name another."
        )
    newest = max((data.path for data in files), key=lambda path: path.stat().st_mtime, default=None)
    for checkpoint in sorted(output.glob("checkpoint-*")):
        if newest is not None and checkpoint.stat().st_mtime < newest.stat().st_mtime:
            found.problems.append(
                f"output_dir: {checkpoint} is older than {newest}, and --auto-resume-from-checkpoints would go on from "
                "it; delete the checkpoints of the earlier mix."
            )
            break
    for key in ("resume_from_checkpoint", "lora_model_dir"):
        named = getattr(config, key, None)
        if isinstance(named, str) and Path(named).is_absolute() and not Path(named).exists():
            found.problems.append(f"{key}: {named} does not exist; mend the path, or remove the key.")


def _size(
    path: Path, config: Any, files: list[_Data], deepspeed: dict[str, Any], num_gpus: int, found: Checked
) -> None:
    """Steps, tokens, FLOP, hours and memory, and the settings that do not fit them."""
    tokens, rows = sum(data.tokens or 0 for data in files), sum(data.rows for data in files)
    if config.val_set_size:
        size = float(config.val_set_size)
        held_out = size if size < 1 else min(size / max(rows, 1), 1.0)
        tokens, rows = round(tokens * (1 - held_out)), round(rows * (1 - held_out))
        found.notes.append(
            f"val_set_size: {config.val_set_size} holds {held_out:.1%} of the texts out, and nothing that they alone "
            "say is learned; mix.validation_rounds leaves no document out."
        )
    epochs = float(config.num_epochs or 1)
    micro, accumulation = int(config.micro_batch_size or 1), int(config.gradient_accumulation_steps or 1)
    if config.sample_packing:
        batches, unit = math.ceil(tokens / config.sequence_len), f"{tokens:,} tokens / {config.sequence_len} a row"
    else:
        batches, unit = rows, f"{rows:,} rows"
    together = int(config.tensor_parallel_size or 1) * int(config.context_parallel_size or 1)
    if num_gpus % together:
        found.problems.append(
            f"tensor_parallel_size x context_parallel_size: {together} GPUs share a row, of which {num_gpus} GPUs are "
            "no multiple; lower them, or give --gpus."
        )
        return
    groups = num_gpus // together
    batch = micro * accumulation * groups
    # As axolotl counts: packed, what does not fill a step is left out of each epoch.
    of_epochs = max(1, batches // batch) * epochs if config.sample_packing else rows * epochs / batch
    steps = int(config.max_steps or 0) if (config.max_steps or 0) > 0 else math.ceil(of_epochs)
    if config.max_steps and config.max_steps > math.ceil(of_epochs):
        found.problems.append(
            f"max_steps: {config.max_steps} steps go {config.max_steps / of_epochs * epochs:.1f} times over the data, "
            f"not {epochs:g} times as num_epochs says; take one of the two out."
        )
    if steps < MIN_STEPS:
        found.problems.append(
            f"micro_batch_size x gradient_accumulation_steps x GPUs: {batch} rows a step leave {steps} optimizer "
            f"steps, too few to learn from (under {MIN_STEPS}); lower them, or mix more tokens."
        )
    ratio = config.warmup_ratio
    warmup = int(config.warmup_steps if config.warmup_steps is not None else (ratio or 0) * steps)
    if ratio and config.warmup_steps is None and warmup == 0:
        found.problems.append(
            f"warmup_ratio: {ratio:g} of {steps} steps is no warm-up at all; set warmup_steps, or train more steps."
        )
    if warmup >= steps:
        found.problems.append(f"warmup_steps: {warmup} of {steps} steps are all of them; set fewer.")
    found.facts += [
        f"tokens: {tokens:,} in {rows:,} texts, {epochs:g} times over",
        f"steps:  about {steps:,}: {unit} / ({micro} x {accumulation} x {groups} "
        f"{f'groups of {together} GPUs' if together > 1 else 'GPUs'} = {batch} rows a step) x {epochs:g} epochs; "
        f"{warmup} of warm-up",
    ]
    count, origin = _parameters(path)
    if count is None:
        found.notes.append(f"base_model {base_model_of(path)}: {origin}, so FLOP, hours and memory are not known.")
        return
    adapter = bool(config.adapter)
    times_over = steps * batch / max(1, batches)
    trained = (times_over if config.max_steps else min(times_over, epochs)) * tokens
    flop = (4 if adapter else 6) * count * trained
    hours = flop / (num_gpus * UTILIZATION * PEAK_FLOPS * 3600)
    found.facts += [
        f"FLOP:   {4 if adapter else 6} x {count:.3g} parameters ({origin}) x {trained:.3g} tokens = {flop:.2g}",
        f"hours:  {flop:.2g} FLOP / ({num_gpus} GPUs x {UTILIZATION} x {PEAK_FLOPS:.3g} FLOP/s x 3600 s) = "
        f"{hours:.3g}, at {UTILIZATION:.0%} of an H100",
        f"memory: {_memory(config, deepspeed, count, num_gpus)}",
    ]


def _memory(config: Any, deepspeed: dict[str, Any], count: float, num_gpus: int) -> str:
    if config.adapter:
        each = 0.5 if config.load_in_4bit else 1 if config.load_in_8bit else 2
        size = f"{each:g} bytes x {count:.3g} frozen parameters = {each * count / 1e9:.3g} GB a GPU"
        return f"{size}, the adapter and activations"
    in_bf16_alone = (config.bf16 or config.bfloat16) and not deepspeed
    each = 8 if in_bf16_alone else 16
    total = f"{each} bytes x {count:.3g} (weights, gradients, two moments) = {each * count / 1e9:.3g} GB"
    zero = deepspeed.get("zero_optimization")
    stage = zero.get("stage") if isinstance(zero, dict) else None
    shared = (
        f" over {num_gpus} GPUs, {each * count / 1e9 / num_gpus:.3g} GB each"
        if stage == 3 or config.fsdp_version
        else " a GPU"
    )
    return f"{total}{shared}, and activations"


def _parameters(path: Path) -> tuple[float | None, str]:
    """How many weights the base model has, and how that is known; nothing is loaded."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    name = base_model_of(path)
    try:
        shape = AutoConfig.from_pretrained(name)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(shape)
        return float(sum(weights.numel() for weights in model.parameters())), "counted from its config.json"
    # The hub, the network and every architecture have errors of their own.
    except Exception:
        size = re.search(r"(?<![\w.])(\d+(?:\.\d+)?)[Bb](?![A-Za-z])", name.rpartition("/")[2])
        if size is None:
            return None, "its config.json cannot be loaded here"
        return float(size[1]) * 1e9, "by its name, since its config.json cannot be loaded here"
