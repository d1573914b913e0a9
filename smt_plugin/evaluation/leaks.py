"""Leaks: evaluation questions that the synthetic records nearly ask or quote, by shared words and by embedding."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np

from smt_plugin.config import RetrievalSettings
from smt_plugin.control_tokens import defuse
from smt_plugin.corpus import Document
from smt_plugin.errors import BadInput
from smt_plugin.files import read_json, read_jsonl, write_json, write_jsonl
from smt_plugin.mixing.lines import Line, identity_of, parsed_line, record_lines, source_files
from smt_plugin.question import Question
from smt_plugin.records import generated_folders
from smt_plugin.retrieval.index import embedding_model
from smt_plugin.words import words_of

# Our choices. A question has some 12 words: 3 in a row survive a reworded copy, 8 in a row only a quotation.
QUESTION_RUN = 3
TEXT_RUN = 8
SHARE = 0.7
# Cosine. 1 of 1,026 pairs of different QuALITY questions about one story reaches it.
ALIKE = 0.85
_BATCH = 256


class Overlaps:
    """How much of each evaluation question stands in the texts seen so far: the largest share in any one text.

    A question's share in a text is the part of its runs of `run` words that the text holds. A shorter question is one
    run; with `whole_runs` it is left out instead.
    """

    def __init__(self, questions: Iterable[Question], run: int, whole_runs: bool = False) -> None:
        self.best: dict[str, float] = {}
        self._sizes: dict[str, int] = {}
        self._holders: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for question in questions:
            words = words_of(question.question)
            runs = _runs(words, run if whole_runs else min(run, len(words)))
            if words and runs:
                self.best[question.question_id] = 0.0
                self._sizes[question.question_id] = len(runs)
                for key in runs:
                    self._holders[key].append(question.question_id)
        self._lengths = sorted({len(key) for key in self._holders})

    def see(self, text: str) -> tuple[str, float] | None:
        """Take a text into account, and return the question it holds most of, with the share; None without any."""
        words = words_of(text)
        runs = (key for length in self._lengths for key in _runs(words, length))
        shared = Counter(question_id for key in runs for question_id in self._holders.get(key, ()))
        shares = {question_id: count / self._sizes[question_id] for question_id, count in shared.items()}
        for question_id, share in shares.items():
            self.best[question_id] = max(self.best[question_id], share)
        return max(shares.items(), key=lambda pair: pair[1], default=None)


class Likeness:
    """How near the synthetic questions seen so far come to each evaluation question about the same document, by the
    cosine of MiniLM's embeddings: the largest of all.

    An evaluation question is taken as it stands and behind its document's name, which synthetic ones carry.
    """

    def __init__(self, questions: Iterable[Question], documents: Iterable[Document]) -> None:
        self._model = embedding_model(RetrievalSettings())
        self.best: dict[str, float] = {}
        identities = {document.id: document.identity for document in documents}
        texts: dict[str, list[str]] = defaultdict(list)
        self._ids: dict[str, list[str]] = defaultdict(list)
        for question in questions:
            self.best[question.question_id] = 0.0
            for doc_id in question.evidence:
                texts[doc_id] += [question.question, f"{identities[doc_id]}: {question.question}"]
                self._ids[doc_id] += [question.question_id] * 2
        self._vectors = {
            doc_id: np.asarray(self._model.get_text_embedding_batch(lines)) for doc_id, lines in texts.items()
        }

    def see(self, asked: Sequence[tuple[str, str]]) -> list[tuple[str, float] | None]:
        """Take (document id, question) pairs into account, and return the evaluation question nearest to each."""
        texts = list(dict.fromkeys(text for doc_id, text in asked if doc_id in self._vectors))
        vectors = dict(zip(texts, self._model.get_text_embedding_batch(texts), strict=True)) if texts else {}
        nearest: list[tuple[str, float] | None] = []
        for doc_id, text in asked:
            if doc_id not in self._vectors:
                nearest.append(None)
                continue
            ids, cosines = self._ids[doc_id], self._vectors[doc_id] @ np.asarray(vectors[text])
            for question_id, cosine in zip(ids, cosines.tolist(), strict=True):
                self.best[question_id] = max(self.best[question_id], cosine)
            place = int(cosines.argmax())
            nearest.append((ids[place], float(cosines[place])))
        return nearest


def _runs(words: list[str], length: int) -> set[tuple[str, ...]]:
    return {tuple(words[start : start + length]) for start in range(len(words) - length + 1)}


def find_leaks(
    run: Path, documents: Sequence[Document], questions: list[Question], sources: Mapping[str, Path] | None = None
) -> dict[str, Any]:
    """Compare all records of a run with the evaluation questions, and write `<run>/leaks.json` and `leaks.jsonl`.

    The records are read once, a batch at a time. `leaks.jsonl` names each record that leaks, with the
    reason and both texts.

    Args:
        sources: the mix's records from elsewhere, `mix.sources`, which are looked at, too.

    Returns:
        What was written: `asked` (question id -> share of its runs of 3 words in the synthetic question nearest to
        it), `quoted` (runs of 8 words in the nearest record's text), both from 0.7 on, and `alike` (cosine to the
        nearest synthetic question about the same document, from 0.85 on); `leaked` (the ids of any), `questions` (how
        many were looked at), `question_hashes` (question id -> hash of its text), `leaking_records`, `records` (file
        read -> size and time).

    Raises:
        BadInput: the run has no records, a source is not there, or a line is not as a mix reads it.
    """
    files = _record_files(run, sources)
    if not files:
        raise BadInput(f"{run / 'records'} holds no records; run `smt generate RUN.YAML` first.")
    asked, quoted = Overlaps(questions, QUESTION_RUN), Overlaps(questions, TEXT_RUN, whole_runs=True)
    alike = Likeness(questions, documents)
    texts = {question.question_id: question.question for question in questions}

    def leaking() -> Iterator[dict[str, Any]]:
        rows = ((place, cast(Line, parsed_line(line, place))) for place, line in record_lines(files))
        while batch := list(islice(rows, _BATCH)):
            nearest = iter(alike.see([(str(row.doc_id), text) for _, row in batch for text in _questions_in(row)]))
            for place, row in batch:
                own = _questions_in(row)
                found = [("nearly asks", text, asked.see(text), SHARE) for text in own]
                found += [("asks much the same as", text, next(nearest), ALIKE) for text in own]
                whole = _text_of(row)
                found.append(("quotes", whole, quoted.see(whole), SHARE))
                for how, text, hit, least in found:
                    if hit is not None and hit[1] >= least:
                        yield {
                            "id": identity_of(row, place),
                            "question_id": hit[0],
                            "reason": f"{how} evaluation question {hit[0]} ({hit[1]:.2f})",
                            "question": texts[hit[0]],
                            "by": text,
                        }
                        break

    leaking_records = write_jsonl(run / "leaks.jsonl", leaking())
    found = {
        name: {key: round(value, 3) for key, value in best.items() if value >= least}
        for name, best, least in (
            ("asked", asked.best, SHARE),
            ("quoted", quoted.best, SHARE),
            ("alike", alike.best, ALIKE),
        )
    }
    leaks = {
        "questions": len(questions),
        "leaked": sorted(set().union(*found.values())),
        **found,
        "leaking_records": leaking_records,
        "question_hashes": _hashes(questions),
        "records": _states(run, files),
    }
    write_json(run / "leaks.json", leaks)
    return leaks


def _questions_in(row: Line) -> list[str]:
    """A focal rewrite names the question it was made for, a question-answer pair asks it."""
    texts = (row.question, *(turn.content for turn in row.messages or [] if turn.role == "user"))
    return [text for text in texts if isinstance(text, str) and text]


def _text_of(row: Line) -> str:
    return row.text or "\n".join(turn.content for turn in row.messages or [])


def leaking_records(
    run: Path, documents: Sequence[Document], questions: list[Question], sources: Mapping[str, Path] | None = None
) -> dict[str, str]:
    """Ids of the records that leak -> the reason, for the mix to leave out.

    They are looked for anew if the records or the questions have changed.

    Raises:
        BadInput: as `find_leaks`.
    """
    leaks = read_leaks(run, sources)
    if leaks is None or leaks["question_hashes"] != _hashes(questions) or not (run / "leaks.jsonl").is_file():
        find_leaks(run, documents, questions, sources)
    return {row["id"]: row["reason"] for _, row in read_jsonl(run / "leaks.jsonl")}


def dropped_from_mix(run: Path) -> int:
    """How many records `smt mix --drop-leaks` left out; 0 where it was not told to."""
    path = run / "mix" / "dropped.jsonl"
    return sum("evaluation question" in row["reason"] for _, row in read_jsonl(path)) if path.is_file() else 0


def _hashes(questions: list[Question]) -> dict[str, str]:
    return {question.question_id: question_hash(question.question) for question in questions}


def question_hash(text: str) -> str:
    """By which an evaluation question is known again, also as lm-eval asks it: with chat-control tokens broken up."""
    return hashlib.sha256(defuse(text).encode()).hexdigest()[:16]


def read_leaks(run: Path, sources: Mapping[str, Path] | None = None) -> dict[str, Any] | None:
    """What `find_leaks` wrote, or None if it never ran or the records or the sources have changed since."""
    path = run / "leaks.json"
    if not path.is_file():
        return None
    leaks = read_json(path, "smt leaks", "records", "leaked")
    if "question_hashes" not in leaks:  # of an older version
        return None
    try:
        files = _record_files(run, sources)
    except BadInput:  # a source is gone
        return None
    return leaks if leaks["records"] == _states(run, files) else None


def _record_files(run: Path, sources: Mapping[str, Path] | None) -> list[Path]:
    own = [file for folder in generated_folders(run) for file in sorted((folder / "records").glob("*.jsonl"))]
    return list(dict.fromkeys([*own, *(file for path in (sources or {}).values() for file in source_files(path))]))


def _states(run: Path, files: list[Path]) -> dict[str, list[int]]:
    names = {file: str(file.relative_to(run) if file.is_relative_to(run) else file) for file in files}
    return {name: [file.stat().st_size, file.stat().st_mtime_ns] for file, name in names.items()}
