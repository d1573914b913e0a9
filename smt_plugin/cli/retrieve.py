"""Commands around retrieval: retrieve, tune."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from smt_plugin.benchmarks import names
from smt_plugin.cli.command import COUNT, PATH, RUN_FILE, command, read_with_evaluation


def _settings(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> dict[str, Any]:
    """Names and their values, which are YAML."""
    from smt_plugin.config import parse_yaml

    settings = {}
    for each in given:
        name, sign, text = each.partition("=")
        with suppress(ValueError):
            if sign:
                settings[name] = parse_yaml(text)
                continue
        raise click.BadParameter(f"{each!r} is no setting; write NAME=VALUE, e.g. mode=hybrid.")
    return settings


@command("smt retrieve corpus --data documents/ --set mode=hybrid --set top_k=5 --output r.jsonl")
@click.argument("name", type=click.Choice(names()))
@click.option("--data", type=PATH, help="folder of the benchmark's files")
@click.option(
    "--set",
    "values",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_settings,
    help="a setting of the retrieval; may be given again",
)
@click.option("--output", type=PATH, required=True, help="retrieval file to write")
def retrieve(name: str, data: Path | None, values: dict[str, Any], output: Path) -> None:
    """Retrieve the chunks of a benchmark's questions into a file. It tells how often they were the right ones."""
    from smt_plugin.benchmarks.find import load
    from smt_plugin.config import retrieval_settings
    from smt_plugin.files import check_target
    from smt_plugin.retrieval.retrieve import build_retrieval

    settings = retrieval_settings(name, values)
    check_target(output, with_folder=True)
    manifest = build_retrieval(*load(name, data), output, settings)
    for key, value in manifest.items():
        kind, at, _ = key.partition("_recall@")
        if at:
            asked = manifest.get(f"{kind}_questions", manifest["questions"])
            click.echo(f"{key}: {value:.1%} ({asked:,} questions)")
    if "proxy_passage_questions" in manifest:
        click.echo(
            "proxy_passage_recall is no measured recall: it looks for the passage that shares most with the question "
            "and its right answer, since nobody has said which passage holds it."
        )
    click.echo(
        f"{manifest['questions']:,} questions, {manifest['chunks']:,} chunks, {manifest['seconds']} s; wrote {output}"
    )


@command("smt tune smt.yaml", "smt tune smt.yaml --by recall --chunk-tokens 100 --chunk-tokens 200")
@RUN_FILE
@click.option(
    "--by", type=click.Choice(["accuracy", "recall"]), default="accuracy", show_default=True, help="what is maximised"
)
@click.option("--chunk-tokens", multiple=True, type=COUNT, help="a chunk size to try")
@click.option("--top-k", multiple=True, type=COUNT, help="a number of chunks to try")
@click.option("--order", multiple=True, type=click.Choice(["best_first", "best_last"]), help="an order to try")
@click.option("--reranker", multiple=True, help="a reranker to try, as in evaluate.retrieval; 'none' for none")
@click.option("--candidates", multiple=True, type=COUNT, help="a number of chunks to rerank")
def tune(
    run_file: Path,
    by: str,
    chunk_tokens: tuple[int, ...],
    top_k: tuple[int, ...],
    order: tuple[str, ...],
    reranker: tuple[str, ...],
    candidates: tuple[int, ...],
) -> None:
    """Tune retrieval on a held-out fifth of the documents. `smt evaluate` uses it; they leave every headline."""
    from smt_plugin.evaluation.tune import Grid, overruled
    from smt_plugin.evaluation.tune import tune as tune_retrieval
    from smt_plugin.training.shipped import base_model_of

    settings, section = read_with_evaluation(run_file)
    base_model = base_model_of(settings.train.config, settings.train.base_model)
    rerankers = ["" if name == "none" else name for name in reranker]
    grid = Grid(chunk_tokens, top_k, order, rerankers, candidates)
    tuned = tune_retrieval(settings.run, section, base_model, by, grid, settings.seed, click.echo)
    chosen = ", ".join(f"{name} {value or 'none'}" for name, value in tuned["chosen"].items())
    click.echo(
        f"chosen by {by} on {tuned['questions']:,} questions about {len(tuned['held_out'])} documents, which leave the "
        f"headline of every arm: {chosen}; wrote {settings.run / 'tune.json'}"
    )
    if kept := overruled(tuned["chosen"], section.retrieval):
        click.echo(f"the run file sets {', '.join(kept)}, and that stays: remove it there to use what was chosen")
