"""What came of a run, as data: one `JobReport` a job, one `BackupReport` a BACKUP.

Filled by the threads of the run, each job's by one thread at a time; read it when the run has
ended.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from kvs.errors import InvalidCommandError
from kvs.snapshot.writer import SnapshotInfo
from kvs.text import printable

MAX_REPORTED_ERRORS = 1_000
"""So many errors of one job are told and listed; the others are counted."""


class State(StrEnum):
    """How far a job has come."""

    WAITING = "not started"
    RUNNING = "running"
    DONE = "done"
    """Every line was carried out or refused as invalid."""
    DONE_BEFORE = "done before"
    """It was done when the data directory was opened, and was left alone."""
    STOPPED = "stopped"
    """The run was stopped before its end; its output is complete up to there."""
    FAILED = "failed"
    """It could not start or go on."""


@dataclass
class BackupReport:
    """One BACKUP of one job."""

    number: int
    """From 1 in each job."""
    line: int
    """Of the BACKUP in the job, from 1."""
    file: str
    """Its path, made printable."""
    info: SnapshotInfo | None = None
    """None if there is no snapshot: it failed, or its child is still at work."""
    failure: str | None = None
    """Why there is none, in one line."""
    written_before: bool = False
    """Whether it was written before the process began that goes on with the job."""

    @property
    def failed(self) -> bool:
        """Whether there is no snapshot."""
        return self.info is None and not self.written_before

    def to_dict(self) -> dict[str, Any]:
        """Return it as the objects of JSON; times are in seconds."""
        written = self.info
        return {
            "number": self.number,
            "line": self.line,
            "file": self.file,
            "written": not self.failed,
            "error": self.failure,
            "revision": written and written.revision,
            "pairs": written and written.pairs,
            "bytes": written and written.bytes,
            "seconds": written and round(written.seconds, 6),
            "blocked_seconds": written and round(written.blocked_seconds, 6),
        }


@dataclass
class JobReport:
    """One job."""

    name: bytes
    """Its name without ``.job``."""
    file: str
    """Its path, made printable."""
    state: State = State.WAITING
    commands: int = 0
    """Commands carried out."""
    invalid: int = 0
    """Invalid lines."""
    seconds: float = 0.0
    errors: list[InvalidCommandError] = field(default_factory=list)
    """The first `MAX_REPORTED_ERRORS` of its invalid lines."""
    backups: list[BackupReport] = field(default_factory=list)
    failure: str | None = None
    """Why it could not start or go on, in one line."""

    def add_error(self, error: InvalidCommandError) -> bool:
        """Count `error`; return whether it is one of those to be told."""
        self.invalid += 1
        told = len(self.errors) < MAX_REPORTED_ERRORS
        if told:
            self.errors.append(error)
        return told

    @property
    def errors_omitted(self) -> int:
        """Invalid lines that were counted only."""
        return self.invalid - len(self.errors)

    @property
    def backups_written(self) -> int:
        """How many of its snapshots are there; one that is being written is not."""
        return sum(not snapshot.failed for snapshot in self.backups)

    @property
    def backups_failed(self) -> int:
        """How many failed."""
        return sum(snapshot.failure is not None for snapshot in self.backups)

    @property
    def failed(self) -> bool:
        """Whether anything in it went wrong: the job, a line, or a snapshot."""
        return (
            self.state is State.FAILED
            or self.invalid > 0
            or any(snapshot.failed for snapshot in self.backups)
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as the objects of JSON; times are in seconds."""
        return {
            "name": printable(self.name),
            "file": self.file,
            "state": self.state.value,
            "failed": self.failed,
            "error": self.failure,
            "commands": self.commands,
            "invalid": self.invalid,
            "seconds": round(self.seconds, 6),
            "errors": [vars(error) for error in self.errors],
            "errors_omitted": self.errors_omitted,
            "backups": [snapshot.to_dict() for snapshot in self.backups],
        }


@dataclass
class Report:
    """A run of a directory of jobs."""

    directory: str
    """Its path, made printable."""
    jobs: list[JobReport]
    """In the order in which they were taken: byte order of the names."""
    seconds: float = 0.0
    stopped: bool = False
    """Whether the run was stopped before its end."""
    revision: int = 0
    """The store's, at the end."""

    @property
    def failed(self) -> bool:
        """Whether anything in any job went wrong."""
        return any(job.failed for job in self.jobs)

    @property
    def commands(self) -> int:
        """Commands carried out, over all jobs."""
        return sum(job.commands for job in self.jobs)

    def to_dict(self) -> dict[str, Any]:
        """Return it as the objects of JSON; times are in seconds."""
        return {
            "directory": self.directory,
            "failed": self.failed,
            "stopped": self.stopped,
            "seconds": round(self.seconds, 6),
            "commands": self.commands,
            "revision": self.revision,
            "jobs": [job.to_dict() for job in self.jobs],
        }
