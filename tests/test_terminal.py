import io
import sys

import click
import pytest

from smt_plugin.progress import Progress
from smt_plugin.terminal import SafeStream, shown

# To move the cursor, to write the clipboard, a link, a bell, in eight bits; to write over a line; to turn a text round.
EVIL = "\x1b[2Ja\x1b]52;c;eA==\x07b\x1b]8;;http://x\x1b\\c\x9b31md\re\u202ef\u2066g\x7f\x08"


def test_no_control_character_reaches_the_terminal_and_each_is_seen() -> None:
    text = shown(EVIL)
    assert text.isprintable()
    assert text.startswith("\\x1b[2Ja\\x1b]52;c;eA==\\x07b")
    assert "\\x9b31md\\re\\u202ef\\u2066g\\x7f\\x08" in text


def test_ordinary_text_of_any_script_stays_as_it_is() -> None:
    text = "Zwölf\tMänner\n東京 עברית العربية ไทย 👩‍👩‍👧 é — “x” \u200d"
    assert shown(text) == text


def test_a_file_name_that_is_no_utf_8_can_be_printed() -> None:
    assert shown("caf\udce9.txt") == "caf\\udce9.txt"


def test_whatever_is_echoed_printed_or_logged_is_made_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", SafeStream(out, hides=False))
    monkeypatch.setattr(sys, "stderr", SafeStream(err, hides=True))
    click.echo(EVIL)
    print(EVIL)
    click.echo(f"failed: {EVIL} https://me:hidden@host", err=True)
    print(EVIL, file=sys.stderr)
    assert "hidden" not in err.getvalue()
    for said in (out.getvalue(), err.getvalue()):
        assert said.count("\n") == 2
        assert said.replace("\n", "").isprintable()


def test_a_bar_of_another_package_still_moves_and_its_colours_are_reset() -> None:
    stream = io.StringIO()
    for done in range(3):
        SafeStream(stream, hides=True).write(f"\r{done}/2")
    SafeStream(stream, hides=True).write("\x1b[0m")
    SafeStream(stream, hides=True).write("a\x1b[0m")
    assert stream.getvalue() == "\r0/2\r1/2\r2/2\x1b[0ma\\x1b[0m"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_is_said_beside_a_bar_is_made_safe_and_the_bar_still_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    stream = SafeStream(terminal, hides=True)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    with Progress("of \x1b]52;c;eA==\x07 things", 3) as progress:
        progress.at(1)
        print("a warning \x1b]8;;http://x\x1b\\ of a server", file=sys.stderr)
    assert sys.stderr is stream
    said = terminal.getvalue()
    assert "\x1b[" in said
    assert "\x1b]" not in said
    assert "\\x1b]8;;http://x" in said
