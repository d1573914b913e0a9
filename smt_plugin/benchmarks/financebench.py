"""FinanceBench's official files -> documents and questions."""

import os
from pathlib import Path
from typing import Any

import orjson

from smt_plugin.benchmarks.download import blob_id
from smt_plugin.benchmarks.official import Data, Official
from smt_plugin.corpus import Document
from smt_plugin.errors import BadInput, require
from smt_plugin.files import cache_dir, read_jsonl
from smt_plugin.question import Question, unique

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


FINANCEBENCH_BLOBS: dict[str, str | None] = {
    FINANCEBENCH_FILES[0]: "4aef1d43a443474ba193f158f2baf70550ff528d",
    FINANCEBENCH_FILES[1]: "decdfa948630f289d05cc0048417b3b9107cfb9f",
}


def financebench_downloads() -> dict[str, str | None]:
    """The two files and the 84 filings that the questions are about, laid out as in a clone of the repository."""
    lines = (Path(__file__).parent / "financebench_pdfs.txt").read_text(encoding="utf-8").splitlines()
    pdfs = (line.split("  ", 1) for line in lines)
    return {f"data/{name}": blob for name, blob in FINANCEBENCH_BLOBS.items()} | {path: blob for blob, path in pdfs}


OFFICIAL = Official(
    files=FINANCEBENCH_BLOBS,
    read=read_financebench,
    documents=84,
    questions=150,
    source="https://github.com/patronus-ai/financebench, data/ and pdfs/ (Islam et al. 2023)",
    licence="CC BY-NC 4.0: no commercial use",
    address="https://raw.githubusercontent.com/patronus-ai/financebench/cc39aeb4afdf33909ee1412188bf89035950c2eb/",
    downloads=financebench_downloads(),
)
