"""Find the data folders: beside the package in a checkout, inside it in a wheel."""

from pathlib import Path

PACKAGE = Path(__file__).parent
# Another wheel may drop a folder named `prompts` into site-packages, but not a pyproject.toml.
_ROOT = PACKAGE.parent if (PACKAGE.parent / "pyproject.toml").is_file() else PACKAGE


def asset_dir(name: str) -> Path:
    """Return the folder `prompts`, `lm_eval_tasks` or `axolotl_configs`."""
    return _ROOT / name
