"""Have a model judge a sample of a run's records, claim by claim, and what is known to be wrong or right, too."""

import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from smt_plugin.backends.base import together
from smt_plugin.config import RunFile
from smt_plugin.corpus import Document, SteadyCorpus, comparable, document_hash, split_document
from smt_plugin.errors import BadInput
from smt_plugin.evaluation.audit_sample import SEED, Drawn, Sampled, quotas
from smt_plugin.evaluation.judge import judge_backend
from smt_plugin.faithfulness.claims import ANSWER, sentences_of
from smt_plugin.faithfulness.injected import KINDS, with_error
from smt_plugin.faithfulness.verdicts import (
    Verdict,
    asks,
    check_unread,
    judge_claims,
    judge_of,
    missing,
    start_judge,
    unread_text,
)
from smt_plugin.generation.asker import asking, messages_about
from smt_plugin.generation.generate import keep_busy
from smt_plugin.generation.summary import Summary
from smt_plugin.languages import language_of
from smt_plugin.prompts import Prompts
from smt_plugin.words import words_of

INJECTED, COPIED = "records with an error put in", "sentences of the documents"

# Our choices. What tells of the judge itself: records with one error put in, and texts of so many of a document's own
# sentences.
_INJECTED = 200
_COPIES, _COPIES_A_PART, _SENTENCES = 50, 8, 8
_LEAST_WORDS, _MOST_CHARACTERS = 5, 400


