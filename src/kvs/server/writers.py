"""Writes replies and notifications to a client's pipes, without blocking.

Threads: `ReplyWriter` is for the loop's thread. `NotificationWriter` writes on the thread that made
a change as far as the pipe takes the notifications, and on the loop's thread once the pipe takes
more.
"""

from collections import deque
from collections.abc import Callable, Iterable
from select import PIPE_BUF
from threading import Lock

from kvs.posix import fifos
from kvs.protocol.frames import NOTIFICATION_BYTES
from kvs.server.loop import OUT, EventLoop
from kvs.store.subscriptions import Outbox

FRAMES_PER_WRITE = PIPE_BUF // NOTIFICATION_BYTES
"""Maximum notifications in one write(2): a pipe takes up to PIPE_BUF bytes atomically (pipe(7)).

So a client never reads part of a notification, and no more is taken out of an outbox than the pipe
takes.
"""


WRITE_BYTES = 256 << 10
"""Maximum bytes of a reply written before other sessions are served, even if the client reads."""


class ReplyWriter:
    """Writes replies to one responses pipe, as the client reads. For the loop's thread."""

    def __init__(
        self,
        descriptor: int,
        loop: EventLoop,
        ready: Callable[[int], None],
        on_part_written: Callable[[int], None],
    ) -> None:
        """Take over `descriptor`; `ready` is called with its events.

        `on_part_written` is called with the size of each part that was written, after this object
        has dropped its reference to the part.
        """
        self.descriptor = descriptor
        self._loop = loop
        self._on_part_written = on_part_written
        self._events = 0
        """Events that the loop is asked for."""
        self.parts: deque[memoryview] = deque()
        """Bytes that have not been written yet."""
        self._sizes: deque[int] = deque()
        """Original sizes of `parts`."""
        loop.register(descriptor, 0, ready)

    @property
    def pending(self) -> bool:
        """Whether the pipe has not taken everything yet."""
        return bool(self.parts)

    def write(self, parts: Iterable[bytes | bytearray]) -> None:
        """Write `parts`, now as far as the pipe takes them, otherwise as the client reads.

        Raises:
            BrokenPipeError: the client has closed the pipe.

        """
        parts = [part for part in parts if part]
        if len(parts) > 1 and sum(map(len, parts)) <= PIPE_BUF:
            parts = [b"".join(parts)]  # one write(2) wakes the client once
        for part in parts:
            self.parts.append(memoryview(part))
            self._sizes.append(len(part))
        self.flush()

    def flush(self) -> None:
        """Continue to write; ask the loop for `OUT` if the pipe does not take everything.

        Raises:
            BrokenPipeError: the client has closed the pipe.

        """
        remaining = WRITE_BYTES
        while self.parts and remaining > 0:
            count = fifos.write(self.descriptor, self.parts[0][:remaining])
            if not count:
                break
            remaining -= count
            self._drop_written(count)
        events = OUT if self.parts else 0
        if events != self._events:
            self._events = events
            self._loop.modify(self.descriptor, events)

    def _drop_written(self, count: int) -> None:
        """Remove `count` bytes, which were written, from the first part."""
        part = self.parts.popleft()
        if count < len(part):
            self.parts.appendleft(part[count:])
        else:
            del part
            self._on_part_written(self._sizes.popleft())

    def close(self) -> None:
        """Close the pipe. `parts` is not written any more."""
        self._loop.unregister(self.descriptor)
        fifos.close(self.descriptor)


class NotificationWriter:
    """Writes the notifications in an outbox to one notifications pipe.

    Threads: any for `flush`; the loop's for everything else.

    Locking: `_lock` guards all attributes that change. It is held for write(2), which never blocks,
    and to close the pipe, so that no thread writes to a descriptor whose number was reused.
    """

    def __init__(self, outbox: Outbox[bytes], loop: EventLoop) -> None:
        self._outbox = outbox
        self._loop = loop
        self._lock = Lock()
        self._descriptor: int | None = None  # guarded by _lock, as is everything below
        self._unsent = b""
        self._full = False
        """Whether the pipe takes no more; the loop reports when it does."""

    def open(self, descriptor: int, ready: Callable[[int], None]) -> None:
        """Take over `descriptor` and begin to write; the loop calls `ready` with its events."""
        self._loop.register(descriptor, 0, ready)
        with self._lock:
            self._descriptor = descriptor
        self.flush()

    def flush(self) -> None:
        """Write what the pipe takes now. The rest follows when the loop calls `on_writable`."""
        while self._outbox.available and not self._full and self._descriptor is not None:
            if not self._lock.acquire(blocking=False):
                return  # the thread that holds the lock checks the outbox again after releasing it
            try:
                self._write()
            finally:
                self._lock.release()

    def on_writable(self) -> None:
        """Continue to write, because the loop reports that the pipe takes more."""
        with self._lock:
            if self._descriptor is None:
                return
            self._full = False
            self._loop.modify(self._descriptor, 0)
            self._write()
        self.flush()

    def close(self) -> None:
        """Close the pipe. Idempotent."""
        with self._lock:
            if self._descriptor is not None:
                self._loop.unregister(self._descriptor)
                fifos.close(self._descriptor)
                self._descriptor = None

    def _write(self) -> None:
        if self._descriptor is None:
            return
        data = self._unsent or b"".join(self._outbox.take(FRAMES_PER_WRITE))
        if not data:
            return
        try:
            self._unsent = data[fifos.write(self._descriptor, data) :]
        except BrokenPipeError:
            self._full = True  # the loop reports ERR for the descriptor
            return
        if self._unsent:
            self._full = True
            self._loop.modify(self._descriptor, OUT)
