"""Which passage of its document a training text shares most with: by the words of both, without a model.

A guess to look at first, no evidence: a text may say what stands in several places, or in other words.
"""

import math
import re
import tempfile
from array import array
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple, Self

import msgspec
import orjson

from smt_plugin.corpus import Document, comparable, document_hash, read_documents, split_document
from smt_plugin.errors import naming
from smt_plugin.files import make_folder
from smt_plugin.sentences import SENTENCE_END
from smt_plugin.words import stop_words, words_of

# Characters of a passage: as many as the text has, within these bounds. Our choice, some two to ten sentences.
_LEAST, _MOST = 300, 1500
# A sentence at either end of a passage goes if the passage loses no more than this part of what it shares.
_LITTLE = 0.15
# What has no end of a sentence for so many characters, such as a table, is cut at white space.
_LONGEST_SENTENCE = 400
_PARAGRAPH_END = re.compile(r"\n\s*\n")
_PIECE = re.compile(rf"\S(?:.{{0,{_LONGEST_SENTENCE - 2}}}\S)?(?!\S)|\S{{1,{_LONGEST_SENTENCE}}}", re.DOTALL)
# Parts of documents that are held ready, some 10 bytes for each of their characters: the records of those that were
# generated at the same time stand among each other.
_PARTS = 128


class Passage(NamedTuple):
    """Where a passage begins in a text, and where it ends, in characters from 0."""

    start: int
    end: int


class SourceText:
    """A text that is searched for the passage which another one shares most with.

    Args:
        names: words by which nearly every text names its source, so that they tell no passage.
    """

    def __init__(self, text: str, names: str = "") -> None:
        # Arrays, since the garbage collector looks through thousands of lists again and again.
        self._starts, self._ends = array("Q"), array("Q")
        self._names = frozenset(words_of(names))
        # Word -> the sentences that have it.
        self._holders: dict[str, array[int]] = {}
        for number, (start, end) in enumerate(_sentences(text)):
            self._starts.append(start)
            self._ends.append(end)
            for word in dict.fromkeys(words_of(text[start:end])):
                if word not in self._holders:
                    self._holders[word] = array("I")
                self._holders[word].append(number)

    def passage(self, said: str) -> Passage | None:
        """Return the passage with the rarest words in common with what is said; None where they share none."""
        words = {word for word in words_of(said) if word in self._holders}
        words = (words - self._names - _little_said()) or (words - _little_said()) or words
        if not words:
            return None
        weights = {word: math.log((len(self._starts) + 1) / len(self._holders[word])) for word in words}
        shared: dict[int, list[str]] = defaultdict(list)
        for word in sorted(words):
            for number in self._holders[word]:
                shared[number].append(word)
        first, last = self._best(shared, weights, min(max(_LEAST, len(said)), _MOST))
        return Passage(self._starts[first], self._ends[last])

    def _best(self, shared: dict[int, list[str]], weights: dict[str, float], most: int) -> tuple[int, int]:
        """The first and the last sentence of the best passage; of equals, the shortest and first."""
        numbers = sorted(shared)
        counts: Counter[str] = Counter()
        score = best = 0.0
        begin = 0
        found, least = (numbers[0], numbers[0]), math.inf
        for number in numbers:
            score += sum(weights[word] for word in shared[number] if not counts[word])
            counts.update(shared[number])
            while numbers[begin] < number and self._length(numbers[begin], number) > most:
                score -= self._leave(shared[numbers[begin]], counts, weights)
                begin += 1
            length = self._length(numbers[begin], number)
            # Sums in another order may differ in their last digits.
            if score > best + 1e-9 or (score > best - 1e-9 and length < least):
                best, found, least = max(best, score), (numbers[begin], number), length
        return self._trimmed(numbers, found, shared, weights)

    def _trimmed(
        self, numbers: list[int], found: tuple[int, int], shared: dict[int, list[str]], weights: dict[str, float]
    ) -> tuple[int, int]:
        inside = numbers[bisect_left(numbers, found[0]) : bisect_left(numbers, found[1]) + 1]
        counts = Counter(word for number in inside for word in shared[number])
        left = sum(weights[word] for word in counts) * _LITTLE
        while len(inside) > 1:
            losses = [(sum(weights[word] for word in shared[inside[end]] if counts[word] == 1), end) for end in (0, -1)]
            loss, end = min(losses)
            if loss > left:
                break
            left -= loss
            counts.subtract(shared[inside.pop(end)])
        return inside[0], inside[-1]

    def _length(self, first: int, last: int) -> int:
        return self._ends[last] - self._starts[first]

    @staticmethod
    def _leave(words: list[str], counts: "Counter[str]", weights: dict[str, float]) -> float:
        counts.subtract(words)
        return sum(weights[word] for word in words if not counts[word])


@cache
def _little_said() -> frozenset[str]:
    """The commonest words of several languages."""
    return frozenset().union(*stop_words().values())


def _sentences(text: str) -> Iterator[tuple[int, int]]:
    ends = {match.end() for pattern in (SENTENCE_END, _PARAGRAPH_END) for match in pattern.finditer(text)}
    start = 0
    for end in sorted(ends | {len(text)}):
        for piece in _PIECE.finditer(text, start, end):
            yield piece.span()
        start = end


class Part(NamedTuple):
    """A part of a document, or a whole one.

    Attributes:
        whole: the text of the whole document, in which the part begins at `start`.
        hash: changes when what prompts showed of the part does.
    """

    document: Document
    whole: str
    start: int
    hash: str
    source: SourceText

    def passage(self, said: str) -> Passage | None:
        """Where in the whole document the passage of the part is that shares most with what is said."""
        found = self.source.passage(said)
        return Passage(self.start + found.start, self.start + found.end) if found else None


class KeptDocuments:
    """The documents of a corpus by their ids, in a file that has no name: in memory are their places, and a few.

    Args:
        folder: where the file is, which takes as much room as the corpus.

    Raises:
        BadInput: as `read_documents`.
    """

    def __init__(self, corpus: Path, folder: Path) -> None:
        make_folder(folder)
        self._places: dict[str, int] = {}
        self._identities: dict[str, str] = {}
        with ExitStack() as stack, naming(folder):
            self._file = stack.enter_context(tempfile.TemporaryFile(dir=folder))
            for document in read_documents(corpus):
                self._places[comparable(document.id)] = self._file.tell()
                self._identities[comparable(document.id)] = document.identity
                self._file.write(orjson.dumps(document.to_json()) + b"\n")
            stack.pop_all()
        self.part = lru_cache(_PARTS)(self._part)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def identity(self, doc_id: str) -> str | None:
        """By which phrase a document is named; None where there is no such document."""
        return self._identities.get(comparable(doc_id))

    def _part(self, doc_id: str, number: int, part_tokens: int) -> Part | None:
        """Return a part of a document, split as at generation; None where there is none."""
        place = self._places.get(comparable(doc_id))
        if place is None:
            return None
        self._file.seek(place)
        document = msgspec.convert(orjson.loads(self._file.readline()), Document)
        start = 0
        for part in split_document(document, part_tokens):
            # Between two parts may be white space alone.
            start = document.text.index(part.text, start)
            if part.part == number:
                source = SourceText(part.text, f"{document.identity} {document.title}")
                return Part(part, document.text, start, document_hash(part), source)
            start += len(part.text)
        return None
