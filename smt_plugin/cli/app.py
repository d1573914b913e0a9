"""`smt`: the command line, which reads arguments, calls the stages and says what they did."""

import asyncio
import logging
import os
import shlex
import shutil
import signal
import sqlite3
import sys
from collections.abc import Coroutine
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from smt_plugin import __version__
from smt_plugin.errors import BadInput

if TYPE_CHECKING:
    from smt_plugin.config import EvaluateSection, RunFile
    from smt_plugin.evaluation.arms import ArmCommand

T = TypeVar("T")


RUN_FILE = click.argument("run_file", type=click.Path(path_type=Path), metavar="RUN.YAML")


class _Stop:
    """SIGINT, SIGTERM and SIGHUP: the first stops cleanly, the second says how to end at once, the third does.

    A KeyboardInterrupt inside an event loop hits whatever runs just then, which leaves tracebacks and may leave
    others waiting for ever; so there the first signal cancels the main task instead.
    """

    def __init__(self) -> None:
        self._count = 0
        self._main: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None

    def watch(self) -> None:
        """Handle the signals from now on, but for those that nohup or a shell has told to ignore."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._handle)

    def ignore(self) -> None:
        """Let no signal disturb the last words."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        if self._count > 2:
            os._exit(130)
        if self._count == 2:
            with suppress(OSError):
                os.write(2, b"stopping; once more to end at once\n")
        elif self._main is None:
            raise KeyboardInterrupt
        else:
            loop, task = self._main
            # A loop that has just been closed has nothing left to stop.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(task.cancel)

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in an event loop; raises KeyboardInterrupt when a signal stopped it."""

        async def watched() -> T:
            task = asyncio.current_task()
            assert task is not None
            self._main = asyncio.get_running_loop(), task
            return await main

        try:
            return asyncio.run(watched())
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        finally:
            self._main = None


_stop = _Stop()


class _Command(click.Command):
    """Puts the run file's path into errors that name a command to run."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BadInput as error:
            run_file = ctx.params.get("run_file") or "RUN.YAML"
            raise BadInput(str(error).replace("RUN.YAML", shlex.quote(str(run_file)))) from None


class _Commands(click.Group):
    """Lists the commands in the order of the flow, not of the alphabet."""

    command_class = _Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=_Commands,
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


@cli.command(epilog="\b\nExample:\n  smt quickstart --folder quickstart")
@click.option(
    "--folder", type=click.Path(path_type=Path), default=Path("quickstart"), show_default=True, help="where to run"
)
def quickstart(folder: Path) -> None:
    """Run every stage on the microworld, an invented archive that needs no GPU and no endpoint."""
    from smt_plugin.cli.quickstart import run_quickstart

    run_quickstart(folder, click.echo)


