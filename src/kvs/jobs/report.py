"""The results of a run as data: a `JobReport` per job, a `BackupReport` per BACKUP.

Threads: those of the run fill the reports, each job's by one thread at a time. Read them when the
run has ended.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from kvs.errors import InvalidCommandError, KvsError
from kvs.snapshot.writer import SnapshotInfo
from kvs.text import printable

MAX_REPORTED_ERRORS = 1_000
"""Maximum invalid lines per job that are reported and listed; the others are only counted."""

ErrorCallback = Callable[[KvsError], None]
"""Called with each error and warning when it occurs, from the thread that it occurs in."""


class State(StrEnum):
    """The state of a job."""

    WAITING = "not started"
    RUNNING = "running"
    DONE = "done"
    """Every line was executed or rejected as invalid."""
    DONE_BEFORE = "done before"
    """The job was finished when the data directory was opened, and was skipped."""
    STOPPED = "stopped"
    """The run was stopped before the end of the job; its output is complete up to that point."""
    FAILED = "failed"
    """The job could not start or continue."""


@dataclass
class BackupReport:
    """The backup that one BACKUP of one job makes."""

    number: int
    """Number of the backup, from 1 in each job."""
    line: int
    """Line of the BACKUP in the job, from 1."""
    file: str
    """Path of the backup, made printable."""
    info: SnapshotInfo | None = None
    """Revision, size and times; None if the backup failed or is still being written."""
    failure: str | None = None
    """Why the backup failed, in one line; None if it did not."""
    written_before: bool = False
    """Whether an earlier process wrote the backup, before the job was resumed."""

    @property
    def failed(self) -> bool:
        """Whether the backup does not exist."""
        return self.info is None and not self.written_before

    def to_dict(self) -> dict[str, Any]:
        """Return the report as objects of JSON; times are in seconds."""
        info = self.info
        return {
            "number": self.number,
            "line": self.line,
            "file": self.file,
            "written": not self.failed,
            "error": self.failure,
            "revision": info and info.revision,
            "pairs": info and info.pairs,
            "bytes": info and info.bytes,
            "seconds": info and round(info.seconds, 6),
            "blocked_seconds": info and round(info.blocked_seconds, 6),
        }


@dataclass
class JobReport:
    """The result of one job."""

    name: bytes
    """Name without ``.job``."""
    file: str
    """Path, made printable."""
    state: State = State.WAITING
    commands: int = 0
    """Number of commands executed."""
    invalid: int = 0
    """Number of invalid lines."""
    seconds: float = 0.0
    errors: list[InvalidCommandError] = field(default_factory=list)
    """The first `MAX_REPORTED_ERRORS` invalid lines."""
    backups: list[BackupReport] = field(default_factory=list)
    failure: str | None = None
    """Why the job could not start or continue, in one line."""

    def add_error(self, error: InvalidCommandError) -> bool:
        """Count `error`; return whether it is one of those to be reported."""
        self.invalid += 1
        is_reported = len(self.errors) < MAX_REPORTED_ERRORS
        if is_reported:
            self.errors.append(error)
        return is_reported

    @property
    def errors_omitted(self) -> int:
        """Number of invalid lines that were only counted."""
        return self.invalid - len(self.errors)

    @property
    def backups_written(self) -> int:
        """Number of backups that exist, those still being written excluded."""
        return sum(not backup.failed for backup in self.backups)

    @property
    def backups_failed(self) -> int:
        """Number of backups that failed."""
        return sum(backup.failure is not None for backup in self.backups)

    @property
    def failed(self) -> bool:
        """Whether the job failed, or any of its lines or backups."""
        return (
            self.state is State.FAILED
            or self.invalid > 0
            or any(backup.failed for backup in self.backups)
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the report as objects of JSON; times are in seconds."""
        return {
            "name": printable(self.name),
            "file": self.file,
            "state": self.state.value,
            "failed": self.failed,
            "error": self.failure,
            "commands": self.commands,
            "invalid": self.invalid,
            "seconds": round(self.seconds, 6),
            "errors": [
                {"file": each.path, "line": each.line, "column": each.column, "reason": each.reason}
                for each in self.errors
            ],
            "errors_omitted": self.errors_omitted,
            "backups": [backup.to_dict() for backup in self.backups],
        }


@dataclass
class Report:
    """The result of a run of a jobs directory."""

    directory: str
    """Path, made printable."""
    jobs: list[JobReport]
    """Reports in the order in which the jobs were started: byte order of their names."""
    seconds: float = 0.0
    stopped: bool = False
    """Whether the run was stopped before its end."""
    revision: int = 0
    """Revision of the store at the end of the run."""

    @property
    def failed(self) -> bool:
        """Whether any job, line or backup failed."""
        return any(job.failed for job in self.jobs)

    @property
    def commands(self) -> int:
        """Number of commands executed, over all jobs."""
        return sum(job.commands for job in self.jobs)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as objects of JSON; times are in seconds."""
        return {
            "directory": self.directory,
            "failed": self.failed,
            "stopped": self.stopped,
            "seconds": round(self.seconds, 6),
            "commands": self.commands,
            "revision": self.revision,
            "jobs": [job.to_dict() for job in self.jobs],
        }
