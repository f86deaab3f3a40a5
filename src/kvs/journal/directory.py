"""The data directory: its lock, and the files in it."""

import contextlib
import os
from typing import Self

from kvs.concurrency import forks
from kvs.errors import DataUnusable, cause, shown
from kvs.journal import format as journal_format
from kvs.journal.format import Head, Kind, file_name, kind_and_number
from kvs.journal.reserve import FULL, RESERVE, Reserve
from kvs.journal.storage import Disk
from kvs.journal.writer import Segment
from kvs.posix.files import clear_leftovers, is_temporary, open_regular
from kvs.posix.locks import LOCK, HeldDirectory

OTHERS_MAY_WRITE = 0o022

UNFINISHED = b"restore.unfinished"
"""Stands beside no journal only while a restore is under way, or was interrupted."""


class Folder(HeldDirectory):
    """A data directory, open from `__enter__` to `__exit__`. For one thread at a time."""

    def __enter__(self) -> Self:
        """Open the directory.

        Raises:
            DataUnusable: it is no directory, cannot be opened, or others may write there.

        """
        try:
            self._place = os.path.abspath(self.path)  # for who changes his own directory
            self._open()
        except OSError as error:
            raise DataUnusable(shown(self.path), cause(error)) from error
        try:
            self._check_owner()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _check_owner(self) -> None:
        found = os.fstat(self.descriptor)
        if found.st_uid != os.geteuid():
            raise DataUnusable(shown(self.path), "it belongs to another user")
        if found.st_mode & OTHERS_MAY_WRITE:
            reason = "others may write there; take that away with 'chmod go-w'"
            raise DataUnusable(shown(self.path), reason)

    @classmethod
    def make(cls, path: str | bytes | os.PathLike[str]) -> Self:
        """Return the data directory `path`, which is made if it is not there.

        Raises:
            DataUnusable: it cannot be made.

        """
        try:
            os.mkdir(os.fsencode(path), 0o700)
        except FileExistsError:
            pass
        except OSError as error:
            raise DataUnusable(shown(path), f"cannot make it: {cause(error)}") from error
        return cls(path)

    def lock(self) -> None:
        """Make this process the only one at work here, and clear away what a crash left half made.

        Raises:
            DirectoryInUse: another process is at work here.
            DataUnusable: it cannot be locked.

        """
        try:
            try:
                why_not = self._lock.acquire()
            except OSError as error:
                if error.errno not in FULL or not Reserve(self.descriptor).release():
                    raise
                why_not = self._lock.acquire()
            if why_not is None:
                return clear_leftovers(self.descriptor)
        except OSError as error:
            why_not = cause(error)
        raise DataUnusable(shown(self.path), f"cannot lock it with {LOCK.decode()}: {why_not}")

    def check_unlocked(self) -> None:
        """Refuse if another process is at work here.

        Raises:
            DirectoryInUse: it is.
            DataUnusable: it cannot be told.

        """
        try:
            self._lock.check()
        except OSError as error:
            raise DataUnusable(
                shown(self.path), f"cannot look at its lock: {cause(error)}"
            ) from error

    def numbers(self, *, restoring: bool = False) -> dict[Kind, list[int]]:
        """Return the numbers of the files of each kind, ascending.

        With `restoring`, a directory that an interrupted restore left is an empty one.

        Raises:
            DataUnusable: the directory cannot be listed; or there is no journal, but other files,
                or what an interrupted restore left.

        """
        numbers: dict[Kind, list[int]] = {kind: [] for kind in Kind}
        others = set()
        for name in self._names():
            if found := kind_and_number(name):
                numbers[found[0]].append(found[1])
            elif name not in {LOCK, RESERVE} and not is_temporary(name):
                others.add(name)
        if not any(numbers.values()):
            if others - {UNFINISHED}:
                reason = "it is not empty, and holds no journal; name another directory"
                raise DataUnusable(shown(self.path), reason)
            if others and not restoring:
                reason = "a restore into it was interrupted; restore again or remove the directory"
                raise DataUnusable(shown(self.path), reason)
        for each in numbers.values():
            each.sort()
        return numbers

    def _names(self) -> list[bytes]:
        try:
            return list(map(os.fsencode, os.listdir(self.descriptor)))
        except OSError as error:
            raise DataUnusable(shown(self.path), cause(error)) from error

    def open_file(self, kind: Kind, number: int) -> int:
        """Open a file for reading; return the descriptor, which `close_file` or `__exit__` closes.

        Raises:
            DataUnusable: it cannot be opened, which says nothing of what it holds.

        """
        name = file_name(kind, number)
        flags = os.O_RDONLY | os.O_NOFOLLOW
        try:
            return open_regular(name, flags, self.descriptor, held=self._open_descriptors)
        except OSError as error:
            raise DataUnusable(self.shown(name), f"it cannot be opened: {cause(error)}") from error

    def close_file(self, file: int) -> None:
        """Close what `open_file` returned. Idempotent."""
        forks.close_once(self._open_descriptors, file)

    def tampering(self, segment: Segment) -> str | None:
        """Return what somebody did to this directory, or to `segment`; None if it was nothing.

        What cannot be looked at is taken for as it was. For the thread that writes.
        """
        name = file_name(Kind.JOURNAL, segment.number)
        if not _stands_at(self._place, None, self.descriptor):
            return "the directory was removed, renamed or replaced"
        if not _stands_at(name, self.descriptor, segment.file):
            return f"{name.decode()} was removed, renamed or replaced"
        if os.fstat(segment.file).st_size != segment.size:
            return f"{name.decode()} was made longer or shorter by somebody else"
        return None

    def begin(self, disk: Disk, store: bytes) -> Segment:
        """Create the first segment of a new store with the mark `store`, durably.

        Raises:
            DataUnusable: it cannot be created.

        """
        head = Head(Kind.JOURNAL, 1, 0, store)
        try:
            file = disk.create(head.name, head.encode())
            with disk.closed_on_error(file):
                disk.sync_parent()
        except OSError as error:
            raise self._cannot_begin(error) from error
        _, end, chain = journal_format.decode_head(head.encode())
        return Segment(file, 1, chain, end)

    def restore(self, disk: Disk, store: bytes, line: bytes) -> None:
        """Create the first segment of a new store, durably, with one change: a WRITE `line`.

        An empty `line` is no change. After a crash at any moment the segment is there with the
        change, or there is no journal, and `UNFINISHED` makes every opener refuse the directory.

        Raises:
            DataUnusable: it cannot be created; there is neither a journal nor `UNFINISHED`.

        """
        head = Head(Kind.JOURNAL, 1, 0, store)
        first = head.encode()
        _, _, chain = journal_format.decode_head(first)
        group = [journal_format.encode_header(chain, 0, 1, line)[0], line] if line else []
        try:
            disk.mark(UNFINISHED)
            disk.sync_parent()
            disk.close(disk.create(head.name, first, *group))
            disk.remove(UNFINISHED)
            disk.sync_names()
        except OSError as error:
            with contextlib.suppress(OSError):
                disk.remove(head.name)
                disk.remove(UNFINISHED)
            raise self._cannot_begin(error) from error

    def _cannot_begin(self, error: OSError) -> DataUnusable:
        return DataUnusable(shown(self.path), f"cannot make the journal: {cause(error)}")

    def go_on(self, disk: Disk, segment: int, chain: int, end: int) -> Segment:
        """Open a segment to go on at `end`, which has the checksum `chain`; cut off what follows.

        All that was found is durable then, its names too: a process that was killed may have left
        it with the kernel alone, and from now on it is told.

        Raises:
            DataUnusable: it cannot be opened, cut or synced.

        """
        name = file_name(Kind.JOURNAL, segment)
        try:
            file = disk.open(name)
            with disk.closed_on_error(file):
                if os.fstat(file).st_size > end:
                    disk.cut(file, end)
                else:
                    disk.sync(file)
                disk.sync_names()
        except OSError as error:
            raise DataUnusable(self.shown(name), f"cannot go on in it: {cause(error)}") from error
        return Segment(file, segment, chain, end)

    def remove_older(self, disk: Disk, number: int) -> None:
        """Remove the files that a snapshot of this number replaces, and `UNFINISHED`.

        A file that stays does no harm.

        Raises:
            DataUnusable: a file could not be removed.

        """
        names = self._names()
        older = [name for name in names if (found := kind_and_number(name)) and found[1] < number]
        for name in sorted(older) + [UNFINISHED] * (UNFINISHED in names):
            try:
                disk.remove(name)
            except OSError as error:
                reason = f"cannot remove it: {cause(error)}"
                raise DataUnusable(self.shown(name), reason) from error


def new_mark() -> bytes:
    """Return the mark of a new store, drawn at random."""
    return os.urandom(journal_format.STORE_DIGITS // 2).hex().encode()


def _stands_at(path: bytes, directory: int | None, opened: int) -> bool:
    """Tell whether what was opened is still what `path` leads to."""
    try:
        return os.path.samestat(os.stat(path, dir_fd=directory), os.fstat(opened))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # no right to look there, say
        return True
