"""A run: the jobs of a directory, in order of name, on worker threads, against one store."""

import os
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from kvs.errors import KvsError
from kvs.jobs.checkpoint import delete_stale_records
from kvs.jobs.directory import JobsDirectory
from kvs.jobs.job import ErrorCallback
from kvs.jobs.pool import WorkerPool
from kvs.jobs.report import Report, State
from kvs.settings import Settings
from kvs.store.core import StoreCore
from kvs.text import printable


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far a run has come, for a display."""

    jobs: int
    done: int
    running: int
    commands: int
    backups: int
    """Snapshots being written."""


def ignore_error(error: KvsError) -> None:
    """Leave `error` to the report."""


class JobRun:
    """A run of a directory's jobs: entered, it starts; left, it has ended.

    Whatever goes wrong in a job is given to `tell`, from the thread that met it, and stands in
    `report`. `stop`, `wait`, `progress` and `kill_children` may be called from any thread, `stop`
    also from a signal handler.
    """

    def __init__(
        self,
        store: StoreCore,
        path: str | bytes | os.PathLike[str],
        settings: Settings,
        tell: ErrorCallback = ignore_error,
    ) -> None:
        self._store = store
        self._threads = settings.threads
        self._directory = JobsDirectory(path)
        self._pool = WorkerPool(store, settings, tell)
        self.report = Report(printable(os.fsencode(path)), [])

    def __enter__(self) -> Self:
        """Lock the directory, list its jobs and start the workers.

        Raises:
            JobsDirectoryError: it is no directory, or cannot be listed or locked.
            DirectoryLockedError: another run is at work in it.
            ThreadStartError: not one worker could be started.
            JournalWriteError: the store's journal has failed before.

        """
        self._began = time.perf_counter()
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
            self._directory.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait for the end, after a stop if an exception came this way, and close the directory."""
        try:
            if error is not None:
                self.stop()
            self._wait_for_end()
        finally:
            self._directory.__exit__(kind, error, traceback)
        self.report.seconds = time.perf_counter() - self._began
        self.report.stopped = self._pool.stopping.is_set()
        if self._store.failure is None:
            self.report.revision = self._store.revision
        if self._pool.internal_error is not None:
            raise self._pool.internal_error

    def _wait_for_end(self) -> None:
        """Wait for the end; interrupted, stop the run and wait all the same."""
        try:
            self._pool.wait()
        except BaseException:
            self.stop()
            self._pool.wait()
            raise

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end, or for so many seconds; return whether the run has ended."""
        return self._pool.wait(seconds)

    def stop(self) -> None:
        """Let jobs end after the `execute` they are in; snapshots being written are finished."""
        self._pool.stop()

    def kill_children(self) -> None:
        """Leave nothing half done behind, for a process that is about to leave at once."""
        self._pool.snapshots.kill_children()
        self._directory.unlock()

    def progress(self) -> RunProgress:
        """Return how far the run has come."""
        states = [job.state for job in self.report.jobs]
        running = states.count(State.RUNNING)
        done = len(states) - running - states.count(State.WAITING)
        commands = self.report.commands
        return RunProgress(len(states), done, running, commands, self._pool.snapshots.in_flight)
