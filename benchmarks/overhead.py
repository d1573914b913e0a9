"""What does `smt generate` cost on top of the server's own work? Its wall time over that of `vllm bench serve`.

    python benchmarks/overhead.py --corpus /folder/with/documents.jsonl
    python benchmarks/overhead.py --corpus documents.jsonl --documents 20 --repetitions 5 --concurrency 16

Starts one vLLM server (CPU build, the tiny Llama of tests/vllm_server) and lets three clients send it the identical
prompts with identical lengths of output, in turn and in alternating order, each time with an empty prefix cache:
`smt generate` as a user runs it, `vllm bench serve`, and a plain loop that neither streams nor keeps anything.
Run it with the Python of an environment that holds vLLM and pandas, such as .venv-vllm of the Makefile.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import ClassVar

from benchmarks.served import Call, Served, add_arguments, fixed_length, serve
from smt_plugin.backends.base import Reply
from smt_plugin.corpus import Document
from smt_plugin.methods.base import Ask, Complete, record_of
from smt_plugin.records import Record
from tests.vllm_server.server import VLLM

APPLIED = 7  # strategies a round
COUNTERS = ("vllm:request_success_total", "vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total")


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
        return [
            record_of(self.name, document, r, n, answer, text=answer.value)
            for n, answer in enumerate(answers)
            if answer is not None
        ]


def _as_it_is(reply: Reply) -> str:
    return reply.text


@dataclass(slots=True)
class Measured:
    """One client's seconds, a value a repetition: from its process's start to its end, and of asking alone.

    `cpu` are the seconds of the processor that the client used, its start included; `cached` is the share of the
    prompt tokens that the server took from its cache.
    """

    process: list[float] = field(default_factory=list)
    asking: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    cached: list[float] = field(default_factory=list)


def smt_generate(served: Served, name: str, arguments: argparse.Namespace) -> tuple[float, float]:
    """Run the command in a new run folder; return the seconds of its process, and those that it says it took."""
    budget = served.num_documents * arguments.calls * arguments.output_tokens
    methods = {FixedReading.name: {"tokens": budget, "output_tokens": arguments.output_tokens}}
    seconds = served.smt_generate(name, methods, arguments.concurrency)
    return seconds, json.loads((served.folder / name / "generate.json").read_text())["seconds"]


def vllm_bench_serve(served: Served, calls: list[Call], concurrency: int) -> tuple[float, float]:
    """Replay the calls with vLLM's load generator; return the seconds of its process, and those that it reports."""
    dataset = served.folder / "prompts.jsonl"
    dataset.write_text("".join(json.dumps({"prompt": call.messages}) + "\n" for call in calls))
    # Only without a tokenizer does it send chat messages as they stand. The length then comes from the extra body.
    body = calls[0].sampling | {"max_completion_tokens": calls[0].completion_tokens}
    command = [VLLM, "bench", "serve", "--backend", "openai-chat", "--endpoint", "/v1/chat/completions"]
    command += ["--base-url", served.server.root, "--model", served.server.model, "--skip-tokenizer-init"]
    command += ["--dataset-name", "custom", "--dataset-path", str(dataset), "--disable-shuffle", "--disable-tqdm"]
    command += ["--num-prompts", str(len(calls)), "--max-concurrency", str(concurrency)]
    command += ["--extra-body", json.dumps(body), "--save-result"]
    command += ["--result-dir", str(served.folder), "--result-filename", "bench.json"]
    seconds = served.run(command, {"OPENAI_API_KEY": served.server.api_key})
    return seconds, json.loads((served.folder / "bench.json").read_text())["duration"]


def plain_loop(served: Served, calls: list[Call], concurrency: int) -> tuple[float, float]:
    """Replay the calls with the plain client, which has no process of its own."""
    seconds = served.replay(calls, concurrency)[1]
    return seconds, seconds


def measure(served: Served, arguments: argparse.Namespace) -> tuple[dict[str, Measured], list[Call]]:
    """Run the three clients in turn, the order turned round at every repetition; return the calls, too."""
    # Not measured: it warms the server up, and tells what there is to replay.
    smt_generate(served, "first", arguments)
    calls = served.calls("first")
    clients: dict[str, Callable[[str], tuple[float, float]]] = {
        "`smt generate`": lambda name: smt_generate(served, name, arguments),
        "`vllm bench serve`": lambda _: vllm_bench_serve(served, calls, arguments.concurrency),
        "plain loop": lambda _: plain_loop(served, calls, arguments.concurrency),
    }
    measured = {client: Measured() for client in clients}
    for repetition in range(arguments.repetitions):
        for client in clients if repetition % 2 == 0 else reversed(clients):
            served.empty_cache()
            before = [served.server.metric(metric) for metric in COUNTERS]
            cpu = cpu_seconds()
            process, asking = clients[client](f"run-{repetition}")
            cpu = cpu_seconds() - cpu
            answered, hits, queries = (
                served.server.metric(metric) - old for metric, old in zip(COUNTERS, before, strict=True)
            )
            if answered != len(calls):
                sys.exit(f"{client}: the server answered {answered:.0f} calls, not {len(calls)}; nothing is compared.")
            measured[client].process.append(process)
            measured[client].asking.append(asking)
            measured[client].cpu.append(cpu)
            measured[client].cached.append(hits / queries)
            print(
                f"{client}: process {process:.1f} s, asking {asking:.1f} s, CPU {cpu:.1f} s",
                file=sys.stderr,
                flush=True,
            )
    return measured, calls


def cpu_seconds() -> float:
    """Return the processor's seconds of this process and of its children that have ended; the server has not."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def table(measured: dict[str, Measured]) -> str:
    """The table as Markdown: medians with the extremes, and ratios of medians."""
    floor = statistics.median(measured["`vllm bench serve`"].asking)
    lines = [
        "| client | process, s | asking, s | process over bench's asking | asking over it | CPU, s | cached |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for client, values in measured.items():
        cells = [client]
        cells += [f"{statistics.median(v):.1f} ({min(v):.1f} to {max(v):.1f})" for v in (values.process, values.asking)]
        cells += [f"{statistics.median(v) / floor:.3f}" for v in (values.process, values.asking)]
        cells += [f"{statistics.median(values.cpu):.1f}", f"{statistics.mean(values.cached):.1%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, documents=16, concurrency=8)
    parser.add_argument("--calls", type=int, default=8, help="calls a document on average, at least (default 8)")
    parser.add_argument("--output-tokens", type=int, default=32, help="length of every reply (default 32)")
    parser.add_argument("--repetitions", type=int, default=2, help="measurements a client (default 2)")
    arguments = parser.parse_args()
    if find_spec("pandas") is None:
        sys.exit("`vllm bench serve` needs pandas; run `pip install pandas` in this environment.")
    with serve(arguments.corpus, arguments.documents, {}) as served:
        measured, calls = measure(served, arguments)
        prompt_tokens = sum(call.prompt_tokens for call in calls) / len(calls)
        print(
            f"{served.num_documents} documents, {len(calls)} calls of {prompt_tokens:,.0f} prompt tokens on average "
            f"and {arguments.output_tokens} out, {arguments.concurrency} in flight at most, "
            f"{arguments.repetitions} repetitions, {os.cpu_count()} cores\n"
        )
    print(table(measured))


if __name__ == "__main__":
    main()
