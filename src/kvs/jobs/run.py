"""A run: the jobs of a directory, in order of name, on worker threads, against one store."""

import os
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from kvs.errors import KvsError
from kvs.jobs.checkpoint import delete_stale_records
from kvs.jobs.directory import JobsDirectory
from kvs.jobs.pool import WorkerPool
from kvs.jobs.report import ErrorCallback, Report, State
from kvs.settings import Settings
from kvs.store.core import StoreCore
from kvs.text import printable


@dataclass(frozen=True, slots=True)
class RunProgress:
    """The progress of a run, for a display: numbers of jobs, commands and backups."""

    jobs: int
    done: int
    """Jobs that have ended, in whatever way."""
    running: int
    commands: int
    """Commands executed, over all jobs."""
    backups: int
    """Backups being written."""


def ignore_error(error: KvsError) -> None:
    """Do nothing: the report has `error`, too."""


class JobRun:
    """A run of a directory's jobs. `__enter__` starts it, `__exit__` waits for its end.

    Every error in a job is given to `on_error`, from the thread that it occurs in, and is in
    `report`.

    Threads: any for `stop`, `wait`, `progress` and `kill_children`; a signal handler may call
    `stop`, and `kill_children` before the process exits.
    """

    def __init__(
        self,
        store: StoreCore,
        path: str | bytes | os.PathLike[str],
        settings: Settings,
        on_error: ErrorCallback = ignore_error,
    ) -> None:
        self._store = store
        self._threads = settings.threads
        self._directory = JobsDirectory(path)
        self._pool = WorkerPool(store, settings, on_error)
        self.report = Report(printable(os.fsencode(path)), [])

    def __enter__(self) -> Self:
        """Lock the directory, list its jobs and start the workers.

        Raises:
            JobsDirectoryError: the path is not a directory, or cannot be listed or locked.
            DirectoryLockedError: another run is at work in the directory.
            ThreadStartError: not one worker could be started.
            JournalWriteError: the store's journal has failed before.

        """
        self._started = time.perf_counter()
        self._directory.__enter__()
        try:
            self._directory.lock()
            names = self._directory.list_jobs()
            delete_stale_records(self._store, self._directory.descriptor, names)
            jobs = [self._pool.job(self._directory, name) for name in names]
            self.report.jobs = [job.report for job in jobs]
            for job in jobs:
                self._pool.add(job.run)
            self._pool.close()
            self._pool.start(max(1, min(self._threads, len(jobs))))
        except BaseException:
            self._directory.__exit__()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait for the end, stopping the run if there is an exception, and close the directory."""
        try:
            if error is not None:
                self.stop()
            self._wait_for_end()
        finally:
            self._directory.__exit__()
        self.report.seconds = time.perf_counter() - self._started
        self.report.stopped = self._pool.stopping.is_set()
        if self._store.failure is None:
            self.report.revision = self._store.revision
        if self._pool.internal_error is not None:
            raise self._pool.internal_error

    def _wait_for_end(self) -> None:
        """Block until the run has ended; an exception in the wait stops the run first."""
        try:
            self._pool.wait()
        except BaseException:
            self.stop()
            self._pool.wait()
            raise

    def wait(self, seconds: float | None = None) -> bool:
        """Block until the run has ended, at most `seconds`; return whether it has."""
        return self._pool.wait(seconds)

    def stop(self) -> None:
        """Stop jobs after the `execute` they are in; the backups being written are finished."""
        self._pool.stop()

    def kill_children(self) -> None:
        """Kill the children that write backups, and unlock, for a process about to exit."""
        self._pool.backup_slots.kill_children()
        self._directory.unlock()

    def progress(self) -> RunProgress:
        """Return the progress of the run."""
        states = [job.state for job in self.report.jobs]
        running = states.count(State.RUNNING)
        done = len(states) - running - states.count(State.WAITING)
        commands = self.report.commands
        return RunProgress(len(states), done, running, commands, self._pool.backup_slots.in_flight)
