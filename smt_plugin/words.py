"""The words of a text in any script, by which texts are compared and searched."""

import re
import unicodedata
from functools import cache
from itertools import pairwise
from pathlib import Path

import yaml

# Vowel signs and accents that stand for themselves; Python's \w leaves them out, and so would cut Hindi and Thai words.
_MARKS = "".join(sign for sign in map(chr, range(0x300, 0x3100)) if unicodedata.category(sign).startswith("M"))
_WORD = re.compile(rf"[\w{_MARKS}]+")
# Thai and Lao, Burmese, Khmer, Japanese, Chinese.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_PIECE = re.compile(rf"(?P<unspaced>[{_UNSPACED}{_MARKS}]+)|[^{_UNSPACED}]+")
_SIGN = re.compile(rf".[{_MARKS}]*")


def words_of(text: str) -> list[str]:
    """The words of a text in its order, folded: lower case, one form of each sign (NFKC), no underscores.

    Scripts without spaces between words (Chinese, Japanese, Thai, Lao, Burmese, Khmer) give each two neighbouring
    signs, with their vowel signs, as Lucene's CJK analyser does; a sign that stands alone is a word.
    """
    if text.isascii():
        return _WORD.findall(text.lower().replace("_", " "))
    folded = unicodedata.normalize("NFKC", text.replace("\xad", "")).casefold().replace("_", " ")
    words = []
    for word in _WORD.findall(folded):
        if word.isascii():
            words.append(word)
            continue
        for piece in _PIECE.finditer(word):
            if piece["unspaced"]:
                signs = _SIGN.findall(piece[0])
                words += ["".join(pair) for pair in pairwise(signs)] or signs
            else:
                words.append(piece[0])
    return words


@cache
def stop_words() -> dict[str, frozenset[str]]:
    """Language -> the words that say too little to tell a text by; of nine languages."""
    return {language: frozenset(words.split()) for language, words in _lists()["stop_words"].items()}


@cache
def number_words() -> dict[str, int]:
    """Word -> its number, 0 to 20; of six languages."""
    return {word: number for words in _lists()["numbers"].values() for number, word in enumerate(words.split())}


@cache
def _lists() -> dict[str, dict[str, str]]:
    lists: dict[str, dict[str, str]] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    return lists
