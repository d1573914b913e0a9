"""How often does the likely passage, our proxy for evidence, stand on an evidence page?

    python benchmarks/passages.py financebench FOLDER --chunk-tokens 100 200 400

For data whose questions name their evidence pages. Counts questions whose documents have other pages, too; beside the
proxy stands what a chunk drawn from the same documents would reach, and the proxy without the answer. Intervals are
95 %, clustered by document.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import structs

from smt_plugin import benchmarks
from smt_plugin.benchmarks.find import load
from smt_plugin.config import retrieval_settings
from smt_plugin.evaluation.intervals import estimate
from smt_plugin.question import Question
from smt_plugin.retrieval.index import chunks_of, embedding_model
from smt_plugin.retrieval.passages import likely_passages

if TYPE_CHECKING:
    from llama_index.core.schema import TextNode


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", choices=benchmarks.names())
    parser.add_argument("folder", type=Path)
    parser.add_argument("--chunk-tokens", type=int, nargs="+", default=[200])
    arguments = parser.parse_args()
    documents, questions = load(arguments.benchmark, arguments.folder)
    print("| chunk tokens | questions | a random chunk | proxy without the answer | proxy |\n|" + " --- |" * 5)
    for chunk_tokens in arguments.chunk_tokens:
        settings = retrieval_settings(
            arguments.benchmark, {"chunk_tokens": chunk_tokens, "overlap_tokens": chunk_tokens // 10}
        )
        nodes = chunks_of(documents, settings, embedding_model(settings))
        drawn = {question.question_id: _drawn(question, nodes) for question in questions}
        asked = [question for question in questions if 0 < drawn[question.question_id] < 1]
        blind = [structs.replace(question, options=None, answer=".") for question in asked]
        columns = [[drawn[question.question_id] for question in asked], _on_page(blind, nodes), _on_page(asked, nodes)]
        cells = " | ".join(_with_interval(column, asked) for column in columns)
        print(f"| {chunk_tokens} | {len(asked)} | {cells} |", flush=True)


def _drawn(question: Question, nodes: "Sequence[TextNode]") -> float:
    """The share of evidence pages' chunks among those of the question's documents."""
    own = [node.metadata for node in nodes if node.metadata["doc_id"] in question.evidence]
    return sum((of["doc_id"], of["page"]) in question.evidence_pages for of in own) / len(own)


def _on_page(questions: Sequence[Question], nodes: "Sequence[TextNode]") -> list[float]:
    """For each question the share of its likely passages on its evidence pages; 0 where it has none."""
    from llama_index.core.schema import MetadataMode

    pages = {(node.metadata["doc_id"], node.get_content(MetadataMode.EMBED)): node.metadata["page"] for node in nodes}
    likely = likely_passages(questions, nodes)
    shares = []
    for question in questions:
        best = [passage for each in likely.get(question.question_id, {}).values() for passage in each]
        right = sum((passage[0], pages[passage]) in question.evidence_pages for passage in best)
        shares.append(right / max(1, len(best)))
    return shares


def _with_interval(values: Sequence[float], asked: Sequence[Question]) -> str:
    found = estimate(values, [question.doc_id for question in asked])
    return f"{found.mean:.1%} ({found.low:.0%} to {found.high:.0%})"


if __name__ == "__main__":
    main()
