"""A pool of worker threads that run jobs, and the backup slots that the jobs share."""

import contextlib
from collections import deque
from collections.abc import Callable
from threading import Thread

from kvs.concurrency.flag import Flag
from kvs.concurrency.waiters import Waiters
from kvs.errors import ThreadStartError
from kvs.jobs.backups import BackupSlots
from kvs.jobs.directory import JobsDirectory
from kvs.jobs.job import Job, JobContext
from kvs.jobs.report import ErrorCallback
from kvs.settings import Settings
from kvs.store.core import StoreCore

THREAD_START_TIMEOUT_SECONDS = 1.0
"""Maximum seconds from the start of a thread, if the system gave one, to its first instruction."""

Work = Callable[[], None]
"""A call for a worker: it runs a job, or decides whether to."""


class WorkerPool:
    """Worker threads that make calls in the order in which they were added.

    Thread-safe; a signal handler may call `stop`, also within another call of `stop`.
    """

    def __init__(self, store: StoreCore, settings: Settings, on_error: ErrorCallback) -> None:
        self._store = store
        self._changed = Waiters()
        """The workers that wait for work, for `close` or for `stop`."""
        self._queue: deque[Work] = deque()
        self._closed = False
        self._leader_started = Flag()
        self._ended = Flag()
        self.backup_slots = BackupSlots(settings.backups, self.fail)
        self.stopping = Flag()
        """Set by `stop`."""
        self.internal_error: BaseException | None = None
        """The exception of a defect, which has stopped the pool; its owner raises it again."""
        self._context = JobContext(
            store, self.backup_slots, self.stopping, settings.resume, on_error
        )

    def job(self, directory: JobsDirectory, name: bytes) -> Job:
        """Return a job that stops with the pool and uses the pool's backup slots.

        The caller adds `Job.run`, or calls it from work that it added.
        """
        return Job(name, directory, self._context)

    def start(self, workers: int) -> None:
        """Start `workers` threads, or fewer if the system gives no more. Call it once.

        Raises:
            ThreadStartError: not one worker could be started.

        """
        leader = Thread(target=self._run_leader, args=(workers - 1,), name="kvs-job-0")
        try:
            leader.start()
        except RuntimeError as error:
            raise ThreadStartError from error
        except BaseException:  # interrupted: the thread may have been started nevertheless
            self.stop()
            if self._leader_started.wait(THREAD_START_TIMEOUT_SECONDS):
                self._ended.wait()
            raise

    def add(self, work: Work) -> None:
        """Have a worker call `work` once one is free, unless the pool is stopped before."""
        self._queue.append(work)
        self._changed.notify_all()

    def close(self) -> None:
        """Add no more work: the workers end when the queue is empty."""
        self._closed = True
        self._changed.notify_all()

    def stop(self) -> None:
        """Stop jobs after the `execute` they are in; the backups being written are finished."""
        self.stopping.set()
        self.backup_slots.stop()
        self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Stop because of a defect, and store the first such exception for the pool's owner."""
        if self.internal_error is None:
            self.internal_error = error
        self.stop()

    def wait(self, seconds: float | None = None) -> bool:
        """Block until workers and backups end, at most `seconds`; return whether they have."""
        return self._ended.wait(seconds)

    def _run_leader(self, others: int) -> None:
        """Start the other workers, work as they do, and wait for all of them and the backups."""
        self._leader_started.set()
        try:
            remove_callback = self._store.on_failure(lambda _: self.stop())
            workers = self._start_workers(others)
            self._run_worker()
            for worker in workers:
                worker.join()
            self.backup_slots.join()
            remove_callback()
        except BaseException as error:  # noqa: BLE001  (the owner of the pool raises it again)
            self.fail(error)
        finally:
            self._ended.set()

    def _start_workers(self, count: int) -> list[Thread]:
        """Start `count` workers, or fewer if the system gives no more; return them."""
        workers: list[Thread] = []
        try:
            for number in range(1, count + 1):
                worker = Thread(target=self._run_worker, name=f"kvs-job-{number}")
                worker.start()
                workers.append(worker)
        except RuntimeError:
            pass  # the system gives no more threads
        except BaseException as error:  # noqa: BLE001  (the owner of the pool raises it again)
            self.fail(error)
        return workers

    def _run_worker(self) -> None:
        try:
            while work := self._take_work():
                work()
        except BaseException as error:  # noqa: BLE001  (the owner of the pool raises it again)
            self.fail(error)

    def _take_work(self) -> Work | None:
        """Block until there is work, and return it; return None when the worker is to end."""
        while True:
            self._changed.wait_for(lambda: self._queue or self._closed or self.stopping.is_set())
            if self.stopping.is_set() or (self._closed and not self._queue):
                return None
            with contextlib.suppress(IndexError):  # another worker took it
                return self._queue.popleft()
