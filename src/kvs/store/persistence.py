"""Persistence: the data directory of a store, from recovery to compaction.

Connects the engine, the journal and the snapshots, which do not know each other: recovery replays
the files of the directory into the engine, the engine's changes are appended to the journal, and a
snapshot of the engine replaces the journal.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain

from kvs.concurrency.atomic import Step
from kvs.concurrency.waiters import call_uninterrupted
from kvs.engine.interface import (
    DEFAULT_BUDGET_BYTES,
    NO_EXPIRY,
    ChangeBatch,
    Engine,
    TableView,
)
from kvs.errors import (
    DataDirectoryError,
    JournalWriteError,
    SnapshotError,
    ThreadStartError,
)
from kvs.journal import format as journal_format
from kvs.journal.directory import DataDirectory, new_store_id, replay_starts
from kvs.journal.format import FileHeader, FileKind, StoreMark
from kvs.journal.job_records import JobRegistry, encode_progress
from kvs.journal.queue import JournalQueue, PendingAppend, RotationPoint
from kvs.journal.recovery import RecoveredState, Recovery, TornTail
from kvs.journal.reserve import DISK_FULL_ERRNOS, Reserve
from kvs.journal.storage import Segment, Storage
from kvs.journal.writer import JournalWriter
from kvs.language.output_format import Expiries
from kvs.settings import DataSettings, ProgressCallback, ignore_progress
from kvs.snapshot.writer import SnapshotInfo, SnapshotWriter
from kvs.store.origins import Origins, encode_job_origin
from kvs.store.restoring import RestoreLines
from kvs.text import os_error_text

GROUP_BYTES = 1 << 20
"""Bytes of lines that end a group of a snapshot."""

PAIR_BYTES = 8
"""Maximum bytes of a pair in a snapshot without key and value: ``("","")`` and a share of
``WRITE []``."""

EXPIRY_BYTES = 32
"""Maximum bytes of the expiry of a pair in a snapshot: ``WRITE [] UNTIL`` and the time."""

MIN_GROUP_BYTES = 1 << 12
"""Minimum bytes of lines per byte of group headers."""

FILES_BYTES = 64 << 10
"""Maximum bytes that a snapshot and a new segment take beside the lines: partly used blocks, and
names."""

ALL_SEGMENTS = sys.maxsize
"""Number of segments that an opening keeps: all that can be replayed, until the next compaction."""

WARN_SECONDS = 10.0
"""Minimum seconds between two log messages about a full disk."""


@dataclass(frozen=True, slots=True)
class RecoveryInfo:
    """The result of the recovery of a data directory."""

    revision: int
    pairs: int
    commands: int
    """Number of commands of the journal that were replayed."""
    seconds: float
    torn: TornTail | None
    """End of the journal that a crash left incomplete, and that was truncated; else None."""
    new: bool = False
    """Whether the directory had no store before."""


def recover(
    engine: Engine,
    jobs: JobRegistry,
    directory: DataDirectory,
    progress: ProgressCallback = ignore_progress,
) -> RecoveredState:
    """Replay the files of `directory` into `engine` and `jobs`, both empty; return their state.

    Raises:
        CorruptionError: a file is damaged or missing.
        DataDirectoryError: the directory cannot be read.

    """
    return Recovery(directory, EngineReplayTarget(engine), jobs.replay, progress).read()


class EngineReplayTarget:
    """An engine to which the files of a data directory are applied."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self._engine)

    def apply(self, lines: bytes) -> int:
        """Execute lines; return the number of changes."""
        before = self._engine.revision
        offset = 0
        while offset < len(lines):
            offset = self._engine.execute(lines, offset, DEFAULT_BUDGET_BYTES, limits=False).offset
        return self._engine.revision - before


