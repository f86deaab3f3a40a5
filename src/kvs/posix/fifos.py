"""The one module that opens, reads and writes named pipes (fifo(7)). Nothing in it ever waits.

A path is judged on the very file that is then used: opened with O_PATH and without following a
link, looked at, and reopened for its purpose through its descriptor; so nothing can be put in its
place in between.
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
"""Errors of a process or machine with no descriptor left, or a user with no pipe left (pipe(7))."""

READ_BYTES = 1 << 16
"""Bytes read at a time: what a pipe holds by default (pipe(7))."""


class NotAFifo(OSError):
    """What stands at the path is no pipe, or cannot be reached without following a link."""

    def __init__(self) -> None:
        super().__init__("it is no named pipe")


@dataclass(frozen=True, slots=True)
class Fifo:
    """A named pipe that was found at a path; it stays the same whatever becomes of the path.

    Holds a descriptor until it is closed. Any thread may use it.
    """

    path: bytes
    handle: int
    """A descriptor that can be neither read nor written: it only names the file (O_PATH)."""
    owner: int
    """The user that it belongs to."""
    identity: tuple[int, int]
    """Device and inode: two paths name one pipe if these are the same."""

    @classmethod
    def open_path(cls, path: bytes, directory: int | None = None) -> "Fifo":
        """Return the pipe at `path`, relative to an open `directory` if there is one.

        Raises:
            NotAFifo: something else is there, a link included.
            OSError: nothing is there, or it cannot be reached.

        """
        handle = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            return cls.from_handle(path, handle)
        except OSError:
            os.close(handle)
            raise

    @classmethod
    def from_handle(cls, path: bytes, handle: int) -> "Fifo":
        """Return the pipe that the descriptor `handle` (O_PATH) names, and take that over.

        Raises:
            NotAFifo: it names something else, and stays open.

        """
        found = os.fstat(handle)
        if not stat.S_ISFIFO(found.st_mode):
            raise NotAFifo
        return cls(path, handle, found.st_uid, (found.st_dev, found.st_ino))

    def open_for_reading(self) -> int:
        """Open the end to read from; it needs no writer."""
        return self._reopen(os.O_RDONLY)

    def open_for_writing(self) -> int | None:
        """Open the end to write to; None as long as nobody has it open for reading."""
        try:
            return self._reopen(os.O_WRONLY)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return None
            raise

    def close(self) -> None:
        """Let go of the file; ends that were opened stay open."""
        os.close(self.handle)

    def _reopen(self, flags: int) -> int:
        return os.open(f"/proc/self/fd/{self.handle}", flags | _OPEN_FLAGS)


def make(path: bytes, mode: int = 0o600, directory: int | None = None) -> None:
    """Make a pipe at `path`, relative to an open `directory` if there is one.

    It has exactly this mode, whatever the umask. Until it has, its owner alone can open it.

    Raises:
        OSError: something stands there, or it cannot be made.

    """
    os.mkfifo(path, mode & 0o600, dir_fd=directory)
    fifo = Fifo.open_path(path, directory)
    try:
        if fifo.owner != os.geteuid():
            raise PermissionError(errno.EPERM, "another one was put in its place")
        os.chmod(f"/proc/self/fd/{fifo.handle}", mode)
    finally:
        fifo.close()


def lock(descriptor: int) -> bool:
    """Lock an end against all others that do this (flock(2)), until it is closed; tell if it is."""
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def read(descriptor: int, most: int = READ_BYTES) -> bytes | None:
    """Read what is there: b"" when no writer is left (or was there yet), None when nothing is."""
    with contextlib.suppress(BlockingIOError):
        return os.read(descriptor, most)
    return None


def unread(descriptor: int) -> int:
    """Return how many bytes are in a pipe, given either end of it."""
    return int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)


def has_hung_up(descriptor: int) -> bool:
    """Return whether a writer has come and gone since this end to read from was opened."""
    poll = select.poll()
    poll.register(descriptor, 0)  # POLLHUP is always reported
    return bool(poll.poll(0))


def write(descriptor: int, data: bytes | memoryview) -> int:
    """Write what the pipe takes now; return how many bytes it took.

    Raises:
        BrokenPipeError: nobody has it open for reading any more.

    """
    with contextlib.suppress(BlockingIOError):
        return os.write(descriptor, data)
    return 0


def close(descriptor: int) -> None:
    """Close an end of a pipe."""
    os.close(descriptor)


def capacity(descriptor: int) -> int:
    """Return how many bytes a pipe holds; a page or two where the kernel's budget is used up."""
    return fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ)
