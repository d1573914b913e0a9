"""How much of an evaluation question's wording, and of its options', stands in a text: by words, in any order."""

import math
import re
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from smt_plugin.corpus import Document
from smt_plugin.errors import require
from smt_plugin.question import Question
from smt_plugin.retrieval.by_words import english_stemmer
from smt_plugin.words import words_of

# Chosen on one half of the labelled records of benchmarks/leaks.py, and shown there on the other.
ASKED = 0.86
ASKED_AND_ANSWERED = 0.65
STATED = 0.87
_MARGIN = 0.05  # by which a statement must come nearer to a question than the document's own sentences do
_LEAST_WORDS = 4  # of a question, beside those of any English text, that a statement is told by
# Shares of words that must stand: an option's; all options'; and of those that the question lacks, the right answer's,
# and an option's in a statement.
_OPTION, _LIST, _ANSWER, _NEW = 0.8, 0.85, 0.6, 0.7
_AMONG = 4  # other words that may stand among an option's
_TOGETHER = 4  # sentences that are looked at as one
_KNOWN = 2**12  # words of a document's records that are not looked up again
_FUNCTION_WORD, _QUESTION_WORD = 0.1, 0.5  # weights; that of a word that the document lacks is 1

_SENTENCE_END = re.compile(r"(?<=[?!。？！؟।])\s*|(?<=[.…:;])\s+|\n+")
_ASKS = re.compile(r"[?？؟]\W*$")
_MARK = re.compile("[?？؟]")
_THOUSANDS = re.compile(r"(?<=\d)[,.'\u2009\u202f\xa0](?=\d{3}(?!\d))")
_QUESTION_WORDS = "what who whom whose when where why how which many much long often".split()
_SMALL = {
    word: number
    for number, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen".split()
    )
}
_TENS = dict(zip("twenty thirty forty fifty sixty seventy eighty ninety".split(), range(20, 100, 10), strict=True))
_LARGE = {"hundred": 100, "thousand": 1000, "million": 10**6}

Shares = NDArray[np.float32]


class Sentence(NamedTuple):
    """The terms of one; `asks` if it is a question or of a user, `answers` if an assistant's turn ends with it."""

    terms: list[str]
    asks: bool = False
    answers: bool = False


class Seen(NamedTuple):
    """What of the questions stands in a record: question id -> share, 0 to 1, where it is enough for a leak.

    `told` are the questions whose right answer stands in one sentence.
    """

    asked: dict[str, float]
    stated: dict[str, float]
    options: dict[str, float]
    told: Collection[str]


def sentences_of(text: str, role: str = "") -> list[Sentence]:
    """The sentences of a text that have words, or of a turn of a dialogue."""
    parts = [(part, terms) for part in _SENTENCE_END.split(text) if (terms := terms_of(part))]
    return [
        Sentence(terms, role == "user" or bool(_ASKS.search(part)), role == "assistant" and number == len(parts))
        for number, (part, terms) in enumerate(parts, start=1)
    ]


def questions_in(text: str) -> list[str]:
    """The sentences of a text that end in a question mark."""
    return [part for part in _SENTENCE_END.split(text) if _ASKS.search(part)] if _MARK.search(text) else []


def terms_of(text: str) -> list[str]:
    """The words of a text, English ones without their endings, and English numbers as digits."""
    return [_stem(word) for word in _with_digits(words_of(_THOUSANDS.sub("", text)))]


def _with_digits(words: list[str]) -> list[str]:
    found: list[str] = []
    number: int | None = None
    last = ""
    for word in [*words, ""]:
        small = _SMALL.get(word, _TENS.get(word))
        goes_on = last in _LARGE or last == "and" or (last in _TENS and 0 < _SMALL.get(word, 0) < 10)
        if number is not None and word in _LARGE:
            number *= _LARGE[word]
        elif number is not None and small is not None and goes_on:
            number += small
        elif number is None or word != "and" or last not in _LARGE:
            if number is not None:
                found.append(str(number))
            number = small
            if word and small is None:
                found.append(word)
        last = word
    return found


