"""Read which of the options a text states as its answer, as a person would.

A statement is a phrase that names one option: by letter ("The best choice is (C)"), by its text, or by its number where
all options are numbers. The last statement counts. What hedges ("(A) or (B)"), denies, asks, quotes the task or depends
on a condition states nothing.
"""

import difflib
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from itertools import islice

from smt_plugin.backends.thoughts import without_thoughts
from smt_plugin.evaluation import phrases

# Characters behind a phrase in which the option is looked for.
_WINDOW = 600
# Characters at a text's end that are read first.
_TAIL = 500
# Characters of a sentence in which the verb of "the answer ... is" is looked for, and how many are tried.
_REACH, _MOST_VERBS = 300, 8
# A text that repeats itself without end is read from its end, so many phrases far.
_MOST_PHRASES = 100
# Our choice: an option retold with so few changes is that option.
_RETOLD = 0.88
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True)
class Stated:
    """What a text states: `option`, 0-based, or None; `other`, whether it states something that is no option."""

    option: int | None
    other: bool = False


NOTHING = Stated(None)


def stated_choice(text: str, options: Sequence[str]) -> Stated:
    """Read which option a text states.

    Args:
        text: a model's whole reply; its thoughts are not read.
        options: their texts, of which letters from A on are the names; 2 to 26 of them.
    """
    said = without_thoughts(text)
    if said is None:
        return NOTHING
    said = unicodedata.normalize("NFC", said).translate(_PLAIN_SIGNS)
    best = NOTHING
    for part in until_next_task(said):
        # Most answers stand in the last sentences, and a whole text takes several times as long.
        bounds = [match.end() for match in phrases.SENTENCE_END.finditer(part, max(0, len(part) - _TAIL))]
        if len(part) > _TAIL and bounds and (option := _Reader(part[bounds[0] :], options).formal()) is not None:
            return Stated(option)
        found = _Reader(part, options).read()
        if found.option is not None:
            return found
        best = best if best.other else found
    return best


_PLAIN_SIGNS = str.maketrans(
    {
        **{chr(0xFF21 + n): _LETTERS[n] for n in range(26)},
        "−": "-",
        "‐": "-",
        "‑": "-",
        "\u00a0": " ",
        "\u202f": " ",
        "\u200b": "",
    }
)


def until_next_task(text: str) -> Iterator[str]:
    """Yield the text up to an invented next task, then the rest: the first part that states something counts."""
    begin = 0
    for match in phrases.NEXT_TASK.finditer(text):
        if text[begin : match.start()].strip():
            yield text[begin : match.start()]
        begin = match.end()
    yield text[begin:]


