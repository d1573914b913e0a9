"""Commands that tell: report, card."""

import shlex
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from smt_plugin.errors import BadInput

if TYPE_CHECKING:
    pass
from smt_plugin.cli.command import RUN_FILE, Command, read_run, read_with_evaluation
from smt_plugin.cli.evaluate import tuned_arm_commands


@click.command(cls=Command, epilog="\b\nExample:\n  smt report smt.yaml")
@RUN_FILE
def report(run_file: Path) -> None:
    """Print the table of all arms, and write report.html with the table and a plot."""
    from rich.console import Console

    from smt_plugin.evaluation.arms import arms_of, outdated
    from smt_plugin.evaluation.retention import retention_results
    from smt_plugin.report.report import doubts, retention_table, run_facts, tables, verdicts, write_report
    from smt_plugin.report.results import arm_results
    from smt_plugin.training.trainings import trainings_of

    settings, section = read_with_evaluation(run_file)
    trainings = trainings_of(settings.run, settings.mix.budgets)
    results = arm_results(settings.run, section.arms, trainings, settings.mix.sources)
    changes = retention_results(settings.run, trainings)
    facts = run_facts(settings)
    # A report can be made all the same where the models, lm-eval or the data are not.
    old: list[str] = []
    with suppress(BadInput):
        old = outdated(tuned_arm_commands(settings, section, check=False)[0])
    # Answers of a model that was trained on another mix.
    there = {result.arm for result in results if result.accuracy is not None}
    arms = arms_of(section.arms, trainings).items()
    old += [arm for arm, training in arms if arm in there and training is not None and training.is_stale()]
    if old:
        facts["not up to date"] = (
            f"{', '.join(old)}: settings, model, mix, data or tasks have changed since; `smt evaluate` runs them again"
        )
        click.echo(f"not up to date: {facts['not up to date']}", err=True)
    path = write_report(settings.run, results, facts, changes, old)
    console = Console(width=max(shutil.get_terminal_size().columns, 80))
    for shown in [*tables(results), *([retention_table(changes)] if changes else [])]:
        console.print(shown, "")
    for sentence in verdicts(results):
        click.echo(sentence)
    for sentence in doubts(results, settings.run):
        click.echo(f"warning: {sentence}", err=True)
    click.echo(f"report: {path}")
    missing = [result.arm for result in results if result.accuracy is None]
    if missing:
        for sentence in filter(None, (training.unready() for training in trainings)):
            click.echo(f"missing: {sentence}", err=True)
        click.echo(f"missing arms: {', '.join(missing)}; run `smt evaluate {shlex.quote(str(run_file))}`", err=True)
        sys.exit(1)


@click.command(cls=Command, epilog="\b\nExample:\n  smt card smt.yaml")
@RUN_FILE
def card(run_file: Path) -> None:
    """Write each trained model's README.md: data, budget, shares, config, versions and results."""
    from smt_plugin.report.card import write_card
    from smt_plugin.training.trainings import trainings_of

    settings = read_run(run_file)
    trainings = trainings_of(settings.run, settings.mix.budgets)
    states = [(training, training.unready()) for training in trainings]
    missing = [sentence for _, sentence in states if sentence]
    if len(missing) == len(trainings):
        raise BadInput(f"{missing[0]}.")
    for training, sentence in states:
        if not sentence:
            click.echo(f"wrote {write_card(training)}")
    for sentence in missing:
        click.echo(f"missing: {sentence}", err=True)
    if missing:
        sys.exit(1)
