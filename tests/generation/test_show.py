import subprocess
import sys
from pathlib import Path
from unicodedata import normalize

import pytest

from smt_plugin.corpus import read_documents
from smt_plugin.errors import BadInput
from smt_plugin.generation.show import show_records
from tests.generation.test_generate import run_file, run_generate


def test_records_are_shown_with_the_prompt_they_came_from_and_the_same_ones_for_a_seed(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_generate(tmp_path / "run", corpus, {"synthetic_qa": 500, "focal_rewrite": 500})
    settings = run_file(tmp_path / "run", corpus, {"focal_rewrite": 500})
    first = list(show_records(settings, "focal_rewrite", 2, seed=3))
    assert len(first) == 2
    assert "focus on this question" in first[0]
    assert "A text about" in first[0].split("--- record")[1]
    assert "changed" not in first[0] + first[1]
    assert first == list(show_records(settings, "focal_rewrite", 2, seed=3))
    (row,) = show_records(settings, "focal_rewrite", 1, seed=3)
    text = next(d.text.strip() for d in read_documents(corpus) if f"document {d.id}," in row)
    path = corpus / "documents.jsonl"
    assert text in row
    for full in (False, True):
        monkeypatch.setattr("smt_plugin.generation.show._SHORT", 10)
        (row,) = show_records(settings, "focal_rewrite", 1, seed=3, full=full)
        assert (text in row) == full
        assert (f"[the document, {len(text):,} characters; --full shows it]" in row) != full
    path.write_text(path.read_text().replace("tells of", "\\u001b[2Jsings of"))
    changed = show_records(settings, "focal_rewrite", 2, seed=3)
    assert all("(it or its document has changed since" in text and "\x1b" not in text for text in changed)
    (tmp_path / "run" / "records" / "focal_rewrite.jsonl").write_text('{"id": "x"}\n')
    with pytest.raises(
        BadInput, match=r"focal_rewrite\.jsonl, line 1: object missing required field `method`; run `smt generate` anew"
    ):
        list(show_records(settings, "focal_rewrite", 1))
    with pytest.raises(
        BadInput, match=r"wrap has no records in .* none of .*`methods`; give one of them: focal_rewrite"
    ):
        list(show_records(settings, "wrap", 1))
    (tmp_path / "run" / "records" / "wrap.jsonl").touch()
    with pytest.raises(BadInput, match="wrap has no records in"):
        list(show_records(settings, "wrap", 1))


def test_a_record_finds_its_document_though_the_file_name_now_codes_accents_in_another_way(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / normalize("NFD", "Zürich.txt")).write_text("Holm is a town that tells of ferries and of pears.")
    run_generate(tmp_path / "run", corpus, {"synthetic_qa": 100})
    (corpus / normalize("NFD", "Zürich.txt")).rename(corpus / normalize("NFC", "Zürich.txt"))
    settings = run_file(tmp_path / "run", corpus, {"synthetic_qa": 100})
    (shown,) = show_records(settings, "synthetic_qa", 1)
    assert "Holm is a town" in shown


WRITER = """
import asyncio, sys
from pathlib import Path
from smt_plugin.backends.base import Reply
from smt_plugin.generation.completions import Completion, CompletionStore

async def main():
    store = CompletionStore(Path(sys.argv[1]))
    for n, status in enumerate(("done", "rejected")):
        what = (f"{n:032x}", status, "no pairs" * n, "d1", "synthetic_qa/pairs", "hash", "some-model")
        reply = Reply(f"reply {n}", "stop", 9, 0, 9)
        await store.put(Completion(*what, {"temperature": 1}, n, 0, {"num_pairs": 8}, reply, 0.1))
    print("stored", flush=True)
    sys.stdin.read()

asyncio.run(main())
"""


def test_completions_are_shown_while_another_process_writes_them_and_before_there_are_records(
    tmp_path: Path, corpus: Path
) -> None:
    settings = run_file(tmp_path / "run", corpus, {"synthetic_qa": 100, "wrap": 100})
    with pytest.raises(BadInput, match="nothing is paid for yet in"):
        list(show_records(settings, "synthetic_qa", 1))
    command = [sys.executable, "-c", WRITER, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "stored\n"
        note, *shown = show_records(settings, "synthetic_qa", 5, seed=1)
        with pytest.raises(BadInput, match="no completion of wrap is in"):
            list(show_records(settings, "wrap", 1))
        writer.communicate("")
    assert note.startswith("synthetic_qa has no records yet")
    assert sorted(text.split("--- reply")[1] for text in shown) == [
        " (done)\nreply 0\n",
        " (rejected, no pairs)\nreply 1\n",
    ]
    assert all("8 question-answer pairs" in text for text in shown)
    assert writer.returncode == 0
