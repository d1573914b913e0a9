"""Evaluation questions: what one is, and the files that hold them."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from smt_plugin.corpus import Document
from smt_plugin.errors import BadInput
from smt_plugin.files import content_hash, read_jsonl, write_jsonl


@dataclass(frozen=True, slots=True)
class Question:
    """One evaluation question about a document.

    `answer` is the 0-based index of the right option, or the answer itself where `options` is None.
    `meta["evidence"]` may list all places that the answer needs: ids of documents, or objects with `page`
    (from 0) and, if it is another document than `doc_id`, that `doc_id`; else it is `doc_id` alone.
    """

    question_id: str
    doc_id: str
    question: str
    options: list[str] | None
    answer: int | str
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def evidence(self) -> list[str]:
        """Ids of the documents that hold the answer, each once."""
        places = self.meta.get("evidence") or [self.doc_id]
        ids = [place if isinstance(place, str) else place.get("doc_id", self.doc_id) for place in places]
        return list(dict.fromkeys(ids))

    @property
    def evidence_pages(self) -> list[tuple[str, int]]:
        """Document id and page (from 0) of each page that holds the answer; empty where that is not known."""
        places = [place for place in self.meta.get("evidence") or [] if isinstance(place, dict)]
        return list(dict.fromkeys((place.get("doc_id", self.doc_id), place["page"]) for place in places))


def questions_file(corpus: Path) -> Path:
    """The questions about a corpus: in its folder, or beside its file."""
    return (corpus if corpus.is_dir() else corpus.parent) / "questions.jsonl"


def frozen_manifest(questions: Path) -> Path:
    """The file that `smt questions` writes beside its questions, and that says with which hash they are frozen."""
    return questions.with_name("questions.manifest.json")


def documents_hash(documents: Iterable[Document]) -> str:
    """The hash by which `smt questions` remembers the documents that it asked about."""
    return content_hash([document.id, document.identity, document.text] for document in documents)


def write_data(folder: Path, documents: Iterable[Document], questions: Iterable[Question]) -> None:
    """Write `documents.jsonl` and `questions.jsonl`, which `corpus:` of a run file and every task read."""
    write_jsonl(folder / "documents.jsonl", (document.to_json() for document in documents))
    write_jsonl(folder / "questions.jsonl", (asdict(question) for question in questions))


def read_questions(path: Path, documents: Iterable[Document]) -> list[Question]:
    """Read `questions.jsonl`: question_id, doc_id, question, options (list or null), answer, meta.

    Raises:
        BadInput: a field missing or of the wrong kind, an answer out of range, an id given twice, a
            document that `documents` lacks, or no questions at all; names file, line and field.
    """
    questions = checked_questions(((row, f"{path}, line {number}") for number, row in read_jsonl(path)), documents)
    if not questions:
        raise BadInput(f"{path} holds no questions; give one JSON object a line.")
    return questions


def checked_questions(rows: Iterable[tuple[dict[str, Any], str]], documents: Iterable[Document]) -> list[Question]:
    known = {document.id for document in documents}
    return unique((_question(row, known, where), where) for row, where in rows)


def _question(row: dict[str, Any], known: set[str], where: str) -> Question:
    for name in ("question_id", "doc_id", "question"):
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise BadInput(f"{where}: the field {name!r} is missing, empty or not a string.")
    options: list[str] | None = None
    answer: Any = row.get("answer")
    meta: Any = row.get("meta") or {}
    if not isinstance(meta, dict):
        raise BadInput(f"{where}: the field 'meta' must be an object.")
    if row.get("options") is None:
        if not isinstance(answer, str) or not answer.strip():
            raise BadInput(f"{where}: a question without options needs a string as 'answer', not {answer!r}.")
    else:
        options = options_of(row["options"], where)
        if not is_index(answer, len(options)):
            raise BadInput(
                f"{where}: 'answer' is {answer!r}, but must be the number of the right option, "
                f"from 0 to {len(options) - 1}."
            )
        right = options[answer].strip()
        if [option.strip() for option in options].count(right) > 1:
            raise BadInput(f"{where}: the right option {right[:80]!r} is given twice; options must differ.")
    _check_evidence(meta.get("evidence"), where)
    question = Question(row["question_id"], row["doc_id"], row["question"], options, answer, meta)
    for doc_id in (question.doc_id, *question.evidence):
        if doc_id not in known:
            raise BadInput(f"{where}: question {question.question_id!r} is about the unknown document {doc_id!r}.")
    return question


def _check_evidence(places: Any, where: str) -> None:
    if places is not None and not (
        isinstance(places, list)
        and all(
            isinstance(place, str)
            or (
                isinstance(place, dict)
                and is_index(place.get("page"), 10**9)
                and isinstance(place.get("doc_id", ""), str)
            )
            for place in places
        )
    ):
        raise BadInput(f"{where}: 'meta.evidence' must be a list of document ids, or of objects with 'page', from 0.")


def options_of(options: Any, where: str) -> list[str]:
    """Return the options if they are 2 to 26 texts; `where` names their place in the error."""
    if (
        not isinstance(options, list)
        or not 2 <= len(options) <= 26
        or not all(isinstance(option, str) and option.strip() for option in options)
    ):
        raise BadInput(f"{where}: 'options' must be null or a list of 2 to 26 texts.")
    return options


def is_index(value: Any, length: int) -> bool:
    """Whether a value is an integer from 0 to below `length`."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < length


def unique(questions: Iterable[tuple[Question, str]]) -> list[Question]:
    """Return the questions without their places, which an id given twice is reported with."""
    seen: dict[str, Question] = {}
    for question, where in questions:
        if question.question_id in seen:
            raise BadInput(f"{where}: the question id {question.question_id!r} is given twice; ids must differ.")
        seen[question.question_id] = question
    return list(seen.values())
