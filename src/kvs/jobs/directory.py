"""A jobs directory: its lock, its jobs, and the files that belong to a job.

The directory is held open by descriptor, and every file in it is opened relative to that.
"""

import errno
import os
import stat
from typing import Self

from kvs.errors import JobError, JobsDirectoryError
from kvs.posix.files import open_regular, remove_stale_temp_files
from kvs.posix.locks import LOCK_FILE_NAME, LockableDirectory
from kvs.text import os_error_text, pluralize, printable

JOB_SUFFIX = b".job"
OUTPUT_SUFFIX = b".out"
BACKUP_SUFFIX = b".bck"


class JobsDirectory(LockableDirectory):
    """A jobs directory, open from `__enter__` to `__exit__`. Thread-safe while it is open."""

    def __init__(self, path: str | bytes | os.PathLike[str]) -> None:
        super().__init__(path)
        self._not_locked: str | None = "its directory was not locked"
        """Why an output may not be opened as long as there is no lock."""

    def __enter__(self) -> Self:
        """Open the directory.

        Raises:
            JobsDirectoryError: it is no directory, or cannot be opened.

        """
        try:
            self._open()
        except OSError as error:
            raise JobsDirectoryError(printable(self.path), os_error_text(error)) from error
        return self

    def lock(self) -> None:
        """Make this process the only one at work here, and clear away what a crash left.

        Locks nothing where nothing can be written.

        Raises:
            DirectoryLockedError: another run is at work here.
            JobsDirectoryError: it cannot be locked.

        """
        try:
            self._not_locked = self._lock.acquire()
            if self._not_locked is None:
                remove_stale_temp_files(self.descriptor)
        except OSError as error:
            reason = f"cannot lock it with {LOCK_FILE_NAME.decode()}: {os_error_text(error)}"
            raise JobsDirectoryError(printable(self.path), reason) from error

    def list_jobs(self) -> list[bytes]:
        """Return the names of the jobs without their ``.job``, in byte order.

        Raises:
            JobsDirectoryError: the directory cannot be listed.

        """
        try:
            entries = os.listdir(self.descriptor)
        except OSError as error:
            raise JobsDirectoryError(printable(self.path), os_error_text(error)) from error
        return sorted(
            name.removesuffix(JOB_SUFFIX) for name in map(os.fsencode, entries) if is_job(name)
        )

    def open_job(self, name: bytes) -> int:
        """Open the job `name`, following links, and return the descriptor.

        Raises:
            JobError: it cannot be opened, or is no regular file.

        """
        return open_job(name + JOB_SUFFIX, self.shown(name + JOB_SUFFIX), self.descriptor)

    def open_output(self, name: bytes, job: int, keep: int = 0) -> int:
        """Open the output of the job `name`, open as `job`; return the descriptor.

        Only its first `keep` bytes stay, and what is written is put behind them.

        The directory must have been locked.
        It must be a file of its own: no link, no second name of another file, nobody else's.

        Raises:
            JobError: it is not, or it cannot be opened.

        """
        if self._not_locked is not None:
            raise self._output_refused(name, self._not_locked)
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_APPEND
        try:
            output = open_regular(name + OUTPUT_SUFFIX, flags, self.descriptor)
        except OSError as error:
            is_link = error.errno == errno.ELOOP
            reason = "it is a link; remove it" if is_link else os_error_text(error)
            raise self._output_refused(name, reason) from error
        found = os.fstat(output)
        refusal = _why_not_exclusive(found, os.fstat(job))
        if found.st_size < keep:
            refusal = "it is shorter than it was; to start the job over, touch it"
        if refusal is None:
            try:
                if found.st_size > keep:  # on a new file this would only make close slower
                    os.ftruncate(output, keep)
            except OSError as error:
                refusal = os_error_text(error)
            else:
                return output
        os.close(output)
        raise self._output_refused(name, refusal)

    def output_changed(self, name: bytes, size: int | None) -> str | None:
        """Tell why the output of the job `name` cannot be what it wrote, None if it may be.

        It had `size` bytes, if that is known.
        """
        try:
            found = os.stat(name + OUTPUT_SUFFIX, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return "it is gone"
        except OSError as error:
            return f"it cannot be looked at: {os_error_text(error)}"
        if not stat.S_ISREG(found.st_mode):
            return "it is no regular file any more"
        if size is not None and found.st_size != size:
            return f"it has {pluralize(found.st_size, 'byte')}, and had {size} when it was written"
        return None

    def sync(self) -> None:
        """Make the names in the directory durable.

        Raises:
            JobError: the system could not.

        """
        try:
            os.fsync(self.descriptor)
        except OSError as error:
            raise JobError(
                printable(self.path), f"cannot sync it: {os_error_text(error)}"
            ) from error

    def _output_refused(self, name: bytes, reason: str) -> JobError:
        return JobError(self.shown(name + OUTPUT_SUFFIX), f"cannot open the output: {reason}")


def is_job(entry: bytes) -> bool:
    """Return whether a directory entry with this name is a job.

    Names that begin with ``.`` are not jobs: editors use them for lock links and for files that
    are not finished, as do rsync and others that rename a file into place.
    """
    return entry.endswith(JOB_SUFFIX) and not entry.startswith(b".")


def open_job(name: bytes, shown_name: str, directory: int | None = None) -> int:
    """Open the job file `name`, following links, and return the descriptor.

    Raises:
        JobError: it cannot be opened, or is no regular file.

    """
    try:
        return open_regular(name, os.O_RDONLY, directory)
    except OSError as error:
        reason = os_error_text(error)
        if isinstance(error, FileNotFoundError) and _is_link(name, directory):
            reason = "it is a link that leads nowhere"
        raise JobError(shown_name, f"cannot open it: {reason}") from error


def _is_link(name: bytes, directory: int | None) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _why_not_exclusive(output: os.stat_result, job: os.stat_result) -> str | None:
    if os.path.samestat(output, job):
        return "it is the job file itself"
    if output.st_nlink > 1:
        return "it is another name of some file, a hard link; remove it"
    if output.st_uid != os.geteuid():
        return "it belongs to another user; remove it"
    return None
