"""The backups that jobs make: their number at a time, and their reports."""

import contextlib
from collections.abc import Callable
from functools import partial
from threading import Lock, Thread

from kvs.concurrency.waiters import Waiters
from kvs.errors import BackupError, JournalWriteError, SnapshotError, StoreClosedError
from kvs.jobs.checkpoint import JobCheckpoint
from kvs.jobs.directory import BACKUP_SUFFIX, JobsDirectory
from kvs.jobs.report import BackupReport, ErrorCallback, JobReport
from kvs.language import grammar
from kvs.snapshot.writer import SnapshotInfo, SnapshotWriter
from kvs.store.core import StoreCore

BackupCallback = Callable[[SnapshotInfo | SnapshotError], None]
"""Called once for each backup, when it is durable or has failed, from any thread."""


class BackupSlots:
    """At most `limit` backups at a time, over all jobs.

    Thread-safe; a signal handler may call `stop`, and `kill_children` before the process exits.

    Locking: `_lock` guards the number of slots taken. It is a leaf, and `stop` does not take it.
    """

    def __init__(self, limit: int, on_internal_error: Callable[[BaseException], None]) -> None:
        """Create `limit` free slots.

        `on_internal_error` is called with an exception that no job handles, from any thread.
        """
        self._limit = limit
        self._on_internal_error = on_internal_error
        self._lock = Lock()
        self._slots_used = 0
        self._writers: dict[SnapshotWriter, JobsDirectory] = {}
        """The writers of the backups in flight, each with the directory that it writes in."""
        self._stopped = False
        self._changed = Waiters()
        """The threads that wait for a slot, or until no slot is taken."""

    @property
    def in_flight(self) -> int:
        """The number of backups being written."""
        return len(self._writers)

    def acquire(self) -> bool:
        """Block until a slot is free, and take it; return False if the run was stopped first."""
        while not self._stopped:
            with self._lock:
                if self._slots_used < self._limit:
                    self._slots_used += 1
                    return True
            self._changed.wait_for(lambda: self._stopped or self._slots_used < self._limit)
        return False

    def stop(self) -> None:
        """Give no more slots; the backups being written are finished."""
        self._stopped = True
        self._changed.notify_all()

    def register(self, writer: SnapshotWriter, directory: JobsDirectory) -> SnapshotWriter:
        """Return `writer`, which writes in `directory`; from now on its backup is in flight.

        `directory` must stay open until `is_writing_in` returns False.
        """
        self._writers[writer] = directory
        return writer

    def is_writing_in(self, directory: JobsDirectory) -> bool:
        """Return whether a backup in `directory` is in flight."""
        return directory in list(self._writers.values())

    def cancel(self, writer: SnapshotWriter | None) -> None:
        """Cancel `writer` if there is one, and free its slot unless that was done before."""
        try:
            if writer is not None:
                writer.cancel()
        finally:
            self._free(writer)

    def finish(
        self,
        writer: SnapshotWriter,
        wait_until_committed: Callable[[], None],
        on_end: BackupCallback,
    ) -> None:
        """Finish the forked `writer` on a thread of its own, call `on_end`, and free its slot.

        The file gets its name after `wait_until_committed`, which blocks until the changes that the
        backup holds are committed. After an exception, the caller calls `cancel`.
        """
        finish = partial(self._finish, writer, wait_until_committed, on_end)
        try:
            Thread(target=finish, name="kvs-backup").start()
        except RuntimeError:  # the system gives no thread: the caller waits itself
            finish()

    def _finish(
        self,
        writer: SnapshotWriter,
        wait_until_committed: Callable[[], None],
        on_end: BackupCallback,
    ) -> None:
        try:
            try:
                result: SnapshotInfo | SnapshotError = writer.finish(wait_until_committed)
            except SnapshotError as error:
                result = error
            except JournalWriteError as error:
                result = SnapshotError(writer.display_path, str(error))
            with contextlib.suppress(JournalWriteError):  # reported by what waits for the journal
                on_end(result)
        except BaseException as error:  # noqa: BLE001  (raised again when the run ends)
            self._on_internal_error(error)
        finally:
            self.cancel(writer)  # a finished file stays

    def _free(self, writer: SnapshotWriter | None) -> None:
        """Unregister `writer` if there is one, and free its slot unless that was done before."""
        with self._lock:
            if writer is not None:
                if writer not in self._writers:
                    return
                del self._writers[writer]
            self._slots_used -= 1
        self._changed.notify_all()

    def join(self) -> None:
        """Block until no slot is taken."""
        self._changed.wait_for(lambda: not self._slots_used)

    def kill_children(self) -> None:
        """Kill the children and remove their files, for a process about to exit."""
        for writer in list(self._writers):
            writer.kill_child()


