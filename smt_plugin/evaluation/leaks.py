"""Leaks: evaluation questions whose wording, or whose options, stand in the synthetic records."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NotRequired, TypedDict, cast

import numpy as np
from msgspec import Meta, Struct

from smt_plugin.config import LeaksSection, RetrievalSettings
from smt_plugin.control_tokens import defuse
from smt_plugin.corpus import Document, comparable
from smt_plugin.errors import BadInput
from smt_plugin.evaluation.wording import Sentence, Wording, questions_in, sentences_of
from smt_plugin.files import (
    Text,
    content_hash,
    file_hash,
    locked,
    read_json_if_there,
    read_rows,
    write_json,
    write_jsonl,
)
from smt_plugin.mixing.lines import Line, identity_of, parsed_line, record_lines, rejects_of, source_files
from smt_plugin.question import Question
from smt_plugin.records import generated_folders
from smt_plugin.rejects import rejects_hash, rejects_path
from smt_plugin.retrieval.index import embedding_model
from smt_plugin.words import words_of

# Our choices. A question has some 12 words: 3 in a row survive a reworded copy, 8 in a row only a quotation.
QUESTION_RUN = 3
TEXT_RUN = 8
SHARE = 0.7
_BATCH = 256
_VERSION = 1  # raise it when the same records come to leak otherwise
_DOCUMENTS = 64  # whose questions are held ready at a time
HOW = {
    "asked": "nearly asks",
    "alike": "asks much the same as",
    "stated": "states, nearly in its words,",
    "options": "names the options of",
    "quoted": "quotes",
}


class Leaks(TypedDict):
    """`leaks.json`, see `find_leaks`; one of an older version may not say what was looked for, or was rejected."""

    questions: Annotated[int, Meta(ge=1)]
    leaked: list[str]
    asked: dict[str, float]
    alike: dict[str, float]
    stated: dict[str, float]
    options: dict[str, float]
    quoted: dict[str, float]
    leaking_records: int
    rejected: NotRequired[int]
    question_hashes: dict[str, str]
    looked_for: NotRequired[str]
    records: dict[str, Any]


class LeakRow(Struct):
    """A line of `leaks.jsonl`: a record that leaks, and why."""

    id: Text
    reason: str
    question: str
    by: str


class _Dropped(Struct):
    """Of a line of the mix's `dropped.jsonl`."""

    reason: str


class Overlaps:
    """How much of each evaluation question stands in a text word by word: the part of its runs of `run` words.

    A shorter question is one run; with `whole_runs` it is left out instead.
    """

    def __init__(self, questions: Iterable[Question], run: int, whole_runs: bool = False) -> None:
        self._sizes: dict[str, int] = {}
        self._holders: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for question in questions:
            words = words_of(question.question)
            runs = _runs(words, run if whole_runs else min(run, len(words)))
            if words and runs:
                self._sizes[question.question_id] = len(runs)
                for key in runs:
                    self._holders[key].append(question.question_id)
        self._lengths = sorted({len(key) for key in self._holders})

    def see(self, text: str) -> dict[str, float]:
        """The shares of those questions of which the text holds any run."""
        words = words_of(text)
        runs = (key for length in self._lengths for key in _runs(words, length))
        shared = Counter(question_id for key in runs for question_id in self._holders.get(key, ()))
        return {question_id: count / self._sizes[question_id] for question_id, count in shared.items()}


