"""A job's output file: written as far as what it tells may be shown."""

import contextlib
import os
from collections import deque

from kvs.errors import JobFailed, cause
from kvs.files import write_all
from kvs.store import Store

MOST_HELD_BACK = 4 << 20
"""Bytes of output that wait until they may be shown, at most; beyond, the job waits for them."""


class Output:
    """An open output file. Used by one thread, the job's.

    With a journal a job runs ahead of the disk: what it writes waits here until the changes that it
    depends on are safe, and only then goes to the file.
    """

    def __init__(self, file: int, shown: str, store: Store, size: int = 0) -> None:
        """Go on in `file`, which has `size` bytes; `shown` is how errors name it."""
        self._file = file
        self._shown = shown
        self._store = store
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._bytes_waiting = 0
        self.size = size
        """Bytes written to the file."""

    def put(self, text: bytes) -> None:
        """Write `text` as soon as it may be shown: now or later, mostly without waiting.

        Raises:
            JobFailed: it cannot be written.
            JournalFailed: it may never be shown.

        """
        if text:
            self._waiting.append((self._store.position(), text))
            self._bytes_waiting += len(text)
        if self._bytes_waiting > MOST_HELD_BACK:
            self.settle()
        while self._waiting and self._store.is_safe(self._waiting[0][0]):
            self._write(self._waiting.popleft()[1])

    def settle(self) -> None:
        """Wait until all may be shown that was carried out so far, and write it.

        Raises:
            JobFailed: it cannot be written.
            JournalFailed: it may never be shown.

        """
        self._store.wait_until_safe(self._store.position())
        while self._waiting:
            self._write(self._waiting.popleft()[1])

    def sync(self) -> None:
        """Make what was written durable (fsync(2)).

        Raises:
            JobFailed: the system could not.

        """
        try:
            os.fsync(self._file)
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Close the file; some filesystems tell only now that they could not write it.

        Raises:
            JobFailed: so it is.

        """
        try:
            os.close(self._file)
        except OSError as error:
            raise self._failed(error) from error

    def _write(self, text: bytes) -> None:
        """Append to the file; when that fails, no part of `text` stays in it."""
        self._bytes_waiting -= len(text)
        try:
            write_all(self._file, text)
            self.size += len(text)
        except OSError as error:
            with contextlib.suppress(OSError):  # what is told is why it could not be written
                os.ftruncate(self._file, self.size)
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> JobFailed:
        return JobFailed(self._shown, f"cannot write the output: {cause(error)}")
