"""Errors that are put into true sentences on purpose, to see whether who judges them finds these.

What is put in stands nowhere in the document, so that the sentence is wrong for sure.
"""

import random
import re
from collections.abc import Iterator
from typing import NamedTuple

import regex

from smt_plugin.faithfulness.lists import months, words
from smt_plugin.faithfulness.names import folded
from smt_plugin.words import stop_words

NUMBER, NAME, NEGATION = "number", "name", "negation"
KINDS = (NUMBER, NAME, NEGATION)

_NUMBER = re.compile(r"(?<![\w.,/])[^\W_a-zA-Z]*?\d+(?:[.,\xa0 ]\d+)*(?![\d/])")
_MARK = re.compile(r"\W*(?:Step )?")
_ASCII = {code: str(int(chr(code))) for code in range(0x660, 0x970) if chr(code).isdecimal()}
# A word with a capital behind one without, or behind another name of which that holds.
_NAME = regex.compile(r"(?<=[\p{Ll}\d,] )\p{Lu}\p{Ll}{2,}(?![\p{L}\p{N}-])")
_CYRILLIC = re.compile("[\u0400-\u04ff]")
_NAMES = "Halvorsen Quintero Brannigan Okonjo Tellwright Marchetti Dunleavy Sandoval Wexcombe Lindqvist".split()
_CYRILLIC_NAMES = "Ветров Рощин Кольцов Самарин Горелов Лужин".split()


class _Denial(NamedTuple):
    """How a language denies: the verbs, and what takes their place, `{}` for the verb itself."""

    verbs: str
    denied: str
    # Words with which a sentence is denied already, or partly.
    words: str


_DENIALS = {
    "en": _Denial(
        "was were is are had has did could would will can",
        "{} not",
        "not no never none nobody nothing neither nor only",
    ),
    "de": _Denial("war waren ist sind wurde wurden hatte hatten hat haben", "{} nicht", "nicht kein keine keiner nie"),
    "nl": _Denial("was waren is zijn werd werden had hadden heeft", "{} niet", "niet geen nooit niemand niets"),
    "sv": _Denial("var är hade har blev kunde", "{} inte", "inte ingen inget aldrig"),
    "es": _Denial("es era fue fueron son tiene tenía había ha está", "no {}", "no nunca nadie nada ni"),
    "pt": _Denial("é era foi foram são tem tinha está", "não {}", "não nunca ninguém nada nem"),
    "it": _Denial("è era fu furono sono ha aveva", "non {}", "non mai nessuno niente né"),
    "fr": _Denial("était étaient est avait avaient", "n'{} pas", "pas ne jamais rien personne aucun aucune"),
    "ru": _Denial("был была было были стал стала", "не {}", "не ни нет никогда никто"),
}


def with_error(sentence: str, kind: str, document: str, language: str, draw: random.Random) -> str | None:
    """Return a sentence of a document with one thing in it changed; None where it has nothing of the kind.

    Args:
        kind: NUMBER: a digit is another one. NAME: a word of a name becomes a name that the document lacks. NEGATION:
            what is said is denied, or no longer denied.
        document: the text of the document.
        language: its ISO 639 code; NEGATION knows nine languages.
    """
    if kind == NEGATION:
        return _denied(sentence, language)
    if kind == NUMBER:
        places = list(number_places(sentence))
    else:
        usual = {*months(), *words("days"), *words("titles"), *stop_words().get(language, ())}
        places = [match for match in _NAME.finditer(sentence) if match[0].casefold() not in usual]
    if not places:
        return None
    place = draw.choice(places)
    new = other_number(place[0], document, draw) if kind == NUMBER else _other_name(place[0], document, draw)
    return None if new is None else sentence[: place.start()] + new + sentence[place.end() :]


def number_places(text: str) -> Iterator[re.Match[str]]:
    """Yield the numbers of a text in digits, without those that count off lines and steps: these state nothing."""
    for match in _NUMBER.finditer(text):
        line = text[text.rfind("\n", 0, match.start()) + 1 : match.start()]
        if not _MARK.fullmatch(line) or match.end() - match.start() > 1:
            yield match


def other_number(old: str, document: str, draw: random.Random) -> str | None:
    """Return a number with one digit changed, which the document has neither so nor rounded; None if none is found."""
    known = _numbers(document)
    for _ in range(50):
        place = draw.choice([at for at, sign in enumerate(old) if sign.isdigit()])
        new = old[:place] + draw.choice("123456789") + old[place + 1 :]
        if int(re.sub(r"\D", "", new)) == int(re.sub(r"\D", "", old)):
            continue
        if re.sub(r"\D", "", new.translate(_ASCII)) not in known:
            return new
    return None


def _numbers(text: str) -> set[str]:
    """All numbers of a document as their digits alone, and those that are joined in them."""
    found = set()
    for match in re.finditer(r"\d+(?:[.,\xa0 ]\d+)*", text.translate(_ASCII)):
        found.add(re.sub(r"\D", "", match[0]).lstrip("0"))
        found.update(re.findall(r"\d+", match[0]))
    return found


def _other_name(old: str, document: str, draw: random.Random) -> str | None:
    known = folded(document)
    names = _CYRILLIC_NAMES if _CYRILLIC.match(old) else _NAMES
    others = [name for name in names if folded(name) not in known]
    return draw.choice(others) if others else None


def _denied(sentence: str, language: str) -> str | None:
    denial = _DENIALS.get(language)
    if denial is None:
        return None
    found = re.findall(rf"\b(?:{'|'.join(denial.words.split())})\b|n't\b", sentence, re.IGNORECASE)
    if found:
        # "was not only" would say the same without it.
        is_plain = language == "en" and found == ["not"]
        return re.sub(r" not\b", "", sentence, count=1) if is_plain and " not " in sentence else None
    verb = re.search(rf"\b(?:{'|'.join(denial.verbs.split())})\b", sentence)
    return None if verb is None else sentence[: verb.start()] + denial.denied.format(verb[0]) + sentence[verb.end() :]
