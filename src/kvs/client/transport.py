"""The bytes of a session, moved through its pipes without blocking.

Any thread, signal handler and finalizer may call any method at any time, also within another call
of the same thread, and an exception at any instruction leaves the transport usable. So there is no
lock. Each step below is one call into C (`kvs.concurrency.atomic`), computed from a state that its
first part checks; when another call was faster, the step is computed again:

1. `send` appends a request to the unsent bytes, whole.
2. `_flush` writes a piece of the unsent bytes and removes it.
3. `_receive` reads from a pipe and appends the bytes to `_received`, in the order of the pipe.
4. `parse` appends the bytes in `_received` to the stream of their pipe (`MessageStream`).
5. `MessageStream.parse` makes messages of the bytes of a stream and removes the bytes.

Steps 2 and 3 must not release the interpreter's lock between the system call and the record of its
result, so they call read(2) and write(2) by `ctypes.PyDLL`, which holds the lock. The descriptors
do not block.

Waiting: each waiting thread polls an epoll instance of its own (`monitor`). A call of `pump` by one
thread may read what another thread waits for. So step 3 also adds to an eventfd, and every monitor
has the eventfd registered edge-triggered (EPOLLET): each addition wakes each monitor once, even one
that is not polled yet. A woken thread executes all remaining steps, so no thread depends on the
thread that read the bytes.

Invariants:

- Notifications must be read as they arrive, whatever the caller waits for: a server ends a session
  to which it cannot write them.
- When the server closes a pipe the session ends, but bytes written before are still read.
- A descriptor must be in `_open` until the call that closes it, and no step uses one that is not:
  its number may belong to another file by then.
"""

import contextlib
import ctypes
import operator
import select
import weakref
from collections import deque
from collections.abc import Iterable
from functools import partial
from itertools import compress, repeat, starmap

from kvs.client.message_stream import MessageStream
from kvs.client.pipes import ClientPipes
from kvs.concurrency import forks
from kvs.concurrency.atomic import Step, atomically, exhaust
from kvs.concurrency.resources import NonCopyable
from kvs.errors import SessionClosedError
from kvs.posix import fifos
from kvs.posix.wakeup import Wakeup
from kvs.protocol import frames
from kvs.protocol.replies import (
    ExecuteReply,
    Notification,
    Reply,
    parse_notifications,
    parse_replies,
)

MAX_UNREAD_CHANGES = 1 << 20
"""Maximum notifications buffered for a caller that does not take them."""

MAX_WRITE_BYTES = select.PIPE_BUF
"""Bytes of one write(2): a pipe takes up to this many whole or not at all (pipe(7))."""

MAX_POLL_SECONDS = 3600.0
"""Maximum seconds of one poll(2), which takes about 24 days at most; longer waits are repeated."""

MAX_POOLED_MONITORS = 64
"""Maximum monitors remembered for a forked child to close; more are in use only after exceptions
that came before `put_back`."""

CLOSED_BY_SERVER = "the server closed the session"

_libc = ctypes.PyDLL(None)
_PERMIT = object()


