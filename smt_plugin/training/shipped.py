"""What comes with the package, one line each (`smt ls`), and a copy of a config to change (`smt cp`)."""

import os
import re
from itertools import takewhile
from pathlib import Path
from typing import Any

from smt_plugin.assets import PACKAGE, asset_dir
from smt_plugin.config import load_yaml
from smt_plugin.errors import BadInput
from smt_plugin.files import check_target, read_text, write_text

_FIRST_SENTENCE = re.compile(r"(.*?)(?<! al)\.(?:\s|$)")


def shipped() -> dict[str, dict[str, str]]:
    """Return the methods, prompts, tasks and configs: kind -> name -> what it is, in one line."""
    from jinja2 import Environment, meta

    from smt_plugin.methods import METHODS

    prompts = {}
    for path in sorted(asset_dir("prompts").rglob("*/*.jinja")):
        variables = meta.find_undeclared_variables(Environment().parse(path.read_text(encoding="utf-8")))
        prompts[f"{path.parent.name}/{path.stem}"] = "from " + (", ".join(sorted(variables)) or "a picture alone")
    return {
        "methods": {name: _first_sentence(method.__doc__ or "") for name, method in METHODS.items()},
        "prompts": prompts,
        "tasks": {path.stem: _comment(path) for path in sorted(asset_dir("lm_eval_tasks").rglob("*_smt*.yaml"))},
        "configs": {name: _comment(path) for name, path in config_files().items()},
    }


def config_files() -> dict[str, Path]:
    """Return the configs that come with the package: name, e.g. `llama-3.1-8b/full`, -> file."""
    folder = asset_dir("axolotl_configs")
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.yaml"))}


def copy_config(name: str, destination: str | Path) -> Path:
    """Copy a config into a folder, or to a file that is not there yet, and return the copy.

    Args:
        destination: a text that ends with a slash must name a folder.

    Raises:
        BadInput: no such config, or the file is there already.
    """
    files = config_files()
    if name not in files:
        raise BadInput(f"config {name}: no such config; give one of: {', '.join(files)}.")
    path = Path(destination)
    if path.is_dir() or str(destination).endswith("/"):
        path /= files[name].name
    if os.path.lexists(path):
        raise BadInput(f"{path} is there already; remove it or give another destination.")
    if not path.parent.is_dir():
        raise BadInput(f"{path.parent} is not a folder; make it first, or give another destination.")
    check_target(path)
    write_text(path, read_text(files[name]))
    return path


def _comment(path: Path) -> str:
    """The first sentence of the comment that a YAML file begins with."""
    lines = takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    return _first_sentence(" ".join(line.removeprefix("#").strip() for line in lines))


def _first_sentence(text: str) -> str:
    words = " ".join(text.split())
    found = _FIRST_SENTENCE.match(words)
    return found[1] if found else words


def read_config(config: str | Path) -> dict[str, Any]:
    """Read an axolotl config by its shipped name (`qwen3-8b/full`) or by its path.

    Raises:
        BadInput: there is no such config, or it is not a YAML mapping.
    """
    files = config_files()
    path = files.get(str(config), Path(config))
    if not path.exists():
        raise BadInput(f"config {config}: no such file; give a path, or one of: {', '.join(files)}.")
    return load_yaml(path, "config ")


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
    for folder in (Path(name), PACKAGE.parent / name):
        if folder.is_dir():
            return str(folder.resolve())
    return name


def check_model_is_here(model: str) -> None:
    """Raise BadInput where `base_model_of` returned a path that is none on this machine."""
    # A hub's name has one slash at most and begins with a letter or digit.
    if not Path(model).is_dir() and (model.count("/") > 1 or model.startswith((".", "/", "~"))):
        raise BadInput(f"model {model}: there is no such folder; make it first, or give another path or a hub name.")
