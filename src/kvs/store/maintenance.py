"""Maintenance of a data directory that no store has open: check, dump, repair, restore.

For one thread. Each locks the directory against changes, or sees that nobody is at work there.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kvs.engine.interface import Engine
from kvs.engine.selection import create_engine
from kvs.errors import CorruptionError, DataDirectoryError
from kvs.journal import format as journal_format
from kvs.journal.directory import DataDirectory, new_store_id
from kvs.journal.format import FileHeader, FileKind, file_name
from kvs.journal.job_records import JobRegistry
from kvs.journal.recovery import RESTORE_ADVICE, RecoveredState, Recovery
from kvs.journal.storage import Storage
from kvs.language.output_format import format_listing, format_pairs
from kvs.posix.files import AtomicFile, open_regular, write_all
from kvs.settings import ProgressCallback, ignore_progress
from kvs.store.persistence import EngineReplayTarget
from kvs.text import os_error_text, printable

Path = str | bytes | os.PathLike[str]

SAVED_SUFFIX = b".cut"
"""How the name of a file ends that keeps what a repair has cut off."""

BLOCK = 1 << 20


def check(path: Path, progress: ProgressCallback = ignore_progress) -> RecoveredState:
    """Verify all of a data directory, and change nothing; return what is there.

    Raises:
        DataDirectoryError: it is no data directory, or cannot be read.
        DirectoryLockedError: a process is at work there.
        CorruptionError: the first thing that does not prove itself.

    """
    with _open_unlocked(path) as folder:
        return _reader(folder, create_engine(), progress).read()


def dump(path: Path, progress: ProgressCallback = ignore_progress) -> Iterator[bytes]:
    """Yield all pairs of a data directory as SHOW writes them, and change nothing.

    Raises:
        DataDirectoryError: it is no data directory, or cannot be read.
        DirectoryLockedError: a process is at work there.
        CorruptionError: something does not prove itself; nothing was yielded.

    """
    engine = create_engine()
    with _open_unlocked(path) as folder:
        _reader(folder, engine, progress).read()
    yield from format_listing(engine.items())


@dataclass(frozen=True, slots=True)
class RepairResult:
    """What a repair has cut off."""

    file: str
    """Where the damage was."""
    offset: int
    reason: str
    """What it was."""
    bytes: int
    """How much was cut off, over all files."""
    saved_files: list[str]
    """The files that hold it now; none if what was damaged was not there."""
    revision: int
    """At which the store is now."""
    lost_up_to: int | None
    """The last revision that can be made out in what was cut off; None if nothing was lost."""


def repair(path: Path, progress: ProgressCallback = ignore_progress) -> RepairResult | None:
    """Cut the journal at its first damage, and keep what is cut off in files beside it.

    A damaged snapshot is put aside, if the files before it are still there, and whole. Returns None
    if nothing is damaged.

    Raises:
        CorruptionError: a snapshot is damaged and what came before it is not there any more, or
            what everything else goes on from is missing; nothing was changed.
        DataDirectoryError: it is no data directory, or cannot be read or changed.
        DirectoryLockedError: a process is at work there.

    """
    with DataDirectory(path) as folder:
        folder.lock()
        _require_journal(folder)
        reader = _reader(folder, create_engine(), progress)
        try:
            reader.read()
        except CorruptionError as damage:
            kind, number = reader.current_file
            try:
                if kind is FileKind.SNAPSHOT:
                    found = _found_before(folder, number, damage, progress)
                    return _Repair(folder, found, damage, number).set_snapshot_aside()
                if number == 1 and number not in folder.list_files()[FileKind.JOURNAL]:
                    raise
                return _Repair(folder, reader.found, damage, number).cut()
            except OSError as error:
                reason = f"cannot repair it: {os_error_text(error)}"
                raise DataDirectoryError(printable(folder.path), reason) from error
    return None


def restore(path: Path, pairs: Mapping[bytes, bytes]) -> int | None:
    """Begin the data directory `path` with `pairs`, as one change; return its revision.

    The directory is created if it does not exist. The pairs are there as a whole, durably, when
    this returns; after a crash at any moment they are there as a whole, or the directory is empty,
    or it is refused until it is restored again. Returns None, and changes nothing, if a store is
    there already.

    Raises:
        DataDirectoryError: the directory cannot be used, or it holds other files and no journal.
        DirectoryLockedError: another process has it open.

    """
    line = b"WRITE " + format_pairs(pairs.items()) if pairs else b""
    with DataDirectory.make(path) as folder:
        folder.lock()
        if any(folder.list_files(restoring=True).values()):
            return None
        folder.restore(Storage(folder.descriptor), new_store_id(), line)
    return int(bool(line))


@contextlib.contextmanager
def _open_unlocked(path: Path) -> Iterator[DataDirectory]:
    with DataDirectory(path) as folder:
        folder.check_unlocked()
        _require_journal(folder)
        try:
            yield folder
        except (CorruptionError, DataDirectoryError):
            folder.check_unlocked()  # who has come to work there since has changed what was read
            raise


def _require_journal(folder: DataDirectory) -> None:
    if not any(folder.list_files().values()):
        raise DataDirectoryError(printable(folder.path), "it holds no journal")


def _reader(folder: DataDirectory, engine: Engine, progress: ProgressCallback) -> Recovery:
    return Recovery(folder, EngineReplayTarget(engine), JobRegistry().replay, progress)


def _found_before(
    folder: DataDirectory, number: int, damage: CorruptionError, progress: ProgressCallback
) -> RecoveredState:
    """Return what there is without the snapshot of this number, which is damaged."""
    try:
        return _reader(folder, create_engine(), progress).read(before=number)
    except CorruptionError:
        damage.advice = f"nothing goes on without it: {RESTORE_ADVICE}"
        raise damage from None


class _Repair:
    """One repair of the damage in the file `number`, or where that is missing."""

    def __init__(
        self, folder: DataDirectory, found: RecoveredState, damage: CorruptionError, number: int
    ) -> None:
        self._folder = folder
        self._disk = Storage(folder.descriptor)
        self._found = found
        self._damage = damage
        self._number = number
        self._bytes = 0
        self._kept: list[str] = []
        self._lost_up_to = found.revision

    def set_snapshot_aside(self) -> RepairResult:
        """Take a snapshot away; what is older, and what follows, are as good without it."""
        name = file_name(FileKind.SNAPSHOT, self._number)
        self._save(name, 0)
        self._disk.remove(name)
        self._disk.sync_directory()
        return self._done(None)

    def cut(self) -> RepairResult:
        """Save what follows the damage, then take it away, the last file first."""
        segments = self._folder.list_files()[FileKind.JOURNAL]
        later = [each for each in segments if each > self._number]
        if self._number in segments:
            self._save(file_name(FileKind.JOURNAL, self._number), self._damage.offset)
        for each in later:
            self._save(file_name(FileKind.JOURNAL, each), 0)
        for each in reversed(later):
            self._disk.remove(file_name(FileKind.JOURNAL, each))
        self._disk.sync_directory()
        # Only now, so that an interrupted repair still finds the damage and is repeated.
        if self._damage.offset:
            file = self._disk.open(file_name(FileKind.JOURNAL, self._number))
            self._disk.truncate(file, self._damage.offset)
            self._disk.close(file)
        else:
            self._begin_again()
        return self._done(self._lost_up_to)

    def _done(self, lost_up_to: int | None) -> RepairResult:
        return RepairResult(
            self._damage.file,
            self._damage.offset,
            self._damage.reason,
            self._bytes,
            self._kept,
            self._found.revision,
            lost_up_to,
        )

    def _begin_again(self) -> None:
        """Put an empty segment in the place of one of which nothing was good."""
        found = self._found
        store = found.store or new_store_id()
        head = FileHeader(FileKind.JOURNAL, self._number, found.revision, store, found.chain)
        self._disk.close(self._disk.create(head.name, head.encode()))

    def _save(self, name: bytes, offset: int) -> None:
        """Copy a file from `offset` on, durably, into one that is not there yet."""
        source = open_regular(name, os.O_RDONLY | os.O_NOFOLLOW, self._folder.descriptor)
        try:
            self._find_last_revision(source)
            draft = AtomicFile(self._folder.descriptor, self._free_name(name))
            try:
                while block := os.pread(source, BLOCK, offset):
                    write_all(draft.file, block)
                    offset += len(block)
                    self._bytes += len(block)
                os.fsync(draft.file)
            except OSError:
                draft.discard()
                raise
            self._disk.commit(draft)
            self._kept.append(self._folder.shown(draft.name))
        finally:
            os.close(source)

    def _free_name(self, name: bytes) -> bytes:
        names = set(map(os.fsencode, os.listdir(self._folder.descriptor)))
        free, count = name + SAVED_SUFFIX, 1
        while free in names:
            count += 1
            free = b"%b%b%d" % (name, SAVED_SUFFIX, count)
        return free

    def _find_last_revision(self, segment: int) -> None:
        """See how far the head, and the headers, of a segment go that prove themselves.

        Where one does not, the next is proved by the checksum that stands there.
        """
        chain = 0
        with open(segment, "rb", closefd=False) as lines:
            for line in lines:
                with contextlib.suppress(journal_format.InvalidFileHeader):
                    head, _, chain = journal_format.decode_file_header(line)
                    self._lost_up_to = max(self._lost_up_to, head.revision)
                if header := journal_format.decode_group_header(chain, line):
                    self._lost_up_to = max(self._lost_up_to, header[0].after)
                stated = journal_format.claimed_checksum(line)
                chain = chain if stated is None else stated
