"""Releases clients that are still blocked in open(2) of a pipe when their session has ended.

For `OPEN_TIMEOUT_SECONDS` each pipe that the client had not opened is opened as soon as the client
opens it, and closed at once: open(2) returns in the client, which then reads the end of the pipe.
Requests stays open for reading until the client has opened it for writing.

A client may connect again with the same pipes at any moment. It sends its connect before it opens
them, so: once a client is seen at a pipe, all connects that have arrived are read before that pipe
is closed, and a pipe that one of them names is handed over to it.
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
"""Seconds for which the pipes of one client are watched."""

MIN_CLIENTS, MAX_CLIENTS = 8, 1024
"""Bounds of the clients watched at once; the oldest is given up for a further one."""

DESCRIPTORS_PER_CLIENT = 3
RESERVED_DESCRIPTORS = 128
"""Descriptors for everything but clients."""

MIN_RETRY_SECONDS = 0.001
MAX_RETRY_SECONDS = 0.05
"""Seconds between two tries at a client: a quarter of the time since the end, within these."""


class PendingRelease:
    """The pipes that one client had not opened. For the loop's thread."""

    def __init__(self, unopened: Iterable[Fifo], requests: RequestsReader | None) -> None:
        """Take over the handles in `unopened` (responses, notifications) and `requests`."""
        self.began = time.monotonic()
        self.timer = Timer(None)
        self._unopened = list(unopened)
        self._requests = requests
        self.identities = [pipe.identity for pipe in self._unopened]
        """The pipes that were taken over."""
        if requests is not None:
            self.identities.append(requests.identity)
        self._seen: dict[Fifo, int] = {}
        """Pipes that the client has opened, and the descriptors that they are open at."""
        self._writer_seen = False
        """Whether the client has opened requests."""

    @property
    def is_done(self) -> bool:
        """Whether no pipe is left that the client could be blocked at."""
        return not self._unopened and not self._seen and self._requests is None

    def poll(self) -> bool:
        """Open what the client has opened by now; return whether there is anything to release."""
        for pipe in tuple(self._unopened):
            with contextlib.suppress(OSError):  # no descriptor is free: tried again
                descriptor = pipe.open_for_writing()
                if descriptor is not None:
                    self._unopened.remove(pipe)
                    self._seen[pipe] = descriptor
                    pipe.close()
        self._writer_seen = self._requests is not None and self._requests.has_writer()
        return bool(self._seen) or self._writer_seen

    def release(self) -> None:
        """Close what `poll` has found the client to have opened."""
        while self._seen:
            fifos.close(self._seen.popitem()[1])
        if self._writer_seen:
            self._close_requests()

    def hand_over(self, identities: Collection[tuple[int, int]], handover: Handover) -> None:
        """Give up the pipes in `identities`; put the ends that are open into `handover`."""
        for pipe in [pipe for pipe in self._unopened if pipe.identity in identities]:
            self._unopened.remove(pipe)
            pipe.close()
        for pipe in [pipe for pipe in self._seen if pipe.identity in identities]:
            handover.ends[pipe.identity] = self._seen.pop(pipe)
        if self._requests is not None and self._requests.identity in identities:
            handover.requests, self._requests = self._requests, None

    def close(self) -> None:
        """Give up all pipes."""
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
    """All clients that are being released. For the loop's thread."""

    def __init__(
        self, loop: EventLoop, max_clients: int, read_connects: Callable[[], None]
    ) -> None:
        """`read_connects` reads all connects that have arrived, and calls `claim` for each."""
        self._loop = loop
        self._max_clients = max_clients
        self._read_connects = read_connects
        self._pending: dict[PendingRelease, None] = {}
        """In the order in which they began."""
        self._by_pipe: dict[tuple[int, int], PendingRelease] = {}

    @property
    def pending(self) -> bool:
        """Whether a client is still being released."""
        return bool(self._pending)

    def add(self, unopened: Iterable[Fifo], requests: RequestsReader | None) -> None:
        """Release a client that has not opened these pipes; handles and reader are taken over."""
        if len(self._pending) >= self._max_clients:
            self.drop_oldest()
        farewell = PendingRelease(unopened, requests)
        before = Handover()
        self.claim(farewell.identities, before)
        before.close()
        self._pending[farewell] = None
        self._by_pipe.update(dict.fromkeys(farewell.identities, farewell))
        farewell.timer = self._loop.call_later(0, partial(self._try, farewell))

    def claim(self, identities: Collection[tuple[int, int]], handover: Handover) -> None:
        """Stop releasing the pipes in `identities`; put those that are open into `handover`."""
        for identity in identities:
            farewell = self._by_pipe.pop(identity, None)
            if farewell is not None:
                farewell.hand_over(identities, handover)

    def drop_oldest(self) -> None:
        """Give up the client that has been watched longest, for its descriptors."""
        if self._pending:
            self._end(next(iter(self._pending)))

    def close(self) -> None:
        """Give up all."""
        while self._pending:
            self.drop_oldest()

    def _try(self, farewell: PendingRelease) -> None:
        age = time.monotonic() - farewell.began
        if farewell.poll() or age >= OPEN_TIMEOUT_SECONDS:
            self._read_connects()
            farewell.release()
        if farewell.is_done or age >= OPEN_TIMEOUT_SECONDS:
            self._end(farewell)
            return
        delay = min(max(MIN_RETRY_SECONDS, age / 4), MAX_RETRY_SECONDS)
        farewell.timer = self._loop.call_later(delay, partial(self._try, farewell))

    def _end(self, farewell: PendingRelease) -> None:
        self._pending.pop(farewell, None)
        for identity in farewell.identities:
            if self._by_pipe.get(identity) is farewell:
                del self._by_pipe[identity]
        farewell.close()


def max_clients(sessions: int) -> int:
    """Return how many clients may be released at once, given the limit of open files."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return MAX_CLIENTS
    free = limit - RESERVED_DESCRIPTORS - DESCRIPTORS_PER_CLIENT * sessions
    return min(max(MIN_CLIENTS, free // DESCRIPTORS_PER_CLIENT), MAX_CLIENTS)
