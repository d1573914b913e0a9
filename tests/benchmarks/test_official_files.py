import json
import re
import shlex
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from click.testing import CliRunner

from smt_plugin.benchmarks.find import check, load
from smt_plugin.cli.app import cli
from smt_plugin.errors import BadInput
from tests.official_data import (
    financebench,
    longhealth,
    page_text,
    write_financebench,
    write_longhealth,
    write_pdf,
)
from tests.quality_data import write_lines, write_official, write_own


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_longhealth_becomes_one_document_a_patient_with_its_notes_in_the_order_of_their_numbers(
    tmp_path: Path,
) -> None:
    documents, questions = load("longhealth", write_longhealth(tmp_path))
    assert [document.id for document in documents] == ["patient_01", "patient_02"]
    assert documents[0].identity == "the medical record of Ada Brine, born 1951-03-04 (patient_01)"
    assert documents[0].text.split("\n\n") == [f"Note {n}: on day {n} the pulse was {60 + n}." for n in range(12)]
    assert [question.question_id for question in questions] == [
        "patient_01_01",
        "patient_01_02",
        "patient_02_01",
        "patient_02_02",
    ]
    assert [question.answer for question in questions] == [2, 4, 2, 2]
    assert all(len(question.options or []) == 5 for question in questions)


def test_longhealth_is_found_in_a_clone_of_its_repository_too(tmp_path: Path) -> None:
    write_longhealth(tmp_path / "data")
    assert len(load("longhealth", tmp_path)[1]) == 4


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda p: p["patient_01"]["questions"][1].update(correct="A pulse of 98"),
            "patient_01, question 2: 'correct'",
        ),
        (
            lambda p: p["patient_01"]["questions"][1].pop("answer_c"),
            "patient_01: object missing required field `answer_c` - at `$.questions[1]`",
        ),
        (
            lambda p: p["patient_02"]["questions"][0].pop("question"),
            "patient_02: object missing required field `question` - at `$.questions[0]`",
        ),
        (lambda p: p["patient_02"].pop("birthday"), "patient_02: object missing required field `birthday`"),
        (lambda p: p["patient_02"].update(name=" "), "patient_02: expected `str` that is not blank - at `$.name`"),
        (lambda p: p["patient_02"].update(texts=["a"]), "patient_02: expected `object`, got `array` - at `$.texts`"),
        (lambda p: p["patient_02"].update(texts={}), "patient_02: expected `object` of length >= 1 - at `$.texts`"),
        (lambda p: p["patient_02"].pop("questions"), "patient_02: object missing required field `questions`"),
        (lambda p: p.update(patient_03=7), "patient_03: expected `object`, got `int`"),
    ],
)
def test_what_is_wrong_in_longhealths_file_is_named(tmp_path: Path, change: Any, says: str) -> None:
    content = longhealth()
    change(content)
    with pytest.raises(BadInput, match=r"benchmark_v5\.json, ") as error:
        load("longhealth", write_longhealth(tmp_path, content))
    assert says in str(error.value)


def test_a_file_of_longhealth_that_was_cut_off_is_one_sentence(tmp_path: Path) -> None:
    path = write_longhealth(tmp_path) / "benchmark_v5.json"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadInput, match="may be cut off"):
        load("longhealth", tmp_path)


def test_financebench_without_pdfs_has_its_evidence_pages_as_documents_and_says_so(tmp_path: Path) -> None:
    documents, questions = load("financebench", write_financebench(tmp_path))
    assert [document.identity for document in documents] == [
        "the 10-K of Saltworks for fiscal year 2019 (SALTWORKS_2019_10K)",
        "the 10-Q of Kite Mill for fiscal year 2023 (KITEMILL_2023Q2_10Q)",
    ]
    # Evidence counts pages from 0, the text from 1.
    first, third = (page_text("SALTWORKS_2019_10K", page) for page in (0, 2))
    assert documents[0].text == f"[page 1]\n{first}\n\n[page 3]\n{third}"
    assert documents[0].meta["pages"] == "evidence only"
    assert (questions[0].options, questions[0].answer) == (None, "$1577.00")
    assert questions[1].evidence_pages == [("SALTWORKS_2019_10K", 0), ("SALTWORKS_2019_10K", 2)]
    assert questions[1].evidence == ["SALTWORKS_2019_10K"]
    assert any("far easier" in fact for fact in check("financebench", tmp_path).facts)


