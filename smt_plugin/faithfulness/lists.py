"""The lists of words by which numbers, dates and names are known."""

from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from smt_plugin.words import number_words


@cache
def _lists() -> dict[str, Any]:
    lists: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("words.yaml").read_text(encoding="utf-8"))
    return lists


@cache
def words(name: str) -> frozenset[str]:
    """The words of a list that has no languages."""
    return frozenset(_lists()[name].split())


@cache
def months() -> dict[str, int]:
    """Name of a month, in small letters -> 1 to 12."""
    return {
        form: number
        for names in _lists()["months"].values()
        for number, forms in enumerate(names.split(), start=1)
        for form in forms.split("/")
    }


@cache
def scales() -> dict[str, tuple[int, ...]]:
    """Word, in small letters -> the powers of ten for which it stands; a billion is not the same in all languages."""
    found: dict[str, tuple[int, ...]] = defaultdict(tuple)
    for power, scale in _lists()["scales"].items():
        for word in scale.split():
            found[word] += (power,)
    return dict(found)


@cache
def small_numbers() -> dict[str, int]:
    """Word -> number: 0 to 99 and hundreds of six languages, ordinals of English and German."""
    found = {word: number for word, number in number_words().items() if word != "-"}
    found |= {word: number for number, names in _lists()["tens"].items() for word in names.split()}
    for language, names in _lists()["ordinals"].items():
        for number, word in enumerate(names.split(), start=1):
            found |= dict.fromkeys([word, *(word + end for end in "nrsm" if language == "de")], number)
    return found | dict(_joined())


def _joined() -> Iterator[tuple[str, int]]:
    """German writes the ones and the tens as one word, ordinals and hundreds, too."""
    ones = "ein zwei drei vier fünf sechs sieben acht neun".split()
    tens = "zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig".split()
    for at, ten in enumerate(tens, start=2):
        for number, one in enumerate(["", *(f"{each}und" for each in ones)]):
            for end in ("", "ste", "sten", "ster", "stes"):
                yield f"{one}{ten}{end}", 10 * at + number
