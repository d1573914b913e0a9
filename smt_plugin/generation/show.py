"""Show random records of a method, or what it has so far, with the prompts they came from."""

import random
from collections.abc import Iterator

from smt_plugin.backends.base import MAX_ATTEMPTS, Request
from smt_plugin.config import RunFile
from smt_plugin.control_tokens import defuse
from smt_plugin.corpus import Document, comparable, read_documents, split_document
from smt_plugin.errors import BadInput
from smt_plugin.faithfulness.check import Source, turns_of
from smt_plugin.files import as_row, read_jsonl
from smt_plugin.generation.asker import messages_about
from smt_plugin.generation.completions import Completion, completion_key, look_at_some, look_up
from smt_plugin.generation.generate import part_tokens_of, prompts_of
from smt_plugin.prompts import Prompts
from smt_plugin.records import Record, check_made, generated_folders, record_files
from smt_plugin.terminal import shown

_SHORT = 1000  # characters of a document that are shown in any case


def show_records(
    run_file: RunFile, method: str, count: int, seed: int | None = None, full: bool = False
) -> Iterator[str]:
    """Yield `count` random records of a method as text: provenance, the prompt's user message, the record.

    Before the first records are written, random completions of the method's prompts take their place, rejected ones
    among them. `smt generate` may be running.

    Args:
        full: show the document in the prompt, too; else its length stands in its place, unless it is short.

    Raises:
        BadInput: the method has neither records nor completions, or its corpus has changed since.
    """
    check_made(run_file.run, method, run_file.methods, f"give one of them: {', '.join(run_file.methods)}")
    prompts = prompts_of(run_file)
    folders = generated_folders(run_file.run, all_shards=False)
    if not any((folder / "records" / f"{method}.jsonl").is_file() for folder in folders):
        seed = random.randrange(1 << 30) if seed is None else seed
        found = [pair for each in folders for pair in ((each, c) for c in look_at_some(each, method, count, seed))]
        if not found:
            raise BadInput(f"no completion of {method} is in {run_file.run} yet; run `smt generate RUN.YAML` first.")
        yield f"{method} has no records yet; of what is paid for so far:\n"
        chosen = random.Random(seed).sample(found, min(count, len(found)))
        documents = _documents(run_file, [completion.doc_id for _, completion in chosen])
        for folder, completion in chosen:
            parts = _parts(documents, completion.doc_id, part_tokens_of(run_file, folder))
            yield shown_completion(completion, parts, prompts, full)
        return
    files = record_files(run_file.run, method)
    anew = "run `smt generate` anew"
    total = sum(1 for file in files for _ in read_jsonl(file, anew))
    if not total:
        raise BadInput(f"{method} has no records in {run_file.run}; `smt generate` says why.")
    chosen_places = set(random.Random(seed).sample(range(total), min(count, total)))
    rows = enumerate((file, number, row) for file in files for number, row in read_jsonl(file, anew))
    records = [
        (file, as_row(row, Record, f"{file}, line {number}", anew))
        for place, (file, number, row) in rows
        if place in chosen_places
    ]
    documents = _documents(run_file, [record.doc_id for _, record in records])
    for file, record in records:
        folder = file.parents[1]
        parts = _parts(documents, record.doc_id, part_tokens_of(run_file, folder))
        made_from = [*look_up(folder, record.completions[:1]).values()]
        if not made_from or record.part >= len(parts):
            raise BadInput(f"record {record.id} of {file} has lost its document or completion; {anew}.")
        part = f", part {record.part + 1}" if len(parts) > 1 else ""
        yield shown(
            f"=== {method}, document {record.doc_id}{part}, round {record.round}, {record.tokens} tokens, "
            f"{record.model}, {record.sampling}\n"
            f"{_shown_prompt(made_from[0], parts[record.part :][:1], prompts, full)}\n"
            f"--- record {record.id}\n{shown_record(record)}\n"
            f"{findings_text(record, parts[record.part])}"
        )


def shown_completion(completion: Completion, parts: list[Document], prompts: Prompts, full: bool = False) -> str:
    """Return a completion as text: where it belongs, what became of it, its prompt, its reply.

    Args:
        parts: those of its document; empty if that is not there any more.
    """
    status = f"{completion.status}, {completion.reason}" if completion.reason else completion.status
    return shown(
        f"=== document {completion.doc_id}, {completion.reply.completion_tokens} tokens, {completion.model}, "
        f"{completion.sampling}\n"
        f"{_shown_prompt(completion, parts, prompts, full)}\n"
        f"--- reply ({status})\n{completion.reply.text}\n"
    )


def shown_record(record: Record) -> str:
    """Return the text of a record, or its messages with their roles."""
    return record.text or "\n\n".join(f"{turn.get('role')}: {turn.get('content')}" for turn in record.messages or [])


def findings_text(record: Record, part: Document) -> str:
    """What a record says that its document, as it is now, does not: a line, empty without findings."""
    found = Source(part).check(turns_of(record.text, record.messages)).findings
    said = ", ".join(f"{finding.kind} {finding.said!r}" for finding in found)
    return f"--- not in its document: {said}\n" if said else ""


def _documents(run_file: RunFile, ids: list[str]) -> dict[str, Document]:
    wanted = set(map(comparable, ids))
    found = ((comparable(document.id), document) for document in read_documents(run_file.corpus))
    return {name: document for name, document in found if name in wanted}


def _parts(documents: dict[str, Document], doc_id: str, part_tokens: int) -> list[Document]:
    document = documents.get(comparable(doc_id))
    return split_document(document, part_tokens) if document else []


def _shown_prompt(completion: Completion, parts: list[Document], prompts: Prompts, full: bool) -> str:
    """The user's message of a completion's prompt, about the part for which it is the same as was sent, if one is."""
    prompt, note = "(its document is not in the corpus any more)", ""
    sample = completion.sample * MAX_ATTEMPTS + completion.attempt
    for part in parts:
        messages = messages_about(part, prompts, completion.prompt, completion.variables)
        # More than one, where the reply to the first was asked for again.
        asked = messages[1:] if len(messages) > 2 else messages[-1:]
        prompt, text = "\n--- ".join(message["content"] for message in asked), defuse(part.text.strip())
        if not full and len(text) > _SHORT:
            prompt = prompt.replace(text, f"[the document, {len(text):,} characters; --full shows it]")
        requests = (Request(sent, completion.sampling, sample, None, "") for sent in (messages, messages[1:]))
        is_same = any(completion_key(request, completion.model) == completion.key for request in requests)
        note = "" if is_same else " (it or its document has changed since)"
        if is_same:
            break
    return f"--- prompt {completion.prompt}{note}\n{prompt}"
