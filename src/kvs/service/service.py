"""A service: it runs the jobs of a directory as their files arrive, until it is stopped."""

import contextlib
import math
import os
import select
import time
from functools import partial
from threading import Thread
from typing import Self

from kvs.concurrency.flag import Flag
from kvs.errors import DirectoryLockedError, JobError, JobsDirectoryError, ThreadStartError
from kvs.jobs.checkpoint import delete_stale_records
from kvs.jobs.directory import JOB_SUFFIX
from kvs.jobs.pool import WorkerPool
from kvs.jobs.report import ErrorCallback, JobReport
from kvs.posix.wakeup import Wakeup
from kvs.service.directory import LogCallback, WatchedDirectory
from kvs.service.reappearance import ReappearanceWatcher
from kvs.settings import Settings
from kvs.store.core import StoreCore
from kvs.text import os_error_text, pluralize, printable

MIN_POLL_SECONDS = 0.02
MAX_POLL_SECONDS = 1.0
"""Minimum and maximum seconds between checks of what has no events; doubled after each check, the
minimum again after an event. Checked are: whether the path still leads to the directory, whether a
job is still open for writing, and whether a directory that was gone or locked can be served."""


class JobService:
    """A served jobs directory. `__enter__` starts the service, `__exit__` stops it and waits.

    Jobs that exist at the start run in byte order of their names, others as they arrive. Every
    error in a job is given to `on_error`, every event for the log to `log` as a line, both from the
    thread that it occurs in, with no lock held.

    Threads: any for `stop`, `wait` and `kill_children`; a signal handler may call `stop`,
    and `kill_children` before the process exits. The service has a thread of its own, which waits
    for events and alone changes `_directory`; jobs run on the threads of the pool.
    """

    def __init__(
        self,
        store: StoreCore,
        path: str | bytes | os.PathLike[str],
        settings: Settings,
        on_error: ErrorCallback,
        log: LogCallback,
    ) -> None:
        self._path = os.fsencode(path)
        self._display_path = printable(self._path)
        self._store = store
        self._threads = settings.threads
        self._on_error = on_error
        self._log = log
        self._pool = WorkerPool(store, settings, on_error)
        self._ended = Flag()
        try:
            self._wakeup = Wakeup()
        except OSError as error:
            raise JobsDirectoryError(
                self._display_path, f"cannot watch it: {os_error_text(error)}"
            ) from error
        self._directory: WatchedDirectory | None = None
        self._previous: WatchedDirectory | None = None
        """The directory that was last at the path, if it is not `_directory`."""
        self._retired: list[WatchedDirectory] = []
        """Directories that were at the path before, and may still have jobs running."""
        self._reappearance: ReappearanceWatcher | None = None
        """Set while there is no directory at the path."""
        self._logged_error = ""
        """Why the directory cannot be served, as last logged."""

    def __enter__(self) -> Self:
        """Lock the directory, watch it, list its jobs, and start the workers.

        Raises:
            JobsDirectoryError: the path is not a directory, or cannot be listed, locked or watched.
            DirectoryLockedError: another run is at work in the directory.
            ThreadStartError: not one worker could be started.
            JournalWriteError: the store's journal has failed before.

        """
        self._directory = self._open_directory()
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

    def __exit__(self, *_: object) -> None:
        """Stop, wait for the end, and raise the exception of a defect if there was one."""
        self.stop()
        try:
            self._ended.wait()
        except BaseException:  # interrupted: wait nevertheless
            self._ended.wait()
            raise
        if self._pool.internal_error is not None:
            raise self._pool.internal_error

    def wait(self, seconds: float | None = None) -> bool:
        """Block until the service has ended, at most `seconds`; return whether it has.

        The service ends after `stop`, or because of a defect, whose exception `__exit__` raises.
        """
        return self._ended.wait(seconds)

    def stop(self) -> None:
        """Stop jobs after the `execute` they are in; the backups being written are finished.

        Returns at once; no further job starts. The directory is unlocked when the service has
        ended.
        """
        self._pool.stop()
        self._wakeup.wake()

    def kill_children(self) -> None:
        """Kill the children that write backups, and unlock, for a process about to exit."""
        self._pool.backup_slots.kill_children()
        for directory in (*self._retired, self._directory):
            if directory is not None:
                directory.files.unlock()

    # The service's thread.

    def _serve(self) -> None:
        try:
            self._watch()
        except BaseException as error:  # noqa: BLE001  (`__exit__` raises it again)
            self._pool.fail(error)
        try:
            self._pool.wait()
            self._close()
        except BaseException as error:  # noqa: BLE001  (`__exit__` raises it again)
            self._pool.fail(error)
        finally:
            self._ended.set()

    def _watch(self) -> None:
        interval, poll_at = MIN_POLL_SECONDS, 0.0
        while not self._pool.stopping.is_set():
            now = time.monotonic()
            poll_due = now >= poll_at
            if poll_due:
                poll_at = now + interval
                interval = min(2 * interval, MAX_POLL_SECONDS)
            self._process_events(poll_due=poll_due)
            if self._wait_for_events(max(0.0, poll_at - time.monotonic())):
                interval = MIN_POLL_SECONDS
                poll_at = min(poll_at, time.monotonic() + interval)

    def _close(self) -> None:
        with contextlib.ExitStack() as closes:  # each is called, also after an exception
            for each in (self._reappearance, self._directory, *self._retired):
                if each is not None:
                    closes.callback(each.close)

    def _wait_for_events(self, seconds: float) -> bool:
        """Block until there are events, at most `seconds`; return whether there are."""
        poll = select.poll()
        poll.register(self._wakeup, select.POLLIN)
        source = self._directory or self._reappearance
        if source is not None and (descriptor := source.fileno()) is not None:
            poll.register(descriptor, select.POLLIN)
        if not poll.poll(math.ceil(seconds * 1000)):
            return False
        return (
            self._wakeup.clear()
            or self._reappearance is None
            or self._reappearance.may_have_reappeared()
        )

    def _process_events(self, *, poll_due: bool) -> None:
        """Check the directory, and give due jobs to the workers.

        With `poll_due`, also retry jobs being written, and close unused directories.
        """
        if poll_due:
            for old in self._retired:
                old.close_if_unused()
        if self._directory is not None and not self._directory.is_same_directory():
            self._detach_directory(self._directory)
        if self._directory is None:
            self._directory = self._attach_directory()
        if self._directory is None:
            return
        if poll_due:
            self._directory.retry_jobs_being_written()
        try:
            due = self._directory.due()
        except JobsDirectoryError as error:
            self._log_once(str(error))
            return
        for name, is_new in due:
            if is_new:
                self._log(f"{self._directory.files.display_path_of(name + JOB_SUFFIX)}: found")
            self._pool.add(partial(self._run, self._directory, name))

    def _detach_directory(self, directory: WatchedDirectory) -> None:
        self._directory = None
        self._reappearance = ReappearanceWatcher(self._path)
        self._logged_error = ""
        directory.stop_accepting()
        self._previous = directory
        self._retired = [old for old in self._retired if not old.closed] + [directory]
        self._log(
            f"{self._display_path}: was removed or renamed; "
            "new jobs run when the directory reappears"
        )

    def _attach_directory(self) -> WatchedDirectory | None:
        """Return the directory that is at the path now, if it can be opened, locked and watched."""
        directory = next((old for old in self._retired if old.revive()), None)
        if directory is None:
            try:
                directory = self._open_directory()
            except (JobsDirectoryError, DirectoryLockedError) as error:
                if os.path.lexists(self._path):
                    self._log_once(str(error))
                return None
        if self._reappearance is not None:
            self._reappearance.close()
            self._reappearance = None
        self._logged_error = ""
        self._log(f"{self._display_path}: reappeared, and is watched")
        return directory

    def _open_directory(self) -> WatchedDirectory:
        return WatchedDirectory(
            self._path,
            self._log,
            self._wakeup.wake,
            self._pool.backup_slots.is_writing_in,
            self._previous,
        )

    def _log_once(self, reason: str) -> None:
        """Log `reason` unless it is the last one logged."""
        if reason != self._logged_error:
            self._logged_error = reason
            self._log(f"{reason}; retrying")

    # Workers.

    def _run(self, directory: WatchedDirectory, name: bytes) -> None:
        try:
            try:
                file = directory.open(name, self._pool.stopping)
            except JobError as error:
                self._on_error(error)
                return
            if file is None:
                return
            job = self._pool.job(directory.files, name)
            self._log(f"{job.report.file}: started")
            job.run(file)
            self._log(_describe_end(job.report))
        finally:
            directory.ended(name)


def _describe_end(job: JobReport) -> str:
    written, failed = job.backups_written, job.backups_failed
    in_flight = len(job.backups) - written - failed
    others = ((failed, "failed"), (in_flight, "being written"))
    rest = ", ".join(f"{number} {state}" for number, state in others if number)
    return (
        f"{job.file}: {job.state.value}, {pluralize(job.commands, 'command')}, "
        f"{pluralize(job.invalid, 'invalid line')}, "
        f"{pluralize(written, 'backup')}{rest and f' ({rest})'}, {job.seconds:.3f} s"
    )
