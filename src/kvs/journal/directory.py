"""The data directory: its lock, and the files in it.

A journal file belongs to one store, is named by its kind and number (`kvs.journal.format`), and is
created under a temporary name. Other files are left alone, if there is a journal beside them.
"""

import contextlib
import os
from collections.abc import Iterable
from itertools import chain
from typing import Self

from kvs.concurrency import forks
from kvs.errors import DataDirectoryError
from kvs.journal import format as journal_format
from kvs.journal.format import FileHeader, FileKind, file_name, kind_and_number
from kvs.journal.reserve import DISK_FULL_ERRNOS, RESERVE, Reserve
from kvs.journal.storage import Segment, Storage
from kvs.posix.files import (
    GROUP_OR_OTHER_WRITE,
    is_temporary,
    open_regular,
    remove_stale_temp_files,
)
from kvs.posix.locks import LOCK_FILE_NAME, LockableDirectory
from kvs.text import os_error_text, printable

UNFINISHED = b"restore.unfinished"
_INTERRUPTED = "a restore into it was interrupted; restore again, or remove the directory"
"""Name of the file that marks an unfinished restore, in a directory without a journal."""


class DataDirectory(LockableDirectory):
    """A data directory, open from `open` to `close`, or within a ``with`` statement.

    Threads: one at a time, but for `close`, which any thread may call.
    """

    def open(self) -> None:
        """Open the directory.

        Raises:
            DataDirectoryError: it is not a directory, cannot be opened, belongs to another user, or
                is writable by its group or by others.

        """
        try:
            # Absolute, as the process may change its working directory.
            self._absolute_path = os.path.abspath(self.path)
            self._open()
        except OSError as error:
            reason = f"cannot open the data directory: {os_error_text(error)}"
            raise DataDirectoryError(printable(self.path), reason) from error
        try:
            self._check_owner()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Unlock and close the directory. Idempotent."""
        super().__exit__(None, None, None)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_owner(self) -> None:
        status, user, path = os.fstat(self.descriptor), os.geteuid(), printable(self.path)
        if status.st_uid != user:
            reason = (
                f"belongs to user ID {status.st_uid}, not to {user}; run kvs as its owner, or run "
                f"'chown -R {user} {path}'"
            )
            raise DataDirectoryError(path, reason)
        if status.st_mode & GROUP_OR_OTHER_WRITE:
            reason = f"is writable by other users; run 'chmod go-w {path}'"
            raise DataDirectoryError(path, reason)

    @classmethod
    def make(cls, path: str | bytes | os.PathLike[str]) -> Self:
        """Return the data directory `path`; create it if it does not exist.

        Raises:
            DataDirectoryError: it cannot be created.

        """
        try:
            os.mkdir(os.fsencode(path), 0o700)
        except FileExistsError:
            pass
        except OSError as error:
            reason = os_error_text(error)
            parent = os.path.dirname(os.fsencode(path).rstrip(b"/"))
            if isinstance(error, FileNotFoundError) and parent and not os.path.exists(parent):
                reason = f"the directory {printable(parent)} does not exist; create it first"
            raise DataDirectoryError(
                printable(path), f"cannot create the data directory: {reason}"
            ) from error
        return cls(path)

    def lock(self) -> None:
        """Lock the directory for this process, and remove the temporary files of a crash.

        On a full disk, free the reserve to make space for the lock file.

        Raises:
            DirectoryLockedError: another process has locked it.
            DataDirectoryError: it cannot be locked.

        """
        try:
            try:
                reason = self._lock.acquire()
            except OSError as error:
                if error.errno not in DISK_FULL_ERRNOS or not Reserve(self.descriptor).free():
                    raise
                reason = self._lock.acquire()
            if reason is None:
                return remove_stale_temp_files(self.descriptor)
        except OSError as error:
            reason = os_error_text(error)
        raise DataDirectoryError(
            printable(self.path), f"cannot lock it with {LOCK_FILE_NAME.decode()}: {reason}"
        )

    def check_unlocked(self) -> None:
        """Raise an error if another process has locked the directory.

        Raises:
            DirectoryLockedError: another process has locked it.
            DataDirectoryError: its lock cannot be read.

        """
        try:
            self._lock.check_unlocked()
        except OSError as error:
            raise DataDirectoryError(
                printable(self.path), f"cannot read its lock: {os_error_text(error)}"
            ) from error

    def list_files(self, *, restoring: bool = False) -> dict[FileKind, list[int]]:
        """Return the numbers of the files of each kind, ascending.

        With `restoring`, the mark of an interrupted restore is ignored.

        Raises:
            DataDirectoryError: the directory cannot be listed; or it has no journal, but other
                files, or the mark of an interrupted restore.

        """
        numbers: dict[FileKind, list[int]] = {kind: [] for kind in FileKind}
        others = set()
        for name in self._names():
            if parsed := kind_and_number(name):
                kind, number = parsed
                numbers[kind].append(number)
            elif name not in {LOCK_FILE_NAME, RESERVE} and not is_temporary(name):
                others.add(name)
        if not any(numbers.values()):
            if others - {UNFINISHED}:
                reason = "it is not empty and has no journal; choose another directory"
                raise DataDirectoryError(printable(self.path), reason)
            if others and not restoring:
                raise DataDirectoryError(printable(self.path), _INTERRUPTED)
        return {kind: sorted(of_kind) for kind, of_kind in numbers.items()}

    def require_journal(self) -> None:
        """Raise an error if the directory has no file of a journal.

        Raises:
            DataDirectoryError: it has none, or cannot be listed.

        """
        names = self._names()
        if not any(map(kind_and_number, names)):
            reason = "not a data directory: it has no journal"
            if UNFINISHED in names:
                reason = _INTERRUPTED
            raise DataDirectoryError(printable(self.path), reason)

    def _names(self) -> list[bytes]:
        try:
            return list(map(os.fsencode, os.listdir(self.descriptor)))
        except OSError as error:
            raise DataDirectoryError(
                printable(self.path), f"cannot list the data directory: {os_error_text(error)}"
            ) from error

    def open_file(self, kind: FileKind, number: int) -> int:
        """Open a file for reading; return the descriptor, which `close_file` or `close` closes.

        Raises:
            DataDirectoryError: it cannot be opened. Its contents may still be valid.

        """
        name = file_name(kind, number)
        flags = os.O_RDONLY | os.O_NOFOLLOW
        try:
            return open_regular(name, flags, self.descriptor, opened=self._open_descriptors)
        except OSError as error:
            raise DataDirectoryError(
                self.display_path_of(name), f"cannot open it: {os_error_text(error)}"
            ) from error

    def close_file(self, file: int) -> None:
        """Close a descriptor of `open_file`. Idempotent."""
        forks.close_once(self._open_descriptors, file)

    def find_tampering(self, segment: Segment) -> str | None:
        """Return what another process did to this directory or to `segment`; None if nothing.

        A file that cannot be examined counts as untouched. For the writer thread.
        """
        name = file_name(FileKind.JOURNAL, segment.number)
        if not _is_same_file(self._absolute_path, None, self.descriptor):
            return "the directory was removed, renamed or replaced"
        if not _is_same_file(name, self.descriptor, segment.file):
            return f"{name.decode()} was removed, renamed or replaced"
        if os.fstat(segment.file).st_size != segment.size:
            return f"{name.decode()} was truncated or extended by another process"
        return None

    def create_first_segment(self, storage: Storage, store_id: bytes) -> Segment:
        """Create the first segment of a new store, durably.

        Raises:
            DataDirectoryError: it cannot be created.

        """
        header = FileHeader(FileKind.JOURNAL, 1, 0, store_id)
        try:
            file = storage.create(header.name, header.encode())
            with storage.closed_on_error(file):
                storage.sync_parent_directory()
        except OSError as error:
            raise self._creation_error(error) from error
        _, size, checksum = journal_format.decode_file_header(header.encode())
        return Segment(file, 1, checksum, size)

    def restore(self, storage: Storage, store_id: bytes, lines: Iterable[bytes]) -> None:
        """Create the first segment of a new store, durably, with the one change that `lines` make.

        `lines` is iterated over twice; it begins with `RESTORE` of `kvs.journal.format`, or is
        empty and no change. After a crash at any moment the segment exists and has the change, or
        there is no journal, and `UNFINISHED` makes every opener refuse the directory.

        Raises:
            DataDirectoryError: it cannot be created; neither a journal nor `UNFINISHED` exists.

        """
        header = FileHeader(FileKind.JOURNAL, 1, 0, store_id)
        encoded = header.encode()
        _, _, checksum = journal_format.decode_file_header(encoded)
        group, _, length = journal_format.encode_group_header(
            checksum, 0, 1, journal_format.now_ms(), lines
        )
        try:
            storage.mark(UNFINISHED)
            storage.sync_parent_directory()
            body = chain([group], lines) if length else ()
            storage.close(storage.create(header.name, encoded, body))
            storage.remove(UNFINISHED)
            storage.sync_directory()
        except OSError as error:
            with contextlib.suppress(OSError):
                storage.remove(header.name)
                storage.remove(UNFINISHED)
            raise self._creation_error(error) from error

    def _creation_error(self, error: OSError) -> DataDirectoryError:
        return DataDirectoryError(
            printable(self.path), f"cannot create the journal: {os_error_text(error)}"
        )

    def resume_segment(self, storage: Storage, number: int, checksum: int, size: int) -> Segment:
        """Open a segment to continue after its first `size` bytes; truncate what follows.

        The last header in them has the checksum `checksum`. On return those bytes, and the names in
        the directory, are durable: a killed process may have left them with the kernel alone, and
        from now on they are shown.

        Raises:
            DataDirectoryError: the segment cannot be opened, truncated or synced.

        """
        name = file_name(FileKind.JOURNAL, number)
        try:
            file = storage.open(name)
            with storage.closed_on_error(file):
                if os.fstat(file).st_size > size:
                    storage.truncate(file, size)
                else:
                    storage.sync(file)
                storage.sync_directory()
        except OSError as error:
            raise DataDirectoryError(
                self.display_path_of(name), f"cannot resume it: {os_error_text(error)}"
            ) from error
        return Segment(file, number, checksum, size)

    def remove_older(self, storage: Storage, number: int, keep: int = 0) -> None:
        """Remove the files that a snapshot with this number replaces, and `UNFINISHED`.

        Keep the `keep` newest of those segments, and what a replay needs that begins before them:
        a snapshot, and the segments between. A file that remains does no harm: recovery ignores it.

        Raises:
            DataDirectoryError: a file cannot be removed.

        """
        if keep:
            starts = replay_starts(self.list_files())
            number = max((start for start in starts if start <= number - keep), default=starts[0])
        names = self._names()
        older = [name for name in names if (parsed := kind_and_number(name)) and parsed[1] < number]
        for name in sorted(older) + [UNFINISHED] * (UNFINISHED in names):
            try:
                storage.remove(name)
            except OSError as error:
                reason = f"cannot remove it: {os_error_text(error)}"
                raise DataDirectoryError(self.display_path_of(name), reason) from error


def replay_starts(files: dict[FileKind, list[int]]) -> list[int]:
    """Return the numbers at which a replay can begin, ascending; recovery begins at the last one.

    They are those of the first segment of a store and of snapshots, if no segment up to the newest
    snapshot is missing. `files` has the numbers of the files of each kind.
    """
    snapshots, segments = files[FileKind.SNAPSHOT], files[FileKind.JOURNAL]
    first = newest = snapshots[-1] if snapshots else 1
    while first in segments and first - 1 in segments:
        first -= 1
    return [number for number in (1, *snapshots) if first <= number <= newest]


def new_store_id() -> bytes:
    """Return a random ID for a new store, or a new mark of one, in hex digits."""
    return os.urandom(journal_format.STORE_DIGITS // 2).hex().encode()


def _is_same_file(path: bytes, directory: int | None, opened: int) -> bool:
    """Return whether `path` still leads to the file that is open as `opened`."""
    try:
        return os.path.samestat(os.stat(path, dir_fd=directory), os.fstat(opened))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # no permission to search a directory on the way, for example
        return True
