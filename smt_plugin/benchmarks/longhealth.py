"""LongHealth's official file -> documents and questions."""

import re
from pathlib import Path
from typing import Any

import orjson

from smt_plugin.benchmarks.official import Data, Official
from smt_plugin.corpus import Document
from smt_plugin.errors import BadInput
from smt_plugin.question import Question, options_of, unique

LONGHEALTH_FILE = "benchmark_v5.json"


_LETTERS = "abcde"


def read_longhealth(folder: Path) -> Data:
    """LongHealth v5: one JSON object, patient id -> notes (`text_0` ...), name, birthday and questions."""
    path = folder / LONGHEALTH_FILE
    try:
        patients = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise BadInput(f"{path}: not valid JSON ({error}); the file may be cut off, fetch it anew.") from None
    if not isinstance(patients, dict):
        raise BadInput(f"{path}: expected one JSON object, patient id -> record.")
    documents, questions = [], []
    for patient_id, record in patients.items():
        if isinstance(record, str):  # the benchmark's canary text
            continue
        where = f"{path}, {patient_id}"
        if not isinstance(record, dict):
            raise BadInput(f"{where}: expected a JSON object with texts, name, birthday and questions.")
        documents.append(_patient(patient_id, record, where))
        if not isinstance(record.get("questions"), list):
            raise BadInput(f"{where}: the field 'questions' is missing or not a list.")
        # `No` is not used as an id: nothing promises that it is there and given once.
        questions += [
            (_patient_question(row, patient_id, number, f"{where}, question {number}"), where)
            for number, row in enumerate(record["questions"], start=1)
        ]
    return documents, unique(questions)


def _patient(patient_id: str, record: dict[str, Any], where: str) -> Document:
    for key in ("name", "birthday"):
        if not isinstance(record.get(key), str) or not record[key].strip():
            raise BadInput(f"{where}: the field {key!r} is missing, empty or not a string.")
    texts = record.get("texts")
    if not isinstance(texts, dict) or not texts or not all(isinstance(text, str) for text in texts.values()):
        raise BadInput(f"{where}: the field 'texts' must be an object of texts, text_0, text_1 and so on.")
    name, birthday = record["name"].strip(), record["birthday"].strip()
    return Document(
        id=patient_id,
        title=name,
        text="\n\n".join(texts[key].strip() for key in sorted(texts, key=_number)),
        source="LongHealth",
        meta={
            "identity": f"the medical record of {name}, born {birthday} ({patient_id})",
            "birthday": birthday,
            **({"diagnosis": record["diagnosis"]} if record.get("diagnosis") else {}),
        },
    )


def _number(key: str) -> tuple[int, str]:
    """Sorts text_2 before text_10."""
    digits = re.search(r"\d+$", key)
    return (int(digits[0]) if digits else -1, key)


def _patient_question(row: Any, patient_id: str, number: int, where: str) -> Question:
    if not isinstance(row, dict) or not isinstance(row.get("question"), str) or not row["question"].strip():
        raise BadInput(f"{where}: the field 'question' is missing, empty or not a string.")
    options = options_of([row.get(f"answer_{letter}") for letter in _LETTERS], where)
    correct: Any = row.get("correct")  # the right option's full text
    plain = [" ".join(option.split()) for option in options]
    wanted = " ".join(correct.split()) if isinstance(correct, str) else None
    if wanted not in plain:
        raise BadInput(f"{where}: 'correct' is {correct!r}, which is none of answer_a to answer_e.")
    return Question(f"{patient_id}_{number:02d}", patient_id, row["question"], options, plain.index(wanted))


OFFICIAL = Official(
    files={LONGHEALTH_FILE: None},
    read=read_longhealth,
    documents=20,
    questions=400,
    source="https://github.com/kbressem/LongHealth, data/benchmark_v5.json (Adams et al. 2024)",
    licence="see the repository; its authors ask not to repost the records or questions anywhere",
    address="https://raw.githubusercontent.com/kbressem/LongHealth/HEAD/data/",
    downloads={LONGHEALTH_FILE: None},
)
