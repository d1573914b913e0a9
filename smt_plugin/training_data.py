"""Write a run's axolotl config: a shipped or own config, filled in for the run's mix -> `<run>/axolotl.yaml`."""

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import yaml

from smt_plugin.config import load_yaml
from smt_plugin.errors import BadInput, require
from smt_plugin.mix import (
    CHAT_FILE,
    MANIFEST_FILE,
    PLAIN_QA_FILE,
    REPLAY_CHAT_FILE,
    REPLAY_TEXT_FILE,
    TEXT_FILE,
    VALIDATION,
    budget_name,
    read_manifest,
)
from smt_plugin.shipped import config_files

MIX_FILES = (CHAT_FILE, TEXT_FILE, PLAIN_QA_FILE, REPLAY_TEXT_FILE, REPLAY_CHAT_FILE)

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


def read_config(config: str | Path) -> dict[str, Any]:
    """Read an axolotl config by its shipped name (`qwen3-8b/full`) or by its path.

    Raises:
        BadInput: there is no such config, or it is not a YAML mapping.
    """
    files = config_files()
    path = files.get(str(config), Path(config))
    if not path.is_file():
        raise BadInput(f"config {config}: no such file; give a path, or one of: {', '.join(files)}.")
    return load_yaml(path)


def base_model_of(config: str | Path, base_model: str | None = None) -> str:
    """The model a config trains: a hub name, or the absolute path of a folder.

    Args:
        config: shipped name or path.
        base_model: replaces the config's.

    Raises:
        BadInput: there is no such config, or no model in it.
    """
    name = base_model or read_config(config).get("base_model")
    if not isinstance(name, str):
        raise BadInput(f"config {config}: it names no base_model; add one, or set train.base_model.")
    # The microworld's model comes with the package: its path begins with the package's name.
    for folder in (Path(name), Path(__file__).parent.parent / name):
        if folder.is_dir():
            return str(folder.resolve())
    return name


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
    # Its date tells whether the model was trained by it.
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
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
    return in_mix and path.name.removeprefix(VALIDATION) in MIX_FILES


@dataclass(frozen=True, slots=True)
class Training:
    """One training of a run: its only one, or that of one of several nested mixes.

    Attributes:
        run: the run folder.
        budget: the mix's, such as `10M`; empty where the run has only one.
    """

    run: Path
    budget: str = ""

    @property
    def mix(self) -> Path:
        """The folder of what is trained on."""
        return self.run / "mix" / self.budget

    @property
    def config(self) -> Path:
        """The axolotl config that `smt mix` writes."""
        return (self.mix if self.budget else self.run) / "axolotl.yaml"

    @property
    def output(self) -> Path:
        """Where axolotl writes the model."""
        return self.run / (f"model-{self.budget}" if self.budget else "model")

    @property
    def model(self) -> Path:
        """The trained model: the output, or `merged` in it where the config trains an adapter."""
        has_adapter = self.config.is_file() and read_config(self.config).get("adapter")
        return self.output / "merged" if has_adapter else self.output

    def unready(self) -> str | None:
        """What is to be done before the trained model can be used, as a sentence; None if it is there."""
        # axolotl writes config.json before it trains, and the weights after it.
        weights, adapter = self._weights(), self._adapter()
        config = shlex.quote(str(self.config))
        if not weights and adapter:
            return f"the adapter in {self.output} is not merged yet; run: axolotl merge-lora {config}"
        if not weights:
            return f"there is no trained model in {self.output}; run: axolotl train {config}"
        if adapter and min(weights) < max(adapter):
            return f"{self.model} was merged before the adapter was last trained; run: axolotl merge-lora {config}"
        if self.is_stale():
            return f"the model in {self.output} was trained before the mix in {self.mix}; run: axolotl train {config}"
        return None

    def is_stale(self) -> bool:
        """Whether the model that is there was trained on another mix than the one that is there.

        It was not if it is younger than the mix, or if a card in its folder, axolotl's or `smt card`'s, names the mix's
        content.
        """
        manifest = self.mix / MANIFEST_FILE
        dates = self._adapter() or self._weights()
        if not manifest.is_file() or not dates or manifest.stat().st_mtime <= max(dates):
            return False
        content = read_manifest(manifest)["content_hash"][:16]
        cards = (folder / "README.md" for folder in {self.output, self.model})
        return not any(content.encode() in card.read_bytes() for card in cards if card.is_file())

    def made_at(self) -> float:
        """When the weights of the model that is there were written, in Unix seconds."""
        return max(self._weights())

    def trained_at(self) -> float:
        """When the model that is there was trained; it may have been merged later."""
        return max(self._adapter() or self._weights())

    def _weights(self) -> list[float]:
        files = self.model.glob("*.safetensors")
        return [file.stat().st_mtime for file in files if not file.name.startswith("adapter_model")]

    def _adapter(self) -> list[float]:
        if self.model == self.output:  # one that lies there is of an earlier training
            return []
        return [file.stat().st_mtime for file in self.output.glob("adapter_model.safetensors")]


