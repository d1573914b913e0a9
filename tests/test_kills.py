"""Kills of every command that writes: no file is ever half, and the command run again ends as if left alone.

Each is killed ten times; `SMT_TEST_KILLS=50` says how often.
"""

import json
import os
import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from smt_plugin.microworld import archive
from tests.document_files import write_pdf
from tests.endpoint import MODEL, Endpoint, answer, in_thread
from tests.evaluation.test_make_questions import examiner
from tests.kills import ROOT, Driver, driver

KILLS = int(os.environ.get("SMT_TEST_KILLS", "10"))
BASE = ROOT / "smt_plugin" / "microworld" / "base_model"
IMPORTED = [
    *("smt_plugin.cli.app", "smt_plugin.mixing.mix", "smt_plugin.report.report", "smt_plugin.report.answers"),
    *("smt_plugin.report.card", "smt_plugin.evaluation.tune", "smt_plugin.evaluation.retention", "matplotlib.figure"),
    *("smt_plugin.evaluation.audit_plan", "smt_plugin.evaluation.audit_results"),
    *("smt_plugin.generation.generate", "llama_index.core", "llama_index.core.node_parser", "openai", "faiss", "torch"),
    *("smt_plugin.study.diversity_report", "zstandard"),
    *("llama_index.vector_stores.faiss", "scipy.stats", "transformers.models.auto.tokenization_auto", "rich.table"),
]
# What stands in for `lm_eval run`: it answers at once, and notes in the file PAID that it was asked.
LM_EVAL = """
import hashlib, json, os, sys
from pathlib import Path

words = sys.argv[1:]
tasks, output = (words[words.index(name) + 1] for name in ("--tasks", "--output_path"))
with Path(os.environ["PAID"]).open("a") as paid:
    paid.write(f"{output} {tasks}\\n")
folder, time = Path(output, "model"), "2026-11-27T00-00-00.000000"
folder.mkdir(parents=True)
(folder / f"results_{time}.json").write_text(json.dumps({"total_evaluation_time_seconds": "1.0"}))
for task in tasks.split(","):
    with (folder / f"samples_{task}_{time}.jsonl").open("w") as file:
        docs = [{}] * 40
        if "_smt" in task:
            metadata = json.loads(words[words.index("--metadata") + 1])
            docs = [json.loads(line) for line in Path(metadata["data"], "questions.jsonl").open()]
        for n, doc in enumerate(docs):
            row = {"doc": doc | {"identity": "it", "gold": "x"}, "acc": float(n % 3 > 0), "unparsed": 0.0, "doc_id": n}
            row |= {"arguments": {"gen_args_0": {"arg_0": "Who?"}}, "resps": [["It is (A).", "It is (B)."]]}
            file.write(json.dumps(row | {"filter": "none", "metrics": ["acc"], "doc_hash": "h"}) + "\\n")
            file.flush()
"""
# Times, and what a call counts of its own.
_OWN = {"seconds", "index_seconds", "created"}


