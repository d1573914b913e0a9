"""Show on stderr how work is getting on: a live bar in a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Callable
from typing import Self

import click
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Column

from smt_plugin.terminal import SafeStream, shown, unprotected

LOG_EVERY_SECONDS = 15.0
_UPDATE_EVERY_SECONDS = 0.1
# Rate and time left are those of so many last seconds: what a resumed run reuses comes fast and says nothing.
_WINDOW_SECONDS = 120.0


def count_text(number: float) -> str:
    """A count or a rate: whole from ten up, with two digits below."""
    return f"{number:,.0f}" if number >= 10 or number == int(number) else f"{number:.2g}"


def duration(seconds: float) -> str:
    """Return a length of time as a person says it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


class Progress:
    """Tells how much is done, how fast, and how long the rest will take; stdout is left to results.

    A context manager: the bar is gone at its end, so that no error stands below it. A log hears nothing of short work.

    Args:
        what: what is counted, in the plural.
        total: how many there are, or None where that is not known.
        say: puts a count, and a count a second, into words.
    """

    def __init__(self, what: str, total: float | None = None, say: Callable[[float], str] = count_text) -> None:
        # The bar itself commands the terminal; what is said in it must not.
        console = Console(file=unprotected(sys.stderr), force_terminal=sys.stderr.isatty())
        self._live = console.is_interactive
        self._bar = RichProgress(
            BarColumn(20),
            TextColumn("{task.description}", markup=False, table_column=Column()),
            console=console,
            disable=not self._live,
            transient=True,
            redirect_stdout=False,
            speed_estimate_period=_WINDOW_SECONDS,
            get_time=time.monotonic,
        )
        self._say = say
        self._updated = self._said = time.monotonic()
        self.begin(what, total)

    def __enter__(self) -> Self:
        self._bar.start()
        if self._live:
            # Until its end the bar prints what others say, above itself, as it comes.
            sys.stderr = SafeStream(sys.stderr, hides=True)  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, what: str, total: float | None = None) -> None:
        """Count something else from now on."""
        for task in self._bar.task_ids:
            self._bar.remove_task(task)
        self._what = what
        self._task = self._bar.add_task(shown(what), total=total)

    def at(self, done: float, total: float | None = None, text: str | None = None) -> None:
        """Say that `done` are done; cheap, so that it may be called after each.

        Args:
            total: how many there are, where that has been learned since.
            text: what to say of it in place of count and rate.
        """
        now = time.monotonic()
        if now - self._updated < _UPDATE_EVERY_SECONDS:
            return
        self._updated = now
        self._bar.update(self._task, completed=done, total=total)
        [task] = self._bar.tasks
        line = text
        if line is None:
            whole = "" if task.total is None else f" of {self._say(task.total)}"
            line = f"{self._say(done)}{whole} {self._what}" + (f", {self._say(task.speed)}/s" if task.speed else "")
        if task.total is not None:
            left = task.time_remaining
            line += ", time left not known yet" if left is None else f", {duration(left)} left"
        self._bar.update(self._task, description=shown(line))
        if not self._live and now - self._said >= LOG_EVERY_SECONDS:
            self._said = now
            click.echo(line, err=True)
