"""The command that has a model judge records: audit."""

import shlex
from pathlib import Path

import click

from smt_plugin.cli.command import COUNT, PATH, RUN_FILE, command, print_tables, read_run
from smt_plugin.cli.signals import stop


@command("smt audit smt.yaml --dry-run", "smt audit smt.yaml", "smt audit smt.yaml --against labels.jsonl")
@RUN_FILE
@click.option("--records", default=300, show_default=True, type=COUNT, help="drawn of each method, over all documents")
@click.option("--against", type=PATH, help="a person's labels: id, claim, label a line, as in audit.jsonl")
@click.option("--dry-run", is_flag=True, help="say what it would ask and cost, and ask nothing")
def audit(run_file: Path, records: int, against: Path | None, dry_run: bool) -> None:
    """Have a model judge whether documents bear their records out.

    The judge of the run file reads a random sample of records claim by claim, each with its document, and sentences of
    the documents with errors put in, which tell how much it finds. Run it again to go on after a stop.
    """
    from smt_plugin.errors import require
    from smt_plugin.evaluation.audit import judge_records
    from smt_plugin.evaluation.audit_plan import audit_plan_text, plan_audit
    from smt_plugin.evaluation.audit_sample import draw, record_hashes
    from smt_plugin.faithfulness.verdicts import judge_of
    from smt_plugin.generation.summary import Summary
    from smt_plugin.progress import Progress
    from smt_plugin.prompts import Prompts

    settings = read_run(run_file)
    judge = judge_of(settings)
    files = record_hashes(settings.run, settings.methods)
    drawn = draw(settings, settings.methods, records)
    if dry_run:
        click.echo(audit_plan_text(stop.run(plan_audit(settings, drawn)), settings))
        return
    require("scipy.special", "eval")
    from smt_plugin.evaluation.audit_results import found_by, is_outdated, read_audit, read_labels, write_audit
    from smt_plugin.report.report import table_of
    from smt_plugin.report.sections import audit_section, judge_section

    labels = read_labels(against, drawn) if against else None
    before = read_audit(settings.run)
    if before and is_outdated(settings.run, before):
        click.echo("the records have changed since the last audit; it is made anew", err=True)
    with Progress("texts") as progress:

        def show(done: int, total: int, summary: Summary) -> None:
            progress.at(done, total, f"{done:,} of {total:,} texts judged, {summary.so_far}")

        judged, summary = stop.run(judge_records(settings, drawn, show))
    prompts = Prompts(settings.prompts)
    found = found_by(judged, drawn, records, judge.model, prompts, files, labels)
    write_audit(settings.run, found, judged)
    print_tables([audit_section(found), judge_section(found)], table_of)
    for line in (summary.asked_text, *summary.failures_lines):
        click.echo(line)
    click.echo(f"wrote {settings.run / 'audit.json'}; {settings.run / 'audit.jsonl'} has the claims, the worst first")
    if labels is None:
        click.echo(f"label some of them, and run: smt audit {shlex.quote(str(run_file))} --against LABELS.jsonl")
