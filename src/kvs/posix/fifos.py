"""Named pipes (fifo(7)): the only module that opens, reads and writes them. No call blocks.

A path is opened with O_PATH, without following a link; the file is checked, and then opened for its
purpose through that descriptor. So the file that was checked is the file that is used, whatever
replaces it at the path.
"""

import contextlib
import errno
import fcntl
import os
import select
import stat
import sys
import termios
from dataclasses import dataclass

_OPEN_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY

OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors of a process or machine without free descriptors, or a user at a pipe limit (pipe(7))."""

READ_BYTES = 1 << 16
"""Bytes per read(2): the default capacity of a pipe (pipe(7))."""

Identity = tuple[int, int]
"""Device and inode of a pipe: equal for two paths of one pipe."""


class NotAFifo(OSError):
    """The file at the path is not a pipe, or is a link to one."""

    def __init__(self) -> None:
        super().__init__("it is not a named pipe")


@dataclass(frozen=True, slots=True)
class Fifo:
    """A named pipe, by a descriptor: the same file whatever replaces it at its path.

    Threads: any. `close` closes the descriptor.
    """

    path: bytes
    handle: int
    """Descriptor that only refers to the file, for neither reading nor writing (O_PATH)."""
    owner: int
    """User ID of the owner."""
    identity: Identity

    @classmethod
    def open_path(cls, path: bytes, directory: int | None = None) -> "Fifo":
        """Return the pipe at `path`, relative to an open `directory` if there is one.

        Raises:
            NotAFifo: the path is another kind of file, such as a link.
            OSError: the path does not exist, or cannot be opened.

        """
        handle = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            return cls.from_handle(path, handle)
        except OSError:
            os.close(handle)
            raise

    @classmethod
    def from_handle(cls, path: bytes, handle: int) -> "Fifo":
        """Return the pipe of the descriptor `handle` (O_PATH), which `close` closes.

        Raises:
            NotAFifo: the file is not a pipe; `handle` stays open.

        """
        status = os.fstat(handle)
        if not stat.S_ISFIFO(status.st_mode):
            raise NotAFifo
        return cls(path, handle, status.st_uid, (status.st_dev, status.st_ino))

    def open_for_reading(self) -> int:
        """Open the pipe for reading; it need not have a writer."""
        return self._reopen(os.O_RDONLY)

    def open_for_writing(self) -> int | None:
        """Open the pipe for writing; return None if no process has it open for reading."""
        try:
            return self._reopen(os.O_WRONLY)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return None
            raise

    def close(self) -> None:
        """Close the handle; the ends that were opened stay open."""
        os.close(self.handle)

    def _reopen(self, flags: int) -> int:
        return os.open(f"/proc/self/fd/{self.handle}", flags | _OPEN_FLAGS)


def is_at(path: bytes, identity: Identity, directory: int | None = None) -> bool:
    """Return whether the pipe with this identity is at `path`; a link to it is not the pipe.

    `path` is relative to an open `directory` if there is one.
    """
    try:
        status = os.stat(path, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == identity


def make(path: bytes, mode: int = 0o600, directory: int | None = None) -> None:
    """Create a pipe at `path`, relative to an open `directory` if there is one.

    The pipe gets exactly this mode, whatever the umask. Until then only its owner can open it.

    Raises:
        OSError: the path exists, or the pipe cannot be created.

    """
    os.mkfifo(path, mode & 0o600, dir_fd=directory)
    fifo = Fifo.open_path(path, directory)
    try:
        if fifo.owner != os.geteuid():
            raise PermissionError(errno.EPERM, "another pipe has replaced it")
        os.chmod(f"/proc/self/fd/{fifo.handle}", mode)
    finally:
        fifo.close()


def lock(descriptor: int) -> bool:
    """Lock a pipe (flock(2)) until `descriptor` is closed; return whether it was unlocked."""
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def read(descriptor: int, max_bytes: int = READ_BYTES) -> bytes | None:
    """Return the bytes in a pipe; b"" if it has none and no writer, None if it has a writer."""
    with contextlib.suppress(BlockingIOError):
        return os.read(descriptor, max_bytes)
    return None


def unread(descriptor: int) -> int:
    """Return the number of bytes in a pipe, given either end of it."""
    return int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)


def has_hung_up(descriptor: int) -> bool:
    """Return whether the pipe has had a writer since this end was opened, and has none now."""
    poll = select.poll()
    poll.register(descriptor, 0)  # POLLHUP is always reported
    return bool(poll.poll(0))


def write(descriptor: int, data: bytes | memoryview) -> int:
    """Write what fits into the pipe now; return the number of bytes written.

    Raises:
        BrokenPipeError: no process has the pipe open for reading any more.

    """
    with contextlib.suppress(BlockingIOError):
        return os.write(descriptor, data)
    return 0


def close(descriptor: int) -> None:
    """Close an end of a pipe."""
    os.close(descriptor)


def capacity(descriptor: int) -> int:
    """Return the capacity of a pipe in bytes: a page or two if the user is at a limit (pipe(7))."""
    return fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ)
