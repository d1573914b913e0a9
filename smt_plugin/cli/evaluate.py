"""Commands that evaluate: evaluate, retention, leaks, judge, tasks."""

import shlex
import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from smt_plugin.cli.command import PATH, RUN_FILE, Commands, command, read_run, read_with_evaluation
from smt_plugin.errors import BadInput

if TYPE_CHECKING:
    from smt_plugin.config import EvaluateSection, RunFile
    from smt_plugin.evaluation.arms import Arm


@command("smt evaluate smt.yaml", "smt evaluate smt.yaml --arm base --arm base_rag")
@RUN_FILE
@click.option("--arm", "arms", multiple=True, help="only this arm, as in the run file; may be given again")
@click.option("--dry-run", is_flag=True, help="print the lm_eval commands and run none")
def evaluate(run_file: Path, arms: tuple[str, ...], dry_run: bool) -> None:
    """Run lm_eval on every arm of the run file that is not done yet."""
    settings, section = read_with_evaluation(run_file)
    _run_lm_eval(*tuned_arm_commands(settings, section, arms), dry_run)


def tuned_arm_commands(
    settings: "RunFile", section: "EvaluateSection", arms: tuple[str, ...] = (), check: bool = True
) -> "tuple[list[Arm], list[str]]":
    """The commands of `smt evaluate`, with retrieval as it was tuned."""
    from smt_plugin.evaluation.arms import arms_of, ready_arms
    from smt_plugin.evaluation.tune import overruled, read_tuned
    from smt_plugin.training.shipped import base_model_of
    from smt_plugin.training.trainings import trainings_of

    trainings = trainings_of(settings.run, settings.mix.budgets)
    section = section.model_copy(update={"arms": list(arms_of(arms, trainings, "--arm"))}) if arms else section
    if tuned := read_tuned(settings.run):
        chosen: dict[str, Any] = {**tuned["chosen"]}
        for name in overruled(chosen, section.retrieval):
            click.echo(
                f"evaluate.retrieval.{name} of the run file is {section.retrieval[name]}, and counts; `smt tune` chose "
                f"{chosen[name]}",
                err=True,
            )
        section = section.model_copy(update={"retrieval": chosen | section.retrieval})
    base_model = base_model_of(settings.train.config, settings.train.base_model)
    return ready_arms(settings.run, section, base_model, trainings, settings.seed, check=check)


@command("smt retention smt.yaml && smt report smt.yaml")
@RUN_FILE
@click.option("--dry-run", is_flag=True, help="print the lm_eval commands and run none")
def retention(run_file: Path, dry_run: bool) -> None:
    """See what the training made the model forget. Base and trained model get a few of lm_eval's own tasks."""
    from smt_plugin.evaluation.retention import retention_arms
    from smt_plugin.training.shipped import base_model_of
    from smt_plugin.training.trainings import trainings_of

    settings, section = read_with_evaluation(run_file)
    base_model = base_model_of(settings.train.config, settings.train.base_model)
    trainings = trainings_of(settings.run, settings.mix.budgets)
    _run_lm_eval(*retention_arms(settings.run, section, base_model, trainings, settings.seed), dry_run)


def _run_lm_eval(arms: "list[Arm]", missing: list[str], dry_run: bool) -> None:
    """Run the arms or print their commands; what is missing is said first, and makes the exit status 1."""
    from smt_plugin.evaluation.evaluate import as_run_here
    from smt_plugin.evaluation.evaluate import evaluate as run_arms

    for sentence in missing:
        click.echo(f"missing: {sentence}", err=True)
    if dry_run:
        for arm in arms:
            click.echo(as_run_here(arm).text)
    else:
        run_arms(arms, click.echo)
    if missing:
        sys.exit(1)


@command("smt leaks smt.yaml && smt report smt.yaml")
@RUN_FILE
def leaks(run_file: Path) -> None:
    """Find evaluation questions that stand in the records. The report then shows both scores."""
    from smt_plugin.benchmarks.find import load
    from smt_plugin.evaluation.leaks import find_leaks, leak_rows
    from smt_plugin.report.results import leaks_text

    settings, section = read_with_evaluation(run_file)
    find_leaks(settings.run, *load(section.benchmark, section.data), settings.mix.sources, section.leaks)
    click.echo(f"{leaks_text(settings.run, settings.mix.sources)}; wrote {settings.run / 'leaks.json'}")
    examples = list(islice(leak_rows(settings.run), 3))
    for row in examples:
        click.echo(f"  {row.question[:100]!r} by {row.by[:100]!r}")
    if examples:
        click.echo(f"leave them out with: smt mix {shlex.quote(str(run_file))} --drop-leaks")


@command(
    "smt judge --against labels.jsonl --endpoint http://127.0.0.1:8001/v1", "smt judge smt.yaml --against labels.jsonl"
)
@click.argument("run_file", type=PATH, metavar="[RUN.YAML]", required=False)
@click.option("--against", type=PATH, required=True, help="question, gold, answer, correct a line")
@click.option("--endpoint", help="base URL of an OpenAI-compatible server, without a run file")
@click.option("--model", default="Qwen/Qwen3-14B", show_default=True, help="of that server")
def judge(run_file: Path | None, against: Path, endpoint: str | None, model: str) -> None:
    """Measure how far the judge agrees with labels that people gave.

    The judge of free-form answers is the run file's, or one at --endpoint.
    """
    from smt_plugin.evaluation.judge import agreement, judge_settings

    if (run_file is None) == (endpoint is None):
        raise BadInput("smt judge: give a run file with evaluate.judge in it, or --endpoint, and not both.")
    if run_file is None:
        settings = judge_settings({"endpoint": endpoint, "model": model})
    else:
        section = read_run(run_file).evaluate
        if section is None or section.judge is None:
            raise BadInput(f"run file {run_file}: evaluate.judge: this key is missing; add it.")
        settings = section.judge
    click.echo(agreement(against, settings).text)


@click.group(cls=Commands)
def tasks() -> None:
    """Let a bare `lm_eval --tasks quality_smt` find our tasks."""


@tasks.command(name="install", epilog="\b\nExample:\n  smt tasks install && lm_eval --tasks quality_smt ...")
def tasks_install() -> None:
    """Write two-line pointers to the tasks into lm_eval. They go into a folder of their own."""
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
