"""A run: the jobs of a directory, in order of name, on worker threads, against one store."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Self

from kvs.errors import KvsError, NoThread, shown
from kvs.jobs.directory import JobsDirectory
from kvs.jobs.job import Job, Tell
from kvs.jobs.report import Report, State
from kvs.jobs.snapshots import Snapshots
from kvs.settings import Settings
from kvs.store import Store


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come, for a display."""

    jobs: int
    done: int
    running: int
    commands: int
    snapshots: int
    """Snapshots being written."""


def tell_nobody(error: KvsError) -> None:
    """Leave `error` to the report."""


class Run:
    """A run of a directory's jobs: entered, it starts; left, it has ended.

    Whatever goes wrong in a job is given to `tell`, from the thread that met it, and stands in
    `report`. `stop`, `wait`, `progress` and `abandon` may be called from any thread, `stop` also
    from a signal handler.
    """

    def __init__(
        self,
        store: Store,
        path: str | bytes | os.PathLike[str],
        settings: Settings,
        tell: Tell = tell_nobody,
    ) -> None:
        self._store = store
        self._threads = settings.threads
        self._tell = tell
        self._directory = JobsDirectory(path)
        self._snapshots = Snapshots(settings.backups)
        self._stopping = Event()
        self._ended = Event()
        self._lock = Lock()
        self._jobs: Iterator[Job] = iter(())  # guarded by _lock
        self._busy = 0  # workers not yet at their end; guarded by _lock
        self._defect: BaseException | None = None
        self.report = Report(shown(os.fsencode(path)), [])

    def __enter__(self) -> Self:
        """Lock the directory, list its jobs and start the workers.

        Raises:
            DirectoryUnusable: it is no directory, or cannot be listed or locked.
            DirectoryInUse: another run is at work in it.
            NoThread: not one worker could be started.

        """
        self._began = time.perf_counter()
        self._directory.__enter__()
        try:
            self._directory.lock()
            jobs = [self._job(name) for name in self._directory.names()]
            self.report.jobs = [job.report for job in jobs]
            self._jobs = iter(jobs)
            self._start(min(self._threads, len(jobs)))
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
        if error is not None:
            self.stop()
        self._ended.wait()
        self._directory.__exit__(kind, error, traceback)
        self.report.seconds = time.perf_counter() - self._began
        self.report.stopped = self._stopping.is_set()
        self.report.revision = self._store.revision
        if self._defect is not None:
            raise self._defect

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end, or for so many seconds; return whether the run has ended."""
        return self._ended.wait(seconds)

    def stop(self) -> None:
        """Let jobs end after the `execute` they are in; snapshots being written are finished."""
        self._stopping.set()
        self._snapshots.stop()

    def abandon(self) -> None:
        """Leave nothing half done behind, for a process that is about to leave at once."""
        self._snapshots.abandon()
        self._directory.unlock()

    def progress(self) -> Progress:
        """Return how far the run has come."""
        states = [job.state for job in self.report.jobs]
        running = states.count(State.RUNNING)
        done = len(states) - running - states.count(State.WAITING)
        commands = self.report.commands
        return Progress(len(states), done, running, commands, self._snapshots.in_flight)

    def _job(self, name: bytes) -> Job:
        return Job(
            name,
            directory=self._directory,
            store=self._store,
            snapshots=self._snapshots,
            stopping=self._stopping,
            tell=self._tell,
        )

    def _start(self, workers: int) -> None:
        """Start the workers, or as many as there are threads to be had, one at least."""
        if not workers:
            self._ended.set()
        self._busy = workers
        for started in range(workers):
            try:
                Thread(target=self._work, name=f"kvs-job-{started}").start()
            except RuntimeError as error:
                if not started:
                    raise NoThread from error
                self._leave(workers - started)
                return

    def _work(self) -> None:
        try:
            while not self._stopping.is_set() and (job := self._next()):
                job.run()
        except BaseException as defect:  # noqa: BLE001  (raised again where the run is left)
            self._defect = defect
            self.stop()
        self._leave(1)

    def _next(self) -> Job | None:
        with self._lock:
            return next(self._jobs, None)

    def _leave(self, workers: int) -> None:
        """Count off `workers`; the last one waits for the snapshots and ends the run."""
        with self._lock:
            self._busy -= workers
            last = not self._busy
        if last:
            self._snapshots.join()
            self._ended.set()
