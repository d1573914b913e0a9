"""Commands that evaluate: retrieve, tune, evaluate, retention, leaks, judge, tasks."""

import shlex
import sys
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from smt_plugin.benchmarks import names
from smt_plugin.errors import BadInput

if TYPE_CHECKING:
    from smt_plugin.config import EvaluateSection, RunFile
    from smt_plugin.evaluation.arms import ArmCommand
from smt_plugin.cli.command import RUN_FILE, Command, Commands, read_with_evaluation


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


@click.command(
    cls=Command,
    epilog="\b\nExample:\n  smt retrieve corpus --data documents/ --set mode=hybrid --set top_k=5 --output r.jsonl",
)
@click.argument("name", type=click.Choice(names()))
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


@click.command(
    cls=Command,
    epilog="\b\nExamples:\n  smt tune smt.yaml\n  smt tune smt.yaml --by recall --chunk-tokens 100 --chunk-tokens 200",
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

    settings, section = read_with_evaluation(run_file)
    base_model = base_model_of(settings.train.config, settings.train.base_model)
    grid = Grid(chunk_tokens, top_k, order)
    tuned = tune_retrieval(settings.run, section, base_model, by, grid, settings.seed, click.echo)
    chosen = ", ".join(f"{name} {value}" for name, value in tuned["chosen"].items())
    click.echo(
        f"chosen by {by} on {tuned['questions']:,} questions about {len(tuned['held_out'])} documents, which leave the "
        f"headline of every arm: {chosen}; wrote {settings.run / 'tune.json'}"
    )


@click.command(
    cls=Command, epilog="\b\nExamples:\n  smt evaluate smt.yaml\n  smt evaluate smt.yaml --arm base --arm base_rag"
)
@RUN_FILE
@click.option("--arm", "arms", multiple=True, help="only this arm, as in the run file; may be given again")
@click.option("--dry-run", is_flag=True, help="print the lm_eval commands and run none")
def evaluate(run_file: Path, arms: tuple[str, ...], dry_run: bool) -> None:
    """Run lm_eval on every arm of the run file, skipping those that are done."""
    settings, section = read_with_evaluation(run_file)
    _run_lm_eval(*tuned_arm_commands(settings, section, arms), dry_run)


def tuned_arm_commands(
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


@click.command(cls=Command, epilog="\b\nExample:\n  smt retention smt.yaml && smt report smt.yaml")
@RUN_FILE
@click.option("--dry-run", is_flag=True, help="print the lm_eval commands and run none")
def retention(run_file: Path, dry_run: bool) -> None:
    """Run a small suite of lm_eval's own tasks on the base and the trained model, to see what was forgotten."""
    from smt_plugin.evaluation.retention import retention_commands
    from smt_plugin.training.shipped import base_model_of
    from smt_plugin.training.trainings import trainings_of

    settings, section = read_with_evaluation(run_file)
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


@click.command(cls=Command, epilog="\b\nExample:\n  smt leaks smt.yaml && smt report smt.yaml")
@RUN_FILE
def leaks(run_file: Path) -> None:
    """Find the evaluation questions that synthetic records nearly ask or quote; the report then shows both scores."""
    from smt_plugin.benchmarks.find import load
    from smt_plugin.evaluation.leaks import find_leaks
    from smt_plugin.files import read_jsonl
    from smt_plugin.report.report import leaks_text

    settings, section = read_with_evaluation(run_file)
    find_leaks(settings.run, *load(section.benchmark, section.data), settings.mix.sources)
    click.echo(f"{leaks_text(settings.run, settings.mix.sources)}; wrote {settings.run / 'leaks.json'}")
    examples = list(islice(read_jsonl(settings.run / "leaks.jsonl"), 3))
    for _, row in examples:
        click.echo(f"  {row['question'][:100]!r} by {row['by'][:100]!r}")
    if examples:
        click.echo(f"leave them out with: smt mix {shlex.quote(str(run_file))} --drop-leaks")


@click.command(
    cls=Command,
    epilog="\b\nExamples:\n  smt judge --against labels.jsonl --endpoint http://127.0.0.1:8001/v1\n"
    "  smt judge smt.yaml --against labels.jsonl",
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


@click.group(cls=Commands)
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
