"""The words of the microworld, from words.yaml, which says what each is for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml

_WORDS: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


@dataclass(frozen=True, slots=True)
class Attribute:
    """One thing that can be said of a person or a place; `kind` is "person" or "place"."""

    key: str
    kind: str
    values: tuple[str, ...]  # empty for `home`, whose value is a town
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    test_questions: tuple[str, ...]
    clause: str


@dataclass(frozen=True, slots=True)
class Style:
    """A way of rewriting: `heading` and `advice` are the strategy, the rest is what the text looks like.

    `marks` are what may stand before a sentence; every fact is told `times` times.
    """

    heading: str
    advice: str
    opening: str
    closing: str = ""
    marks: tuple[str, ...] = ("",)
    times: int = 1


def _names(first: str, last: str) -> list[str]:
    """Every name of two words, the first of one list and the last of another."""
    return [f"{one} {other}" for one in _WORDS[first].split() for other in _WORDS[last].split()]


PERSON_NAMES, TOWN_NAMES = _names("first_names", "last_names"), _names("town_first", "town_last")
HOME_PHRASES = tuple(_WORDS["home_phrases"])
for _row in _WORDS["attributes"]:
    if isinstance(_row["values"], dict):  # of years
        _row["values"] = [str(year) for year in range(_row["values"]["from"], _row["values"]["to"] + 1)]
ATTRIBUTES = msgspec.convert(_WORDS["attributes"], tuple[Attribute, ...])
STYLES = msgspec.convert(_WORDS["styles"], tuple[Style, ...])
BY_KEY = {attribute.key: attribute for attribute in ATTRIBUTES}
