"""Maintenance of a data directory that no store has open: check, load, repair, restore.

Locking: `repair` and `restore` lock the directory; `check` and `load` only read it, and raise
`DirectoryLockedError` if another process has locked it before or meanwhile. Threads: one.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from kvs.engine.interface import Engine
from kvs.engine.selection import create_engine
from kvs.errors import CorruptionError, DataDirectoryError
from kvs.journal import format as journal_format
from kvs.journal.directory import DataDirectory, new_store_id, replay_starts
from kvs.journal.format import FileHeader, FileKind, StoreMark, file_name
from kvs.journal.job_records import JobRegistry
from kvs.journal.recovery import RESTORE_ADVICE, RecoveredState, Recovery
from kvs.journal.storage import Storage
from kvs.language.output_format import NO_EXPIRIES, Expiries
from kvs.posix.files import AtomicFile, open_regular, write_all
from kvs.settings import ProgressCallback, ignore_progress
from kvs.store.persistence import EngineReplayTarget
from kvs.store.restoring import RestoreLines
from kvs.text import os_error_text, printable

Path = str | bytes | os.PathLike[str]

SAVED_SUFFIX = b".cut"
"""Suffix of the file to which a repair saves what it cuts off."""

BLOCK = 1 << 20
"""Bytes copied at a time."""


def check(path: Path, progress: ProgressCallback = ignore_progress) -> RecoveredState:
    """Verify all checksums of a data directory; return its state. Change nothing.

    Files that are kept for the history are verified, too.

    Raises:
        DataDirectoryError: it is not a data directory, or cannot be read.
        DirectoryLockedError: another process has locked it.
        CorruptionError: a file is damaged or missing; the error describes the first one.

    """
    with open_unlocked(path) as directory:
        state = _recovery(directory, create_engine(), progress).read()
        starts = replay_starts(directory.list_files())
        for start, following in pairwise(starts):
            try:
                older = _recovery(directory, create_engine(), progress)
                older.read(before=start + 1, end=following + 1)
            except CorruptionError as damage:
                reason = f"{damage.reason} (only the history needs this file)"
                raise CorruptionError(damage.path, damage.offset, reason) from None
        state.older_segments = starts[-1] - starts[0]
        return state


def size_bytes(path: Path) -> int:
    """Return the bytes of the snapshots and segments of a data directory, locked or not.

    Raises:
        DataDirectoryError: it is not a data directory, or cannot be read.

    """
    with DataDirectory(path) as directory:
        directory.require_journal()
        try:
            return sum(
                os.stat(file_name(kind, number), dir_fd=directory.descriptor).st_size
                for kind, numbers in directory.list_files().items()
                for number in numbers
            )
        except OSError as error:
            raise DataDirectoryError(printable(directory.path), os_error_text(error)) from error


def load(path: Path, progress: ProgressCallback = ignore_progress) -> Engine:
    """Return an engine with the pairs and the revision of a data directory. Change nothing.

    Raises:
        DataDirectoryError: it is not a data directory, or cannot be read.
        DirectoryLockedError: another process has locked it.
        CorruptionError: a file is damaged or missing.

    """
    engine = create_engine()
    with open_unlocked(path) as directory:
        state = _recovery(directory, engine, progress).read()
    engine.start_recording(state.revision)
    return engine


@dataclass(frozen=True, slots=True)
class RepairResult:
    """The result of a repair."""

    file: str
    """Path of the damaged or missing file."""
    offset: int
    """Offset of the damage in bytes."""
    reason: str
    """Description of the damage."""
    bytes: int
    """Bytes cut off, over all files."""
    saved_files: list[str]
    """Paths of the files to which they were saved; empty if the file was missing, and the last."""
    revision: int
    """Revision of the repaired store."""
    lost_up_to: int | None
    """Last revision that can be read in what was cut off; None if nothing was lost."""


def repair(
    path: Path,
    progress: ProgressCallback = ignore_progress,
    *,
    storage: Callable[[int], Storage] = Storage,
) -> RepairResult | None:
    """Cut the journal at its first damage, and save what is cut off in files beside it.

    A damaged snapshot is set aside, if the files before it still exist and are intact. Return None
    if nothing is damaged. `storage` is called with the descriptor of the directory.

    Raises:
        CorruptionError: a snapshot is damaged and the files before it are missing or damaged, or
            the first file is missing; nothing was changed.
        DataDirectoryError: it is not a data directory, or cannot be read or changed.
        DirectoryLockedError: another process has locked it.

    """
    with DataDirectory(path) as directory:
        directory.lock()
        directory.require_journal()
        recovery = _recovery(directory, create_engine(), progress)
        try:
            recovery.read()
        except CorruptionError as damage:
            kind, number = recovery.current_file
            try:
                if kind is FileKind.SNAPSHOT:
                    state = _state_without_snapshot(directory, number, damage, progress)
                elif number == 1 and number not in directory.list_files()[FileKind.JOURNAL]:
                    raise
                else:
                    state = recovery.state
                    if not state.segments:
                        state.last_checksum = _checksum_before(directory, number, progress)
                work = _Repair(directory, storage(directory.descriptor), state, damage, number)
                return work.set_snapshot_aside() if kind is FileKind.SNAPSHOT else work.cut()
            except OSError as error:
                reason = f"cannot repair it: {os_error_text(error)}"
                raise DataDirectoryError(printable(directory.path), reason) from error
    return None


def restore(
    path: Path,
    pairs: Mapping[bytes, bytes],
    expiries: Expiries = NO_EXPIRIES,
    *,
    storage: Callable[[int], Storage] = Storage,
) -> int | None:
    """Create a store in the data directory `path` with `pairs`, as one change; return its revision.

    `expiries` has the times of the pairs that expire, in milliseconds since the epoch.
    The directory is created if it does not exist. All pairs are durable on return. After a crash at
    any moment the store has all pairs, or the directory is empty, or it is refused until a restore
    is repeated. Return None, and change nothing, if there is a store already. `storage` is called
    with the descriptor of the directory.

    Raises:
        DataDirectoryError: the directory cannot be used, or has other files and no journal.
        DirectoryLockedError: another process has locked it.

    """
    with DataDirectory.make(path) as directory:
        directory.lock()
        if any(directory.list_files(restoring=True).values()):
            return None
        lines = RestoreLines(pairs, expiries)
        directory.restore(storage(directory.descriptor), new_store_id(), lines)
    return int(bool(pairs))


@contextlib.contextmanager
def open_unlocked(path: Path) -> Iterator[DataDirectory]:
    """Yield a data directory that no other process has locked, and that has a journal.

    Raises:
        DataDirectoryError: it is not a data directory, or cannot be read.
        DirectoryLockedError: another process has locked it, also when the caller has read damage.

    """
    with DataDirectory(path) as directory:
        directory.check_unlocked()
        directory.require_journal()
        try:
            yield directory
        except (CorruptionError, DataDirectoryError):
            directory.check_unlocked()  # a process that has locked it since has changed the files
            raise


def _recovery(directory: DataDirectory, engine: Engine, progress: ProgressCallback) -> Recovery:
    return Recovery(directory, EngineReplayTarget(engine), JobRegistry().replay, progress)


def _state_without_snapshot(
    directory: DataDirectory, number: int, damage: CorruptionError, progress: ProgressCallback
) -> RecoveredState:
    """Return the state of the store without its damaged snapshot `number`.

    Raises:
        CorruptionError: `damage`, since the files before the snapshot are missing or damaged.

    """
    try:
        return _recovery(directory, create_engine(), progress).read(before=number)
    except CorruptionError:
        damage.advice = f"no repair is possible without it: {RESTORE_ADVICE}"
        raise damage from None


def _checksum_before(directory: DataDirectory, number: int, progress: ProgressCallback) -> int:
    """Return the last checksum of the segment before the segment `number`, or 0.

    So the older segments, which are kept for the history, are still followed by the new one.
    """
    if number - 1 not in directory.list_files()[FileKind.JOURNAL]:
        return 0
    try:
        older = _recovery(directory, create_engine(), progress)
        return older.read(before=number, end=number).last_checksum
    except CorruptionError:
        return 0


class _Repair:
    """One repair of the file `number`, which is damaged or missing. Threads: one."""

    def __init__(
        self,
        directory: DataDirectory,
        storage: Storage,
        state: RecoveredState,
        damage: CorruptionError,
        number: int,
    ) -> None:
        """Change nothing yet. The repaired store will have the state `state`."""
        self._directory = directory
        self._storage = storage
        self._state = state
        self._damage = damage
        self._number = number
        self._saved_bytes = 0
        self._saved_files: list[str] = []
        self._lost_up_to = state.revision

    def set_snapshot_aside(self) -> RepairResult:
        """Save the snapshot, then remove it; the older files and the later ones replace it."""
        name = file_name(FileKind.SNAPSHOT, self._number)
        self._save(name, 0)
        self._storage.remove(name)
        self._storage.sync_directory()
        return self._result(None)

    def cut(self) -> RepairResult:
        """Save everything after the damage, then remove it, the last file first."""
        segments = self._directory.list_files()[FileKind.JOURNAL]
        later = [number for number in segments if number > self._number]
        if self._number in segments:
            self._save(file_name(FileKind.JOURNAL, self._number), self._damage.offset)
        for number in later:
            self._save(file_name(FileKind.JOURNAL, number), 0)
        for number in reversed(later):
            self._storage.remove(file_name(FileKind.JOURNAL, number))
        self._storage.sync_directory()
        # The damage is removed last, so that a repair after an interrupted one detects it again.
        if self._damage.offset:
            self._create_segment(self._number + 1)
            file = self._storage.open(file_name(FileKind.JOURNAL, self._number))
            self._storage.truncate(file, self._damage.offset)
            self._storage.close(file)
        else:
            self._create_segment(self._number)
        return self._result(self._lost_up_to)

    def _result(self, lost_up_to: int | None) -> RepairResult:
        return RepairResult(
            self._damage.path,
            self._damage.offset,
            self._damage.reason,
            self._saved_bytes,
            self._saved_files,
            self._state.revision,
            lost_up_to,
        )

    def _create_segment(self, number: int) -> None:
        """Create the segment that follows the rest of the journal, with a new mark and no changes.

        Changes that were committed may be lost.
        """
        state = self._state
        store_id = state.store_id or new_store_id()
        header = FileHeader(
            FileKind.JOURNAL, number, state.revision, store_id, state.last_checksum
        ).encode()
        _, _, checksum = journal_format.decode_file_header(header)
        mark = StoreMark(new_store_id()).encode()
        group, _, _ = journal_format.encode_group_header(
            checksum, state.revision, state.revision, journal_format.now_ms(), [mark]
        )
        name = file_name(FileKind.JOURNAL, number)
        self._storage.close(self._storage.create(name, header, [group, mark]))

    def _save(self, name: bytes, offset: int) -> None:
        """Copy a file from `offset` to its end, durably, to a new file."""
        source = open_regular(name, os.O_RDONLY | os.O_NOFOLLOW, self._directory.descriptor)
        try:
            self._find_last_revision(source)
            with AtomicFile(self._directory.descriptor, self._free_name(name)) as copy:
                while block := os.pread(source, BLOCK, offset):
                    write_all(copy.file, block)
                    offset += len(block)
                    self._saved_bytes += len(block)
                os.fsync(copy.file)
                self._storage.commit(copy)
            self._saved_files.append(self._directory.display_path_of(copy.name))
        finally:
            os.close(source)

    def _free_name(self, name: bytes) -> bytes:
        names = set(map(os.fsencode, os.listdir(self._directory.descriptor)))
        free, count = name + SAVED_SUFFIX, 1
        while free in names:
            count += 1
            free = b"%b%b%d" % (name, SAVED_SUFFIX, count)
        return free

    def _find_last_revision(self, segment: int) -> None:
        """Raise `_lost_up_to` to the last revision in a valid header of a segment.

        A header after an invalid one is verified with the checksum that the invalid one has.
        """
        checksum = 0
        with open(segment, "rb", closefd=False) as lines:
            for line in lines:
                with contextlib.suppress(journal_format.InvalidFileHeader):
                    file_header, _, checksum = journal_format.decode_file_header(line)
                    self._lost_up_to = max(self._lost_up_to, file_header.revision)
                if decoded := journal_format.decode_group_header(checksum, line):
                    group_header, _ = decoded
                    self._lost_up_to = max(self._lost_up_to, group_header.after)
                claimed = journal_format.claimed_checksum(line)
                checksum = checksum if claimed is None else claimed
