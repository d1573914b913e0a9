"""What does `smt generate` cost on top of the server's own work? Its wall time over that of `vllm bench serve`.

    python benchmarks/overhead.py --corpus /folder/with/documents.jsonl
    python benchmarks/overhead.py --corpus documents.jsonl --documents 12 --repetitions 3 --concurrency 32

Starts one vLLM server (CPU build, the tiny Llama of tests/vllm_server) and lets three clients send it the identical
prompts with identical lengths of output, in turn and in alternating order, each time with an empty prefix cache:
`smt generate` as a user runs it, `vllm bench serve`, and a plain loop that neither streams nor keeps anything.
Run it with the Python of an environment that holds vLLM, such as .venv-vllm of the Makefile.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from benchmarks.replay import Call, calls_of, fixed_length, replay
from smt_plugin.backends import Reply
from smt_plugin.corpus import Document, read_documents
from smt_plugin.errors import BadInput
from smt_plugin.methods.base import Ask, Complete, record_of
from smt_plugin.records import Record
from tests.vllm_server.markov_llama import make_markov_llama
from tests.vllm_server.server import ARGUMENTS, VLLM, Server, ServerFailed, running_server, vllm_environment

APPLIED = 7  # strategies a round
CLIENTS = ("smt generate", "vllm bench serve", "plain loop")


@dataclass(frozen=True, kw_only=True)
class FixedReading:
    """Active Reading's prompts and order of calls, with replies of a fixed length and strategies of its own.

    What the tiny model writes differs from call to call; what is asked here does not depend on it.
    """

    name: ClassVar[str] = "benchmarks.overhead:FixedReading"
    output_tokens: int = field(metadata={"help": "length of every reply, in tokens"})

    async def round(self, document: Document, r: int, complete: Complete) -> list[Record]:
        """Ask for strategies, wait for the reply, then ask for the application of each strategy."""
        sampling = {"temperature": 0.7, "top_p": 0.95, **fixed_length(self.output_tokens)}

        def ask(prompt: str, variables: dict[str, str]) -> Ask:
            return Ask(document, prompt, variables, sampling, sample=r, parse=_as_it_is)

        answers = [await complete(ask("active_reading/strategies", {}))]
        strategies = [f"Study plan {r * APPLIED + n}: explain part {n + 1} of {APPLIED}." for n in range(APPLIED)]
        answers += await asyncio.gather(
            *(complete(ask("active_reading/apply", {"strategy": strategy})) for strategy in strategies)
        )
        assert None not in answers, "a reply of fixed length is never rejected"
        return [
            record_of(self.name, document, r, n, answer, text=answer.value)
            for n, answer in enumerate(answers)
            if answer is not None
        ]


def _as_it_is(reply: Reply) -> str:
    return reply.text


@dataclass(slots=True)
class Measured:
    """Seconds of one client, a value a repetition: from the start of its process to its end, and of asking alone."""

    process: list[float] = field(default_factory=list)
    asking: list[float] = field(default_factory=list)
    cached: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Bench:
    """What stays the same over all measurements."""

    folder: Path
    server: Server
    environment: dict[str, str]
    corpus: Path
    documents: int
    rounds: int
    output_tokens: int
    concurrency: int

    def smt_generate(self, name: str) -> tuple[float, float]:
        """Run the command in a new run folder; return the seconds of the process and of its own summary."""
        budget = self.documents * self.rounds * (APPLIED + 1) * self.output_tokens
        content: dict[str, Any] = {
            "run": name,
            "corpus": str(self.corpus),
            "backend": {
                "endpoints": [self.server.url],
                "model": self.server.model,
                "api_key_variable": "SMT_BENCHMARK_KEY",
                "max_concurrency": self.concurrency,
            },
            "methods": {FixedReading.name: {"tokens": budget, "output_tokens": self.output_tokens}},
        }
        run_file = self.folder / f"{name}.yaml"
        run_file.write_text(json.dumps(content))  # JSON is YAML
        environment = self.environment | {"SMT_BENCHMARK_KEY": self.server.api_key}
        seconds = self._run([sys.executable, "-m", "smt_plugin", "generate", str(run_file)], environment)
        return seconds, json.loads((self.folder / name / "generate.json").read_text())["seconds"]

    def vllm_bench_serve(self, calls: list[Call]) -> tuple[float, float]:
        """Replay the calls with vLLM's own load generator; return the seconds of the process and of its own report."""
        dataset = self.folder / "prompts.jsonl"
        dataset.write_text("".join(json.dumps({"prompt": call.messages}) + "\n" for call in calls))
        body = calls[0].sampling | {"max_completion_tokens": self.output_tokens}
        command = [VLLM, "bench", "serve", "--backend", "openai-chat", "--endpoint", "/v1/chat/completions"]
        command += ["--base-url", self.server.root, "--model", self.server.model]
        # Chat messages are sent as they stand only without a tokenizer; the lengths come from the extra body then.
        command += ["--dataset-name", "custom", "--dataset-path", str(dataset), "--skip-tokenizer-init"]
        command += ["--disable-shuffle", "--num-prompts", str(len(calls)), "--extra-body", json.dumps(body)]
        command += ["--max-concurrency", str(self.concurrency), "--disable-tqdm"]
        command += ["--save-result", "--result-dir", str(self.folder), "--result-filename", "bench.json"]
        seconds = self._run(command, self.environment | {"OPENAI_API_KEY": self.server.api_key})
        result = json.loads((self.folder / "bench.json").read_text())
        assert result["completed"] == len(calls), f"vllm bench serve completed {result['completed']} calls"
        return seconds, float(result["duration"])

    def plain_loop(self, calls: list[Call]) -> tuple[float, float]:
        """Replay the calls with the plain client, in this process."""
        server = self.server
        _, seconds = asyncio.run(replay(server.url, server.api_key, server.model, calls, self.concurrency))
        return seconds, seconds

    def empty_cache(self) -> None:
        """Empty the server's prefix cache."""
        request = urllib.request.Request(self.server.root + "/reset_prefix_cache", method="POST")
        request.add_header("Authorization", f"Bearer {self.server.api_key}")
        with urllib.request.urlopen(request, timeout=60) as response:
            assert json.load(response) is not False

    def _run(self, command: list[str], environment: dict[str, str]) -> float:
        started = time.perf_counter()
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - started
        if done.returncode:
            raise BadInput(f"{' '.join(command[:4])} failed: {(done.stdout + done.stderr)[-2000:]}")
        return seconds


