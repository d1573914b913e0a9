"""`smt generate` against a real vLLM server: all three methods, and what running it again asks for."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.vllm_server.server import Server

pytestmark = pytest.mark.vllm

METHODS = ("synthetic_qa", "active_reading", "focal_rewrite")


def write_run_file(folder: Path, server: Server, tokens: int) -> None:
    documents = [
        {
            "doc_id": f"town-{number}",
            "title": f"The Town of {name}",
            "text": "".join(
                f"In the year {1800 + 3 * year} the town of {name} counted {number * 100 + year * 17} people. "
                for year in range(60)
            ),
            "meta": {"author": "A. Clerk", "year": 1990 + number},
        }
        for number, name in enumerate(("Alderholm", "Brixby", "Corvane"))
    ]
    (folder / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents))
    options: dict[str, Any] = {"tokens": tokens, "max_tokens": 2048}
    content = {
        "run": "run",
        "corpus": "documents.jsonl",
        "backend": {"endpoints": [server.url], "model": server.model, "api_key_variable": "SMT_TEST_KEY"},
        "methods": {
            "synthetic_qa": options | {"pairs_per_call": 2},
            "active_reading": options,
            "focal_rewrite": options,
        },
    }
    (folder / "smt.yaml").write_text(json.dumps(content))  # JSON is YAML


def generate(folder: Path, server: Server) -> dict[str, Any]:
    """Run `smt generate` and return its summary."""
    result = subprocess.run(
        [sys.executable, "-m", "smt_plugin", "generate", "smt.yaml"],
        cwd=folder,
        env=os.environ | {"SMT_TEST_KEY": server.api_key, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert server.api_key not in result.stdout + result.stderr
    summary: dict[str, Any] = json.loads((folder / "run" / "generate.json").read_text())
    return summary


def records(folder: Path, method: str) -> list[dict[str, Any]]:
    """Read a method's records, sorted: documents stand in the order in which they were done."""
    lines = (folder / "run" / "records" / f"{method}.jsonl").read_text().splitlines()
    return sorted((json.loads(line) for line in lines), key=lambda row: row["id"])


def test_all_methods_run_and_nothing_is_asked_twice(server: Server, tmp_path: Path) -> None:
    def requests_served() -> float:
        return server.metric("vllm:request_success_total")

    before = requests_served()
    hit = server.metric("vllm:prefix_cache_hits_total")
    write_run_file(tmp_path, server, tokens=3000)
    first = generate(tmp_path, server)
    hits = server.metric("vllm:prefix_cache_hits_total") - hit
    # vLLM counts what a step hit after it has sent the answers of that step, so the run may have missed the last one's.
    assert 0 < 0.9 * hits <= first["cache"]["hit"] <= hits
    assert first["cache"]["capacity"] > 100_000
    assert first["asked"] == requests_served() - before > 0
    assert first["cached_tokens"] > 0.5 * first["prompt_tokens"]

    old = {method: records(tmp_path, method) for method in METHODS}
    for method, rows in old.items():
        assert {row["doc_id"] for row in rows} == {"town-0", "town-1", "town-2"}
        assert all(row["model"] == server.model and row["prompt_hash"] and row["completions"] for row in rows)
        assert sum(row["tokens"] for row in rows) == first["methods"][method]["tokens"]
    # Not every question of a round is drawn, and the run may hold fewer pairs than rounds of rewriting.
    questions = {row["messages"][0]["content"] for row in old["synthetic_qa"]}
    assert questions & {row["question"] for row in old["focal_rewrite"]}

    again = generate(tmp_path, server)
    assert again["asked"] == 0
    assert requests_served() - before == first["asked"]
    assert {method: records(tmp_path, method) for method in METHODS} == old

    write_run_file(tmp_path, server, tokens=6000)
    more = generate(tmp_path, server)
    assert more["reused"] > 0
    assert requests_served() - before == first["asked"] + more["asked"]
    for method, rows in old.items():
        new = records(tmp_path, method)
        assert len(new) > len(rows)
        assert [row for row in new if row in rows] == rows
    assert server.api_key.encode() not in b"".join(
        path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()
    )
