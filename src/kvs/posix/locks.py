"""One process at a time at work in a directory: a lock file with its number, and its flock(2)."""

import contextlib
import errno
import fcntl
import os
import re
import time
from collections.abc import Sequence
from types import TracebackType

from kvs.concurrency import forks
from kvs.errors import DirectoryLockedError
from kvs.posix.files import open_directory, open_regular
from kvs.text import os_error_text, printable

LOCK_FILE_NAME = b".kvs.lock"
"""Holds the number of the process at work in the directory, and its flock(2)."""

_NUMBER = re.compile(rb"[0-9]{1,10}\n")


class DirectoryLock:
    """The lock of a directory that is held open by descriptor.

    It is removed while it is still locked, and who opens it checks that it still has a name: so two
    processes can never hold two different ones. One thread at a time uses an object.
    """

    def __init__(self, directory: Sequence[int], path: bytes) -> None:
        """Lock nothing yet. `directory` holds its descriptor later; errors name it `path`."""
        self._at = directory
        self._path = path
        self._opened: list[int] = []
        """The open lock file."""
        self._is_locked = False

    @property
    def _directory(self) -> int:
        return self._at[0]

    def acquire(self) -> str | None:
        """Take the lock; return None, or why nothing can be written there, and so not locked.

        Raises:
            DirectoryLockedError: another process has it.
            OSError: it cannot be taken.

        """
        self._is_locked = False
        try:
            while True:
                try:
                    self._open(os.O_RDWR | os.O_CREAT, self._opened)
                except OSError as error:
                    if error.errno == errno.EROFS or not self._is_writable():
                        return os_error_text(error)
                    if not isinstance(error, PermissionError):
                        raise
                    self._open(os.O_RDONLY, self._opened)  # somebody else's: to see who it is
                [lock] = self._opened
                if self._try_lock(forks.close_in_children(lock)):
                    self._is_locked = True
                    return None
                self.release()  # its owner has just removed it: make a new one
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let others work here again; a second call does nothing.

        Any thread, and within itself: a signal handler may interrupt and call it.
        """
        for lock in self._opened[:]:
            if self._is_locked:
                with contextlib.suppress(OSError):  # gone with its directory, say
                    named = os.stat(LOCK_FILE_NAME, dir_fd=self._directory, follow_symlinks=False)
                    if os.path.samestat(named, os.fstat(lock)):
                        os.unlink(LOCK_FILE_NAME, dir_fd=self._directory)
            forks.close_once(self._opened, lock)
        self._is_locked = False

    def check_unlocked(self) -> None:
        """Refuse if another process is at work here; change and keep nothing.

        Raises:
            DirectoryLockedError: it is.
            OSError: it cannot be told.

        """
        opened: list[int] = []
        try:
            lock = self._open(os.O_RDONLY, opened)
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return
        except BlockingIOError:
            raise DirectoryLockedError(printable(self._path), _read_owner_pid(lock)) from None
        finally:
            for lock in opened:
                os.close(lock)

    def _open(self, flags: int, held: list[int]) -> int:
        return open_regular(LOCK_FILE_NAME, flags | os.O_NOFOLLOW, self._directory, 0o644, held)

    def _is_writable(self) -> bool:
        return os.access(b".", os.W_OK | os.X_OK, dir_fd=self._directory, effective_ids=True)

    def _try_lock(self, lock: int) -> bool:
        """Lock an open lock file and put our number into it; False if it has been removed."""
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DirectoryLockedError(printable(self._path), _read_owner_pid(lock)) from None
        found = os.fstat(lock)
        if not found.st_nlink:
            return False
        if found.st_uid != os.geteuid():
            raise OSError("it belongs to another user, and no run holds it; remove it")
        if found.st_nlink > 1:
            raise OSError("it is another name of some file, a hard link; remove it")
        os.ftruncate(lock, 0)
        with contextlib.suppress(OSError):  # a full disk: it is locked all the same
            os.write(lock, b"%d\n" % os.getpid())
        return True


class LockableDirectory:
    """A directory that is held open by descriptor, up to `__exit__`, with a lock to be taken.

    For who works in one: how it is entered, and locked, is his.
    """

    def __init__(self, path: str | bytes | os.PathLike[str]) -> None:
        self.path = os.fsencode(path)
        self._open_descriptors: list[int] = []
        """Its descriptor, and behind it others to be closed by `__exit__`."""
        self._lock = DirectoryLock(self._open_descriptors, self.path)

    def _open(self) -> None:
        """Open it, not yet locked. An exception of a signal handler leaves nothing open.

        Raises:
            OSError: it is no directory, or cannot be opened.

        """
        try:
            self.descriptor = open_directory(self.path, self._open_descriptors)
            forks.close_in_children(self.descriptor)
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Unlock and close the directory. Idempotent."""
        if self._open_descriptors:
            self.unlock()
            for descriptor in self._open_descriptors[:]:
                forks.close_once(self._open_descriptors, descriptor)

    def unlock(self) -> None:
        """Let others work here again; a second call does nothing."""
        self._lock.release()

    def shown(self, name: bytes) -> str:
        """Return how a person is told of the file `name` here."""
        return printable(os.path.join(self.path, name))


def _read_owner_pid(lock: int) -> int | None:
    """Return the process that holds a lock, None if that is not known.

    It is mostly the one whose number is in the file, which it may be just about to write; but a
    child that it forked, and outlived it, may have inherited the lock (flock(2)).
    """
    for _ in range(20):
        number = os.pread(lock, 64, 0)
        if _NUMBER.fullmatch(number):
            process = int(number)
            return process if os.path.exists(f"/proc/{process}") else _holder(lock)
        time.sleep(0.01)
    return _holder(lock)


def _holder(lock: int) -> int | None:
    """Return a process, other than this one, that has a file open, as far as it can be seen."""
    file = os.fstat(lock)
    for process in filter(str.isdigit, os.listdir("/proc")):
        descriptors = f"/proc/{process}/fd"
        with contextlib.suppress(OSError):  # it has just ended, or is another user's
            for descriptor in os.listdir(descriptors) if int(process) != os.getpid() else ():
                with contextlib.suppress(OSError):
                    if os.path.samestat(os.stat(f"{descriptors}/{descriptor}"), file):
                        return int(process)
    return None