def trainings_of(run_folder: Path, budgets: Iterable[int]) -> list[Training]:
    """Return a run's trainings, from the smallest of the run file's `mix.budgets` on; without any, the only one."""
    return [Training(run_folder, budget_name(tokens)) for tokens in sorted(set(budgets))] or [Training(run_folder)]


def unknown_keys(values: dict[Any, Any]) -> list[str]:
    """Keys of an axolotl config that axolotl would silently ignore, at every level, as dotted paths.

    Imports axolotl, which takes some ten seconds.

    Raises:
        BadInput: axolotl is not installed, or a plugin cannot be imported.
    """
    return _unknown(values, known_fields(values), "", bool(values.get("rl")))


def known_fields(values: dict[Any, Any]) -> dict[str, Any]:
    """The keys that axolotl and the config's plugins know -> pydantic's field.

    Raises:
        BadInput: axolotl is not installed, or a plugin cannot be imported.
    """
    known = _fields(require("axolotl.utils.schemas.config", "train").AxolotlInputConfig)
    plugins = values.get("plugins")
    for plugin in (each for each in plugins if isinstance(each, str)) if isinstance(plugins, list) else ():
        try:
            arguments = _imported(plugin)().get_input_args()
            known |= _fields(_imported(arguments)) if arguments else {}
        # A plugin is anybody's code, and its name anybody's text.
        except Exception as error:
            raise BadInput(
                f"plugins: {plugin} cannot be imported ({' '.join(str(error).split())}), and axolotl would train on "
                "without it; mend the name or install it."
            ) from None
    return known


def _imported(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


def _fields(schema: Any) -> dict[str, Any]:
    """A pydantic model's fields by name and by alias."""
    fields = dict(schema.model_fields)
    for field in schema.model_fields.values():
        alias = field.validation_alias
        fields |= dict.fromkeys([alias] if isinstance(alias, str) else getattr(alias, "choices", ()), field)
    return fields


def _unknown(values: dict[Any, Any], known: dict[str, Any], prefix: str, is_preference: bool) -> list[str]:
    unknown = []
    for key, value in values.items():
        if key not in known:
            unknown.append(f"{prefix}{key}")
            continue
        schemas = list(_schemas_in(known[key].annotation))
        if key in ("datasets", "test_datasets") and not is_preference:
            # Of all forms of data the first, plain fine-tuning; axolotl reads an entry as that whatever its keys.
            schemas = schemas[:1]
        entries = enumerate(value) if isinstance(value, list) else [(None, value)]
        for index, entry in entries:
            if schemas and isinstance(entry, dict):
                place = f"{prefix}{key}." if index is None else f"{prefix}{key}[{index}]."
                of_schemas = [_fields(schema) for schema in schemas]
                if key == "fsdp_config":  # axolotl takes a prefix off that transformers' own keys have
                    of_schemas = [fields | {f"fsdp_{name}": fields[name] for name in fields} for fields in of_schemas]
                unknown += sorted((_unknown(entry, fields, place, is_preference) for fields in of_schemas), key=len)[0]
    return unknown


def _schemas_in(annotation: Any) -> Iterator[Any]:
    """The pydantic models that a field's type names."""
    if hasattr(annotation, "model_fields"):
        yield annotation
    for argument in get_args(annotation):
        yield from _schemas_in(argument)
