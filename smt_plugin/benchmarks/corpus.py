"""Your own documents, and questions about them."""

import hashlib
import sys
from pathlib import Path

from smt_plugin.benchmarks.official import Data
from smt_plugin.corpus import read_documents
from smt_plugin.errors import BadInput
from smt_plugin.files import read_json
from smt_plugin.question import documents_hash, frozen_manifest, questions_file, read_questions

WANTED = "questions.jsonl beside your .txt or .md files"


def read(path: Path) -> Data:
    """Read what `corpus:` of a run file names, a folder or a file, with `questions.jsonl` in it or beside it.

    Raises:
        BadInput: as `read_documents` and `read_questions`, or frozen questions have changed.
    """
    questions = questions_file(path)
    if not questions.is_file():
        raise BadInput(
            f"{questions} does not exist; put {WANTED}, or documents.jsonl and questions.jsonl, there, or have it made "
            "by `smt questions RUN.YAML`, in a run that holds no records yet."
        )
    manifest = frozen_manifest(questions)
    frozen = read_json(manifest, "smt questions", "sha256") if manifest.is_file() else None
    if frozen and hashlib.sha256(questions.read_bytes()).hexdigest() != frozen["sha256"]:
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
