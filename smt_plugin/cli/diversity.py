"""The command that compares records with each other and with their documents."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from smt_plugin.cli.command import COUNT, PATH, command, print_tables, read_run
from smt_plugin.errors import BadInput, require

if TYPE_CHECKING:
    from smt_plugin.config import RunFile
    from smt_plugin.mixing.ruler import Ruler
    from smt_plugin.progress import Progress
    from smt_plugin.study.samples import RecordSet


@command("smt diversity smt.yaml", "smt diversity weak.yaml strong.yaml --tokens 1000000 --output compared/")
@click.argument("run_files", type=PATH, metavar="RUN.YAML...", nargs=-1, required=True)
@click.option(
    "--tokens", type=COUNT, help="of each method's records; default: what all of them have, at most a million"
)
@click.option("--output", type=PATH, help="folder to write into; default: diversity/ in the first run")
def diversity(run_files: tuple[Path, ...], tokens: int | None, output: Path | None) -> None:
    """Compare records of methods and runs at equal tokens. It tells diversity, and what of the documents they touch."""
    for module, extra in (("llama_index.core", "rag"), ("transformers", "train"), ("matplotlib", "eval")):
        require(module, extra)
    from smt_plugin.config import RetrievalSettings, retrieval_settings
    from smt_plugin.files import check_target
    from smt_plugin.mixing.ruler import Ruler
    from smt_plugin.progress import Progress
    from smt_plugin.report.report import table_of
    from smt_plugin.study.diversity_report import common_tokens, measure, sections_of, write_report
    from smt_plugin.training.axolotl_config import target_tokenizer

    runs = {path: read_run(path) for path in dict.fromkeys(run_files)}
    first = next(iter(runs.values()))
    folder = output or first.run / "diversity"
    check_target(folder / "diversity.html", with_folder=True)
    ruler = Ruler(target_tokenizer(first), first.mix.sequence_len)
    evaluate = first.evaluate
    settings = retrieval_settings(evaluate.benchmark, evaluate.retrieval) if evaluate else RetrievalSettings()
    with Progress("records read") as progress:
        stems = [path.stem for path in runs]
        sets = [
            records
            for path, run in runs.items()
            for records in _sets(path, run, _begin_of_names(path, stems), ruler, progress)
        ]
    compared = common_tokens(sets, tokens)
    found = measure(sets, compared, settings)
    sections = sections_of(found, compared)
    path = write_report(folder, found, sections, compared, settings)
    print_tables(sections, table_of)
    click.echo(f"{compared:,} tokens of each, counted by the tokenizer {ruler.name}; wrote {path}")


def _begin_of_names(path: Path, stems: list[str]) -> str:
    """What tells a run's methods from those of other runs."""
    if len(stems) == 1:
        return ""
    return f"{path.stem if stems.count(path.stem) == 1 else path}: "


def _sets(path: Path, run: "RunFile", begin: str, ruler: "Ruler", progress: "Progress") -> "Iterator[RecordSet]":
    """The records of each method of a run that still fit it; of others it is told how many there are."""
    from smt_plugin.generation.stale import stale_records
    from smt_plugin.records import record_files
    from smt_plugin.rejects import rejected
    from smt_plugin.study.samples import read_records

    try:
        stale = stale_records(run, run.methods)
        if stale.hopeless:
            raise BadInput(*stale.hopeless)
        for sentence in stale.problems:
            click.echo(f"left out: {sentence.partition('; make them anew')[0]}", err=True)
        for sentence in stale.notes:
            click.echo(f"note: {sentence}", err=True)
        for method in run.methods:
            drop = {**stale.drop, **{name: verdict.why for name, verdict in rejected(run.run, [method]).items()}}
            yield read_records(f"{begin}{method}", run, record_files(run.run, method), ruler, drop, progress.at)
    except BadInput as error:
        raise BadInput(*(each.replace("RUN.YAML", shlex.quote(str(path))) for each in error.sentences)) from None
