"""`smt`: the command line, which reads arguments, calls the stages and says what they did."""

import os
import sqlite3
import sys
from typing import Any

import click

from smt_plugin import __version__, terminal
from smt_plugin.backends.base import BackendDown
from smt_plugin.cli.audit import audit
from smt_plugin.cli.command import Commands
from smt_plugin.cli.diversity import diversity
from smt_plugin.cli.documents import benchmark, init, inspect_documents, questions, transcribe
from smt_plugin.cli.evaluate import evaluate, judge, leaks, retention, tasks
from smt_plugin.cli.generate import batch, generate, plan, show
from smt_plugin.cli.mix import mix
from smt_plugin.cli.quickstart import quickstart
from smt_plugin.cli.report import card, report
from smt_plugin.cli.retrieve import retrieve, tune
from smt_plugin.cli.review import review
from smt_plugin.cli.signals import stop
from smt_plugin.cli.study import gradients, study
from smt_plugin.cli.train import check, copy_shipped, list_shipped
from smt_plugin.errors import BadInput, fault_of, shortened
from smt_plugin.files import Lost

# In the order of the flow.
SECTIONS: dict[str, tuple[click.Command, ...]] = {
    "Start": (quickstart, inspect_documents, init, list_shipped),
    "Data": (transcribe, benchmark, questions),
    "Generate": (plan, generate, batch, show, audit, review),
    "Train": (mix, check, copy_shipped),
    "Evaluate": (retrieve, tune, evaluate, retention, leaks, judge, tasks),
    "Report": (report, card),
    "Compare": (study, diversity, gradients),
}


class _Sections(Commands):
    """Lists its commands under the headings of `SECTIONS`."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.commands))
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(f"{each.name:{width}}", each.get_short_help_str(100)) for each in commands])


@click.group(
    cls=_Sections,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  smt quickstart                    the whole loop on an invented archive, no GPU needed
  smt init documents/               write smt.yaml for your own documents
  smt questions smt.yaml            an evaluation set, if you have none: before generation
  smt plan smt.yaml                 calls, tokens and money
  smt generate smt.yaml             questions, answers and rewrites from your model
  smt mix smt.yaml                  training files and a ready axolotl.yaml
  axolotl train run/axolotl.yaml
  smt evaluate smt.yaml && smt report smt.yaml
""",
)
@click.version_option(__version__, prog_name="smt")
def cli() -> None:
    """Put a folder of documents into a model's weights, and see whether that beat retrieval."""


for _commands in SECTIONS.values():
    for _command in _commands:
        cli.add_command(_command)


def main() -> None:
    """Run `smt`; each fault is one sentence on stderr; bad input gives exit status 2, a failure 1."""
    terminal.protect()
    stop.watch()
    try:
        status: Any = cli.main(standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        stop.ignore()
        click.echo("stopped; run the same command again to go on", err=True)
        sys.exit(130)
    except click.ClickException as error:
        if isinstance(error, click.UsageError) and error.ctx is not None:
            click.echo(error.ctx.get_usage(), err=True)
        click.echo(f"Error: {shortened(error.format_message())}", err=True)
        sys.exit(2)
    except BadInput as error:
        for sentence in error.sentences:
            click.echo(f"error: {shortened(sentence)}", err=True)
        sys.exit(2)
    except BrokenPipeError:
        # Whoever read along, such as `head`, has seen enough; Python must not flush into nowhere at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (BackendDown, OSError, MemoryError, sqlite3.Error, RuntimeError) as error:
        fault, is_path = fault_of(error)
        if is_path:
            click.echo(f"error: {shortened(fault)}; give another path.", err=True)
            sys.exit(2)
        kept = "" if isinstance(error, Lost) else "; what is done is kept, run the same command again to go on"
        click.echo(f"failed: {shortened(fault)}{kept}", err=True)
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)
