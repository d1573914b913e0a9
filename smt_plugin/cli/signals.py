"""Signals: the first stops a command cleanly, a third ends it at once."""

import asyncio
import os
import signal
from collections.abc import Coroutine
from contextlib import suppress
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")


class Stop:
    """SIGINT, SIGTERM and SIGHUP: the first stops cleanly, the second says how to end at once, the third does.

    A KeyboardInterrupt inside an event loop hits whatever runs just then, which leaves tracebacks and may leave
    others waiting for ever; so there the first signal cancels the main task instead.
    """

    def __init__(self) -> None:
        self._count = 0
        self._main: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None

    def watch(self) -> None:
        """Handle the signals from now on, but for those that nohup or a shell has told to ignore."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._handle)

    def ignore(self) -> None:
        """Let no signal disturb the last words."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        if self._count > 2:
            if os.isatty(2):
                os.write(2, b"\x1b[?25h")  # a bar hides the cursor
            os._exit(130)
        if self._count == 2:
            with suppress(OSError):
                os.write(2, b"stopping; once more to end at once\n")
        elif self._main is None:
            raise KeyboardInterrupt
        else:
            loop, task = self._main
            # A loop that has just been closed has nothing left to stop.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(task.cancel)

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in an event loop; raises KeyboardInterrupt when a signal stopped it."""

        async def watched() -> T:
            task = asyncio.current_task()
            assert task is not None
            self._main = asyncio.get_running_loop(), task
            return await main

        try:
            return asyncio.run(watched())
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        finally:
            self._main = None


stop = Stop()
