"""The methods by name, and their options from a run file."""

import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from smt_plugin.errors import BadInput
from smt_plugin.methods.base import Method


def _shipped() -> Iterator[type[Any]]:
    """Yield the class that each module of this folder is named after, in the order of the names."""
    for module in iter_modules(__path__):
        for found in vars(import_module(f"{__name__}.{module.name}")).values():
            if isinstance(found, type) and getattr(found, "name", None) == module.name:
                yield found


METHODS: dict[str, type[Any]] = {cls.name: cls for cls in _shipped()}


def method_class(name: str) -> type[Any]:
    """Return the class of a method: a shipped name, or `package.module:Class` for one's own.

    Raises:
        BadInput: no such method.
    """
    if name in METHODS:
        return METHODS[name]
    module_name, _, class_name = name.partition(":")
    if not class_name:
        raise BadInput(
            f"unknown method {name!r}; use one of {', '.join(METHODS)}, or package.module:Class for your own."
        )
    try:
        found = getattr(import_module(module_name), class_name)
    except Exception as error:  # whatever a module of the user does when it is imported
        raise BadInput(f"method {name!r} cannot be imported: {type(error).__name__}: {error}.") from None
    if not (isinstance(found, type) and is_dataclass(found) and callable(getattr(found, "round", None))):
        raise BadInput(f"method {name!r} is no dataclass with a `round`; see docs/reference.md.")
    return found


def uses(cls: type[Any]) -> dict[str, type[Any]]:
    """The methods that a method draws from: the field that holds each one -> its class."""
    return getattr(cls, "uses", {})


def options_of(method: Method, before: str = "") -> dict[str, str]:
    """The options of a method, and those of the methods that it draws from, as name -> Python's way to write it."""
    found: dict[str, str] = {}
    for option in fields(method):  # type: ignore[arg-type]  # its class is a dataclass, which no protocol can say
        value, name = getattr(method, option.name), before + option.name
        found |= options_of(value, f"{name}.") if is_dataclass(value) else {name: repr(value)}  # type: ignore[arg-type]
    return found


def prompt_folders(cls: type[Any]) -> list[Path]:
    """The folders `prompts/` beside the modules of a method, of its bases, and of the methods it draws from.

    A folder need not exist: shipped methods have none there.
    """
    modules = [base.__module__ for method in (cls, *uses(cls).values()) for base in method.__mro__]
    files = [getattr(sys.modules.get(module), "__file__", None) for module in modules]
    return list(dict.fromkeys(Path(file).parent / "prompts" for file in files if file))


def make_method(name: str, options: dict[str, Any]) -> Method:
    """Make a method from its options.

    Raises:
        BadInput: an option that the method does not have, or of another type.
    """
    from pydantic import TypeAdapter, ValidationError

    cls = method_class(name)
    known = [field.name for field in fields(cls)]
    for key in options:
        if key not in known:
            raise BadInput(f"methods.{name}.{key}: unknown key; {name} has {', '.join(known)} and tokens.")
    try:
        return TypeAdapter(cls).validate_python(options)  # type: ignore[no-any-return]
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, ("methods", name, *problem["loc"])))
        is_unknown = problem["type"] == "unexpected_keyword_argument"
        said = "unknown key" if is_unknown else problem["msg"].removeprefix("Value error, ")
        raise BadInput(f"{place}: {said}; fix or remove it.") from None
