"""Show how generation is getting on: a live line in a terminal, a line now and then in a log."""

import sys
import time
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from smt_plugin.generation.generate import Summary

LOG_EVERY_SECONDS = 15.0


# The rate behind the time left is that of so many last seconds: what a resumed run reuses comes fast and says nothing.
_WINDOW_SECONDS = 120.0


class GenerateProgress:
    """Prints to stderr, so that stdout holds results alone."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._last_shown = time.monotonic()
        self._shown = False
        self._seen: deque[tuple[float, int]] = deque()

    def __enter__(self) -> "GenerateProgress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown and self._live:
            click.echo(err=True)

    def show(self, summary: "Summary") -> None:
        """Show a summary, unless the last one was shown a moment ago."""
        now = time.monotonic()
        if now - self._last_shown < (0.2 if self._live else LOG_EVERY_SECONDS):
            return
        self._last_shown = now
        self._shown = True
        line = progress_line(summary, self._seconds_left(now, summary))
        if self._live:
            click.echo("\r\x1b[2K" + line, err=True, nl=False)
        else:
            click.echo(line, err=True)

    def _seconds_left(self, now: float, summary: "Summary") -> float | None:
        self._seen.append((now, tokens_of(summary)))
        while self._seen[0][0] < now - _WINDOW_SECONDS and len(self._seen) > 2:
            self._seen.popleft()
        then, tokens = self._seen[0]
        gained = tokens_of(summary) - tokens
        missing = budget_of(summary) - tokens_of(summary)
        return max(missing, 0) * (now - then) / gained if gained > 0 else None


def progress_line(summary: "Summary", seconds_left: float | None) -> str:
    """One line: share of the budget, documents, rates (tokens a second), cache, failures, money and time left."""
    documents = min((count.parts for count in summary.methods.values()), default=0)
    kind = "documents" if summary.num_parts == summary.num_documents else "parts of documents"
    seconds = max(summary.seconds, 1e-9)
    line = [
        f"{min(tokens_of(summary) / max(budget_of(summary), 1), 1.0):4.0%} of {budget_of(summary):,} tokens",
        f"{documents:,}/{summary.num_parts:,} {kind}",
        f"{summary.asked:,} completions ({summary.reused:,} reused)",
        f"in {summary.prompt_tokens / seconds:,.0f} out {summary.completion_tokens / seconds:,.0f} tokens/s",
    ]
    if summary.cache_share is not None:
        line.append(f"{summary.cache_share:.0%} from the cache")
    line.append(f"{summary.rejected:,} rejected, {summary.refused:,} refused")
    if summary.money is not None:
        line.append(f"{summary.money:,.2f} {summary.currency}")
    line.append("time left not known yet" if seconds_left is None else f"{duration(seconds_left)} left")
    return ", ".join(line)


def tokens_of(summary: "Summary") -> int:
    """Tokens of the records so far."""
    return sum(count.tokens for count in summary.methods.values())


def budget_of(summary: "Summary") -> int:
    """Tokens asked for, over all methods."""
    return sum(count.budget for count in summary.methods.values())


def duration(seconds: float) -> str:
    """Return a length of time as a person says it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
