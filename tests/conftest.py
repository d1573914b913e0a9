"""Documents and a run file that several test modules use."""

import atexit
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from smt_plugin.corpus import Document

# What a script's background jobs and nohup ignore is ignored here too, but by the programs under test no longer:
# only a signal that has a handler is handed to a child as it was by default.
for _number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, lambda *_: None)

# What `make quick` leaves out, files or folders: they load torch or another package as heavy, or start servers and
# programs that take long.
HEAVY = (
    "backends/test_ray_servers.py",
    "backends/test_vllm_server.py",
    "evaluation/test_arms.py",
    "evaluation/test_audit.py",
    "evaluation/test_judge.py",
    "evaluation/test_leaks.py",
    "evaluation/test_lm_eval_link.py",
    "evaluation/test_lm_eval_tasks.py",
    "evaluation/test_retention.py",
    "evaluation/test_tune.py",
    "faithfulness/test_review.py",
    "generation/test_faults.py",
    "generation/test_kill.py",
    "microworld/test_base_model.py",
    "mixing/test_budgets.py",
    "mixing/test_mix.py",
    "mixing/test_rejects.py",
    "report",
    "retrieval",
    "study",
    "test_hostile_inputs.py",
    "test_loop.py",
    "test_packaging.py",
    "training",
    "vllm_server",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--write-golden` writes the golden files anew; `--quick` leaves out what is heavy."""
    parser.addoption("--write-golden", action="store_true", help="write the golden files anew")
    parser.addoption("--quick", action="store_true", help="leave out what loads torch, starts servers or takes long")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `--quick`, a heavy file is not even imported."""
    heavy = config.getoption("--quick") and any(collection_path == Path(__file__).parent / name for name in HEAVY)
    return True if heavy else None


@pytest.fixture(autouse=True)
def _stay_quick(request: pytest.FixtureRequest) -> Iterator[None]:
    """With `--quick`, a test that loads torch fails: its file is to be among `HEAVY`."""
    yield
    if request.config.getoption("--quick"):
        assert "torch" not in sys.modules, "torch was loaded; put the file that does it into HEAVY of tests/conftest.py"


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


def pytest_unconfigure() -> None:
    """Keep colorama, which Ray starts, from resetting at exit the output that was captured then and is closed now."""
    if colorama := sys.modules.get("colorama.initialise"):
        atexit.unregister(colorama.reset_all)
