"""The log: groups of changes appended to the newest segment, and who waits until they are durable.

Laws:

- What is added is written in the order in which it was added, and what was added in one call stays
  in one group: it becomes durable together or not at all.
- One thread writes. While it waits for the disk, what comes collects, and makes the next group.
- What is durable is told only after it is: by `wait`, by `after`, and by what was added with it.
- When a write or a sync fails, that is the end: memory has run ahead of the disk, and after a
  failed fsync(2) nobody knows what the disk has. Nothing is tried again, nothing more is told.
- So it is when the directory, or the segment, is not where it was any more, or not as long: what
  goes into a file without a name, or behind what proves nothing, is lost to the next start. That is
  looked at every `LOOK_SECONDS`.
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from threading import Condition, Thread

from kvs.errors import DataUnusable, JournalFailed, StoreClosed, cause
from kvs.journal import form
from kvs.journal.disk import Disk
from kvs.journal.form import Head, Kind
from kvs.settings import DataSettings

LOOK_SECONDS = 1.0
"""So often the thread that writes looks whether its files are where, and as, it left them."""

Call = Callable[[], None]
FailureCall = Callable[[JournalFailed], None]


class Fsync(Enum):
    """When the journal is synced to disk (fsync(2))."""

    ALWAYS = "always"
    """Before anything that depends on it is told."""
    INTERVAL = "interval"
    """Some time after it was written, at the latest."""
    NEVER = "never"
    """When the kernel comes to it."""


@dataclass(slots=True)
class _Added:
    """What one `add` brought."""

    text: bytes
    changes: int
    then: Call | None


@dataclass(slots=True)
class _NewSegment:
    """What comes after goes into a segment of its own, with this number."""

    number: int


@dataclass(slots=True)
class Segment:
    """The segment that is being written, and how far it has come. For the thread that writes."""

    file: int
    number: int
    chain: int
    """The last checksum in it."""
    size: int


class _Tampered(Exception):
    """Somebody has done something to what is written; its text says what."""


class Log:
    """A journal that is being written. Thread-safe; `_changed` guards what is not the writer's.

    It is a leaf among locks, and is not held while anything is written or called.
    """

    def __init__(  # noqa: PLR0917  (each is of another type)
        self,
        disk: Disk,
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
        self._unsynced_since: float | None = None
        self._changed = Condition()
        self._waiting: deque[_Added | _NewSegment] = deque()
        self._waiting_bytes = 0
        self._number = segment.number
        """Of the segment into which goes what is added now."""
        self._bytes_in_segment = segment.size
        """What that segment has by now, and what waits for it, but for headers not written yet."""
        self._added = self._safe = 0
        """How many times `add` was called, and how many of those are as safe as is promised."""
        self._safe_revision = revision
        self._afters: deque[tuple[int, Call]] = deque()
        self._closing = False
        self._not_synced: OSError | None = None
        """Why another thread could not sync."""
        self._failure: JournalFailed | None = None
        self._failure_calls: list[FailureCall] = []
        self.bytes = 0
        """How many bytes of groups were written since it was opened."""
        self.on_written: Call = lambda: None
        """Called by the thread that writes, after each group."""
        self.tampering: Callable[[Segment], str | None] = lambda _: None
        """Called by it now and then: what somebody did to the journal's files, None if nothing."""
        self._looked_at = time.monotonic()
        self._seen_revision = revision
        """The last one that was written when all was as it should be."""
        self._writer = Thread(target=self._write, name="kvs-journal", daemon=True)

    def start(self) -> None:
        """Start the thread that writes.

        Raises:
            DataUnusable: the system gives none.

        """
        try:
            self._writer.start()
        except RuntimeError as error:
            reason = "cannot start a thread to write the journal; raise the limit of processes"
            raise DataUnusable(self._shown, f"{reason} (ulimit -u)") from error

    @property
    def failure(self) -> JournalFailed | None:
        """Why nothing more is written, if so."""
        return self._failure

    def on_failure(self, call: FailureCall) -> Call:
        """Have `call` called once when writing fails; return what ends that.

        The thread that writes calls it; if writing has failed already, this one does, at once.
        """
        with self._changed:
            failure = self._failure
            if failure is None:
                self._failure_calls.append(call)
        if failure is not None:
            call(failure)

        def end() -> None:
            with self._changed, contextlib.suppress(ValueError):  # it was called, or ended before
                self._failure_calls.remove(call)

        return end

    @property
    def added(self) -> int:
        """What `wait` takes to wait for all that has been added so far."""
        return self._added

    @property
    def waiting_bytes(self) -> int:
        """How much has been added that is not yet written."""
        return self._waiting_bytes

    def is_safe(self, added: int) -> bool:
        """Tell whether what had been added by then is as safe as is promised."""
        return self._safe >= added

    def add(self, text: bytes, changes: int, then: Call | None = None) -> None:
        """Put whole lines that make so many changes behind all others.

        `then` is called by the thread that writes, once they are safe.

        Raises:
            JournalFailed: nothing is written any more.

        """
        with self._changed:
            self.check()
            self._waiting.append(_Added(text, changes, then))
            self._waiting_bytes += len(text)
            self._bytes_in_segment += len(text)
            self._added += 1
            if self._bytes_in_segment > self._segment_bytes:
                self._begin_segment()
            self._changed.notify_all()

    def begin_segment(self) -> int:
        """Let what is added from now on go into a new segment; return its number.

        Raises:
            JournalFailed: nothing is written any more.

        """
        with self._changed:
            self.check()
            self._begin_segment()
            self._changed.notify_all()
            return self._number

    def sync_ahead(self) -> None:
        """Sync most of what the thread that writes has not, so that it has little left to sync.

        For who is about to begin a segment, and from any thread but that one, which goes on.

        Raises:
            OSError: it could not be synced, which is the end of the journal.

        """
        if self._fsync is Fsync.ALWAYS:
            return
        file = self._disk.open(form.file_name(Kind.JOURNAL, self._segment.number))
        try:
            self._disk.sync(file)
        except OSError as error:
            with self._changed:
                self._not_synced = error
                self._changed.notify_all()
            raise
        finally:
            self._disk.close(file)

    def wait(self, added: int) -> None:
        """Wait until what had been added by then is safe.

        Raises:
            JournalFailed: it never will be.

        """
        with self._changed:
            self._changed.wait_for(lambda: self._safe >= added or self._failure is not None)
            if self._safe < added:
                self.check()

    def after(self, added: int, call: Call) -> None:
        """Call `call`, by this thread or the one that writes, once that is safe; else never."""
        with self._changed:
            if self._safe < added:
                self._afters.append((added, call))
                return
        call()

    def close(self) -> None:
        """Write what has been added, and end; a second call does nothing.

        Raises:
            JournalFailed: it was not all written.

        """
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._changed.notify_all()
        self._writer.join()
        self._disk.close(self._segment.file)
        if self._failure is not None:
            raise self._failure

    def _begin_segment(self) -> None:
        self._number += 1
        self._bytes_in_segment = form.HEAD_BYTES
        self._waiting.append(_NewSegment(self._number))
        self._added += 1

    def check(self) -> None:
        """Refuse if nothing is written any more.

        Raises:
            JournalFailed: writing failed.
            StoreClosed: it was closed.

        """
        if self._failure is not None:
            raise self._failure
        if self._closing:
            raise StoreClosed

    # The thread that writes.

    def _write(self) -> None:
        try:
            while self._wait_for_work():
                if time.monotonic() >= self._looked_at + LOOK_SECONDS:
                    self._look()
                self._write_what_waits()
            if self._fsync is not Fsync.NEVER:
                self._sync()
            self._look()
        except _Tampered as what:
            self._fail(str(what), self._seen_revision)
        except OSError as error:
            self._fail(cause(error))
        except MemoryError:
            self._fail("there is not enough memory")
        except BaseException as defect:  # who waits must not wait for ever
            self._fail(f"a defect: {defect!r}")
            raise

    def _wait_for_work(self) -> bool:
        """Wait until something waits, or is to be synced or looked at; return whether to go on."""
        with self._changed:
            until = self._looked_at + LOOK_SECONDS
            if self._unsynced_since is not None:
                until = min(until, self._unsynced_since + self._interval)
            seconds = max(0.0, until - time.monotonic())
            self._changed.wait_for(
                lambda: self._waiting or self._closing or self._not_synced, seconds
            )
            if self._not_synced is not None:
                raise self._not_synced
            return bool(self._waiting) or not self._closing

    def _look(self) -> None:
        """See that what is written is where it was, and as it was left.

        Raises:
            _Tampered: it is not.

        """
        what = self.tampering(self._segment)
        if what is not None:
            raise _Tampered(what)
        self._looked_at = time.monotonic()
        self._seen_revision = self._written_revision

    def _write_what_waits(self) -> None:
        group: list[_Added] = []
        then: _NewSegment | None = None
        with self._changed:
            while self._waiting and then is None:
                first = self._waiting.popleft()
                if isinstance(first, _Added):
                    group.append(first)
                else:
                    then = first
        if group:
            self._write_group(group)
        if self._is_due():
            self._sync()
        if then is not None:
            self._next_segment(then.number)
            self._tell([], 1)

    def _is_due(self) -> bool:
        if self._unsynced_since is None:
            return False
        return time.monotonic() >= self._unsynced_since + self._interval

    def _write_group(self, group: list[_Added]) -> None:
        body = [each.text for each in group]
        before = self._written_revision
        after = before + sum(each.changes for each in group)
        header, chain = form.encode_header(self._segment.chain, before, after, *body)
        self._disk.append(self._segment.file, header, *body)
        if self._fsync is Fsync.ALWAYS:
            self._disk.sync(self._segment.file)
        elif self._fsync is Fsync.INTERVAL and self._unsynced_since is None:
            self._unsynced_since = time.monotonic()
        self._segment.chain = chain
        size = len(header) + sum(map(len, body))
        self._segment.size += size
        self._written_revision = after
        self.bytes += size
        self._tell(group, len(group))
        self.on_written()

    def _tell(self, group: list[_Added], count: int) -> None:
        """Tell all who wait for what has become safe."""
        calls = [each.then for each in group if each.then is not None]
        with self._changed:
            self._waiting_bytes -= sum(len(each.text) for each in group)
            if group and self._segment.number == self._number:
                self._bytes_in_segment += form.HEADER_BYTES
            self._safe += count
            self._safe_revision = self._written_revision
            while self._afters and self._afters[0][0] <= self._safe:
                calls.append(self._afters.popleft()[1])
            self._changed.notify_all()
        for call in calls:
            call()

    def _sync(self) -> None:
        self._disk.sync(self._segment.file)
        self._synced_revision = self._written_revision
        self._unsynced_since = None

    def _next_segment(self, number: int) -> None:
        """Go on in a new segment, when all of the old one is on disk."""
        self._sync()
        old = self._segment
        head = Head(Kind.JOURNAL, number, self._written_revision, self._store, old.chain)
        first = head.encode()
        file = self._disk.create(head.name, first)
        self._disk.close(old.file)
        _, size, chain = form.decode_head(first)
        self._segment = Segment(file, number, chain, size)

    def _fail(self, reason: str, kept: int | None = None) -> None:
        """Make an end; what comes after the revision `kept`, or what was not safe, is not kept."""
        if kept is None:
            # With an interval, what was told is not yet as durable as it should have become.
            kept = self._synced_revision if self._fsync is Fsync.INTERVAL else self._safe_revision
        with self._changed:
            self._failure = JournalFailed(self._shown, kept, reason)
            self._waiting.clear()
            self._afters.clear()
            calls, self._failure_calls = self._failure_calls, []
            self._changed.notify_all()
        for call in calls:
            call(self._failure)
