"""How many of the document tokens come from the server's prefix cache, when it is too small for the whole corpus?

    python benchmarks/prefix_cache.py --corpus /folder/with/documents.jsonl
    python benchmarks/prefix_cache.py --corpus documents.jsonl --documents 20 --tokens 4K --blocks 512

Starts one vLLM server (CPU build, the tiny Llama of tests/vllm_server) and asks the same calls three times, each time
with an empty cache: by `smt generate` as a user runs it; in shuffled order; and in the order of `smt generate`, but
with the instruction before the document. Run it with the Python of an environment that holds vLLM, such as
.venv-vllm of the Makefile.

A document's token counts where a whole block of the cache could hold it, and the first sight of each document does not.
"""

import argparse
import os
import random
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from benchmarks.served import Call, Served, add_arguments, serve
from tests.vllm_server.server import Server

DOCUMENT_END = "</document>"
COUNTERS = ("vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total")


class Places:
    """Finds where in a prompt of the server the document's tokens stand."""

    def __init__(self, model: Path) -> None:
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(model)
        self._count = cache(lambda text: len(self._tokenizer(text, add_special_tokens=False)["input_ids"]))

    def document(self, call: Call) -> tuple[int, int]:
        """Return the places of the document's first token and of the one after its last."""
        prompt = self._tokenizer.apply_chat_template(call.messages, tokenize=False, add_generation_prompt=True)
        start, end = prompt.index("<document>"), prompt.index(DOCUMENT_END)
        before, document = self._count(prompt[:start]), self._count(prompt[start:end])
        here = before + document + self._count(prompt[end:])
        assert here == call.prompt_tokens, f"{here} prompt tokens by this tokenizer, {call.prompt_tokens} on the server"
        return before, before + document


@dataclass(frozen=True, slots=True)
class Arm:
    """What one order of the calls came to.

    Attributes:
        possible: document tokens that the cache could have held, less each document's first sight.
        hits: how many of them came from the cache.
        prefilled: prompt tokens that did not come from the cache, of all calls and not of documents alone.
        server_rate: share of all prompt tokens that the server itself counts as hits.
    """

    name: str
    calls: int
    possible: int
    hits: int
    prefilled: int
    server_rate: float
    seconds: float


def cache_sizes(server: Server) -> tuple[int, int]:
    """Return the tokens of a block of the server's cache, and the number of blocks."""
    labels = server.metric_lines("vllm:cache_config_info")[0]
    sizes = dict(re.findall(r'[{,](block_size|num_gpu_blocks)="(\d+)"', labels))
    return int(sizes["block_size"]), int(sizes["num_gpu_blocks"])


def count(calls: list[Call], places: Places, block: int) -> tuple[int, int]:
    """Return the document tokens that could have come from the cache, and those that did.

    Which of several calls that are sent together the server takes first is not known. So a document's first
    sight, which can have no hits, is taken off what was possible instead of leaving a certain call out.
    """
    possible = hits = 0
    seen: set[str] = set()
    for call in calls:
        start, end = places.document(call)
        last_whole_block = end // block * block
        if call.doc_id in seen:
            possible += last_whole_block - start
        seen.add(call.doc_id)
        hits += max(0, min(call.cached_tokens, last_whole_block) - start)
    return possible, hits


def instruction_first(call: Call) -> Call:
    """Return the call with what is asked before the document, and the document last."""
    system, user = call.messages
    document, end, instruction = user["content"].partition(DOCUMENT_END)
    return replace(call, messages=[system, {"role": "user", "content": f"{instruction.strip()}\n\n{document}{end}"}])


def measure(served: Served, arguments: argparse.Namespace, block: int) -> list[Arm]:
    """Ask the calls in the three orders."""
    places = Places(served.model)
    arms: list[Arm] = []

    def add(name: str, ask: Callable[[], list[Call]]) -> list[Call]:
        served.empty_cache()
        before = [served.server.metric(metric) for metric in COUNTERS]
        started = time.perf_counter()
        calls = ask()
        seconds = time.perf_counter() - started
        queries, hits = (served.server.metric(metric) - old for metric, old in zip(COUNTERS, before, strict=True))
        prefilled = sum(call.prompt_tokens - call.cached_tokens for call in calls)
        arms.append(Arm(name, len(calls), *count(calls, places, block), prefilled, hits / queries, seconds))
        print(arms[-1], file=sys.stderr, flush=True)
        return calls

    def generate() -> list[Call]:
        options = {"tokens": arguments.tokens, "max_tokens": arguments.max_tokens}
        methods = {
            "synthetic_qa": {"tokens": arguments.tokens, "pairs_per_call": 1},
            "active_reading": options,
            "focal_rewrite": options,
        }
        served.smt_generate("run", methods, arguments.concurrency)
        return served.calls("run")

    calls = add("grouped, by `smt generate`", generate)
    shuffled = random.Random(0).sample(calls, len(calls))
    add("shuffled", lambda: served.replay(shuffled, arguments.concurrency)[0])
    turned = [instruction_first(call) for call in calls]
    add("grouped, instruction first", lambda: served.replay(turned, arguments.concurrency)[0])
    return arms


def table(arms: list[Arm]) -> str:
    """The table as Markdown."""
    lines = [
        "| order of the calls | calls | document tokens, M | from the cache | by the server's counters, all tokens "
        "| prefilled, M | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for arm in arms:
        cells = [arm.name, f"{arm.calls:,}", f"{arm.possible / 1e6:.2f}", f"{arm.hits / arm.possible:.1%}"]
        cells += [f"{arm.server_rate:.1%}", f"{arm.prefilled / 1e6:.2f}", f"{arm.seconds:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, documents=12, concurrency=32)
    parser.add_argument("--tokens", default="1K", help="budget of each of the three methods (default 1K)")
    parser.add_argument("--max-tokens", type=int, default=128, help="longest reply (default 128)")
    parser.add_argument("--blocks", type=int, default=320, help="blocks of the server's cache (default 320)")
    arguments = parser.parse_args()
    with serve(arguments.corpus, arguments.documents, {"num-gpu-blocks-override": arguments.blocks}) as served:
        block, blocks = cache_sizes(served.server)
        arms = measure(served, arguments, block)
    print(
        f"{arguments.documents} documents, {arguments.concurrency} in flight at most, a cache of "
        f"{blocks} blocks of {block} tokens, {os.cpu_count()} cores\n"
    )
    print(table(arms))


if __name__ == "__main__":
    main()
