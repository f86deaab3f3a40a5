"""A jobs directory: its lock, its jobs, and the files that belong to a job.

The directory is open, and every file in it is opened relative to its descriptor.
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
        """Why no output may be opened, as long as this process does not have the lock."""

    def __enter__(self) -> Self:
        """Open the directory.

        Raises:
            JobsDirectoryError: the path is not a directory, or cannot be opened.

        """
        try:
            return super().__enter__()
        except OSError as error:
            reason = f"cannot open the jobs directory: {os_error_text(error)}"
            raise JobsDirectoryError(printable(self.path), reason) from error

    def lock(self) -> None:
        """Exclude other processes from the directory, and remove what a crash left in it.

        A directory that is not writable is not locked; then no output can be opened either.

        Raises:
            DirectoryLockedError: another run is at work in the directory.
            JobsDirectoryError: the directory cannot be locked.

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
            reason = f"cannot list the jobs directory: {os_error_text(error)}"
            raise JobsDirectoryError(printable(self.path), reason) from error
        return sorted(
            name.removesuffix(JOB_SUFFIX) for name in map(os.fsencode, entries) if is_job(name)
        )

    def open_job(self, name: bytes) -> int:
        """Open the job `name`, following links, and return the descriptor.

        Raises:
            JobError: the job cannot be opened, or is not a regular file.

        """
        return open_job(name + JOB_SUFFIX, self.display_path_of(name + JOB_SUFFIX), self.descriptor)

    def open_output(self, name: bytes, job: int, size: int = 0) -> int:
        """Open the output of the job `name`, which is open as `job`; return the descriptor.

        The output is truncated to `size` bytes and opened for appending. It must be a file of its
        own: not a link, not a second name of another file, not another user's. The directory must
        be locked.

        Raises:
            JobError: the output is not such a file, is shorter than `size`, or cannot be opened.

        """
        if self._not_locked is not None:
            raise self._output_error(name, self._not_locked)
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_APPEND
        try:
            output = open_regular(name + OUTPUT_SUFFIX, flags, self.descriptor)
        except OSError as error:
            is_link = error.errno == errno.ELOOP
            reason = "it is a link; remove it" if is_link else os_error_text(error)
            raise self._output_error(name, reason) from error
        status = os.fstat(output)
        refusal = _why_not_exclusive(status, os.fstat(job))
        if status.st_size < size:
            refusal = "it is shorter than recorded; to restart the job, touch the job file"
        if refusal is None:
            try:
                if status.st_size > size:  # on a new file this would only make close slower
                    os.ftruncate(output, size)
            except OSError as error:
                refusal = os_error_text(error)
            else:
                return output
        os.close(output)
        raise self._output_error(name, refusal)

    def find_output_change(self, name: bytes, size: int | None) -> str | None:
        """Return why the output of the job `name` is not what the job wrote; None if it may be.

        The job wrote `size` bytes; None if that is unknown.
        """
        try:
            status = os.stat(name + OUTPUT_SUFFIX, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return "the output does not exist any more"
        except OSError as error:
            return f"cannot check the output: {os_error_text(error)}"
        if not stat.S_ISREG(status.st_mode):
            return "the output is no longer a regular file"
        if size is not None and status.st_size != size:
            return f"the output has {pluralize(status.st_size, 'byte')}, but the job wrote {size}"
        return None

    def sync(self) -> None:
        """Make the names in the directory durable.

        Raises:
            JobError: fsync(2) failed.

        """
        try:
            os.fsync(self.descriptor)
        except OSError as error:
            raise JobError(
                printable(self.path), f"cannot sync it: {os_error_text(error)}"
            ) from error

    def _output_error(self, name: bytes, reason: str) -> JobError:
        return JobError(
            self.display_path_of(name + OUTPUT_SUFFIX), f"cannot open the output: {reason}"
        )


def is_job(entry: bytes) -> bool:
    """Return whether a directory entry with this name is a job.

    Names that begin with ``.`` are not jobs: editors use them for lock links and for unfinished
    files, as do rsync and other programs that rename a file into place.
    """
    return entry.endswith(JOB_SUFFIX) and not entry.startswith(b".")


def open_job(name: bytes, display_path: str, directory: int | None = None) -> int:
    """Open the job file `name`, following links, and return the descriptor.

    Raises:
        JobError: the job cannot be opened, or is not a regular file.

    """
    try:
        return open_regular(name, os.O_RDONLY, directory)
    except OSError as error:
        reason = os_error_text(error)
        if isinstance(error, FileNotFoundError) and _is_link(name, directory):
            reason = "it is a dangling symbolic link"
        raise JobError(display_path, f"cannot open it: {reason}") from error


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
