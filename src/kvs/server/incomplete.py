"""Notices a request that stays incomplete, so that the server can log it."""

import time
from collections.abc import Callable

from kvs.server.loop import EventLoop, Timer

INCOMPLETE_SECONDS = 5.0
"""Seconds without a further byte after which an incomplete request or connect is reported."""


class IncompleteRequestTimer:
    """Reports the incomplete request of one session. For the loop's thread.

    `is_incomplete` returns whether part of a request has arrived; `is_busy` whether whole requests
    before it are still to be processed, which prolongs the time. `report` is called with the time,
    `INCOMPLETE_SECONDS`, once for each request that stays incomplete for so long.
    """

    def __init__(
        self,
        loop: EventLoop,
        is_incomplete: Callable[[], bool],
        is_busy: Callable[[], bool],
        report: Callable[[float], None],
    ) -> None:
        self._loop = loop
        self._is_incomplete = is_incomplete
        self._is_busy = is_busy
        self._report = report
        self._timer = Timer(None)
        self._read_at = 0.0
        """Time of the last input (time.monotonic)."""

    def on_input(self) -> None:
        """Note that input was read and processed as far as possible."""
        self._read_at = time.monotonic()
        if self._timer.call is None and self._is_incomplete():
            self._timer = self._loop.call_later(INCOMPLETE_SECONDS, self._check)

    def cancel(self) -> None:
        """Report nothing, unless there is further input."""
        self._timer.cancel()

    def _check(self) -> None:
        self._timer = Timer(None)
        if not self._is_incomplete():
            return
        remaining = self._read_at + INCOMPLETE_SECONDS - time.monotonic()
        if self._is_busy():
            remaining = INCOMPLETE_SECONDS
        if remaining > 0:
            self._timer = self._loop.call_later(remaining, self._check)
        else:
            self._report(INCOMPLETE_SECONDS)
