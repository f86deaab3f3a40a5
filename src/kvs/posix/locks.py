"""Lock files: a file that one process at a time has locked (flock(2)) and that names the process.

Invariants:

- A lock file is removed only by the process that has it locked. A process that has just locked one
  checks that the file still has its name. So two processes never have two files of one name locked.
- The kernel releases the lock however a process ends; a file that a crash left locks nothing.
- A forked child closes the file at once (`kvs.concurrency.forks`), because a lock of flock(2) lasts
  until the last copy of its descriptor is closed.
"""

import contextlib
import errno
import fcntl
import os
import re
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Self

from kvs.concurrency import forks
from kvs.concurrency.atomic import atomically
from kvs.errors import DirectoryLockedError
from kvs.posix.files import open_directory, open_regular
from kvs.text import os_error_text, printable

LOCK_FILE_NAME = b".kvs.lock"
"""Name of the lock file of a directory."""

OTHERS_LOCK = "it belongs to another user, and no run holds it; remove it"

_PID_LINE = re.compile(rb"([0-9]{1,10})\n")

_MAX_CONTENT_BYTES = 64
"""Maximum bytes of a lock file that are read: the process ID, a newline and a note."""


class FileLockedError(OSError):
    """Another process has the lock file locked."""

    def __init__(self, pid: int | None) -> None:
        super().__init__("another process has locked it")
        self.pid = pid
        """ID of that process; None if it is unknown."""


class NotExclusiveError(OSError):
    """The lock file is another user's, or another name of some file."""