class JobBackups:
    """The backups of one job: starts each, and reports how it ends.

    Threads: the job's thread; a thread of `slots` reports the end of a backup.
    """

    def __init__(
        self,
        report: JobReport,
        *,
        directory: JobsDirectory,
        store: StoreCore,
        slots: BackupSlots,
        checkpoint: JobCheckpoint,
        on_error: ErrorCallback,
    ) -> None:
        self._report = report
        self._directory = directory
        self._store = store
        self._slots = slots
        self._checkpoint = checkpoint
        self._on_error = on_error

    def start(self, line: int, record_progress: Callable[[], None]) -> bool:
        """Start the backup of the BACKUP at `line` once a slot is free; return False if stopped.

        `record_progress` is called before anything of the backup is visible, so that a resumed job
        does not make it a second time.

        Raises:
            JournalWriteError: the journal failed before the backup started.

        """
        if not self._slots.acquire():
            return False
        report: BackupReport | None = None
        writer: SnapshotWriter | None = None
        try:
            record_progress()
            report = self._add_report(line)
            self._checkpoint.backup_started()
            name = backup_name(self._report.name, report.number)
            writer = self._slots.register(
                SnapshotWriter(self._directory.descriptor, name, report.file), self._directory
            )
            self._store.fork_snapshot(writer)
            point = self._store.commit_point()
            self._slots.finish(writer, point.wait, partial(self._on_end, report))
        except BaseException as error:
            self._slots.cancel(writer)
            if report is None:
                raise
            if isinstance(error, JournalWriteError | StoreClosedError):
                error = SnapshotError(report.file, str(error))
            if not isinstance(error, SnapshotError):
                self._report_failure(report, "the job failed")
                raise
            self._on_end(report, error)
        return True

    def restore_reports(self, script: bytes, first_line: int) -> None:
        """Report the backups of a `script` at `first_line` that an earlier run executed."""
        for match in grammar.LINE.finditer(script) if b"BACKUP" in script else ():
            if match.lastindex == grammar.BACKUP:
                report = self._add_report(first_line + script.count(b"\n", 0, match.start()))
                if report.number in self._checkpoint.backups:
                    report.written_before = True
                else:
                    reason = "the process ended before it was complete"
                    self._report_failure(report, reason)

    def _add_report(self, line: int) -> BackupReport:
        number = len(self._report.backups) + 1
        path = self._directory.display_path_of(backup_name(self._report.name, number))
        report = BackupReport(number, line, path)
        self._report.backups.append(report)
        return report

    def _on_end(self, report: BackupReport, result: SnapshotInfo | SnapshotError) -> None:
        if isinstance(result, SnapshotInfo):
            report.info = result
        else:
            self._report_failure(report, str(result))
        self._checkpoint.backup_ended(report.number, written=report.info is not None)

    def _report_failure(self, report: BackupReport, reason: str) -> None:
        error = BackupError(self._report.file, reason, report.line, report.number)
        report.failure = str(error)
        self._on_error(error)


def backup_name(job: bytes, number: int) -> bytes:
    """Return the file name of the backup `number` of a job."""
    return b"%b-%d%b" % (job, number, BACKUP_SUFFIX)
