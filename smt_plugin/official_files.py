"""The official files of QuALITY, LongHealth and FinanceBench -> documents and questions."""

import os
import re
from collections.abc import Callable, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from smt_plugin.benchmarks import Question, cache_dir, is_index, options_of, unique
from smt_plugin.corpus import Document
from smt_plugin.download import blob_id
from smt_plugin.errors import BadInput, require
from smt_plugin.jsonl import read_jsonl

Data = tuple[list[Document], list[Question]]


@dataclass(frozen=True, slots=True)
class Official:
    """What is known of a benchmark's official files.

    Attributes:
        files: name -> the git blob id that the file has in its repository, None where we do not know it.
        read: folder that holds all files -> documents and questions.
        documents, questions: how many the whole benchmark has.
        source: where the files come from.
        address: URL that the paths of `downloads` are below; of one commit, where we know which.
        downloads: path -> git blob id, or None where we do not know it, of all that a download fetches.
    """

    files: dict[str, str | None]
    read: Callable[[Path], Data]
    documents: int
    questions: int
    source: str
    licence: str
    address: str
    downloads: dict[str, str | None]

    def folder_in(self, folder: Path) -> Path | None:
        """`folder`, or its `data` (as in a clone of the repository), whichever holds all the files; else None."""
        for place in (folder, folder / "data"):
            if all((place / name).is_file() for name in self.files):
                return place
        return None

    def count_problem(self, documents: Sized, questions: Sized) -> str | None:
        """What to say of documents or questions that are missing or too many; None where the numbers are right."""
        if (len(documents), len(questions)) == (self.documents, self.questions):
            return None
        return (
            f"there should be {self.questions:,} questions about {self.documents:,} documents, but there are "
            f"{len(questions):,} about {len(documents):,}"
        )

    def is_whole_in(self, folder: Path) -> bool:
        """Whether a download has nothing left to fetch into a folder, or somebody put the files there."""
        place = self.folder_in(folder)
        # FinanceBench's filings lie beside or below the folder of its two files.
        roots = () if place is None else (place, place.parent)
        rest = [path for path in self.downloads if Path(path).name not in self.files]
        return bool(roots) and all(any((root / path).is_file() for root in roots) for path in rest)


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


FINANCEBENCH_FILES = ("financebench_open_source.jsonl", "financebench_document_information.jsonl")
_FILINGS = {
    "10k": "10-K",
    "10k_annualreport": "annual report",
    "10q": "10-Q",
    "8k": "8-K",
    "earnings": "earnings release",
}


def read_financebench(folder: Path) -> Data:
    """FinanceBench's open-source sample: filings that its questions are about, page by page.

    The pages come from `pdfs/<doc_name>.pdf`, beside the two files or beside their folder. Without that
    folder a document is made of its questions' evidence pages alone, a far easier thing to learn and to
    search, and its `meta["pages"]` says "evidence only".
    """
    information = _filings(folder / FINANCEBENCH_FILES[1])
    questions: list[tuple[Question, str]] = []
    evidence: dict[str, dict[int, str]] = {}
    for number, row in read_jsonl(folder / FINANCEBENCH_FILES[0]):
        where = f"{folder / FINANCEBENCH_FILES[0]}, line {number}"
        questions.append((_filing_question(row, information, evidence, where), where))
    pdfs = next((place for place in (folder / "pdfs", folder.parent / "pdfs") if place.is_dir()), None)
    documents = []
    for name in dict.fromkeys(question.doc_id for question, _ in questions):
        pages = sorted(evidence[name].items()) if pdfs is None else list(enumerate(_pdf_pages(pdfs / f"{name}.pdf")))
        documents.append(_filing(information[name], pages, "evidence only" if pdfs is None else "all"))
    return documents, unique(questions)


def _filings(path: Path) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for number, row in read_jsonl(path):
        for key in ("doc_name", "company", "doc_type", "doc_period"):
            if not row.get(key):
                raise BadInput(f"{path}, line {number}: the field {key!r} is missing or empty.")
        rows.setdefault(str(row["doc_name"]), row)  # the official file has one name twice
    return rows


def _filing(row: dict[str, Any], pages: list[tuple[int, str]], kind_of_pages: str) -> Document:
    name, company, year = row["doc_name"], row["company"], row["doc_period"]
    kind = _FILINGS.get(str(row["doc_type"]).lower(), str(row["doc_type"]))
    return Document(
        id=name,
        title=f"{company} {kind} {year}",
        # Printed page numbers count from 1, the evidence's from 0.
        text="\n\n".join(f"[page {number + 1}]\n{text.strip()}" for number, text in pages),
        source=str(row.get("doc_link") or "FinanceBench"),
        meta={
            # The name tells apart the filings of one company, kind and year.
            "identity": f"the {kind} of {company} for fiscal year {year} ({name})",
            "company": company,
            "fiscal_year": year,
            "pages": kind_of_pages,
        },
    )


