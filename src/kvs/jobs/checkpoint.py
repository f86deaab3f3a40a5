"""Job checkpoints: how far a job has run, recorded in the store's journal, and how it resumes.

With a data directory, a job that was unfinished when the process ended resumes after its last
command that the journal holds; its output file is restored to its content at that command. A
finished job is skipped. An in-memory store records nothing.
"""

import os
from collections.abc import Callable, Iterable
from threading import Lock

from kvs.engine.interface import JobCursor
from kvs.jobs.directory import OUTPUT_SUFFIX, JobsDirectory
from kvs.jobs.output import JobOutput
from kvs.journal import job_records
from kvs.journal.job_records import FileVersion, JobKey, JobRecord, JobRegistry
from kvs.store.core import StoreCore

SYNC_INTERVAL_BYTES = 4 << 20
"""Bytes of output between two syncs of the output file; synced output leaves the journal."""

_EMPTY_RECORD = JobRecord(0, JobKey(b"", 0, 0), FileVersion(0, 0, 0, 0))
"""In place of the record of a job that is not recorded. Never changed."""


class JobCheckpoint:
    """The progress of one job: what an earlier run completed, and what this run records.

    Invariants:

    - A job must be recorded as finished only after its commands and all its backups have ended:
      else a crash would lose a backup that no later run writes.
    - A job must be recorded as finished only after its output was closed without an error, and
      synced if the data directory is: else a later run would skip a job whose output is incomplete.
    - After the job has restarted under a new number, a late backup must change nothing.

    Threads: the job's thread, and for `backup_ended` also the threads that wait for its backups.
    `_lock` guards the number of parts that have not ended.
    """

    def __init__(
        self,
        store: StoreCore,
        directory: JobsDirectory,
        name: bytes,
        record: JobRecord | None,
        *,
        restarted: bool = False,
    ) -> None:
        """Copy `record`, None if the job is not recorded. Requires the lock of the job records."""
        self._store = store
        self._directory = directory
        self._name = name
        self._is_recorded = record is not None
        self._job = record
        """The record, of which only this run sets the line."""
        record = record or _EMPTY_RECORD
        self._number = record.number
        self._lock = Lock()
        self._pending_count = 1
        """Parts that have not ended: the commands of the job, and each of its backups."""
        self._synced = record.synced
        """Bytes of output known to be durable."""
        self._unsynced_output = b"".join(record.output)
        """The output after the synced bytes that the earlier run wrote."""
        self._output_size = record.written if record.offset else None
        """Bytes of output that the earlier run wrote; None if unknown, because that run executed
        nothing, or finished before the journal recorded sizes."""
        self.offset = record.offset
        """Bytes of the job file that the earlier run executed."""
        self.backups = frozenset(record.backups)
        """Numbers of the backups that the earlier run completed."""
        self.was_done = record.done
        """Whether the earlier run finished the job."""
        self.restarted = restarted
        """Whether the job restarts from the beginning because its file changed."""

    def begin_call(self, base: int, line: int) -> JobCursor | None:
        """Return the cursor of a call for a script at byte `base` of the job; None if not recorded.

        The call begins at the line number `line` of the job, which the journal names.
        """
        if self._job is None:
            return None
        self._job.line = line
        return JobCursor(self._job.number, base)

    def advance(self, offset: int, output: bytes | None) -> None:
        """Record that the job has executed `offset` bytes, and `output` since the last record.

        Does nothing if `output` is None: the change batches of the call have recorded everything.
        """
        if output is None:
            return

        def change(jobs: JobRegistry) -> bytes:
            jobs[self._number].advance(offset, output)
            return job_records.encode_progress(self._number, offset, output)

        self._record(change)

    def backup_started(self) -> None:
        """Add a backup to the parts that must end before the job is finished."""
        with self._lock:
            self._pending_count += 1

    def backup_ended(self, number: int, *, written: bool) -> None:
        """Record the backup `number` if it was written, and count it as ended."""

        def change(jobs: JobRegistry) -> bytes:
            if self._number not in jobs:
                return b""
            jobs[self._number].backups.add(number)
            return job_records.encode_backup_written(self._number, number)

        if written:
            self._record(change)
        self._end_part()

    def throttle(self, output: JobOutput) -> None:
        """Bound the bytes on their way to the journal, and the output that the journal keeps."""
        if not self._is_recorded:
            return
        self._store.throttle()
        if output.size - self._synced > SYNC_INTERVAL_BYTES:
            self.sync(output)
            self._synced = output.size

            def change(jobs: JobRegistry) -> bytes:
                jobs[self._number].synced_to(output.size)
                return b""

            self._record(change)

    def sync(self, output: JobOutput) -> None:
        """Make the output durable if the job is recorded and the data directory is synced to disk.

        Raises:
            JobError: fsync(2) failed.

        """
        if self._is_recorded and self._store.syncs_to_disk:
            output.sync()
            self._directory.sync()

    def finish(self) -> None:
        """Record the job as finished once its backups have ended.

        The caller has synced and closed its output.

        Raises:
            JournalWriteError: the journal failed.

        """
        self._end_part()

    def open_output(self, job: int) -> JobOutput:
        """Open the output of the job that is open as `job`, restored to what it had written.

        Raises:
            JobError: the output cannot be opened or written.
            JournalWriteError: the journal failed.

        """
        file = self._directory.open_output(self._name, job, self._synced)
        path = self._directory.display_path_of(self._name + OUTPUT_SUFFIX)
        output = JobOutput(file, path, self._store, self._synced)
        try:
            if self._unsynced_output:
                output.write(self._unsynced_output)
                output.flush()
        except BaseException:
            output.close()
            raise
        return output

    def find_output_change(self) -> str | None:
        """Return how the output differs from what the finished job wrote; None if it does not."""
        return self._directory.find_output_change(self._name, self._output_size)

    def _end_part(self) -> None:
        with self._lock:
            self._pending_count -= 1
            if self._pending_count:
                return

        def change(jobs: JobRegistry) -> bytes:
            if self._number not in jobs:
                return b""
            jobs[self._number].finished()
            return job_records.encode_done(self._number)

        self._record(change)

    def _record(self, change: Callable[[JobRegistry], bytes]) -> None:
        if self._is_recorded:
            self._store.record_job(change)