class Likeness:
    """How near synthetic questions come to the evaluation questions about the same document, by embeddings' cosine.

    An evaluation question is taken as it stands and behind its document's name, which synthetic ones carry.
    """

    def __init__(
        self, questions: Iterable[Question], documents: Mapping[str, Document], settings: LeaksSection
    ) -> None:
        self._model = embedding_model(
            RetrievalSettings(embedding=settings.embedding, embedding_endpoint=settings.embedding_endpoint)
        )
        texts: dict[str, list[str]] = defaultdict(list)
        self._ids: dict[str, list[str]] = defaultdict(list)
        for question in questions:
            for doc_id in question.evidence:
                texts[doc_id] += [question.question, f"{documents[doc_id].identity}: {question.question}"]
                self._ids[doc_id] += [question.question_id] * 2
        self._vectors = {
            doc_id: np.asarray(self._model.get_text_embedding_batch(lines)) for doc_id, lines in texts.items()
        }

    def see(self, asked: Sequence[tuple[str, str]]) -> list[dict[str, float]]:
        """The cosines of each (document id, question) with the evaluation questions about that document."""
        texts = list(dict.fromkeys(text for doc_id, text in asked if doc_id in self._vectors))
        vectors = dict(zip(texts, self._model.get_text_embedding_batch(texts), strict=True)) if texts else {}
        found: list[dict[str, float]] = []
        for doc_id, text in asked:
            cosines: dict[str, float] = defaultdict(float)
            if doc_id in self._vectors:
                each = (self._vectors[doc_id] @ np.asarray(vectors[text])).tolist()
                for question_id, cosine in zip(self._ids[doc_id], each, strict=True):
                    cosines[question_id] = max(cosines[question_id], cosine)
            found.append(cosines)
        return found


class Leak(NamedTuple):
    """How a record leaks a question, a key of `HOW`, and how much of it, 0 to 1."""

    how: str
    question_id: str
    share: float
    by: str


class Finder:
    """Finds the leaks in records, batch by batch."""

    def __init__(self, documents: Iterable[Document], questions: list[Question], settings: LeaksSection) -> None:
        self._settings = settings
        self._documents = {document.id: document for document in documents}
        self._own_ids = {comparable(doc_id): doc_id for doc_id in self._documents}
        self._about: dict[str, list[Question]] = defaultdict(list)
        for question in questions:
            for doc_id in question.evidence:
                self._about[doc_id].append(question)
        self._asked, self._quoted = Overlaps(questions, QUESTION_RUN), Overlaps(questions, TEXT_RUN, whole_runs=True)
        self._alike = Likeness(questions, self._documents, settings)
        self._wording = lru_cache(_DOCUMENTS)(lambda doc_id: Wording(self._documents[doc_id], self._about[doc_id]))

    def see(self, rows: Sequence[Line]) -> list[list[Leak]]:
        """All leaks of each record.

        A record about one of the documents is compared with the questions about it alone: a question of the same
        pattern about another person is no leak. One from elsewhere is compared with all, by runs of words.
        """
        own = [_questions_in(row) for row in rows]
        cosines = iter(
            self._alike.see([(self._id_of(row), text) for row, texts in zip(rows, own, strict=True) for text in texts])
        )
        return [
            self._leaks(row, [(text, next(cosines)) for text in texts]) for row, texts in zip(rows, own, strict=True)
        ]

    def _id_of(self, row: Line) -> str:
        """The document's own id, though the record may code accents in another way."""
        return self._own_ids.get(comparable(str(row.doc_id)), str(row.doc_id))

    def _leaks(self, row: Line, own: list[tuple[str, dict[str, float]]]) -> list[Leak]:
        doc_id, whole = self._id_of(row), _text_of(row)
        is_known = doc_id in self._documents
        here = {question.question_id for question in self._about.get(doc_id, ())}
        found = [
            Leak("quoted", question_id, share, whole)
            for question_id, share in self._quoted.see(whole).items()
            if share >= SHARE and (question_id in here or not is_known)
        ]
        if not is_known:
            found += [
                Leak("asked", question_id, share, text)
                for text, _ in own
                for question_id, share in self._asked.see(text).items()
                if share >= SHARE
            ]
        elif here:
            seen = self._wording(doc_id).see(_sentences_in(row))
            by = {"asked": own[0][0] if len(own) == 1 else whole, "stated": whole, "options": whole}
            found += [
                Leak(how, question_id, share, by[how])
                for how in by
                for question_id, share in getattr(seen, how).items()
            ]
            found += [
                Leak("alike", question_id, cosine, text)
                for text, cosines in own
                for question_id, cosine in cosines.items()
                if cosine >= (self._settings.alike_told if question_id in seen.told else self._settings.alike)
            ]
        return found