def _filing_question(
    row: dict[str, Any], information: dict[str, Any], evidence: dict[str, dict[int, str]], where: str
) -> Question:
    for key in ("financebench_id", "doc_name", "question", "answer"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise BadInput(f"{where}: the field {key!r} is missing, empty or not a string.")
    name = row["doc_name"]
    if name not in information:
        raise BadInput(f"{where}: the filing {name!r} is not in {FINANCEBENCH_FILES[1]}.")
    places = row.get("evidence")
    if not isinstance(places, list) or not places:
        raise BadInput(f"{where}: the field 'evidence' must be a list of at least one object.")
    pages = []
    for place in places:
        page = place.get("evidence_page_num") if isinstance(place, dict) else None
        text = place.get("evidence_text_full_page") if isinstance(place, dict) else None
        if not isinstance(page, int) or page < 0 or not isinstance(text, str):
            raise BadInput(f"{where}: an evidence lacks evidence_page_num or evidence_text_full_page.")
        evidence.setdefault(name, {}).setdefault(page, text)
        pages.append(page)
    meta = {
        "question_type": row.get("question_type"),
        "evidence": [{"doc_id": name, "page": page} for page in dict.fromkeys(pages)],
    }
    return Question(row["financebench_id"], name, row["question"], None, row["answer"], meta)


def _pdf_pages(path: Path) -> list[str]:
    """The text of each page of a PDF; kept in the cache folder, since reading a filing takes a second."""
    if not path.is_file():
        raise BadInput(
            f"{path} does not exist; put the filing there, or take {path.parent} away to use evidence pages."
        )
    kept = cache_dir() / "pdf" / f"{path.stem}-{blob_id(path)[:16]}.json"
    if kept.is_file():
        pages: list[str] = orjson.loads(kept.read_bytes())
        return pages
    pdfium = require("pypdfium2", "eval")
    try:
        pages = [page.get_textpage().get_text_bounded() for page in pdfium.PdfDocument(path)]
    except pdfium.PdfiumError as error:
        raise BadInput(f"{path} cannot be read as a PDF ({error}); fetch it anew.") from None
    # pdfium ends lines as Windows does.
    pages = [page.replace("\r\n", "\n") for page in pages]
    kept.parent.mkdir(parents=True, exist_ok=True)
    partial = kept.with_name(f"{kept.name}.{os.getpid()}")
    partial.write_bytes(orjson.dumps(pages))
    partial.replace(kept)
    return pages


_QUALITY_BLOBS: dict[str, str | None] = {
    QUALITY_FILES[0]: "cb16a11b32099774dd0a66f0bfbc67a3926b95c3",
    QUALITY_FILES[1]: "3b719593e8eaa993b1b6cc100deece53019230c4",
}
_FINANCEBENCH_BLOBS: dict[str, str | None] = {
    FINANCEBENCH_FILES[0]: "4aef1d43a443474ba193f158f2baf70550ff528d",
    FINANCEBENCH_FILES[1]: "decdfa948630f289d05cc0048417b3b9107cfb9f",
}


def _financebench_downloads() -> dict[str, str | None]:
    """The two files and the 84 filings that the questions are about, laid out as in a clone of the repository."""
    lines = (Path(__file__).parent / "financebench_pdfs.txt").read_text(encoding="utf-8").splitlines()
    pdfs = (line.split("  ", 1) for line in lines)
    return {f"data/{name}": blob for name, blob in _FINANCEBENCH_BLOBS.items()} | {path: blob for blob, path in pdfs}


OFFICIAL = {
    "quality": Official(
        files=_QUALITY_BLOBS,
        read=read_quality,
        documents=265,
        questions=4609,
        source="https://github.com/nyu-mll/quality, data/v1.0.1 (Pang et al. 2022)",
        licence="CC BY 4.0; each story names its own licence",
        address="https://raw.githubusercontent.com/nyu-mll/quality/f84977c40dbfef70c9cab48037b7becfc8e45f73/data/v1.0.1/",
        downloads=_QUALITY_BLOBS,
    ),
    "longhealth": Official(
        files={LONGHEALTH_FILE: None},
        read=read_longhealth,
        documents=20,
        questions=400,
        source="https://github.com/kbressem/LongHealth, data/benchmark_v5.json (Adams et al. 2024)",
        licence="see the repository; its authors ask not to repost the records or questions anywhere",
        address="https://raw.githubusercontent.com/kbressem/LongHealth/HEAD/data/",
        downloads={LONGHEALTH_FILE: None},
    ),
    "financebench": Official(
        files=_FINANCEBENCH_BLOBS,
        read=read_financebench,
        documents=84,
        questions=150,
        source="https://github.com/patronus-ai/financebench, data/ and pdfs/ (Islam et al. 2023)",
        licence="CC BY-NC 4.0: no commercial use",
        address="https://raw.githubusercontent.com/patronus-ai/financebench/cc39aeb4afdf33909ee1412188bf89035950c2eb/",
        downloads=_financebench_downloads(),
    ),
}
