"""Show random records of a method with the prompts they came from."""

import asyncio
import random
from collections.abc import Iterator

from smt_plugin.backends.base import MAX_ATTEMPTS, Request
from smt_plugin.config import RunFile
from smt_plugin.control_tokens import defuse
from smt_plugin.corpus import comparable, read_documents, split_document
from smt_plugin.errors import BadInput
from smt_plugin.files import as_row, read_jsonl
from smt_plugin.generation.completions import CompletionStore, completion_key
from smt_plugin.generation.generate import part_tokens_of, prompts_of
from smt_plugin.records import Record, check_made, record_files

_SHORT = 1000  # characters of a document that are shown in any case
# A text must not steer the terminal.
_CONTROL = {code: "�" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def show_records(
    run_file: RunFile, method: str, count: int, seed: int | None = None, full: bool = False
) -> Iterator[str]:
    """Yield `count` random records of a method as text: provenance, the prompt's user message, the record.

    Args:
        full: show the document in the prompt, too; else its length stands in its place, unless it is short.

    Raises:
        BadInput: the method has no records, or its corpus has changed since.
    """
    check_made(run_file.run, method, run_file.methods, f"give one of them: {', '.join(run_file.methods)}")
    files = record_files(run_file.run, method)
    anew = "run `smt generate` anew"
    total = sum(1 for file in files for _ in read_jsonl(file, anew))
    if not total:
        raise BadInput(f"{method} has no records in {run_file.run}; `smt generate` says why.")
    chosen = set(random.Random(seed).sample(range(total), min(count, total)))
    places = enumerate((file, number, row) for file in files for number, row in read_jsonl(file, anew))
    records = [
        (file, as_row(row, Record, f"{file}, line {number}", anew))
        for place, (file, number, row) in places
        if place in chosen
    ]
    wanted = {comparable(record.doc_id) for _, record in records}
    documents = {
        (comparable(part.id), part.part): part
        for document in read_documents(run_file.corpus)
        if comparable(document.id) in wanted
        for part in split_document(document, part_tokens_of(run_file, files[0].parents[1]))
    }
    prompts = prompts_of(run_file)
    for file, record in records:
        store = CompletionStore(file.parents[1])
        completion = store.get(record.completions[0])
        asyncio.run(store.close())
        document = documents.get((comparable(record.doc_id), record.part))
        if completion is None or document is None:
            raise BadInput(f"record {record.id} of {file} has lost its document or completion; {anew}.")
        messages = prompts.messages(
            record.prompt, identity=document.identity, document=document.text.strip(), **completion.variables
        )
        sample = completion.sample * MAX_ATTEMPTS + completion.attempt
        request = Request(messages, completion.sampling, sample, None, "")
        same = completion_key(request, completion.model) == completion.key
        changed = "" if same else " (it or its document has changed since the record was made)"
        prompt, text = messages[-1]["content"], defuse(document.text.strip())
        if not full and len(text) > _SHORT:
            prompt = prompt.replace(text, f"[the document, {len(text):,} characters; --full shows it]")
        turns = record.messages or []
        body = record.text or "\n\n".join(f"{m.get('role')}: {m.get('content')}" for m in turns)
        part = f", part {record.part + 1}" if (comparable(record.doc_id), 1) in documents else ""
        yield (
            f"=== {method}, document {record.doc_id}{part}, round {record.round}, {record.tokens} tokens, "
            f"{record.model}, {record.sampling}\n"
            f"--- prompt {record.prompt}{changed}\n{prompt}\n"
            f"--- record {record.id}\n{body}\n"
        ).translate(_CONTROL)
