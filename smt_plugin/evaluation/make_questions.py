"""Make an evaluation set of one's own documents with a backend, check it, and freeze it before generation starts."""

import hashlib
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any

import orjson
from msgspec.structs import asdict

from smt_plugin.backends.base import Backend, Reply, together
from smt_plugin.config import RunFile
from smt_plugin.corpus import Document, read_documents, split_document
from smt_plugin.errors import BadInput
from smt_plugin.evaluation.question_answers import (
    ANSWER,
    KNOWN,
    RECALL,
    SAMPLES,
    VERDICT,
    Answers,
    AskFor,
    answers_to,
    disagreement,
)
from smt_plugin.evaluation.question_answers import SAMPLING as ANSWER_SAMPLING
from smt_plugin.evaluation.question_faults import (
    LONGEST,
    WRONG_OPTIONS,
    Asked,
    Draft,
    Fault,
    asked_elsewhere,
    fault_of,
    is_longest,
    read_draft,
    too_often_longest,
)
from smt_plugin.evaluation.questions_page import write_page
from smt_plugin.files import write_json, write_jsonl
from smt_plugin.generation.asker import asking
from smt_plugin.generation.contradictions import fitting
from smt_plugin.generation.generate import keep_busy
from smt_plugin.generation.summary import Summary
from smt_plugin.methods.base import Answer, Ask, Unparsable, json_list, json_object, json_text, parse_items
from smt_plugin.prompts import Prompts
from smt_plugin.question import (
    Question,
    documents_hash,
    dropped_questions,
    frozen_manifest,
    questions_file,
    questions_page,
)

# Our choices.
SAMPLING = {"temperature": 0.7, "top_p": 0.95, "max_tokens": 4096}
PER_CALL = 8
# Calls for a document that bring too few new questions before it is left with fewer.
SPARE_CALLS = 3

NOT_NEEDED = "not needed: there are enough about this document"

# Values of typical lengths for the prompts' variables: they are rendered once before anything is asked.
EXAMPLE = {"question": "x" * 100, "gold": "x" * 40, "answer": "x" * 40}
EXAMPLE_OPTIONS = ["x" * 60] * 4


