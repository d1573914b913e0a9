"""Commands that tell: report, card."""

import shlex
import sys
from contextlib import suppress
from pathlib import Path

import click

from smt_plugin.cli.command import RUN_FILE, command, print_tables, read_run, read_with_evaluation
from smt_plugin.cli.evaluate import tuned_arm_commands
from smt_plugin.errors import BadInput


@command("smt report smt.yaml")
@RUN_FILE
def report(run_file: Path) -> None:
    """Print the arms' table, and write report.html and answers.html.

    The first holds all tables and plots, the second every question with all answers.
    """
    from smt_plugin.evaluation.arms import outdated
    from smt_plugin.files import locked
    from smt_plugin.report.answers import write_answers
    from smt_plugin.report.report import table_of, write_report
    from smt_plugin.report.results import read_results
    from smt_plugin.report.sections import doubts, sections_of
    from smt_plugin.report.verdicts import verdicts

    settings, section = read_with_evaluation(run_file)
    old: list[str] = []
    # A report can be made all the same where the models, lm-eval or the data are not.
    with suppress(BadInput):
        old = outdated(tuned_arm_commands(settings, section, check=False)[0])
    results = read_results(settings, section, old)
    if results.outdated:
        click.echo(f"not up to date: {results.facts['not up to date']}", err=True)
    sections = sections_of(results)
    with locked(settings.run / "report.lock"):
        path, answers = write_report(results, sections), write_answers(results)
    print_tables(sections, table_of)
    for verdict in verdicts(results):
        click.echo(verdict.question)
        for sentence in verdict.answers:
            click.echo(f"  {sentence}")
    for sentence in doubts(results):
        click.echo(f"warning: {sentence}", err=True)
    click.echo(f"report: {path}")
    click.echo(f"answers: {answers}")
    if results.missing:
        for sentence in results.unready:
            click.echo(f"missing: {sentence}", err=True)
        missing = ", ".join(results.missing)
        click.echo(f"missing arms: {missing}; run `smt evaluate {shlex.quote(str(run_file))}`", err=True)
        sys.exit(1)


@command("smt card smt.yaml")
@RUN_FILE
def card(run_file: Path) -> None:
    """Write each trained model's README.md. It tells data, budget, shares, config, versions and results."""
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
