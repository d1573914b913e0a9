"""Read JSON as models write it: with talk around it, LaTeX in it, small errors of form, or an end that is missing."""

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import json_repair
import orjson

_CONTROL = dict.fromkeys(range(32), " ")
_FENCE = re.compile(r"^```(?:json)?\s*\n(.*)\n```$", re.DOTALL)
# Characters no record may hold: controls other than line break and tab, halves of surrogate pairs, and the sign that
# stands for a character that was lost.
_UNPRINTABLE = re.compile(r"[^\n\t\x20-\x7e\xa0-\ud7ff\ue000-\ufffc\ufffe-\U0010ffff]")

# A backslash and what it belongs to.
_HEX = "[0-9a-fA-F]"
_ESCAPE = re.compile(
    rf"""\\(?:(?P<known>u[dD][89abAB]{_HEX}{{2}}\\u[dD][c-fC-F]{_HEX}{{2}}|(?!u[dD][89a-fA-F])u{_HEX}{{4}}|["/])|"""
    rf"(?P<lone>u{_HEX}{{4}})|(?P<word>[a-zA-Z]+)|(?P<sign>.?))",
    re.DOTALL,
)
_MAY_BE_LATEX = re.compile(r"\\[bfnrt][a-zA-Z]")
# LaTeX's commands that begin as JSON's escapes of a tab and of a line break do. Names that leave a word when the first
# letter is taken off ("\ne", "\to", where "o" is also a bullet) are told from those by what stands before them.
_COMMANDS = frozenset(
    "tabular tag tanh tbinom text textasciitilde textbackslash textbf textcircled textcolor textdegree "
    "textemdash textendash texteuro textit textmd textmu textnormal textrm textsc textsf textsl textstyle "
    "textsubscript textsuperscript texttt textunderscore textup textwidth tfrac therefore theta thickapprox thicksim "
    "thinspace tilde times tiny toprule triangle triangledown triangleleft trianglelefteq triangleq "
    "triangleright trianglerighteq tt twoheadleftarrow twoheadrightarrow "
    "nabla natural ncong nearrow neq newcommand newline newpage ngeq ngeqslant ngtr nleftarrow nleftrightarrow nleq "
    "nleqslant nobreakspace nolimits nonumber norm normalfont normalsize not notag notin nprec npreceq nrightarrow "
    "nsubseteq nsubseteqq nsucc nsucceq nsupseteq ntriangleleft ntrianglelefteq ntriangleright ntrianglerighteq "
    "nvdash nvDash nVdash nVDash nwarrow".split()
)
_COMMANDS_OR_WORDS = frozenset(
    "ne neg nexists ni nless nmid nparallel nsim nsubset nsupset nu num tan tau to top".split()
)

# Where a value may begin; brackets in the talk before it seldom look so.
_START = re.compile(r"\{\s*(?:[\"'“}]|\w+\s*:)|\[\s*[\[{\"'“]")
_TOKEN = re.compile(r"[\[\]{}\"']")
# What follows the end of a string: models forget to escape quotes within one.
_AFTER_STRING = re.compile(r"\s*(?::|[}\]]|,\s*(?:[\"'\[{}\]\d-]|true|false|null))")
_CLOSING = {"{": "}", "[": "]"}
# More values than any reply should hold, and deeper nesting: what is beyond is a model gone astray.
_MOST_VALUES = 100
_DEEPEST = 20
_LONE = re.compile("[\ud800-\udfff]")
_ESCAPED_CONTROL = re.compile(r"(?<!\\)(?:\\\\)*\\u00(?:0[0-8bcef]|1[0-9a-f]|7f|[89][0-9a-f])", re.IGNORECASE)
_HIDDEN = "\ue0fd"


def printable(text: str) -> str:
    """Return a text with a space for each control character but line break and tab, and for each lone surrogate."""
    return _UNPRINTABLE.sub(" ", text.replace("\r\n", "\n"))


def count_unprintable(text: str, in_json: bool = False) -> int:
    """Return how many characters are replaced as `printable` does; in JSON also those that are written as escapes."""
    found = len(_UNPRINTABLE.findall(text.replace("\r\n", "\n")))
    if not in_json or "\\u" not in text:
        return found
    lone = sum(match["lone"] is not None for match in _ESCAPE.finditer(text))
    return found + lone + len(_ESCAPED_CONTROL.findall(text))


def read_json(text: str, keep_whole: bool = False) -> Any:
    """Return the value of a reply in JSON.

    A reply that is JSON, in a code fence or not, is taken at its word, but for LaTeX whose backslashes are not doubled:
    that comes out as it was written. Raw control characters count as spaces: models break lines inside a string, and
    vLLM lets one through as the last character of a string that is as long as its schema allows.

    Args:
        keep_whole: of a reply that breaks off, return the list items that are whole.

    Raises:
        ValueError: there is no JSON in the reply, or it breaks off.
    """
    text = text.strip()
    fenced = _FENCE.match(text)
    text = (fenced[1] if fenced else text).translate(_CONTROL)
    if not _MAY_BE_LATEX.search(text):
        try:
            return _each_text(orjson.loads(text), printable)
        except orjson.JSONDecodeError:
            pass
    text = _backslashes_doubled(text)
    try:
        return _each_text(orjson.loads(text), printable)
    except orjson.JSONDecodeError:
        return _each_text(_repaired(text, keep_whole), printable)


