"""Requests and replies of any number of threads over one link, with no thread of its own.

Laws:

- Whoever waits, for a reply or for changes, moves the bytes of all: one waiting thread leads, waits
  for the pipes and hands out what came; the others wait for it, and one of them takes over when it
  has what it wanted.
- Replies come in the order of the requests; one that does not fit ends the session. A caller that
  is interrupted leaves its place in that order, so that the next gets its own.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition, Lock

from kvs.client.changes import change_from
from kvs.client.link import LONGEST_WAIT_SECONDS, Events, Link
from kvs.errors import SessionEnded
from kvs.watch import Change
from kvs.wire import frames
from kvs.wire.replies import Executed, Reply

LEAVE_SECONDS = 2.0
"""How long a session that is closed waits for the server to see it off."""

MISFIT = "what the server answered is no answer to what it was asked"


@dataclass(eq=False, slots=True)
class _Call:
    """A request that has been sent."""

    operation: int
    reply: Reply | Executed | None = None


class Exchange:
    """One link, shared by any number of threads."""

    def __init__(self, link: Link) -> None:
        self._moved = Condition(Lock())
        """Guards all that follows, but for the taking of changes; told when bytes have moved."""
        self._link = link
        self._leading = False
        """Whether a thread waits for the pipes, outside the lock."""
        self._calls: deque[_Call] = deque()
        """What is not answered yet, in order."""
        self._listeners: list[Callable[[], object]] = []
        self.closed = False
        """Whether `close` was called."""

    @property
    def over(self) -> bool:
        """Whether it is closed, and all changes have been taken."""
        return self.closed and self._link.ended is not None and not self._link.changes

    def fileno(self) -> int:
        """Return a descriptor that can be read from (poll(2)) when the server has sent something.

        Raises:
            SessionEnded: the session was closed.

        """
        with self._moved:
            if self.closed:
                raise self._over()
            return self._link.fileno()

    def ask(self, frame: bytes) -> Reply | Executed:
        """Send a request; return the answer to it.

        Raises:
            SessionEnded: none will come.

        """
        with self._moved:
            if self.closed or self._link.ended is not None:
                raise self._over()
            call = self._send(frame)
            self._wait(lambda: call.reply is not None or self._link.silent, None)
            if call.reply is None:
                raise self._over()
            return call.reply

    def next_change(self, timeout: float | None) -> Change | None:
        """Take the next change; None if none came in time, or none will since `close`.

        Raises:
            SessionEnded: the server ended the session, and all that it told has been taken.

        """
        changes = self._link.changes
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                return change_from(changes.popleft())  # atomic, it needs no lock
            except IndexError:
                pass
            with self._moved:
                if not self._wait(lambda: bool(changes) or self._link.ended is not None, deadline):
                    return None
                if not changes:
                    if self.closed:
                        return None
                    raise self._over()

    def listen(self, listener: Callable[[], object]) -> None:
        """Have `listener` called, by any thread, whenever bytes have moved."""
        with self._moved:
            self._listeners.append(listener)

    def forget(self, listener: Callable[[], object]) -> None:
        """Have it called no more."""
        with self._moved:
            self._listeners.remove(listener)

    def close(self) -> None:
        """Take leave of the server, for some seconds at most, and remove the pipes."""
        with self._moved:
            if self.closed:
                return
            self.closed = True
            try:
                if not self._calls:  # an answer that others wait for would come first
                    self._leave()
            finally:
                self._link.end("the session was closed")
                while self._leading:
                    self._link.wake()
                    self._moved.wait()
                self._link.close()
                self._moved.notify_all()
                self._tell()

    # Below, the lock is held.

    def _leave(self) -> None:
        deadline = time.monotonic() + LEAVE_SECONDS
        call = self._send(bytes([frames.DISCONNECT]))
        self._wait(lambda: call.reply is not None or self._link.silent, deadline)
        self._link.hang_up()
        self._wait(lambda: self._link.ended is not None, deadline)

    def _send(self, frame: bytes) -> _Call:
        call = _Call(frame[0])
        self._calls.append(call)
        self._link.send(frame)
        self._deliver()  # the pipe may have broken, with answers in it
        return call

    def _wait(self, enough: Callable[[], bool], deadline: float | None) -> bool:
        """Move bytes until it is `enough`, or time; tell which. Looks at least once."""
        left: float | None = None
        while not enough():
            if left == 0:
                return False
            if deadline is not None:
                left = min(max(0.0, deadline - time.monotonic()), LONGEST_WAIT_SECONDS)
            if self._leading:
                self._moved.wait(left)
            else:
                self._lead(left)
        return True

    def _lead(self, seconds: float | None) -> None:
        self._leading = True
        events: Events = []
        try:
            self._moved.release()
            try:
                events = self._link.wait(seconds)
            finally:
                self._moved.acquire()
        finally:
            self._leading = False
            self._link.handle(events)
            self._deliver()
            self._moved.notify_all()
            if events:
                self._tell()

    def _deliver(self) -> None:
        while self._link.replies:
            reply = self._link.replies.popleft()
            operation = frames.EXECUTE if isinstance(reply, Executed) else reply.operation
            call = self._calls.popleft() if self._calls else None
            if call is None or call.operation != operation:
                self._link.end(MISFIT)
                self._link.replies.clear()
            else:
                call.reply = reply

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()

    def _over(self) -> SessionEnded:
        if self.closed:
            return SessionEnded("the session is closed")
        return SessionEnded(self._link.ended or "the server closed the session")
