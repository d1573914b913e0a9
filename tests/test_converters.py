import logging
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from smt_plugin import converters
from smt_plugin.cli.app import cli
from smt_plugin.converters import Unreadable, convert
from smt_plugin.corpus import Document, leave_out_bad, read_documents, split_document
from smt_plugin.errors import BadInput
from smt_plugin.retrieval.index import pages_of
from tests.document_files import write_docx, write_epub, write_pdf, write_pptx


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    return folder


def only(folder: Path) -> Document:
    (document,) = read_documents(folder)
    return document


def test_the_pages_of_a_pdf_are_sections_and_one_without_text_is_named(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pages = ["The light of Holm was lit in 1952.", "", "", "It has 214 steps.", ""]
    write_pdf(folder / "light_house.pdf", pages, title="The Keepers &amp; the Light")
    with caplog.at_level(logging.WARNING):
        document = only(folder)
        assert only(folder) == document
    assert document.title == "The Keepers & the Light"
    assert pages_of(document.text) == [(0, f"{pages[0]}\n\n"), (3, pages[3])]
    assert document.meta["pages_without_text"] == [2, 3, 5]
    assert [record.getMessage() for record in caplog.records] == [
        f"{folder / 'light_house.pdf'}: pages without text, as scans have none, are left out: 2-3, 5 of 5"
    ]


def test_headings_and_tables_of_office_files_are_markdown(folder: Path) -> None:
    write_docx(folder / "a.docx", "The Light of Holm", ["It was lit in 1952."], [["Steps", "Height"], ["214", "42.7"]])
    document = only(folder)
    assert document.title == "The Light of Holm"
    assert "# The Light of Holm\n\nIt was lit in 1952." in document.text
    assert "| 214 | 42.7 |" in document.text


def test_slides_are_pages(folder: Path) -> None:
    write_pptx(folder / "a.pptx", ["The light of Holm", "It has 214 steps"])
    document = only(folder)
    assert [page for page, _ in pages_of(document.text)] == [0, 1]
    assert "214 steps" in pages_of(document.text)[1][1]


def test_a_presentation_with_a_picture_that_is_missing_keeps_its_text(folder: Path) -> None:
    write_pptx(folder / "a.pptx", ["The light of Holm", "It has 214 steps"], missing_picture=True)
    assert only(folder).text == "[page 1]\nThe light of Holm\n\n[page 2]\nIt has 214 steps"


def test_html_and_epub_keep_their_titles_and_lose_addresses_and_pictures(folder: Path) -> None:
    body = '<h1>Holm</h1><p>It has <a href="http://x.y/z">214 steps</a>.<img src="a.png" alt="A tower"/></p>'
    (folder / "a.html").write_text(
        f'<html><head><title>The Light</title><meta name="viewport" content="x"></head><body>{body}</body></html>'
    )
    write_epub(folder / "b.epub", "The Keepers", [body, "<p>The end came in 1984.</p>"])
    page, book = read_documents(folder)
    assert (page.title, book.title) == ("The Light", "The Keepers")
    assert "1984" in book.text
    for document in (page, book):
        assert "It has 214 steps." in document.text
        assert not any(word in document.text for word in ("http", "png", "viewport", "title:"))


def test_a_file_is_converted_once_while_its_content_is_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pdf(folder / "a.pdf", ["The light of Holm."])
    before = only(folder)
    (folder / "a.pdf").rename(folder / "b.pdf")
    with monkeypatch.context() as patch:
        patch.setattr(converters, "_apart", lambda path: pytest.fail("converted again"))
        assert only(folder).text == before.text
    write_pdf(folder / "b.pdf", ["The dark of Holm."])
    assert "dark" in convert(folder / "b.pdf").text


def test_the_page_that_smt_questions_writes_into_a_folder_is_no_document(folder: Path) -> None:
    (folder / "a.html").write_text("<p>The light of Holm.</p>")
    (folder / "questions.html").write_text("<p>How many steps?</p>")
    assert only(folder).id == "a.html"


def test_all_files_that_cannot_be_read_are_named_at_once_and_skip_bad_goes_on_without_them(folder: Path) -> None:
    (folder / "a.txt").write_text("The light of Holm.")
    write_pdf(folder / "scan.pdf", ["", ""])
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 nonsense")
    (folder / "broken.docx").write_bytes(b"PK\x03\x04 nonsense")
    (folder / "empty.html").write_text("<html></html>")
    (folder / "old.txt").write_bytes("Der Wärter heißt Jörg und trägt Stiefel.".encode("cp1252"))
    with pytest.raises(BadInput) as error:
        list(read_documents(folder))
    said = {Path(sentence.split(" ")[0]).name: sentence for sentence in error.value.sentences}
    assert said.keys() == {"scan.pdf", "broken.pdf", "broken.docx", "empty.html", "old.txt"}
    assert "has no text on any of its 2 pages" in said["scan.pdf"]
    assert "cannot be read as a PDF" in said["broken.pdf"]
    assert "holds no text" in said["empty.html"]
    run_file = folder.parent / "smt.yaml"
    done = CliRunner().invoke(cli, ["init", str(folder), "--output", str(run_file), "--skip-bad"])
    assert done.exit_code == 0, done.output
    assert done.output.count("left out: ") == 5
    assert only(folder).id == "a.txt"
    assert yaml.safe_load((folder / "corpus.yaml").read_text())["leave_out"].keys() == said.keys()


def test_an_encoding_is_guessed_and_read_where_corpus_yaml_names_it(folder: Path) -> None:
    text = "Смотритель маяка записал в журнале, что свет виден за двадцать миль. " * 9
    (folder / "a.txt").write_bytes(text.encode("cp1251"))
    (folder / "b.txt").write_text("Свет")
    with pytest.raises(BadInput, match=r"It seems to be cp1251, which `encoding: cp1251` in corpus\.yaml"):
        list(read_documents(folder))
    (folder / "corpus.yaml").write_text("encoding: cp1251\n")
    assert [document.text for document in read_documents(folder)] == [text, "Свет"]


def test_no_encoding_is_guessed_of_a_few_words_that_many_fit(folder: Path) -> None:
    (folder / "a.txt").write_bytes("Grüße aus Köln".encode("latin-1"))
    with pytest.raises(BadInput, match=r"a\.txt.*UTF-8") as error:
        list(read_documents(folder))
    assert "seems" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("encodin: cp1251", "unknown field `encodin`"),
        ("encoding: klingon", "encoding: 'klingon' is unknown"),
        ("leave_out: [a.txt]", "expected `object`"),
        ("a: [", "is no valid YAML"),
    ],
)
def test_a_corpus_yaml_of_another_form_is_refused(folder: Path, content: str, says: str) -> None:
    (folder / "a.txt").write_text("Text.")
    (folder / "corpus.yaml").write_text(content)
    with pytest.raises(BadInput, match=says):
        list(read_documents(folder))