@cli.command(epilog="\b\nExample:\n  smt init documents/ --output smt.yaml")
@click.argument("corpus", type=click.Path(path_type=Path))
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path("smt.yaml"), show_default=True, help="run file to write"
)
def init(corpus: Path, output: Path) -> None:
    """Check a corpus and write a commented run file for it."""
    from smt_plugin.config import example_run_file
    from smt_plugin.corpus import estimate_tokens, other_files, read_documents

    if output.exists():
        raise BadInput(f"{output} is there already; remove it or give another --output.")
    documents = characters = 0
    tokens = 0.0
    for document in read_documents(corpus):
        documents += 1
        characters += len(document.text)
        tokens += estimate_tokens(document.text)
    try:
        output.write_text(example_run_file(corpus, output.parent), encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{output} cannot be written ({error.strerror}); give another --output.") from None
    click.echo(f"{documents:,} documents, {characters:,} characters (about {tokens:,.0f} tokens)")
    if others := other_files(corpus):
        named = ", ".join(f"{count:,} {ending}" for ending, count in others.most_common(5))
        click.echo(f"left out, since only .txt and .md are read: {named}", err=True)
    name = shlex.quote(str(output))
    click.echo(f"wrote {output}; set the endpoint and the budgets in it, then run:")
    click.echo(f"  smt questions {name}   (before all else, unless you have questions to evaluate with)")
    click.echo(f"  smt plan {name} && smt generate {name}")


@cli.command(epilog="\b\nExample:\n  smt benchmark longhealth --data LongHealth/data --output corpus/")
@click.argument("name", type=click.Choice(["quality", "longhealth", "financebench", "corpus"]))
@click.option("--data", type=click.Path(path_type=Path), help="folder of its files; else they are looked for, fetched")
@click.option("--output", type=click.Path(path_type=Path), help="write documents.jsonl and questions.jsonl there")
def benchmark(name: str, data: Path | None, output: Path | None) -> None:
    """Fetch and check a benchmark's files; with --output, write them as the corpus of a run file.

    Without --data, they are looked for in the folder that SMT_<NAME>_DIR names, then in the cache, then fetched.
    """
    from smt_plugin.benchmarks.find import check
    from smt_plugin.question import write_data

    found = check(name, data)
    for fact in found.facts:
        click.echo(fact)
    for problem in found.problems:
        click.echo(f"off: {problem}", err=True)
    if output is not None:
        write_data(output, found.documents, found.questions)
        click.echo(f"wrote {output / 'documents.jsonl'} and {output / 'questions.jsonl'}")
    if found.problems:
        sys.exit(1)


@cli.command(epilog="\b\nExample:\n  smt questions smt.yaml --per-document 12")
@RUN_FILE
@click.option(
    "--per-document", default=8, show_default=True, type=click.IntRange(min=1), help="questions about each document"
)
@click.option("--free-form", is_flag=True, help="answered in a few words, for a judge; else four options each")
def questions(run_file: Path, per_document: int, free_form: bool) -> None:
    """Make an evaluation set of your own documents with the backend, before anything is generated from them.

    It is written beside the documents, once, and frozen with its hash: what is evaluated later is what was set down.
    """
    from rich.console import Console
    from rich.progress import Progress

    from smt_plugin.config import read_run_file
    from smt_plugin.corpus import read_documents
    from smt_plugin.generation.generate import backend_of
    from smt_plugin.generation.make_questions import make_questions
    from smt_plugin.prompts import Prompts
    from smt_plugin.question import questions_file

    settings = read_run_file(run_file)
    path = questions_file(settings.corpus)
    total = sum(1 for _ in read_documents(settings.corpus))
    console = Console(stderr=True)
    # An error must not stand below a bar that has stopped.
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("documents", total=total)
        manifest = _stop.run(
            make_questions(
                settings.run,
                settings.corpus,
                path,
                backend_of(settings),
                Prompts(settings.prompts),
                per_document,
                free_form,
                settings.max_document_tokens,
                on_document=lambda done: progress.update(task, completed=done),
            )
        )
    click.echo(f"{manifest['questions']:,} questions about {manifest['documents']:,} documents; wrote {path}")
    if manifest["short"]:
        click.echo(
            f"{len(manifest['short'])} documents have fewer than {per_document}, e.g. {manifest['short'][0]!r}",
            err=True,
        )
        sys.exit(1)


class _Shard(click.ParamType):  # type: ignore[type-arg]
    """`i/n`, the i-th of n shards."""

    name = "i/n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        number, slash, count = str(value).partition("/")
        if slash and number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count):
            return int(number), int(count)
        self.fail(f"{value!r} is no shard; write e.g. 1/4 for the first of four.", param, ctx)


SHARD = click.option("--shard", type=_Shard(), help="only the i-th of n shards of the documents, e.g. 1/4")


@cli.command(epilog="\b\nExamples:\n  smt plan smt.yaml\n  smt plan smt.yaml --probe 60")
@RUN_FILE
@click.option(
    "--probe",
    "seconds",
    type=click.IntRange(min=1),
    help="generate for so many seconds first, to measure sizes and speed; its completions are kept",
)
def plan(run_file: Path, seconds: int | None) -> None:
    """Say what a run will ask, write and cost: calls, tokens, GPU-hours, money. Without --probe nothing is asked."""
    from smt_plugin.config import read_run_file
    from smt_plugin.generation.generate import backend_of
    from smt_plugin.generation.plan import make_plan, plan_text
    from smt_plugin.generation.progress import GenerateProgress

    settings = read_run_file(run_file)
    with GenerateProgress() as progress:
        found = _stop.run(make_plan(settings, backend_of(settings), seconds or 0, progress.show))
    click.echo(plan_text(found, settings))


