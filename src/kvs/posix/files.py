"""Opening and replacing files with care: never through a link, never half a file.

All names are relative to a directory that is held open by descriptor, so that a directory renamed
or replaced under way changes nothing. Errors are the operating system's own (`OSError`).
"""

import contextlib
import errno
import fcntl
import os
import re
import stat
from functools import partial
from operator import call

from kvs.concurrency import forks
from kvs.text import os_error_text

PRIVATE_MODE = 0o600
"""The mode of every file made here: its owner's alone."""

_TEMPORARY = re.compile(rb"\.kvs-[0-9a-f]{16}\.tmp")


class NotARegularFileError(OSError):
    """What was to be opened is a directory, pipe, device, or the like."""

    def __init__(self) -> None:
        super().__init__("it is no regular file")


class InvalidPathError(OSError):
    """What was to be a path is none."""


class DirectorySyncError(OSError):
    """A file is in place under its name, but a power loss may undo that."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


_MAX_IOVECS = 1024
"""IOV_MAX of Linux; POSIX allows no fewer than 16 in one writev(2)."""


def write_all(file: int, *pieces: bytes) -> None:
    """Write `pieces`, one behind the other, however little the kernel takes of them (writev(2))."""
    for start in range(0, len(pieces), _MAX_IOVECS):
        rest = [memoryview(piece) for piece in pieces[start : start + _MAX_IOVECS]]
        while rest:
            written = os.writev(file, rest)
            while rest and written >= len(rest[0]):
                written -= len(rest.pop(0))
            if rest:
                rest[0] = rest[0][written:]


def check_path(path: bytes) -> None:
    """Refuse what no file can be called.

    Raises:
        InvalidPathError: it is empty, or holds a NUL byte.

    """
    if not path:
        raise InvalidPathError("it names nothing")
    if b"\0" in path:
        raise InvalidPathError("no path can hold a NUL byte")


def open_directory(path: bytes, held: list[int] | None = None) -> int:
    """Open a directory, to work below it; the caller closes the descriptor.

    It is added to `held` by the same call into C: an exception of a signal handler comes before
    that, or finds it there.
    """
    check_path(path)
    return _open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, [] if held is None else held)


def _open(
    path: bytes, flags: int, held: list[int], mode: int = 0, dir_fd: int | None = None
) -> int:
    held.extend(map(call, (partial(os.open, path, flags, mode, dir_fd=dir_fd),)))
    return held[-1]


def open_regular(
    name: bytes,
    flags: int,
    directory: int | None = None,
    mode: int = PRIVATE_MODE,
    held: list[int] | None = None,
) -> int:
    """Open a regular file and return its descriptor; never waits, as a pipe would make it.

    One that is made has the permissions `mode`, less the umask. `held` as in `open_directory`.

    Raises:
        NotARegularFileError: it is there, but is something else.
        OSError: it cannot be opened.

    """
    check_path(name)
    flags |= os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    held = [] if held is None else held
    try:
        file = _open(name, flags, held, mode, directory)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a pipe with no reader, or a socket (open(2))
            raise NotARegularFileError from error
        raise
    if not stat.S_ISREG(os.fstat(file).st_mode):
        forks.close_once(held, file)
        raise NotARegularFileError
    return file


class AtomicFile:
    """A new file, written under a temporary name and then put in the place of `name`.

    The temporary file is locked (flock(2)) for as long as anyone has it open, a child included:
    so `remove_stale_temp_files` can tell the remains of a crash from a file that is being written.
    One thread at a time uses an object.
    """

    def __init__(self, directory: int, name: bytes) -> None:
        self.directory = directory
        self.name = name
        self.file, self.temporary = _create(directory)
        self._opened = [self.file]

    def commit(self) -> None:
        """Put the file, synced by whoever wrote it, under its name, and make that durable.

        Raises:
            DirectorySyncError: the file is in place, but its directory could not be synced.
            OSError: nothing has changed under the name, and the temporary file is gone.

        """
        try:
            os.rename(
                self.temporary, self.name, src_dir_fd=self.directory, dst_dir_fd=self.directory
            )
        except OSError:
            self.discard()
            raise
        forks.close_once(self._opened, self.file)
        try:
            os.fsync(self.directory)
        except OSError as error:
            raise DirectorySyncError(os_error_text(error)) from error

    def discard(self) -> None:
        """Remove and close the temporary file; what stood under the name stays. Idempotent."""
        self.remove()
        forks.close_once(self._opened, self.file)

    def remove(self) -> None:
        """Remove the temporary file, if it is still there; any thread may do so at any time."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.temporary, dir_fd=self.directory)


def _create(directory: int) -> tuple[int, bytes]:
    while True:
        name = b".kvs-%b.tmp" % os.urandom(8).hex().encode()
        file = open_regular(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, directory)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # somebody who clears up found it before it was locked
            os.close(file)
            continue
        if os.fstat(file).st_nlink:
            return file, name
        os.close(file)


def check_can_replace(name: bytes, directory: int | None = None) -> None:
    """Refuse a place where a finished file may not be put: a device, a pipe or a directory.

    So is a link to one, which somebody may use for it, and one that stands for what a process has
    open, as ``/dev/stdout`` does: root could replace that for everybody.

    Raises:
        NotARegularFileError: something like that is there.
        InvalidPathError: no file can be called so.

    """
    check_path(name)
    try:
        found = (
            os.lstat(name)
            if directory is None
            else os.stat(name, dir_fd=directory, follow_symlinks=False)
        )
    except OSError:
        return  # nothing is there; what else is wrong is told when it is made
    if stat.S_ISLNK(found.st_mode):
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(name, dir_fd=directory).startswith(b"/proc/"):
                raise NotARegularFileError
            found = os.stat(name, dir_fd=directory)
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)):
        raise NotARegularFileError


def is_temporary(name: bytes) -> bool:
    """Return whether a file with this name is the temporary file of a `AtomicFile`."""
    return _TEMPORARY.fullmatch(name) is not None


def remove_stale_temp_files(directory: int) -> None:
    """Remove the temporary files that a crash left in `directory`; those in use stay."""
    for name in map(os.fsencode, os.listdir(directory)):
        if is_temporary(name):
            with contextlib.suppress(OSError):  # not ours, in use, or gone: not ours to remove
                file = open_regular(name, os.O_RDONLY | os.O_NOFOLLOW, directory)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(name, dir_fd=directory)
                finally:
                    os.close(file)
