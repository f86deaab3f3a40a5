"""The bytes of a session, moved without ever waiting for them.

Any thread, signal handler and finalizer may call any method at any time, also within another one of
the same thread, and an exception at any instruction leaves the link usable. So there is no lock.
Each step below is one call into C (`kvs.concurrency.atomic`), computed from a state that its first
part checks; when another call was faster, the step is computed again:

1. `send` appends a request to the unsent bytes, whole.
2. `_flush` writes a piece of them and removes it.
3. `_receive` reads from a pipe and appends what came to `_received`, in the order of the pipe.
4. `_sort` appends that to the bytes of its kind (`_Stream`).
5. `_Stream.take` makes messages of those bytes and removes them.

Steps 2 and 3 must not release the interpreter's lock between the system call and the record of its
result, so they call read(2) and write(2) by `ctypes.PyDLL`, which keeps it. The descriptors do not
block.

Waits: a waiting thread polls an epoll instance of its own (`monitor`). A call of `pump` by any
thread may take what another one waits for. So step 3 also adds to an eventfd, and every monitor has
it registered edge-triggered (EPOLLET): each addition wakes each monitor once, even one that is not
polled yet. A woken thread executes all steps that are left, so nobody depends on the thread that
read the bytes.

Invariants:

- Notifications are read as they come, whatever is waited for: a server that cannot write them would
  end the session.
- When the server closes a pipe the session is over, but what it had written before is still read.
- A descriptor is in `_open` until the call that closes it, and no step uses one that is not: its
  number may mean another file by then.
"""

import contextlib
import ctypes
import operator
import os
import select
import struct
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from itertools import compress, repeat, starmap
from typing import Generic, TypeVar

from kvs.client.pipes import ClientPipes
from kvs.concurrency import forks
from kvs.concurrency.atomic import Step, atomically, exhaust
from kvs.concurrency.noncopyable import NonCopyable
from kvs.posix import fifos
from kvs.protocol import frames
from kvs.protocol.replies import (
    ExecuteReply,
    Notification,
    Reply,
    parse_notifications,
    parse_replies,
)

MAX_UNREAD_CHANGES = 1 << 20
"""Maximum changes that are buffered for a program that does not take them."""

PIECE_BYTES = select.PIPE_BUF
"""Bytes written at a time: a pipe takes so many whole or not at all (pipe(7))."""

MAX_POLL_SECONDS = 3600.0
"""Longer waits are made of several: poll(2) takes no more than some 24 days."""

MAX_POOLED_MONITORS = 64
"""Maximum epoll instances that are held though an exception came before they were put back."""

CLOSED = "the server closed the session"

_libc = ctypes.PyDLL(None)
_PERMIT = object()

Message = TypeVar("Message")


class _Stream(Generic[Message]):
    """The bytes of one pipe of which no message has been made yet. Any thread."""

    def __init__(
        self, parse: Callable[[bytearray], tuple[list[Message], int]], messages: deque[Message]
    ) -> None:
        self.data = bytearray()
        self._parse = parse
        self._messages = messages
        self._version = deque([object()])
        """One object, which is replaced when bytes are removed from the start of `data`."""

    def take(self) -> None:
        """Append the whole messages of `data` to `messages`, and remove their bytes."""
        while self.data:
            version = self._version[0]
            try:
                messages, used = self._parse(self.data)
            except (IndexError, struct.error):
                if self._version[0] is version:
                    raise
                continue  # bytes were removed while they were parsed
            if not used and self._version[0] is version:
                return
            with contextlib.suppress(ValueError):
                atomically(
                    partial(self._version.remove, version),
                    partial(self._version.append, object()),
                    partial(operator.delitem, self.data, slice(0, used)),
                    partial(self._messages.extend, iter(messages)),
                )


class _Eventfd:
    """An eventfd(2), which is closed when the last reference is gone."""

    def __init__(self) -> None:
        self._descriptors: deque[int] = deque()
        self._descriptors.extend(map(os.eventfd, (0,), (os.EFD_NONBLOCK | os.EFD_CLOEXEC,)))

    def fileno(self) -> int:
        return self._descriptors[0]

    def __del__(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())


