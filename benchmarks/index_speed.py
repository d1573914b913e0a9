"""What does the index cost beyond the embedding? Against plain sentence-transformers on the very same texts.

    python benchmarks/index_speed.py quality /folder/with/its/files --documents 4

Both embed the same chunks and the same queries, one query at a time, with the same model and batch size; `smt` also
splits the documents, builds and keeps the index and searches it. They take turns, so that neither has the quieter hour.
"""

import argparse
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from llama_index.core.schema import MetadataMode

from smt_plugin.benchmarks import names
from smt_plugin.benchmarks.find import load
from smt_plugin.config import RetrievalSettings
from smt_plugin.retrieval.index import chunks_of, embedding_model
from smt_plugin.retrieval.retrieve import build_retrieval, query_of


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", choices=names())
    parser.add_argument("folder", type=Path)
    parser.add_argument("--documents", type=int, default=4, help="only so many, the first")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    documents, questions = load(arguments.benchmark, arguments.folder)
    documents = documents[: arguments.documents]
    identities = {document.id: document.identity for document in documents}
    questions = [question for question in questions if set(question.evidence) <= identities.keys()]
    settings = RetrievalSettings()
    embedding = embedding_model(settings)
    model = embedding._model
    texts = [node.get_content(MetadataMode.EMBED) for node in chunks_of(documents, settings, embedding)]
    queries = [query_of(question, identities[question.doc_id], settings) for question in questions]
    model.encode(texts[:64], batch_size=64)  # the first call is slower
    print(f"{len(texts):,} chunks, {len(queries):,} queries\n")
    print("| round | plain: chunks + queries, s | smt: index + queries, s | index / chunks | all / all |")
    print("| --- | --- | --- | --- | --- |")
    for number in range(arguments.rounds):
        started = time.monotonic()
        model.encode(texts, batch_size=64, normalize_embeddings=True)
        chunks = time.monotonic() - started
        for query in queries:
            model.encode([query], normalize_embeddings=True)
        plain = time.monotonic() - started
        with TemporaryDirectory() as folder:
            os.environ["XDG_CACHE_HOME"] = folder
            made = build_retrieval(documents, questions, Path(folder) / "r.jsonl", settings)
        ours, index = made["seconds"], made["index_seconds"]
        cells = f"{chunks:.1f} + {plain - chunks:.1f} | {index:.1f} + {ours - index:.1f}"
        print(f"| {number + 1} | {cells} | {index / chunks:.2f} | {ours / plain:.2f} |", flush=True)


if __name__ == "__main__":
    main()
