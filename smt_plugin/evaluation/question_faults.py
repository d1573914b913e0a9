"""What is wrong with an evaluation question by its own words: no model is asked.

The words by which it is known, in several languages, are in `question_faults.yaml`.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import Any

import yaml

from smt_plugin.evaluation.same_number import same_number
from smt_plugin.words import number_words, stop_words, words_of

WRONG_OPTIONS = 3

# Our choices, tried on the 173 questions of 41 QuALITY stories (docs/evaluation.md). Widths are in characters, of which
# a Chinese one counts for two.
_FAR_LONGER, _FAR_SHORTER, _LEAST_LEAD = 1.6, 2.0, 12
LONGEST_ANSWER_WORDS, _LONGEST_ANSWER_WIDTH = 15, 120
# The part of their words that two questions with the same answer share when they are one question in other words.
_SAME_WORDS = 0.7
# So many words in a row make an option part of another; fewer may be a name ("London Bridge" is no London).
_NESTED_WORDS = 3
# The set's right options are the longest more often than chance at this level, one-sided.
_LEVEL = 0.05

# Reasons for which a question is dropped, as they are counted.
MALFORMED = "not in the form asked for"
EMPTY = "a text is missing or empty"
OPTION_COUNT = f"not exactly {WRONG_OPTIONS} wrong options"
EQUAL_OPTIONS = "two options say the same"
NESTED_OPTIONS = "the right option and a wrong one hold each other"
ABOUT_OPTIONS = "an option speaks of the others or of what cannot be told"
POINTS_AT_TEXT = "points at the text, which candidates do not see"
VAGUE = "names nobody and nothing"
GIVEN_AWAY = "the answer is in the question"
LENGTH = "the right option's length gives it away"
FORM = "the right option's form gives it away"
YES_NO = "answered by yes or no"
LONG_ANSWER = "the answer is too long to be compared"
ASKED_BEFORE = "asked before about this document"
ASKED_ELSEWHERE = "asked with the same answer about another document"
LONGEST = "the right option is the longest, as too often in this set"


@dataclass(frozen=True, slots=True)
class Draft:
    """A question as a model wrote it: of a document's `part`, with a right option and wrong ones, or with an answer.

    `wrong` is empty for a free-form question. `written` is the JSON that it was read from.
    """

    doc_id: str
    part: int
    question: str
    right: str
    wrong: tuple[str, ...]
    written: Any = field(compare=False)

    @property
    def options(self) -> tuple[str, ...]:
        """The right option, then the wrong ones; none of a free-form question."""
        return (self.right, *self.wrong) if self.wrong else ()


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a question is dropped: a `reason` that is counted, and what shows it in this question."""

    reason: str
    detail: str = ""


def read_draft(row: Any, doc_id: str, part: int, free_form: bool) -> Draft | Fault:
    """Read one question of a reply: {question, answer}, or {question, right, wrong} with three wrong options."""
    if not isinstance(row, dict):
        return Fault(MALFORMED)
    wrong = [] if free_form else row.get("wrong")
    if not isinstance(wrong, list):
        return Fault(OPTION_COUNT)
    texts = [row.get("question"), row.get("answer" if free_form else "right"), *wrong]
    if not all(isinstance(text, str) and _terms(text) for text in texts):
        return Fault(EMPTY)
    question, right, *others = (text.strip() for text in texts)
    if not free_form and len(others) != WRONG_OPTIONS:
        return Fault(OPTION_COUNT, f"{len(others)}")
    return Draft(doc_id, part, question, right, tuple(others), row)


def fault_of(draft: Draft) -> Fault | None:
    """Return the first fault of a question that its own words show, or None."""
    checks = (_options_fault, _wording, _cue) if draft.wrong else (_answer_fault, _wording)
    found = (check(draft) for check in (*checks, _given_away))
    return next((fault for fault in found if fault), None)


def _wording(draft: Draft) -> Fault | None:
    for text in (draft.question, *(draft.options or (draft.right,))):
        for pattern in _patterns("references"):
            if found := pattern.search(text):
                return Fault(POINTS_AT_TEXT, found[0])
    return Fault(VAGUE) if set(_terms(draft.question)) <= _stop_words() else None


def _options_fault(draft: Draft) -> Fault | None:
    options = draft.options
    for number, one in enumerate(options):
        for other in options[:number]:
            if _same(one, other, draft.question):
                return Fault(EQUAL_OPTIONS, f"{other} / {one}")
    for option in options:
        bare = option.strip().rstrip(".!。")
        if any(pattern.fullmatch(bare) for pattern in _patterns("about_options")):
            return Fault(ABOUT_OPTIONS, option)
    for wrong in draft.wrong:
        if _holds(wrong, draft.right) or _holds(draft.right, wrong):
            return Fault(NESTED_OPTIONS, f"{draft.right} / {wrong}")
    return None


