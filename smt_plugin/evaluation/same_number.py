"""Whether two answers are the same number."""

import re
from dataclasses import dataclass

NUMBER_TOLERANCE = 0.005  # our choice: what rounding to three figures can move a number by


@dataclass(frozen=True, slots=True)
class _Quantity:
    value: float
    percent: bool
    currency: str
    scale: float | None
    bare: bool  # digits alone, as a count or a year


_SCALES = {"thousand": 1e3, "k": 1e3, "million": 1e6, "mm": 1e6, "m": 1e6, "billion": 1e9, "bn": 1e9, "b": 1e9}
_SCALES |= {"trillion": 1e12, "tn": 1e12}
_QUANTITY = re.compile(
    r"(?P<negative>-)?\s*(?P<currency>[$€£])?\s*(?P<minus>-)?(?P<digits>\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)\s*"
    r"(?P<percent>%|percent)?\s*(?P<scale>" + "|".join(sorted(_SCALES, key=len, reverse=True)) + r")?s?"
)
_ASKED_IN = re.compile(r"\bin\s+(?:usd|us\$|\$|us dollars?)?\s*(thousand|million|billion|trillion)s?\b", re.IGNORECASE)
_NOISE = re.compile(
    r"[*_`~\\\"'“”]|\b(?:approximately|about|around|roughly|usd|us dollars?|dollars?|times)\b|(?<=\d)x\b|\bus(?=\$)"
)


def same_number(gold: str, given: str, question: str) -> bool:
    """Whether the right and the given answer are each one number, and the same within 0.5 %.

    Bare whole numbers must be equal. A scale ("million") is taken from the answer, else from the question
    ("in USD millions"). False means only that code cannot tell.
    """
    right, found = _quantity(gold), _quantity(given)
    if right is None or found is None or right.percent != found.percent:
        return False
    if right.currency and found.currency and right.currency != found.currency:
        return False
    if right.bare and found.bare:
        return right.value == found.value
    asked = _ASKED_IN.search(question)
    unit = _SCALES[asked[1].lower()] if asked else None
    if right.scale != found.scale and unit is None:
        return False
    wanted, stated = (quantity.value * (quantity.scale or unit or 1.0) for quantity in (right, found))
    return abs(wanted - stated) <= NUMBER_TOLERANCE * abs(wanted)


def _quantity(text: str) -> _Quantity | None:
    plain = _NOISE.sub("", text.casefold().replace("−", "-").replace("–", "-")).strip().rstrip(".").strip()
    match = _QUANTITY.fullmatch(plain)
    if match is None:
        return None
    value = float(match["digits"].replace(",", ""))
    scale = _SCALES[match["scale"]] if match["scale"] else None
    bare = not (match["currency"] or match["percent"] or scale or "." in match["digits"])
    return _Quantity(
        -value if match["negative"] or match["minus"] else value,
        bool(match["percent"]),
        match["currency"] or "",
        scale,
        bare,
    )
