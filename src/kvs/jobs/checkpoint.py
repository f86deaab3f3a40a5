"""How far a job came, noted in the store's journal, so that it can be gone on with after a crash.

A store in memory notes nothing. With a data directory, a job that was not done when the process
ended is gone on with behind its last command whose changes are on disk; its output is made what it
was there. One that was done is left alone.
"""

import os
from collections.abc import Iterable
from threading import Lock

from kvs.engine.interface import JobCursor
from kvs.journal import job_records
from kvs.journal.job_records import FileVersion, JobKey, JobRegistry
from kvs.journal.job_records import JobRecord as Known
from kvs.store.core import StoreCore

SYNC_INTERVAL_BYTES = 4 << 20
"""Of output since the last sync; then it is synced again, and need not be kept in the journal."""


class JobCheckpoint:
    """How far one job came. Used by the job's thread, and `ended` by its snapshots' threads.

    A snapshot may end after the job has begun anew, and then nobody asks any more.
    """

    def __init__(self, store: StoreCore, known: Known, *, changed: bool, resumed: bool) -> None:
        self._store = store
        self._number = known.number
        self._lock = Lock()
        self._pending_count = 1  # guarded by _lock
        """What has still to end before it is done: its commands, and snapshots of it."""
        self.offset = known.offset
        """How much of the job was carried out before, in bytes."""
        self.synced = known.synced
        """How much of its output is on disk for sure."""
        self.output = b"".join(known.output)
        """The output behind that."""
        self.snapshots = frozenset(known.snapshots)
        """The numbers of those that are on disk."""
        self.was_done = known.done
        """Whether there is nothing to be done: it was, before a crash or an ordinary end."""
        self.written = known.written if known.offset else None
        """How long its output is, in bytes; None if that is not known: it has carried out nothing
        yet, or was done before the journal kept it."""
        self.changed = changed
        """Whether it starts over because its file has changed since."""
        self.resumed = resumed
        """Whether it is gone on with."""

    def mark(self, base: int) -> JobCursor:
        """Return the mark of a call for a script that begins at byte `base` of the job."""
        return JobCursor(self._number, base)

    def advance(self, offset: int, output: bytes) -> None:
        """Note that it came to `offset`, and has written `output` since it was last noted."""

        def note(jobs: JobRegistry) -> bytes:
            jobs[self._number].advance(offset, output)
            return job_records.encode_progress(self._number, offset, output)

        self._store.record_job(note)

    def began(self) -> None:
        """Take in that a snapshot of it is being written."""
        with self._lock:
            self._pending_count += 1

    def ended(self, snapshot: int, *, written: bool) -> None:
        """Note that a snapshot is on disk, or take in that it will not be."""

        def note(jobs: JobRegistry) -> bytes:
            if self._number not in jobs:
                return b""
            jobs[self._number].snapshots.add(snapshot)
            return job_records.encode_snapshot_written(self._number, snapshot)

        if written:
            self._store.record_job(note)
        self._release_one()

    def synced_to(self, size: int) -> None:
        """Take in that the first `size` bytes of the output are on disk."""
        self.synced = size

        def note(jobs: JobRegistry) -> bytes:
            jobs[self._number].synced_to(size)
            return b""

        self._store.record_job(note)

    def done(self) -> None:
        """Note that the job is done, and its output on disk, once its snapshots have ended, too."""
        self._release_one()

    def _release_one(self) -> None:
        with self._lock:
            self._pending_count -= 1
            if self._pending_count:
                return

        def note(jobs: JobRegistry) -> bytes:
            if self._number not in jobs:
                return b""
            jobs[self._number].finished()
            return job_records.encode_done(self._number)

        self._store.record_job(note)


def open_checkpoint(
    store: StoreCore, directory: int, name: bytes, job: int, *, resume: bool
) -> JobCheckpoint | None:
    """Note that the job `name` of a directory begins, open as `job`; None for a store in memory.

    With `resume`, what was known of it when the data directory was opened is gone on with.
    """
    if not store.is_persistent:
        return None
    folder, file = os.fstat(directory), os.fstat(job)
    place = JobKey(name, filesystem_id(directory), folder.st_ino)
    version = FileVersion(filesystem_id(job), file.st_ino, file.st_size, file.st_mtime_ns)
    course: JobCheckpoint | None = None

    def note(jobs: JobRegistry) -> bytes:
        nonlocal course
        changed = False
        known = jobs.find(place)
        if resume and known is not None and known.recovered:
            known.recovered = False
            if known.matches(version):
                course = JobCheckpoint(store, known, changed=False, resumed=not known.done)
                return b""
            changed = not known.done
        new = jobs.begin(place, version)
        course = JobCheckpoint(store, new, changed=changed, resumed=False)
        return job_records.encode_started(new)

    store.record_job(note)
    return course


def filesystem_id(file: int) -> int:
    """Return a number of the filesystem of an open file.

    Where the system can tell, it is one that a restart of the machine does not change, as it may
    change that of the device (statvfs(3), on ext4 and btrfs).
    """
    try:
        return os.fstatvfs(file).f_fsid
    except OSError:
        return os.fstat(file).st_dev


def delete_stale_records(store: StoreCore, directory: int, names: Iterable[bytes]) -> None:
    """Let nothing be known any more of jobs of a directory that are not there, but for `names`."""
    if not store.is_persistent:
        return
    folder = os.fstat(directory)
    there = set(names)

    def note(jobs: JobRegistry) -> bytes:
        known = jobs.in_directory(filesystem_id(directory), folder.st_ino)
        gone = [job for job in known if job.key.name not in there]
        for job in gone:
            jobs.forget(job)
        return b"".join(job_records.encode_forgotten(job.number) for job in gone)

    store.record_job(note)
