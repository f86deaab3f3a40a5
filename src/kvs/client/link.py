"""The bytes of a session, moved without ever waiting for them.

Laws:

- Whatever is waited for, notifications are read as they come: a server that cannot write them
  would stand still, or give the client up.
- Nothing is waited for but in `Link.wait`, which changes nothing: so one thread can wait while
  others look at what came.
- When the server closes a pipe the session is over, but what it had written before is still read.
"""

import contextlib
import os
import select
import weakref
from collections import deque

from kvs.client.place import Place
from kvs.wire import fifos, frames
from kvs.wire.replies import Change, Executed, Notifications, Replies, Reply

MOST_KEPT = 1 << 20
"""So many changes are kept for who does not take them; beyond, the session is ended."""

SENT_BYTES = 1 << 16
"""Bytes written at a time: what a pipe holds by default (pipe(7))."""

LONGEST_WAIT_SECONDS = 3600.0
"""Longer waits are made of several: poll(2) takes no more than some 24 days."""

CLOSED = "the server closed the session"

Events = list[tuple[int, int]]


class Link:
    """The three pipes of a session, at the client. For one thread, but for what says otherwise."""

    def __init__(self, place: Place) -> None:
        self.replies: deque[Reply | Executed] = deque()
        """What the server answered, in order; to be taken from the left."""
        self.changes: deque[Change] = deque()
        """What the server told, in order; to be taken from the left, by any thread."""
        self.ended: str | None = None
        """Why the session is over; nothing more comes then."""
        self.silent = False
        """Whether no more replies can come."""
        self._place = place
        self._own = fifos.Fifo.at(place.connect.requests)
        self._poll = select.epoll()
        self._requests = -1
        self._leaving = False
        self._unsent = bytearray()
        self._reply_parser = Replies()
        self._change_parser = Notifications()
        self._open: set[int] = {self._own.handle}
        self.close = weakref.finalize(self, _close, self._poll, self._open, place)
        """Close and remove the pipes, whatever the server may think; a second time does nothing."""
        self._responses = self._kept(_open_for_reading(place.connect.responses))
        self._notifications = self._kept(_open_for_reading(place.connect.notifications))
        self._waker = self._kept(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
        for descriptor in (self._responses, self._notifications, self._waker):
            self._poll.register(descriptor, select.EPOLLIN)

    def fileno(self) -> int:
        """Return a descriptor that can be read from (poll(2)) while `handle` has work to do."""
        return self._poll.fileno()

    # Requests.

    def open_requests(self) -> bool:
        """Open the requests pipe, once there is a server that reads it; tell whether it is open.

        Raises:
            OSError: the pipe cannot be opened.

        """
        if self._requests < 0 and (descriptor := self._own.open_for_writing()) is not None:
            self._requests = self._kept(descriptor)
            self._poll.register(descriptor, 0)
        return self._requests >= 0

    @property
    def requests_are_open(self) -> bool:
        """Whether the requests pipe is open."""
        return self._requests >= 0

    def send(self, frame: bytes) -> None:
        """Send a request; what the pipe does not take at once is sent by `handle`."""
        if self.ended is None and not self._leaving:
            self._leaving = frame[0] == frames.DISCONNECT
            self._unsent += frame
            self._flush()

    def hang_up(self) -> None:
        """Close the requests pipe: the server takes it for the end of the session."""
        self._forget(self._requests)

    # What the server sends.

    def wait(self, seconds: float | None) -> Events:
        """Wait until there is something to be handled; return it. Any thread, one at a time."""
        return self._poll.poll(seconds)

    def wake(self) -> None:
        """Let `wait` come back. Any thread."""
        os.eventfd_write(self._waker, 1)

    def handle(self, events: Events) -> None:
        """Read and write what can be, after `wait` returned `events`."""
        for descriptor, event in events:
            if descriptor not in self._open:
                continue
            if descriptor == self._requests:
                if event & (select.EPOLLERR | select.EPOLLHUP):
                    self._lost(descriptor)
                else:
                    self._flush()
            elif descriptor == self._waker:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(descriptor)
            elif self._read(descriptor) == b"":
                self._lost(descriptor)

    def pump(self) -> None:
        """Handle what is there now."""
        if self.ended is None:
            self.handle(self.wait(0))

    def end(self, reason: str) -> None:
        """End the session, after what the server has already written."""
        if self.ended is None:
            for descriptor in (self._responses, self._notifications):
                while descriptor in self._open and self._read(descriptor):
                    pass
            self.ended = reason
            self.silent = True
            for descriptor in (self._requests, self._responses, self._notifications):
                self._forget(descriptor)
            self.wake()  # whoever waits for these pipes would wait for ever

    # Below.

    def _read(self, descriptor: int) -> bytes | None:
        data = fifos.read(descriptor)
        if data and descriptor == self._responses:
            self._reply_parser.feed(data)
            while (reply := self._reply_parser.next()) is not None:
                self.replies.append(reply)
        elif data:
            self.changes.extend(self._change_parser.feed(data))
            if len(self.changes) > MOST_KEPT and self.ended is None:
                self.ended = f"more than {MOST_KEPT} changes came that nobody took"
                self.silent = True
                self.hang_up()
        return data

    def _flush(self) -> None:
        try:
            while self._unsent and (
                taken := fifos.write(self._requests, bytes(self._unsent[:SENT_BYTES]))
            ):
                del self._unsent[:taken]
        except BrokenPipeError:
            self._lost(self._requests)
        else:
            self._poll.modify(self._requests, select.EPOLLOUT if self._unsent else 0)

    def _lost(self, descriptor: int) -> None:
        """Take note that the server has closed its end of a pipe."""
        if not self._leaving:
            self.end(CLOSED)
            return
        self._forget(descriptor)
        self.silent = self._responses not in self._open
        if self._notifications not in self._open:
            self.end(CLOSED)

    def _kept(self, descriptor: int) -> int:
        self._open.add(descriptor)
        return descriptor

    def _forget(self, descriptor: int) -> None:
        if descriptor in self._open:
            self._open.discard(descriptor)
            self._poll.unregister(descriptor)  # close(2) does not, if a forked child has it too
            os.close(descriptor)


def _open_for_reading(path: bytes) -> int:
    fifo = fifos.Fifo.at(path)
    try:
        return fifo.open_for_reading()
    finally:
        fifo.close()


def _close(poll: select.epoll, descriptors: set[int], place: Place) -> None:
    place.remove()
    poll.close()
    while descriptors:
        os.close(descriptors.pop())
