"""QuALITY's official files -> documents and questions."""

from pathlib import Path
from typing import Any

import msgspec

from smt_plugin.benchmarks.official import Data, Official
from smt_plugin.corpus import Document
from smt_plugin.errors import BadInput
from smt_plugin.files import Text, read_rows
from smt_plugin.question import Options, Question, unique

_BLOBS: dict[str, str | None] = {
    "QuALITY.v1.0.1.htmlstripped.train": "cb16a11b32099774dd0a66f0bfbc67a3926b95c3",
    "QuALITY.v1.0.1.htmlstripped.dev": "3b719593e8eaa993b1b6cc100deece53019230c4",
}
OFFICIAL = Official(
    files=_BLOBS,
    documents=265,
    questions=4609,
    source="https://github.com/nyu-mll/quality, data/v1.0.1 (Pang et al. 2022)",
    licence="CC BY 4.0; each story names its own licence",
    address="https://raw.githubusercontent.com/nyu-mll/quality/f84977c40dbfef70c9cab48037b7becfc8e45f73/data/v1.0.1/",
    downloads=_BLOBS,
)


class _Question(msgspec.Struct):
    question_unique_id: Text
    question: Text
    options: Options
    gold_label: int | None = None  # the number of the right option, from 1
    difficult: Any = None


class _Row(msgspec.Struct):
    """A line: one writer's questions on an article, so an article has two lines."""

    article_id: Text
    title: Text
    article: Text
    questions: list[_Question]
    author: Any = None
    year: Any = None
    topic: Any = None
    license: Any = None
    url: Any = None
    source: Any = None


def read(folder: Path) -> Data:
    """Read QuALITY v1.0.1, train and dev.

    Raises:
        BadInput: a file is missing or not what it should be; names file, line and field.
    """
    documents: dict[tuple[str, str], Document] = {}
    questions: list[tuple[Question, str]] = []
    for name in OFFICIAL.files:
        split = name.rpartition(".")[2]
        for row, where in read_rows(folder / name, _Row):
            key = (row.title.strip(), str(row.author or "").strip())
            document = documents.setdefault(key, _document(row))
            questions += [(_question(asked, document.id, split, where), where) for asked in row.questions]
    ids = {document.id for document in documents.values()}
    if len(ids) < len(documents):
        raise BadInput(f"{folder}: two articles with different titles share an article_id; fetch the files anew.")
    return list(documents.values()), unique(questions)


def _document(row: _Row) -> Document:
    meta = {name: value for name in ("author", "year", "topic", "license") if (value := getattr(row, name))}
    return Document(row.article_id, row.title.strip(), row.article, str(row.url or row.source or ""), meta)


def _question(asked: _Question, doc_id: str, split: str, where: str) -> Question:
    label = asked.gold_label or 0
    if not 1 <= label <= len(asked.options):
        raise BadInput(
            f"{where}: question {asked.question_unique_id} has gold_label {asked.gold_label}, but it must be 1 to "
            f"{len(asked.options)} (the test file has no labels: use train and dev)."
        )
    meta = {"hard": asked.difficult == 1, "split": split}
    return Question(asked.question_unique_id, doc_id, asked.question, asked.options, label - 1, meta)
