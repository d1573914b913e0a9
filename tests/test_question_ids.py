from pathlib import Path
from unicodedata import normalize

import orjson
import pytest

from smt_plugin.benchmarks.find import load
from smt_plugin.errors import BadInput

NAME = "Zürich.txt"


def write_question(folder: Path, **fields: object) -> None:
    row = {"question_id": "q", "doc_id": NAME, "question": "Which town?", "options": None, "answer": "Holm", **fields}
    with (folder / "questions.jsonl").open("ab") as file:
        file.write(orjson.dumps(row) + b"\n")


def test_questions_find_documents_whose_file_names_code_accents_in_another_way(tmp_path: Path) -> None:
    on_disk = normalize("NFD", NAME)
    (tmp_path / on_disk).write_text("Holm lies there.")
    place = {"doc_id": NAME, "page": 3}
    meta = {"evidence": [NAME, place, {"page": 4}], "level": "easy"}
    write_question(tmp_path, question_id=normalize("NFD", "ü"), doc_id=NAME, meta=meta)
    (document,), (question,) = load("corpus", tmp_path)
    assert question.doc_id == document.id == on_disk != NAME
    assert question.evidence == [on_disk]
    assert question.evidence_pages == [(on_disk, 3), (on_disk, 4)]
    assert question.meta["level"] == "easy"
    assert question.question_id == normalize("NFD", "ü")  # its own id stays as it is


def test_question_ids_that_only_look_the_same_are_refused(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("Holm lies there.")
    for form in ("NFC", "NFD"):
        write_question(tmp_path, question_id=normalize(form, "ü"))
    with pytest.raises(BadInput, match=r"line 2: the question ids '\\xfc' and 'u\\u0308' look the same \(ü\)"):
        load("corpus", tmp_path)
