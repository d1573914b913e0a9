"""Retrieve chunks for questions with LlamaIndex, once, into a file that every model then reads."""

import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from msgspec import Meta, Struct, structs

from smt_plugin.backends.base import lasting_options
from smt_plugin.config import NO_THINKING, ORDERS, Order, RetrievalSettings, retrieval_settings
from smt_plugin.corpus import Document, comparable
from smt_plugin.errors import BadInput
from smt_plugin.files import Text, cache_dir, content_hash, read_json_if_there, read_rows, write_json, write_jsonl
from smt_plugin.progress import Progress
from smt_plugin.question import Question
from smt_plugin.retrieval.by_words import word_retriever
from smt_plugin.retrieval.index import VERSION, chunks_of, embedding_model, index_of, threads_for
from smt_plugin.retrieval.passages import likely_passages, places_of, proxy_passage_recall
from smt_plugin.retrieval.rerank import reranker_of

if TYPE_CHECKING:
    from llama_index.core import VectorStoreIndex
    from llama_index.core.schema import TextNode

_QUESTIONS_AT_ONCE = 64


class Chunk(Struct, frozen=True):
    """A retrieved piece of a document: its text, which opens with the document's identity, and its score.

    `page` counts from 0 and is None where the document has no pages.
    """

    doc_id: str
    text: Text
    score: float
    page: int | None = None


_BUILD_ANEW = "remove it to build it anew"


class _Row(Struct):
    """A line of a retrieval file; see `build_retrieval`."""

    question_id: Text
    chunks: list[Chunk]
    proxy_places: list[Annotated[int, Meta(ge=1)] | None] | None = None


class _Settings(TypedDict, total=False):
    order: Order


class _Manifest(TypedDict):
    """What is read again of the manifest beside a retrieval file."""

    settings: _Settings


def query_of(question: Question, identity: str, settings: RetrievalSettings) -> str:
    """What is asked of the index: what the closed-book arm is asked, without options and instruction."""
    return f"{identity}\n{question.question}" if settings.name_document else question.question


def build_retrieval(
    documents: Sequence[Document], questions: Sequence[Question], path: Path, settings: RetrievalSettings | None = None
) -> dict[str, Any]:
    """Retrieve the `top_k` chunks of every question and write them, best first, to `path` (JSONL).

    A line is {"question_id", "chunks": [{"doc_id", "text", "score", "page"}]}; the score is the cosine similarity,
    BM25's, the fused rank's or the reranker's. Where no evidence pages are known, the line also has "proxy_places":
    where among the chunks (from 1, or null) the passage of each of its documents stands that probably holds the answer.
    Beside the file, `<path>.manifest.json` says how it was made, and how often the right things were found.

    Returns:
        The manifest: settings, counts, content key, seconds, and, at 1 and k chunks, as means over the questions:
        document_recall@k (share of a question's documents), page_recall@k (share of its evidence pages; over
        page_questions, where these are known), proxy_passage_recall@k (share of its likely passages, see passages.py;
        over proxy_passage_questions, where no pages are known).

    Raises:
        BadInput: LlamaIndex or a model is missing, or settings that cannot work.
    """
    settings = settings or RetrievalSettings()
    started = time.monotonic()
    index, nodes, count = index_of(documents, settings)
    indexed = time.monotonic()
    chunks = _retrieve(documents, questions, index, nodes, count, settings)
    places = _proxy_places(documents, questions, nodes, chunks, settings)
    rows = (
        {"question_id": question, "chunks": [structs.asdict(chunk) for chunk in found]}
        | ({"proxy_places": places[question]} if question in places else {})
        for question, found in chunks.items()
    )
    # Without its manifest a file is not whole: so out first, and in last.
    manifest_path(path).unlink(missing_ok=True)
    write_jsonl(path, rows)
    manifest = {
        "settings": settings.model_dump(),
        "key": retrieval_key(documents, questions, settings),
        "documents": len(documents),
        "chunks": count,
        "questions": len(questions),
        **recalls(questions, chunks, places, settings.top_k),
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
    if not path.is_file() or not manifest_path(path).is_file():
        print(f"smt: retrieving for {len(questions)} questions, once, into {path}", file=sys.stderr)
        build_retrieval(documents, questions, path, settings)
        if "torch" in sys.modules:  # or its cache would keep the GPU's memory from the model that is asked next
            sys.modules["torch"].cuda.empty_cache()
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
        [
            each.question_id,
            query_of(each, identities[each.doc_id], settings),
            *(each.evidence, each.evidence_pages, each.gold),
        ]
        for each in questions
    ]
    return content_hash([[VERSION, values], *texts, *asked])[:16]


def order_of(path: Path) -> str:
    """The order in which the chunks of a retrieval file are to stand, from its manifest; best first without one."""
    manifest = read_json_if_there(manifest_path(path), _Manifest, "smt retrieve")
    return manifest["settings"].get("order", ORDERS[0]) if manifest else ORDERS[0]


