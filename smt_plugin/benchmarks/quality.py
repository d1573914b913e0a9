"""QuALITY's official files -> documents and questions."""

from pathlib import Path
from typing import Any

from smt_plugin.benchmarks.official import Data, Official
from smt_plugin.corpus import Document
from smt_plugin.errors import BadInput
from smt_plugin.files import read_jsonl
from smt_plugin.question import Question, is_index, options_of, unique

QUALITY_FILES = ("QuALITY.v1.0.1.htmlstripped.train", "QuALITY.v1.0.1.htmlstripped.dev")


def read_quality(folder: Path) -> Data:
    """QuALITY v1.0.1: a line is one writer's questions on an article, so an article has two lines."""
    documents: dict[tuple[str, str], Document] = {}
    questions: list[tuple[Question, str]] = []
    for file_name in QUALITY_FILES:
        for number, row in read_jsonl(folder / file_name):
            where = f"{folder / file_name}, line {number}"
            for name in ("article_id", "title", "article"):
                if not str(row.get(name) or "").strip():
                    raise BadInput(f"{where}: the field {name!r} is missing or empty.")
            if not isinstance(row.get("questions"), list):
                raise BadInput(f"{where}: the field 'questions' is missing or not a list.")
            key = (str(row["title"]).strip(), str(row.get("author") or "").strip())
            document = documents.setdefault(key, _quality_document(row))
            split = file_name.rpartition(".")[2]
            questions += [(_quality_question(q, document.id, split, where), where) for q in row["questions"]]
    ids = {document.id for document in documents.values()}
    if len(ids) < len(documents):
        raise BadInput(f"{folder}: two articles with different titles share an article_id; fetch the files anew.")
    return list(documents.values()), unique(questions)


def _quality_document(row: dict[str, Any]) -> Document:
    meta = {key: row[key] for key in ("author", "year", "topic", "license") if row.get(key)}
    return Document(
        id=str(row["article_id"]),
        title=str(row["title"]).strip(),
        text=str(row["article"]),
        source=str(row.get("url") or row.get("source") or ""),
        meta=meta,
    )


def _quality_question(row: Any, doc_id: str, split: str, where: str) -> Question:
    if not isinstance(row, dict):
        raise BadInput(f"{where}: every question must be a JSON object.")
    for key in ("question_unique_id", "question"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise BadInput(f"{where}: a question lacks the field {key!r}.")
    question_id = row["question_unique_id"]
    options = options_of(row.get("options"), f"{where}, question {question_id}")
    label: Any = row.get("gold_label")  # counts from 1
    if not is_index(label, len(options) + 1) or label == 0:
        raise BadInput(
            f"{where}: question {question_id} has gold_label {label!r}, but it must be 1 to {len(options)} "
            "(the test file has no labels: use train and dev)."
        )
    meta = {"hard": row.get("difficult") == 1, "split": split}
    return Question(question_id, doc_id, row["question"], options, label - 1, meta)


QUALITY_BLOBS: dict[str, str | None] = {
    QUALITY_FILES[0]: "cb16a11b32099774dd0a66f0bfbc67a3926b95c3",
    QUALITY_FILES[1]: "3b719593e8eaa993b1b6cc100deece53019230c4",
}


OFFICIAL = Official(
    files=QUALITY_BLOBS,
    read=read_quality,
    documents=265,
    questions=4609,
    source="https://github.com/nyu-mll/quality, data/v1.0.1 (Pang et al. 2022)",
    licence="CC BY 4.0; each story names its own licence",
    address="https://raw.githubusercontent.com/nyu-mll/quality/f84977c40dbfef70c9cab48037b7becfc8e45f73/data/v1.0.1/",
    downloads=QUALITY_BLOBS,
)
