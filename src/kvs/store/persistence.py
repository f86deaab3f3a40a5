"""What keeps a store on disk: its data directory opened, its journal written, and compacted.

It brings together what does not know of each other: an engine is filled with what a directory
holds, its effects go into the journal, and a snapshot of it makes the journal short again.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain

from kvs.concurrency.atomic import Step
from kvs.concurrency.waiters import call_uninterrupted
from kvs.engine.interface import DEFAULT_BUDGET_BYTES, ChangeBatch, Engine, TableView
from kvs.errors import DataDirectoryError, KvsError, SnapshotError
from kvs.journal import format as journal_format
from kvs.journal.directory import DataDirectory, new_store_id
from kvs.journal.format import FileHeader, FileKind
from kvs.journal.job_records import JobRegistry, encode_progress
from kvs.journal.recovery import RecoveredState, Recovery, TornTail
from kvs.journal.reserve import DISK_FULL_ERRNOS, Reserve
from kvs.journal.storage import Storage
from kvs.journal.writer import JournalWriter, RotationPoint, Segment
from kvs.settings import DataSettings, ProgressCallback, ignore_progress
from kvs.snapshot.writer import SnapshotInfo, SnapshotWriter
from kvs.text import os_error_text

GROUP_BYTES = 1 << 20
"""Of the lines of a snapshot in one group."""

PAIR_BYTES = 4
"""Of a pair in a snapshot, at most, beside key and value: ``(,)`` and a part of ``WRITE []``."""

MIN_GROUP_BYTES = 1 << 12
"""Bytes of lines to each byte of group headers, at least."""

FILES_BYTES = 64 << 10
"""What a snapshot and a new segment take at most beside the lines: blocks, and their names."""

WARN_SECONDS = 10.0
"""A full disk is logged at most once in so many seconds."""


@dataclass(frozen=True, slots=True)
class RecoveryInfo:
    """What was found in a data directory when it was opened."""

    revision: int
    pairs: int
    commands: int
    """Commands of the journal that were carried out again."""
    seconds: float
    torn: TornTail | None
    """What a crash had left half written, and was dropped."""
    new: bool = False
    """Whether the directory held no store before."""


def recover(
    engine: Engine,
    jobs: JobRegistry,
    folder: DataDirectory,
    progress: ProgressCallback = ignore_progress,
) -> RecoveredState:
    """Fill a new `engine`, and `jobs`, with what `folder` holds; return what was found.

    Raises:
        CorruptionError: something does not prove itself.
        DataDirectoryError: the directory cannot be read.

    """
    return Recovery(folder, EngineReplayTarget(engine), jobs.replay, progress).read()


class EngineReplayTarget:
    """An engine that is being filled."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self._engine)

    def apply(self, lines: bytes) -> int:
        """Carry out lines; return how many of them changed something."""
        before = self._engine.revision
        offset = 0
        while offset < len(lines):
            offset = self._engine.execute(lines, offset, DEFAULT_BUDGET_BYTES).offset
        return self._engine.revision - before


