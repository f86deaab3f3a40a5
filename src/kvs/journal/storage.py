"""The steps that change a journal's files, which must come in a certain order.

A crash may come before or after each. Tests put another `Storage` in this one's place, which fails,
ends the process, or forgets what was not synced, at a step of their choice.
"""

import contextlib
import os
from collections.abc import Iterator

from kvs.concurrency import forks
from kvs.posix.files import AtomicFile, open_regular, write_all


class Storage:
    """The files of one data directory, open as `directory`. Thread-safe: it has no state.

    Every method raises OSError where the system refuses.
    """

    def __init__(self, directory: int) -> None:
        self.directory = directory

    def create(self, name: bytes, *pieces: bytes) -> int:
        """Create a file that holds `pieces`, durable under its name; return it open to append."""
        draft = AtomicFile(self.directory, name)
        try:
            self.append(draft.file, *pieces)
            self.sync(draft.file)
        except OSError:
            draft.discard()
            raise
        self.commit(draft)
        return self.open(name)

    def mark(self, name: bytes) -> None:
        """Create an empty file, there at once and durable under its name."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW
        os.close(open_regular(name, flags, self.directory))
        os.fsync(self.directory)

    def open(self, name: bytes) -> int:
        """Open a file for appending."""
        flags = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW
        return forks.close_in_children(open_regular(name, flags, self.directory))

    def append(self, file: int, *pieces: bytes) -> None:
        """Write `pieces`, one behind the other, at the end of `file`."""
        write_all(file, *pieces)

    def sync(self, file: int) -> None:
        """Make what was appended to `file` durable (fdatasync(2))."""
        os.fdatasync(file)

    def sync_directory(self) -> None:
        """Make durable which names there are in the directory (fsync(2))."""
        os.fsync(self.directory)

    def sync_parent_directory(self) -> None:
        """Make the directory's own name durable, where its parent may be read (fsync(2))."""
        with contextlib.suppress(PermissionError):
            parent = os.open(
                b"..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.directory
            )
            try:
                os.fsync(parent)
            finally:
                os.close(parent)

    def truncate(self, file: int, size: int) -> None:
        """Cut `file` to `size` bytes, durably."""
        os.ftruncate(file, size)
        os.fsync(file)

    def commit(self, draft: AtomicFile) -> None:
        """Put a synced file under its name, durably."""
        draft.commit()

    def remove(self, name: bytes) -> None:
        """Remove a file, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.directory)

    def close(self, file: int) -> None:
        """Close a file."""
        forks.close(file)

    @contextlib.contextmanager
    def closed_on_error(self, file: int) -> Iterator[None]:
        """Close `file` if what this surrounds raises an exception."""
        try:
            yield
        except BaseException:
            self.close(file)
            raise
