"""Commands for studies: many runs that differ in what one file names."""

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from smt_plugin.cli.command import COUNT, PATH, RUN_FILE, Commands, command, print_tables, read_run
from smt_plugin.cli.generate import part_of
from smt_plugin.cli.signals import stop
from smt_plugin.errors import BadInput, require

if TYPE_CHECKING:
    from smt_plugin.config import StudyFile
    from smt_plugin.study.cells import Cell

STUDY_FILE = click.argument("study_file", type=PATH, metavar="STUDY.YAML")


@click.group(cls=Commands)
def study() -> None:
    """Compare mixes, budgets, generators or models. One file names them; each cell is an ordinary run."""


def _read(study_file: Path) -> "tuple[StudyFile, list[Cell], dict[str, str]]":
    """The study, its cells, and each target's config."""
    from smt_plugin.config import read_study_file
    from smt_plugin.study.cells import cells_of, configs_of

    settings, run_file = read_study_file(study_file)
    read_run(settings.run_file)
    return settings, cells_of(settings, run_file), configs_of(settings, run_file)


@study.command(name="plan", epilog="\b\nExample:\n  smt study plan study.yaml")
@STUDY_FILE
def study_plan(study_file: Path) -> None:
    """Say what a study takes: cells, what they share, tokens, FLOP, GPU-hours, money. It asks and writes nothing."""
    from smt_plugin.study.plan import plan_lines, plan_study

    require("torch", "train")
    _, cells, configs = _read(study_file)
    for line in plan_lines(stop.run(plan_study(cells, configs))):
        click.echo(line)


@study.command(
    name="run",
    epilog="\b\nExamples:\n  smt study run study.yaml\n  smt study run study.yaml --jobs 2\n"
    "  smt study run study.yaml --cell 3/12",
)
@STUDY_FILE
@click.option(
    "--cell", "part", metavar="I/N", callback=part_of, help="only the i-th of n parts of the cells, e.g. 3/12"
)
@click.option("--jobs", default=1, show_default=True, type=COUNT, help="cells at once, sharing the cores or the GPU")
def study_run(study_file: Path, part: tuple[int, int] | None, jobs: int) -> None:
    """Run what is not done: generate, mix, train and evaluate, cell by cell.

    Stop it and run it again at any time. A cell that fails says why, and the others go on.
    """
    from smt_plugin.study.run import run_cells
    from smt_plugin.training.shipped import base_model_of, check_model_is_here

    for module, extra in (("axolotl", "train"), ("lm_eval", "eval")):
        require(module, extra)
    settings, cells, configs = _read(study_file)
    if part is not None:
        number, count = part
        # Beside each other they share the most; and every n-th would be all of the largest budget.
        cells = cells[(number - 1) * len(cells) // count : number * len(cells) // count]
    for model in dict.fromkeys((configs[cell.target], cell.run_file.train.base_model) for cell in cells):
        check_model_is_here(base_model_of(*model))
    if jobs > 1:
        # Small trainings with a core each take less time than one after the other with all.
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    failed = run_cells(settings, cells, configs, click.echo, jobs)
    click.echo(f"{len(cells) - len(failed)} of {len(cells)} cells are done; `smt study report {study_file}` draws them")
    if failed:
        click.echo(f"failed, as told above: {', '.join(failed)}", err=True)
        sys.exit(1)


@study.command(name="report", epilog="\b\nExample:\n  smt study report study.yaml")
@STUDY_FILE
def study_report(study_file: Path) -> None:
    """Print the tables, and write page, figures, CSV and JSON.

    Cells that are missing, or made by other settings, are named, and no line is drawn there.
    """
    from smt_plugin.files import locked
    from smt_plugin.report.report import table_of
    from smt_plugin.study.report import sections_of, write_report
    from smt_plugin.study.results import read_study
    from smt_plugin.study.run import is_done

    settings, cells, configs = _read(study_file)
    left = [cell.name for cell in cells if not is_done(cell, configs[cell.target])]
    results = read_study(settings.study, cells, left)
    sections = sections_of(results)
    with locked(settings.study / "report.lock"):
        path = write_report(results, sections)
    print_tables(sections, table_of)
    for sentence in results.not_compared:
        click.echo(f"not compared: {sentence}", err=True)
    click.echo(f"report: {path}")
    if results.missing:
        click.echo(
            f"missing cells, or made by other settings: {', '.join(results.missing)}; run `smt study run {study_file}`",
            err=True,
        )
        sys.exit(1)


@command("smt gradients smt.yaml", "smt gradients smt.yaml --method synthetic_qa --method wrap --documents 100")
@RUN_FILE
@click.option("--method", "methods", multiple=True, help="one of the run file's; default: all of them")
@click.option("--model", help="folder or hub name; default: the base model that is to be trained")
@click.option("--documents", default=40, show_default=True, type=click.IntRange(4), help="at most, drawn at random")
@click.option("--records", default=4, show_default=True, type=COUNT, help="of each document and method, at most")
@click.option("--dimensions", default=16384, show_default=True, type=COUNT, help="of the random projection")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="of draw and projection")
def gradients(
    run_file: Path,
    methods: tuple[str, ...],
    model: str | None,
    documents: int,
    records: int,
    dimensions: int,
    seed: int,
) -> None:
    """Compare the gradients of methods' records: how alike they pull.

    Each method's records are taken as chats and as texts, whichever they are trained as, pairs also as the prose of
    their answers: where the same records in two forms pull apart as much as two methods do, the form explains it.
    """
    from smt_plugin.files import check_target, write_json
    from smt_plugin.progress import Progress
    from smt_plugin.report.report import table_of
    from smt_plugin.study.gradients import Projector, cosines, drawn_records, gradients_section, measure, sides_of
    from smt_plugin.training.shipped import base_model_of

    require("scipy.special", "eval")
    settings = read_run(run_file)
    chosen = list(methods or settings.methods)
    for name in chosen:
        if name not in settings.methods:
            raise BadInput(f"--method {name}: it is not in the run file; it has {', '.join(settings.methods)}.")
    target = settings.run / "gradients.json"
    check_target(target)
    drawn = drawn_records(settings.run, chosen, documents, records, seed)
    name = model or base_model_of(settings.train.config, settings.train.base_model)
    projector = Projector(name, dimensions, settings.mix.sequence_len, seed)
    sides = sides_of(drawn, chosen)
    with Progress("gradients", len(drawn) * len(sides)) as progress:
        found = cosines(measure(drawn, sides, projector.gradient, progress.at))
    print_tables([gradients_section(found, len(drawn), name)], table_of)
    write_json(
        target,
        {
            "model": name,
            "documents": list(drawn),
            "records": records,
            "dimensions": dimensions,
            "seed": seed,
            "cosines": [asdict(each) for each in found],
        },
    )
    click.echo(f"wrote {target}")
