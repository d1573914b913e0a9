"""The language of a text: by its script, or by its commonest words."""

import re

from smt_plugin.words import stop_words, words_of

# Scripts without capitals, each of one language or a family of them.
_SCRIPTS = {
    "he": "\u0590-\u05ff",
    "ar": "\u0600-\u077f\u08a0-\u08ff\ufb50-\ufdff\ufe70-\ufeff",
    "indic": "\u0900-\u0dff",
    "th": "\u0e00-\u0e7f",
    "lo": "\u0e80-\u0eff",
    "bo": "\u0f00-\u0fff",
    "my": "\u1000-\u109f",
    "ka": "\u10a0-\u10ff",
    "am": "\u1200-\u137f",
    "km": "\u1780-\u17ff",
    "ja": "\u3040-\u30ff",
    "zh": "\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff",
    "ko": "\u1100-\u11ff\u3130-\u318f\uac00-\ud7af",
}
_SCRIPT = {name: re.compile(f"[{signs}]") for name, signs in _SCRIPTS.items()}
SIGN_WITHOUT_CAPITALS = re.compile(f"[{''.join(_SCRIPTS.values())}]")
"""A sign of a script without capitals."""
_SHARE_OF_SCRIPT = 0.3  # of the signs; Japanese is told from Chinese by less kana
_SHARE_OF_KANA = 0.05
_SHARE_OF_STOP_WORDS = 0.1  # of the words, and so many times the next language's
_LEAST_STOP_WORDS = 4
_AHEAD = 1.3
_CHARACTERS = 20_000


def has_no_capitals(text: str) -> bool:
    """Whether a text is in a script without capitals, apart from words of others."""
    if text.isascii():
        return False
    return len(SIGN_WITHOUT_CAPITALS.findall(text)) > _SHARE_OF_SCRIPT * len("".join(text.split()))


def language_of(text: str) -> str:
    """The language of a text's beginning: a code of ISO 639, or `indic`; empty where neither script nor words tell."""
    text = text[:_CHARACTERS]
    if has_no_capitals(text):
        signs = {name: len(pattern.findall(text)) for name, pattern in _SCRIPT.items()}
        if signs["ja"] > _SHARE_OF_KANA * sum(signs.values()):
            return "ja"
        return max(signs, key=lambda name: signs[name])
    terms = [word for word in words_of(text) if not word.isdigit()]
    counts = sorted(
        ((sum(map(known.__contains__, terms)), language) for language, known in stop_words().items()), reverse=True
    )
    (best, language), (second, _) = counts[:2]
    is_told = best >= max(_LEAST_STOP_WORDS, _SHARE_OF_STOP_WORDS * len(terms)) and best > _AHEAD * second
    return language if is_told else ""
