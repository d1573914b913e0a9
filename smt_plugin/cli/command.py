"""What the commands share."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from smt_plugin.errors import BadInput

if TYPE_CHECKING:
    from smt_plugin.config import EvaluateSection, RunFile


PATH = click.Path(path_type=Path)
RUN_FILE = click.argument("run_file", type=PATH, metavar="RUN.YAML")


class Command(click.Command):
    """Puts the run file's path into errors that name a command to run."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BadInput as error:
            run_file = ctx.params.get("run_file") or "RUN.YAML"
            raise BadInput(str(error).replace("RUN.YAML", shlex.quote(str(run_file)))) from None


def command(*examples: str, name: str | None = None) -> Callable[[Callable[..., Any]], Command]:
    """Make a function a command; its help ends with the examples."""
    heading = "\b\nExample:" if len(examples) == 1 else "\b\nExamples:"
    return click.command(name, cls=Command, epilog="\n  ".join([heading, *examples]))


class Commands(click.Group):
    """Lists the commands in the order of the flow, not of the alphabet."""

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def read_with_evaluation(run_file: Path) -> "tuple[RunFile, EvaluateSection]":
    """Read a run file that must have an `evaluate` section."""
    from smt_plugin.config import read_run_file

    settings = read_run_file(run_file)
    if settings.evaluate is None:
        raise BadInput(f"run file {run_file}: evaluate: this key is missing; add it, with `benchmark: corpus` in it.")
    return settings, settings.evaluate