def _same(one: str, other: str, question: str) -> bool:
    """Whether two options differ in nothing but case, signs, small words or how a number is written."""
    first, second = ([_in_figures(term) for term in _telling(text)] for text in (one, other))
    if _is_date(first) and _is_date(second):
        first, second = sorted(first), sorted(second)
    if first == second and _signs(one) == _signs(other):
        return True
    return same_number(one, other, question) is True and same_number(other, one, question) is True


def same_words(one: str, other: str) -> bool:
    """Whether two texts differ in case and signs alone."""
    return _terms(one) == _terms(other) and _signs(one) == _signs(other)


def _holds(whole: str, part: str) -> bool:
    """Whether one option says all that another says, and more: "Anna and Bob" and "Anna"."""
    if len(_items(whole)) > 1 and set(_items(part)) < set(_items(whole)):
        return True
    run, longer = _terms(part), _terms(whole)
    # A Chinese pair of signs counts for half a word.
    length = sum(0.5 if len(term) <= 2 and not term.isascii() else 1 for term in run)
    return length >= _NESTED_WORDS and len(run) < len(longer) and _has_run(longer, run)


_AND = re.compile(
    r"\s*(?:[,;、，；&]|\b(?:and|or|und|oder|et|ou|y|o|e|en|of|и|или|i|oraz|lub)\b|[和与或及])\s*", re.IGNORECASE
)


def _items(text: str) -> list[tuple[str, ...]]:
    """What a list names; a text with figures in it is no list ("between 5 and 10")."""
    if any(char.isdigit() for char in text):
        return [tuple(_telling(text))]
    return [tuple(_telling(item)) for item in _AND.split(text) if _telling(item)]


def _cue(draft: Draft) -> Fault | None:
    """Whether the right option stands out from all wrong ones by its length or its form."""
    right, wrong = width(draft.right), [width(option) for option in draft.wrong]
    for ratio, short, long in ((_FAR_LONGER, max(wrong), right), (_FAR_SHORTER, right, min(wrong))):
        if long >= ratio * short and long - short >= _LEAST_LEAD:
            return Fault(LENGTH, f"{right} characters against {', '.join(map(str, wrong))}")
    for name, has in _FORMS.items():
        if {has(option) for option in draft.wrong} == {not has(draft.right)}:
            return Fault(FORM, name)
    return None


_FORMS: dict[str, Callable[[str], bool]] = {
    "a mark at its end": lambda text: text[-1] in ".!。！",
    "figures": lambda text: any(char.isdigit() for char in text),
    "brackets": lambda text: any(char in "([（［" for char in text),
    "quotation marks": lambda text: any(char in '"“”„«»「」' for char in text),
}


def _answer_fault(draft: Draft) -> Fault | None:
    if _plain(draft.right).strip(" .!。！") in _words("yes_or_no"):
        return Fault(YES_NO, draft.right)
    if len(draft.right.split()) > LONGEST_ANSWER_WORDS or width(draft.right) > _LONGEST_ANSWER_WIDTH:
        return Fault(LONG_ANSWER, f"{len(draft.right.split())} words")
    return None


def _given_away(draft: Draft) -> Fault | None:
    """Whether the question holds the answer's words, and no wrong option's as well."""

    def is_held(answer: str) -> bool:
        telling = _telling(answer)
        return _has_run(asked, telling) or (not any(map(str.isdigit, telling)) and set(telling) <= set(asked))

    asked = _terms(draft.question)
    if is_held(draft.right) and not any(map(is_held, draft.wrong)):
        return Fault(GIVEN_AWAY, draft.right)
    return None


class Asked:
    """The questions asked so far about one document: finds those that ask the same again, be it in other words."""

    def __init__(self) -> None:
        self._drafts: list[tuple[Draft, list[str], set[str]]] = []

    def again(self, draft: Draft) -> Fault | None:
        """Take a question into account, unless it was asked before."""
        terms = _terms(draft.question)
        telling = set(_telling(draft.question, with_question_words=True))
        for earlier, its_terms, its_telling in self._drafts:
            both = len(telling & its_telling)
            alike = both >= _SAME_WORDS * len(telling | its_telling) and _numbers(draft.question) == _numbers(
                earlier.question
            )
            if terms == its_terms or (alike and _same_answer(draft, earlier)):
                return Fault(ASKED_BEFORE, earlier.question)
        self._drafts.append((draft, terms, telling))
        return None


