"""Commands that prepare documents and questions: inspect, init, benchmark, questions."""

import os
import shlex
import sys
from pathlib import Path

import click

from smt_plugin.benchmarks import names
from smt_plugin.cli.command import COUNT, PATH, RUN_FILE, command, print_tables, read_run
from smt_plugin.cli.signals import stop
from smt_plugin.errors import BadInput


@command("smt init documents/ --output smt.yaml")
@click.argument("corpus", type=PATH)
@click.option("--output", type=PATH, default=Path("smt.yaml"), show_default=True, help="run file to write")
@click.option("--skip-bad", is_flag=True, help="enter files that cannot be read into corpus.yaml, and go on without")
def init(corpus: Path, output: Path, skip_bad: bool) -> None:
    """Check a corpus and write a commented run file for it.

    A folder may hold text, Markdown, PDF, Word, PowerPoint, HTML and EPUB files.
    """
    from smt_plugin.config import example_run_file
    from smt_plugin.corpus import READING_FILE, estimate_tokens, leave_out_bad, other_files, read_documents
    from smt_plugin.files import check_target, write_text
    from smt_plugin.question import questions_file, read_questions

    if skip_bad and corpus.is_dir():
        bad = leave_out_bad(corpus)
        for sentence in bad.values():
            click.echo(f"left out: {sentence}", err=True)
        if bad:
            click.echo(f"{len(bad):,} files are left out by {corpus / READING_FILE}")
        if os.path.lexists(output):
            click.echo(f"{output} is there already, and stays as it is")
            return
    if os.path.lexists(output):
        raise BadInput(f"{output} is there already; remove it or give another --output.")
    check_target(output)
    documents = characters = 0
    tokens = 0.0
    for document in read_documents(corpus):
        documents += 1
        characters += len(document.text)
        tokens += estimate_tokens(document.text)
    path = questions_file(corpus)
    questions = read_questions(path, read_documents(corpus)) if path.is_file() else []
    write_text(output, example_run_file(corpus, output.parent))
    click.echo(f"{documents:,} documents, {characters:,} characters (about {tokens:,.0f} tokens)")
    if others := other_files(corpus):
        named = ", ".join(f"{count:,} {ending}" for ending, count in others.most_common(5))
        click.echo(f"left out, since no text is read from such files: {named}", err=True)
    name = shlex.quote(str(output))
    if questions:
        click.echo(f"{len(questions):,} questions to evaluate with, in {path}")
    click.echo(f"wrote {output}; set the endpoint and the budgets in it, then run:")
    if not questions:
        click.echo(f"  smt questions {name}   (before all else, unless you have questions to evaluate with)")
    click.echo(f"  smt plan {name} && smt generate {name}")