def open_checkpoint(
    store: StoreCore, directory: JobsDirectory, name: bytes, job: int, *, resume: bool
) -> JobCheckpoint:
    """Record that the job `name` of `directory`, open as `job`, begins; return its checkpoint.

    With `resume`, continue from what the data directory recorded before it was opened.
    """
    if not store.is_persistent:
        return JobCheckpoint(store, directory, name, None)
    folder, file = os.fstat(directory.descriptor), os.fstat(job)
    key = JobKey(name, filesystem_id(directory.descriptor), folder.st_ino)
    version = FileVersion(filesystem_id(job), file.st_ino, file.st_size, file.st_mtime_ns)
    opened: list[JobCheckpoint] = []

    def change(jobs: JobRegistry) -> bytes:
        restarted = False
        record = jobs.find(key)
        if resume and record is not None and record.recovered:
            record.recovered = False
            if record.matches(version):
                opened.append(JobCheckpoint(store, directory, name, record))
                return b""
            restarted = not record.done
        record = jobs.begin(key, version)
        opened.append(JobCheckpoint(store, directory, name, record, restarted=restarted))
        return job_records.encode_started(record)

    store.record_job(change)
    return opened[0]


def filesystem_id(file: int) -> int:
    """Return a number that identifies the filesystem of an open file.

    The number of statvfs(3), where the system has one: unlike the device number, it survives a
    restart of the machine (on ext4 and btrfs).
    """
    try:
        return os.fstatvfs(file).f_fsid
    except OSError:
        return os.fstat(file).st_dev


def delete_stale_records(store: StoreCore, directory: int, names: Iterable[bytes]) -> None:
    """Delete the records of all jobs of the open `directory` but `names`."""
    if not store.is_persistent:
        return
    folder = os.fstat(directory)
    existing = set(names)

    def change(jobs: JobRegistry) -> bytes:
        records = jobs.in_directory(filesystem_id(directory), folder.st_ino)
        stale = [record for record in records if record.key.name not in existing]
        for record in stale:
            jobs.forget(record)
        return b"".join(job_records.encode_forgotten(record.number) for record in stale)

    store.record_job(change)