class Transport(NonCopyable):
    """The three pipes of a session, at the client. Any thread, signal handler or finalizer."""

    def __init__(self, place: ClientPipes) -> None:
        self.replies: deque[Reply | ExecuteReply] = deque()
        """What the server answered, in order; to be taken from the left."""
        self.changes: deque[Notification] = deque()
        """Notifications, in order; to be taken from the left."""
        self.place = place
        self._reasons: deque[str] = deque()
        self._accepting = deque([_PERMIT])
        """Empty once no further request may be sent: after a disconnect, or after the end."""
        self._own = fifos.Fifo.open_path(place.connect.requests)
        self._open = deque([self._own.handle])
        """The descriptors that are to be closed."""
        forks.close_group_in_children(self._open)
        self._poll = select.epoll()
        self._moved = _Eventfd()
        """Added to when bytes have been read, and at the end of the session; never read."""
        self._monitors: deque[select.epoll] = deque()
        """Those that no thread uses now."""
        self._used_monitors: deque[select.epoll] = deque(maxlen=MAX_POOLED_MONITORS)
        """Those that threads use, as far as a child has to close them."""
        for group in (self._monitors, self._used_monitors):
            forks.close_group_in_children(group)
        groups = (self._open, self._monitors, self._used_monitors)
        self._close = partial(_close, self._open, place, groups)
        self._finalizer = weakref.finalize(self, self._close)
        self._requests = -1
        self._unsent: deque[bytes] = deque()
        self._received: deque[deque[object]] = deque()
        """For each read(2): the bytes of its kind, the buffer, and the result."""
        self._reply_stream = _Stream(parse_replies, self.replies)
        self._change_stream = _Stream(parse_notifications, self.changes)
        self._responses = self._track(_open_for_reading(place.connect.responses))
        self._notifications = self._track(_open_for_reading(place.connect.notifications))
        for descriptor in (self._responses, self._notifications):
            self._poll.register(descriptor, select.EPOLLIN)

    @property
    def close_reason(self) -> str | None:
        """Why the session is over; nothing more comes then."""
        return self._reasons[0] if self._reasons else None

    @property
    def replies_closed(self) -> bool:
        """Whether no more replies can come."""
        return bool(self._reasons) or self._responses not in self._open

    def fileno(self) -> int:
        """Return a descriptor that can be read from (poll(2)) while `pump` has work to do."""
        return self._poll.fileno()

    # Requests.

    def open_requests(self) -> bool:
        """Open the requests pipe, once there is a server that reads it; tell whether it is open.

        Raises:
            OSError: the pipe cannot be opened.

        """
        if self._requests < 0 and (descriptor := self._own.open_for_writing()) is not None:
            self._requests = self._track(descriptor)
            self._poll.register(descriptor, 0)
        return self._requests >= 0

    @property
    def requests_are_open(self) -> bool:
        """Whether the requests pipe is open."""
        return self._requests >= 0

    def send(self, frame: bytes, *also: Step) -> bool:
        """Send a request, and call the steps `also` with it; return False if it is too late.

        What the pipe does not take at once is written by `pump`. An exception comes before any of
        this, or the request is sent all the same.
        """
        accept = self._accepting.remove if frame[0] == frames.DISCONNECT else self._accepting.index
        pieces = [frame[at : at + PIECE_BYTES] for at in range(0, len(frame), PIECE_BYTES)]
        try:
            atomically(partial(accept, _PERMIT), *also, partial(self._unsent.extend, iter(pieces)))
        except ValueError:
            return False
        self._flush()
        return True

    def close_requests(self) -> None:
        """Close the requests pipe: the server takes it for the end of the session."""
        self._untrack(self._requests)

    # What the server sends.

    def monitor(self) -> select.epoll:
        """Return an epoll instance that wakes its one user whenever there may be something new.

        Poll it only after `pump` was called and did not bring what is waited for. Give it back by
        `requeue`; one that is not is closed by the garbage collector.
        """
        try:
            monitor = self._monitors.pop()
        except IndexError:
            monitor = select.epoll()
            monitor.register(self._poll.fileno(), select.EPOLLIN)
            monitor.register(self._moved.fileno(), select.EPOLLIN | select.EPOLLET)
            if self._requests in self._open:
                with contextlib.suppress(OSError):  # it was closed since
                    monitor.register(self._requests, select.EPOLLOUT | select.EPOLLET)
        self._used_monitors.append(monitor)
        monitor.poll(0)
        return monitor

    def put_back(self, monitor: select.epoll) -> None:
        """End the use of a monitor."""
        with contextlib.suppress(ValueError):  # many others were used since
            self._used_monitors.remove(monitor)
        self._monitors.append(monitor)

    def advance(self, events: list[tuple[int, int]]) -> None:
        """Do what is to be done after a monitor was polled, and reported `events`."""
        if len(events) == 1 and events[0][0] == self._moved.fileno():
            self.sort()  # another thread has read something: the pipes are empty
        else:
            self.pump()

    def pump(self) -> None:
        """Read and write what can be now, and make messages of it."""
        if self._reasons:
            self._drop_pipes()
        else:
            for descriptor, event in self._poll.poll(0):
                self._serve(descriptor, event)
            if self._unsent:
                self._flush()
        self.sort()

    def sort(self) -> None:
        """Make messages of what has been read."""
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
        self._reply_stream.take()
        self._change_stream.take()
        if len(self.changes) > MAX_UNREAD_CHANGES and not self._reasons:
            self._finish(f"more than {MAX_UNREAD_CHANGES} changes came that nobody took")

    def end(self, reason: str) -> None:
        """End the session, after what the server has already written."""
        for descriptor in (self._responses, self._notifications):
            while self._receive(descriptor) > 0:
                pass
        self.sort()
        self._finish(reason)

    def close(self) -> None:
        """Close and remove the pipes, whatever the server does. Idempotent.

        After an exception in it, a second call or the garbage collector does what is left.
        """
        self._finish("the session was closed")
        self._close()
        self._monitors.clear()
        self._finalizer.detach()

    def abort(self) -> None:
        """Free the memory of a link in a forked child, whose parent goes on to use it."""
        self._finalizer.detach()
        self._poll.close()  # closes the child's descriptor alone
        self._monitors.clear()
        self._received.clear()
        self._unsent.clear()
        self.replies.clear()
        self.changes.clear()

    # Below.

    def _serve(self, descriptor: int, event: int) -> None:
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
        """Read what is there; return the number of bytes, 0 at the end, -1 if nothing is there."""
        stream = self._reply_stream if descriptor == self._responses else self._change_stream
        buffer = ctypes.create_string_buffer(fifos.READ_BYTES)
        chunk: deque[object] = deque((stream.data, buffer))
        size = ctypes.c_size_t(fifos.READ_BYTES)
        read = starmap(_libc.read, ((descriptor, buffer, size),))
        try:
            atomically(
                partial(self._open.index, descriptor),
                partial(chunk.extend, read),
                partial(self._received.append, chunk),
                partial(os.eventfd_write, self._moved.fileno(), 1),
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
        """Have `fileno` tell of `events`. Monitors do not depend on it: they have their own."""
        with contextlib.suppress(OSError):  # it is closed
            self._poll.modify(self._requests, events)

    def _on_peer_closed(self, descriptor: int) -> None:
        """Note that the server has closed its end of a pipe."""
        if self._accepting:
            self.end(CLOSED)
            return
        self.sort()
        self._untrack(descriptor)
        if self._notifications not in self._open:
            self.end(CLOSED)

    def _finish(self, reason: str) -> None:
        atomically(self._accepting.clear, partial(self._reasons.append, reason))
        self._drop_pipes()

    def _drop_pipes(self) -> None:
        for descriptor in (self._requests, self._responses, self._notifications):
            self._untrack(descriptor)
        # From now on `fileno` can be read from: whoever waits for it would wait for ever.
        with contextlib.suppress(FileExistsError):
            self._poll.register(self._moved.fileno(), select.EPOLLIN)
        os.eventfd_write(self._moved.fileno(), 1)

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


def _close(descriptors: deque[int], place: ClientPipes, groups: Iterable[forks.Group]) -> None:
    place.remove()
    for descriptor in list(descriptors):
        forks.close_once(descriptors, descriptor)
    for group in groups:
        forks.stop_closing_group(group)