@command("smt inspect documents/", name="inspect")
@click.argument("corpus", type=PATH)
@click.option("--output", type=PATH, default=Path("inspect.html"), show_default=True, help="page to write")
def inspect_documents(corpus: Path, output: Path) -> None:
    """Look at a corpus before it is paid for.

    Sizes, languages, copies, lines that are repeated over documents, pages that are empty or odd.
    """
    from rich import box
    from rich.table import Table

    from smt_plugin.files import check_target
    from smt_plugin.inspection import Table as Shown
    from smt_plugin.inspection import inspect_corpus, tables, write_inspection

    check_target(output)
    found = inspect_corpus(corpus)

    def table_of(shown: Shown, width: int) -> Table:
        table = Table(title=shown.title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
        table.caption, table.caption_justify = shown.note or None, "left"
        for column in shown.columns:
            table.add_column(column, overflow="fold")
        for row in shown.rows:
            table.add_row(*row)
        return table

    print_tables(tables(found), table_of)
    write_inspection(output, corpus, found)
    click.echo(f"wrote {output}")


@command("smt transcribe smt.yaml --dry-run", "smt transcribe smt.yaml")
@RUN_FILE
@click.option("--retry-failed", is_flag=True, help="ask again about pages that were refused before")
@click.option("--dry-run", is_flag=True, help="say what it would ask and cost, and ask nothing")
def transcribe(run_file: Path, retry_failed: bool, dry_run: bool) -> None:
    """Have a vision model read scans: pages of PDFs that have no text.

    The model is that of the run file's section `transcribe`. Beside each such PDF a Markdown file of its name is
    written, which stands for it from then on: correct it there.
    """
    from smt_plugin.corpus import ranges
    from smt_plugin.generation.generate import backend_of
    from smt_plugin.generation.transcribe import (
        for_vision,
        plan_transcription,
        transcribe,
        transcription_plan_text,
    )
    from smt_plugin.progress import Progress

    settings = for_vision(read_run(run_file))
    if dry_run:
        click.echo(transcription_plan_text(stop.run(plan_transcription(settings, backend_of(settings))), settings))
        return
    with Progress("pages") as progress:
        result, summary = stop.run(transcribe(settings, backend_of(settings), retry_failed, progress.at))
    click.echo(summary.text if summary.asked or summary.reused else "no PDF waits to be read")
    for path, pages in result.written.items():
        click.echo(f"wrote {path}, {pages:,} pages of it from images")
    for path in result.in_the_way:
        click.echo(f"{path} has pages without text, but {path.with_suffix('.md')} is there already: not read", err=True)
    for path in result.empty:
        click.echo(f"{path}: the model saw no text on its pages; leave it out", err=True)
    for path, numbers in result.unread.items():
        click.echo(f"{path}: of pages {ranges(numbers)} nothing could be made", err=True)
    if result.unread:
        sys.exit(1)


@command("smt benchmark longhealth --data LongHealth/data --output corpus/")
@click.argument("name", type=click.Choice(names()))
@click.option("--data", type=PATH, help="folder of its files")
@click.option("--output", type=PATH, help="write documents.jsonl and questions.jsonl there")
def benchmark(name: str, data: Path | None, output: Path | None) -> None:
    """Fetch and check a benchmark's files.

    They are looked for in --data, else in the folder that SMT_<NAME>_DIR names, then in the cache, then fetched. With
    --output, they are written as the corpus of a run file.
    """
    from smt_plugin.benchmarks.find import check
    from smt_plugin.files import check_target
    from smt_plugin.question import write_data

    if output is not None:
        check_target(output / "documents.jsonl", with_folder=True)
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


@command("smt questions smt.yaml --dry-run", "smt questions smt.yaml --per-document 12")
@RUN_FILE
@click.option("--per-document", default=8, show_default=True, type=COUNT, help="questions about each document")
@click.option("--free-form", is_flag=True, help="answered in a few words, for a judge; else four options each")
@click.option("--unknown-only", is_flag=True, help="drop what the backend knows without the document")
@click.option("--dry-run", is_flag=True, help="say what it would ask and cost, and ask nothing")
def questions(run_file: Path, per_document: int, free_form: bool, unknown_only: bool, dry_run: bool) -> None:
    """Make an evaluation set of your own documents.

    The backend makes it before anything is generated from them. Each question is checked, and answered by the backend
    with its document and without. The set is written beside the documents, once, and frozen with its hash: what is
    evaluated later is what was set down. `questions.html` shows a sample of it, and of what was dropped.
    """
    from smt_plugin.corpus import read_documents
    from smt_plugin.evaluation.make_questions import make_questions
    from smt_plugin.evaluation.question_plan import plan_questions, questions_plan_text
    from smt_plugin.evaluation.questions_page import sentences
    from smt_plugin.generation.generate import backend_of
    from smt_plugin.generation.summary import Summary
    from smt_plugin.progress import Progress
    from smt_plugin.question import questions_file, questions_page

    settings = read_run(run_file)
    if dry_run:
        found = stop.run(plan_questions(settings, backend_of(settings), per_document, free_form))
        click.echo(questions_plan_text(found, settings))
        return
    total = sum(1 for _ in read_documents(settings.corpus))
    with Progress("documents", total) as progress:

        def show(done: int, summary: Summary) -> None:
            progress.at(done, total, f"{done:,} of {total:,} documents, {summary.so_far}")

        making = make_questions(settings, backend_of(settings), per_document, free_form, unknown_only, show)
        manifest = stop.run(making)
    for sentence in sentences(manifest):
        click.echo(sentence)
    path = questions_file(settings.corpus)
    click.echo(f"wrote {path}; look at a sample of them in {questions_page(path)}")
    if short := manifest["short"]:
        click.echo(f"{len(short)} documents have fewer than {per_document}, e.g. {short[0]!r}", err=True)
        sys.exit(1)
