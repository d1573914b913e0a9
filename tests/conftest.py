"""Documents and a run file that several test modules use."""

import atexit
import json
import signal
import sys
from pathlib import Path

import pytest

from smt_plugin.corpus import Document

# What a script's background jobs and nohup ignore is ignored here too, but by the programs under test no longer:
# only a signal that has a handler is handed to a child as it was by default.
for _number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, lambda *_: None)


@pytest.fixture
def document() -> Document:
    """A document whose text would be a template, were it ever rendered."""
    return Document(
        id="lighthouse",
        title="The Lighthouse",
        text="The keeper wrote {{ 7 * 7 }} in the log.\n\nThe lamp {% raw %} burned for 30 years.",
        meta={"author": "A. Sample", "year": 1952},
    )


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder with documents.jsonl: four documents of different length."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    rows = [
        {"doc_id": f"d{n}", "title": f"Story {n}", "text": f"Story {n} tells of the number {n}. " * (5 * n)}
        for n in range(1, 5)
    ]
    (folder / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def pytest_addoption(parser: pytest.Parser) -> None:
    """`pytest --write-golden` writes the golden files anew."""
    parser.addoption("--write-golden", action="store_true", help="write the golden files anew")


def pytest_unconfigure() -> None:
    """Keep colorama, which Ray starts, from resetting at exit the output that was captured then and is closed now."""
    if colorama := sys.modules.get("colorama.initialise"):
        atexit.unregister(colorama.reset_all)
