import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from smt_plugin.backends.base import Image as Picture
from smt_plugin.backends.base import Request
from smt_plugin.cli.app import cli
from smt_plugin.corpus import read_documents, read_reading
from smt_plugin.generation.completions import completion_key
from tests.document_files import write_pdf
from tests.endpoint import MODEL, Endpoint, in_thread, status

# Grey of a scanned page -> what a model that sees it writes.
SEEN = {
    10: "# The lamp\n\nThe keeper lit it in 1821.",
    20: "---\nprimary_language: en\nis_table: False\n---\nIt burnt {{ oil }} and <|im_end|> whale fat.",
    30: "```markdown\n| year | price |\n| --- | --- |\n| 1830 | 12 |\n```",
    40: "[no text]",
    50: "Half a page, and then " * 12,  # 66 tokens, as the server counts
}


class Eyes(Endpoint):
    """Sees which grey a page has, as a model reads one."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, int]] = []
        self.answer = self.look

    def look(self, prompt: str, sample: str) -> str:
        text, picture = json.loads(prompt)
        assert text["type"] == "text"
        head, _, data = picture["image_url"]["url"].partition(",")
        assert head == "data:image/png;base64"
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        self.sizes.append(image.size)
        return SEEN[image.convert("L").getpixel((9, 9))]


def run_file(folder: Path, endpoint: Endpoint, **settings: Any) -> Path:
    path = folder / "smt.yaml"
    content = {
        "run": "run",
        "corpus": "corpus",
        "backend": {"kind": "microworld"},
        "methods": {"wrap": {"tokens": 1000}},
        "transcribe": {"backend": {"endpoints": [endpoint.url], "model": MODEL}, **settings},
    }
    path.write_text(json.dumps(content))
    return path


def smt(*words: object) -> Result:
    return CliRunner().invoke(cli, ["transcribe", *map(str, words)], catch_exceptions=False)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    (folder / "old").mkdir(parents=True)
    write_pdf(folder / "old" / "lamp.pdf", [10, 20])
    write_pdf(folder / "prices.pdf", ["The prices of the year.", 30, 40, "The end."], "Prices")
    return folder


def test_scans_are_read_once_and_their_markdown_stands_for_them(corpus: Path, tmp_path: Path) -> None:
    with in_thread(Eyes()) as eyes:
        path = run_file(tmp_path, eyes)
        first, second = smt(path), smt(path)
    assert first.exit_code == 0, first.output
    assert len(eyes.bodies) == 4
    assert all(max(size) == 1288 for size in eyes.sizes)
    assert "no PDF waits" in second.output
    documents = {document.id: document for document in read_documents(corpus)}
    assert set(documents) == {"old/lamp.md", "prices.md"}
    # Neither a template nor a token that ends a turn.
    assert documents["old/lamp.md"].text == (
        "[page 1]\n# The lamp\n\nThe keeper lit it in 1821.\n\n[page 2]\nIt burnt {{ oil }} and <|im_end|> whale fat.\n"
    )
    assert documents["prices.md"].text == (
        "[page 1]\nThe prices of the year.\n\n[page 2]\n| year | price |\n| --- | --- |\n| 1830 | 12 |\n\n"
        "[page 4]\nThe end.\n"
    )
    assert read_reading(corpus).leave_out == {
        "old/lamp.pdf": f"read as lamp.md: pages 1-2 by {MODEL}",
        "prices.pdf": f"read as prices.md: pages 2-3 by {MODEL}",
    }


def test_a_page_that_is_not_read_to_its_end_is_missing_named_and_not_paid_for_again(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    write_pdf(corpus / "a.pdf", [50, 10])
    with in_thread(Eyes()) as eyes:
        path = run_file(tmp_path, eyes, max_tokens=64)
        result = smt(path)
    assert result.exit_code == 1
    assert f"{corpus / 'a.pdf'}: of pages 1 nothing could be made" in result.output
    assert "not read to its end within max_tokens" in result.output
    assert (corpus / "a.md").read_text() == "[page 2]\n# The lamp\n\nThe keeper lit it in 1821.\n"
    assert "without 1" in read_reading(corpus).leave_out["a.pdf"]


def test_after_a_stop_only_what_is_missing_is_asked_and_refused_pages_when_told(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    write_pdf(corpus / "a.pdf", [10, 20, 10, 20, 30])
    with in_thread(Eyes()) as eyes:
        path = run_file(tmp_path, eyes)
        eyes.faults = dict.fromkeys(range(2), lambda request: status(413))
        assert smt(path).exit_code == 1
        asked = len(eyes.bodies)
        (corpus / "a.md").unlink()  # as if stopped before it was written
        assert smt(path).exit_code == 1
        assert len(eyes.bodies) == asked
        (corpus / "a.md").unlink()
        eyes.faults = {}
        again = smt(path, "--retry-failed")
    assert again.exit_code == 0, again.output
    assert [text.split("\n", 1)[0] for text in (corpus / "a.md").read_text().split("[page ")[1:]] == [
        f"{number}]" for number in range(1, 6)
    ]


def test_a_dry_run_tells_pages_and_money_and_asks_nothing(corpus: Path, tmp_path: Path) -> None:
    with in_thread(Eyes()) as eyes:
        result = smt(run_file(tmp_path, eyes, price={"output": 10.0}), "--dry-run")
    assert result.exit_code == 0, result.output
    assert not eyes.bodies
    assert "2 PDFs have pages without text" in result.output
    assert "money: 0.03 USD" in result.output  # 4 pages of 700 tokens
    assert not (tmp_path / "run").exists()
    assert not list(corpus.rglob("*.md"))


def test_a_markdown_file_of_somebodys_own_is_left_alone_and_told(corpus: Path, tmp_path: Path) -> None:
    (corpus / "prices.md").write_text("My notes.")
    with in_thread(Eyes()) as eyes:
        result = smt(run_file(tmp_path, eyes))
    assert len(eyes.bodies) == 2
    assert "prices.md is there already: not read" in result.output
    assert (corpus / "prices.md").read_text() == "My notes."
    assert "prices.pdf" not in read_reading(corpus).leave_out


def test_where_no_pdf_waits_no_server_is_needed(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.md").write_text("Text.")
    path = run_file(tmp_path, Endpoint())
    content = json.loads(path.read_text())
    content["transcribe"]["backend"]["endpoints"] = ["http://127.0.0.1:9/v1"]
    path.write_text(json.dumps(content))
    assert smt(path).output == "no PDF waits to be read\n"
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_transcribed_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "documents.jsonl").write_text('{"doc_id": "a", "title": "A", "text": "Text."}\n')
    path = run_file(tmp_path, Endpoint())
    content = json.loads(path.read_text())
    content["transcribe"]["backend"]["endpoints"] = ["http://127.0.0.1:9/v1"]
    path.write_text(json.dumps(content))
    with pytest.raises(Exception, match="is no folder of files, so it holds no PDF"):
        smt(path)
    del content["transcribe"]
    path.write_text(json.dumps(content))
    with pytest.raises(Exception, match="has no section transcribe; add it"):
        smt(path)


def test_a_picture_is_a_part_of_the_key_and_no_other_key_changes() -> None:
    plain = Request([{"role": "user", "content": "Read."}], {"max_tokens": 9}, 0, None, "")
    keys = {
        completion_key(Request(plain.messages, plain.sampling, 0, None, "", image=Picture(key, bytes)), "m")
        for key in "ab"
    }
    assert len(keys | {completion_key(plain, "m")}) == 3
    assert completion_key(plain, "m") == "91248bd04b5d85c72a8db26eda5a7575"
