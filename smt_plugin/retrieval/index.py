"""An index of documents: cut into chunks, embedded, and kept for the next time."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import orjson
import regex

from smt_plugin.backends.body import ACCEPTED, Body
from smt_plugin.config import MINILM, RetrievalSettings
from smt_plugin.corpus import Document, estimate_tokens
from smt_plugin.errors import BadInput, require
from smt_plugin.files import cache_dir, content_hash, read_json, whole_folder
from smt_plugin.masking import without_key
from smt_plugin.progress import Progress
from smt_plugin.sentences import SCRIPTS_END

if TYPE_CHECKING:
    from llama_index.core import VectorStoreIndex
    from llama_index.core.schema import TextNode

VERSION = 4  # raise it when the same settings come to give other chunks, so that no old file is reused
EMBEDDING_KEY_VARIABLE = "SMT_EMBEDDING_API_KEY"
# Settings that change no index: a new one is part of its key unless it is named here.
_NOT_OF_AN_INDEX = (
    *("mode", "vector_store", "query_instruction", "top_k", "order"),
    *("reranker", "reranker_endpoint", "reranker_options", "candidates", "name_document"),
)
_PROBE = "A text that tells one embedding model from another."
_BATCH = 64
_BATCHES_AT_ONCE = 4  # a thread, until a server gets what was embedded
# LlamaIndex's sentences end in the Latin way. These patterns cut them at other scripts' ends, and leave out nothing.
_SENTENCES = regex.compile(rf"(?s).+?(?:{SCRIPTS_END}\s*|\Z)", regex.VERSION1)
# As LlamaIndex's, with the commas and semicolons of other scripts.
_CLAUSES = "[^,.;。？！，、；،؛፣]+[,.;。？！，、；،؛፣]?|[,.;。？！，、；،؛፣]"
_PAGE = re.compile(r"^\[page (\d+)\]\n", re.MULTILINE)


def embedding_model(settings: RetrievalSettings) -> Any:
    """The model that embeds, as LlamaIndex knows it.

    Raises:
        BadInput: a package is missing, the model cannot be loaded, or its endpoint embeds nothing.
    """
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
    # Where no hub answers, its client raises a RuntimeError.
    except (OSError, RuntimeError) as error:
        raise BadInput(
            f"the embedding model {settings.embedding!r} cannot be loaded ({error}); give {MINILM} or the "
            "folder of a sentence-transformers model."
        ) from None


def _endpoint_model(settings: RetrievalSettings) -> Any:
    """A model behind an endpoint. LlamaIndex has such a class, too, but it makes spaces of a text's line breaks."""
    openai = require("openai", "rag")
    import httpx
    import numpy as np
    from llama_index.core.embeddings import BaseEmbedding

    def read_whole(response: httpx.Response) -> None:
        """Read an answer here, since httpx knows no limit, and give it what was read."""
        raw = response.stream
        assert isinstance(raw, httpx.SyncByteStream)
        try:
            body = Body(response.headers.pop("Content-Encoding", None))
            for block in raw:
                body.add(block)
            response.stream = httpx.ByteStream(body.content())
        except ValueError as error:
            raise openai.OpenAIError(str(error)) from None
        finally:
            raw.close()
        if response.is_redirect:
            # To follow it would be to give another server the texts and the key.
            raise openai.OpenAIError(f"it redirects to {response.headers.get('Location')}; give that address instead")

    client = openai.OpenAI(
        base_url=settings.embedding_endpoint,
        api_key=os.environ.get(EMBEDDING_KEY_VARIABLE) or "none",
        max_retries=5,
        http_client=httpx.Client(
            timeout=600,
            headers={"Accept-Encoding": ACCEPTED},
            follow_redirects=False,
            event_hooks={"response": [read_whole]},
        ),
    )

    def embedded(texts: list[str]) -> list[list[float]]:
        rows = client.embeddings.create(
            model=settings.embedding,
            input=texts,
            encoding_format="float",
        ).data
        vectors = np.asarray([row.embedding for row in sorted(rows, key=lambda row: row.index)])
        normed: list[list[float]] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).tolist()
        return normed

    class AtEndpoint(BaseEmbedding):  # type: ignore[misc]
        def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            try:
                return embedded(texts)
            except Exception as error:  # whatever answers there
                said = without_key(str(error), os.environ.get(EMBEDDING_KEY_VARIABLE))
                raise BadInput(
                    f"{settings.embedding} at {settings.embedding_endpoint} embeds nothing ({said}); start the server, "
                    "or fix embedding_endpoint, embedding or SMT_EMBEDDING_API_KEY."
                ) from None

        def _get_text_embedding(self, text: str) -> list[float]:
            return self._get_text_embeddings([text])[0]

        def _get_query_embedding(self, query: str) -> list[float]:
            return self._get_text_embedding(settings.query_instruction + query)

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return self._get_query_embedding(query)

    model = AtEndpoint(model_name=settings.embedding, embed_batch_size=_BATCH)
    _probe(model)
    return model