class Persistence:
    """A data directory that belongs to one engine, from `open` to `close`."""

    def __init__(
        self,
        path: str | bytes | os.PathLike[str],
        engine: Engine,
        settings: DataSettings,
        disk: Callable[[int], Storage] = Storage,
    ) -> None:
        self._path = path
        self._folder = DataDirectory(path)
        self._engine = engine
        self._settings = settings
        self._new_disk = disk
        self.jobs = JobRegistry()
        """How far jobs came; changed by `kvs.store.publication`."""
        self.on_compaction_due: Callable[[], None] = lambda: None
        """Called by the journal's thread when the journal is to be compacted."""
        self._warn_full_at = 0.0
        """When a full disk may be logged again (time.monotonic)."""
        self._has_log = False
        """Whether there is a thread that writes the journal."""

    def open(self, progress: ProgressCallback = ignore_progress) -> None:
        """Open the directory, which is made if it is not there, and fill the engine.

        After any exception, one of a signal handler included, the caller calls `close`.

        Raises:
            DataDirectoryError: it cannot be made, opened, locked or read.
            DirectoryLockedError: another process is at work there.
            CorruptionError: something in it does not prove itself; nothing was changed.

        """
        self._folder = DataDirectory.make(self._path)
        self._folder.__enter__()
        self._folder.lock()
        self._disk = self._new_disk(self._folder.descriptor)
        self.reserve = Reserve(self._folder.descriptor)
        began = time.perf_counter()
        found = None
        if any(self._folder.list_files().values()):
            found = recover(self._engine, self.jobs, self._folder, progress)
        try:
            call_uninterrupted(partial(self._begin, found, began))
        except OSError as error:
            raise DataDirectoryError(self.shown, os_error_text(error)) from error

    def _begin(self, found: RecoveredState | None, began: float) -> None:
        """Begin the journal, or go on with what was found; no signal handler interrupts this."""
        if found is None:
            store = new_store_id()
            segment = self._folder.create_first_segment(self._disk, store)
            revision = 0
            self._snapshot_bytes = self._bytes_since_snapshot = 0
            self.recovered = RecoveryInfo(0, 0, 0, time.perf_counter() - began, None, new=True)
        else:
            segment = self._folder.resume_segment(
                self._disk, found.segments[-1], found.chain, found.end
            )
            store, revision = found.store, found.revision
            self._bytes_since_snapshot = found.journal_bytes
            self._snapshot_bytes = found.snapshot_bytes
            seconds = time.perf_counter() - began
            self.recovered = RecoveryInfo(revision, found.pairs, found.changes, seconds, found.torn)
        self._engine.start_recording(revision)
        self._store = store
        self._compact_at = self._compaction_threshold() - self._bytes_since_snapshot
        """When the log has written so many bytes, the journal is to be compacted."""
        self._begun_at = 0
        """How many it had written when the last snapshot began."""
        self.log = JournalWriter(self._disk, self.shown, store, segment, revision, self._settings)
        self.log.on_written = self._written
        self.log.tampering = self._look
        self.log.on_full = self._make_room
        with self._disk.closed_on_error(segment.file):
            if found is not None:
                self._folder.remove_older(self._disk, found.segments[0])
            self.reserve.renew()
            self.log.start()
        self._has_log = True

    @property
    def syncs_to_disk(self) -> bool:
        """Whether the journal is ever synced, but by the kernel."""
        return self._settings.fsync != "never"

    @property
    def shown(self) -> str:
        """How a person is told of the directory."""
        return self._folder.shown(b"").rstrip("/") or "/"

    def steps(self, effects: ChangeBatch, then: Callable[[], None] | None) -> list[Step]:
        """Return the steps that put effects into the journal; `then` is called once they are safe.

        Raises:
            JournalWriteError: nothing is written any more.

        """
        text = effects.lines
        job = effects.job
        if job is None:
            return self.log.steps(text, effects.change_count, then)
        offset, output = effects.offset, effects.output
        text += encode_progress(job, offset, output)
        return [
            *self.log.steps(text, effects.change_count, then),
            *self.jobs[job].advance_steps(offset, output),
        ]

    def close(self) -> None:
        """Write what has been added, and unlock and close the directory. Idempotent.

        Raises:
            JournalWriteError: it was not all written, and no call before has raised it.

        """
        unlock = partial(self._folder.__exit__, None, None, None)
        if self._has_log:
            self.log.close(then=unlock)
        else:
            unlock()

    # Compaction.

    def _compaction_threshold(self) -> int:
        return max(self._settings.compact_bytes, self._snapshot_bytes)

    def _look(self, segment: Segment) -> str | None:
        self.reserve.renew()
        return self._folder.find_tampering(segment)

    def _make_room(self, error: OSError) -> bool:
        """Free some of the reserve, and have the journal compacted; return whether it was freed.

        What comes behind the compaction waits for it, since it would take what was freed.
        """
        if not self.reserve.release_half():
            return False
        if time.monotonic() >= self._warn_full_at:
            self._warn_full_at = time.monotonic() + WARN_SECONDS
            import logging  # takes as long as opening the directory, and is rarely used

            logging.getLogger("kvs.store").warning(
                "%s: %s; goes on with the reserve and compacts the journal; free disk space",
                self.shown,
                os_error_text(error),
            )
        self.log.hold()
        self.on_compaction_due()
        return True

    def _written(self) -> None:
        if self.log.bytes >= self._compact_at:
            self._compact_at = self.log.bytes + self._compaction_threshold()
            self.on_compaction_due()

    @contextlib.contextmanager
    def compacting(self) -> Iterator[None]:
        """Surround a compaction, which may use the reserve, and for which the journal may wait."""
        with self.reserve.lent():
            try:
                yield
            finally:
                self.log.let_go()

    def made_room_after(self, error: SnapshotError) -> bool:
        """Return whether `error` was a full disk, or quota, and the reserve has been freed."""
        return error.number in DISK_FULL_ERRNOS and self.reserve.release()

    def prepare_compaction(self) -> SnapshotWriter:
        """Return what a new snapshot of everything becomes; the journal is synced before.

        Raises:
            SnapshotError: its file cannot be made; the journal cannot be synced; or it might take
                all the space that the journal needs to go on.

        """
        name = f"{self.shown}: compaction"
        try:
            self.log.presync()
            free = os.fstatvfs(self._folder.descriptor)
        except OSError as error:
            raise SnapshotError(name, os_error_text(error)) from error
        lacking = self._max_compaction_bytes() - free.f_bavail * free.f_frsize
        if lacking > self.reserve.size():
            reason = f"it may take {lacking} bytes more than there are"
            raise SnapshotError(name, f"{reason}; free disk space")
        if lacking > 0:
            self.reserve.release()
        return SnapshotWriter(self._folder.descriptor, b"", name)

    def _max_compaction_bytes(self) -> int:
        """Return an upper bound of what a compaction takes: of a snapshot, and a new segment."""
        journal = (
            self._snapshot_bytes + self._bytes_since_snapshot + self.log.bytes - self._begun_at
        )
        pairs = len(self._engine)
        lines = self._engine.max_dump_bytes() + PAIR_BYTES * pairs + self.jobs.max_dump_bytes()
        return min(journal, lines + lines // MIN_GROUP_BYTES) + FILES_BYTES

    def begin_compaction(self, draft: SnapshotWriter, instant: TableView) -> RotationPoint:
        """Fork the child that writes everything, with which the next segment goes on.

        All effects up to `instant` have been added. Returns where that segment begins.

        Raises:
            SnapshotError: there is no child.
            JournalWriteError: nothing is written any more.

        """
        try:
            begun = self.log.rotate()
        except KvsError:
            draft.discard()
            raise
        head = FileHeader(FileKind.SNAPSHOT, begun.number, begun.revision, self._store)
        draft.rename(head.name)
        lines = chain(self.jobs.lines(), instant.writes())
        draft.fork(begun.revision, len(instant), lambda: _snapshot(head, lines, len(instant)))
        return begun

    def finish_compaction(self, draft: SnapshotWriter, begun: RotationPoint) -> SnapshotInfo:
        """Wait for the child, put its file in place, and remove what it makes needless.

        Raises:
            SnapshotError: the child failed, or its file could not be put in place.
            DataDirectoryError: something that is needless now could not be removed.
            JournalWriteError: the journal failed meanwhile.

        """
        written = draft.finish(lambda: self.log.wait(begun.appended_count), self._disk.commit)
        self._snapshot_bytes = written.bytes
        self._bytes_since_snapshot = 0
        self._begun_at = begun.bytes
        self._compact_at = begun.bytes + self._compaction_threshold()
        self._folder.remove_older(self._disk, begun.number)
        return written


def _snapshot(head: FileHeader, lines: Iterable[bytes], pairs: int) -> Iterator[bytes]:
    """Yield a snapshot's file, in the child."""
    first = head.encode()
    yield first
    _, _, checksum = journal_format.decode_file_header(first)
    for body in chain(_bodies(lines), [journal_format.encode_trailer(pairs)]):
        header, checksum = journal_format.encode_group_header(
            checksum, head.revision, head.revision, body
        )
        yield header
        yield body


def _bodies(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Put lines together into bodies of groups."""
    some: list[bytes] = []
    size = 0
    for line in lines:
        some.append(line)
        size += len(line)
        if size >= GROUP_BYTES:
            yield b"".join(some)
            some, size = [], 0
    if some:
        yield b"".join(some)
