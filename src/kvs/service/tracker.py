"""The ledger of a watched directory: which of its jobs were run, and which are to be run.

Pure: signs go in, names that are due come out; no files, no clocks. Two things are always true: a
job is with one worker at a time, from `take_due` until `ended`; and what is told of a job before
`opened` is what is run, while what is told after it makes the job due again.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Self

from kvs.jobs.directory import JOB_SUFFIX, is_job
from kvs.posix.inotify import FileEvent


class FileVersion(NamedTuple):
    """What a job's file was when it was opened; the digest is of its contents."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int
    """Modified and changed: times in nanoseconds."""
    digest: bytes | None = None
    """None if it could not be read to its end."""

    def is_untouched_since(self, other: "FileVersion") -> bool:
        """Tell whether it is the same file, of the same times: its contents need not be read."""
        return self[:5] == other[:5]

    def has_contents_of(self, other: "FileVersion") -> bool:
        """Tell whether it is the same file, and holds the same, whatever its times are."""
        same_file = self[:3] == other[:3]
        return same_file and self.digest is not None and self.digest == other.digest

    @classmethod
    def of(cls, found: os.stat_result, digest: bytes | None = None) -> Self:
        """Return the version that stat(2) tells of."""
        return cls(
            found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, digest
        )


@dataclass
class _Entry:
    last_run: FileVersion | None = None
    """What was last given to a run."""
    exists: bool = True
    new: bool = True
    """Something was written or put there since `last_run`: it is run, whatever it holds."""
    created: bool = False
    """It was made there, and nothing since tells that its maker is done with it."""
    busy: bool = False
    """With a worker."""
    announced: bool = False
    """It was told as found since the last run."""
    events: int = 0
    """How many there were; it shows whether there were any meanwhile."""


class JobTracker:
    """The jobs of one directory. Not thread-safe: its owner locks."""

    def __init__(self) -> None:
        self._entries: dict[bytes, _Entry] = {}
        self._due: dict[bytes, None] = {}  # in order of coming
        self._being_written: dict[bytes, None] = {}

    # What is told, by the kernel or by a look at the directory.

    def on_event(self, sign: FileEvent, file: bytes) -> None:
        """Take in a sign of the entry `file`; an entry that is not a job is ignored."""
        if not is_job(file):
            return
        name = file.removesuffix(JOB_SUFFIX)
        entry = self._entries.setdefault(name, _Entry())
        entry.events += 1
        if sign is FileEvent.MODIFIED:
            entry.new = True
            return
        self._being_written.pop(name, None)
        if sign is FileEvent.REMOVED:
            self._left(name)
            return
        entry.exists = True
        if sign is not FileEvent.CLOSED_AFTER_WRITE:
            entry.new = True
        entry.created = sign is FileEvent.CREATED
        self._due[name] = None

    def on_listing(self, names: Iterable[bytes]) -> None:
        """Take in that these, and no other jobs, are there; signs may have been lost before."""
        there = dict.fromkeys(names)
        for name in self._entries.keys() - there.keys():
            self._left(name)
        self._being_written.clear()
        for name in there:
            entry = self._entries.setdefault(name, _Entry())
            entry.exists = True
            entry.created = False
        self._due = {**there, **self._due}

    def requeue_busy(self) -> None:
        """Let those that were being written be tried again."""
        self._due.update(self._being_written)
        self._being_written.clear()

    # Their way through a worker: due, opened, perhaps refused or unchanged, ended.

    def take_due(self) -> list[tuple[bytes, bool]]:
        """Return the names to be given to workers now, and whether each is news to a person."""
        due = [name for name in self._due if not self._entries[name].busy]
        result = []
        for name in due:
            del self._due[name]
            entry = self._entries[name]
            result.append((name, entry.new and not entry.announced))
            entry.busy = entry.announced = True
        return result

    def events_of(self, name: bytes) -> int:
        """Return how many signs there were of a job that is with a worker."""
        return self._entries[name].events

    def may_be_incomplete(self, name: bytes) -> bool:
        """Tell whether the job was made by somebody who may be about to write it."""
        return self._entries[name].created

    def has_unread_changes(self, name: bytes) -> bool:
        """Tell whether the job has something that was never opened."""
        return self._entries[name].new

    def mark_busy(self, name: bytes) -> None:
        """Take in that somebody has the job open for writing."""
        self._due.pop(name, None)
        self._being_written[name] = None

    def dismiss(self, name: bytes) -> None:
        """Take in that nothing is to be done with the job, up to the next sign of it."""
        self._due.pop(name, None)

    def requeue(self, name: bytes) -> None:
        """Take in that the worker did not look at the job."""
        self._due[name] = None

    def opened(self, name: bytes) -> FileVersion | None:
        """Take in that the job is open, all signs up to then being in.

        Returns the version that it must differ from to be run, None if there is none.
        """
        entry = self._entries[name]
        self._due.pop(name, None)
        before = None if entry.new else entry.last_run
        entry.new = entry.created = entry.announced = False
        return before

    def record_run(self, name: bytes, version: FileVersion) -> None:
        """Take in what the job that was opened is."""
        self._entries[name].last_run = version

    def ended(self, name: bytes) -> bool:
        """Take in that the worker is done with the job; return whether it is wanted again."""
        entry = self._entries[name]
        entry.busy = False
        if name in self._due:
            return True
        if not entry.exists:
            del self._entries[name]
        return False

    def _left(self, name: bytes) -> None:
        entry = self._entries[name]
        entry.exists, entry.last_run = False, None
        if not entry.busy:
            del self._entries[name]
            self._due.pop(name, None)
            self._being_written.pop(name, None)