def _runs(words: list[str], length: int) -> set[tuple[str, ...]]:
    return {tuple(words[start : start + length]) for start in range(len(words) - length + 1)}


def find_leaks(
    run: Path,
    documents: Sequence[Document],
    questions: list[Question],
    sources: Mapping[str, Path] | None = None,
    settings: LeaksSection | None = None,
) -> dict[str, Any]:
    """Compare the records of a run with the evaluation questions, and write `<run>/leaks.json` and `leaks.jsonl`.

    Those that a mix leaves out, since a person or the gate rejected them, are not looked at. The records are read
    once, a batch at a time. `leaks.jsonl` names each record that leaks, with the reason and both texts.

    Args:
        sources: the mix's records from elsewhere, `mix.sources`, which are looked at, too.

    Returns:
        What was written: for each way of leaking, a key of `HOW`, the largest share of each question that leaks so;
        `leaked` (the ids of any), `questions` (how many were looked at), `question_hashes` (question id -> hash of its
        wording), `leaking_records`, `rejected` (records that were not looked at), `looked_for` (a hash of all that the
        records were compared with), `records` (file read -> its SHA-256; of the rejects a hash of their ids).

    Raises:
        BadInput: the run has no records, a source is not there, a line is not as a mix reads it, one of
            `rejects.jsonl` is broken, or another process looks for leaks here.
    """
    files = _record_files(run, sources)
    if not files:
        raise BadInput(f"{run / 'records'} holds no records; run `smt generate RUN.YAML` first.")
    settings = settings or LeaksSection()
    finder = Finder(documents, questions, settings)
    texts = {question.question_id: question.question for question in questions}
    found: dict[str, dict[str, float]] = {how: {} for how in HOW}
    rejects, num_rejected = _rejects(run, files, sources), 0

    def rows_to_see() -> Iterator[tuple[str, Line]]:
        nonlocal num_rejected
        for place, line in record_lines(files):
            row = cast(Line, parsed_line(line, place))
            if identity_of(row, place) in rejects:
                num_rejected += 1
            else:
                yield place, row

    def leaking() -> Iterator[dict[str, Any]]:
        rows = rows_to_see()
        while batch := list(islice(rows, _BATCH)):
            for (place, row), leaks in zip(batch, finder.see([row for _, row in batch]), strict=True):
                for leak in leaks:
                    best = found[leak.how]
                    best[leak.question_id] = max(round(leak.share, 3), best.get(leak.question_id, 0.0))
                if leaks:
                    first = min(leaks, key=lambda leak: (list(HOW).index(leak.how), -leak.share))
                    yield {
                        "id": identity_of(row, place),
                        "question_id": first.question_id,
                        "reason": f"{HOW[first.how]} evaluation question {first.question_id} ({first.share:.2f})",
                        "question": texts[first.question_id],
                        "by": first.by,
                    }
        # What belongs together is valid only with leaks.json, which comes last.
        (run / "leaks.json").unlink(missing_ok=True)

    with locked(run / "leaks.lock"):
        records = _hashes_of(run, files, rejects)
        leaking_records = write_jsonl(run / "leaks.jsonl", leaking())
        leaks = {
            "questions": len(questions),
            "leaked": sorted(set().union(*found.values())),
            **found,
            "leaking_records": leaking_records,
            "rejected": num_rejected,
            "question_hashes": _hashes(questions),
            "looked_for": _looked_for(documents, questions, settings),
            "records": records,
        }
        write_json(run / "leaks.json", leaks)
    return leaks


def _questions_in(row: Line) -> list[str]:
    """A focal rewrite names the question it was made for, a pair asks it, and a text may ask some in passing."""
    texts = [row.question, *(turn.content for turn in row.messages or [] if turn.role == "user")]
    texts += questions_in(row.text or "\n".join(turn.content for turn in row.messages or [] if turn.role != "user"))
    return [text for text in texts if isinstance(text, str) and text]


def _sentences_in(row: Line) -> list[Sentence]:
    asked = sentences_of(row.question, "user") if isinstance(row.question, str) else []
    turns = [sentence for turn in row.messages or [] for sentence in sentences_of(turn.content, turn.role)]
    return asked + (sentences_of(row.text) if row.text else turns)


