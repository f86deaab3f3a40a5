"""A service: a jobs directory whose jobs are run as they come, for as long as it is wanted."""

import math
import os
import select
import time
from dataclasses import dataclass, replace
from functools import partial
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Self

from kvs.errors import DirectoryLockedError, JobError, JobsDirectoryError, ThreadStartError
from kvs.jobs.checkpoint import delete_stale_records
from kvs.jobs.directory import JOB_SUFFIX
from kvs.jobs.pool import WorkerPool
from kvs.jobs.report import ErrorCallback, JobReport, State
from kvs.jobs.run import ignore_error
from kvs.posix.wakeup import Wakeup
from kvs.service.directory import LogCallback, WatchedDirectory
from kvs.service.reappearance import ReappearanceWatcher
from kvs.settings import Settings
from kvs.store.core import StoreCore
from kvs.text import os_error_text, pluralize, printable

MIN_POLL_SECONDS = 0.02
MAX_POLL_SECONDS = 1.0
"""What the kernel tells nothing of is looked at so long after something happened, then after twice
that time, and so on, up to the longest: whether the directory is still at its path, whether a job
that was open for writing still is, and whether a directory that was gone or in use can be had."""


@dataclass(frozen=True, slots=True)
class ServiceStats:
    """What a service has done so far."""

    running: int = 0
    """Jobs running now."""
    jobs: int = 0
    """Jobs that ended, in whichever way."""
    failed: int = 0
    """Those of them that could not start or go on."""
    commands: int = 0
    """Commands carried out by jobs that ended."""
    invalid: int = 0
    """Invalid lines in jobs that ended."""
    snapshots: int = 0
    """Snapshots begun by jobs that ended."""


def discard_log(line: str) -> None:
    """Drop `line`."""


