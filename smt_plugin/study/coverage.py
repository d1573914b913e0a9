"""Which sentences, names and numbers of a document its records touch, told by code alone.

A sentence is touched where a sentence of a record, with the one before it, has three of its words at least, and 30 % of
what its words weigh: a word weighs the less, the more sentences of the document have it, and stop words nothing. A name
is touched where its words stand in a record in their order; a number where a record says it in whatever form, a date
where a record says all of it.

`docs/diversity.md` says what counts as touched, and how often that errs where the truth is known.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray

from smt_plugin.corpus import Document, comparable
from smt_plugin.faithfulness.lists import months
from smt_plugin.faithfulness.lists import words as known
from smt_plugin.faithfulness.names import KnownNames, folded
from smt_plugin.faithfulness.numbers import Date, Value, numbers_and_dates, value_of
from smt_plugin.languages import has_no_capitals, language_of
from smt_plugin.sentences import sentences_in
from smt_plugin.study.samples import RecordSet
from smt_plugin.words import stop_words, words_of

KINDS = ("sentences", "names", "numbers")
# Our choice, on the microworld's records; tried on the chronicle's.
TOUCHED = 0.3
# Fewer words are in common by chance; a sentence of fewer is rather a heading.
_LEAST_WORDS = 3
_WORD = re.compile(r"[^\W\d_]+")


class Touched:
    """The sentences, names and numbers of a document, and the first record that touches each.

    Attributes:
        sentences: those that say enough to be told.
        first: kind -> of each of the document's, the place of the first record that touches it; far off where none
            does.
    """

    def __init__(self, document: Document) -> None:
        self.sentences: list[str] = []
        self._sentences: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self._sentence_weights: list[float] = []
        self._add_sentences(document.text)
        self._names = list(dict.fromkeys(_names(document.text)))
        quantities, dated = numbers_and_dates(document.text)
        self._numbers = list(dict.fromkeys(quantity.values for quantity in quantities))
        self._dates = list(dict.fromkeys(each.dates for each in dated))
        counts = (len(self._sentence_weights), len(self._names), len(self._numbers) + len(self._dates))
        self.first = {kind: np.full(count, np.iinfo(np.int64).max) for kind, count in zip(KINDS, counts, strict=True)}

    def _add_sentences(self, text: str) -> None:
        common = frozenset(chain.from_iterable(stop_words().values()))
        found = []
        for sentence in sentences_of(text):
            words = set(words_of(sentence)) - common
            if len(words) >= _LEAST_WORDS:
                found.append(words)
                self.sentences.append(sentence.strip())
        held = Counter(chain.from_iterable(found))
        for number, words in enumerate(found):
            self._sentence_weights.append(sum(1 / held[word] for word in words))
            for word in words:
                self._sentences[word].append((number, 1 / held[word]))

    def see(self, place: int, text: str) -> None:
        """Look at a record; `place` is its place in the order of all records."""
        sentences = [words for sentence in sentences_of(text) if (words := words_of(sentence))]
        weights = np.asarray(self._sentence_weights)
        is_touched = np.zeros(len(weights), bool)
        # A question and what follows stand in two sentences; in a whole text much would be found by chance.
        for before, words in pairwise([[], *sentences]):
            told, shared = np.zeros(len(weights)), np.zeros(len(weights), int)
            for word in {*before, *words}:
                for number, weight in self._sentences.get(word, ()):
                    told[number] += weight
                    shared[number] += 1
            is_touched |= (told >= TOUCHED * weights - 1e-9) & (shared >= _LEAST_WORDS)
        self._mark("sentences", place, is_touched)
        words = [word for words in sentences for word in words]
        running = f" {' '.join(words)} "
        self._mark("names", place, np.asarray([f" {name} " in running for name in self._names], bool))
        if self._numbers or self._dates:
            quantities, dated = numbers_and_dates(text, compares=False)
            dates = {date for each in dated for date in each.dates}
            values = {value for quantity in quantities for value in quantity.values}
            values |= {value_of(str(part)) for date in dates for part in date if part}
            has = [self._has_number(each, values) for each in self._numbers]
            has += [any(_is_told(date, dates) for date in each) for each in self._dates]
            self._mark("numbers", place, np.asarray(has, bool))

    @staticmethod
    def _has_number(readings: Sequence[Value], values: set[Value]) -> bool:
        return any(reading in values for reading in readings)

    def _mark(self, kind: str, place: int, is_touched: NDArray[np.bool_]) -> None:
        self.first[kind] = np.minimum(self.first[kind], np.where(is_touched, place, self.first[kind]))


def _is_told(date: Date, dates: Iterable[Date]) -> bool:
    """Whether one of the dates says all that a date says."""
    return any(all(not part or part == other for part, other in zip(date, told, strict=True)) for told in dates)


def sentences_of(text: str) -> Iterator[str]:
    """The sentences of a text; a line ends one, too."""
    for line in text.splitlines():
        yield from sentences_in(line)


def _names(text: str) -> Iterator[str]:
    """The names of a text, as words in small letters; none in scripts without capitals.

    Words that the text also has with a small letter are none: most begin a sentence.
    """
    if has_no_capitals(text):
        return
    small = " ".join(word for word in _WORD.findall(text) if word[0].islower())
    for start, end in KnownNames(small).unknown(text, language_of(text)):
        if text[start:end].casefold() in months() or folded(text[start:end]) in known("days"):
            continue
        if words := words_of(text[start:end].removesuffix("'s").removesuffix("’s")):
            yield " ".join(words)


@dataclass(frozen=True, slots=True)
class DocumentCoverage:
    """How many sentences, names and numbers a document has, and how many of them the records of each sample touch.

    Attributes:
        held: kind -> how many the document has.
        touched: kind -> how many are touched, for each sample.
    """

    doc_id: str
    held: dict[str, int]
    touched: dict[str, list[int]]


def coverage_of(
    records: RecordSet, counts: Sequence[int], documents: Iterable[Document], tell: Callable[[int], None]
) -> Iterator[DocumentCoverage]:
    """Yield the coverage of each document by samples, each of which holds the smaller ones.

    Args:
        counts: how many records each sample has, from the smallest on.
        tell: is called with how many records were seen.
    """
    places_of = records.places_by_document(counts[-1])
    seen = 0
    for document in documents:
        touched = Touched(document)
        places = places_of.get(comparable(document.id), np.empty(0, np.int64))
        for place, text in zip(places, records.texts(places), strict=True):
            touched.see(int(place), text)
        seen += len(places)
        tell(seen)
        yield DocumentCoverage(
            document.id,
            {kind: len(first) for kind, first in touched.first.items()},
            {kind: [int((first < count).sum()) for count in counts] for kind, first in touched.first.items()},
        )
