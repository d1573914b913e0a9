import io
import sys

import pytest
from rich.filesize import decimal

from smt_plugin.progress import LOG_EVERY_SECONDS, Progress, duration


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the progress reads, in seconds."""
    now = [0.0]
    monkeypatch.setattr("smt_plugin.progress.time.monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_now_and_then_with_rate_and_time_left(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("questions looked up", 4000) as progress:
        for second in range(1, 41):
            clock[0] = second
            progress.at(20 * second)
    assert capsys.readouterr() == (
        "",
        "300 of 4,000 questions looked up, 20/s, 3 min 05 s left\n"
        "600 of 4,000 questions looked up, 20/s, 2 min 50 s left\n",
    )


def test_a_log_hears_nothing_of_short_work(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("documents", 3) as progress:
        clock[0] = LOG_EVERY_SECONDS - 1
        progress.at(2)
    assert capsys.readouterr() == ("", "")


def test_bytes_of_one_file_after_another_are_told_with_and_without_a_known_size(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("files", say=lambda size: decimal(round(size))) as progress:
        for number, size in ((1, 4_000_000), (2, None)):
            progress.begin(f"of {number}.pdf", size)
            for done in (1_000_000, 3_000_000):
                clock[0] += 10
                progress.at(done)
    assert capsys.readouterr().err.splitlines() == [
        "3.0 MB of 4.0 MB of 1.pdf, 200.0 kB/s, 5 s left",
        "3.0 MB of 2.pdf, 200.0 kB/s",
    ]


def test_a_terminal_has_a_bar_that_is_gone_at_the_end_and_stdout_stays_clean(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress("documents", 3) as progress:
        clock[0] = 1
        progress.at(2)
        progress.at(3, text="not yet, so soon after")
        print("a result")
        print("a warning", file=sys.stderr)
    assert isinstance(sys.stderr, Terminal)
    shown = sys.stderr.getvalue()
    assert "━" in shown
    assert "a warning" in shown
    assert "2 of 3 documents, time left not known yet" in shown
    assert "so soon after" not in shown
    assert shown.endswith("\x1b[2K")
    assert capsys.readouterr().out == "a result\n"


def test_a_length_of_time_is_said_as_a_person_says_it() -> None:
    assert [duration(seconds) for seconds in (9, 75, 3725)] == ["9 s", "1 min 15 s", "1 h 02 min"]
