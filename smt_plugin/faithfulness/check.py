"""What a record says that its document does not: numbers, dates, quoted passages and names, found by code alone.

It tells what the document lacks, not what is wrong: a number of the document in the wrong place is not seen, and what
somebody has reckoned from the document's numbers is named.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from smt_plugin.corpus import Document
from smt_plugin.faithfulness.lists import months, words
from smt_plugin.faithfulness.names import KnownNames, folded
from smt_plugin.faithfulness.numbers import (
    Date,
    Quantity,
    Value,
    in_ascii,
    is_century,
    numbers_and_dates,
    rounded,
    units_of,
    value_of,
)
from smt_plugin.languages import SIGN_WITHOUT_CAPITALS, has_no_capitals, language_of
from smt_plugin.words import words_of

NUMBER, DATE, QUOTATION, NAME = "number", "date", "quotation", "name"
KINDS = (NUMBER, DATE, QUOTATION, NAME)
NO_CAPITALS = "names: the script has no capitals"
OTHER_LANGUAGE = "names and quoted passages: another language than the document's"
UNCHECKED = (NO_CAPITALS, OTHER_LANGUAGE)

# Shorter passages are rather terms than quotations.
_LEAST_WORDS = 3
_LEAST_SIGNS = 5  # of scripts without spaces
_QUOTED = re.compile(
    r"“([^“”]+)”|„([^„“”]+)[“”]|«([^«»]+)»|»([^«»]+)«|‹([^‹›]+)›|「([^「」]+)」|『([^『』]+)』"
    r"|(?<![\w\"])\"([^\"\n]+)\"(?!\w)|‘((?:[^‘’]|’(?=\w))+)’(?!\w)"
)
_OMISSION = re.compile(r"\.\.\.|…|\[[^\]]*\]|⋯")
_SPACED = re.compile(r"\d+(?: \d{3})+")
_YEAR = re.compile(r"(?<![\d.,])\d{4}(?![\d]|[.,]\d)")
_MARK = re.compile('[“„«»‹「『"‘]')


class Finding(NamedTuple):
    """Something that the document lacks: its kind, how the record says it, and where.

    `turn` counts the record's messages, from 0; a record of one text has turn 0. `start` is a place in that turn.
    """

    kind: str
    said: str
    turn: int
    start: int


class Checked(NamedTuple):
    """What the check of a record has found, in the record's order, and what could not be checked: of `UNCHECKED`."""

    findings: list[Finding]
    unchecked: list[str]


def turns_of(text: str | None, messages: Sequence[Mapping[str, Any]] | None) -> list[str]:
    """The texts of a record: its one text, or one for each message."""
    return [text] if text is not None else [str(turn.get("content") or "") for turn in messages or []]