def test_a_file_that_is_too_large_is_not_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (folder / "a.pdf").open("wb") as file:
        file.truncate(300 * 2**20)
    with pytest.raises(Unreadable, match="has 300 MB, more than 200"):
        convert(folder / "a.pdf")


@pytest.fixture
def liteparse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that takes the converter's place in the next process that converts."""
    monkeypatch.syspath_prepend(tmp_path / "stand-in")
    monkeypatch.setattr(converters, "_worker", None)
    path = tmp_path / "stand-in" / "liteparse.py"
    path.parent.mkdir()
    return path


def test_without_the_extra_a_pdf_is_never_left_out_silently(folder: Path, liteparse: Path) -> None:
    write_pdf(folder / "a.pdf", ["The light of Holm."])
    liteparse.write_text("raise ModuleNotFoundError('no', name='liteparse')")
    with pytest.raises(BadInput, match=r"pip install 'smt-plugin\[documents\]'"):
        list(read_documents(folder))


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "b.pdf made its converter crash, as damaged files do; mend"),
        ("time.sleep(600)", "b.pdf was not read in 1 s; mend or split it"),
    ],
)
def test_a_file_that_crashes_or_hangs_its_converter_is_named_and_the_others_are_read(
    folder: Path, liteparse: Path, monkeypatch: pytest.MonkeyPatch, does: str, reason: str
) -> None:
    liteparse.write_text(f"import os, signal, time\n{does}")
    monkeypatch.setattr(converters, "_LONGEST_SECONDS", 1)
    (folder / "a.md").write_text("The light of Holm.")
    write_pdf(folder / "b.pdf", ["The light of Holm."])
    write_docx(folder / "c.docx", "Holm", ["The dark of Holm."])
    for _ in range(2):  # a process that is gone is replaced
        with pytest.raises(BadInput) as caught:
            list(read_documents(folder))
        assert len(caught.value.sentences) == 1
        assert reason in str(caught.value)


def test_a_long_document_is_split_at_pages() -> None:
    text = "\n\n".join(f"[page {number}]\n# Part\n\n" + "word " * 80 for number in range(1, 9))
    parts = split_document(Document("d", "T", text), 300)
    assert len(parts) > 2
    assert all(part.text.lstrip().startswith("[page ") for part in parts)
    assert "".join(part.text for part in parts) == text


def test_of_a_thousand_mixed_files_thirty_of_them_bad_970_are_documents_and_one_list_names_the_30(folder: Path) -> None:
    for number in range(1000):
        path, text = folder / f"{number:04}", f"The light number {number} of Holm has {number + 200} steps."
        if number % 34 == 5:
            path.with_suffix((".pdf", ".docx", ".epub")[number % 3]).write_bytes(b"nonsense")
        elif number % 5 == 0:
            write_pdf(path.with_suffix(".pdf"), [text])
        elif number % 5 == 1:
            write_docx(path.with_suffix(".docx"), "Light", [text])
        elif number % 5 == 2:
            path.with_suffix(".html").write_text(f"<p>{text}</p>")
        elif number % 5 == 3:
            write_epub(path.with_suffix(".epub"), "Light", [f"<p>{text}</p>"])
        else:
            path.with_suffix(".txt").write_text(text)
    with pytest.raises(BadInput) as error:
        list(read_documents(folder))
    assert len(error.value.sentences) == 30
    assert leave_out_bad(folder).keys() == {Path(sentence.split(" ")[0]).name for sentence in error.value.sentences}
    documents = list(read_documents(folder))
    assert len(documents) == 970
    assert all(f"{int(document.id[:4]) + 200} steps" in document.text for document in documents)
