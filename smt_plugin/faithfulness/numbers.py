"""The numbers and dates of a text, in one form whatever script, separators, scales and language they are written in."""

import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from typing import NamedTuple

from smt_plugin.faithfulness.lists import months, scales, small_numbers, words

# A number is its digits without zeros at their end, and the power of ten that they are to be multiplied by.
Value = tuple[int, int]

_OTHER_DIGIT = {
    code: str(unicodedata.decimal(chr(code))) for code in range(0x80, sys.maxunicode) if chr(code).isdecimal()
} | {0x066B: ".", 0x066C: ",", 0xFF0E: "."}
_HAS_OTHER = re.compile(f"[{''.join(map(chr, _OTHER_DIGIT))}]")
_NUMBER = re.compile(
    r"(?:\d{1,3}(?:[.,'’\xa0\u2009\u202f ]\d{3})+(?![\d])|\d{1,2}(?:,\d\d)+,\d{3}(?!\d)|\d+)(?:[.,]\d+)*"
)
_BEHIND = re.compile(r"[\s\u00a0-]{0,2}([^\W\d_][\w\u0900-\u0963]*)")
_JOINED_SCALE = re.compile(r"[\s\u00a0]?([百千万萬亿億兆만억조]|ล้าน|แสน|หมื่น|พัน)")
# "4万2000" and "1億3千万" are one number.
_IN_SCALES = re.compile(r"(?:\d[\d,.]*[百千万萬亿億兆만억조]{1,2}\s?){1,3}(?:\d[\d,]*)?")
_STEP = re.compile(r"(\d[\d,.]*)([百千万萬亿億兆만억조]*)")
_CENTURY = re.compile(r"(?:\.|st|nd|rd|th|e|ème|º|°|-го|-м)?\s*(?:([^\W\d_]+)|世[紀纪]|세기)")
_MAY_BE_DATE = re.compile(r"\d(?:\s?[년年월月]|[-/.]\d{1,2}[-/.])")
_SEPARATED = re.compile(
    r"(?=\d)(?:(?<![\d.])(?P<y>\d{4})(?:(?P<s>[-/.])(?P<m>\d{1,2})(?P=s)|\s?[年년]\s?(?P<m2>\d{1,2})\s?[月월]\s?)(?P<d>\d{1,2})?(?!\d)(?:\s?[日일])?"
    r"|(?<![\d.])(?P<a>\d{1,2})(?P<t>[-/.])(?P<b>\d{1,2})(?P=t)(?P<y2>\d{4})(?!\d)"
    r"|(?<!\d)(?P<m3>\d{1,2})\s?[月월]\s?(?P<d3>\d{1,2})\s?[日일号號])"
)
_WORD_BEFORE = re.compile(r"([^\W\d_]{3,14})(\.?,?\s+(?:de\s+|del\s+|of\s+|the\s+)*)$")
# Marks of vowels belong to the names of Hindi's months.
_WORD_AFTER = re.compile(r"(?:st|nd|rd|th|er|º|ª|\.|-го)?\s*(?:de\s+|of\s+|بـ)?([^\W\d_][\w\u0900-\u0963]{2,13})\.?")
_WHOLE_MONTHS = frozenset("may mai mars juni juli june july maio mayo maja mart ocak".split())
_YEAR_AFTER = re.compile(r"(?:st|nd|rd|th|er)?[\s,.]*(?:de\s+|del\s+|of\s+)?$")
_DECADE = re.compile(r"['’]?s\b|er\b|-(?:х|е)\b|年代|年代")
# What only counts off: at the beginning of a line, in brackets, behind "step".
_LIST_MARK = re.compile(r"(?:^|\n)[ \t]*(?:[-*>#|•]+[ \t]*)*[*_]*\(?$")
_LIST_END = re.compile(r"[.)\]:]|\s*[|—–-]\s|[*_]+[.:)]")
_COUNTER = re.compile(r"([^\W\d_]+)[*_]*\s?#?$")
_MOST_COUNTED = 30
_UNIT = re.compile(
    r"(?:\b(?:in|en|(?:angaben|beträge)\s+in|dollars?\s+in|amounts?\s+in)|[($€£¥])\s*(?:us\s?\$|usd|eur|[€$£¥]|000s?\b)?\s*([^\W\d_]+)"
    r"|(?:单位|單位|単位)\s*[:：]?\s*(?:人民币)?\s*([百千万萬亿億兆]+)",
    re.IGNORECASE,
)
_HAN = "一二三四五六七八九"
_HAN_NUMBER = re.compile(rf"[{_HAN}十百千万萬亿億〇零两兩]{{2,}}")
_HAN_SCALES = {"十": 10, "百": 100, "千": 1000, "万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8}
_WORD = re.compile(r"[^\W\d_]+")
_BETWEEN = re.compile(r"[\s\u00ad-]+(?:(?:and|und|y|et|e|en)\s+)?$|-$")
# From here on words are compared, too: smaller numbers stand in any text.
_LEAST_IN_WORDS = 13


class Quantity(NamedTuple):
    """A number of a text: its place, and all that it may mean ("1.577" has a point or a separator)."""

    start: int
    end: int
    values: tuple[Value, ...]
    is_bare: bool


def is_century(text: str, end: int) -> bool:
    """Whether the number that ends here counts centuries."""
    match = _CENTURY.match(text, end)
    return match is not None and (match[1] is None or match[1].casefold() in words("centuries"))


class Date(NamedTuple):
    """A date; what is not said is 0."""

    year: int
    month: int
    day: int


class Dated(NamedTuple):
    """A date of a text: its place, and all that it may mean (3/5/1952)."""

    start: int
    end: int
    dates: tuple[Date, ...]


def in_ascii(text: str) -> str:
    """The text with the digits of all scripts as 0 to 9, each in its place."""
    return text if text.isascii() or not _HAS_OTHER.search(text) else text.translate(_OTHER_DIGIT)


def value_of(digits: str, power: int = 0) -> Value:
    """The canonical form of a number with a decimal point, times ten to the `power`."""
    whole, _, decimals = digits.partition(".")
    mantissa, exponent = int(whole + decimals), power - len(decimals)
    if not mantissa:
        return 0, 0
    while mantissa % 10 == 0:
        mantissa, exponent = mantissa // 10, exponent + 1
    return mantissa, exponent


def _readings(written: str) -> list[str]:
    """The numbers, with a decimal point at most, that a string of digits and separators may be."""
    plain = re.sub(r"['’\xa0\u2009\u202f ]", "", written)
    marks = [sign for sign in plain if sign in ".,"]
    if not marks:
        return [plain]
    joined = plain.replace(".", "").replace(",", "")
    last = max(plain.rfind("."), plain.rfind(","))
    decimal = f"{re.sub('[.,]', '', plain[:last])}.{plain[last + 1 :]}"
    if len(set(marks)) > 1:
        return [decimal]
    if len(marks) > 1:  # "1.577.000", or the number of a version
        return [joined]
    return [joined, decimal] if len(plain) - last == 4 and last <= 3 else [decimal]


def numbers_and_dates(text: str, compares: bool = True) -> tuple[list[Quantity], list[Dated]]:
    """Return the numbers of a text, those in words among them, and its dates, whose numbers are not told again.

    Args:
        compares: whether it is a record, of which small numbers in words and what only counts off are left out.
    """
    text = in_ascii(text)
    has_digits = any(map(text.__contains__, "0123456789"))
    dated = list(_separated_dates(text)) if has_digits and _MAY_BE_DATE.search(text) else []
    found = list(_NUMBER.finditer(text)) if has_digits else []
    joined = list(_in_scales(text)) if has_digits and not text.isascii() else []
    if dated or joined:
        taken = [(each.start, each.end) for each in dated] + [(each.start, each.end) for each in joined]
        found = [match for match in found if not any(start <= match.start() < end for start, end in taken)]
    used: set[int] = set()
    for number in range(len(found)):
        if number not in used and (named := _named_date(text, found, number)):
            date, also = named
            dated.append(date)
            used |= {number, *also}
    quantities = [
        quantity
        for number, match in enumerate(found)
        if number not in used and (quantity := _quantity(text, match, compares))
    ]
    quantities += joined
    quantities += _in_words(text, compares)
    if not text.isascii():
        quantities += _in_han(text, compares)
    return quantities, dated


def _in_scales(text: str) -> Iterator[Quantity]:
    """Numbers of several parts with a scale each: "4万2000"."""
    for match in _IN_SCALES.finditer(text):
        steps = _STEP.findall(match[0].replace(" ", ""))
        if len(steps) > 1 or len(steps[0][1]) > 1:
            total = 0.0
            for digits, scale in steps:
                number = float(digits.replace(",", "").rstrip("."))
                for sign in scale:
                    number *= 10 ** scales()[sign][0]
                total += number
            yield Quantity(match.start(), match.end(), (value_of(str(round(total))),), False)


def _separated_dates(text: str) -> Iterator[Dated]:
    for match in _SEPARATED.finditer(text):
        if match["a"]:
            first, second = int(match["a"]), int(match["b"])
            orders = [(second, first), (first, second)]
            dates = [Date(int(match["y2"]), month, day) for month, day in orders]
        elif match["m3"]:
            dates = [Date(0, int(match["m3"]), int(match["d3"]))]
        else:
            if match["s"] and not match["d"]:
                continue
            dates = [Date(int(match["y"]), int(match["m"] or match["m2"]), int(match["d"] or 0))]
        valid = tuple(dict.fromkeys(date for date in dates if 1 <= date.month <= 12 and date.day <= 31))
        if valid:
            yield Dated(match.start(), match.end(), valid)


def _named_date(text: str, found: list[re.Match[str]], number: int) -> tuple[Dated, list[int]] | None:
    """A date with its month's name around the number, with the places in `found` of what else belongs to it."""
    match = found[number]
    written = match[0].rstrip(".,")
    if not written.isdigit() or len(written) not in (1, 2, 4):
        return None
    value = int(written)
    later = found[number + 1] if number + 1 < len(found) else None

    def year_behind(end: int) -> int:
        if later is None or len(later[0].rstrip(".,")) != 4 or not later[0].rstrip(".,").isdigit():
            return 0
        return int(later[0].rstrip(".,")) if _YEAR_AFTER.fullmatch(text, end, later.start()) else 0

    if len(written) <= 2 and 1 <= value <= 31:
        after = _WORD_AFTER.match(text, match.start() + len(written))
        month = months().get(after[1].casefold(), 0) if after else 0
        if after and month:
            year = year_behind(after.end())
            end = later.end() if year and later else after.end(1)
            return Dated(match.start(), end, (Date(year, month, value),)), [number + 1] if year else []
    before = _WORD_BEFORE.search(text, max(0, match.start() - 24), match.start())
    month = months().get(before[1].casefold(), 0) if before else 0
    if before and before[2].startswith(".") and (len(before[1]) > 4 or before[1].casefold() in _WHOLE_MONTHS):
        return None  # the end of a sentence
    if not before or not month:
        return None
    if len(written) == 4:
        return Dated(before.start(), match.end(), (Date(value, month, 0),)), []
    if not 1 <= value <= 31:
        return None
    year = year_behind(match.start() + len(written))
    end = later.end() if year and later else match.start() + len(written)
    return Dated(before.start(), end, (Date(year, month, value),)), [number + 1] if year else []


def _quantity(text: str, match: re.Match[str], compares: bool) -> Quantity | None:
    start, written = match.start(), match[0].rstrip(".,")
    end = start + len(written)
    before = text[start - 1] if start else ""
    if compares and _only_counts(text, start, end, before, written):
        return None
    readings = _readings(written)
    values = [value_of(reading) for reading in readings]
    is_bare = written.isdigit()
    behind = _JOINED_SCALE.match(text, end) or _BEHIND.match(text, end)
    word = (behind[1] or "").casefold() if behind else ""
    if behind and (powers := scales().get(word)):
        scaled = [value_of(reading, power) for reading in readings for power in powers]
        # A lone letter may be a unit; of a document both are taken.
        values = scaled if len(word) > 1 or not word.isascii() else scaled + values
        end, is_bare = behind.end(1), False
    elif is_bare and len(written) == 4 and _DECADE.match(text, end):
        values = [value_of(written[:3], 1)]
    elif text[end : end + 1] == "%":
        values += [value_of(reading, -2) for reading in readings]
        end, is_bare = end + 1, False
    return Quantity(start, end, tuple(dict.fromkeys(values)), is_bare)


def _only_counts(text: str, start: int, end: int, before: str, written: str) -> bool:
    """Whether a number only counts off, or belongs to a word such as H2O."""
    if not written.isdigit() or len(written) > 3:
        return False
    value = int(written)
    if value < 10 and before.isalpha() and before.isascii():
        return True
    if value > _MOST_COUNTED:
        return before == "[" and text[end : end + 1] == "]"
    if _LIST_END.match(text, end) and _LIST_MARK.search(text, max(0, start - 20), start):
        return text.rfind("\n", 0, start) >= start - 20 or start <= 20
    if (before, text[end : end + 1]) in (("(", ")"), ("[", "]")):
        return True
    counter = _COUNTER.search(text, max(0, start - 20), start)
    return counter is not None and counter[1].casefold() in words("counters")


def _in_words(text: str, compares: bool) -> Iterator[Quantity]:
    """Numbers written as words: "two hundred and fourteen", "fünfundzwanzig", "treinta y cinco"."""
    small, large = small_numbers(), scales()
    if compares and _telling().isdisjoint(map(str.casefold, _WORD.findall(text))):
        return
    total = part = 0
    start = end = -1
    found = [match for match in _WORD.finditer(text) if match[0] in _any_case()]
    for match in found:
        word = match[0].casefold()
        number = small.get(word)
        powers = large.get(word) if number is None and start >= 0 else None
        if number is None and powers is None:
            continue
        if start >= 0 and not _BETWEEN.fullmatch(text, end, match.start()):
            yield from _worded(start, end, total + part, compares)
            start, total, part = -1, 0, 0
            if number is None:
                continue
        if start < 0:
            start = match.start()
        if number is not None:
            goes_on = part % 100 == 0 or (part % 10 == 0 and number < 10) or (part in (60, 80) and number < 20)
            if word.startswith("vingt") and part == 4:  # "quatre-vingts"
                number = 76
            elif not goes_on:  # "in nineteen thirty"
                yield from _worded(start, end, total + part, compares)
                start, total, part = match.start(), 0, 0
            part += number
        elif powers is not None:
            if powers[0] == 2:
                part = max(part, 1) * 100
            else:
                total, part = total + max(part, 1) * 10 ** powers[0], 0
        end = match.end()
    if start >= 0:
        yield from _worded(start, end, total + part, compares)


@cache
def _any_case() -> frozenset[str]:
    """The words of numbers as they stand in texts."""
    words = {*small_numbers(), *scales()}
    return frozenset(form for word in words for form in (word, word.capitalize(), word.upper()))


@cache
def _telling() -> frozenset[str]:
    """Words without which there is no number in words that is compared."""
    large = (word for word in scales() if len(word) > 2)
    return frozenset([*large, *(word for word, number in small_numbers().items() if number >= _LEAST_IN_WORDS)])


def _worded(start: int, end: int, number: int, compares: bool) -> Iterator[Quantity]:
    if not compares or number >= _LEAST_IN_WORDS:
        yield Quantity(start, end, (value_of(str(number)),), True)


def _in_han(text: str, compares: bool) -> Iterator[Quantity]:
    """Numbers in Chinese signs, from eleven on; words such as 千万 ("by all means") are none."""
    for match in _HAN_NUMBER.finditer(text):
        signs = match[0]
        if not any(sign in _HAN for sign in signs) or not any(sign in _HAN_SCALES for sign in signs):
            if all(sign in _HAN + "〇零" for sign in signs) and len(signs) == 4:  # a year, sign by sign
                digits = "".join(str(("〇" + _HAN).find(sign.replace("零", "〇"))) for sign in signs)
                yield Quantity(match.start(), match.end(), (value_of(digits),), True)
            continue
        total = part = digit = 0
        for sign in signs:
            if sign in _HAN_SCALES:
                scale = _HAN_SCALES[sign]
                if scale >= 10**4:
                    # 亿 counts what is before it in 万, 万 only what follows 亿.
                    above, below = (total, part + digit) if total >= scale else (0, total + part + digit)
                    total, part, digit = above + below * scale, 0, 0
                else:
                    part, digit = part + (digit or 1) * scale, 0
            else:
                digit = 2 if sign in "两兩" else (_HAN.find(sign) + 1)
        yield Quantity(match.start(), match.end(), (value_of(str(total + part + digit)),), True)


def units_of(text: str) -> set[int]:
    """The powers of ten in which a text says that it gives its numbers: "(in millions)"."""
    found: set[int] = set()
    for match in _UNIT.finditer(text):
        word = (match[1] or match[2]).casefold()
        if len(word) > 1 or match[2]:
            found.update(scales().get(word, ()))
    return {power for power in found if power >= 3}


def rounded(values: Iterable[Quantity]) -> Iterator[Value]:
    """What numbers are when they are rounded to fewer digits, two at least; a year is not rounded."""
    for quantity in values:
        for mantissa, exponent in quantity.values:
            # "3,345" is taken for thousands here, or a table's numbers would make nearly any small number.
            if exponent < 0 and (mantissa, exponent + 3) in quantity.values:
                continue
            if quantity.is_bare and 1000 <= mantissa * 10 ** min(max(exponent, 0), 4) < 2200:
                continue
            digits = len(str(mantissa))
            for kept in range(2, digits):
                step = 10 ** (digits - kept)
                yield value_of(str((mantissa + step // 2) // step), exponent + digits - kept)
