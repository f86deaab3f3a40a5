"""One job: its file read in blocks, its commands carried out, its output written as it goes."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from threading import Event

from kvs.engine.boundary import Pause, Reason
from kvs.errors import (
    BackupFailed,
    InvalidCommand,
    JobFailed,
    KvsError,
    SnapshotFailed,
    cause,
)
from kvs.files import write_all
from kvs.jobs.blocks import line_blocks
from kvs.jobs.directory import BACKUP, JOB, OUTPUT, JobsDirectory
from kvs.jobs.report import JobReport, SnapshotReport, State
from kvs.jobs.snapshots import Snapshots
from kvs.snapshot.write import Draft, Written
from kvs.store import Store

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
        tell: Tell,
    ) -> None:
        self._name = name
        self._directory = directory
        self._store = store
        self._snapshots = snapshots
        self._stopping = stopping
        self._tell = tell
        self._lines = 0
        """Lines carried out so far."""
        self._written = 0
        """Bytes of output written so far."""
        self.report = JobReport(name, directory.shown(name + JOB))

    def run(self, file: int | None = None) -> None:
        """Carry the job out; what goes wrong is told, and is in the report.

        With `file`, what is read is that descriptor, opened by the caller, closed here.
        """
        began = time.perf_counter()
        self.report.state = State.RUNNING
        try:
            finished = self._open_and_run(file)
            self.report.state = State.DONE if finished else State.STOPPED
        except JobFailed as failure:
            self._fail(failure)
        except MemoryError:
            self._fail(JobFailed(self.report.file, "there was not enough memory to go on"))
        self.report.seconds = time.perf_counter() - began

    def _fail(self, failure: JobFailed) -> None:
        self.report.state = State.FAILED
        self.report.failure = str(failure)
        self._tell(failure)

    def _open_and_run(self, file: int | None) -> bool:
        job = self._directory.open_job(self._name) if file is None else file
        try:
            output = self._directory.open_output(self._name, job)
            try:
                return self._run_scripts(job, output)
            finally:
                self._close(output)
        finally:
            os.close(job)

    def _run_scripts(self, job: int, output: int) -> bool:
        """Run to the end, True, or to a stop, False."""
        scripts = line_blocks(job)
        while script := self._next(scripts):
            offset = 0
            while offset < len(script):
                if self._stopping.is_set():
                    return False
                pause = self._store.execute(script, offset)
                self._account(script, offset, pause)
                self._write(output, pause.output)
                offset = pause.offset
                if pause.reason is Reason.WAIT:
                    if self._stopping.wait(pause.milliseconds / 1000):
                        return False
                elif pause.reason is Reason.BACKUP:
                    line = self._lines + (script[offset - 1] != NEWLINE)
                    if not self._backup(line):
                        return False
        return True

    def _next(self, scripts: Iterator[bytes]) -> bytes:
        try:
            return next(scripts, b"")
        except OSError as error:
            raise JobFailed(self.report.file, f"cannot read it: {cause(error)}") from error

    def _write(self, output: int, text: bytes) -> None:
        """Append to the output; when that fails, no part of `text` stays in it."""
        try:
            write_all(output, text)
            self._written += len(text)
        except OSError as error:
            with contextlib.suppress(OSError):  # what is told is why it could not be written
                os.ftruncate(output, self._written)
            name = self._directory.shown(self._name + OUTPUT)
            raise JobFailed(name, f"cannot write the output: {cause(error)}") from error

    def _close(self, output: int) -> None:
        """Close the output; some filesystems tell only now that they could not write it."""
        try:
            os.close(output)
        except OSError as error:
            name = self._directory.shown(self._name + OUTPUT)
            raise JobFailed(name, f"cannot write the output: {cause(error)}") from error

    def _account(self, script: bytes, start: int, pause: Pause) -> None:
        self.report.commands += pause.commands
        counted = start
        for fault in pause.faults:
            self._lines += script.count(b"\n", counted, fault.offset)
            counted = fault.offset
            error = InvalidCommand(self.report.file, self._lines + 1, fault.column, fault.reason)
            if self.report.add_error(error):
                self._tell(error)
        self._lines += script.count(b"\n", counted, pause.offset)

    def _backup(self, line: int) -> bool:
        """Start a snapshot once there is a place for it; return False if stopped before."""
        if not self._snapshots.take_place():
            self.report.commands -= 1
            return False
        number = len(self.report.snapshots) + 1
        name = b"%b-%d%b" % (self._name, number, BACKUP)
        report = SnapshotReport(number, line, self._directory.shown(name))
        self.report.snapshots.append(report)

        def done(result: Written | SnapshotFailed) -> None:
            if isinstance(result, Written):
                report.written = result
            else:
                failure = BackupFailed(self.report.file, line, number, str(result))
                report.failure = str(failure)
                self._tell(failure)

        try:
            draft = Draft(self._directory.descriptor, name, report.file)
        except SnapshotFailed as failure:
            self._snapshots.give_place_back()
            done(failure)
            return True
        self._snapshots.begin(draft)
        try:
            self._store.fork_snapshot(draft)
        except SnapshotFailed as failure:
            self._snapshots.end(draft)
            done(failure)
        else:
            self._snapshots.finish(draft, done)
        return True
