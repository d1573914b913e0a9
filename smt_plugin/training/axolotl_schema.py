"""Which keys axolotl knows in a config."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any, get_args

from smt_plugin.errors import BadInput, require


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
