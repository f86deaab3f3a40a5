"""The journal's writer thread: one group for all changes that are pending, and new segments.

Invariants:

- One thread writes. All appends that are pending, up to `GROUP_BYTES` and one more, become one
  group, written by writev(2), and with ``fsync`` ``always`` synced by one fdatasync(2).
- A group must be reported as committed only after the ``fsync`` policy is met for it.
- A segment must be on disk as a whole before the next one exists. So only the last segment can be
  torn.
- A failed write or fsync(2) ends the journal (see `kvs.journal.failure`), with one exception: a
  write(2) that meets a full disk, if space can be freed. The segment is then truncated to its last
  group, and the group is written once more. Nothing of it has been acknowledged, and no fsync(2)
  has failed.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from itertools import chain, groupby
from threading import Thread

from kvs.errors import DataDirectoryError, JournalWriteError
from kvs.journal import format as journal_format
from kvs.journal.failure import Callback, FindTampering, SyncError, TamperedError, TamperWatch
from kvs.journal.format import FileHeader, FileKind
from kvs.journal.queue import (
    GROUP_BYTES,
    JournalQueue,
    PendingAppend,
    PendingItem,
    PendingRotation,
)
from kvs.journal.reserve import DISK_FULL_ERRNOS
from kvs.journal.storage import Segment, Storage
from kvs.settings import DataSettings
from kvs.text import os_error_text


class Fsync(Enum):
    """When the journal is synced to disk (fdatasync(2))."""

    ALWAYS = "always"
    """Before the commit of each group."""
    INTERVAL = "interval"
    """At most `DataSettings.fsync_interval` seconds after a write."""
    NEVER = "never"
    """When the kernel writes it back, and at each rotation."""


def _do_nothing() -> None:
    """Do nothing."""


def _find_nothing(_segment: Segment) -> None:
    """Report no tampering."""


def _free_nothing(_error: OSError) -> bool:
    """Report that no space was freed."""
    return False


def _pieces(appends: list[PendingAppend]) -> Iterator[Iterable[bytes]]:
    """Yield the lines of a group, and an origin before changes of another origin."""
    origin = b""
    for item in appends:
        if item.origin and item.origin != origin:
            origin = item.origin
            yield (origin,)
        yield item.lines


class JournalWriter:
    """Writes what is appended to a `JournalQueue` to the segments of a journal.

    Threads: one thread calls `start`; any thread may call `presync`; all else runs in the thread
    that `start` starts.
    """

    def __init__(
        self,
        queue: JournalQueue,
        storage: Storage,
        segment: Segment,
        revision: int,
        settings: DataSettings,
        *,
        store_id: bytes,
        display_path: str,
        end_of_run: bytes = b"",
        on_group_written: Callback = _do_nothing,
        find_tampering: FindTampering = _find_nothing,
        on_disk_full: Callable[[OSError], bool] = _free_nothing,
    ) -> None:
        """Create a writer that continues `segment` after `revision`; it closes `segment.file`.

        When the queue is closed and empty, the thread writes the comment `end_of_run`.

        The thread calls `on_group_written` after each group, `find_tampering` from time to time,
        and `on_disk_full` when the disk is full: it returns whether to try once more.
        """
        self._queue = queue
        self._storage = storage
        self._segment = segment
        self._store_id = store_id
        self._display_path = display_path
        self._end_of_run = end_of_run
        self._fsync = Fsync(settings.fsync)
        self._interval_s = settings.fsync_interval
        self._written_revision = self._synced_revision = revision
        self._presynced_revision = revision
        """Last revision synced by `presync`."""
        self._presync_error: OSError | None = None
        self._unsynced_since: float | None = None
        """Time of the first write since the last sync (time.monotonic), for `Fsync.INTERVAL`."""
        self._tamper_watch = TamperWatch(find_tampering, revision)
        self._on_group_written = on_group_written
        self._on_disk_full = on_disk_full

    def start(self) -> None:
        """Start the writer thread.

        Raises:
            DataDirectoryError: the system has no more threads.

        """
        thread = Thread(target=self._run, name="kvs-journal", daemon=True)
        self._queue.begin_writing(thread)
        try:
            thread.start()
        except RuntimeError as error:
            reason = "cannot start the journal's writer thread; raise the limit of processes"
            raise DataDirectoryError(self._display_path, f"{reason} (ulimit -u)") from error

    def presync(self) -> None:
        """Sync most of what the writer thread has not synced, so that a rotation is short.

        For a thread that is about to rotate; the writer thread continues meanwhile.

        Raises:
            OSError: the segment cannot be synced, which ends the journal.

        """
        if self._fsync is Fsync.ALWAYS:
            return
        # Read before the segment: the revision is in that segment, or in one that is synced.
        revision = self._written_revision
        file = self._storage.open(journal_format.file_name(FileKind.JOURNAL, self._segment.number))
        try:
            self._storage.sync(file)
            self._presynced_revision = revision
        except OSError as error:
            self._presync_error = error
            self._queue.wake()
            raise
        finally:
            self._storage.close(file)

    # The writer thread.

    def _run(self) -> None:
        try:
            while (items := self._take()) is not None:
                if time.monotonic() >= self._tamper_watch.due_at:
                    self._check_tampering()
                self._write(items)
                items.clear()  # before the next wait: they may be long
            if self._end_of_run:
                self._write_group([PendingAppend((self._end_of_run,), len(self._end_of_run), 0)])
            if self._fsync is not Fsync.NEVER:
                self._sync()
            self._check_tampering()
        except TamperedError as error:
            self._fail(str(error), self._tamper_watch.revision)
        except SyncError as error:
            self._fail(str(error), self._written_revision)
        except OSError as error:
            self._fail(os_error_text(error), self._written_revision, self._written_revision)
        except MemoryError:
            reason = "there is not enough memory"
            self._fail(reason, self._written_revision, self._written_revision)
        except BaseException as defect:  # no thread may wait for ever
            self._fail(f"a defect: {defect!r}", self._written_revision, self._written_revision)
            raise
        finally:
            self._storage.close(self._segment.file)
            self._queue.end_writing()

    def _take(self) -> list[PendingItem] | None:
        """Block until there are items to write, or a sync or a tampering check is due.

        Raises:
            SyncError: `presync` has failed.

        """
        deadline = self._tamper_watch.due_at
        if self._unsynced_since is not None:
            deadline = min(deadline, self._unsynced_since + self._interval_s)
        items = self._queue.take(self._segment, deadline)
        if self._presync_error is not None:
            raise SyncError(os_error_text(self._presync_error))
        return items

    def _check_tampering(self) -> None:
        self._tamper_watch.check(self._segment, self._written_revision)

    def _write(self, items: list[PendingItem]) -> None:
        """Write the appends as one group, then rotate if the last item is a rotation.

        A restore gets a group of its own.
        """
        appends = [item for item in items if isinstance(item, PendingAppend)]
        for _, group in groupby(appends, lambda item: id(item) if item.is_restore else 0):
            self._write_group(list(group))
        if self._sync_is_due():
            self._sync()
        if items and isinstance(items[-1], PendingRotation):
            self._rotate(items[-1].number)
            self._queue.commit([], rotations=1)

    def _sync_is_due(self) -> bool:
        if self._unsynced_since is None:
            return False
        return time.monotonic() >= self._unsynced_since + self._interval_s

    def _write_group(self, appends: list[PendingAppend]) -> None:
        segment = self._segment
        body = list(_pieces(appends))
        before = self._written_revision
        after = before + sum(item.change_count for item in appends)
        header, checksum, length = journal_format.encode_group_header(
            segment.last_checksum, before, after, journal_format.now_ms(), chain.from_iterable(body)
        )
        self._append(header, body)
        if self._fsync is Fsync.ALWAYS:
            self._sync(after)
        elif self._fsync is Fsync.INTERVAL and self._unsynced_since is None:
            self._unsynced_since = time.monotonic()
        size = len(header) + length
        segment.last_checksum = checksum
        segment.size += size
        self._written_revision = after
        self._queue.note_written(segment, size - sum(item.size for item in appends), size)
        self._queue.commit(appends)
        self._on_group_written()

    def _append(self, header: bytes, body: list[Iterable[bytes]]) -> None:
        """Append to the segment; if the disk is full, truncate the segment and retry once."""
        segment = self._segment
        try:
            self._append_once(header, body)
        except OSError as error:
            if not self._has_freed_space(error):
                raise
            try:
                self._storage.truncate(segment.file, segment.size)
            except OSError as failed:  # it includes an fsync(2)
                raise SyncError(os_error_text(failed)) from failed
            self._append_once(header, body)

    def _append_once(self, header: bytes, body: list[Iterable[bytes]]) -> None:
        """Append to the segment, some MiB at a time: a restore makes its lines meanwhile."""
        pieces, size = [header], 0
        for piece in chain.from_iterable(body):
            if size >= GROUP_BYTES:
                self._storage.append(self._segment.file, *pieces)
                pieces, size = [], 0
            pieces.append(piece)
            size += len(piece)
        self._storage.append(self._segment.file, *pieces)

    def _has_freed_space(self, error: OSError) -> bool:
        return error.errno in DISK_FULL_ERRNOS and self._on_disk_full(error)

    def _sync(self, revision: int | None = None) -> None:
        """Sync the segment, which ends at `revision`, or at the last revision written."""
        try:
            self._storage.sync(self._segment.file)
        except OSError as error:
            raise SyncError(os_error_text(error)) from error
        self._synced_revision = self._written_revision if revision is None else revision
        self._unsynced_since = None

    def _rotate(self, number: int) -> None:
        """Sync the segment, then continue in a new one with this number."""
        self._sync()
        old = self._segment
        header = FileHeader(
            FileKind.JOURNAL, number, self._written_revision, self._store_id, old.last_checksum
        )
        encoded = header.encode()
        try:
            file = self._storage.create(header.name, encoded)
        except OSError as error:
            if not self._has_freed_space(error):
                raise
            file = self._storage.create(header.name, encoded)
        self._storage.close(old.file)
        _, size, checksum = journal_format.decode_file_header(encoded)
        self._segment = Segment(file, number, checksum, size)

    def _fail(self, reason: str, max_synced: int, written: int | None = None) -> None:
        """Report the failure: what was synced, up to `max_synced`, is durable.

        Revisions up to `written` are with the kernel; None if that is unknown.
        """
        synced = min(max(self._synced_revision, self._presynced_revision), max_synced)
        self._queue.fail(JournalWriteError(self._display_path, synced, reason, written))