class JobService:
    """A jobs directory being served: entered, it starts; left, it is stopped and has ended.

    Jobs there at the start are run in byte order of their names, others as they come. What goes
    wrong in a job is given to `on_error`, each event worth knowing to `log` as a line, both from
    the thread that met it, with no lock held. `stop`, `wait`, `counts` and `kill_children` may be
    called from any thread, `stop` also from a signal handler.

    A thread of its own waits for what happens in the directory, and alone changes which one that
    is; jobs run on the pool's. `_lock` guards the counts; it is a leaf.
    """

    def __init__(
        self,
        store: StoreCore,
        path: str | bytes | os.PathLike[str],
        settings: Settings,
        on_error: ErrorCallback = ignore_error,
        log: LogCallback = discard_log,
    ) -> None:
        self._path = os.fsencode(path)
        self._shown = printable(self._path)
        self._store = store
        self._threads = settings.threads
        self._tell = on_error
        self._log = log
        self._pool = WorkerPool(store, settings, on_error)
        self._ended = Event()
        self._lock = Lock()
        self._counts = ServiceStats()
        try:
            self._wakeup = Wakeup()
        except OSError as error:
            raise JobsDirectoryError(
                self._shown, f"cannot watch it: {os_error_text(error)}"
            ) from error
        self._directory: WatchedDirectory | None = None
        self._last: WatchedDirectory | None = None
        self._retired: list[WatchedDirectory] = []
        """Directories that were at the path before, and may have jobs running."""
        self._returning: ReappearanceWatcher | None = None
        self._complaint = ""
        """The last reason told why the directory cannot be served."""

    def __enter__(self) -> Self:
        """Lock the directory, watch it, list its jobs, and start the workers.

        Raises:
            JobsDirectoryError: it is no directory, or cannot be listed, locked or watched.
            DirectoryLockedError: another run is at work in it.
            ThreadStartError: not one worker could be started.
            JournalWriteError: the store's journal has failed before.

        """
        self._directory = WatchedDirectory(self._path, self._log, self._wakeup.wake, None)
        files = self._directory.files
        try:
            delete_stale_records(self._store, files.descriptor, files.list_jobs())
            self._pool.start(self._threads)
            try:
                Thread(target=self._serve, name="kvs-jobs").start()
            except RuntimeError as error:
                raise ThreadStartError from error
        except BaseException:
            self._pool.stop()
            self._directory.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop, wait for the end, and raise what should never have happened, if it did."""
        self.stop()
        try:
            self._ended.wait()
        except BaseException:  # interrupted: wait all the same
            self._ended.wait()
            raise
        if self._pool.internal_error is not None:
            raise self._pool.internal_error

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end, or for so many seconds; return whether the service has ended.

        It ends after `stop`, or because of a defect, which leaving the service raises.
        """
        return self._ended.wait(seconds)

    def stop(self) -> None:
        """Let jobs end after the `execute` they are in; snapshots being written are finished.

        Comes back at once; jobs that wait for their turn are not begun. The directory is unlocked
        when the service has ended.
        """
        self._pool.stop()
        self._wakeup.wake()

    def kill_children(self) -> None:
        """Leave nothing half done behind, for a process that is about to leave at once."""
        self._pool.backup_slots.kill_children()
        for directory in (*self._retired, self._directory):
            if directory is not None:
                directory.files.unlock()

    def counts(self) -> ServiceStats:
        """Return what the service has done so far."""
        with self._lock:
            return self._counts

    @property
    def snapshots(self) -> int:
        """How many snapshots are being written."""
        return self._pool.backup_slots.in_flight

    # The thread that watches.

    def _serve(self) -> None:
        try:
            pause, look_again_at = MIN_POLL_SECONDS, 0.0
            while not self._pool.stopping.is_set():
                now = time.monotonic()
                again = now >= look_again_at
                if again:
                    look_again_at = now + pause
                    pause = min(2 * pause, MAX_POLL_SECONDS)
                self._process_events(again=again)
                if self._sleep(max(0.0, look_again_at - time.monotonic())):
                    pause = MIN_POLL_SECONDS
                    look_again_at = min(look_again_at, time.monotonic() + pause)
        except BaseException as defect:  # noqa: BLE001  (raised again where the service is left)
            self._pool.fail(defect)
        self._pool.wait()
        for directory in (*self._retired, self._directory):
            if directory is not None:
                directory.close()
        if self._returning is not None:
            self._returning.close()
        self._ended.set()

    def _sleep(self, seconds: float) -> bool:
        """Wait for something to look at, for so long at most; return whether there is."""
        poll = select.poll()
        poll.register(self._wakeup, select.POLLIN)
        source = self._directory or self._returning
        if source is not None and (signs := source.fileno()) is not None:
            poll.register(signs, select.POLLIN)
        if not poll.poll(math.ceil(seconds * 1000)):
            return False
        return (
            self._wakeup.clear() or self._returning is None or self._returning.may_have_reappeared()
        )

    def _process_events(self, *, again: bool) -> None:
        """Take in what happened; `again` if nothing was told and what is not told is due."""
        if self._directory is not None and not self._directory.is_same_directory():
            self._detach_directory(self._directory)
        if self._directory is None:
            self._directory = self._attach_directory()
        if self._directory is None:
            return
        if again:
            self._directory.retry_busy_jobs()
        try:
            due = self._directory.due()
        except JobsDirectoryError as error:
            self._log_once(str(error))
            return
        for name, news in due:
            if news:
                self._log(f"{self._directory.files.shown(name + JOB_SUFFIX)}: found")
            self._pool.add(partial(self._run, self._directory, name))

    def _detach_directory(self, directory: WatchedDirectory) -> None:
        self._directory = None
        self._returning = ReappearanceWatcher(self._path)
        self._complaint = ""
        directory.stop_accepting()
        self._last = directory
        self._retired = [old for old in self._retired if not old.closed] + [directory]
        self._log(f"{self._shown}: it is gone; what is new in it is run when it is back")

    def _attach_directory(self) -> WatchedDirectory | None:
        """Return the directory that stands at the path now, if it can be had."""
        directory = next((old for old in self._retired if old.revive()), None)
        if directory is None:
            try:
                directory = WatchedDirectory(self._path, self._log, self._wakeup.wake, self._last)
            except (JobsDirectoryError, DirectoryLockedError) as error:
                if os.path.lexists(self._path):
                    self._log_once(str(error))
                return None
        if self._returning is not None:
            self._returning.close()
            self._returning = None
        self._complaint = ""
        self._log(f"{self._shown}: it is back, and watched")
        return directory

    def _log_once(self, reason: str) -> None:
        """Log `reason`, once."""
        if reason != self._complaint:
            self._complaint = reason
            self._log(f"{reason}; it is tried again")

    # Workers.

    def _run(self, directory: WatchedDirectory, name: bytes) -> None:
        try:
            try:
                file = directory.open(name, self._pool.stopping)
            except JobError as failure:
                self._count(JobReport(name, failure.file, State.FAILED), running=0)
                self._tell(failure)
                return
            if file is None:
                return
            job = self._pool.job(directory.files, name)
            self._count(None, running=1)
            self._log(f"{job.report.file}: started")
            job.run(file)
            self._count(job.report, running=-1)
            self._log(_on_job_ended(job.report))
        finally:
            directory.ended(name)

    def _count(self, ended: JobReport | None, *, running: int) -> None:
        with self._lock:
            before = self._counts
            counts = replace(before, running=before.running + running)
            if ended is not None:
                counts = replace(
                    counts,
                    jobs=before.jobs + 1,
                    failed=before.failed + (ended.state is State.FAILED),
                    commands=before.commands + ended.commands,
                    invalid=before.invalid + ended.invalid,
                    snapshots=before.snapshots + len(ended.backups),
                )
            self._counts = counts


def _on_job_ended(job: JobReport) -> str:
    written, lost = job.backups_written, job.backups_failed
    writing = len(job.backups) - written - lost
    others = ((lost, "failed"), (writing, "being written"))
    rest = ", ".join(f"{number} {what}" for number, what in others if number)
    return (
        f"{job.file}: {job.state.value}, {pluralize(job.commands, 'command')}, "
        f"{pluralize(job.invalid, 'invalid line')}, "
        f"{pluralize(written, 'snapshot')}{rest and f' ({rest})'}, {job.seconds:.3f} s"
    )