@pytest.mark.parametrize("name", ["../../secret", "/secret", "..", ".", "a/b", "a\\b", "a\nb", " ", "x" * 300])
def test_no_filing_is_read_from_another_folder(tmp_path: Path, name: str) -> None:
    folder = write_financebench(tmp_path / "data")
    write_pdf(tmp_path / "secret.pdf", ["a secret"])
    (folder / "pdfs").mkdir()
    for rows, file in zip(financebench(), ("open_source", "document_information"), strict=True):
        write_lines(folder / f"financebench_{file}.jsonl", [row | {"doc_name": name} for row in rows])
    says = r"document_information\.jsonl, line 1: expected `str` that is the name of a file - at `\$\.doc_name`"
    with pytest.raises(BadInput, match=says):
        load("financebench", folder)


def test_financebench_reads_whole_filings_from_their_pdfs_and_keeps_the_text(tmp_path: Path) -> None:
    folder = write_financebench(tmp_path / "clone" / "data")
    pdfs = tmp_path / "clone" / "pdfs"
    for name in ("SALTWORKS_2019_10K", "KITEMILL_2023Q2_10Q"):
        write_pdf(pdfs / f"{name}.pdf", [f"Leaf {n} of {name}" for n in range(3)])
    documents, _ = load("financebench", folder.parent)
    expected = "\n\n".join(f"[page {n + 1}]\nLeaf {n} of SALTWORKS_2019_10K" for n in range(3))
    assert documents[0].text == expected
    assert documents[0].meta["pages"] == "all"
    (kept,) = (tmp_path / "cache").rglob("SALTWORKS*.json")
    kept.write_text('["kept"]')
    assert load("financebench", folder)[0][0].text == "[page 1]\nkept"
    (pdfs / "KITEMILL_2023Q2_10Q.pdf").write_bytes(b"%PDF-1.4 cut off")
    with pytest.raises(BadInput, match="cannot be read as a PDF"):
        load("financebench", folder)
    (pdfs / "KITEMILL_2023Q2_10Q.pdf").unlink()
    with pytest.raises(BadInput, match=r"KITEMILL_2023Q2_10Q.pdf does not exist"):
        load("financebench", folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"doc_name": "NOWHERE_2019_10K"}, "'NOWHERE_2019_10K' is not in"),
        ({"answer": ""}, "expected `str` that is not blank - at `$.answer`"),
        ({"evidence": []}, "expected `array` of length >= 1 - at `$.evidence`"),
        (
            {"evidence": [{"evidence_page_num": "3"}]},
            "expected `int`, got `str` - at `$.evidence[0].evidence_page_num`",
        ),
        (
            {"evidence": [{"evidence_page_num": 3}]},
            "object missing required field `evidence_text_full_page` - at `$.evidence[0]`",
        ),
        ({"financebench_id": "financebench_id_00000"}, "given twice"),
    ],
)
def test_what_is_wrong_in_financebenchs_file_is_named(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    write_financebench(tmp_path)
    rows = financebench()[0]
    rows[1] |= change
    write_lines(tmp_path / "financebench_open_source.jsonl", rows)
    with pytest.raises(BadInput, match=r"open_source\.jsonl, line 2: ") as error:
        load("financebench", tmp_path)
    assert says in str(error.value)


def test_a_missing_official_file_is_asked_for_by_name(tmp_path: Path) -> None:
    (write_financebench(tmp_path) / "financebench_document_information.jsonl").unlink()
    with pytest.raises(BadInput, match=r"financebench_document_information\.jsonl \(from https://github\.com/patronus"):
        load("financebench", tmp_path)


def test_the_checker_compares_counts_and_checksums_and_shows_source_and_licence(tmp_path: Path) -> None:
    found = check("quality", write_official(tmp_path / "q"))
    assert found.facts[0] == f"8 questions about 4 documents in {tmp_path / 'q'}"
    assert any("licence: CC BY 4.0" in fact for fact in found.facts)
    assert "4,609 questions about 265 documents" in found.problems[0]
    assert len(found.problems) == 3  # both files differ, too
    unknown = check("longhealth", write_longhealth(tmp_path / "l"))
    assert any("checksum not compared" in fact for fact in unknown.facts)
    assert len(unknown.problems) == 1
    own = check("quality", write_own(tmp_path / "own"))
    assert own.problems == []
    assert "not quality's official files" in own.facts[1]


def test_a_whole_benchmark_passes_the_checker(tmp_path: Path) -> None:
    patients = {
        f"patient_{n:02d}": {**longhealth()["patient_02"], "questions": longhealth()["patient_02"]["questions"] * 10}
        for n in range(1, 21)
    }
    assert check("longhealth", write_longhealth(tmp_path, patients)).problems == []


def test_the_command_says_what_is_off_and_writes_the_form_of_a_corpus(tmp_path: Path) -> None:
    folder = write_longhealth(tmp_path / "l")
    result = CliRunner().invoke(
        cli, ["benchmark", "longhealth", "--data", str(folder), "--output", str(tmp_path / "out")]
    )
    assert result.exit_code == 1
    assert "off: longhealth: there should be 400 questions about 20 documents, but there are 4 about 2" in result.output
    assert load("longhealth", tmp_path / "out") == load("longhealth", folder)
    assert json.loads((tmp_path / "out" / "documents.jsonl").read_text().splitlines()[0])["doc_id"] == "patient_01"


def test_a_corpus_of_text_files_with_questions_needs_no_documents_jsonl(tmp_path: Path) -> None:
    (tmp_path / "kites.txt").write_text("Oru flew nine kites.")
    row = {"question_id": "q", "doc_id": "kites.txt", "question": "How many?", "options": ["8", "9"], "answer": 1}
    write_lines(tmp_path / "questions.jsonl", [row])
    documents, questions = load("corpus", tmp_path)
    assert (documents[0].id, questions[0].answer) == ("kites.txt", 1)
    assert load("corpus", tmp_path / "kites.txt") == (documents, questions)
    (tmp_path / "questions.jsonl").unlink()
    with pytest.raises(BadInput, match=r"put questions.jsonl beside your documents"):
        load("corpus", tmp_path)


def test_files_that_are_still_packed_are_named_with_the_command_that_unpacks_them(tmp_path: Path) -> None:
    folder = write_official(tmp_path / "files")
    for place in (tmp_path / "my zip", tmp_path / "cache" / "smt-plugin" / "quality"):
        place.mkdir(parents=True)
        packed = place / "QuALITY.v1.0.1.zip"
        with ZipFile(packed, "w") as file:
            for path in folder.iterdir():
                file.write(path, f"QuALITY/{path.name}")
        says = re.escape(
            f"unzip -j {shlex.quote(str(packed))} -d {shlex.quote(str(place))}; and name the folder {place}."
        )
        for given in (None,) if "cache" in place.parts else (place, packed):
            with pytest.raises(BadInput, match=says):
                load("quality", given)
    packed.write_bytes(packed.read_bytes()[:100])
    with pytest.raises(BadInput, match="cannot be read as a ZIP file"):
        load("quality", packed)


def test_files_that_lack_documents_are_read_with_a_warning_and_those_without_any_question_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_longhealth(tmp_path)
    assert len(load("longhealth", folder)[1]) == 4
    assert "400 questions about 20 documents, but there are 4 about 2; fetch them anew" in capsys.readouterr().err
    (folder / "benchmark_v5.json").write_text("{}")
    with pytest.raises(BadInput, match=r"holds no questions; fetch benchmark_v5\.json anew"):
        load("longhealth", folder)
    load("quality", write_own(tmp_path / "own"))
    assert capsys.readouterr().err == ""