class _Reader:
    """One text and its options."""

    def __init__(self, text: str, options: Sequence[str]) -> None:
        self.text = text
        self.options = options
        self.patterns = _patterns(tuple(options))
        self.numbers = _numbers(tuple(options))
        self.has_numbers_only = all(number is not None for number in self.numbers)
        self.other = False
        bounds = [match.end() for match in phrases.SENTENCE_END.finditer(text)]
        self.bounds = [0, *bounds, len(text)]

    def formal(self) -> int | None:
        """The option of the last formal statement, unless something may correct it later."""
        formal = max(self._formal(), default=None)
        return None if formal is None or phrases.CORRECTION.search(self.text, formal[0]) else formal[1]

    def read(self) -> Stated:
        """The last formal statement; else, or where it is corrected later, the last informal one."""
        formal = max(self._formal(), default=None)
        if formal is not None and not phrases.CORRECTION.search(self.text, formal[0]):
            return Stated(formal[1])
        informal = max(self._informal(), default=None)
        if informal and (formal is None or phrases.CORRECTION.search(self.text, formal[0], informal[0])):
            return Stated(informal[1])
        return Stated(formal[1]) if formal else Stated(None, self.other)

    def _sentence(self, place: int) -> tuple[int, int]:
        """Begin and end of the sentence around a place."""
        after = bisect_right(self.bounds, place)
        begin, end = self.bounds[after - 1], self.bounds[min(after, len(self.bounds) - 1)]
        return max(begin, place - _WINDOW), min(end, place + 2 * _WINDOW)

    def _formal(self) -> Iterator[tuple[int, int]]:
        """(place, option) of the last formal statement of each kind."""
        yield from islice(self._behind_subjects(), 1)
        yield from islice(self._picked(), 1)
        yield from islice(self._option_first(), 1)

    def _behind_subjects(self) -> Iterator[tuple[int, int]]:
        """Statements of the form "The answer is (C)", the last one first."""
        for subject in islice(reversed(list(phrases.SUBJECT.finditer(self.text))), _MOST_PHRASES):
            begin, end = self._sentence(subject.start())
            if self._is_void(self.text[begin : subject.start()]):
                continue
            # Whatever stands between ("The answer to what was asked is"): the first verb with an option behind it.
            reach = min(max(end, subject.end()), subject.end() + _REACH)
            for gives in islice(phrases.GIVES.finditer(self.text, subject.end(), reach), _MOST_VERBS):
                between = self.text[subject.end() : gives.start()]
                if phrases.BRACKETED.search(between) or phrases.TURNED.search(between):
                    break
                if (option := self._core(gives.end())) is not None:
                    yield gives.start(), option
                    break
                # What was denied, is another number, or goes on behind an option ("is the lute and her pet is a
                # cello"), is not read behind a later verb or sign.
                rest = self.text[gives.end() : gives.end() + 40]
                lead = phrases.LEAD.match(rest)
                told = rest[lead.end() :] if lead else rest
                is_number = self.has_numbers_only and _leading_number(rest.lstrip(" :*_$"))
                if is_number or phrases.DENIAL.match(told) or self._names(told):
                    break

    def _picked(self) -> Iterator[tuple[int, int]]:
        """Statements of the form "I choose (C)", the last one first."""
        for picks in islice(reversed(list(phrases.PICKS.finditer(self.text))), _MOST_PHRASES):
            begin, _ = self._sentence(picks.start())
            if not self._is_void(self.text[begin : picks.start()]) and (option := self._core(picks.end())) is not None:
                yield picks.start(), option

    def _option_first(self) -> Iterator[tuple[int, int]]:
        """Statements of the form "(C) is the correct answer", the last one first."""
        found: dict[int, set[int]] = {}
        letters = list(self._letters())
        for number, (place, option, end) in reversed(list(enumerate(letters))):
            begin, sentence_end = self._sentence(place)
            before, pattern = self.text[begin:place], self.patterns[option]
            told = pattern.match(self.text, end) if pattern else None
            end = told.end() if told else end
            behind = phrases.BEHIND.match(self.text, end)
            if behind:
                found.setdefault(begin, set()).add(option)
            if (
                behind
                and phrases.ENDS_THERE.match(self.text, behind.end())
                and found[begin] == {option}
                and not self._is_void(before)
                and not phrases.JOINED_BEFORE.search(before)
                and self.text[sentence_end - 1 : sentence_end] != "?"
                and not phrases.TAKEN_BACK.match(self.text, end)
            ):
                if number and self._is_second(place, option, letters[number - 1]):
                    return
                yield place, option

    def _is_second(self, place: int, option: int, before: tuple[int, int, int]) -> bool:
        """Whether another option is said to be right just before: "(A) is correct, (B) is correct"."""
        behind = phrases.BEHIND.match(self.text, before[2]) if before[1] != option else None
        return bool(behind and phrases.JOINS.fullmatch(self.text, behind.end(), place))

    def _informal(self) -> Iterator[tuple[int, int]]:
        for weak in phrases.WEAK.finditer(self.text):
            begin, end = self._sentence(weak.start())
            if self._is_void(self.text[begin : weak.start()]):
                continue
            # Nothing but the option may follow.
            rest = self.text[weak.end() : end].strip(" *_\"').]:").partition(")")[2].strip(" .*_")
            if not rest and (option := self._core(weak.end())) is not None:
                yield weak.start(), option
        yield from self._lines()

    def _lines(self) -> Iterator[tuple[int, int]]:
        """Lines, or last sentences, that are nothing but an option; not of a list that names several."""
        found: list[tuple[int, int]] = []
        place = 0
        lines = self.text.splitlines(keepends=True)
        full = [number for number, line in enumerate(lines) if re.search(r"\w", line)]
        for number, line in enumerate(lines):
            option = self._whole(line)
            if option is not None:
                # A lone letter, or an option's text, at the end or as all that is said before reasons.
                found.append((place, option))
            elif number in full[-1:] and (
                tail := re.search(r"(?<=[.!?;:])\s+([*_]*[(\[]([A-Z])[)\]][*_]*[.!]?)\s*$", line)
            ):
                option = self._whole(tail[1])
                if option is not None:
                    found.append((place + tail.start(1), option))
            place += len(line)
        if full and self._is_cut_off(lines[full[-1]]):
            return
        if len({option for _, option in found}) == 1:
            yield found[-1]

    def _is_cut_off(self, line: str) -> bool:
        """Whether a line breaks off within an option's text behind its letter, as a list of the options does."""
        match = phrases.LETTER_FIRST.fullmatch(line.strip().strip("*_`>#$ \t"))
        index = _index(match[1], self.options) if match else None
        if match is None or index is None:
            return False
        told, whole = (match[2] or "").strip(" *_").casefold(), self.options[index].strip().casefold()
        return bool(told) and told != whole and whole.startswith(told) and whole.rstrip(".!?") != told

    def _whole(self, line: str) -> int | None:
        """The option that a line is, by its letter, by its text, or by both where they agree."""
        core = line.strip().strip("*_`>#$ \t\"'“”‘’").rstrip(".!")
        core = re.sub(r"^(?:\\\[|\\\(|\$+)\s*|\s*(?:\\\]|\\\)|\$+)$", "", core).strip("*_ ")
        match = phrases.LETTER_FIRST.fullmatch(core)
        index = _index(match[1], self.options) if match else None
        if match is None or index is None:
            return self._option_text(core, whole=True) if core else None
        rest = (match[2] or "").strip(" *_.\"'")
        if not rest or re.match(r"(?:because|since|as)\s", rest):
            is_lone_small = match[1].islower() and re.match(r"[a-z]", core) and core != self.text.strip().rstrip(".")
            return None if is_lone_small else index
        is_marked = re.match(r"(?:option\s+)?[(\[]?\s*[A-Z]\s*[)\].:-]", core, re.IGNORECASE)
        return (
            index if is_marked and self._option_text(rest, whole=True) == index else self._option_text(core, whole=True)
        )

    def _letters(self) -> Iterator[tuple[int, int, int]]:
        """(begin, option, end) of what names an option by its letter and is no word."""
        for match in phrases.NAMED.finditer(self.text):
            index = _index(match[1] or match[2], self.options)
            if index is None or (match[2] in ("A", "I") and match[0] == match[2]):
                continue
            # "Vitamin E is the answer" names no option E.
            word = re.search(r"([^\W\d_]+)\s+$", self.text[max(0, match.start() - 30) : match.start()])
            if match[2] and match[0] == match[2] and word and word[1].casefold() not in phrases.MAY_PRECEDE:
                continue
            yield match.start(), index, match.end()

    def _is_void(self, before: str) -> bool:
        """Whether what stands before in the sentence makes it a condition, somebody else's opinion or the task."""
        clause = re.split(r"\b(?:but|however|yet|though|aber)\b|;", before)[-1]
        return bool(
            phrases.CONDITION_BEFORE.search(clause)
            or phrases.OTHERS_OPINION.search(clause)
            or phrases.NOT_THE_RIGHT.search(before)
            or phrases.DOUBTED_BEFORE.search(clause)
        )

    def _core(self, place: int) -> int | None:
        """The option that stands behind a phrase, unless it is denied, hedged, asked or conditional."""
        rest = self.text[place : place + max(_WINDOW, *(2 * len(option) for option in self.options))]
        lead = phrases.LEAD.match(rest)
        core = rest[lead.end() :] if lead else rest
        named = phrases.BRACKETED.match(core)
        if named and all(len(option.strip()) == 1 for option in self.options):
            return _index(named[1], self.options)
        signs_kept = rest.lstrip(" \t\r\n:*_\"'“‘`${")
        signed = self.has_numbers_only and re.match(r"[-+±√|]\s*\S?\d", signs_kept)
        for tried in (signs_kept,) if signed else (signs_kept, *phrases.starts_of(core)):
            option = self._option_text(tried)
            if option is not None:
                # An option may be a question itself.
                is_asked = not self.options[option].rstrip().endswith("?") and _is_taken_back(tried)
                return None if is_asked else option
        if phrases.DENIAL.match(core):
            return None
        option, end = self._letter(core)
        if option is None:
            self.other |= _states_other(core)
            return None
        if (corrected := phrases.AT_ONCE.match(core, end)) and (
            better := self._letter(core[corrected.end() :])[0]
        ) is not None:
            return better
        if (
            phrases.DISMISSED.match(core, end)
            or phrases.HEDGED_CJK.match(core, end)
            or phrases.WRONG_BEHIND.match(core, end)
        ):
            return None
        also = phrases.ALSO.match(core, end)
        second = _index(also[1] or also[2], self.options) if also else None
        # "(C), and (A) is wrong" names one option.
        if also and second not in (None, option) and not phrases.DISMISSED.match(core, also.end()):
            return None
        return None if phrases.PERCENT.match(core, end) or _is_taken_back(core[end:]) else option

    def _names(self, told: str) -> bool:
        """Whether a text begins with the text of any option."""
        return any(pattern.match(start) for pattern in self.patterns if pattern for start in phrases.starts_of(told))

    def _letter(self, core: str) -> tuple[int | None, int]:
        for pattern in (
            phrases.BRACKETED,
            phrases.CLOSED,
            phrases.BARE,
            phrases.BARE_WORDS,
            phrases.BARE_ARTICLE,
            phrases.LONE_SMALL,
        ):
            match = pattern.match(core)
            if match and (index := _index(match[1], self.options)) is not None:
                return index, match.end()
            if match and pattern in (phrases.BRACKETED, phrases.CLOSED):
                return None, 0
        if match := phrases.ORDINAL.match(core):
            named = phrases.BRACKETED.search(core.split(".")[0])
            if named and (index := _index(named[1], self.options)) is not None:
                return index, len(core.split(".")[0])
            index = phrases.ORDINALS[match[1].lower()]
            return (index % len(self.options), match.end()) if index < len(self.options) else (None, 0)
        return None, 0

    def _option_text(self, text: str, whole: bool = False) -> int | None:
        """The option whose text a text begins with, or is; None where none, or several, or one more follows."""
        if self.has_numbers_only:
            return self._number(text, whole)
        matches = [
            (index, match) for index, pattern in enumerate(self.patterns) if pattern and (match := pattern.match(text))
        ]
        longest = max((match.end() for _, match in matches), default=0)
        matches = [(index, match) for index, match in matches if match.end() == longest]
        if len(matches) > 1:  # "-5 %" and "5 %", or "C", "C++" and "C#": the signs tell
            start = " ".join(text.strip(" \t\r\n:*_`\"'“‘").casefold().split())
            spelt = [
                index for index, _ in matches if start.startswith(" ".join(self.options[index].casefold().split()))
            ]
            matches = [
                (index, match)
                for index, match in matches
                if index == max(spelt, key=lambda n: len(self.options[n]), default=None)
            ]
        if not matches:
            return self._retold(text)
        index, match = matches[0]
        if re.match(r"[\W_]*-\s*\d", text[: match.end()]) and not self.options[index].lstrip().startswith("-"):
            return None
        rest = text[match.end() :]
        if whole:
            return index if not re.search(r"\w", rest) else None
        joined = re.match(
            r"[\W_]*?(?:,|;|/|&|\n|[-–—+]|\bto\b|\b(?:mixed\s+)?with\b|\bplus\b|\bvs\b|\bas\s+well\s+as\b|\bor\b|\band\b|\boder\b|\bund\b|\bou\b|\bet\b)[\W_]*(?:(?:or|and|possibly|perhaps|maybe|also)\s+)*",
            rest,
            re.IGNORECASE,
        )
        is_short = len(_words(self.options[index])) < 3
        if phrases.SAYS_MORE.match(rest) or (is_short and phrases.GOES_ON.match(rest)):
            return None
        if joined:
            for number, pattern in enumerate(self.patterns):
                if number != index and pattern and pattern.match(rest[joined.end() :]):
                    return None
        return index

    def _retold(self, text: str) -> int | None:
        """The one option that a sentence retells with few changes."""
        sentence = re.split(r"(?<=[.!?])\s|\n", text.strip(), maxsplit=1)[0]
        words = _words(sentence)
        if not 4 <= len(words) <= 60:
            return None
        scores = [
            difflib.SequenceMatcher(None, _words(option), words, autojunk=False).ratio() for option in self.options
        ]
        best = max(range(len(scores)), key=scores.__getitem__)
        others = max(score for index, score in enumerate(scores) if index != best)
        same_numbers = re.findall(r"\d+", sentence) == re.findall(r"\d+", self.options[best])
        negations = {"not", "no", "never", "none", "nobody", "nothing", "without", "n't", "didn", "isn", "wasn", "don"}
        same_sense = (negations & set(words)) == (negations & set(_words(self.options[best])))
        return best if scores[best] >= _RETOLD and others < scores[best] - 0.1 and same_numbers and same_sense else None

    def _number(self, text: str, whole: bool) -> int | None:
        found = _leading_number(text)
        if found is None:
            return None
        value, unit, end = found
        if (whole and re.search(r"\w", text[end:])) or re.match(phrases.NUMBER_GOES_ON, text[end:]):
            return None
        fitting = [
            n
            for n, number in enumerate(self.numbers)
            if number is not None and number[0] == value and unit in ("", number[1])
        ]
        return fitting[0] if len(fitting) == 1 else None


