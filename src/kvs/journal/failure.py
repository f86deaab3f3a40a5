"""Failure of the journal: the one error after which nothing is written, and the tampering check.

Invariants:

- A failed write or fsync(2) is fatal. Memory is ahead of the disk, and after a failed fsync(2) the
  file's state is unknown. Nothing is retried and nothing more is acknowledged.
- One failure is not fatal: a write(2) that meets a full disk, if space can be freed (see
  `kvs.journal.writer`).
- Tampering is fatal: the data directory or the current segment was removed, renamed or replaced, or
  the segment was truncated or extended by another process. A write to a file without a name, or
  after bytes that fail their checksum, would be lost to the next recovery. The writer thread
  checks every `TAMPER_CHECK_SECONDS`.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from functools import partial

from kvs.errors import JournalWriteError
from kvs.journal.storage import Segment

TAMPER_CHECK_SECONDS = 1.0
"""Seconds between two tampering checks."""

Callback = Callable[[], None]
FailureCallback = Callable[[JournalWriteError], None]
FindTampering = Callable[[Segment], str | None]
"""Returns what was done to the directory or the segment; None if both are untouched."""


class TamperedError(Exception):
    """The journal's files were changed by another process; the text says how."""


class SyncError(Exception):
    """An fsync(2) of the journal failed, so that the state of what was written is unknown."""


class JournalFailure:
    """The error that ended the journal, if there is one, and the callbacks for it.

    Threads: any thread may call any method at any time; the writer thread alone sets the error.
    """

    def __init__(self) -> None:
        self.error: JournalWriteError | None = None
        self._callbacks: list[FailureCallback] = []
        self._is_reported = False
        """Whether `raise_once` has raised the error."""

    def on_failure(self, call: FailureCallback) -> Callback:
        """Register `call` for the failure; return a function that unregisters it.

        `call` is called once: by the writer thread when the journal fails, or by this thread, at
        once, if the journal has failed already.
        """

        def unregister() -> None:
            with contextlib.suppress(ValueError):  # already called or unregistered
                self._callbacks.remove(call)

        self._callbacks.append(call)
        self.run_callbacks()
        return unregister

    def run_callbacks(self) -> None:
        """If the journal has failed, call every callback; each is called once, over all threads."""
        error = self.error
        while error is not None and self._callbacks:
            with contextlib.suppress(IndexError):  # another thread took the last one
                run_callback(partial(self._callbacks.pop(0), error))

    def check(self) -> None:
        """Raise the error if the journal has failed.

        Raises:
            JournalWriteError: the journal has failed.

        """
        if self.error is not None:
            raise self.error

    def raise_once(self) -> None:
        """Raise the error if the journal has failed and no call before has raised it.

        Raises:
            JournalWriteError: the journal has failed.

        """
        if self.error is not None and not self._is_reported:
            self._is_reported = True
            raise self.error


class TamperWatch:
    """The periodic check that the journal's files are as the writer thread left them.

    Threads: the writer thread alone.
    """

    def __init__(self, find_tampering: FindTampering, revision: int) -> None:
        self._find_tampering = find_tampering
        self._checked_at = time.monotonic()
        self.revision = revision
        """Last revision that was written at the last check that passed."""

    @property
    def due_at(self) -> float:
        """Time of the next check (time.monotonic)."""
        return self._checked_at + TAMPER_CHECK_SECONDS

    def check(self, segment: Segment, revision: int) -> None:
        """Check the files; `segment` is the current one and ends at `revision`.

        Raises:
            TamperedError: another process has changed them.

        """
        tampering = self._find_tampering(segment)
        if tampering is not None:
            raise TamperedError(tampering)
        self._checked_at = time.monotonic()
        self.revision = revision


def run_callback(call: Callback) -> None:
    """Call a callback of the store's user; an exception of it is no failure of the journal.

    The exception goes to `threading.excepthook`.
    """
    try:
        call()
    except Exception:  # noqa: BLE001  (reported as that of a thread)
        raised = (*sys.exc_info(), threading.current_thread())
        threading.excepthook(threading.ExceptHookArgs(raised))