@cli.command(
    epilog="\b\nExamples:\n  smt generate smt.yaml\n  smt generate smt.yaml --method focal_rewrite\n"
    "  smt generate smt.yaml --shard 1/4"
)
@RUN_FILE
@click.option("--method", "methods", multiple=True, help="only this method of the run file; may be given again")
@click.option("--retry-failed", is_flag=True, help="ask again what the backend refused before")
@SHARD
def generate(run_file: Path, methods: tuple[str, ...], retry_failed: bool, shard: tuple[int, int] | None) -> None:
    """Ask the backend for completions until every method's token budget is met, and write records.

    Run it again to go on after a stop, or after raising a budget: what is paid for is never asked again.
    """
    from smt_plugin.config import read_run_file
    from smt_plugin.generation.generate import backend_of

    settings = read_run_file(run_file)
    _generate(settings, backend_of(settings, shard), only=methods, shard=shard, retry_refused=retry_failed)


def _generate(settings: Any, backend: Any, **options: Any) -> Any:
    """Generate with a backend, say what was done, and exit with status 1 if a budget is unmet."""
    from smt_plugin.config import write_resolved
    from smt_plugin.generation.generate import generate_run
    from smt_plugin.generation.progress import GenerateProgress

    with GenerateProgress() as progress:
        summary = _stop.run(generate_run(settings, backend, on_progress=progress.show, **options))
    if summary.deferred:
        return summary
    write_resolved(settings, settings.run / "run.yaml")
    click.echo(summary.text)
    for problem in summary.unmet:
        click.echo(f"budget unmet: {problem}", err=True)
    if summary.unmet:
        sys.exit(1)
    return summary


@cli.group(cls=_Commands)
def batch() -> None:
    """Let a batch endpoint, or `vllm run-batch`, answer a run's requests: export, work off, import, and again."""


@batch.command(
    name="export",
    epilog="\b\nExample:\n  smt batch export smt.yaml requests/\n"
    "  vllm run-batch -i requests/requests-0001.jsonl -o results-1.jsonl --model ...\n"
    "  smt batch import smt.yaml results-1.jsonl",
)
@RUN_FILE
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--retry-failed", is_flag=True, help="export again what was refused before")
def batch_export(run_file: Path, folder: Path, retry_failed: bool) -> None:
    """Write the requests that can be asked now as OpenAI batch files into FOLDER.

    Rewrites need the strategies that come before them, so this takes some rounds of export and import, until nothing
    is left; then the records are written.
    """
    from smt_plugin.config import MicroworldBackend, read_run_file
    from smt_plugin.generation.batch_files import ROUNDS_AHEAD, BatchExport

    settings = read_run_file(run_file)
    if isinstance(settings.backend, MicroworldBackend):
        raise BadInput(f"run file {run_file}: backend.kind: the microworld needs no batch files; use `smt generate`.")
    backend = BatchExport(folder, settings.backend.model, settings.backend.structured_output)
    summary = _generate(settings, backend, retry_refused=retry_failed, rounds_ahead=ROUNDS_AHEAD)
    backend.finish()
    if summary.deferred:
        names = ", ".join(map(str, backend.files[:3])) + (" ..." if len(backend.files) > 3 else "")
        click.echo(f"{backend.requests:,} requests in {len(backend.files)} files: {names}")
        click.echo(f"have them answered, then run: smt batch import {shlex.quote(str(run_file))} RESULTS.jsonl")


@batch.command(name="import", epilog="\b\nExample:\n  smt batch import smt.yaml results-*.jsonl")
@RUN_FILE
@click.argument("results", type=click.Path(path_type=Path), nargs=-1, required=True)
def batch_import(run_file: Path, results: tuple[Path, ...]) -> None:
    """Take the results of a batch endpoint into the run, and write the records if nothing is left to ask."""
    from smt_plugin.config import MicroworldBackend, read_run_file
    from smt_plugin.generation.batch_files import ROUNDS_AHEAD, BatchImport

    settings = read_run_file(run_file)
    if isinstance(settings.backend, MicroworldBackend):
        raise BadInput(f"run file {run_file}: backend.kind: the microworld needs no batch files; use `smt generate`.")
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


