"""What is on its way to a client: replies, and notifications.

`ReplyWriter` belongs to the loop's thread. `NotificationWriter` is written by whichever thread has
made a change, as far as the pipe takes it at once, and by the loop when the pipe takes more.
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
"""Notifications put into one write: a pipe takes so many whole or not at all (pipe(7)).

So no client ever finds a part of one, and no more is taken out of an outbox than the pipe takes.
"""


def _ignore(_size: int) -> None:
    """Do nothing."""


WRITE_BYTES = 256 << 10
"""Bytes of a reply written at a time, however fast its client reads: others are served then."""


class ReplyWriter:
    """The bytes of replies that the pipe has not taken yet. For the loop's thread."""

    def __init__(
        self,
        descriptor: int,
        loop: EventLoop,
        ready: Callable[[int], None],
        written: Callable[[int], None] = _ignore,
    ) -> None:
        """Begin with none; `written` is called with the bytes of each part that was written.

        The part has been freed by then, if nobody else has it.
        """
        self.descriptor = descriptor
        self._loop = loop
        self._written = written
        self._asked = 0
        self.parts: deque[memoryview] = deque()
        """What has not been written yet."""
        self._sizes: deque[int] = deque()
        """The lengths that the parts had at first."""
        loop.register(descriptor, 0, ready)

    @property
    def pending(self) -> bool:
        """Whether the client has still to read some."""
        return bool(self.parts)

    def write(self, parts: Iterable[bytes | bytearray]) -> None:
        """Write `parts`, now or as the client reads.

        Raises:
            BrokenPipeError: nobody reads any more.

        """
        parts = [part for part in parts if part]
        if len(parts) > 1 and sum(map(len, parts)) <= PIPE_BUF:
            parts = [b"".join(parts)]  # one write, and one wake-up of the client
        for part in parts:
            self.parts.append(memoryview(part))
            self._sizes.append(len(part))
        self.flush()

    def flush(self) -> None:
        """Write on; what does not fit is asked for again."""
        left = WRITE_BYTES
        while self.parts and left > 0:
            count = fifos.write(self.descriptor, self.parts[0][:left])
            if not count:
                break
            left -= count
            self._take(count)
        events = OUT if self.parts else 0
        if events != self._asked:
            self._asked = events
            self._loop.modify(self.descriptor, events)

    def _take(self, count: int) -> None:
        """Take `count` bytes, which were written, from the first part."""
        part = self.parts.popleft()
        if count < len(part):
            self.parts.appendleft(part[count:])
        else:
            del part
            self._written(self._sizes.popleft())

    def close(self) -> None:
        """Close the pipe; `parts` is lost to the client."""
        self._loop.unregister(self.descriptor)
        fifos.close(self.descriptor)


class NotificationWriter:
    """The way from an outbox to a pipe. `flush` may be called from any thread.

    `_writing` guards the pipe and what is half written: it is held for writes that never wait, and
    for the closing, so that nobody writes into a descriptor that has become something else.
    """

    def __init__(self, outbox: Outbox[bytes], loop: EventLoop) -> None:
        self._outbox = outbox
        self._loop = loop
        self._writing = Lock()
        self._descriptor: int | None = None  # guarded by _writing, as all below
        self._unsent = b""
        self._full = False

    @property
    def is_open(self) -> bool:
        """Whether there is a pipe to write to."""
        return self._descriptor is not None

    def open(self, descriptor: int, ready: Callable[[int], None]) -> None:
        """Begin to write to `descriptor`; `ready` is called with its events, in the loop."""
        self._loop.register(descriptor, 0, ready)
        with self._writing:
            self._descriptor = descriptor
        self.flush()

    def flush(self) -> None:
        """Write what the pipe takes now; the loop goes on with the rest when it takes more."""
        while self._outbox.available and not self._full and self._descriptor is not None:
            if not self._writing.acquire(blocking=False):
                return  # whoever writes looks again after letting go
            try:
                self._write()
            finally:
                self._writing.release()

    def on_writable(self) -> None:
        """Write on, for the loop: the pipe takes more."""
        with self._writing:
            if self._descriptor is None:
                return
            self._full = False
            self._loop.modify(self._descriptor, 0)
            self._write()
        self.flush()

    def close(self) -> None:
        """Close the pipe."""
        with self._writing:
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
            self._full = True  # its end is told to the loop, as an event of the descriptor
            return
        if self._unsent:
            self._full = True
            self._loop.modify(self._descriptor, OUT)
