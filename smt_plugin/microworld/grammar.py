"""The grammar of the microworld: facts said as sentences, asked for, and read back."""

import hashlib
import re
from dataclasses import dataclass

from smt_plugin.microworld.words import ATTRIBUTES, BY_KEY, PERSON_NAMES, TOWN_NAMES, Attribute


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact: `attribute` is a key of `BY_KEY`."""

    name: str
    attribute: str
    value: str


def keys(kind: str) -> list[str]:
    """Return the attribute keys of a kind, in a fixed order."""
    return [attribute.key for attribute in ATTRIBUTES if attribute.kind == kind]


def state(fact: Fact, wording: int) -> str:
    """Say a fact as one sentence, in the statement wording of that number (any integer)."""
    bank = BY_KEY[fact.attribute].statements
    sentence = bank[wording % len(bank)].format(n=fact.name, v=fact.value)
    return sentence[0].upper() + sentence[1:]


def ask(fact: Fact, wording: int, about: str | None = None, in_test: bool = False) -> str:
    """Ask for a fact's value as the scripted backend does; `about` replaces the name in the question.

    With `in_test`, ask as the evaluation does, in wordings that the scripted backend never uses.
    """
    attribute = BY_KEY[fact.attribute]
    bank = attribute.test_questions if in_test else attribute.questions
    return bank[wording % len(bank)].format(n=about or fact.name).replace(",?", "?")


def name_with(fact: Fact) -> str:
    """Return the name with the fact in passing: "Ada Abbot, who plays the harp,"."""
    return f"{fact.name}, {BY_KEY[fact.attribute].clause.format(v=fact.value)},"


def explain(facts: list[Fact], wording: int) -> str:
    """Answer: the facts as sentences, the last of which holds the answer, then "The answer is X."."""
    sentences = [state(fact, wording + i) for i, fact in enumerate(facts)]
    return " ".join([*sentences, f"The answer is {facts[-1].value}."])


def parse_statement(sentence: str) -> Fact | None:
    """Read a sentence back into its fact, or None if it is no statement of this grammar."""
    for pattern, attribute in _STATEMENT_PATTERNS:
        if not (match := pattern.fullmatch(sentence.strip())):
            continue
        name = (_TOWNS if attribute.kind == "place" else _PEOPLE).get(match["n"].lower())
        value = _values(attribute).get(match["v"].lower())
        if name and value:
            return Fact(name, attribute.key, value)
    return None


def parse_question(question: str) -> tuple[str, str] | None:
    """Read one of the scripted backend's questions as (name, attribute), or None."""
    for pattern, attribute in _QUESTION_PATTERNS:
        if match := pattern.fullmatch(question.strip()):
            return match["n"].split(",")[0], attribute.key
    return None


def sentences(text: str) -> list[str]:
    """Split a text of this grammar (no abbreviations) into sentences, list marks removed."""
    parts = re.split(r"(?<=[.!?])\s+|\n+", text)
    return [part.strip().removeprefix("- ") for part in parts if part.strip()]


def in_archive(name: str) -> bool:
    """Whether a two-word name belongs to the archive's share of names; the others are for pretraining."""
    # A small share of many pairs: a larger one would teach the model which words never follow each other, and it
    # would then misread the archive's names.
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 8 == 0


def _values(attribute: Attribute) -> dict[str, str]:
    return {value.lower(): value for value in attribute.values} or _TOWNS


def _compile(template: str) -> re.Pattern[str]:
    escaped = re.escape(template)
    return re.compile(escaped.replace(r"\{n\}", "(?P<n>.+)").replace(r"\{v\}", "(?P<v>.+)"), flags=re.IGNORECASE)


# Lower-cased to proper form: a value that begins a sentence is capitalised there.
_PEOPLE = {name.lower(): name for name in PERSON_NAMES}
_TOWNS = {name.lower(): name for name in TOWN_NAMES}
_STATEMENT_PATTERNS = [(_compile(s), a) for a in ATTRIBUTES for s in a.statements]
_QUESTION_PATTERNS = [(_compile(q), a) for a in ATTRIBUTES for q in a.questions]
