"""Whether two answers are the same number, as far as code can tell."""

import re
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

_SCALES = {
    **dict.fromkeys(("thousand", "thousands", "k"), 3),
    **dict.fromkeys(("million", "millions", "mm", "m", "mn", "mio", "mln"), 6),
    **dict.fromkeys(("billion", "billions", "bn", "b", "bln"), 9),
    **dict.fromkeys(("trillion", "trillions", "tn", "t", "trn"), 12),
}
_SCALE = "|".join(sorted(_SCALES, key=len, reverse=True))
_CURRENCIES = {"$": "$", "usd": "$", "us$": "$", "dollar": "$", "dollars": "$", "us dollars": "$", "u.s. dollars": "$"}
_CURRENCIES |= {
    "€": "€",
    "eur": "€",
    "euro": "€",
    "euros": "€",
    "£": "£",
    "gbp": "£",
    "pounds": "£",
    "¥": "¥",
    "yen": "¥",
}
_CURRENCY = "|".join(sorted(map(re.escape, _CURRENCIES), key=len, reverse=True))
_DIGITS = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
_QUANTITY = re.compile(
    rf"(?P<sign>[+-])?\s*(?P<open>\()?\s*(?P<before>{_CURRENCY})?\s*(?P<inner_open>\()?\s*(?P<inner>[+-])?\s*"
    rf"(?P<digits>{_DIGITS})(?:\s*/\s*(?P<below>\d+))?\s*(?P<inner_close>\))?"
    r"\s*(?P<percent>%|percent\b|per cent\b|pct\b|bps\b|bp\b|basis points?\b)?"
    rf"\s*(?P<scale>(?:{_SCALE})\b)?\s*(?P<close>\))?"
    rf"(?:\s*of)?\s*(?P<after>{_CURRENCY})?\s*(?P<unit>(?:per\s+)?[a-z]+|x)?"
)
# Signs and words that say nothing of the number.
_NOISE = re.compile(
    r"[*_`~≈\"'“”]|\\(?:boxed|text|textbf|mathbf|mathrm|left|right)\b|[{}]|\\[,;! ()\[\]]|\\(?=[$%&])|"
    r"\b(?:approximately|approx\.?|about|around|roughly|circa|nearly|exactly|equal to|a total of|it (?:is|was)|=)\b"
)
_SEVERAL = re.compile(r"(?:between\s+)?\S*\d\S*.{0,12}?\s*(?:\bor\b|\bto\b|\band\b|–|—|(?<=\d)-(?=\d)|:)\s*\D{0,12}\d")
# Where the question says in which unit it wants the answer; "in thousands of stores" says it of something else.
_MONEY = r"(?:usd|us\s?\$|\$|eur|€|gbp|£|(?:us|u\.s\.)\s+dollars?|dollars?|euros?)"
_ASKED_IN = re.compile(
    rf"\b(?:in|as)\s+(?:units\s+of\s+)?(?:{_MONEY}\s*)?(thousand|million|billion|trillion)s?(?:\s+of\s+{_MONEY}|\s+{_MONEY})?"
    rf"(?=\s*(?:[).,;:?!\]]|$|\b(?:for|at|and|as|during|from)\b))",
    re.IGNORECASE,
)
_ASKED_IN_PERCENT = re.compile(r"\b(?:in|as)\s+(?:units\s+of\s+|an?\s+)?(?:percents?|percentages?|%)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Quantity:
    """A number as it is written: `scale` is a power of ten or None, `decimals` those of its digits, `unit` a word.

    `is_letter` says that the scale is a single letter.
    """

    value: Decimal
    decimals: int
    scale: int | None
    kind: str  # "%", "bps" or ""
    currency: str
    unit: str
    is_letter: bool


def same_number(gold: str, given: str, question: str) -> bool | None:
    """Whether the given answer is the right one's number, rounded to the right one's own decimals.

    Thousands to trillions, currencies, brackets for minus, percents, basis points and simple fractions are read; a unit
    that either lacks is taken from the question, where that asks for it ("in USD millions"), and from nothing else.

    Returns:
        True or False; None where code cannot tell: either is no plain number, or a word might change what it means.
    """
    wanted, found = _quantity(gold), _quantity(given)
    if wanted is None:
        return None
    if found is None:
        return (
            False
            if _SEVERAL.search(_plain(given))
            and not re.search(r"[a-z]{4,}", _NOISE.sub(" ", _plain(given)).replace("between", ""))
            else None
        )
    word = found.unit or wanted.unit
    if wanted.unit != found.unit and word not in ("times", "x") and not _asks_about(word, question):
        return None
    # "5 m" may be metres.
    if (wanted.is_letter or found.is_letter) and not (wanted.currency or found.currency):
        return None
    if wanted.currency and found.currency and wanted.currency != found.currency:
        return False
    if wanted.kind != found.kind:
        return _across_kinds(wanted, found, question)
    asked = _ASKED_IN.search(question)
    unit = _SCALES[asked[1].lower()] if asked else 0
    of_gold = wanted.scale if wanted.scale is not None else unit
    # A number without a scale is in the question's unit, or written out.
    of_given = [found.scale] if found.scale is not None else list(dict.fromkeys((unit, 0)))
    if wanted.scale is not None and found.scale is None and not asked:
        of_given = [0]
    if any(_rounds_to(found.value.scaleb(scale - of_gold), wanted) for scale in of_given):
        return True
    # The right number, rounded more than the right answer is: whether that is near enough is the judge's to say.
    if any(scale > of_gold and _rounds_to(wanted.value.scaleb(of_gold - scale), found) for scale in of_given):
        return None
    return False


def _rounds_to(value: Decimal, wanted: _Quantity) -> bool:
    step = Decimal(1).scaleb(-wanted.decimals)
    return value.quantize(step, ROUND_HALF_UP) == wanted.value.quantize(step, ROUND_HALF_UP)


def _across_kinds(wanted: _Quantity, found: _Quantity, question: str) -> bool | None:
    """A percentage against a bare number or basis points."""
    if {wanted.kind, found.kind} == {"%", "bps"}:
        value = found.value * (100 if found.kind == "%" else Decimal("0.01"))
        return _rounds_to(value, wanted) and None
    if wanted.currency or found.currency or found.scale is not None or wanted.scale is not None:
        return False
    if wanted.kind == "%" and not found.kind:
        if _ASKED_IN_PERCENT.search(question) and _rounds_to(found.value, wanted):
            return True
        return None if _rounds_to(found.value * 100, wanted) or _rounds_to(found.value, wanted) else False
    if found.kind == "%" and not wanted.kind:
        return None if _rounds_to(found.value / 100, wanted) or _rounds_to(found.value, wanted) else False
    return None


def _asks_about(unit: str, question: str) -> bool:
    word = unit.removeprefix("per ").rstrip("s")
    return bool(word) and re.search(rf"\b{re.escape(word)}s?\b", question, re.IGNORECASE) is not None


def _plain(text: str) -> str:
    text = text.casefold().translate({0x2212: "-", 0x2013: "-", 0x2010: "-", 0x2011: "-", 0xA0: " ", 0x202F: " "})
    return re.sub(r"(?<=\d)\{,\}(?=\d)", ",", text)


def _quantity(text: str) -> _Quantity | None:
    plain = " ".join(_NOISE.sub(" ", _plain(text)).split()).rstrip(".;!").strip()
    # Dollar signs around a formula are no money.
    if plain.startswith("$") and plain.endswith("$") and len(plain) > 1:
        plain = plain[1:-1].strip()
    match = _QUANTITY.fullmatch(plain)
    if match is None or (
        match["before"] and match["after"] and _CURRENCIES[match["before"]] != _CURRENCIES[match["after"]]
    ):
        return None
    opened = bool(match["open"]) + bool(match["inner_open"])
    if opened != bool(match["close"]) + bool(match["inner_close"]) or opened > 1:
        return None
    digits = match["digits"].replace(",", "")
    value = Decimal(digits)
    decimals = len(digits.partition(".")[2])
    if match["below"]:
        if int(match["below"]) == 0:
            return None
        value, decimals = value / int(match["below"]), 6
    if "-" in (match["sign"], match["inner"]) or opened:
        value = -value
    kind = "" if not match["percent"] else "bps" if match["percent"].startswith("b") else "%"
    currency = match["before"] or match["after"] or ""
    return _Quantity(
        value,
        decimals,
        _SCALES[match["scale"]] if match["scale"] else None,
        kind,
        _CURRENCIES[currency] if currency else "",
        match["unit"] or "",
        len(match["scale"] or "") == 1,
    )