class Transport(NonCopyable):
    """The client's ends of the three pipes of a session.

    Threads: any thread, signal handler or finalizer may call any method.
    """

    def __init__(self, pipes: ClientPipes) -> None:
        self.replies: deque[Reply | ExecuteReply] = deque()
        """The server's responses, in order; consumed from the left."""
        self.notifications: deque[Notification] = deque()
        """The server's notifications, in order; consumed from the left."""
        self.pipes = pipes
        self._close_reasons: deque[str] = deque()
        """The first one is the reason for the end of the session; empty until then."""
        self._accepting = deque([_PERMIT])
        """Empty once no more requests are accepted: after a disconnect, or after the end."""
        self._fifo = fifos.Fifo.open_path(pipes.connect.requests)
        self._open = deque([self._fifo.handle])
        """Open descriptors, until the call that closes each."""
        forks.close_group_in_children(self._open)
        self._poll = select.epoll()
        self._activity = Wakeup()
        """Added to after every read(2), and at the end of the session; never read."""
        self._monitors: deque[select.epoll] = deque()
        """Monitors that no thread uses."""
        self._used_monitors: deque[select.epoll] = deque(maxlen=MAX_POOLED_MONITORS)
        """Monitors in use that a forked child has to close."""
        for group in (self._monitors, self._used_monitors):
            forks.close_group_in_children(group)
        groups = (self._open, self._monitors, self._used_monitors)
        self._close = partial(_close, self._open, pipes, groups)
        self._finalizer = weakref.finalize(self, self._close)
        self._requests = -1
        self._unsent: deque[bytes] = deque()
        self._received: deque[deque[object]] = deque()
        """For each read(2): the unparsed bytes of its pipe, its buffer, and its result."""
        self._reply_stream = MessageStream(parse_replies, self.replies)
        self._notification_stream = MessageStream(parse_notifications, self.notifications)
        self._responses = self._track(_open_for_reading(pipes.connect.responses))
        self._notifications = self._track(_open_for_reading(pipes.connect.notifications))
        for descriptor in (self._responses, self._notifications):
            self._poll.register(descriptor, select.EPOLLIN)

    @property
    def close_reason(self) -> str | None:
        """Why the session ended; None while it is open. No more bytes are read after the end."""
        return self._close_reasons[0] if self._close_reasons else None

    @property
    def replies_closed(self) -> bool:
        """Whether no more replies can arrive."""
        return bool(self._close_reasons) or self._responses not in self._open

    def closed_error(self) -> SessionClosedError:
        """Return the error for a request to a session that the server has closed."""
        return SessionClosedError(self.close_reason or CLOSED_BY_SERVER)

    def fileno(self) -> int:
        """Return a descriptor that is readable (poll(2)) while `pump` has work to do."""
        return self._poll.fileno()

    # Requests.

    def open_requests(self) -> bool:
        """Open the requests pipe, if the server reads it already; return whether it is open.

        Raises:
            OSError: the pipe cannot be opened.

        """
        if self._requests < 0 and (descriptor := self._fifo.open_for_writing()) is not None:
            self._requests = self._track(descriptor)
            self._poll.register(descriptor, 0)
        return self._requests >= 0

    @property
    def requests_are_open(self) -> bool:
        """Whether the requests pipe has been opened."""
        return self._requests >= 0

    def send(self, frame: bytes, *steps: Step) -> bool:
        """Send a request, and call `steps` in the same atomic step; return False after the end.

        `pump` writes what the pipe does not take at once. After an exception either nothing was
        sent and no step called, or the request is sent nevertheless.
        """
        accept = self._accepting.remove if frame[0] == frames.DISCONNECT else self._accepting.index
        pieces = [
            frame[start : start + MAX_WRITE_BYTES]
            for start in range(0, len(frame), MAX_WRITE_BYTES)
        ]
        try:
            atomically(partial(accept, _PERMIT), *steps, partial(self._unsent.extend, iter(pieces)))
        except ValueError:
            return False
        self._flush()
        return True

    def close_requests(self) -> None:
        """Close the requests pipe, which a server takes for the end of the session."""
        self._untrack(self._requests)

    # Replies and notifications.

    def monitor(self) -> select.epoll:
        """Return an epoll instance that wakes its one user when there may be new messages.

        Poll it only after a call of `pump` that did not bring the awaited message. Return it with
        `put_back`; the garbage collector closes one that is not returned.
        """
        try:
            monitor = self._monitors.pop()
        except IndexError:
            monitor = select.epoll()
            monitor.register(self._poll.fileno(), select.EPOLLIN)
            monitor.register(self._activity.fileno(), select.EPOLLIN | select.EPOLLET)
            if self._requests in self._open:
                with contextlib.suppress(OSError):  # it was closed since
                    monitor.register(self._requests, select.EPOLLOUT | select.EPOLLET)
        self._used_monitors.append(monitor)
        monitor.poll(0)
        return monitor

    def put_back(self, monitor: select.epoll) -> None:
        """Return a monitor that is not needed any more."""
        with contextlib.suppress(ValueError):  # more than MAX_POOLED_MONITORS were used since
            self._used_monitors.remove(monitor)
        self._monitors.append(monitor)

    def advance(self, events: list[tuple[int, int]]) -> None:
        """Do the remaining steps after a poll of a monitor that returned `events`."""
        if len(events) == 1 and events[0][0] == self._activity.fileno():
            self.parse()  # another thread has read: the pipes are empty
        else:
            self.pump()

    def pump(self) -> None:
        """Read and write what the pipes have and take now, and parse the messages."""
        if self._close_reasons:
            self._close_pipes()
        else:
            for descriptor, event in self._poll.poll(0):
                self._handle_event(descriptor, event)
            if self._unsent:
                self._flush()
        self.parse()

    def parse(self) -> None:
        """Make messages of the bytes that have been read."""
        while self._received:
            with contextlib.suppress(IndexError, ValueError):  # another call did it
                chunk = self._received[0]
                data, buffer, length = chunk
                read: bytes = buffer[: max(0, length)]  # type: ignore[index,call-overload]
                atomically(
                    partial(self._received.index, chunk, 0, 1),
                    partial(data.extend, read),  # type: ignore[attr-defined]
                    self._received.popleft,
                )
        self._reply_stream.parse()
        self._notification_stream.parse()
        if len(self.notifications) > MAX_UNREAD_CHANGES and not self._close_reasons:
            self._finish(f"more than {MAX_UNREAD_CHANGES} changes were not taken by the program")

    def end(self, reason: str) -> None:
        """End the session, after reading what the server has already written."""
        for descriptor in (self._responses, self._notifications):
            while self._receive(descriptor) > 0:
                pass
        self.parse()
        self._finish(reason)

    def close(self) -> None:
        """Close and remove the pipes, whatever the server does. Idempotent.

        After an exception in it, a second call or the garbage collector does the rest.
        """
        self._finish("the session was closed")
        self._close()
        self._monitors.clear()
        self._finalizer.detach()

    def abort(self) -> None:
        """Free the memory in a forked child; the parent continues to use the session."""
        self._finalizer.detach()
        self._poll.close()  # closes the child's descriptor alone
        self._monitors.clear()
        self._received.clear()
        self._unsent.clear()
        self.replies.clear()
        self.notifications.clear()

    # Reading and writing.

    def _handle_event(self, descriptor: int, event: int) -> None:
        if descriptor in {self._responses, self._notifications}:
            if self._receive(descriptor) == 0:
                self._on_peer_closed(descriptor)
        elif event & (select.EPOLLERR | select.EPOLLHUP):
            self._on_peer_closed(descriptor)
        else:
            self._flush()
            if not self._unsent:
                self._watch_requests(0)

    def _receive(self, descriptor: int) -> int:
        """Read from a pipe; return the number of bytes, 0 at its end, -1 if it is empty."""
        stream = self._reply_stream if descriptor == self._responses else self._notification_stream
        buffer = ctypes.create_string_buffer(fifos.READ_BYTES)
        chunk: deque[object] = deque((stream.data, buffer))
        size = ctypes.c_size_t(fifos.READ_BYTES)
        read = starmap(_libc.read, ((descriptor, buffer, size),))
        try:
            atomically(
                partial(self._open.index, descriptor),
                partial(chunk.extend, read),
                partial(self._received.append, chunk),
                self._activity.wake_step,
            )
        except ValueError:
            return -1
        result = chunk[2]
        return result if isinstance(result, int) else -1

    def _flush(self) -> None:
        while self._unsent:
            with contextlib.suppress(IndexError, ValueError):  # another call wrote it
                piece = self._unsent[0]
                size = ctypes.c_size_t(len(piece))
                write = starmap(_libc.write, ((self._requests, piece, size),))
                written = map(operator.gt, write, repeat(0))
                remove = map(operator.delitem, repeat(self._unsent), compress((0,), written))
                try:
                    atomically(
                        partial(self._open.index, self._requests),
                        partial(self._unsent.index, piece, 0, 1),
                        partial(exhaust, remove),
                    )
                except ValueError:
                    if self._requests not in self._open:
                        return
                    continue
                if self._unsent and self._unsent[0] is piece:  # the pipe is full, or broken
                    self._watch_requests(select.EPOLLOUT)
                    return

    def _watch_requests(self, events: int) -> None:
        """Make `fileno` readable at these events of the requests pipe.

        Monitors do not depend on this: they register the requests pipe themselves.
        """
        with contextlib.suppress(OSError):  # it is closed
            self._poll.modify(self._requests, events)

    # The end.

    def _on_peer_closed(self, descriptor: int) -> None:
        """Close a pipe whose other end the server has closed."""
        if self._accepting:
            self.end(CLOSED_BY_SERVER)
            return
        self.parse()
        self._untrack(descriptor)
        if self._notifications not in self._open:
            self.end(CLOSED_BY_SERVER)

    def _finish(self, reason: str) -> None:
        atomically(self._accepting.clear, partial(self._close_reasons.append, reason))
        self._close_pipes()

    def _close_pipes(self) -> None:
        for descriptor in (self._requests, self._responses, self._notifications):
            self._untrack(descriptor)
        # Now `fileno` stays readable: else a thread that polls it would block forever.
        with contextlib.suppress(FileExistsError):
            self._poll.register(self._activity.fileno(), select.EPOLLIN)
        self._activity.wake()

    def _track(self, descriptor: int) -> int:
        self._open.append(descriptor)
        return descriptor

    def _untrack(self, descriptor: int) -> None:
        if descriptor in self._open:
            with contextlib.suppress(OSError):  # it was unregistered, but not closed
                self._poll.unregister(descriptor)  # close(2) does not, if a child has it too
            forks.close_once(self._open, descriptor)


def _open_for_reading(path: bytes) -> int:
    fifo = fifos.Fifo.open_path(path)
    try:
        return fifo.open_for_reading()
    finally:
        fifo.close()


def _close(descriptors: deque[int], pipes: ClientPipes, groups: Iterable[forks.Group]) -> None:
    pipes.remove()
    for descriptor in list(descriptors):
        forks.close_once(descriptors, descriptor)
    for group in groups:
        forks.stop_closing_group(group)
