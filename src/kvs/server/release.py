"""Releases clients that are still blocked in open(2) of a pipe when their session has ended.

For `OPEN_TIMEOUT_SECONDS` the server opens each pipe that the client had not opened as soon as the
client has its end open, and closes the pipe at once. So open(2) returns in the client, which then
reads the end of the pipe. The requests pipe stays open for reading until the client has opened it
for writing.

A client may connect again with the same pipes at any time, and sends its connect before it opens
them. So when a client has opened a pipe, all connects that have arrived must be read before that
pipe is closed, and a pipe that one of them names is handed over to the new connect.
"""

import contextlib
import resource
import time
from collections.abc import Callable, Collection, Iterable
from functools import partial

from kvs.posix import fifos
from kvs.posix.fifos import Fifo
from kvs.server.handshake import Handover, RequestsReader
from kvs.server.loop import EventLoop, Timer

OPEN_TIMEOUT_SECONDS = 5.0
"""Seconds for which the pipes of one client are polled."""

MIN_CLIENTS, MAX_CLIENTS = 8, 1024
"""Bounds of the limit on clients released at a time; over the limit, the oldest is dropped."""

DESCRIPTORS_PER_CLIENT = 3
"""Maximum descriptors that a session or a pending release holds."""

RESERVED_DESCRIPTORS = 128
"""Descriptors for everything but sessions and pending releases."""

MIN_RETRY_SECONDS = 0.001
MAX_RETRY_SECONDS = 0.05
"""Bounds of the seconds between two polls: a quarter of the time since the session ended."""


class PendingRelease:
    """The pipes that one client had not opened. For the loop's thread."""

    def __init__(self, unopened: Iterable[Fifo], requests: RequestsReader | None) -> None:
        """Take over the handles in `unopened` (responses, notifications) and `requests`."""
        self.started_at = time.monotonic()
        self.timer = Timer(None)
        self._unopened = list(unopened)
        self._requests = requests
        self.identities = [pipe.identity for pipe in self._unopened]
        """Identities of the pipes that were taken over."""
        if requests is not None:
            self.identities.append(requests.identity)
        self._opened: dict[Fifo, int] = {}
        """Descriptors of the pipes that the client has opened."""
        self._requests_opened = False
        """Whether the client has opened the requests pipe."""

    @property
    def is_done(self) -> bool:
        """Whether the client cannot be blocked at any of the pipes any more."""
        return not self._unopened and not self._opened and self._requests is None

    def poll(self) -> bool:
        """Open what the client has opened by now; return whether a pipe can be released."""
        for pipe in tuple(self._unopened):
            with contextlib.suppress(OSError):  # no descriptor is free: retried
                descriptor = pipe.open_for_writing()
                if descriptor is not None:
                    self._unopened.remove(pipe)
                    self._opened[pipe] = descriptor
                    pipe.close()
        self._requests_opened = self._requests is not None and self._requests.has_writer()
        return bool(self._opened) or self._requests_opened

    def release(self) -> None:
        """Close the pipes that the client has opened, as found by `poll`."""
        while self._opened:
            fifos.close(self._opened.popitem()[1])
        if self._requests_opened:
            self._close_requests()

    def hand_over(self, identities: Collection[tuple[int, int]], handover: Handover) -> None:
        """Drop the pipes in `identities`; put the ends that are open into `handover`."""
        for pipe in [pipe for pipe in self._unopened if pipe.identity in identities]:
            self._unopened.remove(pipe)
            pipe.close()
        for pipe in [pipe for pipe in self._opened if pipe.identity in identities]:
            handover.ends[pipe.identity] = self._opened.pop(pipe)
        if self._requests is not None and self._requests.identity in identities:
            handover.requests, self._requests = self._requests, None

    def close(self) -> None:
        """Close all pipes."""
        self.timer.cancel()
        self.release()
        for pipe in self._unopened:
            pipe.close()
        self._unopened.clear()
        if self._requests is not None:
            self._close_requests()

    def _close_requests(self) -> None:
        if self._requests is not None:
            self._requests.close()
            self._requests = None


class BlockedOpenReleaser:
    """Releases clients, a limited number at a time. For the loop's thread."""

    def __init__(
        self, loop: EventLoop, max_clients: int, read_connects: Callable[[], None]
    ) -> None:
        """Release at most `max_clients` at a time.

        `read_connects` must read all connects that have arrived, and call `claim` for each.
        """
        self._loop = loop
        self._max_clients = max_clients
        self._read_connects = read_connects
        self._pending: dict[PendingRelease, None] = {}
        """Pending releases, the oldest first."""
        self._by_pipe: dict[tuple[int, int], PendingRelease] = {}

    @property
    def pending(self) -> bool:
        """Whether a release is pending."""
        return bool(self._pending)

    def add(self, unopened: Iterable[Fifo], requests: RequestsReader | None) -> None:
        """Release a client that has not opened these pipes, and take them over."""
        if len(self._pending) >= self._max_clients:
            self.drop_oldest()
        pending = PendingRelease(unopened, requests)
        previous = Handover()
        self.claim(pending.identities, previous)
        previous.close()
        self._pending[pending] = None
        self._by_pipe.update(dict.fromkeys(pending.identities, pending))
        pending.timer = self._loop.call_later(0, partial(self._poll, pending))

    def claim(self, identities: Collection[tuple[int, int]], handover: Handover) -> None:
        """Stop releasing the pipes in `identities`; put those that are open into `handover`."""
        for identity in identities:
            pending = self._by_pipe.pop(identity, None)
            if pending is not None:
                pending.hand_over(identities, handover)

    def drop_oldest(self) -> None:
        """Drop the oldest pending release, to free its descriptors."""
        if self._pending:
            self._end(next(iter(self._pending)))

    def close(self) -> None:
        """Drop all pending releases."""
        while self._pending:
            self.drop_oldest()

    def _poll(self, pending: PendingRelease) -> None:
        age = time.monotonic() - pending.started_at
        if pending.poll() or age >= OPEN_TIMEOUT_SECONDS:
            self._read_connects()
            pending.release()
        if pending.is_done or age >= OPEN_TIMEOUT_SECONDS:
            self._end(pending)
            return
        delay = min(max(MIN_RETRY_SECONDS, age / 4), MAX_RETRY_SECONDS)
        pending.timer = self._loop.call_later(delay, partial(self._poll, pending))

    def _end(self, pending: PendingRelease) -> None:
        self._pending.pop(pending, None)
        for identity in pending.identities:
            if self._by_pipe.get(identity) is pending:
                del self._by_pipe[identity]
        pending.close()


def max_clients(sessions: int) -> int:
    """Return how many clients may be released at a time beside `sessions`, by RLIMIT_NOFILE."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return MAX_CLIENTS
    free = limit - RESERVED_DESCRIPTORS - DESCRIPTORS_PER_CLIENT * sessions
    return min(max(MIN_CLIENTS, free // DESCRIPTORS_PER_CLIENT), MAX_CLIENTS)
