"""Commands around a training: check, ls, cp."""

import sys
from pathlib import Path

import click

from smt_plugin.cli.command import COUNT, PATH, command


@command("smt check run/axolotl.yaml --gpus 4")
@click.argument("config", type=PATH, metavar="AXOLOTL.YAML")
@click.option("--gpus", type=COUNT, help="of all nodes; default: those of this machine, else 1")
@click.option("--micro-batch-size", type=COUNT, help="if axolotl is told another than the config's")
def check(config: Path, gpus: int | None, micro_batch_size: int | None) -> None:
    """Say what would go wrong silently in a training. It tells steps, tokens, FLOP and hours, too; no GPU needed."""
    from smt_plugin.errors import require
    from smt_plugin.training.check import check_config

    found = check_config(config, gpus or require("torch", "train").cuda.device_count() or 1, micro_batch_size)
    for fact in found.facts:
        click.echo(fact)
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    for problem in found.problems:
        click.echo(f"error: {config}: {problem}", err=True)
    if found.problems:
        sys.exit(2)
    click.echo("no problem found")


@command("smt ls", name="ls")
def list_shipped() -> None:
    """List the methods, prompts, tasks and configs that we ship."""
    from smt_plugin.training.shipped import shipped

    for kind, things in shipped().items():
        click.echo(f"{kind}:")
        width = max(map(len, things))
        for name, line in things.items():
            click.echo(f"  {name:{width}}  {line}")


@command("smt cp qwen3-8b/full my.yaml", name="cp")
@click.argument("config")
@click.argument("destination", type=click.Path(), default=".")
def copy_shipped(config: str, destination: str) -> None:
    """Copy a shipped axolotl config, to change it. It goes to a file, or into a folder (default: this one)."""
    from smt_plugin.training.shipped import copy_config

    click.echo(f"wrote {copy_config(config, destination)}")
