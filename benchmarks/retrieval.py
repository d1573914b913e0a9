"""How often is the right document, the right page or the likely passage (a proxy) among the retrieved chunks?

    python benchmarks/retrieval.py quality /folder/with/its/files --chunk-tokens 100 200

Runs each mode at each chunk size with MiniLM, or another --embedding, and prints a Markdown table.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from smt_plugin import benchmarks
from smt_plugin.benchmarks.find import load
from smt_plugin.config import MINILM, MODES, retrieval_settings
from smt_plugin.retrieval.retrieve import build_retrieval


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", choices=benchmarks.names())
    parser.add_argument("folder", type=Path)
    parser.add_argument("--chunk-tokens", type=int, nargs="+", default=[200])
    parser.add_argument("--mode", choices=MODES, nargs="+", default=MODES)
    parser.add_argument("--embedding", default=MINILM)
    parser.add_argument("--without-identity", action="store_true", help="queries do not name their document")
    arguments = parser.parse_args()
    documents, questions = load(arguments.benchmark, arguments.folder)
    print(f"{len(questions):,} questions, {len(documents):,} documents\n")
    print(
        "| chunk tokens | mode | chunks | document @1 | @8 | page @1 | @8 | proxy passage @1 | @8 | index s | all s |"
    )
    print("|" + " --- |" * 11)
    for chunk_tokens in arguments.chunk_tokens:
        for mode in arguments.mode:
            settings = retrieval_settings(
                arguments.benchmark,
                {
                    "mode": mode,
                    "embedding": arguments.embedding,
                    "chunk_tokens": chunk_tokens,
                    "overlap_tokens": chunk_tokens // 10,
                    "name_document": not arguments.without_identity,
                },
            )
            with TemporaryDirectory() as folder:
                made = build_retrieval(documents, questions, Path(folder) / "r.jsonl", settings)
            names = [f"{kind}_recall@{k}" for kind in ("document", "page", "proxy_passage") for k in (1, 8)]
            recalls = " | ".join(f"{made[name]:.1%}" if name in made else "" for name in names)
            seconds = f"{made['index_seconds']} | {made['seconds'] - made['index_seconds']:.1f}"
            print(f"| {chunk_tokens} | {mode} | {made['chunks']:,} | {recalls} | {seconds} |", flush=True)


if __name__ == "__main__":
    main()