def _states_other(core: str) -> bool:
    """Whether what stands behind a phrase is an answer, though none of the options."""
    line = core.split("\n")[0]
    is_placeholder = re.match(r"\(?X\)?(?!\w)|_", line)
    return (
        bool(re.match(r"[\w(]", line))
        and not (is_placeholder or phrases.REFUSAL.match(line))
        and len(line.split()) <= 40
    )


def _is_taken_back(rest: str) -> bool:
    """Whether what follows an option in its sentence asks, sets a condition or takes it back."""
    sentence = re.split(r"(?<=[.!?])\s|\n", rest, maxsplit=1)[0]
    is_asked = sentence.rstrip("*_\"')] ").endswith("?")
    return is_asked or bool(phrases.CONDITION_BEHIND.match(sentence) or phrases.TAKEN_BACK.match(sentence))


def _index(letter: str, options: Sequence[str]) -> int | None:
    index = ord(letter.upper()) - ord("A")
    return index if 0 <= index < len(options) else None


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


@lru_cache(maxsize=256)
def _patterns(options: tuple[str, ...]) -> list[re.Pattern[str] | None]:
    """For each option what finds its text whatever signs stand between, at the end of a word: no name is a prefix."""
    patterns: list[re.Pattern[str] | None] = []
    for option in options:
        words = re.findall(r"[^\W_]+", unicodedata.normalize("NFC", option))
        if not words:
            patterns.append(None)
            continue
        body = r"[\W_]*".join(map(re.escape, words)) if len(words) == 1 else r"[\W_]{1,8}".join(map(re.escape, words))
        patterns.append(re.compile(rf"[\W_]{{0,12}}?{body}(?![^\W_]|['’]\w|-\w|[.,]\d)", re.IGNORECASE))
    return patterns


