"""LongHealth's official file -> documents and questions."""

import re
from pathlib import Path
from typing import Annotated, Any

import msgspec
import orjson

from smt_plugin.benchmarks.official import Data, Official
from smt_plugin.corpus import Document
from smt_plugin.errors import BadInput
from smt_plugin.files import Text, as_row, read_bytes
from smt_plugin.question import Question, unique

_FILE = "benchmark_v5.json"
OFFICIAL = Official(
    files={_FILE: None},
    documents=20,
    questions=400,
    source="https://github.com/kbressem/LongHealth, data/benchmark_v5.json (Adams et al. 2024)",
    licence="see the repository; its authors ask not to repost the records or questions anywhere",
    address="https://raw.githubusercontent.com/kbressem/LongHealth/HEAD/data/",
    downloads={_FILE: None},
)


class _Question(msgspec.Struct):
    question: Text
    answer_a: Text
    answer_b: Text
    answer_c: Text
    answer_d: Text
    answer_e: Text
    correct: str  # the right option's full text


class _Patient(msgspec.Struct):
    name: Text
    birthday: Text
    texts: Annotated[dict[str, str], msgspec.Meta(min_length=1)]  # text_0, text_1 and so on
    questions: list[_Question]
    diagnosis: Any = None


def read(folder: Path) -> Data:
    """Read LongHealth v5: one JSON object, patient id -> notes, name, birthday and questions.

    Raises:
        BadInput: the file is not what it should be; names file, patient and field.
    """
    path = folder / _FILE
    try:
        patients = as_row(orjson.loads(read_bytes(path)), dict[str, Any], str(path))
    except orjson.JSONDecodeError as error:
        raise BadInput(f"{path}: not valid JSON ({error}); the file may be cut off, fetch it anew.") from None
    documents, questions = [], []
    for patient_id, record in patients.items():
        if isinstance(record, str):  # the benchmark's canary text
            continue
        where = f"{path}, {patient_id}"
        patient = as_row(record, _Patient, where)
        documents.append(_document(patient_id, patient))
        # `No` is not used as an id: nothing promises that it is there and given once.
        questions += [
            (_question(asked, patient_id, number, where), where)
            for number, asked in enumerate(patient.questions, start=1)
        ]
    return documents, unique(questions)


def _document(patient_id: str, patient: _Patient) -> Document:
    name, birthday = patient.name.strip(), patient.birthday.strip()
    return Document(
        id=patient_id,
        title=name,
        text="\n\n".join(patient.texts[key].strip() for key in sorted(patient.texts, key=_number)),
        source="LongHealth",
        meta={
            "identity": f"the medical record of {name}, born {birthday} ({patient_id})",
            "birthday": birthday,
            **({"diagnosis": patient.diagnosis} if patient.diagnosis else {}),
        },
    )


def _number(key: str) -> tuple[int, str]:
    """Sorts text_2 before text_10."""
    digits = re.search(r"\d+$", key)
    return (int(digits[0]) if digits else -1, key)


def _question(asked: _Question, patient_id: str, number: int, where: str) -> Question:
    options = [asked.answer_a, asked.answer_b, asked.answer_c, asked.answer_d, asked.answer_e]
    plain = [" ".join(option.split()) for option in options]
    right = " ".join(asked.correct.split())
    if right not in plain:
        raise BadInput(
            f"{where}, question {number}: 'correct' is {asked.correct!r}, which is none of answer_a to answer_e."
        )
    return Question(f"{patient_id}_{number:02d}", patient_id, asked.question, options, plain.index(right))
