"""A job's output file: output is written once the changes that it depends on are committed."""

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
"""Maximum bytes of output that wait for their commit; beyond that, the job waits for it."""

WRITE_THRESHOLD_BYTES = 256 << 10
"""Bytes that are written as soon as they are committed; fewer wait for more output."""

FLUSH_INTERVAL_SECONDS = 0.1
"""Maximum seconds between a commit and the write of its output, while the job produces more."""


class JobOutput:
    """An open output file. Threads: the job's.

    With a journal a job runs ahead of the disk: its output is buffered until the changes that it
    depends on are committed. Small pieces also wait for more output: the kernel writes one large
    piece in half the time of many small ones.
    """

    def __init__(self, file: int, path: str, store: StoreCore, size: int = 0) -> None:
        """Append to `file`, which has `size` bytes; errors name it `path`. Closes it at the end."""
        self._file = file
        self._path = path
        self._store = store
        self._buffer: deque[tuple[CommitPoint, bytes]] = deque()
        """Pieces of output, each with the commit point that must be reached before its write."""
        self._buffered_bytes = 0
        self._write_at = 0.0
        """Monotonic time from which the buffer is written, however small it is."""
        self.size = size
        """Bytes written to the file."""

    def write(self, output: bytes) -> None:
        """Write `output` soon after it is committed; block only if too much is buffered.

        Raises:
            JobError: the file cannot be written.
            JournalWriteError: the journal failed, so the output is never committed.

        """
        if output:
            self._buffer.append((self._store.commit_point(), output))
            self._buffered_bytes += len(output)
        if self._buffered_bytes > MAX_BUFFERED_BYTES:
            self.flush()
        now = time.monotonic()
        if self._buffered_bytes >= WRITE_THRESHOLD_BYTES or now >= self._write_at:
            self._write_committed()
            self._write_at = now + FLUSH_INTERVAL_SECONDS

    def flush(self) -> None:
        """Block until everything executed so far is committed, and write all output.

        Raises:
            JobError: the file cannot be written.
            JournalWriteError: the journal failed, so the output is never committed.

        """
        self._store.commit_point().wait()
        self._write_committed()

    def sync(self) -> None:
        """Make the bytes written durable (fsync(2)).

        Raises:
            JobError: fsync(2) failed.

        """
        try:
            os.fsync(self._file)
        except OSError as error:
            raise self._write_error(error) from error

    def close(self) -> None:
        """Write the output that is committed by now, and close the file.

        Raises:
            JobError: the file cannot be written; some filesystems report that only at close(2).

        """
        try:
            self._write_committed()
        finally:
            try:
                os.close(self._file)
            except OSError as error:
                raise self._write_error(error) from error

    def _write_committed(self) -> None:
        """Append the committed output to the file.

        If that fails, remove the part written and write no more: the file stays a prefix.
        """
        pieces = []
        while self._buffer and self._buffer[0][0].is_committed:
            pieces.append(self._buffer.popleft()[1])
        if not pieces:
            return
        size = sum(map(len, pieces))
        self._buffered_bytes -= size
        try:
            write_all(self._file, *pieces)
            self.size += size
        except BaseException as error:
            self._buffer.clear()
            self._buffered_bytes = 0
            with contextlib.suppress(OSError):  # the error of the write is the one to report
                os.ftruncate(self._file, self.size)
            if isinstance(error, OSError):
                raise self._write_error(error) from error
            raise

    def _write_error(self, error: OSError) -> JobError:
        return JobError(self._path, f"cannot write the output: {os_error_text(error)}")
