"""What axolotl says of a config: which keys it knows, which values it takes, and what its validation makes of them."""

import copy
import math
from collections.abc import Container, Iterator
from contextlib import suppress
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any, get_args

from smt_plugin.errors import BadInput, first_line, require
from smt_plugin.training.axolotl_config import taken_for_mpt

# Numbers of which axolotl's schema takes any: what makes sense, in words and as bounds.
_COUNT, _PART = ("above 0", 1e-30, 1e12), ("from 0 to 1", 0.0, 1.0)
_BOUNDS = {
    **dict.fromkeys(("sequence_len", "micro_batch_size", "gradient_accumulation_steps", "num_epochs"), _COUNT),
    **dict.fromkeys(("learning_rate", "lora_r"), _COUNT),
    "warmup_ratio": _PART,
}
# What axolotl's validation asks of the target machine: an H100, whatever this one is.
_GPU = {**dict.fromkeys(("bf16", "fp8", "tf32"), True), "n_node": 1, "compute_capability": "sm_90"}


def unknown_keys(values: dict[Any, Any]) -> list[str]:
    """Keys of an axolotl config that axolotl would silently ignore, at every level, as dotted paths.

    Imports axolotl, which takes some ten seconds.

    Raises:
        BadInput: axolotl is not installed, or a plugin cannot be imported.
    """
    return _unknown(values, _known_fields(values), "", bool(values.get("rl")))


def read_values(values: dict[Any, Any]) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """The values that axolotl takes, numbers as it reads them, and what is wrong with the others, a sentence each.

    Of `datasets` each entry is taken or refused by itself. Keys that axolotl does not know are in neither.

    Raises:
        BadInput: axolotl is not installed.
    """
    try:
        known = _known_fields(values)
    except BadInput:  # by a plugin; the others are known without it
        known = _known_fields({})
    from axolotl.utils.schemas.datasets import SFTDataset

    accepted: dict[str, Any] = {}
    refused: dict[str, list[str]] = {}
    for key, value in values.items():
        if key == "datasets" and isinstance(value, list) and not values.get("rl"):
            # As what axolotl takes them for.
            read = [(f"[{index}]", *_read_value(SFTDataset, entry)) for index, entry in enumerate(value)]
            accepted[key] = [entry for _, entry, problem in read if problem is None]
        elif key in known:
            field = known[key]
            kind = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
            read = [("", *_read_value(kind, value, _BOUNDS.get(key)))]
            if read[0][2] is None:
                accepted[key] = read[0][1]
        else:
            continue
        if problems := [f"{key}{place}{problem}." for place, _, problem in read if problem]:
            refused[key] = problems
    return accepted, refused


def unknown_name(key: str, value: Any) -> str | None:
    """What is wrong with an optimizer or schedule that training would refuse once the model is loaded.

    axolotl's schema takes any text.
    """
    from axolotl.utils.schemas.enums import CustomSupportedOptimizers
    from transformers.trainer_utils import SchedulerType
    from transformers.training_args import OptimizerNames

    names = {
        "optimizer": {each.value for kind in (CustomSupportedOptimizers, OptimizerNames) for each in kind},
        "lr_scheduler": {"one_cycle", "rex", *(each.value for each in SchedulerType)},
    }
    if key not in names or value is None or value in names[key]:
        return None
    return f"{key}: neither axolotl nor transformers knows {shown(value)}; fix its name."


def validated(values: dict[str, Any], refused: Container[str], num_gpus: int) -> tuple[Any, list[str]]:
    """The config as axolotl's own validation returns it, and what that refuses, a sentence each.

    Args:
        values: those that axolotl takes by themselves; the config is a copy of them if it is refused as a whole.
        refused: keys of which it is said already.
    """
    from axolotl.cli.config import prepare_plugins
    from axolotl.utils.config import validate_config
    from axolotl.utils.dict import DictDefault
    from pydantic import ValidationError

    problems = []
    if problem := taken_for_mpt(values):
        problems.append(problem)
        # Any other name, so that axolotl goes on to the rest.
        values = {**values, "base_model": "model"}
    if not isinstance(values.get("datasets"), list) or not values["datasets"]:
        # axolotl wants some data before it looks at anything else.
        values = {**values, "datasets": [{"path": "none.jsonl", "ds_type": "json", "type": "completion"}]}
    try:
        config = DictDefault(copy.deepcopy(values))
        prepare_plugins(config)
        target, here = {**_GPU, "n_gpu": num_gpus}, {"torch_version": version("torch")}
        return validate_config(config, capabilities=target, env_capabilities=here), problems
    except ValidationError as error:
        # Of several errors at one place the first, where the last stands.
        why = {".".join(map(str, each["loc"])) or "config": gist(each["msg"]) for each in reversed(error.errors())}
    # axolotl's validators raise whatever their code runs into.
    except Exception as error:
        why = {"config": gist(error)}
    said = [place for place in reversed(why) if place.split(".")[0] not in refused]
    problems += [f"{place}: axolotl refuses it: {why[place]}." for place in said]
    return DictDefault(copy.deepcopy(values)), problems


def gist(error: object) -> str:
    """The first line of what an error, or its message, says, less pydantic's prefix and the full stop."""
    return first_line(error).removeprefix("Value error, ").rstrip(".")


def shown(value: Any) -> str:
    """A value as code writes it, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _read_value(kind: Any, value: Any, bounds: tuple[str, float, float] | None = None) -> tuple[Any, str | None]:
    """A value as axolotl's schema reads it, and why it is refused, beginning with the place in it; None if it is not.

    Args:
        bounds: of a number, see _BOUNDS.
    """
    from pydantic import TypeAdapter, ValidationError

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
        return value, f"{place}: axolotl refuses {shown(problem['input'])}: {gist(problem['msg'])}"
    # A type that cannot be tried alone is left to axolotl's validation of the whole.
    except Exception:
        return value, None
    if bounds is not None and value is not None:
        with suppress(ValueError):
            read = float(read) if isinstance(read, str) else read
        if isinstance(value, bool) or isinstance(read, str) or not bounds[1] <= read <= bounds[2]:
            return value, f": {shown(value)} makes no sense; give a number {bounds[0]}"
    if isinstance(read, float) and not math.isfinite(read):
        return value, f": {shown(value)} makes no sense; give a finite number"
    return read if isinstance(read, int | float) else value, None


def _holds(value: Any, key: str) -> bool:
    """Whether a key stands anywhere in a value."""
    if isinstance(value, dict):
        return key in value or any(_holds(each, key) for each in value.values())
    return isinstance(value, list) and any(_holds(each, key) for each in value)


def _known_fields(values: dict[Any, Any]) -> dict[str, Any]:
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
                "without it; fix the name or install it."
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
