"""Evaluation questions: what one is, and the files that hold them."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct
from msgspec.structs import asdict, replace

from smt_plugin.corpus import Document, clash, comparable
from smt_plugin.errors import BadInput
from smt_plugin.files import Text, as_row, content_hash, read_jsonl, write_jsonl

Options = Annotated[list[Text], Meta(min_length=2, max_length=26)]


class Question(Struct, frozen=True):
    """One evaluation question about a document.

    `answer` is the 0-based index of the right option, or the answer itself where `options` is None.
    `meta["evidence"]` may list all places that the answer needs: ids of documents, or objects with `page`
    (from 0) and, if it is another document than `doc_id`, that `doc_id`; else it is `doc_id` alone.
    """

    question_id: Text
    doc_id: Text
    question: Text
    options: Options | None
    answer: int | Text
    meta: dict[str, Any] = {}

    @property
    def gold(self) -> str:
        """The text of the right answer."""
        return str(self.answer) if self.options is None else self.options[int(self.answer)]

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


def dropped_questions(questions: Path) -> Path:
    """The file of what `smt questions` dropped, with the reasons."""
    return questions.with_name("questions.dropped.jsonl")


def questions_page(questions: Path) -> Path:
    """The page on which `smt questions` shows a sample of what it kept and dropped."""
    return questions.with_name("questions.html")


def documents_hash(documents: Iterable[Document]) -> str:
    """The hash by which `smt questions` remembers the documents that it asked about."""
    return content_hash([document.id, document.identity, document.text] for document in documents)


def write_data(folder: Path, documents: Iterable[Document], questions: Iterable[Question]) -> None:
    """Write `documents.jsonl` and `questions.jsonl`, which `corpus:` of a run file and every task read."""
    write_jsonl(folder / "documents.jsonl", (document.to_json() for document in documents))
    write_jsonl(folder / "questions.jsonl", (asdict(question) for question in questions))


def read_questions(path: Path, documents: Iterable[Document]) -> list[Question]:
    """Read `questions.jsonl`: question_id, doc_id, question, options (list or null), answer, meta.

    Accents may be coded in another way in the ids of documents there; the questions returned name each document by
    its own id.

    Raises:
        BadInput: a field missing or of the wrong kind, an answer out of range, an id given twice, a
            document that `documents` lacks, or no questions at all; names file, line and field.
    """
    known = {comparable(document.id): document.id for document in documents}
    rows = ((row, f"{path}, line {number}") for number, row in read_jsonl(path))
    questions = unique((_question(row, known, where), where) for row, where in rows)
    if not questions:
        raise BadInput(f"{path} holds no questions; give one JSON object a line.")
    return questions


class _Page(Struct):
    page: Annotated[int, Meta(ge=0, lt=10**9)]
    doc_id: str = ""


class _Places(Struct):
    """What `meta` may hold of the places that an answer needs."""

    evidence: list[str | _Page] | None = None


def _question(row: dict[str, Any], known: dict[str, str], where: str) -> Question:
    """Read a question; `known` is the documents' ids, by their comparable form."""
    question = as_row({"options": None} | row | {"meta": row.get("meta") or {}}, Question, where)
    as_row(question.meta, _Places, f"{where}: in meta")
    options, answer = question.options, question.answer
    if options is None:
        if not isinstance(answer, str):
            raise BadInput(f"{where}: a question without options needs a string as 'answer', not {answer!r}.")
    elif isinstance(answer, str) or not 0 <= answer < len(options):
        raise BadInput(
            f"{where}: 'answer' is {answer!r}, but must be the number of the right option, "
            f"from 0 to {len(options) - 1}."
        )
    elif [option.strip() for option in options].count(right := options[answer].strip()) > 1:
        raise BadInput(f"{where}: the right option {right[:80]!r} is given twice; options must differ.")
    for doc_id in (question.doc_id, *question.evidence):
        if comparable(doc_id) not in known:
            raise BadInput(f"{where}: question {question.question_id!r} is about the unknown document {doc_id!r}.")
    return _with_own_ids(question, known)


def _with_own_ids(question: Question, known: dict[str, str]) -> Question:
    meta = dict(question.meta)
    if meta.get("evidence"):
        meta["evidence"] = [
            known[comparable(place)]
            if isinstance(place, str)
            else place | ({"doc_id": known[comparable(place["doc_id"])]} if "doc_id" in place else {})
            for place in meta["evidence"]
        ]
    return replace(question, doc_id=known[comparable(question.doc_id)], meta=meta)


def spread(questions: Iterable[Question]) -> list[Question]:
    """Order questions so that the first N, however many, are spread over the documents as evenly as can be.

    The first of every document comes first, then the second of each, and so on. Which come first is drawn by a hash of
    the ids, so that the same questions do so in every run, whatever the order of the files.
    """

    def draw(question_id: str) -> str:
        return content_hash(["order of questions", question_id])

    ordered = []
    asked: Counter[str] = Counter()
    for question in sorted(questions, key=lambda question: draw(question.question_id)):
        ordered.append((asked[question.doc_id], draw(question.doc_id), question))
        asked[question.doc_id] += 1
    return [question for _, _, question in sorted(ordered, key=lambda entry: entry[:2])]


def unique(questions: Iterable[tuple[Question, str]]) -> list[Question]:
    """Return the questions without their places, which an id given twice is reported with."""
    seen: dict[str, str] = {}
    found = []
    for question, where in questions:
        if problem := clash(f"{where}: the question", question.question_id, seen):
            raise BadInput(problem)
        found.append(question)
    return found