def _text_of(row: Line) -> str:
    return row.text or "\n".join(turn.content for turn in row.messages or [])


def leaking_records(
    run: Path,
    documents: Sequence[Document],
    questions: list[Question],
    sources: Mapping[str, Path] | None = None,
    settings: LeaksSection | None = None,
) -> dict[str, str]:
    """Ids of the records that leak -> the reason, for the mix to leave out.

    They are looked for anew if the records, the questions, the documents or the settings have changed.

    Raises:
        BadInput: as `find_leaks`.
    """
    leaks = read_leaks(run, sources)
    looked_for = _looked_for(documents, questions, settings or LeaksSection())
    if leaks is None or leaks["looked_for"] != looked_for or not (run / "leaks.jsonl").is_file():
        find_leaks(run, documents, questions, sources, settings)
    return {row.id: row.reason for row in leak_rows(run)}


def leak_rows(run: Path) -> Iterator[LeakRow]:
    """What `find_leaks` wrote into `leaks.jsonl`; raises BadInput where that is broken."""
    rows = read_rows(run / "leaks.jsonl", LeakRow, f"remove {run / 'leaks.json'} and run `smt leaks` again")
    return (row for row, _ in rows)


def dropped_from_mix(run: Path) -> int:
    """How many records `smt mix --drop-leaks` left out; 0 where it was not told to."""
    path = run / "mix" / "dropped.jsonl"
    rows = read_rows(path, _Dropped, "remove it and run `smt mix` again") if os.path.lexists(path) else ()
    return sum("evaluation question" in row.reason for row, _ in rows)


def _hashes(questions: list[Question]) -> dict[str, str]:
    return {question.question_id: question_hash(question.question) for question in questions}


def _looked_for(documents: Iterable[Document], questions: Iterable[Question], settings: LeaksSection) -> str:
    return content_hash(
        [
            [_VERSION, settings.model_dump()],
            *([question.question_id, question.question, question.options, question.answer] for question in questions),
            *([document.id, document.identity, document.text] for document in documents),
        ]
    )


def question_hash(text: str) -> str:
    """By which an evaluation question is known again, also as lm-eval asks it: with chat-control tokens broken up."""
    return hashlib.sha256(defuse(text).encode()).hexdigest()[:16]


def read_leaks(run: Path, sources: Mapping[str, Path] | None = None) -> Leaks | None:
    """What `find_leaks` wrote, or None if it never ran or the records, the rejects or the sources have changed since.

    Raises:
        BadInput: it is broken.
    """
    leaks = read_json_if_there(run / "leaks.json", Leaks, "smt leaks")
    if leaks is None or "looked_for" not in leaks:  # of an older version
        return None
    try:
        files = _record_files(run, sources)
    except BadInput:  # a source is gone
        return None
    return leaks if leaks["records"] == _hashes_of(run, files, _rejects(run, files, sources)) else None


def _record_files(run: Path, sources: Mapping[str, Path] | None) -> list[Path]:
    own = [file for folder in generated_folders(run) for file in sorted((folder / "records").glob("*.jsonl"))]
    return list(dict.fromkeys([*own, *(file for path in (sources or {}).values() for file in source_files(path))]))


def _rejects(run: Path, files: Iterable[Path], sources: Mapping[str, Path] | None) -> Collection[str]:
    """The ids of the records that a mix leaves out, be they the run's own or from elsewhere."""
    own = {path.stem: run / "records" / path.name for path in files if path.is_relative_to(run)}
    # Two calls, as a source may have the name of a method, whose place it takes in the mix.
    return rejects_of(run, own).keys() | rejects_of(run, sources or {}).keys()


def _hashes_of(run: Path, files: list[Path], rejects: Collection[str]) -> dict[str, str]:
    found = {str(file.relative_to(run) if file.is_relative_to(run) else file): file_hash(file) for file in files}
    return found | ({rejects_path(run).name: rejects_hash(rejects)} if rejects else {})