class LockFile:
    """The lock file `name`, relative to the first descriptor in `directory` if there is one.

    Threads: one at a time for `acquire`; any for `release`, signal handlers and finalizers too,
    also within a call of the same thread. After an exception at any instruction of either,
    `release` does what is left. A forked child does not have the lock: there `release` changes
    nothing.
    """

    def __init__(self, name: bytes, directory: Sequence[int] = (), mode: int | None = None) -> None:
        """Lock nothing yet. `mode` is the exact mode of the file; None is 644 less the umask."""
        self._name = name
        self._directory = directory
        self._mode = mode
        self._opened: deque[int] = deque()
        """The descriptor of the lock file, as long as it is open."""

    def acquire(self, note: bytes = b"") -> bytes:
        """Lock the file, created if need be, and write the process ID and a one-line `note` to it.

        Returns the note of the process that had the file before, if that did not release it.

        Raises:
            FileLockedError: another process has it locked.
            NotExclusiveError: it is another user's, or another name of some file.
            OSError: it cannot be opened or written.

        """
        forks.close_group_in_children(self._opened)
        try:
            while True:
                file = self._open(os.O_RDWR | os.O_CREAT, self._opened)
                _lock(file, fcntl.LOCK_EX)
                if self._is_named(file):
                    _check_exclusive(file)
                    return self._replace_content(file, note)
                self._close()  # the process that had it locked has just removed it
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Remove, unlock and close the file, if this process has it locked. Idempotent."""
        for file in list(self._opened):
            if self._is_locked(file):
                with contextlib.suppress(OSError):
                    os.unlink(self._name, dir_fd=self._directory_descriptor)
        self._close()
        forks.stop_closing_group(self._opened)

    @property
    def is_held(self) -> bool:
        """Whether this process has the file locked under its name."""
        return any(map(self._is_locked, list(self._opened)))

    def check_unlocked(self) -> None:
        """Raise an exception if another process has the file locked; change nothing.

        Raises:
            FileLockedError: another process has it locked.
            OSError: the file cannot be opened.

        """
        opened: list[int] = []
        try:
            _lock(self._open(os.O_RDONLY, opened), fcntl.LOCK_SH)
        except FileNotFoundError:
            return
        finally:
            for file in opened:
                os.close(file)

    @property
    def _directory_descriptor(self) -> int | None:
        return self._directory[0] if self._directory else None

    def _open(self, flags: int, opened: deque[int] | list[int]) -> int:
        mode = 0o644 if self._mode is None else self._mode
        flags |= os.O_NOFOLLOW
        return open_regular(self._name, flags, self._directory_descriptor, mode, opened)

    def _is_locked(self, file: int) -> bool:
        """Return whether `file`, of the descriptors opened, is locked and has its name.

        An exception may have come between open(2) and flock(2). So the file is locked once more,
        which changes nothing if this process has the lock; in the same call into C that checks that
        the descriptor is still open.
        """
        with contextlib.suppress(OSError, ValueError):
            lock = partial(fcntl.flock, file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            atomically(partial(self._opened.index, file), lock)
            _check_exclusive(file)
            return self._is_named(file)
        return False

    def _is_named(self, file: int) -> bool:
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(self._name, dir_fd=self._directory_descriptor, follow_symlinks=False)
            return os.path.samestat(status, os.fstat(file))
        return False

    def _replace_content(self, file: int, note: bytes) -> bytes:
        if self._mode is not None:
            os.fchmod(file, self._mode)  # the umask may have removed bits
        previous = os.pread(file, _MAX_CONTENT_BYTES, 0).partition(b"\n")[2]
        os.ftruncate(file, 0)
        try:
            os.pwrite(file, b"%d\n%b" % (os.getpid(), note), 0)
        except OSError:  # a full disk: the file is locked all the same
            if note:
                raise
        return previous

    def _close(self) -> None:
        for file in list(self._opened):
            forks.close_once(self._opened, file)


class DirectoryLock:
    """The lock of an open directory: one process at a time is at work in it.

    Threads: as `LockFile`.
    """

    def __init__(self, directory: Sequence[int], path: bytes) -> None:
        """Lock nothing yet. `directory` will contain its descriptor; errors name it `path`."""
        self._directory = directory
        self._path = path
        self._file = LockFile(LOCK_FILE_NAME, directory)

    def acquire(self) -> str | None:
        """Lock the directory; return None, or why it is not writable and so was not locked.

        Raises:
            DirectoryLockedError: another process has the lock.
            OSError: the directory cannot be locked.

        """
        while True:
            try:
                self._file.acquire()
            except FileLockedError as error:
                raise DirectoryLockedError(printable(self._path), error.pid) from None
            except NotExclusiveError:
                raise
            except OSError as error:
                if error.errno == errno.EROFS or not self._is_writable():
                    return os_error_text(error)
                if not isinstance(error, PermissionError):
                    raise
                self._check_owner(error)
            else:
                return None

    def release(self) -> None:
        """Unlock the directory. Idempotent."""
        self._file.release()

    def check_unlocked(self) -> None:
        """Raise an exception if another process is at work in the directory; change nothing.

        Raises:
            DirectoryLockedError: another process has the lock.
            OSError: the lock file cannot be opened.

        """
        try:
            self._file.check_unlocked()
        except FileLockedError as error:
            raise DirectoryLockedError(printable(self._path), error.pid) from None

    def _is_writable(self) -> bool:
        [directory, *_] = self._directory
        return os.access(b".", os.W_OK | os.X_OK, dir_fd=directory, effective_ids=True)

    def _check_owner(self, error: PermissionError) -> None:
        """Raise why a lock file may not be opened for writing; return if it no longer exists."""
        self.check_unlocked()
        with contextlib.suppress(FileNotFoundError):
            [directory, *_] = self._directory
            status = os.stat(LOCK_FILE_NAME, dir_fd=directory, follow_symlinks=False)
            if status.st_uid != os.geteuid():
                raise NotExclusiveError(OTHERS_LOCK) from error
            raise error


class LockableDirectory:
    """An open directory with a lock that is not taken yet. Base of classes for kinds of them."""

    def __init__(self, path: str | bytes | os.PathLike[str]) -> None:
        self.path = os.fsencode(path)
        self._open_descriptors: list[int] = []
        """The descriptor of the directory, and after it others that `__exit__` closes."""
        self._lock = DirectoryLock(self._open_descriptors, self.path)

    def __enter__(self) -> Self:
        """Open the directory.

        Raises:
            OSError: the path is not a directory, or cannot be opened.

        """
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        """Unlock and close the directory. Idempotent."""
        if self._open_descriptors:
            self.unlock()
            for descriptor in self._open_descriptors[:]:
                forks.close_once(self._open_descriptors, descriptor)

    def _open(self) -> None:
        """Open the directory. After an exception, also of a signal handler, nothing is open.

        Raises:
            OSError: the path is not a directory, or cannot be opened.

        """
        try:
            self.descriptor = open_directory(self.path, self._open_descriptors)
            forks.close_in_children(self.descriptor)
        except BaseException:
            self.__exit__()
            raise

    def unlock(self) -> None:
        """Unlock the directory. Idempotent."""
        self._lock.release()

    def display_path_of(self, name: bytes) -> str:
        """Return the path of the file `name` in the directory, made printable."""
        return printable(os.path.join(self.path, name))


def _lock(file: int, kind: int) -> None:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FileLockedError(_read_owner_pid(file)) from None


def _check_exclusive(file: int) -> None:
    status = os.fstat(file)
    if status.st_uid != os.geteuid():
        raise NotExclusiveError(OTHERS_LOCK)
    if status.st_nlink > 1:
        raise NotExclusiveError("it is another name of some file, a hard link; remove it")


def _read_owner_pid(file: int) -> int | None:
    """Return the ID of the process that has a lock file locked; None if it is unknown.

    Usually the file contains it, or will in an instant. But a child that the process forked, and
    that outlives it, may have inherited the lock (flock(2)).
    """
    for _ in range(20):
        if line := _PID_LINE.match(os.pread(file, _MAX_CONTENT_BYTES, 0)):
            pid = int(line[1])
            return pid if os.path.exists(f"/proc/{pid}") else _find_process_with(file)
        time.sleep(0.01)
    return _find_process_with(file)


def _find_process_with(file: int) -> int | None:
    """Return a process, other than this one, that has a file open, as far as /proc shows it."""
    status = os.fstat(file)
    for pid in filter(str.isdigit, os.listdir("/proc")):
        descriptors = f"/proc/{pid}/fd"
        with contextlib.suppress(OSError):  # it has just ended, or is another user's
            for descriptor in os.listdir(descriptors) if int(pid) != os.getpid() else ():
                with contextlib.suppress(OSError):
                    if os.path.samestat(os.stat(f"{descriptors}/{descriptor}"), status):
                        return int(pid)
    return None
