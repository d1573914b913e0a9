"""Commands that generate: plan, generate, batch, show."""

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from smt_plugin.cli.command import COUNT, PATH, RUN_FILE, Commands, command, read_run
from smt_plugin.cli.signals import stop
from smt_plugin.errors import BadInput


def part_of(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """Read `1/4`, the first of four."""
    if value is None:
        return None
    if found := re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", value):
        number, count = int(found[1]), int(found[2])
        if 1 <= number <= count:
            return number, count
    raise click.BadParameter(f"{value!r} is no {param.name}; write e.g. 1/4 for the first of four.")


@command("smt plan smt.yaml", "smt plan smt.yaml --probe 60")
@RUN_FILE
@click.option(
    "--probe",
    "seconds",
    type=COUNT,
    help="generate for so many seconds first, to measure sizes and speed; its completions are kept",
)
def plan(run_file: Path, seconds: int | None) -> None:
    """Say what a run will ask, write and cost. Only --probe asks the backend anything."""
    from smt_plugin.generation.generate import backend_of
    from smt_plugin.generation.plan import make_plan, plan_text
    from smt_plugin.generation.progress import GenerateProgress

    settings = read_run(run_file)
    with GenerateProgress() as progress:
        found = stop.run(make_plan(settings, backend_of(settings), seconds or 0, progress.show))
    click.echo(plan_text(found, settings))


@command(
    "smt generate smt.yaml --preview",
    "smt generate smt.yaml",
    "smt generate smt.yaml --method focal_rewrite",
    "smt generate smt.yaml --shard 1/4",
)
@RUN_FILE
@click.option("--method", "methods", multiple=True, help="only this method of the run file; may be given again")
@click.option("--retry-failed", is_flag=True, help="ask again what the backend refused before")
@click.option("--shard", metavar="I/N", callback=part_of, help="only the i-th of n shards of the documents, e.g. 1/4")
@click.option("--preview", is_flag=True, help="one round of each method on two documents, printed and kept")
def generate(
    run_file: Path, methods: tuple[str, ...], retry_failed: bool, shard: tuple[int, int] | None, preview: bool
) -> None:
    """Ask the backend until every budget is met, and write records.

    Run it again to go on after a stop, or after raising a budget: what is paid for is never asked again.
    """
    from smt_plugin.generation.generate import backend_of

    settings = read_run(run_file)
    backend = backend_of(settings, shard)
    (_preview if preview else _generate)(settings, backend, only=methods, shard=shard, retry_refused=retry_failed)


def _preview(settings: Any, backend: Any, **options: Any) -> None:
    """Print a preview, and exit with status 1 if a method gave no record."""
    from smt_plugin.generation.preview import preview_run

    summary = stop.run(preview_run(settings, backend, say=click.echo, **options))
    for name, count in summary.methods.items():
        click.echo(f"{name:>16}: {count.records:,} records of {count.tokens:,} tokens")
    for line in (summary.asked_text, *summary.failures_lines):
        click.echo(line)
    click.echo("what is paid for is kept: `smt generate` without --preview goes on from it")
    if missing := [name for name, count in summary.methods.items() if not count.records]:
        click.echo(f"no usable record: {', '.join(missing)}", err=True)
        sys.exit(1)


def _generate(settings: Any, backend: Any, **options: Any) -> Any:
    """Generate with a backend, say what was done, and exit with status 1 if a budget is unmet or a prompt given up."""
    from smt_plugin.config import write_resolved
    from smt_plugin.evaluation.judge import judge_backend
    from smt_plugin.faithfulness.verdicts import JUDGE, judge_of
    from smt_plugin.generation.generate import generate_run
    from smt_plugin.generation.progress import GenerateProgress

    judge = judge_of(settings) if JUDGE in settings.gate else None
    backend_of_judge = judge_backend(judge, judge.options) if judge else None
    with GenerateProgress() as progress:
        work = generate_run(settings, backend, judge=backend_of_judge, on_progress=progress.show, **options)
        summary = stop.run(work)
    if summary.deferred:
        return summary
    write_resolved(settings, settings.run / "run.yaml")
    click.echo(summary.text)
    for problem in summary.unmet:
        click.echo(f"budget unmet: {problem}", err=True)
    if summary.given_up:
        click.echo(
            f"given up: {summary.given_up:,} prompts that the backend refused, or that failed again and again, have no "
            "record; ask them again with the same command and --retry-failed",
            err=True,
        )
    if summary.unmet or summary.given_up:
        sys.exit(1)
    return summary


@click.group(cls=Commands)
def batch() -> None:
    """Have a batch endpoint or `vllm run-batch` answer the requests. Export, work off, import, and again."""


def _read_for_batch(run_file: Path) -> Any:
    settings = read_run(run_file)
    if settings.backend.kind == "microworld":
        raise BadInput(f"run file {run_file}: backend.kind: the microworld needs no batch files; use `smt generate`.")
    return settings


@batch.command(
    name="export",
    epilog="\b\nExample:\n  smt batch export smt.yaml requests/\n"
    "  vllm run-batch -i requests/requests-0001.jsonl -o results-1.jsonl --model ...\n"
    "  smt batch import smt.yaml results-1.jsonl",
)
@RUN_FILE
@click.argument("folder", type=PATH)
@click.option("--retry-failed", is_flag=True, help="export again what was refused before")
def batch_export(run_file: Path, folder: Path, retry_failed: bool) -> None:
    """Write what can be asked now into OpenAI batch files.

    They go into FOLDER. Rewrites need the strategies that come before them, so this takes some rounds of export and
    import, until nothing is left; then the records are written.
    """
    from smt_plugin.generation.batch_files import ROUNDS_AHEAD, BatchExport

    settings = _read_for_batch(run_file)
    client = settings.backend
    backend = BatchExport(folder, client.model, client.structured_output, client.options)
    summary = _generate(settings, backend, retry_refused=retry_failed, rounds_ahead=ROUNDS_AHEAD)
    backend.finish()
    if summary.deferred:
        names = ", ".join(map(str, backend.files[:3])) + (" ..." if len(backend.files) > 3 else "")
        click.echo(f"{backend.requests:,} requests in {len(backend.files)} files: {names}")
        click.echo(f"have them answered, then run: smt batch import {shlex.quote(str(run_file))} RESULTS.jsonl")


@batch.command(name="import", epilog="\b\nExample:\n  smt batch import smt.yaml results-*.jsonl")
@RUN_FILE
@click.argument("results", type=PATH, nargs=-1, required=True)
def batch_import(run_file: Path, results: tuple[Path, ...]) -> None:
    """Take the results of a batch endpoint into the run. When nothing is left to ask, the records are written."""
    from smt_plugin.generation.batch_files import ROUNDS_AHEAD, BatchImport

    settings = _read_for_batch(run_file)
    backend = BatchImport(list(results), settings.backend.model)
    summary = _generate(settings, backend, rounds_ahead=ROUNDS_AHEAD)
    click.echo(
        f"{backend.results:,} results: {summary.asked:,} taken ({summary.rejected:,} rejected, {summary.refused:,} "
        f"refused), {backend.failed:,} failed for now, {backend.results - backend.taken:,} known already or of "
        "another run or model"
    )
    if summary.deferred:
        click.echo(
            f"not done: export what is left with `smt batch export {shlex.quote(str(run_file))} FOLDER`", err=True
        )
        sys.exit(1)


@command("smt show smt.yaml --method focal_rewrite --count 2")
@RUN_FILE
@click.option("--method", required=True, help="method of the run file")
@click.option("--full", is_flag=True, help="show the documents inside the prompts, too")
@click.option("--count", default=1, show_default=True, type=COUNT, help="records to show")
@click.option("--seed", type=int, help="show the same records each time")
def show(run_file: Path, method: str, full: bool, count: int, seed: int | None) -> None:
    """Look at random records, with the prompts they came from."""
    from smt_plugin.generation.show import show_records

    for text in show_records(read_run(run_file), method, count, seed, full):
        click.echo(text)
