"""Commands for studies: many runs that differ in what one file names."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from smt_plugin.cli.command import PATH, Commands, print_tables
from smt_plugin.cli.generate import part_of
from smt_plugin.cli.signals import stop

if TYPE_CHECKING:
    from smt_plugin.config import StudyFile
    from smt_plugin.study.cells import Cell

STUDY_FILE = click.argument("study_file", type=PATH, metavar="STUDY.YAML")


@click.group(cls=Commands)
def study() -> None:
    """Compare mixes, budgets, generators or models. One file names them; each cell is an ordinary run."""


def _read(study_file: Path) -> "tuple[StudyFile, list[Cell], dict[str, str]]":
    """The study, its cells, and each target's config."""
    from smt_plugin.cli.command import read_run
    from smt_plugin.config import read_study_file
    from smt_plugin.study.cells import cells_of

    settings, run_file = read_study_file(study_file)
    read_run(settings.run_file)
    configs = {name: train.config for name, train in settings.targets.items()} or {"": run_file.train.config}
    return settings, cells_of(settings, run_file), configs


@study.command(name="plan", epilog="\b\nExample:\n  smt study plan study.yaml")
@STUDY_FILE
def study_plan(study_file: Path) -> None:
    """Say what a study takes: cells, what they share, tokens, FLOP, GPU-hours, money. It asks and writes nothing."""
    from smt_plugin.errors import require
    from smt_plugin.study.plan import plan_lines, plan_study

    require("torch", "train")
    _, cells, configs = _read(study_file)
    for line in plan_lines(stop.run(plan_study(cells, configs))):
        click.echo(line)


@study.command(name="run", epilog="\b\nExamples:\n  smt study run study.yaml\n  smt study run study.yaml --cell 3/12")
@STUDY_FILE
@click.option(
    "--cell", "part", metavar="I/N", callback=part_of, help="only the i-th of n parts of the cells, e.g. 3/12"
)
def study_run(study_file: Path, part: tuple[int, int] | None) -> None:
    """Run what is not done: generate, mix, train and evaluate, cell by cell.

    Stop it and run it again at any time. A cell that fails says why, and the others go on.
    """
    from smt_plugin.errors import require
    from smt_plugin.study.run import run_cells

    for module, extra in (("axolotl", "train"), ("lm_eval", "eval")):
        require(module, extra)
    settings, cells, configs = _read(study_file)
    if part is not None:
        number, count = part
        cells = cells[number - 1 :: count]
    failed = run_cells(settings, cells, configs, click.echo)
    click.echo(f"{len(cells) - len(failed)} of {len(cells)} cells are done; `smt study report {study_file}` draws them")
    if failed:
        click.echo(f"failed, as told above: {', '.join(failed)}", err=True)
        sys.exit(1)


@study.command(name="report", epilog="\b\nExample:\n  smt study report study.yaml")
@STUDY_FILE
def study_report(study_file: Path) -> None:
    """Print the tables, and write page, figures, CSV and JSON. Missing cells are named, and no line is drawn there."""
    from smt_plugin.files import locked
    from smt_plugin.report.report import table_of
    from smt_plugin.study.report import sections_of, write_report
    from smt_plugin.study.results import read_study

    settings, cells, _ = _read(study_file)
    results = read_study(settings.study, cells)
    sections = sections_of(results)
    with locked(settings.study / "report.lock"):
        path = write_report(results, sections)
    print_tables(sections, table_of)
    for sentence in results.not_compared:
        click.echo(f"not compared: {sentence}", err=True)
    click.echo(f"report: {path}")
    if results.missing:
        click.echo(f"missing cells: {', '.join(results.missing)}; run `smt study run {study_file}`", err=True)
        sys.exit(1)
