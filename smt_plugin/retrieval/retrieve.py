"""Retrieve chunks for questions with LlamaIndex, once, into a file that every model then reads."""

import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smt_plugin.backends.base import lasting_options
from smt_plugin.config import NO_THINKING, ORDERS, RetrievalSettings, retrieval_settings
from smt_plugin.corpus import Document
from smt_plugin.errors import BadInput, require
from smt_plugin.files import cache_dir, content_hash, read_json, read_jsonl, write_json, write_jsonl
from smt_plugin.progress import Progress
from smt_plugin.question import Question
from smt_plugin.retrieval.index import VERSION, index_of, threads_for
from smt_plugin.retrieval.rerank import Rerank, cross_encoder, language_model

if TYPE_CHECKING:
    from llama_index.core import VectorStoreIndex
    from llama_index.core.schema import TextNode

_QUESTIONS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Chunk:
    """A retrieved piece of a document: its text, which opens with the document's identity, and its score.

    `page` counts from 0 and is None where the document has no pages.
    """

    doc_id: str
    text: str
    score: float
    page: int | None = None


def query_of(question: Question, identity: str, settings: RetrievalSettings) -> str:
    """What is asked of the index: what the closed-book arm is asked, without options and instruction."""
    return f"{identity}\n{question.question}" if settings.name_document else question.question


def build_retrieval(
    documents: Sequence[Document], questions: Sequence[Question], path: Path, settings: RetrievalSettings | None = None
) -> dict[str, Any]:
    """Retrieve the `top_k` chunks of every question and write them, best first, to `path` (JSONL).

    A line is {"question_id", "chunks": [{"doc_id", "text", "score", "page"}]}; the score is the cosine similarity,
    BM25's, the fused rank's or the reranker's. Beside it, `<path>.manifest.json` says how it was made, and how
    often the right documents and pages were found.

    Returns:
        The manifest: settings, counts, content key, recall@1 and recall@k (the share of a question's documents among
        the first 1 and k chunks, mean over the questions), page_recall@1 and @k (the share of its evidence pages,
        where these are known), seconds.

    Raises:
        BadInput: LlamaIndex or a model is missing, or settings that cannot work.
    """
    settings = settings or RetrievalSettings()
    started = time.monotonic()
    index, nodes, count = index_of(documents, settings)
    indexed = time.monotonic()
    chunks = _retrieve(documents, questions, index, nodes, count, settings)
    rows = (
        {"question_id": question, "chunks": [asdict(chunk) for chunk in found]} for question, found in chunks.items()
    )
    write_jsonl(path, rows)
    manifest = {
        "settings": settings.model_dump(),
        "key": retrieval_key(documents, questions, settings),
        "documents": len(documents),
        "chunks": count,
        "questions": len(questions),
        **{f"recall@{k}": recall(questions, chunks, k) for k in (1, settings.top_k)},
        **page_recalls(questions, chunks, settings.top_k),
        "index_seconds": round(indexed - started, 1),
        "seconds": round(time.monotonic() - started, 1),
    }
    write_json(manifest_path(path), manifest)
    return manifest


def manifest_path(path: Path) -> Path:
    """The manifest beside a retrieval file."""
    return path.with_name(path.name + ".manifest.json")


def cached_retrieval(
    benchmark: str,
    documents: Sequence[Document],
    questions: Sequence[Question],
    settings: RetrievalSettings | None = None,
) -> Path:
    """The retrieval file of a benchmark, by default with its default settings; built on first use, then reused.

    It lies in the cache folder under a name made from the content of documents, questions and settings.
    """
    settings = settings or retrieval_settings(benchmark)
    key = retrieval_key(documents, questions, settings)
    path = cache_dir() / "retrieval" / f"{benchmark}-{key}.jsonl"
    if not path.is_file():
        print(f"smt: retrieving for {len(questions)} questions, once, into {path}", file=sys.stderr)
        build_retrieval(documents, questions, path, settings)
    return path


def retrieval_key(documents: Sequence[Document], questions: Iterable[Question], settings: RetrievalSettings) -> str:
    """Sixteen hex digits that change with anything a retrieval depends on."""
    # The file is the same in whichever order its chunks are read, and wherever the server is that keeps them.
    values = settings.model_dump(exclude={"order", "reranker_options"}) | {"vector_store": bool(settings.vector_store)}
    # The default is not among it, so that files from before there were options are still found.
    if (options := lasting_options(settings.reranker_options)) != lasting_options(NO_THINKING):
        values["reranker_options"] = options
    texts = [[document.id, document.identity, document.text] for document in documents]
    identities = {document.id: document.identity for document in documents}
    asked = [
        [each.question_id, query_of(each, identities[each.doc_id], settings), each.evidence, each.evidence_pages]
        for each in questions
    ]
    return content_hash([[VERSION, values], *texts, *asked])[:16]


def order_of(path: Path) -> str:
    """The order in which the chunks of a retrieval file are to stand, from its manifest; best first without one."""
    manifest = manifest_path(path)
    settings = read_json(manifest, "smt retrieve", "settings")["settings"] if manifest.is_file() else {}
    return str(settings.get("order", ORDERS[0]))