class Place:
    """A folder with all that the commands work on."""

    def __init__(self, folder: Path, url: str) -> None:
        self.work, self.kept = folder / "work", folder / "kept"
        self.work.mkdir()
        archive.write(self.work / "archive")
        self._shorten("documents.jsonl", 10)
        about = {row["doc_id"] for row in self._rows("documents.jsonl")}
        questions = [row for row in self._rows("questions.jsonl") if set(_evidence(row)) <= about]
        (self.work / "archive/questions.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in questions))
        self._shorten("replay.jsonl", 60)
        (self.work / "packages/lm_eval/tasks").mkdir(parents=True)
        (self.work / "packages/lm_eval/__init__.py").write_text("# Stands in for lm-eval.\n")
        (self.work / "packages/lm_eval/__main__.py").write_text(LM_EVAL)
        (self.work / "corpus").mkdir()
        for n in range(3):
            (self.work / "corpus" / f"{n}.txt").write_text(f"Story {n} tells of the number {n}. " * 20)
        server = {"endpoints": [url], "model": MODEL, "max_concurrency": 2}
        embedding = {"embedding": "some-embedder", "embedding_endpoint": url}
        run_file: dict[str, Any] = {
            "run": "run",
            "corpus": "archive",
            "backend": {"kind": "microworld"},
            "methods": {name: {"tokens": "3K", "seed": 1} for name in ("synthetic_qa", "focal_rewrite")},
            "mix": {"replay": "archive/replay.jsonl", "replay_share": 0.1, "sequence_len": 512, "validation_rounds": 1},
            "train": {"config": "microworld/full"},
            "evaluate": {
                "benchmark": "microworld",
                "data": "archive",
                "arms": ["base", "base_rag", "trained"],
                "batch_size": "8",
                "retrieval": embedding,
                "leaks": embedding,
                "judge": {"endpoint": url, "model": MODEL, "concurrency": 2},
                "retention": {"tasks": ["sums"]},
            },
        }
        self._write("smt.yaml", run_file)
        gated = {"run": "gated", "gate": ["number", "judge"], "methods": {"focal_rewrite": {"tokens": "3K"}}}
        self._write("gated.yaml", run_file | gated | {"backend": {"kind": "microworld", "error_rate": 0.1}})
        own = {"run": "own", "corpus": "corpus", "backend": server, "methods": {"wrap": {"tokens": "1K", "seed": 1}}}
        self._write("own.yaml", own)
        self._write("batch.yaml", own | {"run": "batch"})
        (self.work / "scans").mkdir()
        for n in range(2):
            write_pdf(self.work / "scans" / f"{n}.pdf", [10, 20])
        self._write("scans.yaml", own | {"run": "scans-run", "corpus": "scans", "transcribe": {"backend": server}})

    def _write(self, name: str, values: dict[str, Any]) -> None:
        (self.work / name).write_text(yaml.safe_dump(values))

    def _rows(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.work / "archive" / name).read_text().splitlines()]

    def _shorten(self, name: str, rows: int) -> None:
        path = self.work / "archive" / name
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:rows]))

    def train(self) -> None:
        """Leave what a training leaves: the model, and axolotl's card with the config in it."""
        model = self.work / "run/model"
        shutil.copytree(BASE, model)
        config = (self.work / "run/axolotl.yaml").read_text()
        (model / "README.md").write_text(
            f"<!-- This model card has been generated automatically -->\n```yaml\n{config}\n```\n"
        )

    def work_off(self) -> None:
        """Answer the exported requests as a batch endpoint does."""
        lines = []
        for path in sorted((self.work / "requests").glob("*.jsonl")):
            for line in path.read_text().splitlines():
                request = json.loads(line)
                text = answer(request["body"]["messages"][-1]["content"], request["custom_id"])
                body = {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}
                body["usage"] = {"prompt_tokens": 9, "completion_tokens": len(text) // 4}  # type: ignore[assignment]
                response = {"status_code": 200, "body": body}
                lines.append(json.dumps({"custom_id": request["custom_id"], "response": response, "error": None}))
        (self.work / "results.jsonl").write_text("\n".join(lines) + "\n")

    def keep(self) -> None:
        """Keep all as it is now."""
        shutil.rmtree(self.kept, ignore_errors=True)
        shutil.copytree(self.work, self.kept)

    def put_back(self) -> None:
        """Put all back as it was kept."""
        for each in self.work.iterdir():
            shutil.rmtree(each) if each.is_dir() else each.unlink()
        shutil.copytree(self.kept, self.work, dirs_exist_ok=True)

    def paid(self) -> Counter[str]:
        """How often each arm was asked."""
        path = self.work / "paid.log"
        return Counter(path.read_text().splitlines() if path.is_file() else ())

    def done(self) -> set[str]:
        """The arms that are done, as they stand in the log."""
        return {line for line in self.paid() if Path(line.split()[0], "arm.json").is_file()}

    def state(self) -> dict[str, Any]:
        """What lies there, but for what calls count of their own; a lock of a killed command is none."""
        found = {}
        for path in sorted(self.work.rglob("*")):
            if path.is_file() and path.suffix != ".lock" and path.name != "paid.log" and ".sqlite" not in path.name:
                content: Any = path.read_bytes()
                if path.name == "generate.json":  # tells of its own call
                    content = json.loads(content)["methods"].keys()
                elif path.parent.name == "records" or path.name == "rejects.jsonl":  # in order of arrival
                    content = sorted(content.splitlines())
                elif path.suffix == ".svg" or path.name in ("report.html", "diversity.html", "index_store.json"):
                    # With ids drawn at random.
                    content = None
                elif path.suffix == ".json" and "index" not in path.parts:
                    content = _without_own(json.loads(content))
                found[str(path.relative_to(self.work))] = content
        return found


def _evidence(row: dict[str, Any]) -> list[str]:
    places = (row.get("meta") or {}).get("evidence") or [row["doc_id"]]
    return [place if isinstance(place, str) else place.get("doc_id", row["doc_id"]) for place in places]


def _without_own(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_own(each) for key, each in value.items() if key not in _OWN}
    return [_without_own(each) for each in value] if isinstance(value, list) else value


def check_whole(folder: Path) -> None:
    """Every file under its own name is there whole; those of lm-eval count only with an arm.json."""
    for path in folder.rglob("*"):
        if not path.is_file() or ".partial" in str(path) or (path.stat().st_size == 0 and path.suffix == ".lock"):
            continue
        by_lm_eval = path.parent.name == "model" and path.parent.parent.parent.name in ("results", "retention")
        if by_lm_eval and not (path.parent.parent / "arm.json").is_file():
            continue
        if path.suffix == ".json" and "vector_store" not in path.name:  # faiss's own form
            json.loads(path.read_bytes())
        elif path.suffix == ".jsonl":
            for line in path.read_bytes().splitlines():
                json.loads(line)
            assert path.read_bytes().endswith(b"\n"), path
        elif path.suffix in (".yaml", ".yml"):
            assert yaml.safe_load(path.read_text()), path
        elif path.suffix in (".html", ".svg"):
            assert path.read_text().rstrip().endswith(("</html>", "</svg>")), path
        elif path.name == "README.md":
            assert path.read_text().rstrip().endswith(("-->", "```")), path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Place, Driver, Endpoint]]:
    """All that the commands need, beside a driver that runs them."""
    folder = tmp_path_factory.mktemp("kills")
    endpoint = Endpoint()
    endpoint.answer = lambda prompt, sample: examiner(prompt, "1")  # the same whenever it is asked
    with in_thread(endpoint):
        place = Place(folder, endpoint.url)
        environment = {
            "PYTHONPATH": str(place.work / "packages"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PAID": str(place.work / "paid.log"),
            "XDG_CACHE_HOME": str(place.work / "cache"),
            "MPLCONFIGDIR": str(folder / "matplotlib"),
            "HF_HUB_OFFLINE": "1",
            "SMT_EMBEDDING_API_KEY": "none",
        }
        with driver(place.work, IMPORTED, environment, place.work) as runs:
            yield place, runs, endpoint


Killed = Callable[..., None]
# In the order of the flow, since each works on what the ones before it left; a function makes what no command does.
COMMANDS: tuple[tuple[str, ...] | Callable[[Place], None], ...] = (
    ("init", "corpus", "--output", "new.yaml"),
    ("benchmark", "microworld", "--data", "archive", "--output", "copy"),
    ("cp", "qwen3-8b/full", "my.yaml"),
    ("transcribe", "scans.yaml"),
    ("questions", "own.yaml", "--per-document", "2"),
    ("batch", "export", "batch.yaml", "requests"),
    Place.work_off,
    ("batch", "import", "batch.yaml", "results.jsonl"),
    ("generate", "smt.yaml"),
    ("generate", "gated.yaml"),
    ("audit", "smt.yaml", "--records", "12"),
    ("leaks", "smt.yaml"),
    ("mix", "smt.yaml"),
    ("mix", "smt.yaml", "--drop-leaks"),
    Place.train,
    ("retrieve", "microworld", "--data", "archive", "--set", "embedding_endpoint=URL", "--output", "found.jsonl"),
    ("tune", "smt.yaml", "--top-k", "2", "--order", "best_first", "--reranker", "none"),
    ("evaluate", "smt.yaml"),
    ("retention", "smt.yaml"),
    ("report", "smt.yaml"),
    ("card", "smt.yaml"),
    ("diversity", "smt.yaml", "--tokens", "500"),
    ("tasks", "install"),
    ("tasks", "uninstall"),
)


@pytest.mark.slow
def test_kills_of_each_command_leave_no_half_file_and_a_rerun_ends_as_if_left_alone(
    place: tuple[Place, Driver, Endpoint],
) -> None:
    folder, runs, endpoint = place
    wrong: list[Any] = []
    for command in COMMANDS:
        if callable(command):
            command(folder)
            continue
        command = tuple(word.replace("URL", endpoint.url) for word in command)
        started = time.monotonic()
        folder.keep()
        asked = len(endpoint.bodies)
        alone = runs.smt(*command)
        assert alone["status"] in (0, 1), (command, alone["said"])
        asked_alone, left_alone = len(endpoint.bodies) - asked, folder.state()
        changes = alone["changes"]
        # Nothing is written in place: but locks, SQLite's store, and what becomes a file when it is whole.
        own_ways = (".lock", "completions.sqlite")
        in_place = [name for name in alone["written"] if not name.endswith(own_ways) and ".partial" not in name]
        wrong += [(command, "written in place", name) for name in in_place]
        rng = random.Random(" ".join(command))
        # Some more, since a run may end before the point: with threads, changes come in another order.
        most = KILLS + KILLS // 10 + 1
        plans = [(point,) for point in sorted(rng.sample(range(1, changes + 1), min(most, changes)))]
        # A short command is killed on its way again, too.
        plans += [(rng.randint(1, changes), rng.randint(1, changes)) for _ in range(most - len(plans))]  # type: ignore[misc]
        kills = 0
        for plan in plans:
            folder.put_back()
            asked, done = len(endpoint.bodies), set[str]()
            for point in plan:
                killed = runs.smt(*command, kill_at=point)
                kills += killed["status"] == -9
                check_whole(folder.work)
                done |= folder.done()
            paid = folder.paid()
            again = runs.smt(*command)
            # A file that is never written over was there, whole, when the command was killed just after.
            if again["status"] != alone["status"] and not re.search(
                "is there already|holds requests already", again["said"]
            ):
                wrong.append((command, plan, again["said"]))
            state = folder.state()
            if state != left_alone:
                differ = [name for name in {*state, *left_alone} if state.get(name) != left_alone.get(name)]
                wrong.append((command, plan, differ))
            if any(folder.paid()[arm] != paid[arm] for arm in done):
                wrong.append((command, plan, "an arm that was done was asked again"))
            # Embeddings of records are not kept.
            if command[0] != "diversity" and len(endpoint.bodies) - asked > asked_alone + 2 * len(plan):
                wrong.append((command, plan, "more was asked again than was under way"))
        assert kills >= KILLS
        wrong_now = [each for each in wrong if each[0] == command]
        print(
            f"{' '.join(command)}: {changes} changes, {kills} kills, {time.monotonic() - started:.0f} s, {wrong_now}",
            flush=True,
        )
        folder.put_back()
        runs.smt(*command)
    assert wrong == []