@dataclass(slots=True)
class Judged:
    """A text that is judged: a record, a copy of one with an error put in, or sentences of a document.

    Attributes:
        record: None of sentences of the document.
        changed: the number of the claim in which an error was put, from 1, and its kind; of a record itself and of
            sentences of the document None.
        verdicts: by the claims' numbers, from 1; what the judge left out is missing.
    """

    doc_id: str
    part: int
    claims: tuple[str, ...]
    record: Sampled | None = None
    changed: tuple[int, str] | None = None
    verdicts: dict[int, Verdict] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The method of a record; INJECTED or COPIED of what tells of the judge."""
        return COPIED if self.record is None else INJECTED if self.changed else self.record.method

    @property
    def missing(self) -> list[int]:
        """The numbers of the claims without a verdict."""
        return missing(self.claims, self.verdicts)


async def judge_records(
    run_file: RunFile,
    drawn: dict[str, Drawn],
    on_progress: Callable[[int, int, Summary], None] = lambda done, total, summary: None,
) -> tuple[list[Judged], Summary]:
    """Have every claim of the drawn records judged, of copies with errors put in, and of sentences of the documents.

    Replies go into a store of their own, `<run>/audit/completions.sqlite`, so that a call that was stopped goes on
    where it was, and nothing is paid for twice.

    Args:
        on_progress: called after each text, with those done, all, and what was asked so far.

    Returns:
        What was judged, and what was asked.

    Raises:
        BadInput: no judge, it cannot be reached or refuses; a document is not what its records were made from.
        BackendDown: it does not answer any more; what came before is kept.
        RuntimeError: over a fifth of the texts of a kind, and five at least, lack verdicts; what came is kept.
    """
    settings, prompts = judge_of(run_file), Prompts(run_file.prompts)
    corpus = SteadyCorpus(run_file.corpus)
    # The first pass checks every document before anything is spent.
    total = 0
    for part, texts in texts_to_judge(corpus, drawn):
        for call in asks(texts[0].claims, part, settings) if not total else ():
            messages_about(part, prompts, call.prompt, call.variables)
        total += len(texts)
    started = time.monotonic()
    summary = Summary({}, total)
    judged: list[Judged] = []
    unread: list[Judged] = []
    backend = judge_backend(settings, settings.options)
    async with asking(backend, run_file.run / "audit", prompts, summary) as asker:
        await start_judge(backend)
        work: dict[tuple[str, int], list[Judged]] = {}

        def parts() -> Iterator[Document]:
            for part, texts in texts_to_judge(corpus, drawn):
                work[part.id, part.part] = texts
                yield part

        async def run_part(part: Document) -> None:
            await together(judge_one(text, part) for text in work.pop((part.id, part.part)))

        async def judge_one(text: Judged, part: Document) -> None:
            text.verdicts = await judge_claims(text.claims, part, settings, asker.ask)
            judged.append(text)
            unread.extend([text] if text.missing else [])
            summary.reckon(settings.price, time.monotonic() - started)
            on_progress(len(judged), total, summary)
            check_unread(len(unread), len(judged), settings.model, summary.failures)

        await keep_busy(parts(), run_part, asker, backend, summary)
    all_of, unread_of = (Counter(text.kind for text in texts) for texts in (judged, unread))
    for kind, count in all_of.items():
        check_unread(unread_of[kind], count, settings.model, summary.failures, is_all=True)
    if not any(text.verdicts for text in judged):
        raise RuntimeError(unread_text(len(unread), len(judged), settings.model, summary.failures))
    return judged, summary


def texts_to_judge(corpus: Iterable[Document], drawn: dict[str, Drawn]) -> Iterator[tuple[Document, list[Judged]]]:
    """Yield the documents, or parts of long ones, of which records were drawn, each with what is to be judged.

    Beside the records these are copies of some of them with an error put in, and sentences of the documents.

    Raises:
        BadInput: a document is not in the corpus, or not the one that its records were made from.
    """
    wanted: dict[str, dict[tuple[int, int], list[Sampled]]] = defaultdict(lambda: defaultdict(list))
    for each in drawn.values():
        for record in each.sample:
            wanted[comparable(record.doc_id)][record.part_tokens, record.part].append(record)
    names = {f"{name}\0{place}": _COPIES_A_PART for name, places in wanted.items() for place in places}
    copies = quotas(names, _COPIES)
    injected = quotas({record.id: 1 for each in drawn.values() for record in each.sample}, _INJECTED)
    for document in corpus:
        name = comparable(document.id)
        for place, records in sorted(wanted.pop(name, {}).items()):
            part_tokens, number = place
            part = next(iter(split_document(document, part_tokens)[number:]), None)
            for record in records:
                if part is None or record.document_hash not in (None, document_hash(part)):
                    raise _changed(record, "has changed since")
            assert part is not None
            texts = [Judged(document.id, number, record.claims, record) for record in records]
            changed = (with_one_error(text, part) for text in texts if text.record and text.record.id in injected)
            yield part, [*texts, *filter(None, changed), *copied(part, copies.get(f"{name}\0{place}", 0))]
    for places in wanted.values():
        raise _changed(next(iter(places.values()))[0], "is not in the corpus any more")


def _changed(record: Sampled, how: str) -> BadInput:
    return BadInput(
        f"the document {record.doc_id!r}, from which the {record.method} record {record.id} was made, {how}; run `smt "
        "generate RUN.YAML`, which makes the records anew."
    )


def with_one_error(text: Judged, part: Document) -> Judged | None:
    """Return a copy of a record with an error of one of KINDS in one claim; None where none can be put into any."""
    stable = random.Random(f"{SEED}\0{text.record and text.record.id}")
    language = language_of("\n".join(text.claims)) or language_of(part.text)
    known = f"{part.identity}\n{part.title}\n{part.text}"
    for kind in stable.sample(KINDS, len(KINDS)):
        for place in stable.sample(range(len(text.claims)), len(text.claims)):
            # Of a question with its answer, the answer is changed.
            asked, mark, said = text.claims[place].rpartition(ANSWER)
            new = with_error(said, kind, known, language, stable) if _states(said) else None
            if new is not None:
                claims = (*text.claims[:place], asked + mark + new, *text.claims[place + 1 :])
                return Judged(text.doc_id, text.part, claims, text.record, (place + 1, kind))
    return None


def copied(part: Document, count: int) -> list[Judged]:
    """Make up to `count` texts of a document's own sentences, in its order, no sentence twice."""
    whole = [sentence for sentence in dict.fromkeys(sentences_of(part.text)) if _states(sentence)]
    places = random.Random(f"{SEED}\0{part.id}\0{part.part}").sample(range(len(whole)), len(whole))
    chosen = [sorted(places[start : start + _SENTENCES]) for start in range(0, len(places), _SENTENCES)][:count]
    return [Judged(part.id, part.part, tuple(whole[place] for place in each)) for each in chosen]


def _states(sentence: str) -> bool:
    """Whether a sentence looks as if it stated something: by its length, and by its end."""
    is_long = len(words_of(sentence)) >= _LEAST_WORDS and len(sentence) <= _MOST_CHARACTERS
    return is_long and not sentence.endswith(("?", ":", "|", "？"))
