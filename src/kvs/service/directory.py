"""A jobs directory that is watched: which of its jobs are due, and opening them with care."""

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event, Lock

from kvs.errors import JobError, JobsDirectoryError
from kvs.jobs.directory import JOB_SUFFIX, JobsDirectory
from kvs.posix.inotify import DirectoryWatcher, FileEvent
from kvs.posix.leases import LeasesUnsupportedError, has_writer
from kvs.service.tracker import FileVersion, JobTracker
from kvs.text import os_error_text, printable

LogCallback = Callable[[str], None]
"""Called with a line for a person about something worth knowing, from any thread."""

BLOCK = 1 << 20

MAX_INSPECTIONS = 3
"""So often a job is looked at because it changed in that instant; then somebody is at it."""


@dataclass(frozen=True)
class _Inspection:
    """What came of a look at a job: it is open, or it is not to be run now."""

    file: int | None = None
    being_written: bool = False
    failure: JobError | None = None


class WatchedDirectory:
    """A jobs directory: open, locked and watched, until it is retired and no worker needs it.

    Thread-safe. `_lock` guards the watch, the ledger and the state; it is a leaf, under which
    the directory is listed and jobs are opened, but not read. `wake` is called, under it, when a
    worker has learned something because of which `due` should be called.

    Raises:
        JobsDirectoryError: it is no directory, or cannot be listed, locked or watched.
        DirectoryLockedError: another run is at work in it.

    """

    def __init__(
        self,
        path: bytes,
        log: LogCallback,
        wake: Callable[[], None],
        before: "WatchedDirectory | None",
    ) -> None:
        """Take up the directory; what ran in it, if it is the one of `before`, is known."""
        self.shown = printable(path)
        self.files = JobsDirectory(path)
        self._log = log
        self._wake = wake
        self._lock = Lock()
        self._ledger = JobTracker()
        self._busy_count = 0
        self._retired = self._closed = False
        self._no_leases: str | None = None
        """Why leases are refused, if they are."""
        self._no_leases_told = False
        self._overflowed = False
        """Signs were lost, so that the directory is to be looked through."""
        with contextlib.ExitStack() as undo:
            self.files.__enter__()
            undo.callback(self.files.__exit__, None, None, None)
            self.files.lock()
            self._identity = _identity(self.files.descriptor)
            if before is not None and before._identity == self._identity:
                self._ledger = before._ledger
            try:
                self._watch = DirectoryWatcher(self.files.descriptor)
            except OSError as error:
                reason = f"cannot watch it: {os_error_text(error)}"
                raise JobsDirectoryError(self.shown, reason) from error
            undo.callback(self._watch.close)
            self._ledger.on_listing(
                self.files.list_jobs()
            )  # after the watch, so that none is missed
            undo.pop_all()

    # For the one thread that watches.

    def fileno(self) -> int:
        """Return the descriptor that is readable when `due` should be called."""
        return self._watch.fileno()

    def is_same_directory(self) -> bool:
        """Tell whether the directory is still the one at its path."""
        try:
            return os.path.samestat(os.stat(self.files.path), os.fstat(self.files.descriptor))
        except OSError:
            return False

    def due(self) -> list[tuple[bytes, bool]]:
        """Take in what was told; return the jobs to be given to workers, and if each is news.

        For each, a worker calls `open` once, and then `ended`.

        Raises:
            JobsDirectoryError: signs were lost, and the directory cannot be listed; call it again.

        """
        with self._lock:
            self._take_in()
            lost = self._overflowed
            if lost:
                self._ledger.on_listing(self.files.list_jobs())
                self._overflowed = False
            due = self._ledger.take_due()
            self._busy_count += len(due)
        if lost:
            self._log(f"{self.shown}: changes may have been missed, it was looked through anew")
        return due

    def retry_busy_jobs(self) -> None:
        """Let jobs be due that were open for writing when they were looked at."""
        with self._lock:
            self._ledger.requeue_busy()

    def stop_accepting(self) -> None:
        """Open no more jobs, and close the directory when those that run have ended."""
        with self._lock:
            self._take_in()
            if not os.fstat(self.files.descriptor).st_nlink:
                self._identity = None  # removed: another may get its number
            self._retired = True
            self._close_if_unused()

    def revive(self) -> bool:
        """Take up work again if the directory is back, and was not closed; return whether so."""
        with self._lock:
            if self._closed or not self.is_same_directory():
                return False
            self._retired = False
            self._overflowed = True
            return True

    @property
    def closed(self) -> bool:
        """Whether it was retired, and no worker needs it any more."""
        return self._closed

    def close(self) -> None:
        """Unlock and close it, when no worker is left; a second call does nothing."""
        with self._lock:
            self._busy_count = 0
            self._retired = True
            self._close_if_unused()

    # For workers.

    def open(self, name: bytes, stopping: Event) -> int | None:
        """Open the job `name` if it is to be run; return the descriptor, or None.

        It is not if somebody writes it, or if it is what was run already.

        Raises:
            JobError: it cannot be opened, or is no regular file.

        """
        opened = self._open(name)
        if opened is None:
            return None
        file, before = opened
        try:
            version = FileVersion.of(os.fstat(file))
            if before is None or not version.is_untouched_since(before):
                version = version._replace(digest=_digest(file, stopping))
                is_new = before is None or not version.has_contents_of(before)
                with self._lock:
                    self._ledger.record_run(name, version)
                if is_new and not stopping.is_set():
                    return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)
        return None

    def ended(self, name: bytes) -> None:
        """Take in that a worker is done with the job, run or not."""
        with self._lock:
            self._busy_count -= 1
            if self._ledger.ended(name):
                self._wake()
            if self._retired:
                self._close_if_unused()

    def _open(self, name: bytes) -> tuple[int, FileVersion | None] | None:
        """Open the job if it may be run; return it with what it must differ from for that."""
        with self._lock:
            if self._retired:
                self._ledger.requeue(name)
                return None
            look = self._inspect_consistently(name)
            is_news = self._ledger.has_unread_changes(name)
            before = None
            if look.file is not None:
                before = self._ledger.opened(name)
            elif look.being_written:
                self._ledger.mark_busy(name)
            else:
                self._ledger.dismiss(name)
            no_leases = self._no_leases if not self._no_leases_told else None
            self._no_leases_told = self._no_leases is not None
        if no_leases is not None:
            self._log(
                f"{self.shown}: that a job is still being written cannot be seen here, only that "
                f"it is closed: {no_leases}"
            )
        if look.failure is not None and is_news:  # else it was run, and then touched and removed
            raise look.failure
        return None if look.file is None else (look.file, before)

    def _inspect_consistently(self, name: bytes) -> "_Inspection":
        """Look at the job at an instant when all signs of it are in.

        Signs of before must not make it run twice, signs of after must not get lost. So it is
        looked at between two looks at the signs, anew if there were any in between.
        """
        for _ in range(MAX_INSPECTIONS):
            self._take_in(by_worker=True)
            signs = self._ledger.events_of(name)
            look = self._look(name)
            self._take_in(by_worker=True)
            if self._ledger.events_of(name) == signs:
                return look
            if look.file is not None:
                os.close(look.file)
        return _Inspection(being_written=True)

    def _look(self, name: bytes) -> "_Inspection":
        try:
            file = self.files.open_job(name)
        except JobError as failure:
            return _Inspection(failure=failure)
        try:
            being_written = has_writer(file)
            told = True
        except LeasesUnsupportedError as error:
            being_written = told = False
            self._no_leases = os_error_text(error)
        if not being_written and not (
            self._ledger.may_be_incomplete(name) and self._is_freshly_created(name, file, told=told)
        ):
            return _Inspection(file)
        os.close(file)
        return _Inspection(being_written=being_written)

    def _is_freshly_created(self, name: bytes, file: int, *, told: bool) -> bool:
        """Tell whether a file just made may be about to be written by its maker.

        A link is complete. open(2) makes a file before it counts as open for writing: so an empty
        one tells nothing; nor does any, without leases. It is run when it is closed.
        """
        with contextlib.suppress(FileNotFoundError):
            entry = os.lstat(name + JOB_SUFFIX, dir_fd=self.files.descriptor)
            if stat.S_ISLNK(entry.st_mode):
                return False
        found = os.fstat(file)
        return found.st_nlink == 1 and (found.st_size == 0 or not told)

    def _take_in(self, *, by_worker: bool = False) -> None:
        signs = self._watch.read_events()
        for sign, name in signs:
            if sign is FileEvent.OVERFLOWED:
                self._overflowed = True
            else:
                self._ledger.on_event(sign, name)
        if signs and by_worker:
            self._wake()

    def _close_if_unused(self) -> None:
        if not self._closed and not self._busy_count:
            self._closed = True
            self._watch.close()
            self.files.__exit__(None, None, None)


def _identity(directory: int) -> tuple[int, int] | None:
    found = os.fstat(directory)
    return found.st_dev, found.st_ino


def _digest(file: int, stopping: Event) -> bytes | None:
    """Return a digest of the contents, None if they cannot be read or a stop came meanwhile.

    Where signs were missed, and for changes through a mapping, times alone tell nothing: a touch
    changes them as a writer does.
    """
    digest = hashlib.blake2b(digest_size=16)
    offset = 0
    with contextlib.suppress(OSError):  # who runs the job meets it, and tells
        while not stopping.is_set():
            block = os.pread(file, BLOCK, offset)
            if not block:
                return digest.digest()
            digest.update(block)
            offset += len(block)
    return None
