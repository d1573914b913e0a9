"""Does a reranker put the right passage higher, at which depth, and at what cost?

    python benchmarks/reranking.py quality FOLDER MODEL --depths 16 32 64 --scores scores.jsonl

One question a document, the first of each. The candidates of every depth are found as `smt retrieve` finds them, each
is scored once, and the scores go to a file, with which a stopped call goes on.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson

from smt_plugin import benchmarks
from smt_plugin.benchmarks.find import load
from smt_plugin.config import retrieval_settings
from smt_plugin.files import read_jsonl
from smt_plugin.retrieval.rerank import reranker_of
from smt_plugin.retrieval.retrieve import build_retrieval, query_of, read_retrieval


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", choices=benchmarks.names())
    parser.add_argument("folder", type=Path)
    parser.add_argument("reranker", help="as the setting of that name")
    parser.add_argument("--depths", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--questions", type=int, default=30)
    parser.add_argument("--scores", type=Path, required=True)
    arguments = parser.parse_args()
    documents, questions = load(arguments.benchmark, arguments.folder)
    identities = {document.id: document.identity for document in documents}
    asked = list({question.doc_id: question for question in reversed(questions)}.values())[::-1][: arguments.questions]
    settings = retrieval_settings(arguments.benchmark, {"reranker": arguments.reranker})
    found = {}
    for depth in arguments.depths:
        plain = settings.model_copy(update={"reranker": "", "top_k": depth, "candidates": depth})
        with TemporaryDirectory() as folder:
            build_retrieval(documents, asked, Path(folder) / "r.jsonl", plain)
            found[depth] = read_retrieval(Path(folder) / "r.jsonl", asked)
    scored = {}
    if arguments.scores.is_file():
        for _, row in read_jsonl(arguments.scores):
            scored[row["question_id"], row["text"]] = row["score"]
    rerank = reranker_of(settings)
    with arguments.scores.open("ab") as file:
        for depth in arguments.depths:
            for question in asked:
                texts = [c.text for c in found[depth][question.question_id]]
                texts = [text for text in texts if (question.question_id, text) not in scored]
                if not texts:
                    continue
                query = query_of(question, identities[question.doc_id], settings)
                wall, cpu = time.monotonic(), time.process_time()
                (scores,) = rerank([(query, texts)])
                wall, cpu = (time.monotonic() - wall) / len(texts), (time.process_time() - cpu) / len(texts)
                for text, score in zip(texts, scores, strict=True):
                    scored[question.question_id, text] = score
                    row = {
                        "question_id": question.question_id,
                        "text": text,
                        "score": score,
                        "seconds": wall,
                        "cpu_seconds": cpu,
                    }
                    file.write(orjson.dumps(row) + b"\n")
                file.flush()


if __name__ == "__main__":
    main()
