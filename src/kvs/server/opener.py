"""Opens the rest of a client's pipes, for a session that has begun: retries, and a deadline.

Clients open their pipes in an order of their own, with blocking opens. The server therefore never
blocks in open(2); it tries again until the client has its end open (`kvs.server.handshake`).
"""

from collections.abc import Callable

from kvs.posix import fifos
from kvs.server.handshake import OPEN_TIMEOUT_SECONDS, Handshake
from kvs.server.loop import EventLoop, Timer
from kvs.text import os_error_text

_RETRY_SECONDS = (0.001,) * 20 + (0.005,) * 20
"""Seconds between the first attempts to open what the client has opened."""

_LATE_RETRY_SECONDS = 0.02
"""Seconds between all later attempts."""


class PipeOpener:
    """Opens the pipes of one client as the client opens them. For the loop's thread.

    `on_progress` is called after each attempt that found another pipe opened. `on_failure` is
    called with the reason when a pipe cannot be opened or the deadline has passed. Either may call
    `cancel`.
    """

    def __init__(
        self,
        handshake: Handshake,
        loop: EventLoop,
        on_progress: Callable[[], None],
        on_failure: Callable[[str], None],
    ) -> None:
        self._handshake = handshake
        self._loop = loop
        self._on_progress = on_progress
        self._on_failure = on_failure
        self._attempts = 0
        """Attempts since the last progress."""
        self._retry = self._deadline = Timer(None)
        self._is_cancelled = False

    def start(self) -> None:
        """Report the pipes that are open already, and open the others."""
        self._continue(progress=True)

    def cancel(self) -> None:
        """Make no further attempt."""
        self._is_cancelled = True
        self._retry.cancel()
        self._deadline.cancel()

    def _attempt(self) -> None:
        progress = False
        try:
            progress = self._handshake.attempt()
        except OSError as error:
            # A descriptor may become free before the deadline; any other error stays.
            if error.errno not in fifos.OUT_OF_DESCRIPTORS:
                return self._on_failure(f"cannot open the client's pipes: {os_error_text(error)}")
        return self._continue(progress=progress)

    def _continue(self, *, progress: bool) -> None:
        if progress:
            self._attempts = 0
            self._deadline.cancel()
            self._deadline = self._loop.call_later(OPEN_TIMEOUT_SECONDS, self._on_timeout)
            self._on_progress()
        if self._is_cancelled:
            return
        if self._handshake.is_complete:
            self._deadline.cancel()
            return
        is_late = self._attempts >= len(_RETRY_SECONDS)
        seconds = _LATE_RETRY_SECONDS if is_late else _RETRY_SECONDS[self._attempts]
        self._retry = self._loop.call_later(seconds, self._attempt)
        self._attempts += 1

    def _on_timeout(self) -> None:
        missing = self._handshake.missing
        self._on_failure(f"the client did not open {missing} within {OPEN_TIMEOUT_SECONDS:g} s")
