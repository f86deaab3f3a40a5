"""One job: its file read in blocks, its commands carried out, its output written as it goes."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Event

from kvs.engine.interface import BUDGET, Pause, Reason
from kvs.engine.selection import check
from kvs.errors import (
    BackupFailed,
    InvalidCommand,
    JobFailed,
    JobStartsOver,
    JournalFailed,
    KvsError,
    OutputChanged,
    SnapshotFailed,
    cause,
)
from kvs.jobs.backups import Snapshots
from kvs.jobs.checkpoint import SYNCED_BYTES, Course, begin
from kvs.jobs.directory import BACKUP, JOB, OUTPUT, JobsDirectory
from kvs.jobs.input import line_blocks
from kvs.jobs.output import Output
from kvs.jobs.report import JobReport, SnapshotReport, State
from kvs.language import grammar
from kvs.language.diagnostics import Fault
from kvs.snapshot.writer import Draft, Written
from kvs.store.core import Store

NEWLINE = ord("\n")

Tell = Callable[[KvsError], None]
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
        store: Store,
        snapshots: Snapshots,
        stopping: Event,
        resume: bool,
        tell: Tell,
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
        self.report = JobReport(name, directory.shown(name + JOB))

    def run(self, file: int | None = None) -> None:
        """Carry the job out; what goes wrong is told, and is in the report.

        With `file`, what is read is that descriptor, opened by the caller, closed here.
        """
        began = time.perf_counter()
        self.report.state = State.RUNNING
        try:
            self.report.state = self._open_and_run(file)
        except JobFailed as failure:
            self._fail(failure)
        except JournalFailed as failure:
            reason = f"the journal failed, and {failure.lost_after}"
            self._fail(JobFailed(self.report.file, reason))
        except MemoryError:
            self._fail(JobFailed(self.report.file, "there was not enough memory to go on"))
        self.report.seconds = time.perf_counter() - began

    def _fail(self, failure: JobFailed) -> None:
        self.report.state = State.FAILED
        self.report.failure = str(failure)
        self._tell(failure)

    def _open_and_run(self, file: int | None) -> State:
        job = self._directory.open_job(self._name) if file is None else file
        try:
            course = begin(
                self._store, self._directory.descriptor, self._name, job, resume=self._resume
            )
            if course is not None and course.was_done:
                self._look_at_output(course)
                return State.DONE_BEFORE
            if course is not None and course.changed:
                self._tell(JobStartsOver(self.report.file))
            output = self._open_output(job, course)
            try:
                finished = self._run_scripts(job, output, course)
                output.settle()
                if finished and course is not None:
                    self._end(output, course)
            finally:
                output.close()
        finally:
            os.close(job)
        return State.DONE if finished else State.STOPPED

    def _look_at_output(self, course: Course) -> None:
        """Tell if what a job that was done has written is not there any more."""
        reason = self._directory.output_changed(self._name, course.written)
        if reason is not None:
            self._tell(OutputChanged(self._directory.shown(self._name + OUTPUT), reason))

    def _open_output(self, job: int, course: Course | None) -> Output:
        """Open the output; of a job that is gone on with, it is made what it was."""
        keep = 0 if course is None else course.synced
        file = self._directory.open_output(self._name, job, keep)
        output = Output(file, self._directory.shown(self._name + OUTPUT), self._store, keep)
        if course is not None and course.output:
            try:
                output.put(course.output)
                output.settle()
            except BaseException:
                output.close()
                raise
        return output

    def _end(self, output: Output, course: Course) -> None:
        """Note that it is done, with its output on disk, even an empty one."""
        if self._store.syncs:
            output.sync()
            self._directory.sync()
        course.done()

    def _run_scripts(self, job: int, output: Output, course: Course | None) -> bool:
        """Run to the end, True, or to a stop, False."""
        scripts = line_blocks(job)
        base = 0
        before = 0 if course is None else course.offset
        while script := self._next(scripts):
            offset = min(max(0, before - base), len(script))
            if offset:
                self._pass_over(script[:offset], course)
            while offset < len(script):
                if self._stopping.is_set():
                    return False
                mark = None if course is None else course.mark(base)
                pause = self._store.execute(script, offset, BUDGET, mark)
                self._account(script, offset, pause.faults)
                self.report.commands += pause.commands
                self._lines += pause.lines
                offset = pause.offset
                note = _Note(course, base + offset, pause.untold)
                if not self._carry_out(pause, output, note):
                    return False
                if course is not None:
                    self._keep_up(output, course)
            base += len(script)
        return True

    def _carry_out(self, pause: Pause, output: Output, note: "_Note") -> bool:
        """Carry out what the engine leaves to its host; return False if stopped meanwhile.

        The end of the pause is noted before anything of it can be seen, so that it is not carried
        out a second time; of a WAIT when it is over.
        """
        if pause.reason is Reason.WAIT:
            output.put(pause.output)
            output.settle()
            if self._stopping.wait(pause.milliseconds / 1000):
                return False
            note.take_down()
            return True
        if pause.reason is Reason.BACKUP:
            output.put(pause.output)
            output.settle()
            return self._backup(note)
        note.take_down()
        output.put(pause.output)
        return True

    def _keep_up(self, output: Output, course: Course) -> None:
        """Bound what is on its way to the journal, and the output that it has to keep."""
        self._store.keep_pace()
        if output.size - course.synced > SYNCED_BYTES:
            if self._store.syncs:
                output.sync()
                self._directory.sync()
            course.synced_to(output.size)

    def _pass_over(self, script: bytes, course: Course | None) -> None:
        """Take in lines that were carried out before; their errors were told then."""
        checked = check(script)
        self.report.commands += checked.commands
        for match in grammar.LINE.finditer(script) if b"BACKUP" in script else ():
            if match.lastindex == grammar.BACKUP:
                line = self._lines + script.count(b"\n", 0, match.start()) + 1
                self._backup_before(line, course)
        self._account(script, 0, checked.faults, tell=False)
        self._lines += script.count(b"\n") + (script[-1] != NEWLINE)

    def _backup_before(self, line: int, course: Course | None) -> None:
        report = self._snapshot_report(line)
        if course is not None and report.number not in course.snapshots:
            self._lost(report, "it was not finished when the process ended; it is lost")
        else:
            report.written_before = True

    def _next(self, scripts: Iterator[bytes]) -> bytes:
        try:
            return next(scripts, b"")
        except OSError as error:
            raise JobFailed(self.report.file, f"cannot read it: {cause(error)}") from error

    def _account(self, script: bytes, start: int, found: list[Fault], *, tell: bool = True) -> None:
        """Take in the invalid lines of what begins at `start`."""
        line, counted = self._lines + 1, start
        for fault in found:
            line += script.count(b"\n", counted, fault.offset)
            counted = fault.offset
            error = InvalidCommand(self.report.file, line, fault.column, fault.reason)
            if self.report.add_error(error) and tell:
                self._tell(error)

    def _snapshot_report(self, line: int) -> SnapshotReport:
        number = len(self.report.snapshots) + 1
        name = snapshot_name(self._name, number)
        report = SnapshotReport(number, line, self._directory.shown(name))
        self.report.snapshots.append(report)
        return report

    def _lost(self, report: SnapshotReport, reason: str) -> None:
        failure = BackupFailed(self.report.file, report.line, report.number, reason)
        report.failure = str(failure)
        self._tell(failure)

    def _backup(self, note: "_Note") -> bool:
        """Start a snapshot once there is a place for it; return False if stopped before."""
        if not self._snapshots.take_place():
            self.report.commands -= 1
            return False
        try:
            note.take_down()
        except BaseException:
            self._snapshots.give_place_back()
            raise
        course = note.course
        report = self._snapshot_report(self._lines)

        def done(result: Written | SnapshotFailed) -> None:
            if isinstance(result, Written):
                report.written = result
            else:
                self._lost(report, str(result))
            if course is not None:
                course.ended(report.number, written=isinstance(result, Written))

        name = snapshot_name(self._name, report.number)
        if course is not None:
            course.began()
        try:
            draft = Draft(self._directory.descriptor, name, report.file)
        except SnapshotFailed as failure:
            self._snapshots.give_place_back()
            done(failure)
            return True
        self._snapshots.begin(draft)
        try:
            self._store.fork_snapshot(draft)
            until_safe = self._store.until_safe()
        except SnapshotFailed as failure:
            self._snapshots.end(draft)
            done(failure)
        else:
            self._snapshots.finish(draft, until_safe, done)
        return True


@dataclass(frozen=True, slots=True)
class _Note:
    """How far a job will have come, and what it wrote that is not noted yet; None if all is."""

    course: Course | None
    offset: int
    untold: bytes | None

    def take_down(self) -> None:
        """Note it."""
        if self.course is not None and self.untold is not None:
            self.course.came_to(self.offset, self.untold)


def snapshot_name(job: bytes, number: int) -> bytes:
    """Return the name of a job's snapshot."""
    return b"%b-%d%b" % (job, number, BACKUP)