@cli.command(epilog="\b\nExample:\n  smt show smt.yaml --method focal_rewrite --count 2")
@RUN_FILE
@click.option("--method", required=True, help="method of the run file")
@click.option("--full", is_flag=True, help="show the documents inside the prompts, too")
@click.option("--count", default=1, show_default=True, type=click.IntRange(min=1), help="records to show")
@click.option("--seed", type=int, help="show the same records each time")
def show(run_file: Path, method: str, full: bool, count: int, seed: int | None) -> None:
    """Look at random records of a method, with the prompts they came from."""
    from smt_plugin.config import read_run_file
    from smt_plugin.generation.show import show_records

    for text in show_records(read_run_file(run_file), method, count, seed, full):
        click.echo(text)


@cli.command(epilog="\b\nExample:\n  smt mix smt.yaml && axolotl train run/axolotl.yaml")
@RUN_FILE
@click.option("--drop-leaks", is_flag=True, help="leave out records that nearly ask or quote an evaluation question")
def mix(run_file: Path, drop_leaks: bool) -> None:
    """Mix records and replay by tokens into training files, and write a ready-to-run axolotl.yaml for each budget."""
    from smt_plugin.config import read_run_file
    from smt_plugin.mixing.mix import mix_budgets
    from smt_plugin.mixing.settings import MixSettings
    from smt_plugin.records import check_made
    from smt_plugin.training.axolotl_config import trained_config, write_axolotl_config

    settings = read_run_file(run_file)
    section, train = settings.mix, settings.train
    for name in section.shares:
        if name not in section.sources:
            mend = "add it there or to `mix.sources`, or give `mix.shares` without it"
            check_made(settings.run, name, settings.methods, mend)
    values = dict(section)
    trained = trained_config(settings.run, train.config, train.base_model)
    values["tokenizer"] = section.tokenizer or trained.get("tokenizer_config") or trained["base_model"]
    values["budgets"] = tuple(section.budgets)
    drop: dict[str, str] = {}
    if drop_leaks:
        from smt_plugin.benchmarks.find import load
        from smt_plugin.evaluation.leaks import leaking_records

        if settings.evaluate is None:
            raise BadInput(
                f"run file {run_file}: evaluate: this key is missing; --drop-leaks needs its `benchmark` and `data`."
            )
        asked = load(settings.evaluate.benchmark, settings.evaluate.data)
        drop = leaking_records(settings.run, *asked, section.sources)
        click.echo(f"{len(drop):,} records leak evaluation questions and are left out; {settings.run / 'leaks.jsonl'}")
    ran_dry = False
    for folder, manifest in mix_budgets(settings.run, MixSettings(**values, seed=settings.seed), drop):
        path = write_axolotl_config(settings.run, train.config, base_model=train.base_model, mix_folder=folder)
        click.echo(f"{folder}: {manifest['tokens']:,} tokens")
        for name, source in manifest["sources"].items():
            whole = "all" if name == "replay" else "the synthetic ones"
            click.echo(
                f"{name:>16}: {source['tokens']:>12,} tokens in {source['records']:,} records, "
                f"{source['share']:.1%} of {whole}"
            )
            ran_dry = ran_dry or source["ran_dry"]
        if manifest["limited_by"] is not None and len(manifest["sources"]) > 1:
            click.echo(f"without a budget the mix ends where {manifest['limited_by']} does")
        for warning in manifest["warnings"]:
            click.echo(f"warning: {warning}", err=True)
        click.echo(f"wrote {path}; train with: axolotl train {shlex.quote(str(path))}")
    if ran_dry:
        sys.exit(1)


@cli.command(
    epilog="\b\nExamples:\n  smt tune smt.yaml\n  smt tune smt.yaml --by recall --chunk-tokens 100 --chunk-tokens 200"
)
@RUN_FILE
@click.option(
    "--by", type=click.Choice(["accuracy", "recall"]), default="accuracy", show_default=True, help="what is maximised"
)
@click.option("--chunk-tokens", multiple=True, type=click.IntRange(min=1), help="a chunk size to try")
@click.option("--top-k", multiple=True, type=click.IntRange(min=1), help="a number of chunks to try")
@click.option("--order", multiple=True, type=click.Choice(["best_first", "best_last"]), help="an order to try")
def tune(
    run_file: Path, by: str, chunk_tokens: tuple[int, ...], top_k: tuple[int, ...], order: tuple[str, ...]
) -> None:
    """Tune retrieval on a held-out fifth of the documents, for `smt evaluate`; these then leave every headline."""
    from smt_plugin.evaluation.tune import Grid
    from smt_plugin.evaluation.tune import tune as tune_retrieval
    from smt_plugin.training.shipped import base_model_of

    settings, section = _with_evaluation(run_file)
    base_model = base_model_of(settings.train.config, settings.train.base_model)
    grid = Grid(chunk_tokens, top_k, order)
    tuned = tune_retrieval(settings.run, section, base_model, by, grid, settings.seed, click.echo)
    chosen = ", ".join(f"{name} {value}" for name, value in tuned["chosen"].items())
    click.echo(
        f"chosen by {by} on {tuned['questions']:,} questions about {len(tuned['held_out'])} documents, which leave the "
        f"headline of every arm: {chosen}; wrote {settings.run / 'tune.json'}"
    )


