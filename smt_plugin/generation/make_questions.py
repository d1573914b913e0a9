"""Make an evaluation set of one's own documents with a backend, and freeze it before generation starts."""

import hashlib
import time
import unicodedata
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import orjson
from msgspec.structs import asdict

from smt_plugin.backends.base import Backend, Reply
from smt_plugin.config import RunFile
from smt_plugin.corpus import Document, read_documents, split_document
from smt_plugin.errors import BadInput
from smt_plugin.files import write_json, write_jsonl
from smt_plugin.generation.completions import CompletionStore
from smt_plugin.generation.generate import Asker, Summary, keep_busy
from smt_plugin.methods.base import Answer, Ask, Unparsable, json_list, json_object, json_text, parse_items, stable_draw
from smt_plugin.prompts import Prompts
from smt_plugin.question import Question, documents_hash, frozen_manifest, questions_file

# Our choices.
SAMPLING = {"temperature": 0.7, "top_p": 0.95, "max_tokens": 4096}
PER_CALL = 8
WRONG_OPTIONS = 3
# Calls for a document that bring too few new questions before it is left with fewer.
_SPARE_CALLS = 3


async def make_questions(
    run_file: RunFile,
    backend: Backend,
    per_document: int,
    free_form: bool = False,
    on_document: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Ask a backend for questions about each document, and write questions.jsonl and its manifest beside them.

    Completions go into the run folder's store, so that a call that was stopped goes on where it was. The questions
    appear when all are there, and are never written again. Longer documents than `max_document_tokens` are asked about
    part by part.

    Args:
        per_document: questions wanted about each.
        free_form: questions that are answered in a few words, which need a judge; else four options each.
        on_document: called with the number of documents done.

    Returns:
        The manifest: counts, model, prompt, sampling, the documents' and the file's hash, the time (Unix seconds),
        and `short`, the ids of documents with fewer questions than wanted.

    Raises:
        BadInput: questions or records are there already, or no question came of any document; else as `generate_run`.
    """
    run, corpus, path = run_file.run, run_file.corpus, questions_file(run_file.corpus)
    prompts = Prompts(run_file.prompts, language=run_file.language)
    if path.exists():
        raise BadInput(
            f"{path} is there already, and an evaluation set stays as it is; for another one, set `corpus` to "
            "a copy of the documents in another folder."
        )
    if any(run.glob("records/*.jsonl")) or any(run.glob("shards/*/records/*.jsonl")):
        raise BadInput(
            f"{run} holds records already, but questions are to be fixed before any training text is made; "
            "make them with a run folder of their own."
        )
    order = [document.id for document in read_documents(corpus)]
    found: dict[str, list[Question]] = {}
    store = CompletionStore(run)
    summary = Summary({}, len(order))
    try:
        await backend.start()
        asker = Asker(backend, store, prompts, summary, retry_refused=False)

        async def run_document(document: Document) -> None:
            parts = split_document(document, run_file.max_document_tokens)
            found[document.id] = await _questions_about(parts, per_document, free_form, asker.ask)
            on_document(len(found))

        try:
            await keep_busy(read_documents(corpus), run_document, asker, backend, summary)
        finally:
            await asker.close()
    finally:
        await backend.close()
        await store.close()
    count = sum(len(questions) for questions in found.values())
    if not count:
        reasons = "; ".join(summary.failures) or "no reply had one"
        raise BadInput(f"the model {backend.model} wrote no usable question about {corpus} ({reasons[:300]}).")
    rows = [asdict(question) for doc_id in order for question in found[doc_id]]
    manifest = {
        "sha256": hashlib.sha256(b"".join(orjson.dumps(row) + b"\n" for row in rows)).hexdigest(),
        "questions": count,
        "documents": len(order),
        "short": [doc_id for doc_id in order if len(found[doc_id]) < per_document],
        "model": backend.model,
        "prompt": _prompt(free_form),
        "prompt_hash": prompts.hash(_prompt(free_form)),
        "sampling": SAMPLING,
        "documents_sha256": documents_hash(read_documents(corpus)),
        "created": int(time.time()),
    }
    # The manifest first: a call killed between the two would leave questions that nothing freezes.
    write_json(frozen_manifest(path), manifest)
    write_jsonl(path, rows)
    return manifest


def _prompt(free_form: bool) -> str:
    return "questions/free_form" if free_form else "questions/multiple_choice"


async def _questions_about(
    parts: list[Document], wanted: int, free_form: bool, ask: Callable[[Ask], Awaitable[Answer | None]]
) -> list[Question]:
    """Call for one part after another until `wanted` different questions are there, or further calls bring too few."""
    rows: dict[str, dict[str, Any]] = {}
    a_call = min(PER_CALL, -(-wanted // len(parts)))
    calls = -(-wanted // a_call)
    # Fewer calls than parts are spread over the whole document; spare ones go to the parts that had none.
    spread = min(calls, len(parts))
    first = [number * len(parts) // spread for number in range(spread)]
    order = [*first, *(number for number in range(len(parts)) if number not in first)]
    for number in range(calls + _SPARE_CALLS):
        answer = await ask(
            Ask(
                parts[order[number % len(parts)]],
                _prompt(free_form),
                {"num_questions": a_call},
                SAMPLING,
                sample=number // len(parts),
                parse=partial(parse_questions, free_form=free_form),
                schema=questions_schema(a_call, free_form),
            )
        )
        for row in answer.value if answer else ():
            rows.setdefault(_plain(row["question"]), row)
        if len(rows) >= wanted:
            break
    return [_question(parts[0], number, row) for number, row in enumerate(list(rows.values())[:wanted], start=1)]


def _question(document: Document, number: int, row: dict[str, Any]) -> Question:
    question_id = f"{document.id}#{number}"
    if "answer" in row:
        return Question(question_id, document.id, row["question"], None, row["answer"])
    place = stable_draw(WRONG_OPTIONS + 1, question_id, row["question"])
    options = [*row["wrong"][:place], row["right"], *row["wrong"][place:]]
    return Question(question_id, document.id, row["question"], options, place)


def questions_schema(num_questions: int, free_form: bool) -> dict[str, Any]:
    """JSON schema of a reply with 1 to `num_questions` questions."""
    text = json_text(600)
    answers = {"answer": text}
    if not free_form:
        answers = {"right": text, "wrong": json_list(text, WRONG_OPTIONS, WRONG_OPTIONS)}
    return json_object(questions=json_list(json_object(question=text, **answers), 1, num_questions))


def parse_questions(reply: Reply, free_form: bool) -> list[dict[str, Any]]:
    """Return the usable questions of a JSON reply: {question, answer}, or {question, right, wrong} with four
    different options.
    """
    rows = (_usable(row, free_form) for row in parse_items(reply, "questions", "question"))
    usable = [row for row in rows if row is not None]
    if not usable:
        raise Unparsable("no question with its answer" if free_form else "no question with four different options")
    return usable


def _usable(row: Any, free_form: bool) -> dict[str, Any] | None:
    if not isinstance(row, dict):
        return None
    wrong = [] if free_form else row.get("wrong")
    answer = row.get("answer" if free_form else "right")
    texts = [row.get("question"), answer, *(wrong if isinstance(wrong, list) else ())]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        return None
    question, right, *others = (text.strip() for text in texts)
    if free_form:
        return {"question": question, "answer": right}
    if len(others) != WRONG_OPTIONS or len({_plain(option) for option in (right, *others)}) != WRONG_OPTIONS + 1:
        return None
    return {"question": question, "right": right, "wrong": others}


def _plain(text: str) -> str:
    folded = unicodedata.normalize("NFC", text.casefold())
    # Words of Hindi or Thai differ in their vowel signs, which Unicode counts as marks.
    return " ".join(
        "".join(char if char.isalnum() or unicodedata.category(char)[0] == "M" else " " for char in folded).split()
    )
