"""The log: groups of changes appended to the newest segment, and who waits until they are durable.

Laws:

- What is added is written in the order in which it was added, and what was added in one call stays
  in one group: it becomes durable together or not at all.
- One thread writes. While it waits for the disk, what comes collects, and makes the next group.
- What is durable is told only after it is: by `wait`, by `on_commit`, and by what was added with
  it.
- Adding takes effect in one call into C (`kvs.concurrency.atomic`), and no thread holds a lock: so
  any thread may add or wait at any point, a signal handler or a finalizer within another call
  included.
- When a write or a sync fails, that is the end: memory has run ahead of the disk, and after a
  failed fsync(2) nobody knows what the disk has. Nothing is tried again, nothing more is told.
- One failure alone is recovered from, a write(2) for which the disk is full: if room can be made,
  the segment is cut back to its last group, and the group is written again, once.
- It is also the end when the directory, or the segment, is not where it was any more, or not as
  long: what goes into a file without a name, or behind what proves nothing, is lost to the next
  start. That is looked at every `TAMPER_CHECK_SECONDS`.
"""

import contextlib
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread, get_ident
from typing import NamedTuple

from kvs.concurrency.atomic import Step, atomically
from kvs.concurrency.waiters import Waiters
from kvs.errors import DataDirectoryError, JournalWriteError, StoreClosedError
from kvs.journal import format as journal_format
from kvs.journal.format import FileHeader, FileKind
from kvs.journal.reserve import DISK_FULL_ERRNOS
from kvs.journal.storage import Storage
from kvs.settings import DataSettings
from kvs.text import os_error_text

TAMPER_CHECK_SECONDS = 1.0
"""So often the thread that writes looks whether its files are where, and as, it left them."""

Callback = Callable[[], None]
FailureCallback = Callable[[JournalWriteError], None]


class Fsync(Enum):
    """When the journal is synced to disk (fsync(2))."""

    ALWAYS = "always"
    """Before anything that depends on it is told."""
    INTERVAL = "interval"
    """Some time after it was written, at the latest."""
    NEVER = "never"
    """When the kernel comes to it."""


@dataclass(slots=True)
class _PendingAppend:
    """What one `append` brought."""

    text: bytes
    changes: int
    then: Callback | None


@dataclass(slots=True)
class _PendingRotation:
    """What comes after goes into a segment of its own, with this number."""

    number: int


class RotationPoint(NamedTuple):
    """Where a segment begins."""

    number: int
    """Of the segment."""
    revision: int
    """Of everything added before, which the segment goes on from."""
    appended_count: int
    """What `Log.wait` takes to wait for the beginning."""
    bytes: int
    """`Log.bytes` when it was begun."""


@dataclass(slots=True)
class Segment:
    """The segment that is being written, and how far it has come. For the thread that writes."""

    file: int
    number: int
    last_checksum: int
    """The last checksum in it."""
    size: int


class _Tampered(Exception):
    """Somebody has done something to what is written; its text says what."""


class _SyncFailed(Exception):
    """An fsync(2) of the journal failed, so that the state of what was written is unknown."""