@cli.command(epilog="\b\nExample:\n  smt check run/axolotl.yaml --gpus 4")
@click.argument("config", type=click.Path(path_type=Path), metavar="AXOLOTL.YAML")
@click.option("--gpus", type=click.IntRange(min=1), help="of all nodes; default: those of this machine, else 1")
@click.option("--micro-batch-size", type=click.IntRange(min=1), help="if axolotl is told another than the config's")
def check(config: Path, gpus: int | None, micro_batch_size: int | None) -> None:
    """Say what would go wrong silently in a training, and its steps, tokens, FLOP and hours; no GPU needed."""
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


@cli.command(name="ls", epilog="\b\nExample:\n  smt ls")
def list_shipped() -> None:
    """List the methods, prompts, tasks and configs that come with the package, one line each."""
    from smt_plugin.training.shipped import shipped

    for kind, things in shipped().items():
        click.echo(f"{kind}:")
        width = max(map(len, things))
        for name, line in things.items():
            click.echo(f"  {name:{width}}  {line}")


@cli.command(name="cp", epilog="\b\nExample:\n  smt cp qwen3-8b/full my.yaml")
@click.argument("config")
@click.argument("destination", type=click.Path(), default=".")
def copy_shipped(config: str, destination: str) -> None:
    """Copy an axolotl config to change: to a file, or into a folder (default: this one)."""
    from smt_plugin.training.shipped import copy_config

    click.echo(f"wrote {copy_config(config, destination)}")


@cli.command(epilog="\b\nExamples:\n  smt evaluate smt.yaml\n  smt evaluate smt.yaml --arm base --arm base_rag")
@RUN_FILE
@click.option("--arm", "arms", multiple=True, help="only this arm, as in the run file; may be given again")
@click.option("--dry-run", is_flag=True, help="print the lm_eval commands and run none")
def evaluate(run_file: Path, arms: tuple[str, ...], dry_run: bool) -> None:
    """Run lm_eval on every arm of the run file, skipping those that are done."""
    settings, section = _with_evaluation(run_file)
    _run_lm_eval(*_arm_commands(settings, section, arms), dry_run)


def _with_evaluation(run_file: Path) -> "tuple[RunFile, EvaluateSection]":
    """Read a run file that must have an `evaluate` section."""
    from smt_plugin.config import read_run_file

    settings = read_run_file(run_file)
    if settings.evaluate is None:
        raise BadInput(f"run file {run_file}: evaluate: this key is missing; add it, with `benchmark: corpus` in it.")
    return settings, settings.evaluate


def _arm_commands(
    settings: "RunFile", section: "EvaluateSection", arms: tuple[str, ...] = (), check: bool = True
) -> "tuple[list[ArmCommand], list[str]]":
    """The commands of `smt evaluate`, with retrieval as it was tuned."""
    from smt_plugin.evaluation.arms import arm_commands, arms_of
    from smt_plugin.evaluation.tune import read_tuned
    from smt_plugin.training.shipped import base_model_of
    from smt_plugin.training.trainings import trainings_of

    trainings = trainings_of(settings.run, settings.mix.budgets)
    section = section.model_copy(update={"arms": list(arms_of(arms, trainings, "--arm"))}) if arms else section
    if tuned := read_tuned(settings.run):
        section = section.model_copy(update={"retrieval": tuned["chosen"] | section.retrieval})
    base_model = base_model_of(settings.train.config, settings.train.base_model)
    return arm_commands(settings.run, section, base_model, trainings, settings.seed, check=check)


