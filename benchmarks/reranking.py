"""Does a reranker put the likely passage (a proxy for evidence) higher, at which depth, and at what cost?

    OMP_NUM_THREADS=1 python benchmarks/reranking.py quality FOLDER MODEL --scores scores.jsonl

One question a document, the first of each. The candidates of every depth are found as `smt retrieve` finds them, each
is scored once, and the scores go to a file, with which a stopped call goes on. `--table` scores nothing and counts the
questions of which all candidates are scored. Intervals are 95 %.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson

from smt_plugin import benchmarks
from smt_plugin.benchmarks.find import load
from smt_plugin.config import RetrievalSettings, retrieval_settings
from smt_plugin.corpus import Document
from smt_plugin.evaluation.intervals import estimate
from smt_plugin.files import read_jsonl
from smt_plugin.question import Question
from smt_plugin.retrieval.index import chunks_of, embedding_model
from smt_plugin.retrieval.passages import likely_passages, places_of
from smt_plugin.retrieval.rerank import reranker_of
from smt_plugin.retrieval.retrieve import build_retrieval, query_of, read_retrieval

Found = dict[str, list[tuple[str, str]]]
"""Question id -> document id and text of its candidates."""


def main() -> None:
    """Score what is not scored yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", choices=benchmarks.names())
    parser.add_argument("folder", type=Path)
    parser.add_argument("reranker", help="as the setting of that name")
    parser.add_argument("--depths", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--questions", type=int, default=30)
    parser.add_argument("--scores", type=Path, required=True)
    parser.add_argument("--table", action="store_true", help="score nothing")
    arguments = parser.parse_args()
    documents, questions = load(arguments.benchmark, arguments.folder)
    asked = list({question.doc_id: question for question in reversed(questions)}.values())[::-1][: arguments.questions]
    settings = retrieval_settings(arguments.benchmark, {"reranker": arguments.reranker})
    plain = settings.model_copy(update={"reranker": ""})
    as_found = _candidates(documents, asked, plain)
    found = {
        depth: _candidates(documents, asked, plain.model_copy(update={"top_k": depth, "candidates": depth}))
        for depth in arguments.depths
    }
    if not arguments.table:
        _score(documents, asked, found, settings, arguments.scores)
    scores = {(row["question_id"], row["text"]): row for _, row in read_jsonl(arguments.scores)}
    about = {question.doc_id for question in asked}
    nodes = chunks_of([d for d in documents if d.id in about], settings, embedding_model(settings))
    likely = likely_passages(asked, nodes)
    k = settings.top_k
    print(f"| depth | questions | in the depth | @1 | @{k} | @1 as found | @{k} as found | CPU s a question |")
    print("|" + " --- |" * 8)
    for depth in arguments.depths:
        done = [q for q in asked if all((q.question_id, text) in scores for _, text in found[depth][q.question_id])]
        done = [question for question in done if question.question_id in likely]
        wanted = {question.question_id: likely[question.question_id] for question in done}
        ordered = {
            question_id: sorted(found[depth][question_id], key=lambda c: -scores[question_id, c[1]]["score"])
            for question_id in wanted
        }
        new, old, deep = (places_of(wanted, each) for each in (ordered, as_found, found[depth]))
        cost = sum(scores[i, text]["cpu_seconds"] for i in wanted for _, text in found[depth][i]) / max(1, len(done))
        cells = [_share(deep, done, depth), *(_share(each, done, n) for each in (new, old) for n in (1, k))]
        print(f"| {depth} | {len(done)} | {' | '.join(cells)} | {cost:.1f} |")
        gain = [_is_in(new[q.question_id], k) - _is_in(old[q.question_id], k) for q in done]
        by = estimate(gain, [question.doc_id for question in done], difference=True)
        print(f"depth {depth}: reranked minus as found @{k}: {by.mean:+.1%} ({by.low:+.0%} to {by.high:+.0%})")


def _candidates(documents: Sequence[Document], asked: Sequence[Question], settings: RetrievalSettings) -> Found:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "r.jsonl"
        build_retrieval(documents, asked, path, settings)
        return {name: [(c.doc_id, c.text) for c in chunks] for name, chunks in read_retrieval(path, asked).items()}


def _score(
    documents: Sequence[Document],
    asked: Sequence[Question],
    found: dict[int, Found],
    settings: RetrievalSettings,
    path: Path,
) -> None:
    """Write a line a candidate: question, text, score, seconds by the clock and of the processor."""
    done = {(row["question_id"], row["text"]) for _, row in read_jsonl(path)} if path.is_file() else set()
    identities = {document.id: document.identity for document in documents}
    rerank = reranker_of(settings)
    assert rerank is not None
    with path.open("ab") as file:
        for candidates in found.values():
            for question in asked:
                name = question.question_id
                texts = [text for _, text in candidates[name] if (name, text) not in done]
                if not texts:
                    continue
                clock, cpu = time.monotonic(), time.process_time()
                (scores,) = rerank([(query_of(question, identities[question.doc_id], settings), texts)])
                spent = {
                    "seconds": (time.monotonic() - clock) / len(texts),
                    "cpu_seconds": (time.process_time() - cpu) / len(texts),
                }
                for text, score in zip(texts, scores, strict=True):
                    done.add((name, text))
                    file.write(orjson.dumps({"question_id": name, "text": text, "score": score} | spent) + b"\n")
                file.flush()


def _is_in(places: Sequence[int | None], k: int) -> float:
    return sum(place is not None and place <= k for place in places) / len(places)


def _share(places: dict[str, list[int | None]], asked: Sequence[Question], k: int) -> str:
    values = [_is_in(places[question.question_id], k) for question in asked]
    found = estimate(values, [question.doc_id for question in asked])
    return f"{found.mean:.1%} ({found.low:.0%} to {found.high:.0%})"


if __name__ == "__main__":
    main()