def read_retrieval(path: Path, questions: Iterable[Question]) -> dict[str, list[Chunk]]:
    """Read a retrieval file: question id -> chunks, best first, of these questions.

    Raises:
        BadInput: a line that is not of that form, or a question without a line.
    """
    found = {comparable(row.question_id): row.chunks for row, _ in read_rows(path, _Row, _BUILD_ANEW)}
    of_question = {}
    for question in questions:
        if comparable(question.question_id) not in found:
            raise BadInput(
                f"{path} has no chunks for question {question.question_id!r}; it was made for other questions: "
                f"{_BUILD_ANEW}."
            )
        of_question[question.question_id] = found[comparable(question.question_id)]
    return of_question


def read_proxy_places(path: Path, questions: Iterable[Question]) -> dict[str, list[int | None]]:
    """The `proxy_places` of a retrieval file for those of the questions that have any; see `build_retrieval`."""
    wanted = {question.question_id for question in questions}
    rows = (row for row, _ in read_rows(path, _Row, _BUILD_ANEW))
    return {
        row.question_id: row.proxy_places for row in rows if row.question_id in wanted and row.proxy_places is not None
    }


def recalls(
    questions: Sequence[Question], chunks: dict[str, list[Chunk]], places: dict[str, list[int | None]], top_k: int
) -> dict[str, float]:
    """A manifest's recalls, at 1 and `top_k`, as `build_retrieval` tells them; those without questions are absent."""
    found: dict[str, float] = {f"document_recall@{k}": document_recall(questions, chunks, k) for k in (1, top_k)}
    if paged := [question for question in questions if question.evidence_pages]:
        found |= {f"page_recall@{k}": page_recall(paged, chunks, k) for k in (1, top_k)}
        found["page_questions"] = len(paged)
    if places:
        found |= {f"proxy_passage_recall@{k}": proxy_passage_recall(places.values(), k) for k in (1, top_k)}
        found["proxy_passage_questions"] = len(places)
    return found


def document_recall(questions: Sequence[Question], chunks: dict[str, list[Chunk]], k: int) -> float:
    """Mean over the questions of the share of a question's documents among its first `k` chunks."""
    shares = []
    for question in questions:
        found = {chunk.doc_id for chunk in chunks[question.question_id][:k]}
        wanted = set(question.evidence)
        shares.append(len(found & wanted) / len(wanted))
    return sum(shares) / len(shares) if shares else 0.0


def page_recall(questions: Sequence[Question], chunks: dict[str, list[Chunk]], k: int) -> float:
    """Mean over questions with known evidence pages of the share of these among the first `k` chunks."""
    shares = []
    for question in questions:
        found = {(chunk.doc_id, chunk.page) for chunk in chunks[question.question_id][:k]}
        shares.append(len(found & set(question.evidence_pages)) / len(question.evidence_pages))
    return sum(shares) / len(shares) if shares else 0.0


def _proxy_places(
    documents: Sequence[Document],
    questions: Sequence[Question],
    nodes: "Sequence[TextNode]",
    chunks: dict[str, list[Chunk]],
    settings: RetrievalSettings,
) -> dict[str, list[int | None]]:
    asked = [question for question in questions if not question.evidence_pages]
    if asked and not nodes:  # they are on a server
        about = {doc_id for question in asked for doc_id in question.evidence}
        some = [document for document in documents if document.id in about]
        nodes = chunks_of(some, settings, embedding_model(settings))
    found = {question: [(chunk.doc_id, chunk.text) for chunk in each] for question, each in chunks.items()}
    return places_of(likely_passages(asked, nodes), found)


def _retriever(
    index: "VectorStoreIndex | None", nodes: "list[TextNode]", chunks: int, settings: RetrievalSettings
) -> Any:
    """What finds some of so many chunks for a query: more than `top_k` of them if a reranker follows."""
    count = settings.candidates if settings.reranker else settings.top_k
    if index is not None and settings.mode == "dense":
        return index.as_retriever(similarity_top_k=min(chunks, count))
    found_by_each = min(chunks, settings.candidates if settings.mode == "hybrid" else count)
    words = word_retriever(nodes, found_by_each, only_shared=index is not None)
    if index is None:
        return words
    from llama_index.core.llms import MockLLM
    from llama_index.core.retrievers import QueryFusionRetriever

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


def _retrieve(
    documents: Sequence[Document],
    questions: Sequence[Question],
    index: "VectorStoreIndex | None",
    nodes: "list[TextNode]",
    count: int,
    settings: RetrievalSettings,
) -> dict[str, list[Chunk]]:
    retriever = _retriever(index, nodes, count, settings)
    rerank = reranker_of(settings)
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
    scored = [structs.replace(chunk, score=round(score, 6)) for chunk, score in zip(chunks, scores, strict=True)]
    return sorted(scored, key=lambda chunk: -chunk.score)
