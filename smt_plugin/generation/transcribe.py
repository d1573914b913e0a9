"""Have a vision model read the pages of PDFs that have no text, and write each such document down as Markdown."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from smt_plugin.backends.base import Backend, Image, Refused, Reply
from smt_plugin.config import RunFile, TranscribeSection
from smt_plugin.converters import Unreadable, clean_page, page_image, with_page_marks
from smt_plugin.corpus import Document, Scan, estimate_tokens, leave_out, ranges, read_reading, scans
from smt_plugin.errors import BadInput, naming
from smt_plugin.files import file_hash, write_text
from smt_plugin.generation.asker import asking, messages_about
from smt_plugin.generation.generate import keep_busy
from smt_plugin.generation.plan import Plan, PromptPlan, cost_lines, look_back, table_lines
from smt_plugin.generation.summary import Summary
from smt_plugin.methods.base import Ask, Unparsable, was_cut
from smt_plugin.prompts import Prompts

PROMPT = "transcribe/page"
_READ_AS = "read as "
# Of Qwen-VL's kind, olmOCR among them: a token for 28 x 28 pixels. The sides of a page are as those of A4.
_PIXELS_A_TOKEN = 28 * 28
_SIDES = 210 / 297
# Our guess of a full page, before one was read.
_PAGE_TOKENS = 700


@dataclass(slots=True)
class Transcribed:
    """What a call of `transcribe` did.

    Attributes:
        written: Markdown files -> how many pages of each a model read.
        unread: PDFs -> pages of which nothing could be made; the summary's failures say why.
        empty: PDFs on whose pages the model saw no text.
        in_the_way: PDFs beside which another Markdown file of the same name stands; they were left as they are.
    """

    written: dict[Path, int] = field(default_factory=dict)
    unread: dict[Path, list[int]] = field(default_factory=dict)
    empty: list[Path] = field(default_factory=list)
    in_the_way: list[Path] = field(default_factory=list)


@dataclass(slots=True)
class _Reading:
    """A PDF whose pages are being read."""

    scan: Scan
    key: str
    texts: dict[int, str] = field(default_factory=dict)
    done: int = 0


def for_vision(run_file: RunFile) -> RunFile:
    """Return a run file with the backend and the price of its section `transcribe` in place of its own.

    Raises:
        BadInput: it has no such section.
    """
    settings = run_file.transcribe
    if settings is None:
        raise BadInput(
            "the run file has no section transcribe; add it, such as "
            "`transcribe: {backend: {endpoints: [http://localhost:8000/v1], model: allenai/olmOCR-2-7B-1025-FP8}}`."
        )
    return run_file.model_copy(update={"backend": settings.backend, "price": settings.price})


async def transcribe(
    run_file: RunFile,
    backend: Backend,
    retry_failed: bool = False,
    on_progress: Callable[[float, float], None] = lambda done, total: None,
) -> tuple[Transcribed, Summary]:
    """Read all pages without text of the PDFs in a corpus folder, and write a Markdown file beside each PDF.

    The PDF is entered into `corpus.yaml` as no document. Completions go into the run folder's store, so that a call
    that was stopped goes on where it was.

    Args:
        run_file: as `for_vision` gives it.
        retry_failed: ask again about pages that the server refused before.
        on_progress: called after each page, with the number of pages done, and of all.

    Raises:
        BadInput: the corpus is no folder, an extra is missing, or the backend is not there.
        RuntimeError: as `OpenAIBackend.complete`.
    """
    assert run_file.transcribe is not None
    settings, corpus = run_file.transcribe, run_file.corpus
    prompts = Prompts(run_file.prompts)
    result = Transcribed()
    left_out = read_reading(corpus).leave_out
    wanted: list[Scan] = []
    for scan in scans(corpus):
        if not scan.target.exists():
            wanted.append(scan)
        elif not left_out.get(scan.document_id, "").startswith(_READ_AS):
            result.in_the_way.append(scan.path)
    total = sum(len(scan.pages) for scan in wanted)
    summary = Summary({}, 0)
    if not wanted:
        return result, summary
    readings: dict[str, _Reading] = {}
    done = 0
    started = time.monotonic()
    async with asking(backend, run_file.run, prompts, summary, retry_failed) as asker:
        await backend.start()

        def pages() -> Iterator[Document]:
            for scan in wanted:
                readings[scan.document_id] = _Reading(scan, file_hash(scan.path))
                yield from (Document(scan.document_id, scan.path.stem, "", part=number) for number in scan.pages)

        async def read(page: Document) -> None:
            nonlocal done
            reading = readings[page.id]
            answer = await asker.ask(_ask(page, reading, settings))
            if answer is not None:
                reading.texts[page.part] = answer.value
            reading.done += 1
            done += 1
            on_progress(done, total)
            if reading.done == len(reading.scan.pages):
                del readings[page.id]
                _write(reading, corpus, backend.model, result)

        await keep_busy(pages(), read, asker, backend, summary)
    summary.reckon(run_file.price, time.monotonic() - started)
    return result, summary


def _ask(page: Document, reading: _Reading, settings: TranscribeSection) -> Ask:
    def png() -> bytes:
        try:
            return page_image(reading.scan.path, page.part, settings.longest_side)
        except Unreadable as error:
            raise Refused(str(error)) from None

    return Ask(
        page,
        PROMPT,
        {},
        {"temperature": 0.1, "max_tokens": settings.max_tokens},
        sample=0,
        parse=_page_text,
        has_system=False,
        image=Image(f"{reading.key} {page.part} {settings.longest_side}", png),
    )


def _page_text(reply: Reply) -> str:
    """The Markdown of a page; empty where the model saw no text.

    Raises:
        Unparsable: it was cut off, so that the end of the page is missing.
    """
    if was_cut(reply):
        raise Unparsable("the page was not read to its end within max_tokens")
    text = clean_page(reply.text)
    if not text:
        raise Unparsable("empty reply")
    return "" if text.strip("[]. ").lower() == "no text" else text


def _write(reading: _Reading, corpus: Path, model: str, result: Transcribed) -> None:
    """Write what the pages of a PDF hold, and have the PDF itself left out."""
    scan = reading.scan
    unread = [number for number in scan.pages if number not in reading.texts]
    if unread:
        result.unread[scan.path] = unread
    read = {number: text for number, text in reading.texts.items() if text}
    if not read:
        if not unread:
            result.empty.append(scan.path)
        return
    missing = f", without {ranges(unread)}" if unread else ""
    pages = f"pages {ranges(sorted(reading.texts))} by {model}{missing}"
    leave_out(corpus, {scan.document_id: f"{_READ_AS}{scan.target.name}: {pages}"})
    with naming(scan.target):
        write_text(scan.target, with_page_marks(dict(sorted((scan.other_texts() | read).items()))) + "\n")
    result.written[scan.target] = len(read)


async def plan_transcription(run_file: RunFile, backend: Backend) -> Plan:
    """Work out what `transcribe` will ask; nothing is asked.

    Args:
        run_file: as `for_vision` gives it.

    Raises:
        BadInput: as `transcribe`, before it asks anything.
    """
    assert run_file.transcribe is not None
    side = run_file.transcribe.longest_side
    use = (await look_back(run_file, backend.model)).uses[PROMPT]
    files = calls = 0
    for scan in scans(run_file.corpus):
        if not scan.target.exists():
            files += 1
            calls += len(scan.pages)
    stored = min(use.done, calls)
    asked = Document("", "", "")
    bare = sum(
        estimate_tokens(each["content"]) for each in messages_about(asked, Prompts(run_file.prompts), PROMPT, {})[1:]
    )
    a_page = bare + side * side * _SIDES / _PIXELS_A_TOKEN
    left = calls - stored
    tokens = use.completion_tokens / use.done if use.done else _PAGE_TOKENS
    plan = PromptPlan(calls, stored, left * a_page, 0, left * tokens)
    gpus = run_file.price.gpus if run_file.price else 0
    guessed = [] if use.done else [PROMPT]
    return Plan(backend.model, {PROMPT: plan}, use.done, guessed, files, gpus=gpus)


def transcription_plan_text(plan: Plan, run_file: RunFile) -> str:
    """Return the plan as a person reads it: pages, tokens, hours and money."""
    lines = [*table_lines(plan), f"a call is a page; {plan.num_parts:,} PDFs have pages without text."]
    lines.append("Tokens of an image are a guess, one for 28 x 28 pixels, as Qwen-VL's are.")
    if plan.guessed:
        lines.append(f"The sizes of replies are guesses, {_PAGE_TOKENS} tokens a page.")
    return "\n".join([*lines, *cost_lines(plan, run_file.price, "the summary of a first call tells one")])