class JournalWriter:
    """A journal that is being written. Any thread may call any public method, at any time."""

    def __init__(  # noqa: PLR0915, PLR0917  (each is of another type)
        self,
        disk: Storage,
        shown: str,
        store: bytes,
        segment: Segment,
        revision: int,
        settings: DataSettings,
    ) -> None:
        """Go on at `revision` in `segment`."""
        self._disk = disk
        self._shown = shown
        self._store = store
        self._segment = segment
        self._fsync = Fsync(settings.fsync)
        self._interval = settings.fsync_interval
        self._segment_bytes = settings.segment_bytes
        self._written_revision = self._synced_revision = revision
        self._synced_ahead = revision
        """Last revision that another thread has synced."""
        self._unsynced_since: float | None = None
        self._waiting: SimpleQueue[_PendingAppend | _PendingRotation | None] = SimpleQueue()
        """What is to be written, in order; None only wakes the writer."""
        self._counts = [0]
        """How many items were put into it, but for None."""
        self._bytes_added = self._bytes_written = 0
        self._revision_added = revision
        """Revision of everything that was added."""
        self._number = segment.number
        """Number of the segment into which the next item goes."""
        self._bytes_in_segment = segment.size
        """Bytes in that segment by now, and of what waits for it, but for headers."""
        self._header_bytes = 0
        """Bytes of headers written to the current segment; the writer's."""
        self._committed_count = 0
        """How many items are committed; the writer's, as all that follows but for `_closing`."""
        self._progress = Waiters()
        """Those that wait for `_committed_count`, a failure, or the end."""
        self._commit_callbacks: deque[tuple[int, Callback]] = deque()
        self._closing = False
        self._ended = False
        self._at_end: Callback = lambda: None
        self._presync_error: OSError | None = None
        """Why another thread could not sync."""
        self._failure: JournalWriteError | None = None
        self._failure_raised = False
        self._failure_calls: list[FailureCallback] = []
        self.bytes = 0
        """How many bytes of groups were written since it was opened."""
        self.on_written: Callback = lambda: None
        """Called by the thread that writes, after each group."""
        self.tampering: Callable[[Segment], str | None] = lambda _: None
        """Called by it now and then: what somebody did to the journal's files, None if nothing."""
        self.on_full: Callable[[OSError], bool] = lambda _: False
        """Called by it when the disk is full: whether there is room now, to try once more."""
        self._holding: int | None = None
        """Number of the segment into which nothing is written for now; 0 is the next one begun."""
        self._let_go: SimpleQueue[None] = SimpleQueue()
        """Wakes the writer from that."""
        self._looked_at = time.monotonic()
        self._seen_revision = revision
        """The last one that was written when all was as it should be."""
        self._writer = Thread(target=self._write, name="kvs-journal", daemon=True)

    def start(self) -> None:
        """Start the thread that writes.

        Raises:
            DataDirectoryError: the system gives none.

        """
        try:
            self._writer.start()
        except RuntimeError as error:
            reason = "cannot start a thread to write the journal; raise the limit of processes"
            raise DataDirectoryError(self._shown, f"{reason} (ulimit -u)") from error

    @property
    def failure(self) -> JournalWriteError | None:
        """Why nothing more is written, if so."""
        return self._failure

    def on_failure(self, call: FailureCallback) -> Callback:
        """Have `call` called once when writing fails; return what ends that.

        The thread that writes calls it; if writing has failed already, this one does, at once.
        """

        def end() -> None:
            with contextlib.suppress(ValueError):  # it was called, or ended before
                self._failure_calls.remove(call)

        self._failure_calls.append(call)
        if self._failure is not None:
            self._call_failed(self._failure)
        return end

    @property
    def appended_count(self) -> int:
        """What `wait` takes to wait for all that has been added so far."""
        return self._counts[0]

    @property
    def appended_revision(self) -> int:
        """The revision after all that has been appended so far."""
        return self._revision_added

    @property
    def pending_bytes(self) -> int:
        """How much has been added that is not yet written."""
        return self._bytes_added - self._bytes_written

    @property
    def is_writer_thread(self) -> bool:
        """Whether the calling thread is the one that writes, which a finalizer may call from."""
        return get_ident() == self._writer.ident

    def is_committed(self, added: int) -> bool:
        """Tell whether what had been added by then is as safe as is promised."""
        return self._committed_count >= added

    def append(self, text: bytes, changes: int, then: Callback | None = None) -> None:
        """Put whole lines that make so many changes behind all others.

        `then` is called by the thread that writes, once they are safe.

        Raises:
            JournalWriteError: nothing is written any more.

        """
        self._take(lambda: self.steps(text, changes, then))

    def steps(self, text: bytes, changes: int, then: Callback | None = None) -> list[Step]:
        """Return the steps of `append`. The first refuses if another append came in between.

        Raises:
            JournalWriteError: nothing is written any more.

        """
        self.check()
        added = self._counts[0]
        steps: list[Step] = [
            partial(self._counts.index, added),
            partial(self._waiting.put, _PendingAppend(text, changes, then)),
            partial(setattr, self, "_bytes_added", self._bytes_added + len(text)),
            partial(setattr, self, "_revision_added", self._revision_added + changes),
        ]
        size = self._bytes_in_segment + len(text)
        headers = self._header_bytes if self._segment.number == self._number else 0
        if size + headers > self._segment_bytes:
            steps += self._new_segment()
            added += 1
        else:
            steps.append(partial(setattr, self, "_bytes_in_segment", size))
        return [*steps, partial(self._counts.__setitem__, 0, added + 1)]

    def rotate(self) -> RotationPoint:
        """Begin a new segment with what is added from now on; return where.

        Raises:
            JournalWriteError: nothing is written any more.

        """
        number = added = revision = 0

        def steps() -> list[Step]:
            nonlocal number, added, revision
            self.check()
            added = self._counts[0]
            revision = self._revision_added
            number = self._number + 1
            return [
                partial(self._counts.index, added),
                *self._new_segment(),
                partial(self._counts.__setitem__, 0, added + 1),
            ]

        self._take(steps)
        if self._holding == 0:
            self._holding = number
        return RotationPoint(number, revision, added + 1, self.bytes)

    def hold(self) -> None:
        """Write nothing into the segment that `rotate` begins next, until `let_go`."""
        self._holding = 0

    def let_go(self) -> None:
        """End a `hold`, if there is one."""
        if self._holding is not None:
            self._holding = None
            self._let_go.put(None)

    @staticmethod
    def _take(steps: Callable[[], list[Step]]) -> None:
        while True:
            with contextlib.suppress(ValueError):  # others have added meanwhile
                return atomically(*steps())

    def _new_segment(self) -> list[Step]:
        number = self._number + 1
        return [
            partial(self._waiting.put, _PendingRotation(number)),
            partial(setattr, self, "_number", number),
            partial(setattr, self, "_bytes_in_segment", journal_format.FILE_HEADER_BYTES),
        ]

    def presync(self) -> None:
        """Sync most of what the thread that writes has not, so that it has little left to sync.

        For who is about to begin a segment, and from any thread but that one, which goes on.

        Raises:
            OSError: it could not be synced, which is the end of the journal.

        """
        if self._fsync is Fsync.ALWAYS:
            return
        revision = self._written_revision  # before the segment: it is in this one or synced
        file = self._disk.open(journal_format.file_name(FileKind.JOURNAL, self._segment.number))
        try:
            self._disk.sync(file)
            self._synced_ahead = revision
        except OSError as error:
            self._presync_error = error
            self._waiting.put(None)
            raise
        finally:
            self._disk.close(file)

    def wait(self, added: int) -> None:
        """Block until what had been added by then is safe; not in the thread that writes.

        There a finalizer may call this, for which the thread cannot wait.

        Raises:
            JournalWriteError: it never will be.

        """
        if self.is_writer_thread:
            return
        self._progress.wait_for(
            lambda: self._committed_count >= added or self._failure or self._ended
        )
        if self._committed_count < added:
            self.check()

    def on_commit(self, added: int, call: Callback) -> None:
        """Call `call`, by this thread or the one that writes, once that is safe; else never.

        An exception that it raises goes to `threading.excepthook`.
        """
        self._commit_callbacks.append((added, call))
        self._run_commit_callbacks()

    def _run_commit_callbacks(self) -> None:
        afters = self._commit_callbacks
        while True:
            try:
                first = afters[0]
            except IndexError:
                return
            if first[0] > self._committed_count:
                return
            try:
                atomically(partial(afters.index, first, 0, 1), afters.popleft)
            except ValueError:  # another thread calls it
                continue
            _call(first[1])

    def close(self, then: Callback = lambda: None) -> None:
        """Write what has been added, end, and call `then`; a further call does so as well.

        In the thread that writes, where a finalizer may call it, that thread calls `then` later.

        Raises:
            JournalWriteError: it was not all written, and no call before has raised it.

        """
        self._closing = True
        self._waiting.put(None)
        self._let_go.put(None)
        if self.is_writer_thread:
            self._at_end = then
            return
        self._progress.wait_for(lambda: self._ended)
        then()
        if self._failure is not None and not self._failure_raised:
            self._failure_raised = True
            raise self._failure

    def check(self) -> None:
        """Refuse if nothing is written any more.

        Raises:
            JournalWriteError: writing failed.
            StoreClosedError: it was closed.

        """
        if self._failure is not None:
            raise self._failure
        if self._closing:
            raise StoreClosedError

    # The thread that writes.

    def _write(self) -> None:
        try:
            while (work := self._take_work()) is not None:
                if time.monotonic() >= self._looked_at + TAMPER_CHECK_SECONDS:
                    self._check_tampering()
                self._execute(work)
            if self._fsync is not Fsync.NEVER:
                self._sync()
            self._check_tampering()
        except _Tampered as what:
            self._fail(str(what), self._seen_revision)
        except _SyncFailed as error:
            self._fail(str(error), self._written_revision)
        except OSError as error:
            self._fail(os_error_text(error), self._written_revision, self._written_revision)
        except MemoryError:
            reason = "there is not enough memory"
            self._fail(reason, self._written_revision, self._written_revision)
        except BaseException as defect:  # who waits must not wait for ever
            self._fail(f"a defect: {defect!r}", self._written_revision, self._written_revision)
            raise
        finally:
            self._disk.close(self._segment.file)
            self._ended = True
            self._progress.notify_all()
            self._at_end()

    def _take_work(self) -> list[_PendingAppend | _PendingRotation] | None:
        """Wait for work, or for the time to sync or look; return it, None at the end of it all."""
        until = self._looked_at + TAMPER_CHECK_SECONDS
        if self._unsynced_since is not None:
            until = min(until, self._unsynced_since + self._interval)
        work: list[_PendingAppend | _PendingRotation] = []
        if self._holding == self._segment.number and not self._closing:
            with contextlib.suppress(Empty):
                self._let_go.get(timeout=max(0.0, until - time.monotonic()))
            return work
        # What `close` wakes this with may have been taken together with what was added before.
        seconds = 0.0 if self._closing else max(0.0, until - time.monotonic())
        with contextlib.suppress(Empty):
            if item := self._waiting.get(timeout=seconds):
                work.append(item)
            for _ in range(self._waiting.qsize()):
                if work and isinstance(work[-1], _PendingRotation):
                    break
                if item := self._waiting.get_nowait():
                    work.append(item)
        if self._presync_error is not None:
            raise _SyncFailed(os_error_text(self._presync_error))
        return None if self._closing and not work and self._waiting.empty() else work

    def _check_tampering(self) -> None:
        """See that what is written is where it was, and as it was left.

        Raises:
            _Tampered: it is not.

        """
        what = self.tampering(self._segment)
        if what is not None:
            raise _Tampered(what)
        self._looked_at = time.monotonic()
        self._seen_revision = self._written_revision

    def _execute(self, work: list[_PendingAppend | _PendingRotation]) -> None:
        """Write what was added as one group; begin the segment that comes last, if one does."""
        if group := [each for each in work if isinstance(each, _PendingAppend)]:
            self._write_group(group)
        if self._sync_is_due():
            self._sync()
        if work and isinstance(work[-1], _PendingRotation):
            self._next_segment(work[-1].number)
            self._notify_committed([], 1)

    def _sync_is_due(self) -> bool:
        if self._unsynced_since is None:
            return False
        return time.monotonic() >= self._unsynced_since + self._interval

    def _write_group(self, group: list[_PendingAppend]) -> None:
        body = [each.text for each in group]
        before = self._written_revision
        after = before + sum(each.changes for each in group)
        header, chain = journal_format.encode_group_header(
            self._segment.last_checksum, before, after, *body
        )
        self._append(header, *body)
        if self._fsync is Fsync.ALWAYS:
            self._sync(after)
        elif self._fsync is Fsync.INTERVAL and self._unsynced_since is None:
            self._unsynced_since = time.monotonic()
        self._segment.last_checksum = chain
        size = len(header) + sum(map(len, body))
        self._segment.size += size
        self._header_bytes += len(header)
        self._written_revision = after
        self.bytes += size
        self._notify_committed(group, len(group))
        self.on_written()

    def _append(self, *pieces: bytes) -> None:
        """Append to the segment; if the disk is full, cut off what was written of it and retry.

        Nothing has been acknowledged of that, and no fsync(2) has failed, so it can be recovered.
        """
        segment = self._segment
        try:
            self._disk.append(segment.file, *pieces)
        except OSError as error:
            if not self._made_room(error):
                raise
            try:
                self._disk.truncate(segment.file, segment.size)
            except OSError as failed:
                raise _SyncFailed(os_error_text(failed)) from failed
            self._disk.append(segment.file, *pieces)

    def _made_room(self, error: OSError) -> bool:
        return error.errno in DISK_FULL_ERRNOS and self.on_full(error)

    def _notify_committed(self, group: list[_PendingAppend], count: int) -> None:
        """Tell all who wait for what has become safe."""
        self._bytes_written += sum(len(each.text) for each in group)
        self._committed_count += count
        self._progress.notify_all()
        for each in group:
            if each.then is not None:
                each.then()
        self._run_commit_callbacks()

    def _sync(self, revision: int | None = None) -> None:
        """Sync the segment, whose last revision is `revision`, or the last one written."""
        try:
            self._disk.sync(self._segment.file)
        except OSError as error:
            raise _SyncFailed(os_error_text(error)) from error
        self._synced_revision = self._written_revision if revision is None else revision
        self._unsynced_since = None

    def _next_segment(self, number: int) -> None:
        """Go on in a new segment, when all of the old one is on disk."""
        self._sync()
        old = self._segment
        head = FileHeader(
            FileKind.JOURNAL, number, self._written_revision, self._store, old.last_checksum
        )
        first = head.encode()
        try:
            file = self._disk.create(head.name, first)
        except OSError as error:
            if not self._made_room(error):
                raise
            file = self._disk.create(head.name, first)
        self._disk.close(old.file)
        _, size, chain = journal_format.decode_file_header(first)
        self._header_bytes = 0
        self._segment = Segment(file, number, chain, size)

    def _fail(self, reason: str, most: int, written: int | None = None) -> None:
        """End: what was synced is durable, up to `most`; up to `written`, the kernel has it."""
        synced = min(max(self._synced_revision, self._synced_ahead), most)
        self._failure = JournalWriteError(self._shown, synced, reason, written)
        self._commit_callbacks.clear()
        self._progress.notify_all()
        self._call_failed(self._failure)

    def _call_failed(self, failure: JournalWriteError) -> None:
        """Call those who want to know; each once, whichever thread comes to it."""
        while self._failure_calls:
            with contextlib.suppress(IndexError):
                _call(partial(self._failure_calls.pop(0), failure))


def _call(call: Callback) -> None:
    """Call what a user of the store has given; a defect of it is no failure of the journal."""
    try:
        call()
    except Exception:  # noqa: BLE001  (reported as that of a thread)
        raised = (*sys.exc_info(), threading.current_thread())
        threading.excepthook(threading.ExceptHookArgs(raised))
