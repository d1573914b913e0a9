"""Your own documents, and questions about them."""

import hashlib
import os
import sys
from pathlib import Path
from typing import TypedDict

from smt_plugin.benchmarks.official import Data
from smt_plugin.corpus import read_documents
from smt_plugin.errors import BadInput
from smt_plugin.files import read_bytes, read_json_if_there
from smt_plugin.question import documents_hash, frozen_manifest, questions_file, read_questions

WANTED = "questions.jsonl beside your documents"


class _Frozen(TypedDict):
    """Of what `smt questions` writes beside its questions, by what these and their documents are known again."""

    sha256: str
    documents_sha256: str


def read(path: Path) -> Data:
    """Read what `corpus:` of a run file names, a folder or a file, with `questions.jsonl` in it or beside it.

    Raises:
        BadInput: as `read_documents` and `read_questions`, or frozen questions have changed.
    """
    questions = questions_file(path)
    if not os.path.lexists(questions):
        raise BadInput(
            f"{questions} does not exist; put {WANTED}, or documents.jsonl and questions.jsonl, there, or have it made "
            "by `smt questions RUN.YAML`, in a run that holds no records yet."
        )
    manifest = frozen_manifest(questions)
    frozen = read_json_if_there(manifest, _Frozen, "smt questions")
    if frozen and hashlib.sha256(read_bytes(questions)).hexdigest() != frozen["sha256"]:
        raise BadInput(
            f"{questions} has changed since `smt questions` froze it; put the old one back, or remove {manifest} "
            "to say that it is another evaluation set."
        )
    documents = list(read_documents(path))
    if frozen and frozen["documents_sha256"] != documents_hash(documents):
        print(
            f"smt: the documents in {path} are not those that {questions} was made of; what has changed may be asked "
            "about in vain",
            file=sys.stderr,
        )
    return documents, read_questions(questions, documents)
