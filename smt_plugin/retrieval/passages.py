"""Which passage probably holds an answer: a proxy for evidence, where none is known."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from smt_plugin.errors import require
from smt_plugin.question import Question
from smt_plugin.retrieval.by_words import search_words

if TYPE_CHECKING:
    from llama_index.core.schema import TextNode

Passage = tuple[str, str]
"""Document id and the chunk's text as it is retrieved."""


def likely_passages(
    questions: Sequence[Question], nodes: "Sequence[TextNode]"
) -> dict[str, dict[str, frozenset[Passage]]]:
    """The chunk of each evidence document that BM25 likes best for the question *with its right answer*.

    A proxy for the passage that holds the answer, with what no retriever is given. It favours retrieval by words, and
    an answer in other words than the document's is missed; benchmarks/passages.py measures how often it is right.

    Returns:
        Question id -> document id -> the best chunks, more than one where they tie. A document without a word of the
        question or answer is left out, and so is a question of which all are.
    """
    bm25s = require("bm25s", "rag")
    from llama_index.core.schema import MetadataMode

    chunks: dict[str, list[TextNode]] = defaultdict(list)
    for node in nodes:
        chunks[node.metadata["doc_id"]].append(node)
    asked: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        for doc_id in question.evidence:
            if chunks[doc_id]:
                asked[doc_id].append(question)
    found: dict[str, dict[str, frozenset[Passage]]] = defaultdict(dict)
    for doc_id, about in asked.items():
        texts = [node.text for node in chunks[doc_id]]
        ranks = bm25s.BM25()
        words = search_words(texts)
        if not any(words):
            continue
        ranks.index(words, show_progress=False)
        queries = search_words(f"{question.question} {question.gold}" for question in about)
        for question, query in zip(about, queries, strict=True):
            known = [word for word in query if word in ranks.vocab_dict]
            scores = ranks.get_scores(known) if known else [0.0]
            if (best := max(scores)) > 0:
                found[question.question_id][doc_id] = frozenset(
                    (doc_id, node.get_content(MetadataMode.EMBED))
                    for node, score in zip(chunks[doc_id], scores, strict=True)
                    if score == best
                )
    return dict(found)


def places_of(
    likely: Mapping[str, Mapping[str, frozenset[Passage]]], chunks: Mapping[str, Sequence[Passage]]
) -> dict[str, list[int | None]]:
    """Question id -> where each of its likely passages stands among its chunks (from 1; None: it does not)."""
    places: dict[str, list[int | None]] = {}
    for question_id, wanted in likely.items():
        found = list(enumerate(chunks[question_id], start=1))
        places[question_id] = [next((n for n, chunk in found if chunk in best), None) for best in wanted.values()]
    return places


def proxy_passage_recall(places: Iterable[Sequence[int | None]], k: int) -> float:
    """Mean over the questions of the share of likely passages among the first `k` chunks; 0 without questions."""
    shares = [sum(place is not None and place <= k for place in wanted) / len(wanted) for wanted in places]
    return sum(shares) / len(shares) if shares else 0.0
