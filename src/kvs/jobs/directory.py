"""A jobs directory: its lock, its jobs, and the files that belong to a job.

The directory is held open by descriptor, and every file in it is opened relative to that.
"""

import contextlib
import errno
import fcntl
import os
import re
import time
from types import TracebackType
from typing import Self

from kvs.errors import DirectoryInUse, DirectoryUnusable, JobFailed, cause, shown
from kvs.files import clear_leftovers, open_directory, open_regular

JOB = b".job"
OUTPUT = b".out"
BACKUP = b".bck"
LOCK = b".kvs.lock"
"""Holds the number of the process at work in the directory, and its flock(2)."""

_NUMBER = re.compile(rb"[0-9]{1,10}\n")


class JobsDirectory:
    """A jobs directory, open from `__enter__` to `__exit__`. Thread-safe while it is open."""

    def __init__(self, path: str | bytes | os.PathLike[str]) -> None:
        self.path = os.fsencode(path)
        self._lock: int | None = None
        self._not_locked = "its directory was not locked"
        """Why an output may not be opened as long as there is no lock."""

    def __enter__(self) -> Self:
        """Open the directory.

        Raises:
            DirectoryUnusable: it is no directory, or cannot be opened.

        """
        try:
            self.descriptor = open_directory(self.path)
        except OSError as error:
            raise DirectoryUnusable(shown(self.path), cause(error)) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Unlock and close the directory."""
        self.unlock()
        os.close(self.descriptor)

    def lock(self) -> None:
        """Make this process the only one at work here, and clear away what a crash left.

        Locks nothing where nothing can be written.

        Raises:
            DirectoryInUse: another run is at work here.
            DirectoryUnusable: it cannot be locked.

        """
        try:
            self._lock = self._acquire()
            if self._lock is not None:
                clear_leftovers(self.descriptor)
        except OSError as error:
            reason = f"cannot lock it with {LOCK.decode()}: {cause(error)}"
            raise DirectoryUnusable(shown(self.path), reason) from error

    def unlock(self) -> None:
        """Let others work here again; a second call does nothing.

        It may be interrupted by a signal handler that calls it, too, and leaves the process.
        """
        lock = self._lock
        if lock is None:
            return
        with contextlib.suppress(OSError):  # gone with its directory, say
            named = os.stat(LOCK, dir_fd=self.descriptor, follow_symlinks=False)
            if os.path.samestat(named, os.fstat(lock)):
                os.unlink(LOCK, dir_fd=self.descriptor)
        self._lock = None
        os.close(lock)

    def names(self) -> list[bytes]:
        """Return the names of the jobs without their ``.job``, in byte order.

        Raises:
            DirectoryUnusable: the directory cannot be listed.

        """
        try:
            entries = os.listdir(self.descriptor)
        except OSError as error:
            raise DirectoryUnusable(shown(self.path), cause(error)) from error
        names = (os.fsencode(entry) for entry in entries)
        return sorted(name.removesuffix(JOB) for name in names if name.endswith(JOB))

    def shown(self, name: bytes) -> str:
        """Return how a person is told of the file `name` in this directory."""
        return shown(os.path.join(self.path, name))

    def open_job(self, name: bytes) -> int:
        """Open the job `name`, following links, and return the descriptor.

        Raises:
            JobFailed: it cannot be opened, or is no regular file.

        """
        try:
            return open_regular(name + JOB, os.O_RDONLY, self.descriptor)
        except OSError as error:
            raise JobFailed(self.shown(name + JOB), f"cannot open it: {cause(error)}") from error

    def open_output(self, name: bytes, job: int) -> int:
        """Open and empty the output of the job `name`, open as `job`; return the descriptor.

        The directory must have been locked.
        It must be a file of its own: no link, no second name of another file, nobody else's.

        Raises:
            JobFailed: it is not, or it cannot be opened.

        """
        if self._lock is None:
            raise self._output_refused(name, self._not_locked)
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW
        try:
            output = open_regular(name + OUTPUT, flags, self.descriptor)
        except OSError as error:
            is_link = error.errno == errno.ELOOP
            reason = "it is a link; remove it" if is_link else cause(error)
            raise self._output_refused(name, reason) from error
        found = os.fstat(output)
        refusal = _not_its_own(found, os.fstat(job))
        if refusal is None:
            try:
                if found.st_size:  # on a new file this would only make close slower
                    os.ftruncate(output, 0)
            except OSError as error:
                refusal = cause(error)
            else:
                return output
        os.close(output)
        raise self._output_refused(name, refusal)

    def _output_refused(self, name: bytes, reason: str) -> JobFailed:
        return JobFailed(self.shown(name + OUTPUT), f"cannot open the output: {reason}")

    def _acquire(self) -> int | None:
        """Take the lock; return its descriptor, None where nothing can be written."""
        while True:
            try:
                lock = self._open_lock(os.O_RDWR | os.O_CREAT)
            except OSError as error:
                if error.errno == errno.EROFS or not self._is_writable():
                    self._not_locked = cause(error)
                    return None
                if not isinstance(error, PermissionError):
                    raise
                lock = self._open_lock(os.O_RDONLY)  # somebody else's: to see who it is
            try:
                if _take(lock, shown(self.path)):
                    return lock
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)  # its owner has just removed it: make a new one

    def _open_lock(self, flags: int) -> int:
        flags |= os.O_NOFOLLOW
        return open_regular(LOCK, flags, self.descriptor, mode=0o644)

    def _is_writable(self) -> bool:
        return os.access(b".", os.W_OK | os.X_OK, dir_fd=self.descriptor, effective_ids=True)


def _take(lock: int, path: str) -> bool:
    """Lock an open lock file and put our number into it; False if it has been removed.

    Raises:
        DirectoryInUse: it is locked.
        OSError: it is no lock file of ours.

    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DirectoryInUse(path, _owner(lock)) from None
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


def _not_its_own(output: os.stat_result, job: os.stat_result) -> str | None:
    if os.path.samestat(output, job):
        return "it is the job file itself"
    if output.st_nlink > 1:
        return "it is another name of some file, a hard link; remove it"
    if output.st_uid != os.geteuid():
        return "it belongs to another user; remove it"
    return None


def _owner(lock: int) -> int | None:
    """Return the number in a lock file; its owner may just be about to write it."""
    for _ in range(20):
        number = os.pread(lock, 64, 0)
        if _NUMBER.fullmatch(number):
            return int(number)
        time.sleep(0.01)
    return None
