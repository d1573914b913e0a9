"""Search by shared words: BM25 over the words of any script."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from smt_plugin.errors import require
from smt_plugin.words import words_of

if TYPE_CHECKING:
    from llama_index.core.schema import TextNode


@lru_cache(maxsize=1)
def english_stemmer() -> Any:
    """PyStemmer's for English, which remembers the words that it was given."""
    return require("Stemmer", "rag").Stemmer("english")


def search_words(texts: Iterable[str]) -> list[list[str]]:
    """The words by which each text is searched: English ones stemmed, and its commonest left out."""
    common = frozenset(require("bm25s", "rag").stopwords.STOPWORDS_EN)
    stemmer = english_stemmer()
    return [
        # A Latin letter that stands alone says little.
        stemmer.stemWords([w for w in words_of(text) if w not in common and (len(w) > 1 or not w.isascii())])
        for text in texts
    ]


def word_retriever(nodes: "Sequence[TextNode]", count: int, only_shared: bool) -> Any:
    """What finds the chunks that share words with a query, best first, as LlamaIndex asks of a retriever.

    LlamaIndex's own takes a Chinese sentence for one word, and a vowel sign of Hindi or Thai for the end of one.
    It stems English and leaves out its commonest words as well.

    Args:
        count: chunks found for a query.
        only_shared: leave out chunks without any word of the query, whose order would say nothing.
    """
    bm25s = require("bm25s", "rag")
    from llama_index.core.retrievers import BaseRetriever
    from llama_index.core.schema import MetadataMode, NodeWithScore

    index = bm25s.BM25()
    index.index(search_words(node.get_content(MetadataMode.EMBED) for node in nodes), show_progress=False)

    class WordRetriever(BaseRetriever):  # type: ignore[misc]
        def _retrieve(self, query_bundle: Any) -> list[NodeWithScore]:
            places, scores = index.retrieve(search_words([query_bundle.query_str]), k=count, show_progress=False)
            return [
                NodeWithScore(node=nodes[place], score=float(score))
                for place, score in zip(places[0].tolist(), scores[0].tolist(), strict=True)
                if score > 0 or not only_shared
            ]

    return WordRetriever()
