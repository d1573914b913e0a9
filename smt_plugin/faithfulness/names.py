"""Names of a text in scripts with capitals: words with a capital where the language does not ask for one."""

import re
import unicodedata
from collections.abc import Iterator
from functools import cache

import regex

from smt_plugin.faithfulness.lists import months, scales, small_numbers, words
from smt_plugin.words import stop_words

# What stands before the first word of a sentence: the end of the one before, quotes and brackets; and of a line.
_OPENS = r"[\s\"'“”„«»‘’‚(\[{*_#>~`•·–—|¿¡-]*$"
_BEGINS = re.compile(
    rf"(?:^|[.!?…:。！？؟։।\n|][\"'”’“‘»«)\]*_]*\s){_OPENS}|(?:^|[\s(])[\"'“„«‘‚(\[{{»¿¡]+$|[—–]\s*$"
    r"|(?:^|[\n|])[\s\d.)*_#>•·-]*$"
)
# A text that ends so ends with a short form, such as "Dr.", and not with a sentence.
SHORTENED = re.compile(
    r"(?:^|[\s(\"“])(?:[^\W\d_]|[A-Z][a-z]|Mrs|Prof|Hon|Rev|Gen|Col|Capt|Sgt|Lt|bzw|geb|Nr|No|vs|Mme|Sra|Sig|ул|им)"
    r"\.\s*$"
)
_ASCII_CAPITAL = re.compile(r"(?<![A-Za-z0-9_])[A-Z][A-Za-z]*")
_CAPITAL = regex.compile(r"(?<![\p{L}\p{M}\p{N}_])[\p{Lu}\p{Lt}][\p{L}\p{M}]*")
_ROMAN = re.compile(r"[MDCLXVI]+")
_PARTICLES = "de del della di da do dos du la le van von zu of the al bin ibn y e af av".split()
_JOINS = re.compile(rf" |-|\.? ?|’|'| (?:(?:{'|'.join(_PARTICLES)}|van der|van den|von der|of the)(?: |[’']))")
_HEADING_END = re.compile(r"[\"'”’)\]*_]*\s*(?::|\n|$|\||[–—]\s|-\s)")
_LINE = re.compile(r"[^\n]*")
_WORD = re.compile(r"[^\W\d_]+")
_POSSESSIVE = re.compile(r"['’]s\b")
_PREVIOUS = re.compile(r"(?:([^\W\d_]+)\s+)?([^\W\d_]+)[\s\"“„(*_]*$")
_LOOKBACK = 40
# Endings of German adjectives before nouns.
_ADJECTIVE_ENDS = ("e", "en", "er", "es", "em")
# A word is taken for a form of another that has these first letters.
_LEAST_STEM = 5


def folded(word: str) -> str:
    """The form in which names are compared: small letters without accents."""
    if word.isascii():
        return word.lower()
    letters = unicodedata.normalize("NFKD", word.casefold())
    return "".join(sign for sign in letters if not unicodedata.combining(sign))


@cache
def _common() -> frozenset[str]:
    days = [f"{day}s" for day in words("days")]  # of all weeks
    lists = [*stop_words().values(), words("titles"), words("usual"), scales(), small_numbers(), days]
    return frozenset(folded(word) for each in lists for word in each)