_NUMBER_WORDS = dict(
    zip("zero one two three four five six seven eight nine ten eleven twelve".split(), range(13), strict=True)
)
_NUMBER = re.compile(
    r"\s*([+-])?\s*[$€£]?\s*(\d{1,3}(?:[,\u2009 ]\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?!\w|[.,]\d|-[a-z])"
    r"(?:\s*(%|percent\b))?|\s*([a-z]+)\b",
    re.IGNORECASE,
)


def _leading_number(text: str) -> tuple[Decimal, str, int] | None:
    """The number that a text begins with, `%` or nothing, and where it ends."""
    match = _NUMBER.match(text)
    if match is None:
        return None
    if match[4]:
        ends_there = re.match(r"\s*(?:$|[.,;!)*\n])", text[match.end() :])
        value = _NUMBER_WORDS.get(match[4].casefold()) if ends_there else None
        return None if value is None else (Decimal(value), "", match.end())
    value_ = Decimal(re.sub(r"[,\u2009 ]", "", match[2]))
    return (-value_ if match[1] == "-" else value_), "%" if match[3] else "", match.end()


@lru_cache(maxsize=256)
def _numbers(options: tuple[str, ...]) -> list[tuple[Decimal, str] | None]:
    found = []
    for option in options:
        number = _leading_number(option.translate(_PLAIN_SIGNS).strip())
        whole = (
            number is not None
            and not re.search(r"\w", option.translate(_PLAIN_SIGNS).strip()[number[2] :])
            and re.search(r"\d", option)
        )
        found.append((number[0], number[1]) if number is not None and whole else None)
    return found