class Source:
    """A document, or a part of one, with which the records made from it are compared."""

    def __init__(self, document: Document) -> None:
        self._text = f"{document.identity}\n{document.title}\n{document.text}"

    def check(self, turns: Sequence[str]) -> Checked:
        """Compare the texts of a record with the document."""
        findings: list[Finding] = []
        unchecked: dict[str, None] = {}
        languages: list[str] = []
        for turn, text in enumerate(turns):
            claims = [*self._numbers(text)]
            rest = [(QUOTATION, start, end) for start, end in self._quotations(text)]
            if has_no_capitals(text):
                unchecked[NO_CAPITALS] = None
            if rest or unchecked or self._names.may_have_unknown(text):
                languages = languages or [language_of("\n".join(turns))]
                if languages[0] and self._language and languages[0] != self._language:
                    unchecked[OTHER_LANGUAGE] = None
                    rest = []
                else:
                    rest += [
                        name
                        for name in self._unknown_names(text, languages[0] or self._language)
                        if not any(start < name[2] and name[1] < end for _, start, end in claims)
                    ]
            findings += [
                Finding(kind, text[start:end], turn, start)
                for kind, start, end in sorted(claims + rest, key=lambda claim: claim[1])
            ]
        return Checked(findings, list(unchecked))

    def _numbers(self, text: str) -> Iterator[tuple[str, int, int]]:
        quantities, dates = numbers_and_dates(text)
        for quantity in quantities:
            if not self._has(quantity, text):
                yield NUMBER, quantity.start, quantity.end
        for dated in dates:
            if not any(map(self._has_date, dated.dates)):
                yield DATE, dated.start, dated.end

    def _has(self, quantity: Quantity, text: str) -> bool:
        if any(value in self._values for value in quantity.values):
            return True
        # A table in millions, there or here.
        for unit in self._units:
            if any((mantissa, exponent - unit) in self._values for mantissa, exponent in quantity.values):
                return True
        for unit in units_of(text):
            if any((mantissa, exponent + unit) in self._values for mantissa, exponent in quantity.values):
                return True
        if self._is_reckoned(quantity, text):
            return True
        # With spaces between its groups, or two numbers.
        parts = _parts(text[quantity.start : quantity.end])
        return bool(parts) and all(part in self._values for part in parts)

    def _is_reckoned(self, quantity: Quantity, text: str) -> bool:
        """Whether it is a century of a year of the document, or the years between two that the text names."""
        mantissa, exponent = quantity.values[0]
        number = mantissa * 10**exponent if 0 <= exponent <= 3 else 0
        if not quantity.is_bare or not 0 < number < 1000:
            return False
        if is_century(text, quantity.end):
            return any((year - 1) // 100 + 1 == number for year in self._years)
        years = {int(year) for year in _YEAR.findall(text)}
        return any(year + number in years for year in years & self._years)

    def _has_date(self, date: Date) -> bool:
        return any(
            date.month == other.month
            and (not date.day or date.day == other.day)
            and (
                not date.year
                or date.year == other.year
                or (not other.year and value_of(str(date.year)) in self._values)
            )
            for other in self._dates
        )

    def _quotations(self, text: str) -> Iterator[tuple[int, int]]:
        if not _MARK.search(text):
            return
        for match in _QUOTED.finditer(text):
            group = match.lastindex or 0
            pieces = [words_of(piece) for piece in _OMISSION.split(match[group])]
            count = sum(map(len, pieces))
            least = _LEAST_SIGNS - 1 if SIGN_WITHOUT_CAPITALS.search(match[group]) else _LEAST_WORDS
            if count >= least and not all(f" {' '.join(piece)} " in self._running for piece in pieces if piece):
                yield match.span(group)

    def _unknown_names(self, text: str, language: str) -> Iterator[tuple[str, int, int]]:
        for start, end in self._names.unknown(text, language):
            name = text[start:end]
            if month := months().get(name.casefold()):
                if not any(date.month == month for date in self._dates):
                    yield DATE, start, end
            else:
                yield DATE if folded(name) in words("days") else NAME, start, end

    @cached_property
    def _claims(self) -> tuple[list[Quantity], list[Date]]:
        quantities, dates = numbers_and_dates(self._text, compares=False)
        return quantities, [date for dated in dates for date in dated.dates]

    @cached_property
    def _dates(self) -> list[Date]:
        return self._claims[1]

    @cached_property
    def _values(self) -> set[Value]:
        quantities, dates = self._claims
        values = {value for quantity in quantities for value in quantity.values}
        for quantity in quantities:
            values.update(_parts(self._text[quantity.start : quantity.end]))
        values |= {value_of(str(part)) for date in dates for part in date if part}
        return values | set(rounded(quantities))

    @cached_property
    def _years(self) -> set[int]:
        return {int(year) for year in _YEAR.findall(in_ascii(self._text))}

    @cached_property
    def _units(self) -> set[int]:
        return units_of(self._text)

    @cached_property
    def _running(self) -> str:
        return f" {' '.join(words_of(self._text))} "

    @cached_property
    def _names(self) -> KnownNames:
        return KnownNames(self._text)

    @cached_property
    def _language(self) -> str:
        return language_of(self._text)


def _parts(written: str) -> list[Value]:
    """The numbers that "20 300" may be; none where no space divides it."""
    match = _SPACED.match(in_ascii(written))
    return [value_of(part) for part in match[0].split()] if match else []
