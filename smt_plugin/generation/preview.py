"""One round of each method on a few documents, to be looked at before a run is paid for."""

import time
from collections.abc import Callable, Collection
from itertools import groupby, islice

from smt_plugin.backends.base import Backend
from smt_plugin.config import RunFile
from smt_plugin.corpus import read_documents, split_document
from smt_plugin.generation.asker import asking
from smt_plugin.generation.contradictions import Repeated, fitting
from smt_plugin.generation.generate import in_shard, longest_reply, methods_of, prompts_of, rehearse, run_round
from smt_plugin.generation.show import findings_text, shown_completion, shown_record
from smt_plugin.generation.summary import MethodCount, Summary
from smt_plugin.records import shard_folder

DOCUMENTS = 2


async def preview_run(
    run_file: RunFile,
    backend: Backend,
    *,
    only: Collection[str] = (),
    shard: tuple[int, int] | None = None,
    retry_refused: bool = False,
    say: Callable[[str], None],
) -> Summary:
    """Ask for the first round of each method on the first documents, and say prompts, replies and records.

    What is paid for is kept: `generate_run` finds it. No records are written.

    Args:
        only, shard, retry_refused: as for `generate_run`.
        say: called with each piece of text.

    Returns:
        What was asked; `methods` count the records that were shown.

    Raises:
        BadInput, BackendDown: as for `generate_run`.
    """
    methods, prompts = methods_of(run_file, only), prompts_of(run_file)
    own = (document for document in read_documents(run_file.corpus) if in_shard(document, shard))
    documents = list(islice(own, DOCUMENTS))
    # Reading on checks every document before anything is spent.
    summary = Summary({name: MethodCount(0) for name in methods}, len(documents) + sum(1 for _ in own))
    for document in documents[:1]:
        await rehearse([method for method, _ in methods.values()], prompts, document)
    folder, started = shard_folder(run_file.run, shard), time.monotonic()
    async with asking(backend, folder, prompts, summary, retry_refused, tells_repeats=True) as asker:
        await backend.start()
        part_tokens = fitting(run_file.max_document_tokens, backend.context, longest_reply(methods))
        parts = {document.id: split_document(document, part_tokens) for document in documents}
        for name, (method, _) in methods.items():
            for document in documents:
                say(f"\n##### {name}, document {document.id}\n")
                try:
                    played = await run_round(parts[document.id][0], method, 0, asker, summary.methods[name])
                    records = played.records if played is not None else []
                except Repeated as error:
                    say(f"{error}\n")
                    continue
                for key, group in groupby(records, key=lambda record: record.completions[0]):
                    if completion := asker.store.get(key):
                        say(shown_completion(completion, parts[document.id][:1], prompts))
                    for record in group:
                        found = findings_text(record, parts[document.id][0])
                        say(f"--- record of {record.tokens} tokens\n{shown_record(record)}\n{found}")
                        summary.methods[name].records += 1
                        summary.methods[name].tokens += record.tokens
                if not records:
                    say("no record: what came could not be used\n")
        summary.seconds = time.monotonic() - started
    return summary
