"""Unblocks clients that are still blocked in open(2) of a pipe when their session has ended.

For `OPEN_TIMEOUT_SECONDS` the server opens each pipe that the client had not opened as soon as the
client has its end open, and closes the pipe at once. So open(2) returns in the client, which then
reads the end of the pipe. The requests pipe stays open for reading until the client has opened it
for writing.

A client may connect again with the same pipes at any time, and sends its connect before it opens
them. So when a client has opened a pipe, all connects that have arrived must be read before that
pipe is closed, and a pipe that one of them names is handed over to the new connect.
"""

import contextlib
import time
from collections.abc import Callable, Collection, Iterable
from functools import partial

from kvs.posix import fifos
from kvs.posix.fifos import Fifo, Identity
from kvs.server.handshake import OPEN_TIMEOUT_SECONDS, Handover, RequestsReader
from kvs.server.loop import EventLoop, Timer

MIN_RETRY_SECONDS = 0.001
MAX_RETRY_SECONDS = 0.05
"""Bounds of the seconds between two polls: a quarter of the time since the session ended."""


class BlockedClient:
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
        """Open what the client has opened by now; return whether a pipe can be closed."""
        for pipe in tuple(self._unopened):
            with contextlib.suppress(OSError):  # no descriptor is free: retried
                descriptor = pipe.open_for_writing()
                if descriptor is not None:
                    self._unopened.remove(pipe)
                    self._opened[pipe] = descriptor
                    pipe.close()
        self._requests_opened = self._requests is not None and self._requests.has_writer()
        return bool(self._opened) or self._requests_opened

    def unblock(self) -> None:
        """Close the pipes that the client has opened, as found by `poll`."""
        while self._opened:
            fifos.close(self._opened.popitem()[1])
        if self._requests_opened:
            self._close_requests()

    def hand_over(self, identities: Collection[Identity], handover: Handover) -> None:
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
        self.unblock()
        for pipe in self._unopened:
            pipe.close()
        self._unopened.clear()
        if self._requests is not None:
            self._close_requests()

    def _close_requests(self) -> None:
        if self._requests is not None:
            self._requests.close()
            self._requests = None


class ClientUnblocker:
    """Unblocks clients, a limited number at a time. For the loop's thread."""

    def __init__(
        self, loop: EventLoop, max_clients: int, read_connects: Callable[[], None]
    ) -> None:
        """Unblock at most `max_clients` at a time; beyond, drop the oldest.

        `read_connects` must read all connects that have arrived, and call `claim` for each.
        """
        self._loop = loop
        self._max_clients = max_clients
        self._read_connects = read_connects
        self._clients: dict[BlockedClient, None] = {}
        """Blocked clients, the oldest first."""
        self._by_pipe: dict[Identity, BlockedClient] = {}

    @property
    def has_clients(self) -> bool:
        """Whether a client may be blocked."""
        return bool(self._clients)

    def add(self, unopened: Iterable[Fifo], requests: RequestsReader | None) -> None:
        """Unblock a client that has not opened these pipes, and take them over."""
        if len(self._clients) >= self._max_clients:
            self.drop_oldest()
        client = BlockedClient(unopened, requests)
        previous = Handover()
        self.claim(client.identities, previous)
        previous.close()
        self._clients[client] = None
        self._by_pipe.update(dict.fromkeys(client.identities, client))
        client.timer = self._loop.call_later(0, partial(self._poll, client))

    def claim(self, identities: Collection[Identity], handover: Handover) -> None:
        """Stop opening the pipes in `identities`; put those that are open into `handover`."""
        for identity in identities:
            client = self._by_pipe.pop(identity, None)
            if client is not None:
                client.hand_over(identities, handover)

    def drop_oldest(self) -> None:
        """Drop the oldest client, to free its descriptors."""
        if self._clients:
            self._end(next(iter(self._clients)))

    def close(self) -> None:
        """Drop all clients."""
        while self._clients:
            self.drop_oldest()

    def _poll(self, client: BlockedClient) -> None:
        age = time.monotonic() - client.started_at
        if client.poll() or age >= OPEN_TIMEOUT_SECONDS:
            self._read_connects()
            client.unblock()
        if client.is_done or age >= OPEN_TIMEOUT_SECONDS:
            self._end(client)
            return
        delay = min(max(MIN_RETRY_SECONDS, age / 4), MAX_RETRY_SECONDS)
        client.timer = self._loop.call_later(delay, partial(self._poll, client))

    def _end(self, client: BlockedClient) -> None:
        self._clients.pop(client, None)
        for identity in client.identities:
            if self._by_pipe.get(identity) is client:
                del self._by_pipe[identity]
        client.close()