def _probe(model: Any) -> list[float]:
    """The embedding of a fixed text, by which another model behind the same name is told."""
    found: list[float] = model.get_text_embedding(_PROBE)
    return found


def index_of(
    documents: Sequence[Document], settings: RetrievalSettings
) -> "tuple[VectorStoreIndex | None, list[TextNode], int]":
    """The index of the documents' chunks, the chunks in order where words are searched, and their number.

    The index is kept for the next time, in the cache folder or on a server. Search by words alone needs none, and
    embeds nothing.
    """
    model = embedding_model(settings)
    if settings.mode == "bm25":
        nodes = chunks_of(documents, settings, model)
        return None, nodes, len(nodes)
    if settings.vector_store:
        return _index_at_server(documents, settings, model)
    faiss = require("faiss", "rag")
    from llama_index.core import StorageContext, VectorStoreIndex, load_index_from_storage
    from llama_index.vector_stores.faiss import FaissVectorStore

    folder = cache_dir() / "index" / index_key(documents, settings)
    if folder.is_dir():
        kept = read_json(folder / "probe.json", list[float], "smt retrieve")
        _check_same_model(kept, _probe(model), settings, f"the index in {folder}", "that folder")
        store = FaissVectorStore.from_persist_dir(str(folder))
        storage = StorageContext.from_defaults(vector_store=store, persist_dir=str(folder))
        index = load_index_from_storage(storage, embed_model=model)
        nodes = sorted(index.docstore.docs.values(), key=lambda node: node.metadata["order"])
        return index, nodes, len(nodes)
    nodes = chunks_of(documents, settings, model)
    for _ in _embed(nodes, model, settings):
        pass
    # Embeddings are normalised, so their inner product is the cosine; the search is exact.
    store = FaissVectorStore(faiss_index=faiss.IndexFlatIP(len(nodes[0].embedding or ())))
    index = VectorStoreIndex(nodes, storage_context=StorageContext.from_defaults(vector_store=store), embed_model=model)
    with whole_folder(folder) as partial:
        index.storage_context.persist(str(partial))
        (partial / "probe.json").write_bytes(orjson.dumps(_probe(model)))
    return index, nodes, len(nodes)


def _index_at_server(
    documents: Sequence[Document], settings: RetrievalSettings, model: Any
) -> "tuple[VectorStoreIndex, list[TextNode], int]":
    """The same on a server. What a stopped call wrote there stays, and the next one writes what is missing.

    Chunks are cut anew each time that words are searched, which the server does not do.
    """
    from smt_plugin.retrieval.chroma import server_store

    probe = _probe(model)
    name = f"smt-{index_key(documents, settings)}"
    store = server_store(settings.vector_store, name, probe)
    place = f"the collection {name} at {settings.vector_store}"
    _check_same_model(store.probe, probe, settings, place, "that collection")
    count = store.count
    nodes = chunks_of(documents, settings, model) if count is None or settings.mode == "hybrid" else []
    if count is None:
        for block in _embed(store.missing(nodes), model, settings):
            store.add(block)
        count = len(nodes)
        store.finish(count)
    from llama_index.core import VectorStoreIndex

    return VectorStoreIndex.from_vector_store(store, embed_model=model), nodes, count


def _check_same_model(kept: list[float], now: list[float], settings: RetrievalSettings, place: str, what: str) -> None:
    """Refuse an index that another model made, which was replaced in its folder or behind its endpoint since."""
    import numpy as np

    if len(kept) != len(now) or np.dot(kept, now) < 0.99 * np.linalg.norm(kept) * np.linalg.norm(now):
        raise BadInput(
            f"{place} was made with another embedding model than {settings.embedding} is now; remove {what} to build "
            "it anew."
        )


