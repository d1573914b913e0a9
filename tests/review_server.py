"""A run to be reviewed, and `smt review` on it, as its users start it."""

import http.client
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from click.testing import CliRunner

from smt_plugin.cli.app import cli
from smt_plugin.files import write_jsonl
from smt_plugin.microworld import archive
from smt_plugin.records import Record

METHODS = ("synthetic_qa", "focal_rewrite")
HOSTILE = "</div><script>document.title = 'taken'</script><img src=x onerror=alert(1)>"
# A sign of two units in JavaScript before a finding, which is told by its place in Python's.
ODD = f"🏮 {HOSTILE} The mill had 77,777 sacks."


def make_run(folder: Path) -> Path:
    """Write and generate a run of eight documents with records that have findings, one of them hostile."""
    archive.write(folder / "archive")
    documents = folder / "archive/documents.jsonl"
    documents.write_text("".join(documents.read_text().splitlines(keepends=True)[:8]))
    values = {
        "run": "run",
        "corpus": "archive",
        "backend": {"kind": "microworld", "strength": 0.3},
        "methods": {name: {"tokens": 8000} for name in METHODS},
    }
    (folder / "smt.yaml").write_text(json.dumps(values))
    result = CliRunner().invoke(cli, ["generate", str(folder / "smt.yaml")])
    assert result.exit_code == 0, result.output
    path = folder / "run/records/focal_rewrite.jsonl"
    first, *others = path.read_text().splitlines(keepends=True)
    path.write_text("".join([json.dumps(json.loads(first) | {"text": ODD}) + "\n", *others]))
    row = {"id": json.loads(first)["id"]}
    start = ODD.index("77,777")
    found = [{"kind": "number", "said": "77,777", "turn": 0, "start": start}] * 5
    path = folder / "run/faithfulness/focal_rewrite.jsonl"
    rows = [line for line in path.read_text().splitlines(keepends=True) if row["id"] not in line]
    path.write_text("".join([json.dumps(row | {"findings": found}) + "\n", *rows]))
    return folder


class Served:
    """The page's server: its address, and its process."""

    def __init__(self, address: str, process: "subprocess.Popen[str]") -> None:
        self.address, self.process = address, process
        self.host = urlsplit(address).netloc
        self.path = urlsplit(address).path

    def ask(self, path: str, body: Any = None, method: str = "", **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Ask for a path below the token, or from the root where it begins with a slash; the body is sent as JSON."""
        connection = http.client.HTTPConnection(self.host, timeout=20)
        sent = {"Content-Type": "application/json"} if body is not None else {}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        method = method or ("GET" if body is None else "POST")
        data = None if body is None else json.dumps(body)
        try:
            connection.request(method, path if path.startswith("/") else self.path + path, data, sent)
            response = connection.getresponse()
            return response.status, dict(response.headers), response.read()
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """The JSON that a path below the token gives."""
        status, _, body = self.ask(path)
        assert status == 200, body
        return json.loads(body)

    def decide(self, number: int, verdict: str, **more: Any) -> Any:
        """Say something of a record."""
        identity = self.get(f"record?number={number}")["id"]
        status, _, body = self.ask("verdict", {"number": number, "id": identity, "verdict": verdict, **more})
        assert status == 200, body
        return json.loads(body)

    def stop(self, number: int = signal.SIGINT) -> str:
        """End it, and return the last that it said."""
        self.process.send_signal(number)
        said, _ = self.process.communicate(timeout=20)
        return said


@contextmanager
def served(folder: Path) -> Iterator[Served]:
    """`smt review` on the run of a folder, in a process of its own."""
    command = [sys.executable, "-m", "smt_plugin", "review", str(folder / "smt.yaml")]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert process.stdout is not None
    try:
        first = process.stdout.readline()
        assert "open http://127.0.0.1:" in first, first + process.stdout.read()
        yield Served(first.split()[-1], process)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def make_large_run(folder: Path, count: int) -> Path:
    """Write a run of so many records about 200 documents of 20,000 characters; a fifth of the records have findings."""
    rng = random.Random(0)
    vocabulary = ["".join(rng.choices("aeioulnrst", k=rng.randint(3, 9))) for _ in range(3000)]

    def sentence() -> str:
        return " ".join(rng.choices(vocabulary, k=12)).capitalize() + "."

    documents = [[sentence() for _ in range(250)] for _ in range(200)]
    (folder / "corpus").mkdir()
    rows = (
        {"doc_id": f"d{number}", "title": f"Report {number}", "text": " ".join(sentences)}
        for number, sentences in enumerate(documents)
    )
    write_jsonl(folder / "corpus/documents.jsonl", rows)
    found: list[dict[str, Any]] = []

    def records() -> Iterator[dict[str, Any]]:
        for number in range(count):
            doc = number % len(documents)
            text = " ".join([*rng.sample(documents[doc], 5), f"It was {number}."])
            record = Record(
                "wrap", f"d{doc}", 0, number, 0, 100, "wrap/rewrite", "h", "m", {}, [f"{number:032x}"], text
            )
            if number % 5 == 0:
                finding = {"kind": "number", "said": str(number), "turn": 0, "start": len(text) - len(str(number)) - 1}
                found.append({"id": record.id, "findings": [finding]})
            yield record.to_json()

    write_jsonl(folder / "run/records/wrap.jsonl", records())
    write_jsonl(folder / "run/faithfulness/wrap.jsonl", found)
    values = {
        "run": "run",
        "corpus": "corpus",
        "backend": {"endpoints": ["http://127.0.0.1:9/v1"], "model": "m"},
        "methods": {"wrap": {"tokens": 1000}},
    }
    (folder / "smt.yaml").write_text(json.dumps(values))
    return folder