class KnownNames:
    """The words of a document, among which the names of texts about it are looked for."""

    def __init__(self, text: str) -> None:
        self._words = set(_WORD.findall(folded(text)))
        self._joined = f" {' '.join(sorted(self._words))} "
        capitals = (text[at] for at, _ in _capitals(text))
        self._initials = "".join(capitals)

    def unknown(self, text: str, language: str) -> Iterator[tuple[int, int]]:
        """Yield the places of the names that the document lacks, a name of several words as one."""
        found = _capitals(text)
        strange = [number for number in self._strange(text, found) if not self._is_form(text[slice(*found[number])])]
        begins = {number for number in strange if _begins(text, found[number][0])}
        inner = {folded(text[slice(*found[number])]) for number in strange if number not in begins}
        done = -1
        for number in strange:
            if number <= done:
                continue
            first = last = number
            while first - 1 > done and _joined(text, found, first - 1):
                first -= 1
            while last + 1 < len(found) and _joined(text, found, last):
                last += 1
            done = last
            start, end = found[first][0], found[last][1]
            telling = [each for each in strange if first <= each <= last]
            if first in telling and _begins(text, start) and not self._tells(text, found[first], inner):
                telling.remove(first)
            if not telling or _is_heading(text, start, end):
                continue
            if language == "de" and not self._is_german_name(text, found, telling, first):
                continue
            if first not in strange and first < last and _begins(text, start):
                start = found[first + 1][0]
            yield start, end

    def may_have_unknown(self, text: str) -> bool:
        """Whether there is a word with a capital that the document lacks; most of these are no names."""
        return bool(self._strange(text, _capitals(text)))

    def _strange(self, text: str, found: list[tuple[int, int]]) -> list[int]:
        known, common = self._words, _common()
        return [
            number
            for number, (start, end) in enumerate(found)
            if end - start > 1 and (word := folded(text[start:end])) not in known and word not in common
        ]

    def _tells(self, text: str, place: tuple[int, int], inner: set[str]) -> bool:
        """Whether a sentence's first word is a name all the same: by its genitive, or as another sentence has it."""
        return bool(_POSSESSIVE.match(text, place[1])) or folded(text[slice(*place)]) in inner

    def _is_form(self, word: str) -> bool:
        """Whether a word is another form of one of the document's, or made of the first letters of its names."""
        if word.isupper() and len(word) <= 6 and (_ROMAN.fullmatch(word) or word in self._initials):
            return True
        name = folded(word)
        for end in ("s", "es", "n", "en"):
            if name.endswith(end) and len(name) - len(end) >= 3 and name[: -len(end)] in self._words:
                return True
        if f" {name}s " in self._joined:
            return True
        stem = name[: max(_LEAST_STEM, len(name) - 2)]
        if len(stem) >= _LEAST_STEM and f" {stem}" in self._joined:
            return True
        return any(name[:size] in self._words for size in range(_LEAST_STEM, len(name)))

    def _is_german_name(self, text: str, found: list[tuple[int, int]], telling: list[int], first: int) -> bool:
        """German writes all nouns with a capital: what looks like a noun is none of a name's words."""
        telling = [number for number in telling if not self._is_noun(text[slice(*found[number])])]
        if len(telling) != 1:
            return bool(telling)
        start, _ = found[telling[0]]
        previous = _PREVIOUS.search(text, max(0, start - _LOOKBACK), start)
        before = previous[2] if previous else ""
        # In a list, or with a sign before it, it is rather a noun.
        if not previous:
            return False
        if before.casefold() in words("titles"):
            return True
        lower, earlier = before.casefold(), (previous[1] or "").casefold()
        determiners = words("german_determiners")
        if lower in determiners or lower in words("german_before_nouns"):
            return False
        if before[0].isupper():
            return not self._is_noun(before)
        if lower in words("german_particles"):
            return True
        is_adjective = lower.endswith(_ADJECTIVE_ENDS) and len(lower) > 3
        return not (is_adjective and (earlier in determiners or not lower.endswith(("te", "ten"))))

    def _is_noun(self, word: str) -> bool:
        name = word.casefold()
        if name in words("german_nouns") or name.endswith(tuple(words("german_noun_ends"))):
            return True
        # A compound of a word of the document, or of any text.
        plain = folded(word)
        return any(plain[at:] in self._words or name[at:] in words("german_nouns") for at in range(2, len(plain) - 4))


def _capitals(text: str) -> list[tuple[int, int]]:
    if text.isascii():
        return [match.span() for match in _ASCII_CAPITAL.finditer(text)]
    return [match.span() for match in _CAPITAL.finditer(text)]


def _joined(text: str, found: list[tuple[int, int]], number: int) -> bool:
    """Whether a word with a capital and the next one belong to one name; days and months belong to none."""
    (start, end), (next_start, next_end) = found[number], found[number + 1]
    if not _JOINS.fullmatch(text, end, next_start) or (text[end] == "." and end - start > 2):
        return False
    return not (_is_calendar(text[start:end]) or _is_calendar(text[next_start:next_end]))


def _is_calendar(word: str) -> bool:
    word = word.casefold()
    return word in months() or word in words("days") or word.removesuffix("s") in words("days")


def _begins(text: str, start: int) -> bool:
    """Whether a sentence, a line or a quotation begins here."""
    before = text[max(0, start - _LOOKBACK) : start]
    if start > _LOOKBACK:
        before = "x" + before
    return _BEGINS.search(before) is not None and not SHORTENED.search(before)


def _is_heading(text: str, start: int, end: int) -> bool:
    """Whether the words are a label at the beginning of a line, or stand in a line all of whose words have capitals."""
    begin = text.rfind("\n", 0, start) + 1
    label = text[begin:start].strip(" \t*_#>-•·|\"'“„([0123456789.)")
    if not label and _HEADING_END.match(text, end):
        return True
    match = _LINE.match(text, begin)
    line = match[0] if match else ""
    if ":" in text[begin:start] and not line.startswith("#"):
        return False
    named = [word for word in _WORD.findall(line) if len(word) > 3]
    return len(named) == sum(word[0].isupper() for word in named) and len(named) > (1 if line.startswith("#") else 2)
