"""Where sentences end in any script, for whatever cuts a text."""

from collections.abc import Iterator

import regex

# What ends a sentence outside the Latin scripts, with quotes and brackets behind it. Unicode's Sentence_Terminal needs
# no space; Tibetan's shad is none of them; Thai and Lao have no sign, but a space between sentences and some clauses.
SCRIPTS_END = (
    r"""(?:[[\p{Sentence_Terminal}\u0f0d-\u0f11\u0f14]--[.!?]]+["'\p{Close_Punctuation}\p{Final_Punctuation}]*"""
    r"""|(?<=[\p{Thai}\p{Lao}]["'”’)]?)(?=\s+["'“‘(]?[\p{Thai}\p{Lao}])"""
    r"""|(?<=[\p{Thai}\p{Lao}\p{Khmer}]["'”’)]?)(?=\n))"""
)
"""For the module `regex`, version 1 of its behaviour."""
# Latin stops need a space, since decimals and addresses have them, too.
SENTENCE_END = regex.compile(r"""[.!?]["')\]”’]*(?=\s|$)|""" + SCRIPTS_END, regex.VERSION1)


def sentences_in(line: str) -> Iterator[str]:
    """The pieces of a line that end where a sentence does, and what is left behind the last one."""
    start = 0
    for match in SENTENCE_END.finditer(line):
        yield line[start : match.end()]
        start = match.end()
    yield line[start:]
