"""Requests and changes of any number of threads over one transport, without a thread of its own.

A waiting thread moves the bytes for all threads: it polls the transport, and a message that it
reads for another thread wakes that thread (`kvs.client.transport`). There is no lock and no leader,
so an exception or a nested call at any instruction, from a signal handler or a finalizer, blocks no
other thread.

Invariants:

- A forked child must not touch the transport: it belongs to the parent.
"""

import time
from collections.abc import Callable

from kvs.client.conversation import (
    DISCONNECT_TIMEOUT_SECONDS,
    Conversation,
    PendingRequest,
    Request,
)
from kvs.client.transport import MAX_POLL_SECONDS, Transport
from kvs.concurrency import forks
from kvs.concurrency.resources import NonCopyable
from kvs.errors import SessionClosedError
from kvs.protocol.replies import ExecuteReply, Reply
from kvs.protocol.requests import Disconnect
from kvs.store.watch import Change


class RequestMultiplexer(NonCopyable):
    """One transport, shared by any number of threads, signal handlers and finalizers."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.conversation = Conversation(transport.replies, transport.notifications)
        self._generation = forks.generation()
        self.closed = False
        """Whether `close` was called."""

    @property
    def inherited(self) -> bool:
        """Whether this process is a forked child, and the session belongs to its parent."""
        return forks.generation() != self._generation

    @property
    def is_drained(self) -> bool:
        """Whether `close` has ended the session, and all changes have been taken."""
        return self.closed and self._has_ended and not self.conversation.has_changes

    @property
    def _has_ended(self) -> bool:
        return self.transport.close_reason is not None

    def check_open(self) -> None:
        """Check that the session can be used.

        Raises:
            InheritedByForkError: this process is a forked child.
            SessionClosedError: `close` was called.

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

    def request(self, request: Request) -> Reply | ExecuteReply:
        """Send a request; block until its reply arrives, and return the reply.

        Raises:
            InheritedByForkError: this process is a forked child.
            SessionClosedError: the session ended before the reply arrived.

        """
        self.check_open()
        pending = self._send(request)
        if pending is None:
            raise self._closed_error()
        self._wait(lambda: pending.replies or self.transport.replies_closed, None)
        self._assign_replies()  # another thread may have read the reply just before the end
        if pending.reply is None:
            raise self._closed_error()
        return pending.reply

    def next_change(self, timeout: float | None) -> Change | None:
        """Remove and return the next change.

        None if none arrived within `timeout` seconds, or after `close`.

        Raises:
            InheritedByForkError: this process is a forked child.
            SessionClosedError: the server ended the session, and all changes have been taken.

        """
        self.check_process()
        conversation = self.conversation
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            if (change := conversation.take_change()) is not None:
                return change
            if not self._wait(lambda: conversation.has_changes or self._has_ended, deadline):
                return None
            if self._has_ended and not conversation.has_changes:
                if self.closed:
                    return None
                raise self._closed_error()

    def close(self) -> None:
        """Disconnect, with a time limit, and remove the pipes. Idempotent.

        In a forked child it only frees the child's memory.
        """
        if self.inherited:
            self.closed = True
            self.conversation.abort()
            self.transport.abort()
            return
        is_first, self.closed = not self.closed, True
        try:
            if is_first and self.conversation.is_idle:  # else a pending reply would come first
                self._disconnect()
        finally:
            self.transport.end("the session was closed")
            self.transport.close()

    def _disconnect(self) -> None:
        deadline = time.monotonic() + DISCONNECT_TIMEOUT_SECONDS
        pending = self._send(Disconnect())
        if pending is not None:
            self._wait(lambda: pending.replies or self.transport.replies_closed, deadline)
            self.transport.close_requests()
            self._wait(lambda: self._has_ended, deadline)

    def _send(self, request: Request) -> PendingRequest | None:
        return self.conversation.send(request, self.transport.send)

    def _wait(self, is_done: Callable[[], object], deadline: float | None) -> bool:
        """Move bytes until `is_done()`, or until the deadline; return whether it is done.

        The pipes are looked at once even if the deadline has passed.
        """
        monitor = self.transport.monitor()
        try:
            remaining: float | None = None
            events: list[tuple[int, int]] = []
            while True:
                self.check_process()
                if is_done():
                    return True  # another thread moved the bytes
                self.transport.advance(events)
                self._assign_replies()
                if is_done():
                    return True
                if deadline is not None:
                    remaining = min(deadline - time.monotonic(), MAX_POLL_SECONDS)
                    if remaining <= 0:
                        return False
                try:
                    events = monitor.poll(remaining)
                except (OSError, ValueError):  # a signal handler forked: it is closed in the child
                    self.check_process()
                    raise
        finally:
            self.transport.put_back(monitor)

    def _assign_replies(self) -> None:
        reason = self.conversation.assign_replies()
        if reason is not None:
            self.transport.end(reason)
            self.conversation.discard_replies()

    def _closed_error(self) -> SessionClosedError:
        if self.closed:
            return SessionClosedError("the session is closed")
        return self.transport.closed_error()
