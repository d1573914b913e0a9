"""How often `smt diversity` is right about which sentences of a document a record touches.

    python -m benchmarks.touched [CORPUS]

Where the truth is known: rewrites of some facts of the invented archives, whose sentences are read back into facts. The
numbers in `study/coverage.py` were chosen on the microworld and on real stories; the chronicle played no part in it.
With a corpus: how many sentences of a document's first half are touched by other documents, which is chance alone.
"""

import random
import sys
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from smt_plugin.corpus import Document, read_documents
from smt_plugin.microworld import chronicle, grammar, scripted, world
from smt_plugin.study.coverage import Touched

REWRITES = 8  # of each document
SHARE = 0.5  # of its facts that a rewrite states
PIECE = 4000  # characters, some 700 words
DOCUMENTS = 10  # of the corpus


def known(documents: Iterable[Document]) -> tuple[tuple[int, int], tuple[int, int]]:
    """How many facts were stated and how many of these were touched, and both of facts that were not stated."""
    rng = random.Random(1)
    counts: Counter[tuple[bool, bool]] = Counter()
    for document in documents:
        for _ in range(REWRITES):
            found = Touched(document)
            facts = [_fact(sentence) for sentence in found.sentences]
            stated = [fact for fact in facts if fact and rng.random() < SHARE]
            if stated:
                found.see(0, scripted.rewrite(stated, rng.choice(scripted.STYLES), None, rng))
                marks = zip(facts, found.first["sentences"] == 0, strict=True)
                counts.update((fact in stated, bool(touched)) for fact, touched in marks if fact)
    return tuple(
        (counts[is_stated, True] + counts[is_stated, False], counts[is_stated, True]) for is_stated in (True, False)
    )


def _fact(sentence: str) -> grammar.Fact | None:
    """The fact of a sentence; the chronicle has words before and behind it."""
    words = sentence.split()
    ways = (" ".join(words[begin:end]) for begin in range(len(words)) for end in range(begin + 3, len(words) + 1))
    found = (grammar.parse_statement(way) or grammar.parse_statement(f"{way}.") for way in ways)
    return next(filter(None, found), None)


def touched_by(document: Document, texts: Iterable[str]) -> float:
    """The share of the sentences of a document's first half that some texts touch."""
    found = Touched(Document(id="half", title="", text=document.text[: len(document.text) // 2]))
    for text in texts:
        found.see(0, text)
    return float((found.first["sentences"] == 0).mean())


def main() -> None:
    """Print what was found."""
    for archive in (world, chronicle):
        (stated, right), (others, wrong) = known(archive.documents())
        name = archive.__name__.rpartition(".")[2]
        print(
            f"{name}: {right / stated:.1%} of {stated:,} stated facts touched, {wrong / others:.1%} of {others:,} that "
            "were not stated"
        )
    if len(sys.argv) > 1:
        documents = list(islice(read_documents(Path(sys.argv[1])), DOCUMENTS))
        pieces, others, halves = [], [], []
        for number, document in enumerate(documents):
            pieces.append(touched_by(document, [documents[number - 1].text[:PIECE]]))
            others.append(touched_by(document, (other.text for other in documents if other is not document)))
            halves.append(touched_by(document, [document.text[len(document.text) // 2 :]]))
        for what, shares in (
            (f"{PIECE} characters of another document", pieces),
            (f"all of {len(documents) - 1} other documents", others),
            ("the document's second half", halves),
        ):
            print(f"{sum(shares) / len(shares):.1%} of the sentences touched by {what}")


if __name__ == "__main__":
    main()
