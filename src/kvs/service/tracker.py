"""The state of every job in a served directory: which jobs have run, and which are due.

Pure: events go in, names of due jobs come out; no files, no clocks.

Invariants:

- A job must be with at most one worker at a time, from `take_due` until `ended`.
- A run must see every change whose event came before `opened`; an event after `opened` makes the
  job due again.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Self

from kvs.jobs.directory import JOB_SUFFIX, is_job
from kvs.posix.inotify import FileEvent


class FileFingerprint(NamedTuple):
    """The file of a job when it was opened: its identity, times and contents."""

    device: int
    inode: int
    size: int
    modified: int
    """Time of the last change of the contents, in nanoseconds."""
    changed: int
    """Time of the last change of the inode, in nanoseconds."""
    digest: bytes | None = None
    """Digest of the contents; None if they were not read to their end."""

    def is_untouched_since(self, other: "FileFingerprint") -> bool:
        """Return whether file, size and times are equal, so the contents need not be read."""
        return self[:5] == other[:5]

    def has_contents_of(self, other: "FileFingerprint") -> bool:
        """Return whether file and contents are equal, whatever the times."""
        same_file = self[:3] == other[:3]
        return same_file and self.digest is not None and self.digest == other.digest

    @classmethod
    def of(cls, status: os.stat_result, digest: bytes | None = None) -> Self:
        """Return the fingerprint of a file with the status that stat(2) returned."""
        return cls(
            status.st_dev,
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
            digest,
        )


@dataclass
class _Entry:
    last_run: FileFingerprint | None = None
    """The fingerprint of the file that was last given to a run."""
    exists: bool = True
    new: bool = True
    """Whether the file was written or put there since `last_run`: it runs whatever its contents."""
    created: bool = False
    """Whether the file was created in place, with no later event that it is complete."""
    busy: bool = False
    """Whether a worker has the job."""
    announced: bool = False
    """Whether the job was reported as found since the last run."""
    events: int = 0
    """Number of events so far; a difference shows that some came in between."""


class JobTracker:
    """The jobs of one directory. Not thread-safe: the owner locks."""

    def __init__(self) -> None:
        self._entries: dict[bytes, _Entry] = {}
        self._due: dict[bytes, None] = {}  # in order of arrival
        self._being_written: dict[bytes, None] = {}

    # Events of the directory, and lists of its entries.

    def on_event(self, event: FileEvent, file: bytes) -> None:
        """Apply an event of the entry `file`; ignore an entry that is not a job."""
        if not is_job(file):
            return
        name = file.removesuffix(JOB_SUFFIX)
        entry = self._entries.setdefault(name, _Entry())
        entry.events += 1
        if event is FileEvent.MODIFIED:
            entry.new = True
            return
        self._being_written.pop(name, None)
        if event is FileEvent.REMOVED:
            self._remove(name)
            return
        entry.exists = True
        if event is not FileEvent.CLOSED_AFTER_WRITE:
            entry.new = True
        entry.created = event is FileEvent.CREATED
        self._due[name] = None

    def on_listing(self, names: Iterable[bytes]) -> None:
        """Replace the jobs by those listed, all of them due; events may have been lost before."""
        listed = dict.fromkeys(names)
        for name in self._entries.keys() - listed.keys():
            self._remove(name)
        self._being_written.clear()
        for name in listed:
            entry = self._entries.setdefault(name, _Entry())
            entry.exists = True
            entry.created = False
        self._due = {**listed, **self._due}

    def requeue_being_written(self) -> None:
        """Make the jobs due that were open for writing when a worker inspected them."""
        self._due.update(self._being_written)
        self._being_written.clear()

    # A job's way through a worker: due, opened or not, ended.

    def take_due(self) -> list[tuple[bytes, bool]]:
        """Return the names of due jobs for workers, each with whether to report it as found."""
        due = [name for name in self._due if not self._entries[name].busy]
        result = []
        for name in due:
            del self._due[name]
            entry = self._entries[name]
            result.append((name, entry.new and not entry.announced))
            entry.busy = entry.announced = True
        return result

    def events_of(self, name: bytes) -> int:
        """Return the number of events so far of a job that is with a worker."""
        return self._entries[name].events

    def may_be_incomplete(self, name: bytes) -> bool:
        """Return whether the job was created in place, and its creator may still write it."""
        return self._entries[name].created

    def has_unread_changes(self, name: bytes) -> bool:
        """Return whether the job was written or put there since it was last opened."""
        return self._entries[name].new

    def mark_being_written(self, name: bytes) -> None:
        """Wait for the next event or `requeue_being_written`: the job is open for writing."""
        self._due.pop(name, None)
        self._being_written[name] = None

    def dismiss(self, name: bytes) -> None:
        """Wait for the next event of the job."""
        self._due.pop(name, None)

    def requeue(self, name: bytes) -> None:
        """Make a job due again that the worker did not inspect."""
        self._due[name] = None

    def opened(self, name: bytes) -> FileFingerprint | None:
        """Mark the job as opened, after all events so far; return the fingerprint of its last run.

        The job is to run only if its file has another fingerprint; None if it is to run anyway.
        """
        entry = self._entries[name]
        self._due.pop(name, None)
        last_run = None if entry.new else entry.last_run
        entry.new = entry.created = entry.announced = False
        return last_run

    def record_run(self, name: bytes, fingerprint: FileFingerprint) -> None:
        """Store the fingerprint of the file that was opened, as that of the last run."""
        self._entries[name].last_run = fingerprint

    def ended(self, name: bytes) -> bool:
        """Take the job back from its worker; return whether the job is due again."""
        entry = self._entries[name]
        entry.busy = False
        if name in self._due:
            return True
        if not entry.exists:
            del self._entries[name]
        return False

    def _remove(self, name: bytes) -> None:
        entry = self._entries[name]
        entry.exists, entry.last_run = False, None
        if not entry.busy:
            del self._entries[name]
            self._due.pop(name, None)
            self._being_written.pop(name, None)