def read_body(content: bytes) -> Any:
    """Return the value of JSON that may hold lone surrogates or broken UTF-8, U+FFFD in their place.

    Raises:
        ValueError: it is no JSON.
    """
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        try:
            return _each_text(json.loads(content.decode(errors="replace")), partial(_LONE.sub, "\ufffd"))
        except RecursionError:
            raise ValueError("nested too deeply") from None


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    """Return a JSON value with its texts changed; its keys stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_each_text(item, change) for item in value]
    return {key: _each_text(item, change) for key, item in value.items()} if isinstance(value, dict) else value


def _backslashes_doubled(text: str) -> str:
    r"""Double the backslashes that stand for themselves in JSON text: LaTeX's, and those that JSON does not know.

    A backspace, a form feed or a carriage return before a letter is never meant; a tab or a line break is, unless a
    command of LaTeX begins there.
    """
    latex = any(map(_is_command, (match["word"] or "" for match in _ESCAPE.finditer(text))))

    def escape(match: re.Match[str]) -> str:
        word, sign = match["word"], match["sign"]
        if match["known"] or (word and not _is_command(word) and not _is_command_there(match, latex)):
            return match[0]
        if match["lone"]:
            return " "
        if sign == "'":
            return sign
        # Among commands of a single backslash two of them end a row; else they are one, escaped.
        if sign == "\\" and (not latex or text[match.end() : match.end() + 1].isalpha()):
            return match[0]
        return match[0].replace("\\", r"\\")

    return _ESCAPE.sub(escape, text)


def _is_command(word: str) -> bool:
    return bool(word) and (word in _COMMANDS if word[0] in "nt" else word not in ("b", "f", "r"))


def _is_command_there(place: re.Match[str], latex: bool) -> bool:
    """Whether a name that may be a word after a tab or a line break is a command; `latex`: others are for sure."""
    if place["word"] not in _COMMANDS_OR_WORDS:
        return False
    text, start, end = place.string, place.start(), place.end()
    before = text[text.rfind('"', 0, start) + 1 : start]
    if text[end : end + 1].isalpha() or before.endswith((".", "!", "?", ":", ";", ",")):
        return False
    in_formula = before.count("$") % 2 == 1 and "$" in text[end:].partition('"')[0]
    # An arrow has something on its left.
    first = not before and place["word"] != "to"
    return latex or in_formula or first or before[-1:] in tuple(" ({[$=+-*/^_")


def _repaired(text: str, keep_whole: bool) -> Any:
    """Return the longest value in a text, its form repaired; raises ValueError if there is none.

    Objects of one form that follow each other, as in JSON lines, are a list.
    """
    found: list[str] = []
    at = 0
    for _ in range(_MOST_VALUES):
        if (start := _START.search(text, at)) is None:
            break
        end, whole = _extent(text, start.start())
        at = end or start.start() + 1
        if end:
            found.append(text[start.start() : end])
        elif whole:
            found += [whole] if keep_whole else []
            break
    if not found:
        raise ValueError("no JSON")
    longest = _load(max(found, key=len))
    if len(found) == 1 or not isinstance(longest, dict) or any(isinstance(item, dict) for item in _listed(longest)):
        return longest
    values = [_load(value) for value in found]
    return values if all(isinstance(value, dict) and value.keys() == longest.keys() for value in values) else longest


def _listed(value: dict[str, Any]) -> list[Any]:
    return [item for items in value.values() if isinstance(items, list) for item in items]


def _load(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        # How json_repair reads doubled backslashes depends on what follows them, so it sees none.
        repaired = json_repair.loads(text.replace(r"\\", _HIDDEN))
        return _each_text(repaired, lambda each: each.replace(_HIDDEN, "\\"))


def _extent(text: str, start: int) -> tuple[int, str]:
    """Return where the value that begins at `start` ends, and "".

    Of one that breaks off, return 0 and the value up to its last whole list item, closed, or "" if it has none.
    """
    opened: list[str] = []
    whole = ""
    at = start
    while token := _TOKEN.search(text, at):
        at = token.end()
        if token[0] in _CLOSING:
            opened.append(token[0])
            if len(opened) > _DEEPEST:
                break
            continue
        if token[0] in "\"'":
            if (end := _string_end(text, at, token[0])) == 0:
                break
            at = end
        elif _CLOSING[opened.pop()] != token[0]:
            return 0, whole
        if not opened:
            return at, ""
        if opened[-1] == "[":
            whole = text[start:at] + "".join(_CLOSING[bracket] for bracket in reversed(opened))
    return 0, whole


def _string_end(text: str, at: int, quote: str) -> int:
    """Return the place behind the quote that closes a string whose content begins at `at`, 0 if none does."""
    for match in re.compile(rf"\\.|{quote}", re.DOTALL).finditer(text, at):
        if match[0] == quote and _AFTER_STRING.match(text, match.end()):
            return match.end()
    return 0