@lru_cache(maxsize=2**16)
def _stem(word: str) -> str:
    return str(english_stemmer().stemWord(word))


@lru_cache(maxsize=1)
def _common() -> dict[str, float]:
    """The weights of words that any English text has."""
    function_words = require("bm25s.stopwords", "rag").STOPWORDS_EN_PLUS
    weights = dict.fromkeys(terms_of(" ".join(function_words)), _FUNCTION_WORD)
    return weights | dict.fromkeys(map(_stem, _QUESTION_WORDS), _QUESTION_WORD)


@lru_cache(maxsize=2**16)
def _spellings(term: str) -> tuple[str, ...]:
    """Keys of which two terms share one if a letter is wrong, missing, too many or in its neighbour's place."""
    if len(term) < 4 or not (term.isascii() and term.isalpha()):
        return (term,)
    first, rest = term[0], term[1:]
    return (term, f"{first}-{rest}", *(f"{first}-{rest[:at]}{rest[at + 1 :]}" for at in range(len(rest))))


class _Sets:
    """Sets of weighted words."""

    def __init__(self, sets: Iterable[Iterable[int]], weights: Sequence[float]) -> None:
        self.sets = [list(dict.fromkeys(words)) for words in sets]
        self._words = np.array([word for words in self.sets for word in words], dtype=np.intp)
        self._weights = np.array([weights[word] for word in self._words], dtype=np.float32)
        self._starts = np.cumsum([0, *(len(words) for words in self.sets[:-1])])
        self.sums = np.add.reduceat(self._weights, self._starts)

    def held(self, holds: Shares) -> Shares:
        """The weight that each row of `holds`, 1 where a word is held, has of each set."""
        held: Shares = np.add.reduceat(holds[:, self._words] * self._weights, self._starts, axis=1)
        return held


