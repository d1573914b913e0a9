import re
from pathlib import Path

import click
import pytest
import yaml

from smt_plugin import __version__
from smt_plugin.assets import asset_dir
from smt_plugin.cli.app import cli
from smt_plugin.methods import METHODS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES.append(ROOT / "lm_eval_tasks" / "README.md")
LONGEST_CELL, LONGEST_PARAGRAPH = 250, 650  # characters
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
    "prompt": [name for name in stems("prompts", "*.jinja") if name not in ("system", "language")],
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
    flow = (ROOT / "README.md").read_text().split("## Which file does what")[1].split("## Security")[0]
    names = {name for name in re.findall(r"`([\w/]+(?:\.py|/))`", flow)}
    assert len(names) > 10
    for name in names:
        assert (ROOT / name).exists() or (ROOT / "smt_plugin" / name).exists(), name


def without_code(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_table_cell_and_no_paragraph_is_a_wall_of_text(page: Path) -> None:
    blocks = re.split(r"\n\s*\n", without_code(page))
    cells = [cell.strip() for block in blocks if block.startswith("|") for cell in re.split(r"[|\n]", block)]
    # An item of a list stands alone.
    paragraphs = [
        text for block in blocks if not block.startswith("|") for text in re.split(r"\n(?=\s*(?:[-*]|\d+\.) )", block)
    ]
    assert [cell for cell in cells if len(cell) > LONGEST_CELL] == []
    assert [text for text in paragraphs if len(text) > LONGEST_PARAGRAPH] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_between_pages_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE) if anchor else []
        anchors = {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
        assert not anchor or anchor in anchors, link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_tests_and_scripts_that_a_page_names_exist(page: Path) -> None:
    for name in re.findall(r"(?<![\w/])(?:tests|benchmarks|constraints)/[\w/-]+\.\w+", page.read_text()):
        assert (ROOT / name).exists(), name


def test_the_citation_has_the_packages_version() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__