def measure(bench: Bench, repetitions: int) -> tuple[dict[str, Measured], list[Call]]:
    """Run the three clients in turn, the order turned round at every repetition; return also the calls."""
    # Neither client gains from a first run: it also tells what the others have to replay.
    bench.smt_generate("first")
    calls = calls_of(bench.folder / "first", bench.corpus)
    measured = {client: Measured() for client in CLIENTS}
    for repetition in range(repetitions):
        name = f"run-{repetition}"
        actions: dict[str, Callable[[], tuple[float, float]]] = {
            "smt generate": lambda name=name: bench.smt_generate(name),  # type: ignore[misc]
            "vllm bench serve": lambda: bench.vllm_bench_serve(calls),
            "plain loop": lambda: bench.plain_loop(calls),
        }
        for client in CLIENTS if repetition % 2 == 0 else reversed(CLIENTS):
            bench.empty_cache()
            asked, hits, queries = (bench.server.metric(f"vllm:{metric}_total") for metric in COUNTERS)
            process, asking = actions[client]()
            now = [bench.server.metric(f"vllm:{metric}_total") for metric in COUNTERS]
            assert now[0] - asked == len(calls), f"{client} asked {now[0] - asked} times, not {len(calls)}"
            measured[client].process.append(process)
            measured[client].asking.append(asking)
            measured[client].cached.append((now[1] - hits) / (now[2] - queries))
            print(f"{client}: process {process:.1f} s, asking {asking:.1f} s", file=sys.stderr, flush=True)
    return measured, calls


COUNTERS = ("request_success", "prefix_cache_hits", "prefix_cache_queries")


def table(measured: dict[str, Measured]) -> str:
    """The table as Markdown: medians, and ratios of medians."""
    floor = statistics.median(measured["vllm bench serve"].asking)
    lines = [
        "| client | whole process, s | asking, s | asking over `vllm bench serve` | from the cache |",
        "| --- | --- | --- | --- | --- |",
    ]
    for client, values in measured.items():
        process = "" if client == "plain loop" else _seconds(values.process)
        ratio = statistics.median(values.asking) / floor
        cached = f"{statistics.mean(values.cached):.1%}"
        lines.append(f"| {client} | {process} | {_seconds(values.asking)} | {ratio:.3f} | {cached} |")
    ratio = statistics.median(measured["smt generate"].process) / floor
    lines += ["", f"The whole process of `smt generate` over the asking of `vllm bench serve` alone: {ratio:.3f}"]
    return "\n".join(lines)


def _seconds(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="documents, as `corpus:` of a run file takes them")
    parser.add_argument("--documents", type=int, default=12, help="how many of them (default 12)")
    parser.add_argument("--rounds", type=int, default=2, help=f"rounds a document, of {APPLIED + 1} calls (default 2)")
    parser.add_argument("--output-tokens", type=int, default=128, help="length of every reply (default 128)")
    parser.add_argument("--concurrency", type=int, default=32, help="requests in flight at most (default 32)")
    parser.add_argument("--repetitions", type=int, default=3, help="measurements a client (default 3)")
    arguments = parser.parse_args()
    if not Path(VLLM).is_file():
        sys.exit(f"there is no vLLM beside {sys.executable}; run `make .venv-vllm/ready` and use that Python.")
    try:
        documents = list(islice(read_documents(arguments.corpus), arguments.documents))
        with TemporaryDirectory() as name:
            folder = Path(name)
            corpus = folder / "documents.jsonl"
            corpus.write_text("".join(_line(document) for document in documents), encoding="utf-8")
            environment = vllm_environment(folder / "vllm") | {"VLLM_SERVER_DEV_MODE": "1"}
            model = make_markov_llama(folder / "model")
            with running_server(model, environment, folder / "server.log", ARGUMENTS) as server:
                bench = Bench(
                    folder,
                    server,
                    environment,
                    corpus,
                    len(documents),
                    arguments.rounds,
                    arguments.output_tokens,
                    arguments.concurrency,
                )
                measured, calls = measure(bench, arguments.repetitions)
    except (BadInput, ServerFailed) as error:
        sys.exit(str(error))
    tokens = sum(call.prompt_tokens for call in calls) / len(calls)
    print(
        f"{len(documents)} documents, {len(calls):,} calls of {tokens:,.0f} prompt tokens on average and "
        f"{arguments.output_tokens} out, {arguments.concurrency} in flight, {arguments.repetitions} repetitions, "
        f"{os.cpu_count()} cores\n"
    )
    print(table(measured))


def _line(document: Document) -> str:
    row = {"doc_id": document.id, "title": document.title, "text": document.text, "meta": document.meta}
    return json.dumps(row) + "\n"


if __name__ == "__main__":
    main()
