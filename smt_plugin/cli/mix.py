"""The command that mixes."""

import shlex
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import click

from smt_plugin.cli.command import RUN_FILE, command, read_run
from smt_plugin.errors import BadInput, require


@command("smt mix smt.yaml && axolotl train run/axolotl.yaml")
@RUN_FILE
@click.option("--drop-leaks", is_flag=True, help="leave out records that an evaluation question leaks into")
@click.option("--drop-stale", is_flag=True, help="leave out records whose document, model, prompt or options changed")
def mix(run_file: Path, drop_leaks: bool, drop_stale: bool) -> None:
    """Mix records and replay by tokens into training files. Each budget gets an axolotl.yaml, ready to run."""
    require("numpy", "train")
    from smt_plugin.generation.generate import part_tokens_of
    from smt_plugin.generation.stale import stale_records
    from smt_plugin.mixing.mix import mix_budgets
    from smt_plugin.mixing.provenance import Provenance
    from smt_plugin.records import check_made
    from smt_plugin.source_passages import KeptDocuments
    from smt_plugin.training.axolotl_config import target_tokenizer, write_axolotl_config
    from smt_plugin.training.trainings import trainings_of

    settings = read_run(run_file)
    section, train = settings.mix, settings.train
    for name in section.shares:
        if name not in section.sources:
            fix = "add it there or to `mix.sources`, or give `mix.shares` without it"
            check_made(settings.run, name, settings.methods, fix)
    section = section.model_copy(update={"tokenizer": target_tokenizer(settings)})
    stale = stale_records(settings, [name for name in section.shares if name not in section.sources])
    if stale.hopeless or (stale.problems and not drop_stale):
        raise BadInput(*stale.hopeless, *stale.problems)
    for note in stale.notes:
        click.echo(f"note: {note}", err=True)
    if drop_stale:
        click.echo(f"{len(stale.drop):,} records no longer fit and are left out")
    drop = stale.drop
    if drop_leaks:
        from smt_plugin.benchmarks.find import load
        from smt_plugin.evaluation.leaks import leaking_records

        if settings.evaluate is None:
            raise BadInput(
                f"run file {run_file}: evaluate: this key is missing; --drop-leaks needs its `benchmark` and `data`."
            )
        asked = load(settings.evaluate.benchmark, settings.evaluate.data)
        leaks = leaking_records(settings.run, *asked, section.sources, settings.evaluate.leaks)
        drop = leaks | drop
        click.echo(f"{len(leaks):,} records leak evaluation questions and are left out; {settings.run / 'leaks.jsonl'}")
    ran_dry = False
    configs = [training.config for training in trainings_of(settings.run, section.budgets)]
    with KeptDocuments(settings.corpus, settings.run) if section.provenance else nullcontext() as documents:
        parts = partial(part_tokens_of, settings)
        provenance = Provenance(documents, parts) if documents is not None else None
        mixes = mix_budgets(settings.run, section, settings.seed, drop, configs, provenance)
    for folder, manifest in mixes:
        path = write_axolotl_config(settings.run, train.config, base_model=train.base_model, mix_folder=folder)
        click.echo(f"{folder}: {manifest['tokens']:,} tokens")
        for name, source in manifest["sources"].items():
            whole = "all" if name == "replay" else "the synthetic ones"
            click.echo(
                f"{name:>16}: {source['tokens']:>12,} tokens in {source['records']:,} records, "
                f"{source['share']:.1%} of {whole}"
            )
            ran_dry = ran_dry or source["ran_dry"]
        if left_out := sum(source["rejected"] for source in manifest["sources"].values()):
            click.echo(f"{left_out:,} records are left out, since rejects.jsonl rejects them")
        if manifest["limited_by"] is not None and len(manifest["sources"]) > 1:
            click.echo(f"without a budget the mix ends where {manifest['limited_by']} does")
        for warning in manifest["warnings"]:
            click.echo(f"warning: {warning}", err=True)
        click.echo(f"wrote {path}; train with: axolotl train {shlex.quote(str(path))}")
    if ran_dry:
        sys.exit(1)
