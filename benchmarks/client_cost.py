"""What does a completion cost on the client's side, here and in other tools?

    python benchmarks/client_cost.py --peer datatrove=/venv/bin/python --peer distilabel=/other/bin/python ...

One instant server (instant_server.py) on one core, each client alone on another, the same prompts: documents of
8,000 characters in this package's `wrap` prompt. `smt generate` is the real command, which writes every completion
to disk (fsync) before it counts it. Requests a second are the server's count from the first request to the last.
Each client runs with few and with all requests; the difference in processor time leaves its start out. Clients take
turns, and of several turns the best counts, since other work on the machine only slows. Prints a Markdown table.
The peers' drivers: client_cost_peers.py.
"""

import argparse
import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import urlopen

from instant_server import MODEL, TOKENS

from smt_plugin.corpus import read_documents
from smt_plugin.files import write_jsonl
from smt_plugin.prompts import Prompts

SERVER_CORE, CLIENT_CORE = 1, 0
CHARACTERS = 8_000
PER_DOCUMENT = 20
PEERS = {
    "datatrove": "datatrove",
    "datatrove_durable": "datatrove",
    "distilabel": "distilabel",
    "synthetic_data_kit": "synthetic-data-kit",
}
SLOW = ("datatrove_durable", "distilabel", "synthetic_data_kit")
LABELS = {
    "datatrove": "datatrove's inference runner",
    "datatrove_durable": "the same, with checkpoints",
    "distilabel": "distilabel's pipeline",
    "synthetic_data_kit": "synthetic-data-kit's client",
}


@dataclass
class Cost:
    """What a client took: seconds of its processors; and of the server's and the clock's while requests came."""

    cpu: float
    server: float
    seconds: float


def make_input(folder: Path, documents: int) -> None:
    """Write a corpus and a run file for `smt generate`, and the very prompts for the others."""
    rng = random.Random(0)
    words = [
        word for document in read_documents(Path(__file__).parent.parent / "docs") for word in document.text.split()
    ]
    rows = []
    for n in range(documents):
        text = " ".join(rng.choices(words, k=CHARACTERS // 3))[: CHARACTERS - 1] + "."
        rows.append({"doc_id": f"d{n}", "title": f"Document {n:06}", "text": text})
    write_jsonl(folder / "documents.jsonl", rows)
    prompts = Prompts()
    messages = [
        prompts.messages("wrap/rewrite", identity=document.identity, document=document.text.strip())
        for document in read_documents(folder / "documents.jsonl")
    ]
    numbered = ({"id": f"{n}-{r}", "messages": each} for n, each in enumerate(messages) for r in range(PER_DOCUMENT))
    write_jsonl(folder / "prompts.jsonl", numbered)


def run(command: list[str], folder: Path, url: str, server: int, requests: int) -> Cost:
    """Run a client to its end, its processes on one core."""
    before = cpu_of(server)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, preexec_fn=lambda: os.sched_setaffinity(0, {CLIENT_CORE})
        )
        _, status, usage = os.wait4(process.pid, 0)
    with urlopen(url + "/times") as response:
        times = json.load(response)
    if status or times["count"] != requests:
        said = (folder / "log").read_text(errors="replace")[-3000:]
        raise SystemExit(f"{said}\n{command}: {times['count']} of {requests} requests, status {status}")
    return Cost(usage.ru_utime + usage.ru_stime, cpu_of(server) - before, times["seconds"])


def cpu_of(process: int) -> float:
    """Return the seconds of processor time that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def count_answers(folder: Path) -> int:
    """Return how many answers a client left in its folder, by the server's number in each."""
    found: set[str] = set()
    for path in folder.rglob("*"):
        if path.suffix in (".json", ".jsonl") and path.is_file() and "checkpoints" not in path.parts:
            found.update(part[:7] for part in path.read_text().split("Answer #")[1:])
    return len(found)


def measure(name: str, python: str, url: str, server: int, work: Path, documents: int, concurrency: int) -> Cost:
    """Run one client on so many documents."""
    folder = work / f"{name}-{documents}"
    folder.mkdir()
    make_input(folder, documents)
    out = folder / "out"
    out.mkdir()
    if name == "smt":
        run_file = {
            "run": "out",
            "corpus": "documents.jsonl",
            "backend": {"endpoints": [url], "model": MODEL, "max_concurrency": concurrency},
            "methods": {"wrap": {"tokens": documents * PER_DOCUMENT * TOKENS}},
        }
        (folder / "smt.yaml").write_text(json.dumps(run_file))
        command = [python, "-m", "smt_plugin", "generate", "smt.yaml"]
    else:
        driver = str(Path(__file__).with_name("client_cost_peers.py"))
        command = [python, driver, name, "prompts.jsonl", url, str(concurrency), str(out)]
    requests = documents * PER_DOCUMENT
    cost = run(command, folder, url, server, requests)
    answers = count_answers(out)
    if answers != requests:
        raise SystemExit(f"{name}: {answers} answers kept instead of {requests}")
    return cost


def version(python: str, distribution: str) -> str:
    """Return the version of a distribution in an environment."""
    code = f"from importlib.metadata import version; print(version({distribution!r}))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON", help=", ".join(PEERS))
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--slow-requests", type=int, default=2_000, help=f"for {', '.join(SLOW)}")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=128)
    arguments = parser.parse_args()
    script = Path(__file__).with_name("instant_server.py")
    server = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {SERVER_CORE}),
    )
    assert server.stdout is not None
    url = server.stdout.readline().strip()
    clients = [("smt", sys.executable), *(peer.split("=", 1) for peer in arguments.peer)]
    rates: dict[str, list[float]] = {name: [] for name, _ in clients}
    starts: dict[str, list[float]] = {name: [] for name, _ in clients}
    costs: dict[str, list[float]] = {name: [] for name, _ in clients}
    loads: dict[str, list[float]] = {name: [] for name, _ in clients}
    few = 2
    many = {name: (arguments.slow_requests if name in SLOW else arguments.requests) // PER_DOCUMENT for name in rates}
    try:
        for _ in range(arguments.repeats):
            for name, python in clients:
                with TemporaryDirectory() as work:
                    first = measure(name, python, url, server.pid, Path(work), few, arguments.concurrency)
                    cost = measure(name, python, url, server.pid, Path(work), many[name], arguments.concurrency)
                rates[name].append(many[name] * PER_DOCUMENT / cost.seconds)
                costs[name].append((cost.cpu - first.cpu) / (many[name] - few) / PER_DOCUMENT * 1000)
                loads[name].append(cost.server / cost.seconds)
                starts[name].append(first.cpu)
                print(
                    f"{name}: {rates[name][-1]:,.0f} requests/s, {costs[name][-1]:.2f} s", file=sys.stderr, flush=True
                )
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
    print(f"{arguments.concurrency} requests in flight at most, best of {arguments.repeats} runs\n")
    print("| client | version | requests | requests/s | CPU s per 1,000 | server busy | start, s of CPU |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, python in clients:
        label = "`smt generate`" if name == "smt" else LABELS[name]
        said = "this one" if name == "smt" else version(python, PEERS[name])
        print(
            f"| {label} | {said} | {many[name] * PER_DOCUMENT:,} | {max(rates[name]):,.0f} | "
            f"{min(costs[name]):.2f} | {max(loads[name]):.0%} | {min(starts[name]):.1f} |"
        )


if __name__ == "__main__":
    main()