@cli.command(epilog="\b\nExample:\n  smt retention smt.yaml && smt report smt.yaml")
@RUN_FILE
@click.option("--dry-run", is_flag=True, help="print the lm_eval commands and run none")
def retention(run_file: Path, dry_run: bool) -> None:
    """Run a small suite of lm_eval's own tasks on the base and the trained model, to see what was forgotten."""
    from smt_plugin.evaluation.retention import retention_commands
    from smt_plugin.training.shipped import base_model_of
    from smt_plugin.training.trainings import trainings_of

    settings, section = _with_evaluation(run_file)
    base_model = base_model_of(settings.train.config, settings.train.base_model)
    trainings = trainings_of(settings.run, settings.mix.budgets)
    commands, missing = retention_commands(settings.run, section, base_model, trainings, settings.seed)
    _run_lm_eval(commands, missing, dry_run)


def _run_lm_eval(commands: "list[ArmCommand]", missing: list[str], dry_run: bool) -> None:
    """Run or print the commands; what is missing is said first, and makes the exit status 1."""
    from smt_plugin.evaluation.arms import evaluate as run_arms

    for sentence in missing:
        click.echo(f"missing: {sentence}", err=True)
    if dry_run:
        for command in commands:
            click.echo(command.text)
    else:
        run_arms(commands, click.echo)
    if missing:
        sys.exit(1)


@cli.command(epilog="\b\nExample:\n  smt leaks smt.yaml && smt report smt.yaml")
@RUN_FILE
def leaks(run_file: Path) -> None:
    """Find the evaluation questions that synthetic records nearly ask or quote; the report then shows both scores."""
    from smt_plugin.benchmarks.find import load
    from smt_plugin.evaluation.leaks import find_leaks
    from smt_plugin.files import read_jsonl
    from smt_plugin.report.report import leaks_text

    settings, section = _with_evaluation(run_file)
    find_leaks(settings.run, *load(section.benchmark, section.data), settings.mix.sources)
    click.echo(f"{leaks_text(settings.run, settings.mix.sources)}; wrote {settings.run / 'leaks.json'}")
    examples = list(islice(read_jsonl(settings.run / "leaks.jsonl"), 3))
    for _, row in examples:
        click.echo(f"  {row['question'][:100]!r} by {row['by'][:100]!r}")
    if examples:
        click.echo(f"leave them out with: smt mix {shlex.quote(str(run_file))} --drop-leaks")


@cli.command(epilog="\b\nExample:\n  smt report smt.yaml")
@RUN_FILE
def report(run_file: Path) -> None:
    """Print the table of all arms, and write report.html with the table and a plot."""
    from rich.console import Console

    from smt_plugin.evaluation.arms import arms_of, outdated
    from smt_plugin.evaluation.retention import retention_results
    from smt_plugin.report.report import doubts, retention_table, run_facts, tables, verdicts, write_report
    from smt_plugin.report.results import arm_results
    from smt_plugin.training.trainings import trainings_of

    settings, section = _with_evaluation(run_file)
    trainings = trainings_of(settings.run, settings.mix.budgets)
    results = arm_results(settings.run, section.arms, trainings, settings.mix.sources)
    changes = retention_results(settings.run, trainings)
    facts = run_facts(settings)
    # A report can be made all the same where the models, lm-eval or the data are not.
    old: list[str] = []
    with suppress(BadInput):
        old = outdated(_arm_commands(settings, section, check=False)[0])
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


@cli.command(epilog="\b\nExample:\n  smt card smt.yaml")
@RUN_FILE
def card(run_file: Path) -> None:
    """Write each trained model's README.md: data, budget, shares, config, versions and results."""
    from smt_plugin.config import read_run_file
    from smt_plugin.report.card import write_card
    from smt_plugin.training.trainings import trainings_of

    settings = read_run_file(run_file)
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


class _Setting(click.ParamType):  # type: ignore[type-arg]
    """A name and its value, which is YAML."""

    name = "NAME=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        import yaml

        name, sign, text = str(value).partition("=")
        with suppress(yaml.YAMLError, ValueError):
            if sign:
                return name, yaml.safe_load(text)
        self.fail(f"{value!r} is no setting; write NAME=VALUE, e.g. mode=hybrid.", param, ctx)