@dataclass(frozen=True, slots=True)
class Checked:
    """A question with what its checks found: a fault where it is dropped, and the backend's answers, if it was asked.

    `draft` is None where the model's JSON was no question; then `written` is that JSON.
    """

    doc_id: str
    written: Any
    draft: Draft | None = None
    fault: Fault | None = None
    with_document: Answers | None = None
    without: Answers | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the line of questions.dropped.jsonl."""
        assert self.fault is not None
        answers = {"with_document": self.with_document, "without_document": self.without}
        stated = {name: found.stated for name, found in answers.items() if found}
        return {
            "doc_id": self.doc_id,
            "reason": self.fault.reason,
            "detail": self.fault.detail,
            "written": self.written,
            **stated,
        }


@dataclass(slots=True)
class _Set:
    """The questions about one document: those kept, those dropped, and those that wait to be answered."""

    kept: list[Checked] = field(default_factory=list)
    dropped: list[Checked] = field(default_factory=list)
    waiting: list[Draft] = field(default_factory=list)
    asked: Asked = field(default_factory=Asked)
    calls: int = 0
    # No further call would bring more.
    is_done: bool = False


async def make_questions(
    run_file: RunFile,
    backend: Backend,
    per_document: int,
    free_form: bool = False,
    unknown_only: bool = False,
    on_progress: Callable[[int, Summary], None] = lambda done, summary: None,
) -> dict[str, Any]:
    """Ask a backend for questions about each document, check them, and write questions.jsonl and what goes with it.

    A question is kept if its own words show no fault, and if most of the backend's answers with the document are the
    right one. It is answered without the document, too, which says what was known before. What is dropped is written
    beside, with its reason, and more is asked for.

    Completions go into the run folder's store, so that a call that was stopped goes on where it was. The questions
    appear when all are there, and are never written again. Longer documents than `max_document_tokens` are asked about
    part by part.

    Args:
        per_document: questions wanted about each.
        free_form: questions that are answered in a few words, which need a judge; else four options each.
        unknown_only: drop the questions to which every answer without the document is right.
        on_progress: called after each reply, with the number of documents done and what was asked so far.

    Returns:
        The manifest: counts, model, prompts, sampling, the documents' and the file's hash, the time (Unix seconds),
        `short`, the ids of documents with fewer questions than wanted, `dropped` (reason -> how many), `known` (what
        was answered rightly without the document, see `_known`) and `longest` (how often the right option is longer
        than all others).

    Raises:
        BadInput: questions or records are there already, or no question came of any document; else as `generate_run`.
    """
    corpus = run_file.corpus
    check_place(run_file)
    prompts = Prompts(run_file.prompts, language=run_file.language)
    order = [document.id for document in read_documents(corpus)]
    document = next(read_documents(corpus))
    variables = {**EXAMPLE, "options": [] if free_form else EXAMPLE_OPTIONS, "num_questions": per_document}
    for name in _prompts_used(free_form):
        prompts.messages(name, identity=document.identity, document=document.text.strip(), **variables)
    sets = {doc_id: _Set() for doc_id in order}
    filled: set[str] = set()
    summary = Summary({}, len(order))
    async with asking(backend, run_file.run, prompts, summary) as asker:
        await backend.start()
        part_tokens = fitting(run_file.max_document_tokens, backend.context, int(SAMPLING["max_tokens"]))

        async def ask(call: Ask) -> Answer | None:
            answer = await asker.ask(call)
            on_progress(len(filled), summary)
            return answer

        async def run_document(document: Document) -> None:
            parts = split_document(document, part_tokens)
            await _fill(sets[document.id], parts, per_document, free_form, unknown_only, ask)
            filled.add(document.id)
            on_progress(len(filled), summary)

        while unfilled := {name for name, each in sets.items() if len(each.kept) < per_document and not each.is_done}:
            documents = (document for document in read_documents(corpus) if document.id in unfilled)
            await keep_busy(documents, run_document, asker, backend, summary)
            _drop_over_corpus([sets[doc_id] for doc_id in order])
    return _write(run_file, backend.model, free_form, unknown_only, per_document, prompts, sets, list(summary.failures))


def _write(
    run_file: RunFile,
    model: str,
    free_form: bool,
    unknown_only: bool,
    per_document: int,
    prompts: Prompts,
    sets: dict[str, _Set],
    failures: list[str],
) -> dict[str, Any]:
    """Write what was kept and dropped, and return the manifest.

    Args:
        sets: by the documents' ids, in the corpus's order.
        failures: reasons for which replies could not be used.
    """
    corpus, path = run_file.corpus, questions_file(run_file.corpus)
    for each in sets.values():
        each.dropped += [Checked(draft.doc_id, draft.written, draft, Fault(NOT_NEEDED)) for draft in each.waiting]
    kept = [each for found in sets.values() for each in found.kept]
    dropped = [each for found in sets.values() for each in found.dropped]
    write_jsonl(dropped_questions(path), (each.to_json() for each in dropped))
    reasons = Counter(each.fault.reason for each in dropped if each.fault)
    if not kept:
        why = "; ".join([*(f"{count} x {reason}" for reason, count in reasons.most_common()), *failures])
        raise BadInput(
            f"the model {model} wrote no usable question about {corpus} ({why[:300] or 'no reply had one'}); "
            f"{dropped_questions(path)} has what was dropped."
        )
    questions = list(_questions(kept))
    rows = [asdict(question) for question in questions]
    longest = sum(is_longest(each.draft) for each in kept if each.draft) / len(kept)
    prompt = _prompt(free_form)
    used = _prompts_used(free_form)
    manifest = {
        "sha256": hashlib.sha256(b"".join(orjson.dumps(row) + b"\n" for row in rows)).hexdigest(),
        "questions": len(rows),
        "documents": len(sets),
        "short": [doc_id for doc_id, found in sets.items() if len(found.kept) < per_document],
        "dropped": dict(reasons.most_common()),
        "known": _known(kept, dropped),
        "longest": None if free_form else {"share": longest, "chance": 1 / (WRONG_OPTIONS + 1)},
        "unknown_only": unknown_only,
        "model": model,
        "prompt": prompt,
        "prompt_hash": prompts.hash(prompt),
        "prompt_hashes": {name: prompts.hash(name) for name in used},
        "sampling": SAMPLING,
        "answer_sampling": {**ANSWER_SAMPLING, "samples": SAMPLES},
        "documents_sha256": documents_hash(read_documents(corpus)),
        "created": int(time.time()),
    }
    titles = {document.id: document.title for document in read_documents(corpus)}
    write_page(questions_page(path), questions, [each.to_json() for each in dropped], manifest, titles)
    # The manifest first: a call killed between the two would leave questions that nothing freezes.
    write_json(frozen_manifest(path), manifest)
    write_jsonl(path, rows)
    return manifest


def check_place(run_file: RunFile) -> None:
    """Find out that no questions are there yet, and no records."""
    run, path = run_file.run, questions_file(run_file.corpus)
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


def _prompt(free_form: bool) -> str:
    return "questions/free_form" if free_form else "questions/multiple_choice"


def _prompts_used(free_form: bool) -> list[str]:
    return [_prompt(free_form), ANSWER, RECALL, *([VERDICT] if free_form else [])]


def question_calls(parts: list[Document], wanted: int, free_form: bool) -> Iterator[Ask]:
    """Yield the calls for questions about one document: as many as it takes if all are good, then the spare ones."""
    a_call = min(PER_CALL, -(-wanted // len(parts)))
    calls = -(-wanted // a_call)
    # Fewer calls than parts are spread over the whole document; spare ones go to the parts that had none.
    spread = min(calls, len(parts))
    first = [number * len(parts) // spread for number in range(spread)]
    order = [*first, *(number for number in range(len(parts)) if number not in first)]
    for number in range(calls + SPARE_CALLS):
        yield Ask(
            parts[order[number % len(parts)]],
            _prompt(free_form),
            {"num_questions": a_call},
            SAMPLING,
            sample=number // len(parts),
            parse=partial(parse_questions, free_form=free_form),
            schema=questions_schema(a_call, free_form),
        )


async def _fill(
    found: _Set, parts: list[Document], wanted: int, free_form: bool, unknown_only: bool, ask: AskFor
) -> None:
    """Call for questions and have them answered, until `wanted` are kept or no call is left."""
    calls = list(question_calls(parts, wanted, free_form))
    while len(found.kept) < wanted:
        if found.waiting:
            # No more are answered than are missing.
            missing = wanted - len(found.kept)
            batch, found.waiting = found.waiting[:missing], found.waiting[missing:]
            for each in await together(_answered(draft, parts[draft.part], unknown_only, ask) for draft in batch):
                (found.dropped if each.fault else found.kept).append(each)
            continue
        if found.calls == len(calls):
            found.is_done = True
            return
        call = calls[found.calls]
        found.calls += 1
        answer = await ask(call)
        doc_id, part = call.document.id, call.document.part
        for row in answer.value if answer else ():
            draft = read_draft(row, doc_id, part, free_form)
            if isinstance(draft, Fault):
                found.dropped.append(Checked(doc_id, row, None, draft))
            elif fault := fault_of(draft) or found.asked.again(draft):
                found.dropped.append(Checked(doc_id, row, draft, fault))
            else:
                found.waiting.append(draft)


async def _answered(draft: Draft, document: Document, unknown_only: bool, ask: AskFor) -> Checked:
    with_document = await answers_to(draft, document, ask, ANSWER)
    if fault := disagreement(with_document):
        return Checked(draft.doc_id, draft.written, draft, fault, with_document)
    without = await answers_to(draft, document, ask, RECALL)
    known = Fault(KNOWN) if unknown_only and without.right == len(without.stated) else None
    return Checked(draft.doc_id, draft.written, draft, known, with_document, without)


def _drop_over_corpus(sets: list[_Set]) -> None:
    """Drop what only the whole set shows: the same question about two documents, and right options that are too often
    the longest.
    """

    def drop(faults: Iterable[tuple[int, Fault]]) -> None:
        for place, fault in faults:
            found, each = kept[place]
            # By identity, since two questions may be equal.
            found.kept = [other for other in found.kept if other is not each]
            found.dropped.append(
                Checked(each.doc_id, each.written, each.draft, fault, each.with_document, each.without)
            )

    def all_kept() -> list[tuple[_Set, Checked]]:
        return [(found, each) for found in sets for each in found.kept]

    kept = all_kept()
    drop(asked_elsewhere(each.draft for _, each in kept if each.draft))
    kept = all_kept()
    drop((place, Fault(LONGEST)) for place in too_often_longest([each.draft for _, each in kept if each.draft]))


def _questions(kept: list[Checked]) -> Iterator[Question]:
    """Yield the questions, numbered by document; of every four, each has its right option in another place."""
    numbers: Counter[str] = Counter()
    places: list[int] = []
    for each in kept:
        draft = each.draft
        assert draft is not None
        assert each.without is not None
        numbers[draft.doc_id] += 1
        question_id = f"{draft.doc_id}#{numbers[draft.doc_id]}"
        meta = {"known": each.without.right / len(each.without.stated)}
        if not draft.wrong:
            yield Question(question_id, draft.doc_id, draft.question, None, draft.right, meta)
            continue
        stable = random.Random(f"{question_id}\0{draft.question}")
        places = places or stable.sample(range(len(draft.options)), len(draft.options))
        place = places.pop()
        wrong = stable.sample(draft.wrong, len(draft.wrong))
        yield Question(
            question_id, draft.doc_id, draft.question, [*wrong[:place], draft.right, *wrong[place:]], place, meta
        )


def _known(kept: list[Checked], dropped: list[Checked]) -> dict[str, Any]:
    """How much is answered rightly without the document, of the questions that pass the other checks.

    `rate` is the mean over questions of the share of right samples, from `low` to `high` with 95 % confidence (None
    where the package's `eval` extra is missing, which has the statistics), over `questions` in `documents`, `samples`
    each; `always` is how many questions have right answers only.
    """
    asked = [each for each in (*kept, *dropped) if each.without and (not each.fault or each.fault.reason == KNOWN)]
    shares = [each.without.right / len(each.without.stated) for each in asked if each.without]
    doc_ids = [each.doc_id for each in asked]
    known: dict[str, Any] = {
        "rate": sum(shares) / len(shares),
        "low": None,
        "high": None,
        "questions": len(shares),
        "documents": len(set(doc_ids)),
        "samples": SAMPLES,
        "always": shares.count(1.0),
    }
    if find_spec("scipy") and find_spec("numpy"):
        from smt_plugin.evaluation.intervals import estimate

        found = estimate(shares, doc_ids)
        known |= {"low": found.low, "high": found.high, "refusal": found.refusal}
    return known


def questions_schema(num_questions: int, free_form: bool) -> dict[str, Any]:
    """JSON schema of a reply with 1 to `num_questions` questions."""
    text = json_text(600)
    answers = {"answer": text}
    if not free_form:
        answers = {"right": text, "wrong": json_list(text, WRONG_OPTIONS, WRONG_OPTIONS)}
    return json_object(questions=json_list(json_object(question=text, **answers), 1, num_questions))


def parse_questions(reply: Reply, free_form: bool) -> list[Any]:
    """Return the items of a JSON reply, if one at least is a question in the form that was asked for."""
    rows = parse_items(reply, "questions", "question")
    if all(isinstance(read_draft(row, "", 0, free_form), Fault) for row in rows):
        raise Unparsable("no question with its answer" if free_form else "no question with four options")
    return rows