class Wording:
    """The questions about one document, compared with texts about it.

    A word weighs the more the fewer of the document's sentences have it, and words between which a slip of the pen
    stands are the same. How near up to four sentences come to a question is the F1 of weights: how much of the
    question's words they hold, and how much of theirs is the question's. What the document says in these words itself
    is no sign of a leak.
    """

    def __init__(self, document: Document, questions: Sequence[Question]) -> None:
        said = sentences_of(document.text)
        self._sentences = max(1, len(said))
        self._having = Counter(chain.from_iterable(set(sentence.terms) for sentence in said))
        self._name = frozenset(terms_of(document.identity))
        self._ids = [question.question_id for question in questions]
        asked = [terms_of(question.question) for question in questions]
        options = [[terms_of(text) for text in question.options or [str(question.answer)]] for question in questions]
        self._places: dict[str, int] = {}
        self._spelled: dict[str, list[int]] = defaultdict(list)
        for term in chain.from_iterable([*asked, *chain.from_iterable(options)]):
            if term not in self._places:
                self._places[term] = len(self._places)
                for spelling in _spellings(term):
                    self._spelled[spelling].append(self._places[term])
        self._places[""] = len(self._places)  # no text has it, so that an option without words stands nowhere
        self._known = lru_cache(_KNOWN)(self._look_up)
        weights = [self._weight(term) for term in self._places]
        self._weights = np.array(weights, dtype=np.float32)
        self._names = np.array([term in self._name for term in self._places], dtype=np.float32)

        def sets(lists: Iterable[Iterable[str]]) -> _Sets:
            return _Sets(([self._places[term] for term in terms] or [self._places[""]] for terms in lists), weights)

        content = [[term for term in terms if term not in _common()] for terms in asked]
        # From here on a row is an option, the only one of a question without.
        self._owners = [number for number, own in enumerate(options) for _ in own]
        rows = [option for own in options for option in own]
        rights = [question.answer if isinstance(question.answer, int) else 0 for question in questions]
        firsts = np.cumsum([0, *(len(own) for own in options[:-1])])
        self._rights = firsts + np.array(rights, dtype=np.intp)
        new = [
            [term for term in row if term not in asked[number] and self._weight(term) > _FUNCTION_WORD]
            for number, row in zip(self._owners, rows, strict=True)
        ]
        self._asked = sets(asked)
        self._rows = sets(rows)
        # What several right answers have in common tells none of them.
        golds = [new[right] or rows[right] for right in self._rights]
        shared = Counter(chain.from_iterable(set(gold) for gold in golds))
        self._answers = sets([term for term in gold if shared[term] == 1] or gold for gold in golds)
        self._new = sets(words or row for words, row in zip(new, rows, strict=True))
        self._stated = sets([*content[number], *row] for number, row in zip(self._owners, rows, strict=True))
        self._may_be_stated = np.array(
            [
                bool(words) and len(set(content[number])) >= _LEAST_WORDS
                for number, words in zip(self._owners, new, strict=True)
            ]
        )
        self._lengths = [len(row) for row in rows]
        self._is_long = [len({term for term in row if self._weight(term) > _FUNCTION_WORD}) >= 3 for row in rows]
        self._lists = [self._list(own, right) for own, right in zip(options, rights, strict=True)]
        self._own = self._nearest(said, *self._held(said))
        places = list(self._hit_places(said))
        self._own_rows = {
            row
            for row, words in enumerate(self._rows.sets)
            if self._closest(places, words, self._lengths[row] + _AMONG) >= _OPTION
        }

    def _weight(self, term: str) -> float:
        weight = _common().get(term)
        if weight is None:
            having = max(self._having[term], 0.5)
            weight = math.log1p(self._sentences / having) / math.log1p(2 * self._sentences)
        return weight

    def _look_up(self, term: str) -> tuple[list[int], float]:
        """The places of the questions' words that a term stands for, and what it weighs where it stands for none."""
        places = {place for spelling in _spellings(term) for place in self._spelled.get(spelling, ())}
        return list(places), 0.0 if term in self._name else self._weight(term)

    def _list(self, options: list[list[str]], right: int) -> tuple[list[int], int] | None:
        """The words by which a list of these options is known, and among how many words they must stand.

        None if two wrong options have no words of their own that the document lacks: it may list these things itself.
        """
        alone = [
            [t for t in dict.fromkeys(option) if t not in _common() and sum(t in other for other in options) == 1]
            for option in options
        ]
        invented = sum(
            bool(terms) and not any(self._having[term] for term in terms)
            for number, terms in enumerate(alone)
            if number != right
        )
        if len(options) < 3 or not all(alone) or invented < 2:
            return None
        return [self._places[term] for terms in alone for term in terms], 2 * sum(map(len, options)) + len(options)

    def see(self, sentences: Sequence[Sentence]) -> Seen:
        """What of the questions stands in a record of these sentences."""
        if not sentences:
            return Seen({}, {}, {}, frozenset())
        holds, rest = self._held(sentences)
        asked, said, stated = self._nearest(sentences, holds, rest)
        tells = self._answers.held(holds) >= _ANSWER * self._answers.sums
        told, answered = tells.any(axis=0), tells[[sentence.answers for sentence in sentences]].any(axis=0)
        is_asked = (asked >= ASKED) | ((asked >= ASKED_AND_ANSWERED) & answered)
        _, own_said, own_stated = self._own
        by_question: dict[str, float] = {}
        for number in np.flatnonzero((said >= ASKED) & (said > own_said + _MARGIN)).tolist():
            by_question[self._ids[number]] = float(said[number])
        for row in np.flatnonzero((stated >= STATED) & (stated > own_stated + _MARGIN)).tolist():
            question_id = self._ids[self._owners[row]]
            by_question[question_id] = max(float(stated[row]), by_question.get(question_id, 0.0))
        return Seen(
            {self._ids[number]: float(asked[number]) for number in np.flatnonzero(is_asked).tolist()},
            by_question,
            self._options_in(sentences, holds),
            {self._ids[number] for number in np.flatnonzero(told).tolist()},
        )

    def _hit_places(self, sentences: Iterable[Sentence]) -> Iterator[tuple[int, int]]:
        for place, term in enumerate(term for sentence in sentences for term in sentence.terms):
            for word in self._known(term)[0]:
                yield place, word

    def _held(self, sentences: Sequence[Sentence]) -> tuple[Shares, Shares]:
        """Which words of the questions each sentence holds, and the weight of its other words, without the name's."""
        holds = np.zeros((len(sentences), len(self._names)), dtype=np.float32)
        rest = np.zeros(len(sentences), dtype=np.float32)
        for number, sentence in enumerate(sentences):
            for term in dict.fromkeys(sentence.terms):
                places, weight = self._known(term)
                if places:
                    holds[number, places] = 1
                else:
                    rest[number] += weight
        return holds, rest

    def _nearest(self, sentences: Sequence[Sentence], holds: Shares, rest: Shares) -> tuple[Shares, Shares, Shares]:
        """How near some sentences come to each question, those that ask and those that do not, and to each option as
        the question's answer, right or wrong."""
        asks = np.array([sentence.asks for sentence in sentences], dtype=bool)
        best = [np.zeros(len(sets.sets), dtype=np.float32) for sets in (self._asked, self._asked, self._stated)]
        some, others, are_asked = holds, rest, asks
        for width in range(1, min(_TOGETHER, len(sentences)) + 1):
            if width > 1:
                some = np.maximum(some[:-1], holds[width - 1 :])
                others = others[:-1] + rest[width - 1 :]
                are_asked = are_asked[:-1] | asks[width - 1 :]
            near = self._nearness(self._asked, some, others)
            has_new = self._new.held(some) >= _NEW * self._new.sums
            stated = np.where(has_new & self._may_be_stated, self._nearness(self._stated, some, others), 0)
            for place, shares in enumerate((near[are_asked], near[~are_asked], stated)):
                best[place] = np.maximum(best[place], shares.max(axis=0, initial=0))
        return best[0], best[1], best[2]

    def _nearness(self, sets: _Sets, holds: Shares, rest: Shares) -> Shares:
        held = sets.held(holds)
        # The document's name is no other word, even where it stands in another question.
        named = sets.held(holds * self._names)
        others = (holds * (1 - self._names)) @ self._weights + rest
        nearness: Shares = 2 * held / (sets.sums + np.maximum(others[:, None] + named, held))
        return nearness

    def _options_in(self, sentences: Sequence[Sentence], holds: Shares) -> dict[str, float]:
        """The questions of which two wrong options stand in a text that the document does not hold, or all options
        close together."""
        held = holds.max(axis=0, keepdims=True)
        shares = (self._rows.held(held) / self._rows.sums)[0]
        places = list(self._hit_places(sentences))
        found: dict[str, float] = {}
        wrong: dict[int, list[float]] = defaultdict(list)
        for row in np.flatnonzero(shares >= _OPTION).tolist():
            if self._is_long[row] and row not in self._own_rows and row != self._rights[self._owners[row]]:
                share = self._closest(places, self._rows.sets[row], self._lengths[row] + _AMONG)
                if share >= _OPTION:
                    wrong[self._owners[row]].append(share)
        for number, each in wrong.items():
            if len(each) >= 2:
                found[self._ids[number]] = max(each)
        for number, known_by in enumerate(self._lists):
            if known_by and sum(held[0, known_by[0]]) >= _LIST * len(known_by[0]):
                share = self._closest(places, *known_by)
                if share >= _LIST:
                    found[self._ids[number]] = share
        return found

    def _closest(self, places: Sequence[tuple[int, int]], words: Sequence[int], length: int) -> float:
        """The largest share of these words, by weight, that so many words of a text in a row hold."""
        wanted = set(words)
        window: deque[tuple[int, int]] = deque()
        held: Counter[int] = Counter()
        weight = best = 0.0
        for place, word in places:
            if word not in wanted:
                continue
            window.append((place, word))
            weight += self._weights[word] if not held[word] else 0.0
            held[word] += 1
            while window[0][0] <= place - length:
                _, gone = window.popleft()
                held[gone] -= 1
                weight -= self._weights[gone] if not held[gone] else 0.0
            best = max(best, weight)
        return float(best / sum(self._weights[word] for word in wanted))