def _same_answer(one: Draft, other: Draft) -> bool:
    first, second = set(_telling(one.right)), set(_telling(other.right))
    if (first <= second or second <= first) and _numbers(one.right) == _numbers(other.right):
        return True
    return same_number(one.right, other.right, one.question) is True


def asked_elsewhere(drafts: Iterable[Draft]) -> list[tuple[int, Fault]]:
    """Return the places of questions that an earlier one about another document asks with the same answer.

    The same question with another answer stays: every question names its document.
    """
    seen: dict[tuple[object, ...], Draft] = {}
    found = []
    for place, draft in enumerate(drafts):
        words = (_telling(draft.question, with_question_words=True), _telling(draft.right))
        numbers = (_numbers(draft.question), _numbers(draft.right))
        earlier = seen.setdefault((*map(frozenset, words), *map(tuple, numbers)), draft)
        if earlier.doc_id != draft.doc_id:
            found.append((place, Fault(ASKED_ELSEWHERE, f"{earlier.doc_id}: {earlier.question}")))
    return found


def is_longest(draft: Draft) -> bool:
    """Whether the right option is longer than every wrong one."""
    return bool(draft.wrong) and width(draft.right) > max(map(width, draft.wrong))


def too_often_longest(drafts: Sequence[Draft]) -> list[int]:
    """Return the places of those questions without which the right option is the longest no more often than by chance.

    Those with the longest lead go first. A normal approximation to the binomial test, one-sided at 5 %.
    """
    lead = {n: width(draft.right) - max(map(width, draft.wrong)) for n, draft in enumerate(drafts) if is_longest(draft)}
    order = sorted(lead, key=lambda n: (-lead[n], n))
    chance, z = 1 / (WRONG_OPTIONS + 1), NormalDist().inv_cdf(1 - _LEVEL)
    dropped = 0
    while (count := len(order) - dropped) > 0:
        total = len(drafts) - dropped
        if count - 0.5 <= total * chance + z * math.sqrt(total * chance * (1 - chance)):
            break
        dropped += 1
    return sorted(order[:dropped])


def width(text: str) -> int:
    """How long a text looks: its characters, of which Chinese, Japanese and Korean ones count for two."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


_APOSTROPHE = re.compile(r"(?<=[^\W\d_])['’](?=[^\W\d_])")


def _terms(text: str) -> list[str]:
    """The words of a text in their order; "Anna's" is one, and another than "Anna"."""
    return words_of(_APOSTROPHE.sub("", text))


_QUESTION_WORDS = frozenset(
    "who whom whose what when where why how which wer wen wem was wann wo warum wie qui quand où pourquoi comment "
    "quién qué cuándo dónde cómo chi cosa quando dove perché come quem onde como wie wanneer waar waarom hoe kto co "
    "kiedy gdzie dlaczego jak кто что когда где почему как".split()
)


def _telling(text: str, with_question_words: bool = False) -> list[str]:
    """The words that say something; all of them where there are no others."""
    terms, stop = _terms(text), _stop_words()
    return [term for term in terms if term not in stop or (with_question_words and term in _QUESTION_WORDS)] or terms


def _in_figures(term: str) -> str:
    return str(number_words().get(term, term))


def _is_date(terms: list[str]) -> bool:
    """Whether these are a day, a month and a year, which are written in several orders."""
    return len(terms) == 3 and sum(map(str.isdigit, terms)) == 2


def _numbers(text: str) -> list[str]:
    return sorted(re.findall(r"\d+(?:[.,]\d+)*", text))


def _signs(text: str) -> str:
    """The signs that tell "C" from "C++" and "-5" from "5"."""
    return "".join(char for char in text if char in "+-−#%€$£°")


def _has_run(terms: list[str], run: list[str]) -> bool:
    return bool(run) and any(terms[place : place + len(run)] == run for place in range(len(terms) - len(run) + 1))


@cache
def _lists() -> dict[str, dict[str, Any]]:
    lists: dict[str, dict[str, Any]] = yaml.safe_load(
        Path(__file__).with_name("question_faults.yaml").read_text(encoding="utf-8")
    )
    return lists


@cache
def _patterns(name: str) -> list[re.Pattern[str]]:
    return [re.compile(text, re.IGNORECASE) for texts in _lists()[name].values() for text in texts]


@cache
def _words(name: str) -> frozenset[str]:
    return frozenset(word for words in _lists()[name].values() for word in words)


@cache
def _stop_words() -> frozenset[str]:
    return frozenset().union(*stop_words().values())
