"""How often the intervals of `smt diversity` hold the truth, on simulated corpora.

    python -m benchmarks.diversity [--quick]

prints the table of docs/diversity.md. A corpus is drawn anew each time: documents with words of their own, records that
repeat their document's sentences, more of them in one document than in another, and stock phrases. A passage's
embedding is the sum of its words' vectors. The truth is the mean of a measure over all corpora drawn.
"""

import argparse
import random
from dataclasses import fields

import numpy as np

from smt_plugin.study.diversity import GROUPS, Diversity, Sums, groups_of

MEASURES = [field.name for field in fields(Diversity)]
LENGTH = 48  # of an embedding
RECORDS, SENTENCES, WORDS = 8, 4, 12


def corpus(rng: random.Random, documents: int, uneven: bool) -> dict[str, list[str]]:
    """Document -> its records."""
    common = [f"w{number}" for number in range(2000)]
    weights = [1 / (number + 3) for number in range(2000)]
    stock = [" ".join(random.Random(number).choices(common, weights, k=8)) for number in range(40)]
    found = {}
    sizes = [rng.lognormvariate(0, 0.8) if uneven else 1.0 for _ in range(documents)]
    for document, size in enumerate(sizes):
        own = [f"d{rng.randrange(10**6)}" for _ in range(120)]
        repeats = rng.betavariate(1, 3)
        told: list[str] = []
        records = []
        # All corpora have the same tokens, as samples of records have.
        for _ in range(round(RECORDS * documents * size / sum(sizes)) or 1):
            sentences = []
            for _ in range(SENTENCES):
                if told and rng.random() < repeats:
                    sentence = rng.choice(told)
                elif rng.random() < 0.2:
                    sentence = rng.choice(stock)
                else:
                    words = rng.choices(common, weights, k=WORDS // 2) + rng.choices(own, k=WORDS // 2)
                    rng.shuffle(words)
                    sentence = " ".join(words)
                told.append(sentence)
                sentences.append(sentence)
            records.append(". ".join(sentences))
        found[f"{document}"] = records
    return found


def embed(texts: list[str]) -> np.ndarray:
    """The sums of the words' vectors."""
    return np.asarray([sum(_vector(word) for word in set(text.replace(".", "").split())) for text in texts])


_VECTORS: dict[str, np.ndarray] = {}


def _vector(word: str) -> np.ndarray:
    if word not in _VECTORS:
        _VECTORS[word] = np.random.default_rng(list(word.encode())).normal(size=LENGTH)
    return _VECTORS[word]


def measured(texts: dict[str, list[str]]) -> Diversity:
    """What `smt diversity` would say of a corpus."""
    groups = groups_of(list(texts))
    sums = Sums(min(GROUPS, len(groups)), embed)
    for doc_id, own in texts.items():
        sums.add(groups[doc_id], own, 200)
    return sums.diversity()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="50 corpora a row instead of 500")
    corpora = 50 if parser.parse_args().quick else 500
    print(f"| documents | sizes | {' | '.join(MEASURES)} |")
    print(f"| --- | --- | {' | '.join('---' for _ in MEASURES)} |")
    for documents in (6, 12, 40):
        for uneven in (False, True):
            rng = random.Random(f"{documents} {uneven}")
            found = [measured(corpus(rng, documents, uneven)) for _ in range(corpora)]
            _VECTORS.clear()
            shares = []
            for name in MEASURES:
                values = [getattr(each, name) for each in found]
                truth = np.mean([value.value for value in values])
                shares.append(np.mean([value.low <= truth <= value.high for value in values]))
            cells = " | ".join(f"{share:.1%}" for share in shares)
            print(f"| {documents} | {'uneven' if uneven else 'equal'} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
