"""Maintenance of a data directory that no store has open: check, dump, repair, restore.

For one thread. Each locks the directory against changes, or sees that nobody is at work there.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kvs.engine.interface import Engine
from kvs.engine.selection import new_engine
from kvs.errors import DataDamaged, DataUnusable, cause, shown
from kvs.journal import format as journal_format
from kvs.journal.directory import Folder, new_mark
from kvs.journal.format import Head, Kind, file_name
from kvs.journal.job_records import Jobs
from kvs.journal.recovery import START_ANEW, Found, Reader
from kvs.journal.storage import Disk
from kvs.language.output_format import listing, pairs_line
from kvs.posix.files import Replacement, open_regular, write_all
from kvs.progress import ShowProgress, show_nobody
from kvs.store.persistence import EngineTarget

Path = str | bytes | os.PathLike[str]

CUT = b".cut"
"""How the name of a file ends that keeps what a repair has cut off."""

BLOCK = 1 << 20


def check(path: Path, progress: ShowProgress = show_nobody) -> Found:
    """Verify all of a data directory, and change nothing; return what is there.

    Raises:
        DataUnusable: it is no data directory, or cannot be read.
        DirectoryInUse: a process is at work there.
        DataDamaged: the first thing that does not prove itself.

    """
    with _looked_at(path) as folder:
        return _reader(folder, new_engine(), progress).read()


def dump(path: Path, progress: ShowProgress = show_nobody) -> Iterator[bytes]:
    """Yield all pairs of a data directory as SHOW writes them, and change nothing.

    Raises:
        DataUnusable: it is no data directory, or cannot be read.
        DirectoryInUse: a process is at work there.
        DataDamaged: something does not prove itself; nothing was yielded.

    """
    engine = new_engine()
    with _looked_at(path) as folder:
        _reader(folder, engine, progress).read()
    yield from listing(engine.items())


@dataclass(frozen=True, slots=True)
class Cut:
    """What a repair has cut off."""

    file: str
    """Where the damage was."""
    offset: int
    reason: str
    """What it was."""
    bytes: int
    """How much was cut off, over all files."""
    kept: list[str]
    """The files that hold it now; none if what was damaged was not there."""
    revision: int
    """At which the store is now."""
    lost_up_to: int | None
    """The last revision that can be made out in what was cut off; None if nothing was lost."""


def repair(path: Path, progress: ShowProgress = show_nobody) -> Cut | None:
    """Cut the journal at its first damage, and keep what is cut off in files beside it.

    A damaged snapshot is put aside, if the files before it are still there, and whole. Returns None
    if nothing is damaged.

    Raises:
        DataDamaged: a snapshot is damaged and what came before it is not there any more, or what
            everything else goes on from is missing; nothing was changed.
        DataUnusable: it is no data directory, or cannot be read or changed.
        DirectoryInUse: a process is at work there.

    """
    with Folder(path) as folder:
        folder.lock()
        _check_there(folder)
        reader = _reader(folder, new_engine(), progress)
        try:
            reader.read()
        except DataDamaged as damage:
            kind, number = reader.at
            try:
                if kind is Kind.SNAPSHOT:
                    found = _found_before(folder, number, damage, progress)
                    return _Repair(folder, found, damage, number).put_aside()
                if number == 1 and number not in folder.numbers()[Kind.JOURNAL]:
                    raise
                return _Repair(folder, reader.found, damage, number).cut()
            except OSError as error:
                reason = f"cannot repair it: {cause(error)}"
                raise DataUnusable(shown(folder.path), reason) from error
    return None


def restore(path: Path, pairs: Mapping[bytes, bytes]) -> int | None:
    """Begin the data directory `path` with `pairs`, as one change; return its revision.

    The directory is created if it does not exist. The pairs are there as a whole, durably, when
    this returns; after a crash at any moment they are there as a whole, or the directory is empty,
    or it is refused until it is restored again. Returns None, and changes nothing, if a store is
    there already.

    Raises:
        DataUnusable: the directory cannot be used, or it holds other files and no journal.
        DirectoryInUse: another process has it open.

    """
    line = b"WRITE " + pairs_line(pairs.items()) if pairs else b""
    with Folder.make(path) as folder:
        folder.lock()
        if any(folder.numbers(restoring=True).values()):
            return None
        folder.restore(Disk(folder.descriptor), new_mark(), line)
    return int(bool(line))


@contextlib.contextmanager
def _looked_at(path: Path) -> Iterator[Folder]:
    with Folder(path) as folder:
        folder.check_unlocked()
        _check_there(folder)
        try:
            yield folder
        except (DataDamaged, DataUnusable):
            folder.check_unlocked()  # who has come to work there since has changed what was read
            raise


def _check_there(folder: Folder) -> None:
    if not any(folder.numbers().values()):
        raise DataUnusable(shown(folder.path), "it holds no journal")


def _reader(folder: Folder, engine: Engine, progress: ShowProgress) -> Reader:
    return Reader(folder, EngineTarget(engine), Jobs().take_in, progress)


def _found_before(
    folder: Folder, number: int, damage: DataDamaged, progress: ShowProgress
) -> Found:
    """Return what there is without the snapshot of this number, which is damaged."""
    try:
        return _reader(folder, new_engine(), progress).read(before=number)
    except DataDamaged:
        damage.advice = f"nothing goes on without it: {START_ANEW}"
        raise damage from None


class _Repair:
    """One repair of the damage in the file `number`, or where that is missing."""

    def __init__(self, folder: Folder, found: Found, damage: DataDamaged, number: int) -> None:
        self._folder = folder
        self._disk = Disk(folder.descriptor)
        self._found = found
        self._damage = damage
        self._number = number
        self._bytes = 0
        self._kept: list[str] = []
        self._lost_up_to = found.revision

    def put_aside(self) -> Cut:
        """Take a snapshot away; what is older, and what follows, are as good without it."""
        name = file_name(Kind.SNAPSHOT, self._number)
        self._save(name, 0)
        self._disk.remove(name)
        self._disk.sync_names()
        return self._done(None)

    def cut(self) -> Cut:
        """Save what follows the damage, then take it away, the last file first."""
        segments = self._folder.numbers()[Kind.JOURNAL]
        later = [each for each in segments if each > self._number]
        if self._number in segments:
            self._save(file_name(Kind.JOURNAL, self._number), self._damage.offset)
        for each in later:
            self._save(file_name(Kind.JOURNAL, each), 0)
        for each in reversed(later):
            self._disk.remove(file_name(Kind.JOURNAL, each))
        self._disk.sync_names()  # before the damage is gone, by which one would go on here again
        if self._damage.offset:
            file = self._disk.open(file_name(Kind.JOURNAL, self._number))
            self._disk.cut(file, self._damage.offset)
            self._disk.close(file)
        else:
            self._begin_again()
        return self._done(self._lost_up_to)

    def _done(self, lost_up_to: int | None) -> Cut:
        return Cut(
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
        store = found.store or new_mark()
        head = Head(Kind.JOURNAL, self._number, found.revision, store, found.chain)
        self._disk.close(self._disk.create(head.name, head.encode()))

    def _save(self, name: bytes, offset: int) -> None:
        """Copy a file from `offset` on, durably, into one that is not there yet."""
        source = open_regular(name, os.O_RDONLY | os.O_NOFOLLOW, self._folder.descriptor)
        try:
            self._look_for_revisions(source)
            draft = Replacement(self._folder.descriptor, self._free_name(name))
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
        free, count = name + CUT, 1
        while free in names:
            count += 1
            free = b"%b%b%d" % (name, CUT, count)
        return free

    def _look_for_revisions(self, segment: int) -> None:
        """See how far the head, and the headers, of a segment go that prove themselves.

        Where one does not, the next is proved by the checksum that stands there.
        """
        chain = 0
        with open(segment, "rb", closefd=False) as lines:
            for line in lines:
                with contextlib.suppress(journal_format.NotAHead):
                    head, _, chain = journal_format.decode_head(line)
                    self._lost_up_to = max(self._lost_up_to, head.revision)
                if header := journal_format.decode_header(chain, line):
                    self._lost_up_to = max(self._lost_up_to, header[0].after)
                stated = journal_format.stated_checksum(line)
                chain = chain if stated is None else stated