@cli.command(
    epilog="\b\nExample:\n  smt retrieve corpus --data documents/ --set mode=hybrid --set top_k=5 --output r.jsonl"
)
@click.argument("name", type=click.Choice(["quality", "longhealth", "financebench", "corpus", "microworld"]))
@click.option("--data", type=click.Path(path_type=Path), help="folder of the benchmark's files")
@click.option("--set", "values", multiple=True, type=_Setting(), help="a setting of the retrieval; may be given again")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="retrieval file to write")
def retrieve(name: str, data: Path | None, values: tuple[tuple[str, Any], ...], output: Path) -> None:
    """Retrieve the chunks of a benchmark's questions into a file, and say how often the right ones were found."""
    from smt_plugin.benchmarks.find import load
    from smt_plugin.retrieval.retrieve import build_retrieval, default_settings

    settings = default_settings(name).changed(dict(values))
    manifest = build_retrieval(*load(name, data), output, settings)
    for key, value in manifest.items():
        if "recall" in key:
            click.echo(f"{key}: {value:.1%}")
    click.echo(
        f"{manifest['questions']:,} questions, {manifest['chunks']:,} chunks, {manifest['seconds']} s; wrote {output}"
    )


@cli.command(
    epilog="\b\nExamples:\n  smt judge --against labels.jsonl --endpoint http://127.0.0.1:8001/v1\n"
    "  smt judge smt.yaml --against labels.jsonl"
)
@click.argument("run_file", type=click.Path(path_type=Path), metavar="[RUN.YAML]", required=False)
@click.option(
    "--against", type=click.Path(path_type=Path), required=True, help="question, gold, answer, correct a line"
)
@click.option("--endpoint", help="base URL of an OpenAI-compatible server, without a run file")
@click.option("--model", default="Qwen/Qwen3-14B", show_default=True, help="of that server")
def judge(run_file: Path | None, against: Path, endpoint: str | None, model: str) -> None:
    """Measure how far the judge of free-form answers, a run file's or another, agrees with labels that people gave."""
    from smt_plugin.config import read_run_file
    from smt_plugin.evaluation.judge import agreement, judge_settings

    if (run_file is None) == (endpoint is None):
        raise BadInput("smt judge: give a run file with evaluate.judge in it, or --endpoint, and not both.")
    if run_file is None:
        settings = judge_settings({"endpoint": endpoint, "model": model})
    else:
        section = read_run_file(run_file).evaluate
        if section is None or section.judge is None:
            raise BadInput(f"run file {run_file}: evaluate.judge: this key is missing; add it.")
        settings = section.judge
    click.echo(agreement(against, settings).text)


@cli.group(cls=_Commands)
def tasks() -> None:
    """Let the bare `lm_eval --tasks quality_smt` find the tasks of this package."""


@tasks.command(name="install", epilog="\b\nExample:\n  smt tasks install && lm_eval --tasks quality_smt ...")
def tasks_install() -> None:
    """Write a two-line pointer for each task into the installed lm_eval, in a folder of its own."""
    from smt_plugin.evaluation.lm_eval_link import install

    paths = install()
    click.echo(f"wrote {len(paths)} pointers to {paths[0].parent}; `smt tasks uninstall` removes them")


@tasks.command(name="uninstall")
def tasks_uninstall() -> None:
    """Remove what `smt tasks install` wrote."""
    from smt_plugin.evaluation.lm_eval_link import uninstall

    click.echo(f"removed {len(uninstall())} pointers")


@tasks.command(name="path")
def tasks_path() -> None:
    """Print the folder for lm_eval's --include_path."""
    from smt_plugin.assets import asset_dir

    click.echo(asset_dir("lm_eval_tasks"))


def main() -> None:
    """Run `smt`; bad input and failures are one sentence on stderr and exit status 2 and 1."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    _stop.watch()
    try:
        from smt_plugin.backends.base import BackendDown

        status: Any = cli.main(standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        _stop.ignore()
        click.echo("stopped; run the same command again to go on", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except BadInput as error:
        click.echo(f"error: {' '.join(str(error).split())}", err=True)
        sys.exit(2)
    except BrokenPipeError:
        # Whoever read along, such as `head`, has seen enough; Python must not flush into nowhere at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (BackendDown, OSError, sqlite3.Error, RuntimeError) as error:
        click.echo(f"failed: {error}; what is done is kept, run the same command again to go on", err=True)
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)
