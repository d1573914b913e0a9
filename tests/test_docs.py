import re
from pathlib import Path

import click
import pytest

from smt_plugin.assets import asset_dir
from smt_plugin.cli.app import cli
from smt_plugin.methods import METHODS

ROOT = Path(__file__).parent.parent
ROWS = {
    cell
    for line in (ROOT / "docs" / "reference.md").read_text().splitlines()
    if line.startswith("| `")
    for cell in re.findall(r"`([^`]+)`", line.split("|")[1])
}


def commands(group: click.Group, before: str) -> list[str]:
    names = []
    for name, command in group.commands.items():
        names += commands(command, f"{before} {name}") if isinstance(command, click.Group) else [f"{before} {name}"]
    return names


def stems(folder: str, pattern: str) -> list[str]:
    root = asset_dir(folder)
    return [path.relative_to(root).with_suffix("").as_posix() for path in root.rglob(pattern)]


THINGS = {
    "command": commands(cli, "smt"),
    "method": list(METHODS),
    "prompt": [name for name in stems("prompts", "*.jinja") if name != "system"],
    "task": [Path(name).name for name in stems("lm_eval_tasks", "*_smt*.yaml")],
    "config": stems("axolotl_configs", "*.yaml"),
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in THINGS.items() for name in names])
def test_everything_a_user_can_name_has_its_row_in_the_reference(kind: str, name: str) -> None:
    assert name in ROWS, f"{kind} {name} lacks a row in docs/reference.md"


def test_nothing_is_documented_that_does_not_exist() -> None:
    existing = {name for names in THINGS.values() for name in names}
    documented = {row for row in ROWS if row.startswith("smt ") or "_smt" in row or re.fullmatch(r"[\w.-]+/\w+", row)}
    assert documented <= existing


@pytest.mark.parametrize("name", THINGS["command"])
def test_every_command_has_a_help_text(name: str) -> None:
    command: click.Command = cli
    for part in name.split()[1:]:
        assert isinstance(command, click.Group)
        command = command.commands[part]
    assert command.help


def readme_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("block", readme_blocks(), ids=["package", "plain Jinja"])
def test_the_readmes_examples_render_focal_rewrite(
    block: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    exec(block, {})
    assert "focus on this question" in capsys.readouterr().out


def test_the_readmes_file_map_names_files_that_exist() -> None:
    flow = (ROOT / "README.md").read_text().split("## Which file does what")[1].split("## Licence")[0]
    names = {name for name in re.findall(r"`([\w/]+(?:\.py|/))`", flow)}
    assert len(names) > 10
    for name in names:
        assert (ROOT / name).exists() or (ROOT / "smt_plugin" / name).exists(), name
