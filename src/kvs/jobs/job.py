"""One job: its file read in blocks, its commands carried out, its output written as it goes."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Event

from kvs.engine.interface import DEFAULT_BUDGET_BYTES, ExecuteResult, StopReason
from kvs.engine.selection import check
from kvs.errors import (
    BackupError,
    InvalidCommandError,
    JobError,
    JobOutputChangedWarning,
    JobRestartedWarning,
    JournalWriteError,
    KvsError,
    SnapshotError,
)
from kvs.jobs.backups import BackupSlots
from kvs.jobs.checkpoint import SYNC_INTERVAL_BYTES, JobCheckpoint, open_checkpoint
from kvs.jobs.directory import BACKUP_SUFFIX, JOB_SUFFIX, OUTPUT_SUFFIX, JobsDirectory
from kvs.jobs.input import line_blocks
from kvs.jobs.output import JobOutput
from kvs.jobs.report import BackupReport, JobReport, State
from kvs.language import grammar
from kvs.language.diagnostics import Diagnostic
from kvs.snapshot.writer import SnapshotInfo, SnapshotWriter
from kvs.store.core import StoreCore
from kvs.text import os_error_text

NEWLINE = ord("\n")

ErrorCallback = Callable[[KvsError], None]
"""Called with each error as it is met, from the thread that met it."""


class Job:
    """One job file on its way through the store; run by one thread.

    Fills `report`, which others may look at meanwhile.
    """

    def __init__(
        self,
        name: bytes,
        *,
        directory: JobsDirectory,
        store: StoreCore,
        snapshots: BackupSlots,
        stopping: Event,
        resume: bool,
        tell: ErrorCallback,
    ) -> None:
        self._name = name
        self._directory = directory
        self._store = store
        self._snapshots = snapshots
        self._stopping = stopping
        self._resume = resume
        self._tell = tell
        self._lines = 0
        """Lines carried out so far."""
        self.report = JobReport(name, directory.shown(name + JOB_SUFFIX))

    def run(self, file: int | None = None) -> None:
        """Carry the job out; what goes wrong is told, and is in the report.

        With `file`, what is read is that descriptor, opened by the caller, closed here.
        """
        began = time.perf_counter()
        self.report.state = State.RUNNING
        try:
            self.report.state = self._open_and_run(file)
        except JobError as failure:
            self._fail(failure)
        except JournalWriteError as failure:
            reason = f"the journal failed, and {failure.lost_after}"
            self._fail(JobError(self.report.file, reason))
        except MemoryError:
            self._fail(JobError(self.report.file, "there was not enough memory to go on"))
        self.report.seconds = time.perf_counter() - began

    def _fail(self, failure: JobError) -> None:
        self.report.state = State.FAILED
        self.report.failure = str(failure)
        self._tell(failure)

    def _open_and_run(self, file: int | None) -> State:
        job = self._directory.open_job(self._name) if file is None else file
        try:
            course = open_checkpoint(
                self._store, self._directory.descriptor, self._name, job, resume=self._resume
            )
            if course is not None and course.was_done:
                self._check_previous_output(course)
                return State.DONE_BEFORE
            if course is not None and course.changed:
                self._tell(JobRestartedWarning(self.report.file))
            output = self._open_output(job, course)
            try:
                finished = self._run_scripts(job, output, course)
                output.flush()
                if finished and course is not None:
                    self._mark_done(output, course)
            finally:
                output.close()
        finally:
            os.close(job)
        return State.DONE if finished else State.STOPPED

    def _check_previous_output(self, course: JobCheckpoint) -> None:
        """Tell if what a job that was done has written is not there any more."""
        reason = self._directory.output_changed(self._name, course.written)
        if reason is not None:
            self._tell(
                JobOutputChangedWarning(self._directory.shown(self._name + OUTPUT_SUFFIX), reason)
            )

    def _open_output(self, job: int, course: JobCheckpoint | None) -> JobOutput:
        """Open the output; of a job that is gone on with, it is made what it was."""
        keep = 0 if course is None else course.synced
        file = self._directory.open_output(self._name, job, keep)
        output = JobOutput(
            file, self._directory.shown(self._name + OUTPUT_SUFFIX), self._store, keep
        )
        if course is not None and course.output:
            try:
                output.write(course.output)
                output.flush()
            except BaseException:
                output.close()
                raise
        return output

    def _mark_done(self, output: JobOutput, course: JobCheckpoint) -> None:
        """Note that it is done, with its output on disk, even an empty one."""
        if self._store.syncs_to_disk:
            output.sync()
            self._directory.sync()
        course.done()

    def _run_scripts(self, job: int, output: JobOutput, course: JobCheckpoint | None) -> bool:
        """Run to the end, True, or to a stop, False."""
        scripts = line_blocks(job)
        base = 0
        before = 0 if course is None else course.offset
        while script := self._next(scripts):
            offset = min(max(0, before - base), len(script))
            if offset:
                self._skip_executed(script[:offset], course)
            while offset < len(script):
                if self._stopping.is_set():
                    return False
                mark = None if course is None else course.mark(base)
                pause = self._store.execute(script, offset, DEFAULT_BUDGET_BYTES, mark)
                self._report_faults(script, offset, pause.diagnostics)
                self.report.commands += pause.commands
                self._lines += pause.lines
                offset = pause.offset
                note = _PendingCheckpoint(course, base + offset, pause.uncheckpointed_output)
                if not self._handle_result(pause, output, note):
                    return False
                if course is not None:
                    self._throttle(output, course)
            base += len(script)
        return True

    def _handle_result(
        self, pause: ExecuteResult, output: JobOutput, note: "_PendingCheckpoint"
    ) -> bool:
        """Carry out what the engine leaves to its host; return False if stopped meanwhile.

        The end of the pause is noted before anything of it can be seen, so that it is not carried
        out a second time; of a WAIT when it is over.
        """
        if pause.reason is StopReason.WAIT:
            output.write(pause.output)
            output.flush()
            if self._stopping.wait(pause.wait_ms / 1000):
                return False
            note.commit()
            return True
        if pause.reason is StopReason.BACKUP:
            output.write(pause.output)
            output.flush()
            return self._backup(note)
        note.commit()
        output.write(pause.output)
        return True

    def _throttle(self, output: JobOutput, course: JobCheckpoint) -> None:
        """Bound what is on its way to the journal, and the output that it has to keep."""
        self._store.throttle()
        if output.size - course.synced > SYNC_INTERVAL_BYTES:
            if self._store.syncs_to_disk:
                output.sync()
                self._directory.sync()
            course.synced_to(output.size)

    def _skip_executed(self, script: bytes, course: JobCheckpoint | None) -> None:
        """Take in lines that were carried out before; their errors were told then."""
        checked = check(script)
        self.report.commands += checked.commands
        for match in grammar.LINE.finditer(script) if b"BACKUP" in script else ():
            if match.lastindex == grammar.BACKUP:
                line = self._lines + script.count(b"\n", 0, match.start()) + 1
                self._restore_backup_report(line, course)
        self._report_faults(script, 0, checked.diagnostics, tell=False)
        self._lines += script.count(b"\n") + (script[-1] != NEWLINE)

    def _restore_backup_report(self, line: int, course: JobCheckpoint | None) -> None:
        report = self._backup_report(line)
        if course is not None and report.number not in course.snapshots:
            self._report_backup_failure(
                report, "it was not finished when the process ended; it is lost"
            )
        else:
            report.written_before = True

    def _next(self, scripts: Iterator[bytes]) -> bytes:
        try:
            return next(scripts, b"")
        except OSError as error:
            raise JobError(self.report.file, f"cannot read it: {os_error_text(error)}") from error

    def _report_faults(
        self, script: bytes, start: int, found: list[Diagnostic], *, tell: bool = True
    ) -> None:
        """Take in the invalid lines of what begins at `start`."""
        line, counted = self._lines + 1, start
        for fault in found:
            line += script.count(b"\n", counted, fault.offset)
            counted = fault.offset
            error = InvalidCommandError(self.report.file, line, fault.column, fault.reason)
            if self.report.add_error(error) and tell:
                self._tell(error)

    def _backup_report(self, line: int) -> BackupReport:
        number = len(self.report.backups) + 1
        name = backup_name(self._name, number)
        report = BackupReport(number, line, self._directory.shown(name))
        self.report.backups.append(report)
        return report

    def _report_backup_failure(self, report: BackupReport, reason: str) -> None:
        failure = BackupError(self.report.file, report.line, report.number, reason)
        report.failure = str(failure)
        self._tell(failure)

    def _backup(self, note: "_PendingCheckpoint") -> bool:
        """Start a snapshot once there is a place for it; return False if stopped before."""
        if not self._snapshots.acquire_slot():
            self.report.commands -= 1
            return False
        try:
            note.commit()
        except BaseException:
            self._snapshots.release_slot()
            raise
        course = note.course
        report = self._backup_report(self._lines)

        def done(result: SnapshotInfo | SnapshotError) -> None:
            if isinstance(result, SnapshotInfo):
                report.info = result
            else:
                self._report_backup_failure(report, str(result))
            if course is not None:
                course.ended(report.number, written=isinstance(result, SnapshotInfo))

        name = backup_name(self._name, report.number)
        if course is not None:
            course.began()
        try:
            draft = SnapshotWriter(self._directory.descriptor, name, report.file)
        except SnapshotError as failure:
            self._snapshots.release_slot()
            done(failure)
            return True
        self._snapshots.begin(draft)
        try:
            self._store.fork_snapshot(draft)
            point = self._store.commit_point()
        except SnapshotError as failure:
            self._snapshots.end(draft)
            done(failure)
        except JournalWriteError as failure:
            draft.cancel()
            self._snapshots.end(draft)
            done(SnapshotError(report.file, str(failure)))
        else:
            self._snapshots.finish(draft, point.wait, done)
        return True


@dataclass(frozen=True, slots=True)
class _PendingCheckpoint:
    """How far a job will have come, and what it wrote that is not noted yet; None if all is."""

    course: JobCheckpoint | None
    offset: int
    untold: bytes | None

    def commit(self) -> None:
        """Note it."""
        if self.course is not None and self.untold is not None:
            self.course.advance(self.offset, self.untold)


def backup_name(job: bytes, number: int) -> bytes:
    """Return the name of a job's snapshot."""
    return b"%b-%d%b" % (job, number, BACKUP_SUFFIX)
