"""What comes with the package, one line each (`smt ls`), and a copy of a config to change (`smt cp`)."""

import re
import shutil
from pathlib import Path

from smt_plugin.assets import asset_dir
from smt_plugin.errors import BadInput

_FIRST_SENTENCE = re.compile(r"(.*?)(?<! al)\.(?:\s|$)")


def shipped() -> dict[str, dict[str, str]]:
    """Return the methods, prompts, tasks and configs: kind -> name -> what it is, in one line."""
    from jinja2 import Environment, meta

    from smt_plugin.methods import METHODS

    prompts = {}
    for path in sorted(asset_dir("prompts").rglob("*/*.jinja")):
        variables = meta.find_undeclared_variables(Environment().parse(path.read_text(encoding="utf-8")))
        prompts[f"{path.parent.name}/{path.stem}"] = "from " + ", ".join(sorted(variables))
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
    if path.exists():
        raise BadInput(f"{path} is there already; remove it or give another destination.")
    if not path.parent.is_dir():
        raise BadInput(f"{path.parent} is not a folder; make it first, or give another destination.")
    shutil.copyfile(files[name], path)
    return path


def _comment(path: Path) -> str:
    """The first sentence of the comment that a YAML file begins with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    count = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return _first_sentence(" ".join(line.removeprefix("#").strip() for line in lines[:count]))


def _first_sentence(text: str) -> str:
    words = " ".join(text.split())
    found = _FIRST_SENTENCE.match(words)
    return found[1] if found else words
