"""Commands that prepare documents and questions: init, benchmark, questions."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from smt_plugin.benchmarks import names
from smt_plugin.errors import BadInput

if TYPE_CHECKING:
    pass
from smt_plugin.cli.command import RUN_FILE, Command
from smt_plugin.cli.signals import stop


@click.command(cls=Command, epilog="\b\nExample:\n  smt init documents/ --output smt.yaml")
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


@click.command(cls=Command, epilog="\b\nExample:\n  smt benchmark longhealth --data LongHealth/data --output corpus/")
@click.argument("name", type=click.Choice(names()))
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


@click.command(cls=Command, epilog="\b\nExample:\n  smt questions smt.yaml --per-document 12")
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
        manifest = stop.run(
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
