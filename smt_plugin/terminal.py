"""What is printed commands no terminal and tells no secret, whatever stands in servers' words, file names and data."""

import re
import sys
from typing import Any, TextIO

from smt_plugin.masking import without_secrets

# Controls but line break and tab, DEL, the controls of eight bits, marks that turn the direction of a text, line ends
# of Unicode, and halves of surrogate pairs, which a file name may hold.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")

_COLOURS_OFF = "\x1b[0m"


def shown(text: str) -> str:
    r"""Return a text with an escape such as `\x1b` for each character by which it could command a terminal."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)


class SafeStream:
    """A text stream that writes what is `shown`, and all else as the stream in it.

    Args:
        hides: whether secrets are left out as well: of messages, while results may speak of what looks like one.
    """

    def __init__(self, stream: TextIO, hides: bool) -> None:
        self.stream = stream
        self._hides = hides

    def write(self, text: str) -> int:
        """Write a text, and return its length."""
        # So the bars of other packages go back to the beginning of their line, and colorama says farewell.
        again = "\r" if text.startswith("\r") else _COLOURS_OFF if text == _COLOURS_OFF else ""
        rest = text.removeprefix(again)
        self.stream.write(again + shown(without_secrets(rest) if self._hides else rest))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write texts one after another."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def unprotected(stream: Any) -> TextIO:
    """Return the stream in a SafeStream, for what has to command the terminal; any other as it is."""
    found: TextIO = stream.stream if isinstance(stream, SafeStream) else stream
    return found


def protect() -> None:
    """Have all that this process prints, errors and warnings of other packages among it, be safe to look at."""
    sys.stdout = SafeStream(sys.stdout, hides=False)  # type: ignore[assignment]
    sys.stderr = SafeStream(sys.stderr, hides=True)  # type: ignore[assignment]
