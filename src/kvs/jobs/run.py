"""A run: the jobs of a directory, in order of name, on worker threads, against one store."""

import contextlib
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

BEGIN_SECONDS = 1.0
"""A thread that was started has begun within this time; else it never was."""


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
        self._snapshots = Snapshots(settings.backups, self._fail)
        self._stopping = Event()
        self._begun = Event()
        self._ended = Event()
        self._taking = Lock()
        self._jobs: Iterator[Job] = iter(())  # guarded by _taking
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
            self._start(max(1, min(self._threads, len(jobs))))
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
        self.report.stopped = self._stopping.is_set()
        self.report.revision = self._store.revision
        if self._defect is not None:
            raise self._defect

    def _wait_for_end(self) -> None:
        """Wait for the end; interrupted, stop the run and wait all the same."""
        try:
            self._ended.wait()
        except BaseException:
            self.stop()
            self._ended.wait()
            raise

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
        """Start the first worker, which starts the others.

        Only this one start can be interrupted (KeyboardInterrupt comes to the main thread alone),
        and then the run is stopped and at its end before the exception goes on.
        """
        first = Thread(target=self._lead, args=(workers - 1,), name="kvs-job-0")
        try:
            first.start()
        except RuntimeError as error:
            raise NoThread from error
        except BaseException:
            self.stop()
            if self._begun.wait(BEGIN_SECONDS):
                self._wait_for_end()
            raise

    def _lead(self, others: int) -> None:
        """Work, with so many others or as many as there are threads to be had, and end the run."""
        self._begun.set()
        workers: list[Thread] = []
        with contextlib.suppress(RuntimeError):  # no more threads to be had
            for number in range(others):
                worker = Thread(target=self._work, name=f"kvs-job-{number + 1}")
                worker.start()
                workers.append(worker)
        self._work()
        for worker in workers:
            worker.join()
        self._snapshots.join()
        self._ended.set()

    def _work(self) -> None:
        try:
            while not self._stopping.is_set() and (job := self._next()):
                job.run()
        except BaseException as defect:  # noqa: BLE001  (raised again where the run is left)
            self._fail(defect)

    def _fail(self, defect: BaseException) -> None:
        self._defect = defect
        self.stop()

    def _next(self) -> Job | None:
        with self._taking:
            return next(self._jobs, None)
