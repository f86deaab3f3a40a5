"""Opens the server's ends of a client's pipes, without blocking, as the client opens its own.

Clients open their pipes with blocking opens, in an order of their own. So the server opens requests
for reading at once, which needs no writer. It opens responses and notifications for writing once
the client has them open for reading; until then open(2) fails with ENXIO. For the kernel, a client
that is blocked in open(2) has the pipe open, in both directions.
"""

from dataclasses import dataclass, field

from kvs.posix import fifos
from kvs.posix.fifos import Fifo, Identity
from kvs.server.loop import IN, EventLoop, Ready
from kvs.server.pipes import ConnectedPipes

OPEN_TIMEOUT_SECONDS = 5.0
"""Seconds for which the server waits for a client to open the next of its pipes."""


class RequestsReader:
    """The server's end of a requests pipe. For the loop's thread."""

    def __init__(self, pipe: Fifo) -> None:
        """Open `pipe` for reading.

        Raises:
            OSError: the pipe cannot be opened.

        """
        self.identity = pipe.identity
        self.descriptor = pipe.open_for_reading()
        self._ahead = b""
        """A byte that `has_writer` has read, for `read`."""
        self._loop: EventLoop | None = None
        """The loop that watches the descriptor, if any."""

    def has_writer(self) -> bool:
        """Return whether a client has the pipe open for writing, or has had it open.

        Only read(2) shows this: EAGAIN with a writer, 0 bytes without. A byte that it returns is
        saved for `read`.
        """
        if self._ahead:
            return True
        data = fifos.read(self.descriptor, 1)
        if data:
            self._ahead = data
        return data != b"" or fifos.has_hung_up(self.descriptor)

    @property
    def is_ahead(self) -> bool:
        """Whether a byte was read that `read` has not returned; epoll(7) does not report it."""
        return self._ahead != b""

    def read(self, size: int = fifos.READ_BYTES) -> bytes | None:
        """Read up to `size` bytes, as `fifos.read` does, after a byte that was read ahead."""
        ahead, self._ahead = self._ahead, b""
        data = fifos.read(self.descriptor, size)
        return ahead + data if data else ahead or data

    def watch(self, loop: EventLoop, ready: Ready) -> None:
        """Call `ready` with the events of the pipe, until `unwatch`. Idempotent."""
        if self._loop is None:
            loop.register(self.descriptor, IN, ready)
            self._loop = loop

    def unwatch(self) -> None:
        """Call the function given to `watch` no more. Idempotent."""
        if self._loop is not None:
            self._loop.unregister(self.descriptor)
            self._loop = None

    def close(self) -> None:
        """Close the pipe, which must not be watched."""
        fifos.close(self.descriptor)


@dataclass
class Handover:
    """Open ends of pipes, from `kvs.server.unblock` to a new connect of the client."""

    requests: RequestsReader | None = None
    ends: dict[Identity, int] = field(default_factory=dict)
    """Descriptors to write to, by identity of the pipe."""

    @property
    def is_empty(self) -> bool:
        """Whether no end was handed over."""
        return self.requests is None and not self.ends

    def close(self) -> None:
        """Close the ends that were not taken over."""
        if self.requests is not None:
            self.requests.close()
            self.requests = None
        while self.ends:
            fifos.close(self.ends.popitem()[1])


class Handshake:
    """The server's ends of one client's pipes, as far as they are open. For the loop's thread.

    Owns the handles of `pipes`, and each descriptor that was opened until `take` returns it.
    """

    def __init__(self, pipes: ConnectedPipes, handover: Handover | None = None) -> None:
        """Open requests for reading, unless it is in `handover`; take over the ends in `handover`.

        Raises:
            OSError: requests cannot be opened; `pipes` was not closed.

        """
        self.pipes = pipes
        self.requests = _reader(pipes.requests, handover)
        self.requests_opened = False
        """Whether the client has opened requests for writing."""
        pipes.requests.close()
        self.unopened = [pipes.responses, pipes.notifications]
        """The pipes, of responses and notifications, that the client has not opened yet."""
        self._opened: dict[Fifo, int] = {}
        for pipe in tuple(self.unopened):
            if handover is not None and pipe.identity in handover.ends:
                self._take_over(pipe, handover.ends.pop(pipe.identity))

    @property
    def is_complete(self) -> bool:
        """Whether the client has opened all three pipes."""
        return self.requests_opened and not self.unopened

    @property
    def is_started(self) -> bool:
        """Whether the client has opened at least one pipe."""
        return self.requests_opened or len(self.unopened) < 2

    @property
    def missing(self) -> str:
        """Names of the pipes that the client has not opened, for the log."""
        pipes = self.pipes
        names = [] if self.requests_opened else ["requests"]
        names += ["responses"] if pipes.responses in self.unopened else []
        names += ["notifications"] if pipes.notifications in self.unopened else []
        return " and ".join(names)

    def attempt(self) -> bool:
        """Open the pipes that the client has opened by now; return whether there are new ones.

        Raises:
            OSError: a pipe cannot be opened, and no other one was opened.

        """
        progress = False
        try:
            for pipe in tuple(self.unopened):
                descriptor = pipe.open_for_writing()
                if descriptor is not None:
                    self._take_over(pipe, descriptor)
                    progress = True
        except OSError:
            if not progress:
                raise
        if not self.requests_opened and self.requests.has_writer():
            self.requests_opened = progress = True
        return progress

    def take(self, pipe: Fifo) -> int | None:
        """Return the descriptor to write to `pipe`, once. The caller closes it."""
        return self._opened.pop(pipe, None)

    def split(self) -> tuple[RequestsReader | None, list[Fifo]]:
        """Close the pipes that the client has opened; return the others for the caller to close."""
        requests = None if self.requests_opened else self.requests
        unopened, self.unopened = self.unopened, []
        if requests is None:
            self.requests.close()
        self._close_opened()
        return requests, unopened

    def close(self) -> None:
        """Close every end that `take` has not returned."""
        requests, unopened = self.split()
        if requests is not None:
            requests.close()
        for pipe in unopened:
            pipe.close()

    def _close_opened(self) -> None:
        while self._opened:
            fifos.close(self._opened.popitem()[1])

    def _take_over(self, pipe: Fifo, descriptor: int) -> None:
        self._opened[pipe] = descriptor
        self.unopened.remove(pipe)
        pipe.close()


def _reader(pipe: Fifo, handover: Handover | None) -> RequestsReader:
    if handover is not None and handover.requests is not None:
        reader, handover.requests = handover.requests, None
        if reader.identity == pipe.identity:
            return reader
        reader.close()
    return RequestsReader(pipe)
