"""The words of the microworld, from words.yaml, which says what each is for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


def _values(values: Any) -> tuple[str, ...]:
    if isinstance(values, dict):
        return tuple(map(str, range(values["from"], values["to"] + 1)))
    return tuple(values)


FIRST_NAMES, LAST_NAMES = _WORDS["first_names"].split(), _WORDS["last_names"].split()
TOWN_FIRST, TOWN_LAST = _WORDS["town_first"].split(), _WORDS["town_last"].split()
HOME_PHRASES = tuple(_WORDS["home_phrases"])
ATTRIBUTES = tuple(
    Attribute(
        row["key"],
        row["kind"],
        _values(row["values"]),
        tuple(row["statements"]),
        tuple(row["questions"]),
        tuple(row["test_questions"]),
        row["clause"],
    )
    for row in _WORDS["attributes"]
)
BY_KEY = {attribute.key: attribute for attribute in ATTRIBUTES}
