import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from smt_plugin.cli.app import cli
from smt_plugin.inspection import inspect_corpus

STORY = "The keeper of Holm climbed {n} steps each night and wrote the log while the lamp burned over the dark sea. "


def write(path: Path, texts: dict[str, str], **meta: dict[str, object]) -> Path:
    rows = [{"doc_id": name, "title": name, "text": text, "meta": meta.get(name, {})} for name, text in texts.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def story(number: int) -> str:
    """A text of its own words, no two numbers alike."""
    return " ".join(
        f"The {word}{number} of the island is told of in part {n}." for n, word in enumerate(["sea", "fog"] * 20)
    )


def test_copies_and_near_copies_are_named_with_what_they_cost(tmp_path: Path) -> None:
    near = story(1).replace("in part 7.", "in chapter 7.")
    texts = {"a": story(1), "b": story(2), "c": story(1).upper(), "d": near, "e": story(1).replace("part 7", "part 8")}
    found = inspect_corpus(write(tmp_path / "corpus.jsonl", texts))
    assert [(one, other) for one, other, _ in found.copies] == [("c", "a"), ("d", "a")]
    assert (found.copies[0][2], found.num_copies) == (1.0, 2)
    assert 0.8 <= found.copies[1][2] < 1
    assert found.copied_tokens == pytest.approx(2 * found.tokens / 5, rel=0.01)


def test_languages_and_the_longest_are_told(tmp_path: Path) -> None:
    texts = {
        "en": STORY.format(n=214) * 2,
        "de": "Der Wärter stieg jede Nacht auf den Turm, und die Lampe brannte über dem Meer. " * 9,
        "zh": "守塔人每天晚上都爬上灯塔，灯光照亮了黑暗的大海。" * 3,
        "none": "214 42 17 3.5",
    }
    found = inspect_corpus(write(tmp_path / "corpus.jsonl", texts))
    assert found.languages == {"en": 1, "de": 1, "zh": 1, "": 1}
    assert found.longest[0][0] == "de"
    assert "only 0% of its signs are letters" in found.odd["none"]


def test_lines_that_documents_repeat_are_boilerplate_beyond_the_first(tmp_path: Path) -> None:
    line = "This publication may not be copied without the permission of the board."
    texts = {f"d{n}": f"{story(n)}\n{line}\n{line}" for n in range(4)} | {"own": f"{story(9)}\nOnly here: {line}"}
    found = inspect_corpus(write(tmp_path / "corpus.jsonl", texts))
    assert found.repeated == [(line, 4)]
    assert found.boilerplate == pytest.approx(3 * len(line) / sum(map(len, texts.values())))


def test_pages_that_are_empty_or_nearly_so_and_damaged_texts_are_named(tmp_path: Path) -> None:
    texts = {"a": f"[page 1]\n{story(1)}\n\n[page 2]\nBlank.\n\n[page 4]\n7", "b": f"{story(2)} \ufffd\ufffd"}
    found = inspect_corpus(write(tmp_path / "corpus.jsonl", texts, a={"pages_without_text": [3]}))
    assert found.empty_pages == {"a": [3]}
    assert found.short_pages == {"a": [2, 4]}
    assert found.odd == {"b": "2 signs stand for what could not be read"}


def test_the_command_prints_tables_and_writes_a_page_that_is_safe_to_open(tmp_path: Path) -> None:
    texts = {"<b>a</b>": story(1), "c": story(1)}
    corpus, page = write(tmp_path / "corpus.jsonl", texts), tmp_path / "page.html"
    done = CliRunner().invoke(cli, ["inspect", str(corpus), "--output", str(page)])
    assert done.exit_code == 0, done.output
    assert "1 of 2, 50.0% of the tokens" in done.output
    html = page.read_text()
    assert "&lt;b&gt;a&lt;/b&gt;" in html
    assert "<b>a" not in html
    assert "Pages without text" not in html