class Persistence:
    """The data directory of one engine, from `open` to `close`.

    Threads: one calls `open`, and one at a time compacts (`prepare_compaction` and what follows);
    any thread may call the other methods, and use `log`, once the directory is open.
    """

    def __init__(
        self,
        path: str | bytes | os.PathLike[str],
        engine: Engine,
        settings: DataSettings,
        on_compaction_due: "Callable[[Persistence], None]",
        *,
        storage: Callable[[int], Storage] = Storage,
    ) -> None:
        """Open nothing yet. `storage` is called with the descriptor of the directory.

        `on_compaction_due` is called by `request_compaction` and by the writer thread.
        """
        self._path = path
        self._directory = DataDirectory(path)
        self._engine = engine
        self._settings = settings
        self._open_storage = storage
        self.jobs = JobRegistry()
        """Records of jobs; changed by `kvs.store.publication`."""
        self._on_compaction_due = on_compaction_due
        self._next_warning_at = 0.0
        """Time from which a full disk is logged again (time.monotonic)."""
        self._has_writer_thread = False
        self._is_disk_full = False
        """Whether the next compaction must free space, so that it keeps nothing for the history."""
        self.origins = Origins()

    def open(self, progress: ProgressCallback = ignore_progress) -> None:
        """Open the directory, created if it does not exist, and recover the engine from it.

        After any exception, also one that a signal handler raises, the caller must call `close`.

        Raises:
            DataDirectoryError: it cannot be created, opened, locked or read.
            DirectoryLockedError: another process has locked it.
            CorruptionError: a file is damaged or missing; no file was changed.

        """
        self._directory = DataDirectory.make(self._path)
        self._directory.open()
        self._directory.lock()
        self._storage = self._open_storage(self._directory.descriptor)
        self.reserve = Reserve(self._directory.descriptor)
        started_at = time.perf_counter()
        recovered = None
        if any(self._directory.list_files().values()):
            recovered = recover(self._engine, self.jobs, self._directory, progress)
        try:
            call_uninterrupted(partial(self._start, recovered, started_at))
        except OSError as error:
            raise DataDirectoryError(self.display_path, os_error_text(error)) from error
        except (ThreadStartError, JournalWriteError) as error:
            raise DataDirectoryError(self.display_path, str(error)) from error

    def _start(self, recovered: RecoveredState | None, started_at: float) -> None:
        """Start the journal's writer thread; in a thread that no signal handler interrupts."""
        if recovered is None:
            store_id, revision = new_store_id(), 0
            segment = self._directory.create_first_segment(self._storage, store_id)
            self._snapshot_bytes = self._bytes_since_snapshot = 0
            self._base_number = 1
            """Number of the newest snapshot, or of the first segment."""
            seconds = time.perf_counter() - started_at
            self.recovered = RecoveryInfo(0, 0, 0, seconds, None, new=True)
            before = StoreMark(store_id)
            version = journal_format.VERSION
        else:
            segment = self._directory.resume_segment(
                self._storage, recovered.segments[-1], recovered.last_checksum, recovered.end
            )
            store_id, revision = recovered.store_id, recovered.revision
            before = recovered.mark or StoreMark(store_id)
            version = recovered.version
            self._base_number = recovered.segments[0]
            self._bytes_since_snapshot = recovered.journal_bytes
            self._snapshot_bytes = recovered.snapshot_bytes
            seconds = time.perf_counter() - started_at
            self.recovered = RecoveryInfo(
                revision, recovered.pairs, recovered.changes, seconds, recovered.torn
            )
        self._engine.start_recording(revision)
        self._store_id = store_id
        # Of a store that was not closed, changes that were committed may be lost.
        mark = new_store_id() if before.is_open else before.mark
        self.mark = StoreMark(mark, is_open=self._settings.fsync != "always")
        self._compact_at_bytes = self._compaction_threshold() - self._bytes_since_snapshot
        """Value of `JournalQueue.written_bytes` at which the journal is to be compacted."""
        self._bytes_at_snapshot = 0
        """Value of `JournalQueue.written_bytes` at the rotation for the last snapshot."""
        self.journal = JournalQueue(segment, revision, self._settings.segment_bytes)
        self._writer = JournalWriter(
            self.journal,
            self._storage,
            segment,
            revision,
            self._settings,
            store_id=store_id,
            display_path=self.display_path,
            end_of_run=StoreMark(mark).encode() if self.mark.is_open else b"",
            on_group_written=self._request_due_compaction,
            find_tampering=self._renew_reserve_and_find_tampering,
            on_disk_full=self._free_space,
        )
        with self._storage.closed_on_error(segment.file):
            if recovered is not None:
                self._directory.remove_older(self._storage, self._base_number, ALL_SEGMENTS)
            self.reserve.renew()
            self._writer.start()
        self._has_writer_thread = True
        if version != journal_format.VERSION:
            self.journal.rotate()
        if self.mark != before:
            self.journal.append(self.mark.encode(), 0)
            self.journal.wait(self.journal.appended_count)
            self._writer.presync()

    @property
    def syncs_to_disk(self) -> bool:
        """Whether this program ever syncs the journal, rather than the kernel alone."""
        return self._settings.fsync != "never"

    @property
    def display_path(self) -> str:
        """Path of the directory for messages."""
        return self._directory.display_path_of(b"").rstrip("/") or "/"

    def steps(self, batch: ChangeBatch, on_commit: Callable[[], None] | None) -> list[Step]:
        """Return the steps that append a change batch, and its job's checkpoint, to the journal.

        The writer thread calls `on_commit` once they are committed.

        Raises:
            JournalWriteError: the journal has failed.
            StoreClosedError: the journal was closed.

        """
        lines = (batch.lines,)
        item = PendingAppend(lines, len(lines[0]), batch.change_count, on_commit)
        if batch.job is None:
            item.origin = self.origins[batch.origin]
            return self.journal.steps(item)
        job = self.jobs[batch.job]
        if batch.change_count:
            item.origin = encode_job_origin(job.key.name, job.line)
        offset, output = batch.offset, batch.output
        progress = encode_progress(batch.job, offset, output)
        item.lines = (*lines, progress)
        item.size += len(progress)
        return [*self.journal.steps(item), *job.advance_steps(offset, output)]

    def restore_item(self, pairs: dict[bytes, bytes], expiries: Expiries) -> PendingAppend:
        """Return what is to be appended to the journal for a restore, which is one change."""
        lines = RestoreLines(pairs, expiries)
        return PendingAppend(lines, sum(map(len, lines)), 1, is_restore=True)

    def close(self) -> None:
        """Write everything appended, then unlock and close the directory. Idempotent.

        Raises:
            JournalWriteError: the journal has failed, and no call before has raised this.

        """
        if self._has_writer_thread:
            self.journal.close(then=self._directory.close)
        else:
            self._directory.close()

    # Compaction.

    def _compaction_threshold(self) -> int:
        return max(self._settings.compact_bytes, self._snapshot_bytes)

    def _renew_reserve_and_find_tampering(self, segment: Segment) -> str | None:
        self.reserve.renew()
        return self._directory.find_tampering(segment)

    def _free_space(self, error: OSError) -> bool:
        """Free half of the reserve and request a compaction; return whether space was freed.

        Changes after the compaction wait for its end, since they would take the space.
        """
        if not self.reserve.free_half():
            return False
        self._is_disk_full = True
        if time.monotonic() >= self._next_warning_at:
            self._next_warning_at = time.monotonic() + WARN_SECONDS
            import logging  # takes as long as opening the directory, and is rarely used

            logging.getLogger("kvs.store").warning(
                "%s: %s; using the reserve and compacting the journal; free disk space",
                self.display_path,
                os_error_text(error),
            )
        self.journal.pause()
        self.request_compaction()
        return True

    def _request_due_compaction(self) -> None:
        if self.journal.written_bytes >= self._compact_at_bytes:
            self._compact_at_bytes = self.journal.written_bytes + self._compaction_threshold()
            self.request_compaction()

    def request_compaction(self) -> None:
        """Have the journal compacted in the background, unless a compaction runs."""
        self._on_compaction_due(self)

    @contextlib.contextmanager
    def compacting(self) -> Iterator[None]:
        """Stop renewing the reserve; at the end, resume the journal if it is paused."""
        with self.reserve.without_renewal():
            try:
                yield
            finally:
                self.journal.resume()

    def free_space_after(self, error: SnapshotError) -> bool:
        """Free space if `error` is a full disk or quota; return whether any was freed.

        That of the files that are kept for the history, or else of the reserve.

        Raises:
            DataDirectoryError: a file that is kept cannot be removed.

        """
        if error.errno not in DISK_FULL_ERRNOS:
            return False
        self._is_disk_full = True
        return self._remove_kept() or self.reserve.free()

    def _remove_kept(self) -> bool:
        """Remove the files that are kept for the history; return whether there were any.

        Raises:
            DataDirectoryError: a file cannot be removed.

        """
        if replay_starts(self._directory.list_files())[0] == self._base_number:
            return False
        import logging  # takes as long as opening the directory, and is rarely used

        logging.getLogger("kvs.store").warning(
            "%s: the disk is full; removing the segments that are kept for the history",
            self.display_path,
        )
        self._directory.remove_older(self._storage, self._base_number)
        return True

    def prepare_compaction(self) -> SnapshotWriter:
        """Sync the journal, and return the writer of a new snapshot.

        Raises:
            SnapshotError: the file cannot be created; the journal cannot be synced; or the snapshot
                may take all the space, so that the journal could not be written any more.
            DataDirectoryError: a file that is kept for the history cannot be removed.

        """
        name = f"{self.display_path}: compaction"
        try:
            self._writer.presync()
            missing_bytes = self._max_compaction_bytes() - self._free_bytes()
            self._is_disk_full = self._is_disk_full or missing_bytes > 0
            if self._is_disk_full and self._remove_kept():
                missing_bytes = self._max_compaction_bytes() - self._free_bytes()
        except OSError as error:
            raise SnapshotError(name, os_error_text(error)) from error
        if missing_bytes > self.reserve.size():
            reason = f"it may take {missing_bytes} bytes more than are free"
            raise SnapshotError(name, f"{reason}; free disk space")
        if missing_bytes > 0:
            self.reserve.free()
        return SnapshotWriter(self._directory.descriptor, b"", name)

    def _free_bytes(self) -> int:
        free = os.fstatvfs(self._directory.descriptor)
        return free.f_bavail * free.f_frsize

    def _max_compaction_bytes(self) -> int:
        """Return an upper bound of the bytes that a compaction takes: a snapshot and a segment."""
        written_bytes = self.journal.written_bytes - self._bytes_at_snapshot
        journal = self._snapshot_bytes + self._bytes_since_snapshot + written_bytes
        pair_bytes = PAIR_BYTES
        if self._engine.next_expiry != NO_EXPIRY:
            pair_bytes += EXPIRY_BYTES
        lines = 2 * self._engine.max_dump_bytes()  # escapes
        lines += pair_bytes * len(self._engine) + self.jobs.max_dump_bytes()
        return min(journal, lines + lines // MIN_GROUP_BYTES) + FILES_BYTES

    def begin_compaction(self, snapshot: SnapshotWriter, view: TableView) -> RotationPoint:
        """Rotate the journal and fork the child that writes the snapshot of everything before.

        All changes up to `view` must have been appended. Return where the new segment begins.
        After an exception, the caller must cancel `snapshot`.

        Raises:
            SnapshotError: fork(2) failed.
            JournalWriteError: the journal has failed.
            StoreClosedError: the journal was closed.

        """
        rotation = self.journal.rotate()
        header = FileHeader(FileKind.SNAPSHOT, rotation.number, rotation.revision, self._store_id)
        snapshot.rename(header.name)
        lines = chain(self._mark_lines(), self.jobs.lines(), view.writes())
        snapshot.fork(
            rotation.revision, len(view), lambda: _snapshot_blocks(header, lines, len(view))
        )
        return rotation

    def _mark_lines(self) -> list[bytes]:
        return [] if self.mark == StoreMark(self._store_id) else [self.mark.encode()]

    def finish_compaction(self, snapshot: SnapshotWriter, rotation: RotationPoint) -> SnapshotInfo:
        """Wait for the child, rename its file, and remove the files that it replaces.

        Those that are kept for the history stay, unless the disk was full.

        Raises:
            SnapshotError: the child failed, or its file cannot be renamed.
            DataDirectoryError: a file that the snapshot replaces cannot be removed.
            JournalWriteError: the journal has failed.

        """
        info = snapshot.finish(
            lambda: self.journal.wait(rotation.appended_count), self._storage.commit
        )
        self._snapshot_bytes = info.bytes
        self._bytes_since_snapshot = 0
        self._bytes_at_snapshot = rotation.written_bytes
        self._compact_at_bytes = rotation.written_bytes + self._compaction_threshold()
        self._base_number = rotation.number
        keep = 0 if self._is_disk_full else self._settings.keep_segments
        self._is_disk_full = False
        self._directory.remove_older(self._storage, rotation.number, keep)
        return info


def _snapshot_blocks(header: FileHeader, lines: Iterable[bytes], pairs: int) -> Iterator[bytes]:
    """Yield the contents of a snapshot, in the child."""
    encoded = header.encode()
    yield encoded
    _, _, checksum = journal_format.decode_file_header(encoded)
    time_ms = journal_format.now_ms()
    for body in chain(_group_bodies(lines), [[journal_format.encode_trailer(pairs)]]):
        group_header, checksum, _ = journal_format.encode_group_header(
            checksum, header.revision, header.revision, time_ms, body
        )
        yield group_header
        yield from body


def _group_bodies(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Yield the lines in bodies of about `GROUP_BYTES` bytes."""
    body: list[bytes] = []
    size = 0
    for line in lines:
        body.append(line)
        size += len(line)
        if size >= GROUP_BYTES:
            yield body
            body, size = [], 0
    if body:
        yield body
