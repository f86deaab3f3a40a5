"""Opening and replacing files: never through an unwanted link, never half a file.

Names are relative to a directory that is open by descriptor, so that a rename or replacement of the
directory changes nothing. Errors are the operating system's own (`OSError`).
"""

import contextlib
import errno
import fcntl
import os
import re
import stat
from collections.abc import MutableSequence
from functools import partial
from operator import call
from typing import Self

from kvs.concurrency import forks
from kvs.text import os_error_text

PRIVATE_MODE = 0o600
"""Mode of every file created here: only its owner may read and write it."""

GROUP_OR_OTHER_WRITE = stat.S_IWGRP | stat.S_IWOTH
"""Permission bits that let a user other than the owner write."""

_TEMPORARY = re.compile(rb"\.kvs-[0-9a-f]{16}\.tmp")


class NotARegularFileError(OSError):
    """The file is a directory, pipe, device, or the like."""

    def __init__(self) -> None:
        super().__init__("it is not a regular file")


class InvalidPathError(OSError):
    """The bytes are not a valid path."""


class DirectorySyncError(OSError):
    """A file has its final name, but a power loss may undo the rename."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


_MAX_IOVECS = 1024
"""Maximum buffers per writev(2): IOV_MAX of Linux; POSIX guarantees 16."""


def write_all(file: int, *pieces: bytes) -> None:
    """Write `pieces` in order; repeat writev(2) until the kernel has taken every byte."""
    for start in range(0, len(pieces), _MAX_IOVECS):
        rest = [memoryview(piece) for piece in pieces[start : start + _MAX_IOVECS]]
        while rest:
            written = os.writev(file, rest)
            while rest and written >= len(rest[0]):
                written -= len(rest.pop(0))
            if rest:
                rest[0] = rest[0][written:]


def check_path(path: bytes) -> None:
    """Raise an exception if no file can have this path.

    Raises:
        InvalidPathError: the path is empty, or contains a NUL byte.

    """
    if not path:
        raise InvalidPathError("the path is empty")
    if b"\0" in path:
        raise InvalidPathError("the path contains a NUL byte")


def open_directory(path: bytes, opened: MutableSequence[int] | None = None) -> int:
    """Open a directory, to work below it; the caller closes the descriptor.

    The descriptor is appended to `opened` by the call into C that opens it: an exception of a
    signal handler comes before the open, or finds the descriptor in `opened`.
    """
    check_path(path)
    return _open(
        path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, [] if opened is None else opened
    )


def _open(
    path: bytes, flags: int, opened: MutableSequence[int], mode: int = 0, dir_fd: int | None = None
) -> int:
    opened.extend(map(call, (partial(os.open, path, flags, mode, dir_fd=dir_fd),)))
    return opened[-1]


def open_regular(
    name: bytes,
    flags: int,
    directory: int | None = None,
    mode: int = PRIVATE_MODE,
    opened: MutableSequence[int] | None = None,
) -> int:
    """Open a regular file and return its descriptor. Never blocks, as open(2) of a pipe would.

    A created file has the permissions `mode`, less the umask. `opened` as in `open_directory`.

    Raises:
        NotARegularFileError: the file exists, but is not a regular file.
        OSError: the file cannot be opened.

    """
    check_path(name)
    flags |= os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    opened = [] if opened is None else opened
    try:
        file = _open(name, flags, opened, mode, directory)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a pipe without a reader, or a socket (open(2))
            raise NotARegularFileError from error
        raise
    if not stat.S_ISREG(os.fstat(file).st_mode):
        forks.close_once(opened, file)
        raise NotARegularFileError
    return file


class AtomicFile:
    """A new file, written under a temporary name, which `commit` then renames to `name`.

    The end of a ``with`` statement discards a file that was not committed.

    The temporary file is locked (flock(2)) as long as any process has it open, a child included: so
    `remove_stale_temp_files` can tell what a crash left from a file that is being written.

    Threads: one at a time, but any may call `remove`.
    """

    def __init__(self, directory: int, name: bytes) -> None:
        self.directory = directory
        self.name = name
        self.file, self.temporary = _create(directory)
        self._opened = [self.file]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._opened:
            self.discard()

    def commit(self) -> None:
        """Rename the file, which the caller has synced, to its name, and make that durable.

        Raises:
            DirectorySyncError: the file has its name, but could not be closed, or its directory
                could not be synced.
            OSError: no file has changed under the name, and the temporary file is removed.

        """
        try:
            os.rename(
                self.temporary, self.name, src_dir_fd=self.directory, dst_dir_fd=self.directory
            )
        except OSError:
            self.discard()
            raise
        try:
            forks.close_once(self._opened, self.file)  # unlocks it, so not before the rename
            os.fsync(self.directory)
        except OSError as error:
            raise DirectorySyncError(os_error_text(error)) from error

    def discard(self) -> None:
        """Remove and close the temporary file; a file under the final name stays. Idempotent."""
        self.remove()
        forks.close_once(self._opened, self.file)

    def remove(self) -> None:
        """Remove the temporary file if it exists. Any thread, at any time."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.temporary, dir_fd=self.directory)


def _create(directory: int) -> tuple[int, bytes]:
    while True:
        name = b".kvs-%b.tmp" % os.urandom(8).hex().encode()
        file = open_regular(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, directory)
        try:
            # BlockingIOError: another process takes it for stale, and is about to remove it.
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(file).st_nlink:
                    return file, name
        except BaseException:
            os.close(file)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory)
            raise
        os.close(file)


def check_can_replace(name: bytes, directory: int | None = None) -> None:
    """Raise an exception if a new file must not replace `name`: a device, a pipe or a directory.

    Nor may it replace a link to one of these, nor a link into /proc, such as ``/dev/stdout``: root
    could replace that link for every process.

    Raises:
        NotARegularFileError: `name` is one of these.
        InvalidPathError: no file can have this name.

    """
    check_path(name)
    try:
        status = (
            os.lstat(name)
            if directory is None
            else os.stat(name, dir_fd=directory, follow_symlinks=False)
        )
    except OSError:
        return  # it does not exist; the creation of the file reports any other error
    if stat.S_ISLNK(status.st_mode):
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(name, dir_fd=directory).startswith(b"/proc/"):
                raise NotARegularFileError
            status = os.stat(name, dir_fd=directory)
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
        raise NotARegularFileError


def is_temporary(name: bytes) -> bool:
    """Return whether `name` is that of a temporary file of an `AtomicFile`."""
    return _TEMPORARY.fullmatch(name) is not None


def remove_stale_temp_files(directory: int) -> None:
    """Remove the temporary files that a crash left in `directory`, not those in use."""
    for name in map(os.fsencode, os.listdir(directory)):
        if is_temporary(name):
            with contextlib.suppress(OSError):  # another user's, in use, or removed meanwhile
                file = open_regular(name, os.O_RDONLY | os.O_NOFOLLOW, directory)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(name, dir_fd=directory)
                finally:
                    os.close(file)
