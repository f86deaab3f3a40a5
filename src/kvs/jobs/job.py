"""One job: its file is read in blocks, its commands are executed, its output is written."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from kvs.concurrency.flag import Flag
from kvs.engine.interface import DEFAULT_BUDGET_BYTES, ExecuteResult, StopReason
from kvs.engine.selection import check
from kvs.errors import (
    InvalidCommandError,
    JobError,
    JobOutputChangedWarning,
    JobRestartedWarning,
    JournalWriteError,
)
from kvs.jobs.backups import BackupSlots, JobBackups
from kvs.jobs.checkpoint import JobCheckpoint, open_checkpoint
from kvs.jobs.directory import JOB_SUFFIX, OUTPUT_SUFFIX, JobsDirectory
from kvs.jobs.input import line_blocks
from kvs.jobs.output import JobOutput
from kvs.jobs.report import ErrorCallback, JobReport, State
from kvs.language.diagnostics import Diagnostic, number_lines
from kvs.store.core import StoreCore
from kvs.text import os_error_text

NEWLINE = ord("\n")


@dataclass(frozen=True, slots=True)
class JobContext:
    """What all jobs of a pool share."""

    store: StoreCore
    backup_slots: BackupSlots
    stopping: Flag
    """Set to stop every job after the `execute` it is in."""
    resume: bool
    """Whether to resume unfinished jobs and skip finished ones."""
    on_error: ErrorCallback


class Job:
    """One job file to be executed. Threads: one; other threads may read `report` meanwhile."""

    def __init__(self, name: bytes, directory: JobsDirectory, context: JobContext) -> None:
        self._name = name
        self._directory = directory
        self._context = context
        self.report = JobReport(name, directory.display_path_of(name + JOB_SUFFIX))

    def run(self, file: int | None = None) -> None:
        """Execute the job; every error is in the report, and is given to `on_error`.

        With `file`, read that descriptor, which the caller opened, and close it.
        """
        started = time.perf_counter()
        self.report.state = State.RUNNING
        try:
            self.report.state = self._open_and_run(file)
        except JobError as error:
            self._fail(error)
        except JournalWriteError as error:
            self._fail(JobError(self.report.file, f"the journal failed, and {error.lost_after}"))
        except MemoryError:
            self._fail(JobError(self.report.file, "not enough memory to continue"))
        self.report.seconds = time.perf_counter() - started

    def _fail(self, error: JobError) -> None:
        self.report.state = State.FAILED
        self.report.failure = str(error)
        self._context.on_error(error)

    def _open_and_run(self, file: int | None) -> State:
        job = self._directory.open_job(self._name) if file is None else file
        try:
            return self._run(job)
        finally:
            os.close(job)

    def _run(self, job: int) -> State:
        context = self._context
        checkpoint = open_checkpoint(
            context.store, self._directory, self._name, job, resume=context.resume
        )
        if checkpoint.was_done:
            self._check_previous_output(checkpoint)
            return State.DONE_BEFORE
        if checkpoint.restarted:
            context.on_error(JobRestartedWarning(self.report.file))
        output = checkpoint.open_output(job)
        try:
            backups = JobBackups(
                self.report,
                directory=self._directory,
                store=context.store,
                slots=context.backup_slots,
                checkpoint=checkpoint,
                on_error=context.on_error,
            )
            execution = _Execution(self.report, context, checkpoint, output, backups)
            finished = execution.run(line_blocks(job))
            output.flush()
            if finished:
                checkpoint.sync(output)
        finally:
            output.close()
        if not finished:
            return State.STOPPED
        checkpoint.finish()  # after the close, which may be the first to report a failed write
        return State.DONE

    def _check_previous_output(self, checkpoint: JobCheckpoint) -> None:
        """Warn if the output is not what the finished job wrote."""
        reason = checkpoint.find_output_change()
        if reason is not None:
            path = self._directory.display_path_of(self._name + OUTPUT_SUFFIX)
            self._context.on_error(JobOutputChangedWarning(path, reason))


class _Execution:
    """The commands of one job on their way through the store. Threads: the job's."""

    def __init__(
        self,
        report: JobReport,
        context: JobContext,
        checkpoint: JobCheckpoint,
        output: JobOutput,
        backups: JobBackups,
    ) -> None:
        self._report = report
        self._context = context
        self._checkpoint = checkpoint
        self._output = output
        self._backups = backups
        self._line_count = 0
        """Lines executed or skipped so far."""

    def run(self, scripts: Iterator[bytes]) -> bool:
        """Execute `scripts` to their end, and return True; or to a stop, and return False."""
        base = 0
        while script := self._read_next(scripts):
            start = min(max(0, self._checkpoint.offset - base), len(script))
            if start:
                self._skip(script[:start])
            if not self._execute(script, start, base):
                return False
            base += len(script)
        return True

    def _read_next(self, scripts: Iterator[bytes]) -> bytes:
        try:
            return next(scripts, b"")
        except OSError as error:
            reason = f"cannot read it: {os_error_text(error)}"
            raise JobError(self._report.file, reason) from error

    def _skip(self, script: bytes) -> None:
        """Count lines that an earlier run executed, which also reported their errors."""
        checked = check(script)
        self._report.commands += checked.commands
        self._backups.restore_reports(script, self._line_count + 1)
        self._add_errors(script, 0, checked.diagnostics)
        self._line_count += script.count(b"\n") + (script[-1] != NEWLINE)

    def _execute(self, script: bytes, offset: int, base: int) -> bool:
        """Execute `script`, which is at byte `base` of the job; return False if stopped."""
        while offset < len(script):
            if self._context.stopping.is_set():
                return False
            cursor = self._checkpoint.begin_call(base, self._line_count + 1)
            result = self._context.store.execute(script, offset, DEFAULT_BUDGET_BYTES, cursor)
            for error in self._add_errors(script, offset, result.diagnostics):
                self._context.on_error(error)
            self._report.commands += result.commands
            self._line_count += result.lines
            offset = result.offset
            record_progress = partial(
                self._checkpoint.advance, base + offset, result.uncheckpointed_output
            )
            if not self._complete(result, record_progress):
                return False
            self._checkpoint.throttle(self._output)
        return True

    def _complete(self, result: ExecuteResult, record_progress: Callable[[], None]) -> bool:
        """Write the output, wait or start a backup; return False if stopped meanwhile.

        Progress is recorded before the output is visible and before a backup starts, so that a
        resumed job does neither twice; past a WAIT only when the wait has ended.
        """
        if result.reason is StopReason.WAIT:
            self._output.write(result.output)
            self._output.flush()
            if self._context.stopping.wait(result.wait_ms / 1000):
                return False
            record_progress()
        elif result.reason is StopReason.BACKUP:
            self._output.write(result.output)
            self._output.flush()
            if not self._backups.start(self._line_count, record_progress):
                self._report.commands -= 1
                return False
        else:
            record_progress()
            self._output.write(result.output)
        return True

    def _add_errors(
        self, script: bytes, start: int, diagnostics: list[Diagnostic]
    ) -> list[InvalidCommandError]:
        """Count invalid lines of a `script` executed from `start`; return those to be reported."""
        reported = []
        for line, diagnostic in number_lines(diagnostics, script, start, self._line_count + 1):
            error = InvalidCommandError(
                self._report.file, diagnostic.reason, line, diagnostic.column
            )
            if self._report.add_error(error):
                reported.append(error)
        return reported
