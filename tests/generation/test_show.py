from pathlib import Path
from unicodedata import normalize

import pytest

from smt_plugin.config import RunFile
from smt_plugin.corpus import read_documents
from smt_plugin.errors import BadInput
from smt_plugin.generation.show import show_records
from tests.generation.test_generate import run_generate


def test_records_are_shown_with_the_prompt_they_came_from_and_the_same_ones_for_a_seed(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_generate(tmp_path / "run", corpus, {"synthetic_qa": 500, "focal_rewrite": 500})
    run_file = RunFile.model_validate(
        {
            "run": tmp_path / "run",
            "corpus": corpus,
            "backend": {"kind": "microworld"},
            "methods": {"focal_rewrite": {"tokens": 500}},
        }
    )
    first = list(show_records(run_file, "focal_rewrite", 2, seed=3))
    assert len(first) == 2
    assert "focus on this question" in first[0]
    assert "A text about" in first[0].split("--- record")[1]
    assert "changed" not in first[0] + first[1]
    assert first == list(show_records(run_file, "focal_rewrite", 2, seed=3))
    (row,) = show_records(run_file, "focal_rewrite", 1, seed=3)
    text = next(d.text.strip() for d in read_documents(corpus) if f"document {d.id}," in row)
    path = corpus / "documents.jsonl"
    assert text in row
    for full in (False, True):
        monkeypatch.setattr("smt_plugin.generation.show._SHORT", 10)
        (row,) = show_records(run_file, "focal_rewrite", 1, seed=3, full=full)
        assert (text in row) == full
        assert (f"[the document, {len(text):,} characters; --full shows it]" in row) != full
    path.write_text(path.read_text().replace("tells of", "\\u001b[2Jsings of"))
    changed = show_records(run_file, "focal_rewrite", 2, seed=3)
    assert all("(it or its document has changed since" in text and "\x1b" not in text for text in changed)
    (tmp_path / "run" / "records" / "focal_rewrite.jsonl").write_text('{"id": "x"}\n')
    with pytest.raises(
        BadInput, match=r"focal_rewrite\.jsonl, line 1: object missing required field `method`; run `smt generate` anew"
    ):
        list(show_records(run_file, "focal_rewrite", 1))
    with pytest.raises(
        BadInput, match=r"wrap has no records in .* none of .*`methods`; give one of them: focal_rewrite"
    ):
        list(show_records(run_file, "wrap", 1))
    (tmp_path / "run" / "records" / "focal_rewrite.jsonl").unlink()
    with pytest.raises(BadInput, match=r"focal_rewrite\.jsonl does not exist"):
        list(show_records(run_file, "focal_rewrite", 1))
    (tmp_path / "run" / "records" / "wrap.jsonl").touch()
    with pytest.raises(BadInput, match="wrap has no records in"):
        list(show_records(run_file, "wrap", 1))


def test_a_record_finds_its_document_though_the_file_name_now_codes_accents_in_another_way(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / normalize("NFD", "Zürich.txt")).write_text("Holm is a town that tells of ferries and of pears.")
    run_generate(tmp_path / "run", corpus, {"synthetic_qa": 100})
    (corpus / normalize("NFD", "Zürich.txt")).rename(corpus / normalize("NFC", "Zürich.txt"))
    run_file = RunFile.model_validate(
        {
            "run": tmp_path / "run",
            "corpus": corpus,
            "backend": {"kind": "microworld"},
            "methods": {"synthetic_qa": {"tokens": 100}},
        }
    )
    (shown,) = show_records(run_file, "synthetic_qa", 1)
    assert "Holm is a town" in shown
