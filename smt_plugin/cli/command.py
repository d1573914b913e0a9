"""What the commands share."""

import shlex
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from smt_plugin.errors import BadInput

if TYPE_CHECKING:
    from rich.table import Table

    from smt_plugin.config import EvaluateSection, RunFile


PATH = click.Path(path_type=Path)
COUNT = click.IntRange(1, 10**9)
RUN_FILE = click.argument("run_file", type=PATH, metavar="RUN.YAML")


class Command(click.Command):
    """Puts the run file's path into errors that name a command to run."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BadInput as error:
            run_file = ctx.params.get("run_file") or "RUN.YAML"
            said = (each.replace("RUN.YAML", shlex.quote(str(run_file))) for each in error.sentences)
            raise BadInput(*said) from None


def command(*examples: str, name: str | None = None) -> Callable[[Callable[..., Any]], Command]:
    """Make a function a command; its help ends with the examples."""
    heading = "\b\nExample:" if len(examples) == 1 else "\b\nExamples:"
    return click.command(name, cls=Command, epilog="\n  ".join([heading, *examples]))


class Commands(click.Group):
    """Lists the commands in the order of the flow, not of the alphabet."""

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def print_tables(found: Iterable[Any], table_of: "Callable[[Any, int], Table]") -> None:
    """Print each of what was found that has rows as a table, which `table_of` makes for so many columns."""
    from rich.console import Console

    console = Console(width=max(shutil.get_terminal_size().columns, 80), markup=False, color_system=None)
    for each in found:
        if each.rows:
            console.print(table_of(each, console.width), "")


def read_run(run_file: Path) -> "RunFile":
    """Read a run file, and check all the names in it, since a wrong one would show when generation is paid for.

    The options of a method from outside are left to the commands that generate: elsewhere its package may be missing.
    """
    from smt_plugin.config import read_run_file
    from smt_plugin.generation.generate import methods_of

    settings = read_run_file(run_file)
    shipped = {name: options for name, options in settings.methods.items() if ":" not in name}
    try:
        methods_of(settings.model_copy(update={"methods": shipped}))
        _check_names(settings)
    except BadInput as error:
        raise BadInput(f"run file {run_file}: {error}") from None
    return settings


def _check_names(settings: "RunFile") -> None:
    """Refuse a source of the mix, a training config, a benchmark or an arm that is none."""
    from smt_plugin.benchmarks import names
    from smt_plugin.evaluation.arms import arms_of
    from smt_plugin.records import check_made
    from smt_plugin.training.shipped import read_config
    from smt_plugin.training.trainings import trainings_of

    mix, evaluate = settings.mix, settings.evaluate
    if "shares" in mix.model_fields_set:  # the default ones are for those who take the default methods
        for name in mix.shares.keys() - mix.sources.keys():
            check_made(settings.run, name, settings.methods, "correct its name in `mix.shares`, or add it to `methods`")
    read_config(settings.train.config)
    if evaluate is not None:
        if evaluate.benchmark not in names():
            raise BadInput(
                f"evaluate.benchmark: unknown benchmark {evaluate.benchmark!r}; choose one of: {', '.join(names())}."
            )
        arms_of(evaluate.arms, trainings_of(settings.run, mix.budgets))


def read_with_evaluation(run_file: Path) -> "tuple[RunFile, EvaluateSection]":
    """Read a run file that must have an `evaluate` section."""
    settings = read_run(run_file)
    if settings.evaluate is None:
        raise BadInput(f"run file {run_file}: evaluate: this key is missing; add it, with `benchmark: corpus` in it.")
    return settings, settings.evaluate
