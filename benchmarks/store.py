"""What do a million completions cost: to store, to open again, and to replay through `smt generate`?

    python benchmarks/store.py /folder/with/texts /folder/to/fill --completions 1000000

Fills a run folder through CompletionStore.put, its completions made of sentences of the given texts under the
keys that `smt generate` will look up; then starts new processes on it against a server on this machine. The
corpus has 30 KB documents and a last one that nothing is stored for: the first request is for that one.
"""

import argparse
import asyncio
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from smt_plugin.backends.base import Reply, Request
from smt_plugin.corpus import Document, read_documents
from smt_plugin.files import write_jsonl
from smt_plugin.generation.completions import Completion, CompletionStore, completion_key
from smt_plugin.methods.wrap import Wrap
from smt_plugin.prompts import Prompts

MODEL = "stored"
PROMPT = "wrap/rewrite"
DOCUMENT_CHARACTERS = 30_000
# Some 700 tokens.
ANSWER_CHARACTERS = 2_800
ANSWER_TOKENS = 700
WRITERS = 1024


class Texts:
    """Texts of randomly drawn sentences: English, and no two alike."""

    def __init__(self, folder: Path) -> None:
        text = " ".join(document.text for document in read_documents(folder))
        self.sentences = [part for part in re.split(r"(?<=[.!?])\s+", text) if len(part) < 500]
        self.mean = sum(map(len, self.sentences)) / len(self.sentences) + 1
        self.rng = random.Random(0)

    def make(self, characters: int) -> str:
        return " ".join(self.rng.choices(self.sentences, k=round(characters / self.mean)))


def write_corpus(texts: Texts, folder: Path, count: int) -> Path:
    """Write the documents and one more, and a run file whose budget just takes what is stored for them."""
    corpus = folder / "documents.jsonl"
    rows = (
        {"doc_id": f"d{n}", "title": f"Document {n}", "text": texts.make(2 * DOCUMENT_CHARACTERS)[:DOCUMENT_CHARACTERS]}
        for n in range(count + 1)
    )
    write_jsonl(corpus, rows)
    return corpus


def peak(usage: "resource.struct_rusage | None" = None) -> str:
    """Most memory that this process, or one that ended with `usage`, ever held."""
    kilobytes = (usage or resource.getrusage(resource.RUSAGE_SELF)).ru_maxrss
    return f"{kilobytes / 1024:,.0f} MB"


async def fill(texts: Texts, corpus: Path, run: Path, per_document: int) -> None:
    """Put the completions of all documents but the last, many tasks at a time."""
    store = CompletionStore(run)
    prompts = Prompts()
    sampling = Wrap().sampling

    async def write(document: Document, messages: list[dict[str, str]], numbers: range) -> None:
        for r in numbers:
            request = Request(messages, sampling, r * 3, None, document.id)
            await store.put(
                Completion(
                    key=completion_key(request, MODEL),
                    status="done",
                    reason="",
                    doc_id=document.id,
                    prompt=PROMPT,
                    prompt_hash=prompts.hash(PROMPT),
                    model=MODEL,
                    sampling=sampling,
                    sample=r,
                    attempt=0,
                    variables={},
                    reply=Reply(texts.make(ANSWER_CHARACTERS), "stop", 8_000, 7_900, ANSWER_TOKENS),
                    seconds=10.0,
                )
            )

    documents = list(read_documents(corpus))[:-1]
    for document in documents:
        messages = prompts.messages(PROMPT, identity=document.identity, document=document.text.strip())
        await asyncio.gather(*(write(document, messages, range(n, per_document, WRITERS)) for n in range(WRITERS)))
    await store.close()


async def replay(run_file: Path) -> dict[str, Any]:
    """Run `smt generate` to its end; return seconds to the first request and to the end, and its rusage."""
    started = time.monotonic()
    first: list[float] = []

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": MODEL}]})

    async def chat(request: web.Request) -> web.Response:
        first.append(time.monotonic() - started)
        reply = {"message": {"content": "A new text. " * 200}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 8_000, "completion_tokens": ANSWER_TOKENS}
        return web.json_response({"choices": [reply], "usage": usage})

    app = web.Application(client_max_size=10**8)
    app.router.add_get("/v1/models", models)
    app.router.add_post("/v1/chat/completions", chat)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    content = json.loads(run_file.read_text())
    content["backend"]["endpoints"] = [f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/v1"]
    run_file.write_text(json.dumps(content))
    process = subprocess.Popen(
        [sys.executable, "-m", "smt_plugin", "generate", str(run_file)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        _, status, usage = await asyncio.to_thread(os.wait4, process.pid, 0)
    finally:
        await runner.cleanup()
    assert process.stderr is not None
    if status:
        raise SystemExit(process.stderr.read().decode())
    process.stderr.close()
    return {"first": first[0], "end": time.monotonic() - started, "asked": len(first), "usage": usage}


OPEN = """
import sys, time
started = time.perf_counter()
from pathlib import Path
from smt_plugin.generation.completions import CompletionStore
store = CompletionStore(Path(sys.argv[1]))
assert store.get(sys.argv[2]) is not None
seconds = time.perf_counter() - started
# Its own peak: rusage would count what the process that started it held.
print(seconds, Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, help="any corpus; its sentences are drawn from")
    parser.add_argument("folder", type=Path, help="where to put a folder of some 6 GB, removed at the end")
    parser.add_argument("--completions", type=int, default=1_000_000)
    parser.add_argument("--per-document", type=int, default=2_500)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        measure(Texts(arguments.texts), Path(name), arguments.completions, arguments.per_document)


def measure(texts: Texts, folder: Path, completions: int, per_document: int) -> None:
    """Fill, open and replay; print a line after each."""
    run = folder / "run"
    count = completions // per_document
    corpus = write_corpus(texts, folder, count)
    started = time.monotonic()
    asyncio.run(fill(texts, corpus, run, per_document))
    seconds = time.monotonic() - started
    stored = count * per_document
    size = sum(path.stat().st_size for path in run.iterdir())
    print(
        f"put: {stored:,} completions of {count:,} documents in {seconds:.1f} s, {stored / seconds:,.0f} a second; "
        f"{size / 1e6:,.0f} MB on disk; peak memory {peak()}",
        flush=True,
    )
    document = next(read_documents(corpus))
    messages = Prompts().messages(PROMPT, identity=document.identity, document=document.text.strip())
    key = completion_key(Request(messages, Wrap().sampling, 0, None, document.id), MODEL)
    printed = subprocess.run([sys.executable, "-c", OPEN, str(run), key], capture_output=True, text=True, check=True)
    opened, kilobytes = map(float, printed.stdout.split())
    print(f"open: first lookup answered after {opened:.2f} s; peak memory {kilobytes / 1024:,.0f} MB", flush=True)
    # Each document's part of the budget is what is stored for it; the last one has to be asked for.
    run_file = folder / "smt.yaml"
    run_file.write_bytes(
        orjson.dumps(
            {
                "run": str(run),
                "corpus": str(corpus),
                "backend": {"model": MODEL, "endpoints": []},
                "methods": {"wrap": {"tokens": (count + 1) * per_document * ANSWER_TOKENS}},
            }
        )
    )
    outcome = asyncio.run(replay(run_file))
    usage = outcome["usage"]
    print(
        f"generate: first new request after {outcome['first']:.1f} s, the end after {outcome['end']:.1f} s "
        f"({outcome['asked']:,} asked); {usage.ru_utime + usage.ru_stime:.1f} s of CPU; peak memory {peak(usage)}",
        flush=True,
    )


if __name__ == "__main__":
    main()
