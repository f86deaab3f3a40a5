"""The data directory: its lock, and the files in it."""

import contextlib
import os
from typing import Self

from kvs.concurrency import forks
from kvs.errors import DataDirectoryError
from kvs.journal import format as journal_format
from kvs.journal.format import FileHeader, FileKind, file_name, kind_and_number
from kvs.journal.reserve import DISK_FULL_ERRNOS, RESERVE, Reserve
from kvs.journal.storage import Storage
from kvs.journal.writer import Segment
from kvs.posix.files import is_temporary, open_regular, remove_stale_temp_files
from kvs.posix.locks import LOCK_FILE_NAME, LockableDirectory
from kvs.text import os_error_text, printable

GROUP_OR_OTHER_WRITE = 0o022

UNFINISHED = b"restore.unfinished"
"""Stands beside no journal only while a restore is under way, or was interrupted."""


class DataDirectory(LockableDirectory):
    """A data directory, open from `__enter__` to `__exit__`. For one thread at a time."""

    def __enter__(self) -> Self:
        """Open the directory.

        Raises:
            DataDirectoryError: it is no directory, cannot be opened, or others may write there.

        """
        try:
            self._absolute_path = os.path.abspath(self.path)  # for who changes his own directory
            self._open()
        except OSError as error:
            raise DataDirectoryError(printable(self.path), os_error_text(error)) from error
        try:
            self._check_owner()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _check_owner(self) -> None:
        found = os.fstat(self.descriptor)
        if found.st_uid != os.geteuid():
            raise DataDirectoryError(printable(self.path), "it belongs to another user")
        if found.st_mode & GROUP_OR_OTHER_WRITE:
            reason = "others may write there; take that away with 'chmod go-w'"
            raise DataDirectoryError(printable(self.path), reason)

    @classmethod
    def make(cls, path: str | bytes | os.PathLike[str]) -> Self:
        """Return the data directory `path`, which is made if it is not there.

        Raises:
            DataDirectoryError: it cannot be made.

        """
        try:
            os.mkdir(os.fsencode(path), 0o700)
        except FileExistsError:
            pass
        except OSError as error:
            raise DataDirectoryError(
                printable(path), f"cannot make it: {os_error_text(error)}"
            ) from error
        return cls(path)

    def lock(self) -> None:
        """Make this process the only one at work here, and clear away what a crash left half made.

        Raises:
            DirectoryLockedError: another process is at work here.
            DataDirectoryError: it cannot be locked.

        """
        try:
            try:
                why_not = self._lock.acquire()
            except OSError as error:
                if error.errno not in DISK_FULL_ERRNOS or not Reserve(self.descriptor).release():
                    raise
                why_not = self._lock.acquire()
            if why_not is None:
                return remove_stale_temp_files(self.descriptor)
        except OSError as error:
            why_not = os_error_text(error)
        raise DataDirectoryError(
            printable(self.path), f"cannot lock it with {LOCK_FILE_NAME.decode()}: {why_not}"
        )

    def check_unlocked(self) -> None:
        """Refuse if another process is at work here.

        Raises:
            DirectoryLockedError: it is.
            DataDirectoryError: it cannot be told.

        """
        try:
            self._lock.check_unlocked()
        except OSError as error:
            raise DataDirectoryError(
                printable(self.path), f"cannot look at its lock: {os_error_text(error)}"
            ) from error

    def list_files(self, *, restoring: bool = False) -> dict[FileKind, list[int]]:
        """Return the numbers of the files of each kind, ascending.

        With `restoring`, a directory that an interrupted restore left is an empty one.

        Raises:
            DataDirectoryError: the directory cannot be listed; or there is no journal, but other
                files, or what an interrupted restore left.

        """
        numbers: dict[FileKind, list[int]] = {kind: [] for kind in FileKind}
        others = set()
        for name in self._names():
            if found := kind_and_number(name):
                numbers[found[0]].append(found[1])
            elif name not in {LOCK_FILE_NAME, RESERVE} and not is_temporary(name):
                others.add(name)
        if not any(numbers.values()):
            if others - {UNFINISHED}:
                reason = "it is not empty, and holds no journal; name another directory"
                raise DataDirectoryError(printable(self.path), reason)
            if others and not restoring:
                reason = "a restore into it was interrupted; restore again or remove the directory"
                raise DataDirectoryError(printable(self.path), reason)
        for each in numbers.values():
            each.sort()
        return numbers

    def _names(self) -> list[bytes]:
        try:
            return list(map(os.fsencode, os.listdir(self.descriptor)))
        except OSError as error:
            raise DataDirectoryError(printable(self.path), os_error_text(error)) from error

    def open_file(self, kind: FileKind, number: int) -> int:
        """Open a file for reading; return the descriptor, which `close_file` or `__exit__` closes.

        Raises:
            DataDirectoryError: it cannot be opened, which says nothing of what it holds.

        """
        name = file_name(kind, number)
        flags = os.O_RDONLY | os.O_NOFOLLOW
        try:
            return open_regular(name, flags, self.descriptor, held=self._open_descriptors)
        except OSError as error:
            raise DataDirectoryError(
                self.shown(name), f"it cannot be opened: {os_error_text(error)}"
            ) from error

    def close_file(self, file: int) -> None:
        """Close what `open_file` returned. Idempotent."""
        forks.close_once(self._open_descriptors, file)

    def find_tampering(self, segment: Segment) -> str | None:
        """Return what somebody did to this directory, or to `segment`; None if it was nothing.

        What cannot be looked at is taken for as it was. For the thread that writes.
        """
        name = file_name(FileKind.JOURNAL, segment.number)
        if not _is_same_file(self._absolute_path, None, self.descriptor):
            return "the directory was removed, renamed or replaced"
        if not _is_same_file(name, self.descriptor, segment.file):
            return f"{name.decode()} was removed, renamed or replaced"
        if os.fstat(segment.file).st_size != segment.size:
            return f"{name.decode()} was made longer or shorter by somebody else"
        return None

    def create_first_segment(self, disk: Storage, store: bytes) -> Segment:
        """Create the first segment of a new store with the mark `store`, durably.

        Raises:
            DataDirectoryError: it cannot be created.

        """
        head = FileHeader(FileKind.JOURNAL, 1, 0, store)
        try:
            file = disk.create(head.name, head.encode())
            with disk.closed_on_error(file):
                disk.sync_parent_directory()
        except OSError as error:
            raise self._creation_error(error) from error
        _, end, chain = journal_format.decode_file_header(head.encode())
        return Segment(file, 1, chain, end)

    def restore(self, disk: Storage, store: bytes, line: bytes) -> None:
        """Create the first segment of a new store, durably, with one change: a WRITE `line`.

        An empty `line` is no change. After a crash at any moment the segment is there with the
        change, or there is no journal, and `UNFINISHED` makes every opener refuse the directory.

        Raises:
            DataDirectoryError: it cannot be created; there is neither a journal nor `UNFINISHED`.

        """
        head = FileHeader(FileKind.JOURNAL, 1, 0, store)
        first = head.encode()
        _, _, chain = journal_format.decode_file_header(first)
        group = [journal_format.encode_group_header(chain, 0, 1, line)[0], line] if line else []
        try:
            disk.mark(UNFINISHED)
            disk.sync_parent_directory()
            disk.close(disk.create(head.name, first, *group))
            disk.remove(UNFINISHED)
            disk.sync_directory()
        except OSError as error:
            with contextlib.suppress(OSError):
                disk.remove(head.name)
                disk.remove(UNFINISHED)
            raise self._creation_error(error) from error

    def _creation_error(self, error: OSError) -> DataDirectoryError:
        return DataDirectoryError(
            printable(self.path), f"cannot make the journal: {os_error_text(error)}"
        )

    def resume_segment(self, disk: Storage, segment: int, chain: int, end: int) -> Segment:
        """Open a segment to go on at `end`, which has the checksum `chain`; cut off what follows.

        All that was found is durable then, its names too: a process that was killed may have left
        it with the kernel alone, and from now on it is told.

        Raises:
            DataDirectoryError: it cannot be opened, cut or synced.

        """
        name = file_name(FileKind.JOURNAL, segment)
        try:
            file = disk.open(name)
            with disk.closed_on_error(file):
                if os.fstat(file).st_size > end:
                    disk.truncate(file, end)
                else:
                    disk.sync(file)
                disk.sync_directory()
        except OSError as error:
            raise DataDirectoryError(
                self.shown(name), f"cannot go on in it: {os_error_text(error)}"
            ) from error
        return Segment(file, segment, chain, end)

    def remove_older(self, disk: Storage, number: int) -> None:
        """Remove the files that a snapshot of this number replaces, and `UNFINISHED`.

        A file that stays does no harm.

        Raises:
            DataDirectoryError: a file could not be removed.

        """
        names = self._names()
        older = [name for name in names if (found := kind_and_number(name)) and found[1] < number]
        for name in sorted(older) + [UNFINISHED] * (UNFINISHED in names):
            try:
                disk.remove(name)
            except OSError as error:
                reason = f"cannot remove it: {os_error_text(error)}"
                raise DataDirectoryError(self.shown(name), reason) from error


def new_store_id() -> bytes:
    """Return the mark of a new store, drawn at random."""
    return os.urandom(journal_format.STORE_DIGITS // 2).hex().encode()


def _is_same_file(path: bytes, directory: int | None, opened: int) -> bool:
    """Tell whether what was opened is still what `path` leads to."""
    try:
        return os.path.samestat(os.stat(path, dir_fd=directory), os.fstat(opened))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # no right to look there, say
        return True
