"""Keep an index's chunks on a Chroma server instead of in the cache folder: for corpora too large for one's memory."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import orjson

from smt_plugin.errors import BadInput, require
from smt_plugin.masking import without_key

if TYPE_CHECKING:
    from llama_index.core.schema import TextNode

KEY_VARIABLE = "SMT_VECTOR_STORE_API_KEY"
# The server searches a graph, not all vectors. With its own width (ef_search 100) it found 75 % of the 128 nearest of
# 10,000 random vectors, with this all of them, in 7 instead of 4 ms.
HNSW = {"space": "cosine", "ef_construction": 200, "ef_search": 2000, "max_neighbors": 32}
_AT_ONCE = 256  # chunks a request


def server_store(url: str, name: str, probe: Sequence[float]) -> Any:
    """The chunks in the collection `name` of the Chroma server at `url`, as a LlamaIndex vector store.

    The collection is made if it is not there; `probe` then goes with it. Beside what LlamaIndex asks of a store, this
    one has `probe` (what went with the collection when it was made), `count` (chunks that a whole collection has, or
    None for one whose filling was not finished), `missing` and `finish`. Similarities are cosines.

    Raises:
        BadInput: packages are missing, or there is no such server, or it refuses the key in SMT_VECTOR_STORE_API_KEY.
    """
    chromadb = require("chromadb", "vectors")
    require("llama_index.vector_stores.chroma", "vectors")
    from llama_index.vector_stores.chroma import ChromaVectorStore

    class ServerStore(ChromaVectorStore):  # type: ignore[misc]
        @property
        def probe(self) -> list[float]:
            kept: list[float] = orjson.loads(self._collection.metadata["probe"])
            return kept

        @property
        def count(self) -> int | None:
            wanted = self._collection.metadata.get("chunks")
            with _failing(url):
                return wanted if wanted == self._collection.count() else None

        def missing(self, nodes: "Sequence[TextNode]") -> "list[TextNode]":
            """Those of the chunks that are not there yet."""
            missing: list[TextNode] = []
            for start in range(0, len(nodes), _AT_ONCE):
                some = nodes[start : start + _AT_ONCE]
                with _failing(url):
                    there = set(self._collection.get(ids=[node.node_id for node in some], include=[])["ids"])
                missing += [node for node in some if node.node_id not in there]
            return missing

        def add(self, nodes: Any, **_: Any) -> list[str]:
            """Write chunks, and take their embeddings off them, which would fill the memory."""
            ids: list[str] = []
            for start in range(0, len(nodes), _AT_ONCE):
                with _failing(url):
                    ids += super().add(nodes[start : start + _AT_ONCE])
                for node in nodes[start : start + _AT_ONCE]:
                    node.embedding = None
            return ids

        def finish(self, count: int) -> None:
            """Say that the collection is whole, with so many chunks, after the last of them was written."""
            with _failing(url):
                found = self._collection.count()
                if found == count:
                    self._collection.modify(metadata={**self._collection.metadata, "chunks": count})
            if found != count:
                raise BadInput(
                    f"the collection {name} at {url} holds {found:,} chunks, not {count:,}; delete that collection."
                )

        def query(self, query: Any, **kwargs: Any) -> Any:
            with _failing(url):
                result = super().query(query, **kwargs)
            # LlamaIndex makes exp(-distance) of Chroma's distances, which are 1 - cosine.
            result.similarities = [1 + math.log(similarity) for similarity in result.similarities]
            return result

    key = os.environ.get(KEY_VARIABLE)
    # A proxy before a server of one's own reads the first, Chroma's cloud the second.
    headers = {"Authorization": f"Bearer {key}", "x-chroma-token": key} if key else None
    try:
        client = chromadb.HttpClient(host=url, headers=headers, settings=chromadb.Settings(anonymized_telemetry=False))
        collection = client.get_or_create_collection(
            name,
            configuration={"hnsw": HNSW},
            metadata={"probe": orjson.dumps([round(value, 5) for value in probe]).decode()},
            embedding_function=None,
        )
    except Exception as error:  # whatever answers there, Chroma's client raises errors of many kinds
        said = without_key(str(error), key)
        raise BadInput(
            f"the vector store at {url} cannot be used ({said}); start a Chroma server there (`chroma run`), or fix "
            f"vector_store or {KEY_VARIABLE}."
        ) from None
    return ServerStore(chroma_collection=collection)


@contextmanager
def _failing(url: str) -> Iterator[None]:
    """Make one sentence of what goes wrong at a server that was there before."""
    try:
        yield
    except Exception as error:  # Chroma's client raises bare exceptions, too
        said = without_key(str(error), os.environ.get(KEY_VARIABLE))
        raise RuntimeError(f"the vector store at {url} failed ({said}); see the server's log") from None
