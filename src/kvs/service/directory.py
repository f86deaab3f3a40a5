"""A jobs directory that is watched: which jobs are due, and how each is opened."""

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

from kvs.concurrency.flag import Flag
from kvs.errors import JobError, JobsDirectoryError
from kvs.jobs.directory import JOB_SUFFIX, JobsDirectory
from kvs.posix.inotify import DirectoryWatcher, FileEvent
from kvs.posix.leases import LeasesUnsupportedError, has_writer
from kvs.service.tracker import FileFingerprint, JobTracker
from kvs.text import os_error_text, printable

LogCallback = Callable[[str], None]
"""Called with a line for the log, from any thread."""

BLOCK = 1 << 20
"""Bytes per read for a digest."""

MAX_INSPECTIONS = 3
"""Maximum inspections of a job that changes meanwhile; after them it counts as being written."""


@dataclass(frozen=True)
class _Inspection:
    """The result of an inspection of a job: its descriptor, or why it is not to run now."""

    file: int | None = None
    being_written: bool = False
    error: JobError | None = None


class WatchedDirectory:
    """A jobs directory, open, locked and watched until `stop_accepting` and the end of its jobs.

    `wake` is called, with the lock held, when `due` should be called because of what a worker did.
    `has_backups` returns whether backups in the directory are in flight: it stays open until none
    is, though no job runs.

    Locking: `_lock` guards the watcher, the tracker and the state. It is a leaf; the directory is
    listed and jobs are opened under it, but not read. Thread-safe.

    Raises:
        JobsDirectoryError: the path is not a directory, or cannot be listed, locked or watched.
        DirectoryLockedError: another run is at work in the directory.

    """

    def __init__(
        self,
        path: bytes,
        log: LogCallback,
        wake: Callable[[], None],
        has_backups: Callable[[JobsDirectory], bool],
        previous: "WatchedDirectory | None",
    ) -> None:
        """Open the directory. If it is the same as `previous`, take over the state of its jobs."""
        self.display_path = printable(path)
        self.files = JobsDirectory(path)
        self._log = log
        self._wake = wake
        self._has_backups = has_backups
        self._lock = Lock()
        self._tracker = JobTracker()
        self._busy_count = 0
        """Number of jobs that are with workers."""
        self._retired = self._closed = False
        self._lease_error: str | None = None
        """Why the filesystem gives no leases; None as long as it does."""
        self._lease_error_logged = False
        self._overflowed = False
        """Whether events were lost, so that the directory must be listed."""
        with contextlib.ExitStack() as undo:
            undo.enter_context(self.files)
            self.files.lock()
            self._identity = _identity(self.files.descriptor)
            if previous is not None and previous._identity == self._identity:
                self._tracker = previous._tracker
            try:
                self._watcher = DirectoryWatcher(self.files.descriptor)
            except OSError as error:
                reason = f"cannot watch it: {os_error_text(error)}"
                raise JobsDirectoryError(self.display_path, reason) from error
            undo.callback(self._watcher.close)
            # Listed after the watch has begun, so that no job is missed in between.
            self._tracker.on_listing(self.files.list_jobs())
            undo.pop_all()

    # For the one thread that watches.

    def fileno(self) -> int:
        """Return the descriptor that is readable when `due` should be called."""
        return self._watcher.fileno()

    def is_same_directory(self) -> bool:
        """Return whether the path still leads to this directory."""
        try:
            return os.path.samestat(os.stat(self.files.path), os.fstat(self.files.descriptor))
        except OSError:
            return False

    def due(self) -> list[tuple[bytes, bool]]:
        """Read the events; return the jobs for workers, each with whether to log it as found.

        For each, a worker calls `open` once, and then `ended`.

        Raises:
            JobsDirectoryError: events were lost, and the directory cannot be listed; call again.

        """
        with self._lock:
            self._read_events()
            overflowed = self._overflowed
            if overflowed:
                self._tracker.on_listing(self.files.list_jobs())
                self._overflowed = False
            due = self._tracker.take_due()
            self._busy_count += len(due)
        if overflowed:
            self._log(f"{self.display_path}: changes may have been missed: listed again")
        return due

    def retry_jobs_being_written(self) -> None:
        """Make the jobs due that were open for writing when they were inspected."""
        with self._lock:
            self._tracker.requeue_being_written()

    def stop_accepting(self) -> None:
        """Open no more jobs, and close the directory if no job runs and no backup is in flight.

        Else `ended` closes it, or `close_if_unused`, which is to be called from time to time.
        """
        with self._lock:
            self._read_events()
            if not os.fstat(self.files.descriptor).st_nlink:
                self._identity = None  # removed: another directory may get its inode number
            self._retired = True
            self._close_if_unused()

    def revive(self) -> bool:
        """Undo `stop_accepting`; return False if the path leads elsewhere, or after the close."""
        with self._lock:
            if self._closed or not self.is_same_directory():
                return False
            self._retired = False
            self._overflowed = True
            return True

    def close_if_unused(self) -> None:
        """Close the directory after `stop_accepting`, once its jobs and backups have ended."""
        with self._lock:
            self._close_if_unused()

    @property
    def closed(self) -> bool:
        """Whether the directory was closed, after `stop_accepting` and the end of its jobs."""
        return self._closed

    def close(self) -> None:
        """Unlock and close the directory, when all workers have ended. Idempotent."""
        with self._lock:
            self._busy_count = 0
            self._retired = True
            self._close_if_unused()

    # For workers.

    def open(self, name: bytes, stopping: Flag) -> int | None:
        """Open the job `name` and return the descriptor; return None if the job is not to run.

        A job is not to run while it is being written, or if it is unchanged since its last run.

        Raises:
            JobError: the job cannot be opened, or is not a regular file.

        """
        opened = self._open_if_ready(name)
        if opened is None:
            return None
        file, last_run = opened
        try:
            fingerprint = FileFingerprint.of(os.fstat(file))
            if last_run is None or not fingerprint.is_untouched_since(last_run):
                fingerprint = fingerprint._replace(digest=_digest(file, stopping))
                is_new = last_run is None or not fingerprint.has_contents_of(last_run)
                with self._lock:
                    self._tracker.record_run(name, fingerprint)
                if is_new and not stopping.is_set():
                    return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)
        return None

    def ended(self, name: bytes) -> None:
        """Take the job back from a worker, whether it ran or not."""
        with self._lock:
            self._busy_count -= 1
            if self._tracker.ended(name):
                self._wake()
            self._close_if_unused()

    def _open_if_ready(self, name: bytes) -> tuple[int, FileFingerprint | None] | None:
        """Open the job unless it is being written; return it and its last run's fingerprint."""
        with self._lock:
            if self._retired:
                self._tracker.requeue(name)
                return None
            inspection = self._inspect_consistently(name)
            is_new = self._tracker.has_unread_changes(name)
            last_run = None
            if inspection.file is not None:
                last_run = self._tracker.opened(name)
            elif inspection.being_written:
                self._tracker.mark_being_written(name)
            else:
                self._tracker.dismiss(name)
            lease_error = self._lease_error if not self._lease_error_logged else None
            self._lease_error_logged = self._lease_error is not None
        if lease_error is not None:
            self._log(
                f"{self.display_path}: no leases, so a job that is still being written cannot be "
                f"seen here, only its close: {lease_error}"
            )
        # A job without new contents has run, and was then touched and removed: not an error.
        if inspection.error is not None and is_new:
            raise inspection.error
        return None if inspection.file is None else (inspection.file, last_run)

    def _inspect_consistently(self, name: bytes) -> _Inspection:
        """Inspect the job at an instant for which all events have been read.

        An event from before that instant must not make the job run twice, and one from after it
        must not be lost. So the events are read before and after the inspection, which is repeated
        if there were any in between.
        """
        for _ in range(MAX_INSPECTIONS):
            self._read_events(by_worker=True)
            event_count = self._tracker.events_of(name)
            inspection = self._inspect(name)
            self._read_events(by_worker=True)
            if self._tracker.events_of(name) == event_count:
                return inspection
            if inspection.file is not None:
                os.close(inspection.file)
        return _Inspection(being_written=True)

    def _inspect(self, name: bytes) -> _Inspection:
        try:
            file = self.files.open_job(name)
        except JobError as error:
            return _Inspection(error=error)
        try:
            being_written = has_writer(file)
            has_leases = True
        except LeasesUnsupportedError as error:
            being_written = has_leases = False
            self._lease_error = os_error_text(error)
        if not being_written and not (
            self._tracker.may_be_incomplete(name)
            and self._is_freshly_created(name, file, has_leases=has_leases)
        ):
            return _Inspection(file)
        os.close(file)
        return _Inspection(being_written=being_written)

    def _is_freshly_created(self, name: bytes, file: int, *, has_leases: bool) -> bool:
        """Return whether the creator of a file may be about to write it.

        A link is complete. open(2) creates a file before the file counts as open for writing, so an
        empty file may be about to be written; without leases, so may any. Such a file runs when it
        is closed.
        """
        with contextlib.suppress(FileNotFoundError):
            entry = os.lstat(name + JOB_SUFFIX, dir_fd=self.files.descriptor)
            if stat.S_ISLNK(entry.st_mode):
                return False
        status = os.fstat(file)
        return status.st_nlink == 1 and (status.st_size == 0 or not has_leases)

    def _read_events(self, *, by_worker: bool = False) -> None:
        events = self._watcher.read_events()
        for event, name in events:
            if event is FileEvent.OVERFLOWED:
                self._overflowed = True
            else:
                self._tracker.on_event(event, name)
        if events and by_worker:
            self._wake()

    def _close_if_unused(self) -> None:
        is_used = not self._retired or self._busy_count or self._has_backups(self.files)
        if not self._closed and not is_used:
            self._closed = True
            self._watcher.close()
            self.files.__exit__()


def _identity(directory: int) -> tuple[int, int] | None:
    status = os.fstat(directory)
    return status.st_dev, status.st_ino


def _digest(file: int, stopping: Flag) -> bytes | None:
    """Return a digest of the contents; None if a read fails or `stopping` is set meanwhile.

    Times are not enough where events were missed, or for changes through a mapping: a touch changes
    them as a write does.
    """
    digest = hashlib.blake2b(digest_size=16)
    offset = 0
    with contextlib.suppress(OSError):  # the run of the job has the same error, and reports it
        while not stopping.is_set():
            block = os.pread(file, BLOCK, offset)
            if not block:
                return digest.digest()
            digest.update(block)
            offset += len(block)
    return None
