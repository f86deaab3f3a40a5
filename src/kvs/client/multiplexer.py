"""Requests and replies of any number of threads over one link, with no thread of its own.

A waiting thread moves the bytes of all: it polls the link, and what it reads for another thread
wakes that one (`kvs.client.transport`). There is no lock and no leader, so an exception or a nested
call at any instruction, from a signal handler or a finalizer, holds up nobody.

Invariants:

- Replies come in the order of the requests; one that does not fit ends the session. A call that is
  interrupted leaves its place in that order, so that the next one gets its own reply.
- A forked child must not touch the link: it belongs to the parent.
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from kvs.client.changes import decode_change
from kvs.client.transport import MAX_POLL_SECONDS, Transport
from kvs.concurrency import forks
from kvs.concurrency.atomic import atomically
from kvs.concurrency.noncopyable import NonCopyable
from kvs.errors import SessionClosedError
from kvs.protocol import frames
from kvs.protocol.replies import ExecuteReply, Reply
from kvs.store.subscriptions import Change

DISCONNECT_TIMEOUT_SECONDS = 2.0
"""How long `close` waits for the server's answer to the disconnect, and for the end."""

UNEXPECTED_REPLY = "what the server answered is no answer to what it was asked"


@dataclass(eq=False, slots=True)
class _Call:
    """A request that has been sent."""

    operation: int
    replies: list[Reply | ExecuteReply] = field(default_factory=list)
    """Empty until the request is answered."""


class RequestMultiplexer(NonCopyable):
    """One link, shared by any number of threads, signal handlers and finalizers."""

    def __init__(self, link: Transport) -> None:
        self.link = link
        self._generation = forks.generation()
        self._calls: deque[_Call] = deque()
        """What is not answered yet, in order."""
        self.closed = False
        """Whether `close` was called."""

    @property
    def inherited(self) -> bool:
        """Whether this process is a forked child, and the session belongs to its parent."""
        return forks.generation() != self._generation

    @property
    def is_closed(self) -> bool:
        """Whether it is closed, and all changes have been taken."""
        return self.closed and self.link.close_reason is not None and not self.link.changes

    def check_open(self) -> None:
        """Check that the session can be used.

        Raises:
            InheritedByForkError: this process is a forked child.
            SessionClosedError: the session was closed.

        """
        self.check_process()
        if self.closed:
            raise self._closed_error()

    def check_process(self) -> None:
        """Check that the session belongs to this process.

        Raises:
            InheritedByForkError: this process is a forked child.

        """
        if self.inherited:
            raise forks.inherited_error()

    def request(self, frame: bytes) -> Reply | ExecuteReply:
        """Send a request; return the answer to it.

        Raises:
            InheritedByForkError: this process is a forked child.
            SessionClosedError: none will come.

        """
        self.check_open()
        call = self._send(frame)
        if call is None:
            raise self._closed_error()
        self._wait(lambda: call.replies or self.link.replies_closed, None)
        self._deliver()  # another thread may have read the reply just before the end
        if not call.replies:
            raise self._closed_error()
        return call.replies[0]

    def next_change(self, timeout: float | None) -> Change | None:
        """Take the next change; None if none came in time, or none will since `close`.

        Raises:
            InheritedByForkError: this process is a forked child.
            SessionClosedError: the server ended the session, and all that it told has been taken.

        """
        self.check_process()
        changes = self.link.changes
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with contextlib.suppress(IndexError):
                return decode_change(changes.popleft())
            if not self._wait(lambda: changes or self.link.close_reason is not None, deadline):
                return None
            if not changes and self.link.close_reason is not None:
                if self.closed:
                    return None
                raise self._closed_error()

    def close(self) -> None:
        """Disconnect from the server, for some seconds at most, and remove the pipes. Idempotent.

        In a forked child it frees the child's memory alone.
        """
        if self.inherited:
            self.closed = True
            self._calls.clear()
            self.link.abort()
            return
        first, self.closed = not self.closed, True
        try:
            if first and not self._calls:  # an answer that others wait for would come first
                self._disconnect()
        finally:
            self.link.end("the session was closed")
            self.link.close()

    def _disconnect(self) -> None:
        deadline = time.monotonic() + DISCONNECT_TIMEOUT_SECONDS
        call = self._send(bytes([frames.DISCONNECT]))
        if call is not None:
            self._wait(lambda: call.replies or self.link.replies_closed, deadline)
            self.link.close_requests()
            self._wait(lambda: self.link.close_reason is not None, deadline)

    def _send(self, frame: bytes) -> _Call | None:
        call = _Call(frame[0])
        return call if self.link.send(frame, partial(self._calls.append, call)) else None

    def _wait(self, enough: Callable[[], object], deadline: float | None) -> bool:
        """Move bytes until it is `enough`, or time; tell which. Looks at least once."""
        monitor = self.link.monitor()
        try:
            left: float | None = None
            events: list[tuple[int, int]] = []
            while True:
                self.check_process()
                if enough():
                    return True  # another thread did it
                self.link.advance(events)
                self._deliver()
                if enough():
                    return True
                if deadline is not None:
                    left = min(deadline - time.monotonic(), MAX_POLL_SECONDS)
                    if left <= 0:
                        return False
                try:
                    events = monitor.poll(left)
                except (OSError, ValueError):  # a signal handler forked: it is closed in the child
                    self.check_process()
                    raise
        finally:
            self.link.put_back(monitor)

    def _deliver(self) -> None:
        replies, calls = self.link.replies, self._calls
        while replies:
            with contextlib.suppress(IndexError, ValueError):  # another call did it
                reply = replies[0]
                operation = frames.EXECUTE if isinstance(reply, ExecuteReply) else reply.operation
                call = calls[0] if calls else None
                if call is not None and call.operation == operation:
                    atomically(
                        partial(calls.index, call, 0, 1),
                        calls.popleft,
                        replies.popleft,
                        partial(call.replies.append, reply),
                    )
                elif replies[0] is reply:  # `call` was the first while `reply` was
                    self.link.end(UNEXPECTED_REPLY)
                    replies.clear()

    def _closed_error(self) -> SessionClosedError:
        if self.closed:
            return SessionClosedError("the session is closed")
        return SessionClosedError(self.link.close_reason or "the server closed the session")
