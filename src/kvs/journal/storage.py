"""The system calls that change a journal's files, whose order matters.

The process may crash before or after each call. Tests replace `Storage` with one that fails, kills
the process, or forgets what was not synced, at a call of their choice.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kvs.concurrency import forks
from kvs.posix.files import AtomicFile, open_regular, write_all


@dataclass(slots=True)
class Segment:
    """The segment that is being written. For the writer thread."""

    file: int
    """Descriptor, open for appending."""
    number: int
    last_checksum: int
    """Checksum of the last header in the file, to which the next one is chained."""
    size: int
    """Bytes written."""


class Storage:
    """The files of one data directory, open as `directory`. Thread-safe: it has no state.

    Every method raises `OSError` if a system call fails.
    """

    def __init__(self, directory: int) -> None:
        self.directory = directory

    def create(self, name: bytes, start: bytes, rest: Iterable[bytes] = ()) -> int:
        """Create a durable file of `start` and `rest`; return it open for appending."""
        with AtomicFile(self.directory, name) as replacement:
            self.append(replacement.file, start)
            for piece in rest:
                self.append(replacement.file, piece)
            self.sync(replacement.file)
            self.commit(replacement)
        return self.open(name)

    def mark(self, name: bytes) -> None:
        """Create an empty file under its final name, durably."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW
        os.close(open_regular(name, flags, self.directory))
        os.fsync(self.directory)

    def open(self, name: bytes) -> int:
        """Open a file for appending."""
        flags = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW
        return forks.close_in_children(open_regular(name, flags, self.directory))

    def append(self, file: int, *pieces: bytes) -> None:
        """Write `pieces`, in order, at the end of `file`."""
        write_all(file, *pieces)

    def sync(self, file: int) -> None:
        """Make everything appended to `file` durable (fdatasync(2))."""
        os.fdatasync(file)

    def sync_directory(self) -> None:
        """Make the names in the directory durable (fsync(2))."""
        os.fsync(self.directory)

    def sync_parent_directory(self) -> None:
        """Make the directory's own name durable, if its parent can be read (fsync(2))."""
        with contextlib.suppress(PermissionError):
            parent = os.open(
                b"..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.directory
            )
            try:
                os.fsync(parent)
            finally:
                os.close(parent)

    def truncate(self, file: int, size: int) -> None:
        """Truncate `file` to `size` bytes, durably."""
        os.ftruncate(file, size)
        os.fsync(file)

    def commit(self, replacement: AtomicFile) -> None:
        """Put a synced file under its final name, durably."""
        replacement.commit()

    def remove(self, name: bytes) -> None:
        """Remove a file. Does nothing if it does not exist."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.directory)

    def close(self, file: int) -> None:
        """Close a file."""
        forks.close(file)

    @contextlib.contextmanager
    def closed_on_error(self, file: int) -> Iterator[None]:
        """Close `file` if the body of the ``with`` statement raises an exception."""
        try:
            yield
        except BaseException:
            self.close(file)
            raise
