"""FinanceBench's official files -> documents and questions."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import msgspec

from smt_plugin.benchmarks.download import blob_id
from smt_plugin.benchmarks.official import Data, Official
from smt_plugin.corpus import Document
from smt_plugin.errors import BadInput, require
from smt_plugin.files import FILE_NAME, Text, cache_dir, make_folder, read_json, read_rows, write_json
from smt_plugin.question import Question, unique

_BLOBS: dict[str, str | None] = {
    "financebench_open_source.jsonl": "4aef1d43a443474ba193f158f2baf70550ff528d",
    "financebench_document_information.jsonl": "decdfa948630f289d05cc0048417b3b9107cfb9f",
}
_QUESTIONS, _INFORMATION = _BLOBS
# It is a part of a path, which must not lead to another folder.
_FileName = Annotated[str, msgspec.Meta(pattern=FILE_NAME)]
_KIND = {"10k": "10-K", "10k_annualreport": "annual report", "10q": "10-Q", "8k": "8-K", "earnings": "earnings release"}


class _Filing(msgspec.Struct):
    """A line of the document information."""

    doc_name: _FileName
    company: Text
    doc_type: Text
    doc_period: Annotated[int, msgspec.Meta(ge=1)] | Text  # the fiscal year
    doc_link: Any = None


class _Evidence(msgspec.Struct):
    evidence_page_num: Annotated[int, msgspec.Meta(ge=0)]  # counts from 0
    evidence_text_full_page: str


class _Row(msgspec.Struct):
    """A line of the open-source sample: one question."""

    financebench_id: Text
    doc_name: Text
    question: Text
    answer: Text
    evidence: Annotated[list[_Evidence], msgspec.Meta(min_length=1)]
    question_type: Any = None


def read(folder: Path) -> Data:
    """Read FinanceBench's open-source sample: filings that its questions are about, page by page.

    The pages come from `pdfs/<doc_name>.pdf`, beside the two files or beside their folder. Without that
    folder a document is made of its questions' evidence pages alone, a far easier thing to learn and to
    search, and its `meta["pages"]` says "evidence only".

    Raises:
        BadInput: a file is missing or not what it should be; names file, line and field.
    """
    filings: dict[str, _Filing] = {}
    for filing, _ in read_rows(folder / _INFORMATION, _Filing):
        filings.setdefault(filing.doc_name, filing)  # the official file has one name twice
    questions: list[tuple[Question, str]] = []
    evidence: dict[str, dict[int, str]] = {}
    for row, where in read_rows(folder / _QUESTIONS, _Row):
        if row.doc_name not in filings:
            raise BadInput(f"{where}: the filing {row.doc_name!r} is not in {_INFORMATION}.")
        for place in row.evidence:
            pages = evidence.setdefault(row.doc_name, {})
            pages.setdefault(place.evidence_page_num, place.evidence_text_full_page)
        questions.append((_question(row), where))
    pdfs = next((place for place in (folder / "pdfs", folder.parent / "pdfs") if place.is_dir()), None)
    documents = []
    for name, known in evidence.items():
        pages_of = sorted(known.items()) if pdfs is None else enumerate(_pdf_pages(pdfs / f"{name}.pdf"))
        documents.append(_document(filings[name], pages_of, "evidence only" if pdfs is None else "all"))
    return documents, unique(questions)


def _document(filing: _Filing, pages: Iterable[tuple[int, str]], kind_of_pages: str) -> Document:
    name, company, year = filing.doc_name, filing.company, filing.doc_period
    kind = _KIND.get(filing.doc_type.lower(), filing.doc_type)
    return Document(
        id=name,
        title=f"{company} {kind} {year}",
        # Printed page numbers count from 1, the evidence's from 0.
        text="\n\n".join(f"[page {number + 1}]\n{text.strip()}" for number, text in pages),
        source=str(filing.doc_link or "FinanceBench"),
        meta={
            # The name tells apart the filings of one company, kind and year.
            "identity": f"the {kind} of {company} for fiscal year {year} ({name})",
            "company": company,
            "fiscal_year": year,
            "pages": kind_of_pages,
        },
    )


def _question(row: _Row) -> Question:
    pages = dict.fromkeys(place.evidence_page_num for place in row.evidence)
    meta = {
        "question_type": row.question_type,
        "evidence": [{"doc_id": row.doc_name, "page": page} for page in pages],
    }
    return Question(row.financebench_id, row.doc_name, row.question, None, row.answer, meta)


def _pdf_pages(path: Path) -> list[str]:
    """The text of each page of a PDF; kept in the cache folder, since reading a filing takes a second."""
    if not path.is_file():
        raise BadInput(
            f"{path} does not exist; put the filing there, or take {path.parent} away to use evidence pages."
        )
    kept = cache_dir() / "pdf" / f"{path.stem}-{blob_id(path)[:16]}.json"
    if kept.is_file():
        return read_json(kept, list[str], "smt benchmark financebench")
    pdfium = require("pypdfium2", "eval")
    try:
        pages = [page.get_textpage().get_text_bounded() for page in pdfium.PdfDocument(path)]
    except pdfium.PdfiumError as error:
        raise BadInput(f"{path} cannot be read as a PDF ({error}); fetch it anew.") from None
    # pdfium ends lines as Windows does.
    pages = [page.replace("\r\n", "\n") for page in pages]
    make_folder(kept.parent)
    write_json(kept, pages)
    return pages


def _downloads() -> dict[str, str | None]:
    """The two files and the 84 filings that the questions are about, laid out as in a clone of the repository."""
    lines = (Path(__file__).parent / "financebench_pdfs.txt").read_text(encoding="utf-8").splitlines()
    pdfs = (line.split("  ", 1) for line in lines)
    return {f"data/{name}": blob for name, blob in _BLOBS.items()} | {path: blob for blob, path in pdfs}


def _remark(documents: list[Document]) -> str | None:
    if documents[0].meta["pages"] == "all":
        return None
    return (
        "no folder pdfs/: the documents are made of the questions' evidence pages alone, which is far easier "
        "than the whole filings; scores compare with no published ones"
    )


OFFICIAL = Official(
    files=_BLOBS,
    documents=84,
    questions=150,
    source="https://github.com/patronus-ai/financebench, data/ and pdfs/ (Islam et al. 2023)",
    licence="CC BY-NC 4.0: no commercial use",
    address="https://raw.githubusercontent.com/patronus-ai/financebench/cc39aeb4afdf33909ee1412188bf89035950c2eb/",
    downloads=_downloads(),
    remark=_remark,
)
