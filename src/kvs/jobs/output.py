"""A job's output file: written as far as what it tells may be shown."""

import contextlib
import os
import time
from collections import deque

from kvs.errors import JobError
from kvs.posix.files import write_all
from kvs.store.commit import CommitPoint
from kvs.store.core import StoreCore
from kvs.text import os_error_text

MAX_BUFFERED_BYTES = 4 << 20
"""Bytes of output that wait until they may be shown, at most; beyond, the job waits for them."""

WRITE_THRESHOLD_BYTES = 256 << 10
"""So many bytes are written as soon as they may be shown; fewer wait for more, for a short time."""

FLUSH_INTERVAL_SECONDS = 0.1
"""Who follows an output while its job is at work sees at most so late what may be shown."""


class JobOutput:
    """An open output file. Used by one thread, the job's.

    With a journal a job runs ahead of the disk: what it writes waits here until the changes that it
    depends on are safe, and only then goes to the file. What is little waits for more of it: the
    kernel writes a large piece in half the time of many small ones.
    """

    def __init__(self, file: int, shown: str, store: StoreCore, size: int = 0) -> None:
        """Go on in `file`, which has `size` bytes; `shown` is how errors name it."""
        self._file = file
        self._shown = shown
        self._store = store
        self._waiting: deque[tuple[CommitPoint, bytes]] = deque()
        self._bytes_waiting = 0
        self._write_at = 0.0
        """When what waits is written, however little it is."""
        self.size = size
        """Bytes written to the file."""

    def write(self, text: bytes) -> None:
        """Write `text` soon after it may be shown: now or later, mostly without waiting.

        Raises:
            JobError: it cannot be written.
            JournalWriteError: it may never be shown.

        """
        if text:
            self._waiting.append((self._store.commit_point(), text))
            self._bytes_waiting += len(text)
        if self._bytes_waiting > MAX_BUFFERED_BYTES:
            self.flush()
        now = time.monotonic()
        if self._bytes_waiting >= WRITE_THRESHOLD_BYTES or now >= self._write_at:
            self._write_committed()
            self._write_at = now + FLUSH_INTERVAL_SECONDS

    def flush(self) -> None:
        """Wait until all may be shown that was carried out so far, and write it.

        Raises:
            JobError: it cannot be written.
            JournalWriteError: it may never be shown.

        """
        self._store.commit_point().wait()
        self._write_committed()

    def sync(self) -> None:
        """Make what was written durable (fsync(2)).

        Raises:
            JobError: the system could not.

        """
        try:
            os.fsync(self._file)
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Write what may be shown by now, and close the file.

        Some filesystems tell only then that they could not write it.

        Raises:
            JobError: so it is.

        """
        try:
            self._write_committed()
        finally:
            try:
                os.close(self._file)
            except OSError as error:
                raise self._failed(error) from error

    def _write_committed(self) -> None:
        """Append what may be shown to the file; when that fails, no part of it stays there."""
        texts = []
        while self._waiting and self._waiting[0][0].is_committed:
            texts.append(self._waiting.popleft()[1])
        if not texts:
            return
        size = sum(map(len, texts))
        self._bytes_waiting -= size
        try:
            write_all(self._file, *texts)
            self.size += size
        except OSError as error:
            with contextlib.suppress(OSError):  # what is told is why it could not be written
                os.ftruncate(self._file, self.size)
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> JobError:
        return JobError(self._shown, f"cannot write the output: {os_error_text(error)}")
