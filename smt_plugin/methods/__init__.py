"""The methods by name, and their options from a run file."""

from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any

from smt_plugin.errors import BadInput
from smt_plugin.methods.active_reading import ActiveReading
from smt_plugin.methods.base import Method
from smt_plugin.methods.entigraph import EntiGraph
from smt_plugin.methods.focal_rewrite import FocalRewrite
from smt_plugin.methods.spa import Spa
from smt_plugin.methods.synthetic_qa import SyntheticQA
from smt_plugin.methods.wrap import Wrap

METHODS: dict[str, type[Any]] = {
    cls.name: cls for cls in (SyntheticQA, ActiveReading, FocalRewrite, Wrap, EntiGraph, Spa)
}


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


def make_method(name: str, options: dict[str, Any], where: str = "methods") -> Method:
    """Make a method from its options.

    Raises:
        BadInput: an option that the method does not have, or of another type; `where` names the place.
    """
    from pydantic import TypeAdapter, ValidationError

    cls = method_class(name)
    known = [field.name for field in fields(cls)]
    for key in options:
        if key not in known:
            raise BadInput(f"{where}.{name}.{key}: unknown key; {name} has {', '.join(known)} and tokens.")
    try:
        return TypeAdapter(cls).validate_python(options)  # type: ignore[no-any-return]
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, (where, name, *problem["loc"])))
        said = (
            "unknown key"
            if problem["type"] == "unexpected_keyword_argument"
            else problem["msg"].removeprefix("Value error, ")
        )
        raise BadInput(f"{place}: {said}; mend or remove it.") from None
