"""Looking after a data directory that no store has open: check, dump, repair.

For one thread. Each locks the directory against changes, or sees that nobody is at work there.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from kvs.engine.boundary import Engine
from kvs.engine.choice import new_engine
from kvs.errors import DataDamaged, DataUnusable, cause, shown
from kvs.files import Replacement, open_regular, write_all
from kvs.journal import form
from kvs.journal.disk import Disk
from kvs.journal.folder import Folder
from kvs.journal.form import Head, Kind, file_name
from kvs.journal.progress import Jobs
from kvs.journal.recovery import Found, Reader
from kvs.language.results import listing
from kvs.persistence import EngineTarget
from kvs.progress import ShowProgress, show_nobody

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
    """The files that hold it now."""
    revision: int
    """At which the store is now."""
    lost_up_to: int
    """The last revision that can be made out in what was cut off."""


def repair(path: Path, progress: ShowProgress = show_nobody) -> Cut | None:
    """Cut the journal at its first damage, and keep what is cut off in files beside it.

    Returns None if nothing is damaged.

    Raises:
        DataUnusable: it is no data directory, or cannot be read or changed; or the damage is in a
            snapshot, without which the rest is nothing.
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
            if kind is Kind.SNAPSHOT:
                reason = f"{damage.reason} (at byte {damage.offset})"
                raise DataUnusable(
                    damage.file,
                    f"{reason}; all that follows depends on it, so nothing can be cut: begin a new "
                    "data directory with 'kvs restore' from a backup",
                ) from damage
            try:
                return _Repair(folder, reader.found, damage, number).cut()
            except OSError as error:
                reason = f"cannot repair it: {cause(error)}"
                raise DataUnusable(shown(folder.path), reason) from error
    return None


@contextlib.contextmanager
def _looked_at(path: Path) -> Iterator[Folder]:
    with Folder(path) as folder:
        folder.check_unlocked()
        _check_there(folder)
        yield folder


def _check_there(folder: Folder) -> None:
    if not any(folder.numbers().values()):
        raise DataUnusable(shown(folder.path), "it holds no journal")


def _reader(folder: Folder, engine: Engine, progress: ShowProgress) -> Reader:
    return Reader(folder, EngineTarget(engine), Jobs().take_in, progress)


class _Repair:
    """One cut: at the damage in the segment `number`, or where that is missing."""

    def __init__(self, folder: Folder, found: Found, damage: DataDamaged, number: int) -> None:
        self._folder = folder
        self._disk = Disk(folder.descriptor)
        self._found = found
        self._damage = damage
        self._number = number
        self._bytes = 0
        self._kept: list[str] = []
        self._lost_up_to = found.revision

    def cut(self) -> Cut:
        """Save what follows the damage, then take it away, the last file first."""
        segments = self._folder.numbers()[Kind.JOURNAL]
        later = [each for each in segments if each > self._number]
        if self._number in segments:
            self._save(self._number, self._damage.offset)
        for each in later:
            self._save(each, 0)
        for each in reversed(later):
            self._disk.remove(file_name(Kind.JOURNAL, each))
        if self._damage.offset:
            file = self._disk.open(file_name(Kind.JOURNAL, self._number))
            self._disk.cut(file, self._damage.offset)
            self._disk.close(file)
        else:
            self._begin_again()
        return Cut(
            self._damage.file,
            self._damage.offset,
            self._damage.reason,
            self._bytes,
            self._kept,
            self._found.revision,
            self._lost_up_to,
        )

    def _begin_again(self) -> None:
        """Put an empty segment in the place of one of which nothing was good."""
        found = self._found
        store = found.store or os.urandom(form.STORE_DIGITS // 2).hex().encode()
        head = Head(Kind.JOURNAL, self._number, found.revision, store, found.chain)
        self._disk.close(self._disk.create(head.name, head.encode()))

    def _save(self, number: int, offset: int) -> None:
        """Copy a segment from `offset` on, durably, into a file that is not there yet."""
        name = file_name(Kind.JOURNAL, number)
        source = open_regular(name, os.O_RDONLY | os.O_NOFOLLOW, self._folder.descriptor)
        try:
            draft = Replacement(self._folder.descriptor, self._free_name(name))
            try:
                while block := os.pread(source, BLOCK, offset):
                    write_all(draft.file, block)
                    offset += len(block)
                    self._bytes += len(block)
                    self._look_for_revisions(block)
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

    def _look_for_revisions(self, block: bytes) -> None:
        """See how far the headers in what is cut off went: a guess, as they may be damaged."""
        for after in re.findall(rb"# group [0-9]{20} ([0-9]{20}) ", block):
            self._lost_up_to = max(self._lost_up_to, int(after))