def read_retrieval(path: Path, questions: Iterable[Question]) -> dict[str, list[Chunk]]:
    """Read a retrieval file: question id -> chunks, best first.

    Raises:
        BadInput: a line that is not of that form, or a question without a line.
    """
    found: dict[str, list[Chunk]] = {}
    for number, row in read_jsonl(path):
        try:
            chunks = [Chunk(str(c["doc_id"]), str(c["text"]), float(c["score"]), c.get("page")) for c in row["chunks"]]
            found[str(row["question_id"])] = chunks
        except (KeyError, TypeError, ValueError):
            raise BadInput(
                f"{path}, line {number}: expected question_id and chunks, a list of doc_id, text and score."
            ) from None
    for question in questions:
        if question.question_id not in found:
            raise BadInput(
                f"{path} has no chunks for question {question.question_id!r}; it was made for other questions: "
                "build it anew."
            )
    return found


def recall(questions: Sequence[Question], chunks: dict[str, list[Chunk]], k: int) -> float:
    """Mean over the questions of the share of a question's documents among its first `k` chunks."""
    shares = []
    for question in questions:
        found = {chunk.doc_id for chunk in chunks[question.question_id][:k]}
        wanted = set(question.evidence)
        shares.append(len(found & wanted) / len(wanted))
    return sum(shares) / len(shares) if shares else 0.0


def page_recalls(questions: Sequence[Question], chunks: dict[str, list[Chunk]], top_k: int) -> dict[str, float]:
    """Recall of evidence pages at 1 and `top_k` over the questions whose pages are known; empty without any."""
    asked = [question for question in questions if question.evidence_pages]
    recalls = {}
    for k in (1, top_k) if asked else ():
        shares = []
        for question in asked:
            found = {(chunk.doc_id, chunk.page) for chunk in chunks[question.question_id][:k]}
            shares.append(len(found & set(question.evidence_pages)) / len(question.evidence_pages))
        recalls[f"page_recall@{k}"] = sum(shares) / len(shares)
    return recalls


def _retriever(
    index: "VectorStoreIndex | None", nodes: "list[TextNode]", chunks: int, settings: RetrievalSettings
) -> Any:
    """What finds some of so many chunks for a query: more than `top_k` of them if a reranker follows."""
    count = settings.candidates if settings.reranker else settings.top_k
    if index is not None and settings.mode == "dense":
        return index.as_retriever(similarity_top_k=min(chunks, count))
    found_by_each = min(chunks, settings.candidates if settings.mode == "hybrid" else count)
    require("bm25s", "rag")
    from llama_index.core.llms import MockLLM
    from llama_index.core.retrievers import QueryFusionRetriever
    from llama_index.retrievers.bm25 import BM25Retriever

    words = BM25Retriever.from_defaults(nodes=nodes, similarity_top_k=found_by_each)
    if index is None:
        return words
    dense = index.as_retriever(similarity_top_k=found_by_each)
    # One query asks no model for others; the mock keeps LlamaIndex from reaching for one all the same.
    return QueryFusionRetriever(
        [dense, words],
        llm=MockLLM(),
        num_queries=1,
        mode="reciprocal_rerank",
        similarity_top_k=count,
        use_async=False,
    )


def _reranker(settings: RetrievalSettings) -> Rerank | None:
    if settings.reranker_endpoint:
        return language_model(settings.reranker_endpoint, settings.reranker, settings.reranker_options)
    return cross_encoder(settings.reranker) if settings.reranker else None


def _retrieve(
    documents: Sequence[Document],
    questions: Sequence[Question],
    index: "VectorStoreIndex | None",
    nodes: "list[TextNode]",
    count: int,
    settings: RetrievalSettings,
) -> dict[str, list[Chunk]]:
    retriever = _retriever(index, nodes, count, settings)
    rerank = _reranker(settings)
    identities = {document.id: document.identity for document in documents}
    queries = [query_of(question, identities[question.doc_id], settings) for question in questions]
    chunks = {}
    with (
        Progress("questions looked up", len(questions)) as progress,
        ThreadPoolExecutor(threads_for(settings)) as pool,
    ):
        # Some questions at a time: all candidates of all questions would fill the memory.
        for start in range(0, len(questions), _QUESTIONS_AT_ONCE):
            asked = queries[start : start + _QUESTIONS_AT_ONCE]
            found = [_chunks(hits) for hits in pool.map(retriever.retrieve, asked)]
            if rerank is not None:
                scores = rerank([(query, [c.text for c in each]) for query, each in zip(asked, found, strict=True)])
                found = [_reordered(each, s)[: settings.top_k] for each, s in zip(found, scores, strict=True)]
            for question, each in zip(questions[start : start + _QUESTIONS_AT_ONCE], found, strict=True):
                chunks[question.question_id] = each
            progress.at(start + len(asked))
    return chunks


def _chunks(hits: Any) -> list[Chunk]:
    from llama_index.core.schema import MetadataMode

    return [
        Chunk(
            hit.node.metadata["doc_id"],
            hit.node.get_content(MetadataMode.EMBED),
            round(float(hit.score), 6),
            hit.node.metadata["page"],
        )
        for hit in hits
    ]


def _reordered(chunks: list[Chunk], scores: list[float]) -> list[Chunk]:
    scored = [replace(chunk, score=round(score, 6)) for chunk, score in zip(chunks, scores, strict=True)]
    return sorted(scored, key=lambda chunk: -chunk.score)
