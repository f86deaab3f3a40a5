"""Waking a thread that waits for descriptors: a pipe to itself."""

import contextlib
import os
import weakref


class Wakeup:
    """Readable from `wake` until `clear`. Any thread may wake, a signal handler also.

    Its descriptors live as long as it does, so that nobody who wakes late writes to another file.

    Raises:
        OSError: there are no descriptors to be had.

    """

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        for end in (self._reader, self._writer):
            os.set_blocking(end, False)
            weakref.finalize(self, os.close, end)

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._reader

    def wake(self) -> None:
        """Make it readable."""
        with contextlib.suppress(BlockingIOError):  # full: it is readable
            os.write(self._writer, b"\0")

    def clear(self) -> bool:
        """Make it unreadable; return whether it was readable."""
        try:
            return bool(os.read(self._reader, 65536))
        except BlockingIOError:
            return False