def index_key(documents: Iterable[Document], settings: RetrievalSettings) -> str:
    """Sixteen hex digits that change with anything an index depends on: texts, embedding model, chunks."""
    made_with = settings.model_dump(exclude=set(_NOT_OF_AN_INDEX))
    texts = [[document.id, document.identity, document.text] for document in documents]
    return content_hash([[VERSION, *made_with.values()], *texts])[:16]


def chunks_of(documents: Iterable[Document], settings: RetrievalSettings, model: Any) -> "list[TextNode]":
    """Chunks at sentence ends, on one page each, that open with the identity of their document."""
    from llama_index.core import Document as Source
    from llama_index.core.node_parser import SentenceSplitter
    from llama_index.core.node_parser.text.utils import split_by_sentence_tokenizer

    latin_sentences = split_by_sentence_tokenizer()
    splitter = SentenceSplitter(
        chunk_size=settings.chunk_tokens,
        chunk_overlap=settings.overlap_tokens,
        tokenizer=_tokenizer(model, settings),
        chunking_tokenizer_fn=lambda text: [
            sentence for part in latin_sentences(text) for sentence in _SENTENCES.findall(part)
        ],
        secondary_chunking_regex=_CLAUSES,
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


def _tokenizer(model: Any, settings: RetrievalSettings) -> Callable[[str], Sequence[int]]:
    if settings.embedding_endpoint:
        from llama_index.core.utils import get_tokenizer

        found: Callable[[str], Sequence[int]] = get_tokenizer()
        return found
    tokenizer = model._model.tokenizer
    unknown = tokenizer.unk_token_id if tokenizer.is_fast else None

    def tokens(text: str) -> list[int]:
        """A token for each of the model's; one that stands for what it does not know counts by its length.

        Else all of a Thai document, a few unknown words for MiniLM, would be one chunk.
        """
        coded = tokenizer(text, add_special_tokens=False, verbose=False, return_offsets_mapping=unknown is not None)
        ids: list[int] = coded["input_ids"]
        if unknown is None or unknown not in ids:
            return ids
        places = zip(ids, coded["offset_mapping"], strict=True)
        sizes = [round(estimate_tokens(text[begin:end])) if id_ == unknown else 1 for id_, (begin, end) in places]
        return [id_ for id_, size in zip(ids, sizes, strict=True) for _ in range(max(1, size))]

    return tokens


def pages_of(text: str) -> list[tuple[int | None, str]]:
    """The pages of a text, numbered from 0, where lines such as `[page 12]` (from 1) divide it; else all of it."""
    parts = _PAGE.split(text)
    pages = [(int(number) - 1, page) for number, page in zip(parts[1::2], parts[2::2], strict=True) if page.strip()]
    return [*([(None, parts[0])] if parts[0].strip() else []), *pages]


def _embed(nodes: "list[TextNode]", model: Any, settings: RetrievalSettings) -> "Iterator[list[TextNode]]":
    """Give the chunks their embeddings, and return them block by block as they get them."""
    from llama_index.core.schema import MetadataMode

    def embed(batch: "list[TextNode]") -> list[list[float]]:
        texts = [node.get_content(MetadataMode.EMBED) for node in batch]
        vectors: list[list[float]] = model.get_text_embedding_batch(texts)
        return vectors

    # Chunks of like length together, or short ones are padded to the longest of their batch.
    nodes = sorted(nodes, key=lambda node: -len(node.text))
    batches = [nodes[start : start + _BATCH] for start in range(0, len(nodes), _BATCH)]
    at_once = _BATCHES_AT_ONCE * threads_for(settings)
    with Progress("chunks embedded", len(nodes)) as progress, ThreadPoolExecutor(threads_for(settings)) as pool:
        for start in range(0, len(batches), at_once):
            block = batches[start : start + at_once]
            for number, (batch, vectors) in enumerate(zip(block, pool.map(embed, block), strict=True), start + 1):
                for node, vector in zip(batch, vectors, strict=True):
                    node.embedding = vector
                progress.at(min(number * _BATCH, len(nodes)))
            yield [node for batch in block for node in batch]


def threads_for(settings: RetrievalSettings) -> int:
    """A server answers several requests at once; a model in this process has all cores already."""
    return 16 if settings.embedding_endpoint else 1
