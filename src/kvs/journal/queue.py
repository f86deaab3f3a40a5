"""The journal's queue: changes appended by any thread, and the waits until they are committed.

How it works. A caller appends the lines of its changes, then waits for the commit or registers a
callback. The writer thread (`kvs.journal.writer`) takes all that is queued at once, writes it as
one group, and reports the commit back to the queue. While the writer thread waits for the disk, the
next group collects.

Invariants:

- Items must be written in the order in which they were appended. The lines of one `append` call
  must stay in one group: they become durable together or not at all.
- A commit must never be reported before the ``fsync`` policy is met for it: by `wait`, by
  `is_committed`, by `on_commit`, or by the callback given to `append`.
- The queue decides where a segment ends, when it appends. So every item has its segment before it
  is written, and a compaction knows in which segment the changes after it are.

Threads: any thread, signal handler or finalizer may append or wait at any point, within another
call of the same thread included. An append takes effect in one call into C
(`kvs.concurrency.atomic`), and no thread holds a lock. Methods under "The writer thread" are for
that thread alone.
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread, get_ident
from typing import NamedTuple

from kvs.concurrency.atomic import Step, atomically
from kvs.concurrency.waiters import Waiters
from kvs.errors import JournalWriteError, StoreClosedError
from kvs.journal.failure import Callback, FailureCallback, JournalFailure, run_callback
from kvs.journal.format import FILE_HEADER_BYTES
from kvs.journal.storage import Segment

GROUP_BYTES = 8 << 20
"""Bytes of lines that end a group, so that recovery need not read a longer one at once."""


@dataclass(slots=True)
class PendingAppend:
    """The lines of one `append` call."""

    lines: Iterable[bytes]
    """Whole lines, in pieces; iterated over more than once."""
    size: int
    """Length of the lines in bytes."""
    change_count: int
    on_commit: Callback | None = None
    origin: bytes = b""
    """The comment that says where the changes came from; empty without changes."""
    is_restore: bool = False
    """Whether the lines are one change, and so need a group of their own."""


@dataclass(slots=True)
class PendingRotation:
    """A request to write the items after it into a new segment."""

    number: int
    """Number of that segment."""


PendingItem = PendingAppend | PendingRotation


class RotationPoint(NamedTuple):
    """The start of a segment."""

    number: int
    """Number of the segment."""
    revision: int
    """Revision of everything appended before; the segment begins with the next one."""
    appended_count: int
    """Argument of `JournalQueue.wait` that waits until the segment exists."""
    written_bytes: int
    """`JournalQueue.written_bytes` at the time of the rotation."""


class JournalQueue:
    """The queue of one journal, and the interface of the journal to its callers."""

    def __init__(self, segment: Segment, revision: int, segment_bytes: int) -> None:
        """Create the queue of a journal that continues `segment` after `revision`.

        A segment of more than `segment_bytes` bytes is followed by a new one.
        """
        self._failure = JournalFailure()
        self._items: SimpleQueue[PendingItem | None] = SimpleQueue()
        """Items to be written, in order; None only wakes the writer thread."""
        self._count = [0]
        """Number of items appended, None not counted."""
        self._appended_bytes = 0
        """Bytes of lines appended."""
        self._appended_revision = revision
        """Revision of everything appended."""
        self._max_segment_bytes = segment_bytes
        self._segment_number = segment.number
        """Number of the segment into which the next item is written."""
        self._segment_bytes = segment.size
        """Bytes of that segment without group headers, pending lines included."""
        self._group_header_bytes = (segment.number, 0)
        """Number of the segment that is being written, and bytes of group headers written to it.
        Set by the writer thread."""
        self._committed_bytes = 0
        """Bytes of lines committed. Set by the writer thread."""
        self._committed_count = 0
        """Number of items committed. Set by the writer thread."""
        self._waiters = Waiters()
        """Threads that wait for a commit, a failure, or the end of the writer thread."""
        self._commit_callbacks: deque[tuple[int, Callback]] = deque()
        """Callbacks with the `appended_count` that each waits for, in order."""
        self._paused_at_segment: int | None = None
        """Number of the segment into which nothing is written for now; 0 until its rotation is
        appended; None if the queue is not paused."""
        self._wakeups: SimpleQueue[None] = SimpleQueue()
        """Wakes the writer thread from a wait in a paused queue."""
        self._writer_thread: Thread | None = None
        self._is_closing = False
        self._has_ended = False
        self._on_end: Callback = lambda: None
        self.written_bytes = 0
        """Bytes written since the journal was opened, group headers included."""

    # Appending.

    @property
    def appended_revision(self) -> int:
        """The revision after everything that was appended."""
        return self._appended_revision

    @property
    def appended_count(self) -> int:
        """Number of items appended so far: the argument of `wait` that waits for all of them."""
        return self._count[0]

    @property
    def pending_bytes(self) -> int:
        """Bytes of lines appended and not yet committed."""
        return self._appended_bytes - self._committed_bytes

    def append(self, lines: bytes, change_count: int, on_commit: Callback | None = None) -> None:
        """Append whole lines that make `change_count` changes.

        The writer thread calls `on_commit` once they are committed.

        Raises:
            JournalWriteError: the journal has failed.
            StoreClosedError: the journal was closed.

        """
        self.append_item(PendingAppend((lines,), len(lines), change_count, on_commit))

    def append_item(self, item: PendingAppend) -> None:
        """Append lines in pieces, as `append` does."""
        self._retry(lambda: self.steps(item))

    def steps(self, item: PendingAppend) -> list[Step]:
        """Return the steps of `append`. The first refuses if another append came in between.

        Raises:
            JournalWriteError: the journal has failed.
            StoreClosedError: the journal was closed.

        """
        self.check()
        count = self._count[0]
        steps: list[Step] = [
            partial(self._count.index, count),
            partial(self._items.put, item),
            partial(setattr, self, "_appended_bytes", self._appended_bytes + item.size),
            partial(
                setattr, self, "_appended_revision", self._appended_revision + item.change_count
            ),
        ]
        size = self._segment_bytes + item.size
        number, header_bytes = self._group_header_bytes
        if size + (header_bytes if number == self._segment_number else 0) > self._max_segment_bytes:
            steps += self._rotation_steps()
            count += 1
        else:
            steps.append(partial(setattr, self, "_segment_bytes", size))
        return [*steps, partial(self._count.__setitem__, 0, count + 1)]

    def rotate(self) -> RotationPoint:
        """Write everything appended from now on into a new segment; return where that begins.

        Raises:
            JournalWriteError: the journal has failed.
            StoreClosedError: the journal was closed.

        """
        number = count = revision = 0

        def steps() -> list[Step]:
            nonlocal number, count, revision
            self.check()
            count = self._count[0]
            revision = self._appended_revision
            number = self._segment_number + 1
            return [
                partial(self._count.index, count),
                *self._rotation_steps(),
                partial(self._count.__setitem__, 0, count + 1),
            ]

        self._retry(steps)
        if self._paused_at_segment == 0:
            self._paused_at_segment = number
        return RotationPoint(number, revision, count + 1, self.written_bytes)

    def _rotation_steps(self) -> list[Step]:
        number = self._segment_number + 1
        return [
            partial(self._items.put, PendingRotation(number)),
            partial(setattr, self, "_segment_number", number),
            partial(setattr, self, "_segment_bytes", FILE_HEADER_BYTES),
        ]

    @staticmethod
    def _retry(steps: Callable[[], list[Step]]) -> None:
        while True:
            with contextlib.suppress(ValueError):  # another append came in between
                return atomically(*steps())

    # Commits.

    def is_committed(self, count: int) -> bool:
        """Return whether the first `count` items are committed."""
        return self._committed_count >= count

    def wait(self, count: int) -> None:
        """Block until the first `count` items are committed; in the writer thread, return at once.

        A finalizer that runs in the writer thread may call this; that thread cannot wait for
        itself.

        Raises:
            JournalWriteError: the journal has failed, and they never will be.
            StoreClosedError: the journal was closed before they were appended.

        """
        if self.is_writer_thread:
            return
        self._waiters.wait_for(
            lambda: self._committed_count >= count or self._failure.error or self._has_ended
        )
        if self._committed_count < count:
            self.check()

    def on_commit(self, count: int, call: Callback) -> None:
        """Call `call` once the first `count` items are committed; never, if the journal fails.

        This thread calls it if they are committed already, else the writer thread, or another
        thread in this method. An exception that it raises goes to `threading.excepthook`.
        """
        self._commit_callbacks.append((count, call))
        self._run_commit_callbacks()

    def _run_commit_callbacks(self) -> None:
        callbacks = self._commit_callbacks
        while True:
            try:
                first = callbacks[0]
            except IndexError:
                return
            if first[0] > self._committed_count:
                return
            try:
                atomically(partial(callbacks.index, first, 0, 1), callbacks.popleft)
            except ValueError:  # another thread calls it
                continue
            run_callback(first[1])

    # Failure and close.

    @property
    def failure(self) -> JournalWriteError | None:
        """Error that ended the journal; None if it has not failed."""
        return self._failure.error

    def on_failure(self, call: FailureCallback) -> Callback:
        """Register `call` for a failure of the journal; return a function that unregisters it.

        `call` is called once: by the writer thread when the journal fails, or by this thread, at
        once, if the journal has failed already.
        """
        return self._failure.on_failure(call)

    def check(self) -> None:
        """Raise an error if nothing more can be appended.

        Raises:
            JournalWriteError: the journal has failed.
            StoreClosedError: the journal was closed.

        """
        self._failure.check()
        if self._is_closing:
            raise StoreClosedError

    def close(self, then: Callback = lambda: None) -> None:
        """Block until everything appended is written, then call `then`. Idempotent.

        In the writer thread, where a finalizer may call this, return at once; that thread calls
        `then` when it ends.

        Raises:
            JournalWriteError: the journal has failed, and no call before has raised this.

        """
        self._is_closing = True
        self._items.put(None)
        self._wakeups.put(None)
        if self.is_writer_thread:
            self._on_end = then
            return
        self._waiters.wait_for(lambda: self._has_ended)
        then()
        self._failure.raise_once()

    # Pausing: after a full disk, only a compaction may use the space that was freed.

    def pause(self) -> None:
        """Write nothing after the next `rotate` until `resume`."""
        self._paused_at_segment = 0

    def resume(self) -> None:
        """End a `pause`. Does nothing if the queue is not paused."""
        if self._paused_at_segment is not None:
            self._paused_at_segment = None
            self._wakeups.put(None)

    # The writer thread.

    @property
    def is_writer_thread(self) -> bool:
        """Whether the calling thread is the writer thread, which may run a finalizer.

        False once that thread has ended: another thread may have its identifier then.
        """
        thread = self._writer_thread
        return thread is not None and thread.ident == get_ident() and not self._has_ended

    def begin_writing(self, thread: Thread) -> None:
        """Make `thread`, which is not yet started, the writer thread."""
        self._writer_thread = thread

    def take(self, segment: Segment, deadline: float) -> list[PendingItem] | None:
        """Block until there are items to write, at most until `deadline` (time.monotonic).

        Return the items, of which a rotation can only be the last, and no more than one beyond
        `GROUP_BYTES`; none after the deadline or a `wake`; None if the queue is closed and empty.
        `segment` is the current one: in a paused queue, nothing after the rotation to it is
        returned.
        """
        items: list[PendingItem] = []
        if self._paused_at_segment == segment.number and not self._is_closing:
            with contextlib.suppress(Empty):
                self._wakeups.get(timeout=max(0.0, deadline - time.monotonic()))
            return items
        # The None of `close` may have been taken together with the items before it.
        seconds = 0.0 if self._is_closing else max(0.0, deadline - time.monotonic())
        size = 0
        with contextlib.suppress(Empty):
            item = self._items.get(timeout=seconds)
            for left in range(self._items.qsize(), -1, -1):
                if item is not None:
                    items.append(item)
                    if isinstance(item, PendingRotation):
                        break
                    size += item.size
                if not left or size >= GROUP_BYTES:
                    break
                item = self._items.get_nowait()
        return None if self._is_closing and not items and self._items.empty() else items

    def wake(self) -> None:
        """End a `take` that blocks. Any thread."""
        self._items.put(None)

    def note_written(self, segment: Segment, header_bytes: int, written_bytes: int) -> None:
        """Note that `written_bytes` bytes went to `segment`, `header_bytes` of them a header."""
        number, before = self._group_header_bytes
        before = before if number == segment.number else 0
        self._group_header_bytes = (segment.number, before + header_bytes)
        self.written_bytes += written_bytes

    def commit(self, appends: list[PendingAppend], rotations: int = 0) -> None:
        """Report the next items as committed: `appends`, or so many rotations."""
        self._committed_bytes += sum(item.size for item in appends)
        self._committed_count += len(appends) + rotations
        self._waiters.notify_all()
        for item in appends:
            if item.on_commit is not None:
                item.on_commit()
        self._run_commit_callbacks()

    def fail(self, error: JournalWriteError) -> None:
        """Report that the journal has failed: wake every waiter, call every failure callback."""
        self._failure.error = error
        self._commit_callbacks.clear()
        self._waiters.notify_all()
        self._failure.run_callbacks()

    def end_writing(self) -> None:
        """Report that the writer thread has ended."""
        self._has_ended = True
        self._waiters.notify_all()
        self._on_end()
