"""A pool: worker threads that take what there is to do, and the places for snapshots."""

import contextlib
from collections import deque
from collections.abc import Callable
from threading import Condition, Event, Thread

from kvs.errors import ThreadStartError
from kvs.jobs.backups import BackupSlots
from kvs.jobs.directory import JobsDirectory
from kvs.jobs.job import ErrorCallback, Job
from kvs.settings import Settings
from kvs.store.core import StoreCore

THREAD_START_TIMEOUT_SECONDS = 1.0
"""A thread that was started has begun within this time; else it never was."""

Work = Callable[[], None]
"""A job to be carried out, or what leads to one."""


class WorkerPool:
    """Workers on threads of their own, which carry out work in the order in which it was added.

    Thread-safe; `stop` also from a signal handler. `_changed` guards the work not yet taken, and
    whether more may come.
    """

    def __init__(self, store: StoreCore, settings: Settings, tell: ErrorCallback) -> None:
        self._store = store
        self._tell = tell
        self._resume = settings.resume
        self._changed = Condition()
        self._work: deque[Work] = deque()
        self._closed = False
        self._begun = Event()
        self._ended = Event()
        self.snapshots = BackupSlots(settings.backups, self.fail)
        self.stopping = Event()
        """Set by `stop`."""
        self.internal_error: BaseException | None = None
        """What should never happen and did; it has stopped the pool, whose owner raises it."""

    def job(self, directory: JobsDirectory, name: bytes) -> Job:
        """Return a job that is stopped when the pool is, with its snapshots in the pool's places.

        It is yet to be added, or to be run by work that was.
        """
        return Job(
            name,
            directory=directory,
            store=self._store,
            snapshots=self.snapshots,
            stopping=self.stopping,
            resume=self._resume,
            tell=self._tell,
        )

    def start(self, workers: int) -> None:
        """Start so many workers, or as many as there are threads to be had; call it once.

        Raises:
            ThreadStartError: not one worker could be started.

        """
        leader = Thread(target=self._run_leader, args=(workers - 1,), name="kvs-job-0")
        try:
            leader.start()
        except RuntimeError as error:
            raise ThreadStartError from error
        except BaseException:  # interrupted: the thread may be there all the same
            self.stop()
            if self._begun.wait(THREAD_START_TIMEOUT_SECONDS):
                self._ended.wait()
            raise

    def add(self, work: Work) -> None:
        """Let a worker carry out `work` once one is free; not if the pool is stopped before."""
        with self._changed:
            self._work.append(work)
            self._changed.notify()

    def close(self) -> None:
        """Let the workers end when nothing is left to do: nothing is added any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Let jobs end after the `execute` they are in; snapshots being written are finished."""
        self.stopping.set()
        self.snapshots.stop()
        with self._changed:
            self._changed.notify_all()

    def fail(self, defect: BaseException) -> None:
        """Stop for what should never happen, and keep it for who owns the pool."""
        self.internal_error = defect
        self.stop()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait, so many seconds at most, until workers and snapshots ended; return whether so."""
        return self._ended.wait(seconds)

    def _run_leader(self, others: int) -> None:
        """Start the other workers, be one, wait for all of them and the snapshots."""
        self._begun.set()
        end_telling = self._store.on_failure(lambda _: self.stop())
        workers: list[Thread] = []
        with contextlib.suppress(RuntimeError):  # no more threads to be had
            for number in range(1, others + 1):
                worker = Thread(target=self._run_work, name=f"kvs-job-{number}")
                worker.start()
                workers.append(worker)
        self._run_work()
        for worker in workers:
            worker.join()
        self.snapshots.join()
        end_telling()
        self._ended.set()

    def _run_work(self) -> None:
        try:
            while work := self._take_work():
                work()
        except BaseException as defect:  # noqa: BLE001  (raised again by who owns the pool)
            self.fail(defect)

    def _take_work(self) -> Work | None:
        """Wait for work; return None at the end of it."""
        with self._changed:
            self._changed.wait_for(lambda: self._work or self._closed or self.stopping.is_set())
            if self.stopping.is_set() or not self._work:
                return None
            return self._work.popleft()
