"""The command for people who look at records."""

import gc
from contextlib import suppress
from pathlib import Path

import click

from smt_plugin.cli.command import RUN_FILE, command, read_run
from smt_plugin.cli.signals import stop
from smt_plugin.errors import BadInput


@command("smt review smt.yaml", "smt review smt.yaml --port 8021")
@RUN_FILE
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="of the page; default: any that is free")
def review(run_file: Path, port: int) -> None:
    """Look at records beside their documents; keep or reject them.

    A page of this machine shows one at a time, those with most findings of the free check first. What is rejected goes
    to rejects.jsonl in the run folder, at once, and `smt mix` leaves it out. Ctrl-C ends it.
    """
    from smt_plugin.faithfulness.review import Review
    from smt_plugin.faithfulness.reviewed import ReviewedRecords
    from smt_plugin.files import locked
    from smt_plugin.generation.generate import part_tokens_of
    from smt_plugin.records import generated_folders
    from smt_plugin.rejects import rejects_path
    from smt_plugin.source_passages import KeptDocuments

    settings = read_run(run_file)
    folders = {folder: part_tokens_of(settings, folder) for folder in generated_folders(settings.run, all_shards=False)}

    def say(address: str) -> None:
        click.echo(f"{len(records):,} records, the worst first: open {address}")
        click.echo("only this machine can, with this address; Ctrl-C ends it")

    if not any(path for folder in folders for path in (folder / "records").glob("*.jsonl")):
        raise BadInput(f"{settings.run / 'records'} holds no records; run `smt generate RUN.YAML` first.")
    with (
        locked(settings.run / "review.lock"),
        KeptDocuments(settings.corpus, settings.run) as documents,
        ReviewedRecords(settings.run, folders, documents) as records,
    ):
        # What is there by now stays: to look through it all for garbage would take a tenth of a second.
        gc.freeze()
        with suppress(KeyboardInterrupt):
            stop.run(Review(records).serve(port, say))
        counts = records.counts()
    click.echo(
        f"ended: {counts['reject']:,} of {len(records):,} records are rejected and {counts['keep']:,} kept, as "
        f"{rejects_path(settings.run)} says; `smt mix` leaves out what is rejected"
    )
