import json
import os
from pathlib import Path
from unicodedata import normalize

import pytest

from smt_plugin.corpus import Document, SteadyCorpus, estimate_tokens, other_files, read_documents, split_document
from smt_plugin.errors import BadInput


def test_a_folder_of_text_files_is_read_in_order_of_path_with_the_file_name_as_title(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "second_story.md").write_text("Two.")
    (tmp_path / "a.txt").write_text("One.")
    (tmp_path / "picture.png").write_bytes(b"\x89")
    documents = list(read_documents(tmp_path))
    assert [(document.id, document.title) for document in documents] == [
        ("a.txt", "a"),
        ("b/second_story.md", "second story"),
    ]


def test_files_that_are_no_documents_are_counted_by_kind(tmp_path: Path) -> None:
    for name in (
        "a.txt",
        "b/c.MD",
        "d.odt",
        "b/e.ODT",
        "f.png",
        "Makefile",
        ".hidden.odt",
        ".git/x.pdf",
        "questions.jsonl",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("Text.")
    assert other_files(tmp_path) == {".odt": 2, ".png": 1, "Makefile": 1}
    assert not other_files(tmp_path / "a.txt")


def test_jsonl_keeps_ids_sources_and_meta(corpus: Path) -> None:
    assert [document.id for document in read_documents(corpus)] == ["d1", "d2", "d3", "d4"]


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({}, '"T"'),
        ({"author": "A"}, '"T" by A'),
        ({"author": "A", "year": 1950}, '"T" by A (1950)'),
        ({"identity": "Patient 7", "author": "A"}, "Patient 7"),
    ],
)
def test_identity_names_what_is_known_and_leaves_out_the_rest(meta: dict[str, object], expected: str) -> None:
    assert Document("i", "T", "x", meta=meta).identity == expected


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "holds no documents"),
        ("not json\n", "line 1: not valid JSON"),
        ("[1]\n", "line 1: expected a JSON object"),
        ('{"doc_id": "a", "title": "A"}\n', "line 1: object missing required field `text`"),
        ('{"doc_id": "a", "title": "A", "text": " "}\n', r"line 1: .* `str` that is not blank - at `\$\.text`"),
        ('{"doc_id": "", "title": "A", "text": "x"}\n', r"line 1: .* `str` that is not blank - at `\$\.doc_id`"),
        ('\n{"doc_id": " \\t", "title": "A", "text": "x"}\n', r"line 2: .* that is not blank - at `\$\.doc_id`"),
        ('{"doc_id": "a", "title": "A", "text": "x"}\n' * 2, "the document id 'a' is given twice"),
        (
            '{"doc_id": "a", "title": "A", "text": "x", "meta": 3}\n',
            r"line 1: expected `object`, got `int` - at `\$\.meta`",
        ),
    ],
)
def test_a_bad_line_is_named_in_one_sentence(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "documents.jsonl"
    path.write_text(content)
    with pytest.raises(BadInput, match=says):
        list(read_documents(path))


def test_a_missing_corpus_an_empty_file_and_a_wrong_encoding_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nowhere does not exist"):
        list(read_documents(tmp_path / "nowhere"))
    (tmp_path / "a.txt").write_text(" \n")
    with pytest.raises(BadInput, match=r"a\.txt is empty"):
        list(read_documents(tmp_path))
    (tmp_path / "a.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(BadInput, match=r"a\.txt is not UTF-8"):
        list(read_documents(tmp_path))


def test_a_document_that_fits_stays_whole(document: Document) -> None:
    assert split_document(document, estimate_tokens(document.text)) == [document]


@pytest.mark.parametrize("separator", ["\f", "\n\n", "\n# Heading\n", "\n", " "])
def test_a_long_document_is_split_where_a_reader_would_and_nothing_is_lost(separator: str) -> None:
    paragraphs = [f"Paragraph {n} has a few words. It says them, and is done." for n in range(200)]
    text = separator.join(paragraphs)
    parts = split_document(Document("d", "T", text), 500)
    assert "".join(part.text for part in parts) == text
    assert [part.part for part in parts] == list(range(len(parts)))
    assert all(part.id == "d" for part in parts)
    assert all(300 < estimate_tokens(part.text) <= 500 for part in parts)
    assert all(part.text.strip().startswith(("Paragraph", "# Heading", "It says")) for part in parts)


def test_a_text_without_any_break_is_cut_all_the_same() -> None:
    parts = split_document(Document("d", "T", "字" * 10_000), 1000)
    assert "".join(part.text for part in parts) == "字" * 10_000
    assert all(estimate_tokens(part.text) <= 1000 for part in parts)


def test_parts_keep_to_the_limit_where_the_script_changes_midway() -> None:
    text = "Plain words. " * 3000 + "字" * 30_000
    parts = split_document(Document("d", "T", text), 16_000)
    assert "".join(part.text for part in parts) == text
    assert all(2000 < estimate_tokens(part.text) <= 16_000 for part in parts)
    assert [part.part for part in parts] == list(range(len(parts)))


def test_a_byte_order_mark_is_no_text_and_line_ends_are_alike(tmp_path: Path) -> None:
    (tmp_path / "a.TXT").write_bytes(b"\xef\xbb\xbfOne\r\ntwo\rthree.")
    assert [document.text for document in read_documents(tmp_path)] == ["One\ntwo\nthree."]
    row = b'{"doc_id": "../../x", "title": "T", "text": "x"}\r\n'
    (tmp_path / "documents.jsonl").write_bytes(b"\xef\xbb\xbf" + row)
    assert [document.id for document in read_documents(tmp_path)] == ["../../x"]


def test_linked_folders_are_read_once_however_they_loop(tmp_path: Path) -> None:
    corpus, other = tmp_path / "corpus", tmp_path / "other"
    for folder, name in ((corpus, "a.txt"), (other, "b\n.txt")):
        folder.mkdir()
        (folder / name).write_text("Text.")
        (folder / "loop").symlink_to(corpus)
    (corpus / "linked").symlink_to(other)
    assert [document.id for document in read_documents(corpus)] == ["a.txt", "linked/b\n.txt"]


def test_what_cannot_be_read_is_named_and_never_left_out(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("Text.")
    dangling = tmp_path / "gone.txt"
    dangling.symlink_to(tmp_path / "nowhere")
    with pytest.raises(BadInput, match=r"gone\.txt is a link to nothing"):
        list(read_documents(tmp_path))
    dangling.unlink()
    (tmp_path / "folder.txt").mkdir()
    assert len(list(read_documents(tmp_path))) == 1
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("Text.")
    with pytest.raises(BadInput, match=r"caf\\udce9\.txt' is not UTF-8; rename it"):
        list(read_documents(tmp_path))


def test_hidden_files_and_folders_are_no_documents(tmp_path: Path) -> None:
    (tmp_path / ".venv").mkdir()
    for name in ("a.txt", "._a.txt", ".venv/licence.txt"):
        (tmp_path / name).write_text("Text.")
    assert [document.id for document in read_documents(tmp_path)] == ["a.txt"]


def test_a_pipe_is_named_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(BadInput, match=r"pipe\.txt is no regular file"):
        list(read_documents(tmp_path))
    os.mkfifo(tmp_path / "documents.jsonl")
    with pytest.raises(BadInput, match=r"documents\.jsonl is no regular file"):
        list(read_documents(tmp_path / "documents.jsonl"))


@pytest.mark.parametrize("line", [r'{"doc_id": "a", "title": "A", "text": "\ud800"}', "[" * 100_000, '{"a": \0}'])
def test_json_that_no_reader_takes_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "documents.jsonl"
    path.write_text(line)
    with pytest.raises(BadInput, match="line 1: not valid JSON"):
        list(read_documents(path))


HARBOUR = "The harbour of Sandvik was dug in 1871.\nForty boats lie there, and all of them are counted.\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (HARBOUR.encode("utf-16"), r"is UTF-16 text, not UTF-8; convert it: iconv -f UTF-16 -t UTF-8\.$"),
        (HARBOUR.encode("utf-16-le"), r"is UTF-16LE text, not UTF-8; convert it: iconv -f UTF-16LE "),
        (HARBOUR.encode("utf-16-be"), r"is UTF-16BE text"),
        (HARBOUR.encode("utf-32"), r"is UTF-32 text"),
        ("Гавань вырыта в 1871 году.".encode("utf-16-le"), r"is UTF-16LE text"),
        ("Größe".encode("latin-1"), r"is not UTF-8 text \(byte 0xF6 in line 1\); convert it: iconv -f ITS-ENCODING"),
        (b"The harbour\nof S\0andvik", r"holds NUL characters, .* the first of 1 in line 2"),
        (b"--- *** ---\n", r"holds no letter or digit; remove it"),
        (b" \n", r"is empty"),
    ],
)
def test_what_no_text_can_be_written_from_is_named_with_its_mend(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "scan.txt").write_bytes(content)
    with pytest.raises(BadInput, match=rf"scan\.txt {says}"):
        list(read_documents(tmp_path))


def test_all_bad_files_of_a_folder_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Good.")
    (tmp_path / "b.txt").write_bytes("Größe".encode("utf-16"))
    (tmp_path / "c.txt").write_bytes(b"Size\0.")
    (tmp_path / "d.txt").write_text("Good, too.")
    (tmp_path / "e.txt").write_text("***")
    documents = read_documents(tmp_path)
    assert next(documents).id == "a.txt"
    with pytest.raises(BadInput) as error:
        next(documents)
    assert [sentence.split()[0] for sentence in error.value.sentences] == [
        str(tmp_path / name) for name in ("b.txt", "c.txt", "e.txt")
    ]


def test_all_bad_lines_of_a_file_are_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "documents.jsonl"
    texts = [r'"x"', r'"a\u0000b"', '"***"', "3", '"y"']
    path.write_text("".join(f'{{"doc_id": "{n}", "title": "A", "text": {text}}}\n' for n, text in enumerate(texts)))
    with path.open("a") as file:
        file.write("no JSON")
    with pytest.raises(BadInput) as error:
        list(read_documents(path))
    said = [sentence.removeprefix(f"{path}, line ") for sentence in error.value.sentences]
    assert [sentence[0] for sentence in said] == ["2", "3", "4", "6"]
    assert said[0].startswith("2: the text holds NUL characters")


def test_a_jsonl_file_in_utf_16_is_named(tmp_path: Path) -> None:
    path = tmp_path / "documents.jsonl"
    for encoding, name in (("utf-16", "UTF-16"), ("utf-16-le", "UTF-16LE")):
        path.write_text('{"doc_id": "a", "title": "A", "text": "x"}\n', encoding=encoding)
        with pytest.raises(BadInput, match=f"is {name} text, not UTF-8"):
            list(read_documents(path))


def test_ids_that_only_look_the_same_are_refused(tmp_path: Path) -> None:
    for form in ("NFC", "NFD"):
        (tmp_path / normalize(form, "Zürich.txt")).write_text("Text.")
    with pytest.raises(BadInput, match=r"'Zu\\u0308rich.txt' and 'Z\\xfcrich.txt' look the same") as error:
        list(read_documents(tmp_path))
    assert len(error.value.sentences) == 1


def test_an_id_stays_as_the_file_system_has_it(tmp_path: Path) -> None:
    (tmp_path / normalize("NFD", "Zürich.txt")).write_text("Text.")
    (document,) = read_documents(tmp_path)
    assert (document.id, document.title) == (normalize("NFD", "Zürich.txt"), normalize("NFD", "Zürich"))


SENTENCES = [
    "守港人又数了一遍船只，并把数目写进蓝皮日志里，然后回家吃饭去了。",
    "港守は船を数え、その数を青い日誌に書き込んでから、家に帰って夕飯を食べた。",
    "कप्तान ने नावें गिनीं और संख्या नीली किताब में लिखकर घर चला गया। ",
    "عدّ الحارس القوارب ثم كتب العدد في الدفتر الأزرق فهل عاد إلى بيته؟ ",
    "محافظ نے کشتیاں گنیں اور تعداد نیلی کتاب میں لکھ کر گھر چلا گیا۔ ",
    "အစောင့်သည်လှေများကိုရေတွက်ပြီးအပြာရောင်စာအုပ်တွင်ရေးခဲ့သည်။",
    "អ្នកយាមបានរាប់ទូកហើយកត់ចំនួនក្នុងសៀវភៅពណ៌ខៀវរួចទៅផ្ទះ។",
    "སྲུང་མཁན་གྱིས་གྲུ་རྩིས་ནས་དེབ་སྔོན་པོའི་ནང་བྲིས་སོང་། ",
    "คนเฝ้าท่าเรือนับเรืออีกครั้งแล้วจดจำนวนลงในสมุดปกสีน้ำเงินก่อนกลับบ้าน ",
]


@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_long_document_is_split_where_a_sentence_of_its_script_ends(sentence: str) -> None:
    text = sentence * 300
    parts = split_document(Document("d", "T", text), 1000)
    assert len(parts) > 5
    assert "".join(part.text for part in parts) == text
    assert all(part.text.strip().startswith(sentence[:12]) for part in parts)


def test_a_corpus_read_again_is_the_same_to_the_last_document_or_says_which_is_not(tmp_path: Path) -> None:
    def write(*rows: tuple[str, str]) -> None:
        lines = (json.dumps({"doc_id": doc_id, "title": "T", "text": text}) for doc_id, text in rows)
        (tmp_path / "d.jsonl").write_text("\n".join(lines))

    rows = [("a", "One."), ("b", "Two."), ("c", "Three.")]
    for changed, says in (
        (rows[:2], "it holds 2 documents and held 3"),
        ([*rows, ("d", "Four.")], "the document 'd' is not"),
        ([rows[1], rows[0], rows[2]], "the document 'b' is not"),
        ([rows[0], ("b", "2."), rows[2]], "the document 'b' is not"),
        ([rows[0], ("b", " "), rows[2]], "line 2: .* not blank"),
    ):
        write(*rows)
        corpus = SteadyCorpus(tmp_path / "d.jsonl")
        for _ in range(3):
            assert [document.id for document in corpus] == ["a", "b", "c"]
        write(*changed)
        with pytest.raises(RuntimeError, match=rf"d\.jsonl has changed since this command began: .*{says}"):
            list(corpus)
