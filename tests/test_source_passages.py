import json
import os
from pathlib import Path

import pytest

from smt_plugin.errors import BadInput
from smt_plugin.source_passages import KeptDocuments, SourceText

FIRST = "The mill stood by the river for two hundred years."
SECOND = "In 1816 Ada Byron bought it for nine guineas, and her brother painted its door green."
THIRD = "The river froze in the winter of that year. Nobody came to the mill."
FOURTH = "A fire took the roof; the baker carried water until dawn."
TEXT = f"{FIRST} {SECOND}\n\n{THIRD}\n\n{FOURTH}"


def found(said: str, text: str = TEXT, names: str = "") -> str | None:
    passage = SourceText(text, names).passage(said)
    return text[passage.start : passage.end] if passage else None


@pytest.mark.parametrize(
    ("said", "passage"),
    [
        ("Who bought the mill? Ada Byron did, for nine guineas.", SECOND),
        ("Until dawn the baker was carrying water.", FOURTH),
        ("That winter the river was frozen, and the mill had no guests: nobody came.", THIRD),
    ],
)
def test_the_passage_is_the_one_with_most_of_the_words(said: str, passage: str) -> None:
    assert found(said) == passage


def test_nothing_is_found_for_what_shares_no_word() -> None:
    assert found("Kein einziges Wort davon.") is None
    assert found("", TEXT) is None


def test_the_name_of_the_document_tells_no_passage_unless_there_is_nothing_else() -> None:
    text = f"The green door. A story.\n\n{TEXT}"
    assert found("In The green door, a story: who carried water?", text, "The green door, a story") == FOURTH
    assert found("The green door", text, "The green door, a story") == "The green door."


def test_a_long_text_has_a_passage_as_long_as_itself_and_a_short_one_a_few_sentences() -> None:
    sentences = [f"Alpha{n} beta{n} gamma{n} delta{n} epsilon{n} zeta{n}." for n in range(200)]
    text = " ".join(sentences)
    begin, end = text.index("Alpha50 "), text.index("Alpha70 ")
    passage = found(text[begin:end], text)
    assert passage is not None
    assert passage in text[begin:end]
    assert len(passage) > 0.8 * len(text[begin:end])
    assert found("gamma7 and epsilon7", text) == sentences[7]


def test_a_table_without_sentences_is_cut() -> None:
    text = " | ".join(f"row{n} value{n}" for n in range(500))
    passage = found("value321", text)
    assert passage is not None
    assert "value321" in passage
    assert len(passage) <= 400


def test_scripts_without_spaces_are_searched_too() -> None:
    text = "磨坊建于河边。一八一六年艾达买下了它。冬天河水结冰。"
    assert found("一八一六年谁买下了它？是艾达。", text) == "一八一六年艾达买下了它。"


def corpus(folder: Path, *texts: str) -> Path:
    path = folder / "documents.jsonl"
    rows = [{"doc_id": f"d{n}", "title": f"Title {n}", "text": text} for n, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_part_of_a_long_document_is_searched_alone_and_told_by_its_place_in_the_whole(tmp_path: Path) -> None:
    chapters = [f"# Chapter {n}\n\nThe clerk counted {n} ships. " + f"Rain fell on pier {n}. " * 40 for n in range(12)]
    text = "\n\n \n\n".join(chapters)
    with KeptDocuments(corpus(tmp_path, TEXT, text), tmp_path / "scratch") as documents:
        starts = []
        for number in range(100):
            part = documents.part("d1", number, 400)
            if part is None:
                break
            starts.append(part.start)
            assert text[part.start :].startswith(part.document.text)
            assert part.document.part == number
            passage = part.passage("How many ships did the clerk count?")
            if passage and "clerk" in part.document.text:
                assert "The clerk counted" in text[passage.start : passage.end]
                assert part.start <= passage.start < passage.end <= part.start + len(part.document.text)
        assert len(starts) > 5
        assert starts == sorted(starts)
        assert documents.part("d1", number, 400) is None
        whole = documents.part("d0", 0, 16_000)
        assert whole is not None
        assert (whole.start, whole.whole) == (0, TEXT)
        assert documents.part("d2", 0, 16_000) is None
        assert (documents.identity("d0"), documents.identity("d2")) == ('"Title 0"', None)


def test_ids_are_found_whichever_way_their_accents_are_coded(tmp_path: Path) -> None:
    path = tmp_path / "documents.jsonl"
    path.write_text(json.dumps({"doc_id": "caf\u00e9", "title": "t", "text": TEXT}))
    with KeptDocuments(path, tmp_path) as documents:
        assert documents.part("cafe\u0301", 0, 16_000) is not None


def test_nothing_is_left_of_the_file_and_a_broken_corpus_is_told(tmp_path: Path) -> None:
    with KeptDocuments(corpus(tmp_path, TEXT), tmp_path / "scratch"):
        assert os.listdir(tmp_path / "scratch") == []
    with pytest.raises(BadInput, match="line 2"):
        KeptDocuments(corpus(tmp_path, TEXT, " "), tmp_path / "scratch")
