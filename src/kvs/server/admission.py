"""Which of the connects that wait is served next.

A waiting connect takes no place and no descriptor. While a place is free its client is looked for:
once the client has opened one of its pipes, a session begins. A client that has opened none counts
as absent. It is looked for again, less often the longer it is absent, so it holds up no other; its
deadline of `OPEN_TIMEOUT_SECONDS` runs from the first look. After the deadline a client that does
come is released (`kvs.server.release`), for as long again. A connect that names the same pipes as
one that waits renews that one.

Cost: a look takes about 0.1 ms. Looks take at most `SLICE_SECONDS` at a time, and the loop goes on
in between; so some 700 absent clients are passed in 100 ms.
"""

import heapq
import os
import time
from collections import deque
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

from kvs.posix import fifos
from kvs.protocol.frames import Connect
from kvs.protocol.registration import Refused
from kvs.server.handshake import Handover, Handshake
from kvs.server.loop import EventLoop, Timer
from kvs.server.pipes import ClientPipes
from kvs.text import os_error_text

OPEN_TIMEOUT_SECONDS = 5.0
"""Seconds that a client may take to open its first pipe, once a place was free for it."""

SLICE_SECONDS = 0.003
PAUSE_SECONDS = 0.001
"""Seconds of looking for clients at a time, and at least from there to the next look."""

MIN_POLL_SECONDS = 0.001
"""Seconds between two looks for a client, at least; otherwise a quarter of its absence."""

MAX_POLL_SECONDS = (0.02, 0.08)
"""The same at most: the first, or the second if very many are absent."""

POLL_SECONDS_PER_CLIENT = 0.0002
"""Seconds by which looks are spread out for each that waits, within `MAX_POLL_SECONDS`."""

LATE_POLL_SECONDS = 0.5
"""Seconds between two looks for a client after its deadline."""

DESCRIPTOR_RETRY_SECONDS = 0.1
"""Seconds between two tries when no descriptor, or no pipe, is free."""

MAX_WAITING = 100_000
"""Connects that wait, at most."""

Identities = tuple[tuple[int, int], ...]
"""Device and inode of requests, responses and notifications."""


class Host(Protocol):
    """What admission needs of the server."""

    def has_free_slot(self) -> bool:
        """Return whether a session may begin."""

    def find(self, connect: Connect) -> ClientPipes:
        """Return the pipes that a connect names; raise `Refused`, or `OSError` for no room."""

    def claim(self, identities: Identities, handover: Handover) -> None:
        """Stop releasing these pipes; put those that are open into `handover`."""

    def conflicts(self, pipes: ClientPipes, connect: Connect) -> bool:
        """Return whether a session has one of the pipes; then they are closed, the rest released.

        A session whose client is leaving is ended instead.
        """

    def begin(self, opening: Handshake) -> None:
        """Begin a session."""

    def release(self, opening: Handshake) -> None:
        """Release the client."""

    def refused(self, connect: Connect, reason: str) -> None:
        """Log that a connect was dropped."""

    def out_of_descriptors(self, error: OSError) -> None:
        """Log that no descriptor or pipe is free, and free some if possible."""


@dataclass(eq=False)
class Waiting:
    """A connect that waits."""

    connect: Connect
    identities: Identities
    """Empty if they could not be looked up when the connect came."""
    arrived_at: float
    turn: float | None = None
    """When its client was first looked for; None before."""
    is_late: bool = False
    """Whether its deadline has passed."""
    is_over: bool = False
    """Whether it does not wait any more."""
    opening: Handshake | None = None
    """Kept between looks only if ends were handed over."""
    handover: Handover = field(default_factory=Handover)


class Arrivals:
    """Connects whose clients have not been looked for yet.

    The first is next; after one whose client is absent the last, as those that come before may be
    absent too.
    """

    def __init__(self) -> None:
        self._queue: deque[Waiting] = deque()
        self.from_the_end = False

    def add(self, waiting: Waiting) -> None:
        """Add one as the last."""
        self._queue.append(waiting)

    def put_back(self, waiting: Waiting) -> None:
        """Add one as the first."""
        self._queue.appendleft(waiting)

    def pop(self, _now: float) -> Waiting | None:
        """Remove and return the next."""
        while self._queue:
            waiting = self._queue.pop() if self.from_the_end else self._queue.popleft()
            if not waiting.is_over:
                self.from_the_end = False
                return waiting
        return None

    @property
    def due(self) -> float | None:
        """When the next is due."""
        return 0.0 if self._queue else None


class Schedule:
    """Connects by the time at which their clients are looked for."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Waiting]] = []
        self._numbers = count()

    def add(self, due: float, waiting: Waiting) -> None:
        """Add one."""
        heapq.heappush(self._heap, (due, next(self._numbers), waiting))

    def pop(self, now: float) -> Waiting | None:
        """Remove and return the first that is due."""
        while self._heap and self._heap[0][0] <= now:
            waiting = heapq.heappop(self._heap)[2]
            if not waiting.is_over:
                return waiting
        return None

    @property
    def due(self) -> float | None:
        """When the first is due."""
        return self._heap[0][0] if self._heap else None


class Admission:
    """The connects that wait for a place. For the loop's thread."""

    def __init__(self, loop: EventLoop, host: Host) -> None:
        self._loop = loop
        self._host = host
        self._waiting: dict[Connect, Waiting] = {}
        self._by_pipe: dict[tuple[int, int], list[Waiting]] = {}
        self._new, self._polled, self._late = Arrivals(), Schedule(), Schedule()
        self._schedules = deque[Arrivals | Schedule]((self._new, self._polled, self._late))
        self._timer = Timer(None)
        self._closing = False

    def __len__(self) -> int:
        return len(self._waiting)

    def names(self, identity: tuple[int, int]) -> bool:
        """Return whether a connect that waits names this pipe.

        The pipes that it named when it came may be gone, and their inodes used again.
        """
        waiting = self._by_pipe.get(identity, [])
        return any(_leads_to(path, identity) for one in waiting for path in one.connect.paths)

    def add(self, connect: Connect, identities: Identities) -> None:
        """Let a connect wait; `admit` must be called next."""
        now = time.monotonic()
        waiting = self._waiting.get(connect)
        if waiting is None and len(self._waiting) >= MAX_WAITING:
            self._host.refused(connect, f"{MAX_WAITING} connects wait already")
            return
        if waiting is None or waiting.is_late:
            if waiting is not None:
                self._remove(waiting)
            waiting = self._waiting[connect] = Waiting(connect, identities, now)
            self._new.add(waiting)
        else:
            self._forget_pipes(waiting)
            waiting.arrived_at, waiting.identities = now, identities
            waiting.turn = None if waiting.turn is None else now
        for identity in identities:
            self._by_pipe.setdefault(identity, []).append(waiting)
        self._host.claim(identities, waiting.handover)

    def admit(self) -> None:
        """Begin sessions of clients that are there, as long as places are free."""
        self._timer.cancel()
        end = time.monotonic() + SLICE_SECONDS
        while (waiting := self._next(now := time.monotonic())) is not None:
            try:
                self._poll(waiting, now)
            except OSError as error:
                self._new.put_back(waiting)
                self._host.out_of_descriptors(error)
                self._timer = self._loop.call_later(DESCRIPTOR_RETRY_SECONDS, self.admit)
                return
            if now > end:
                self._set_timer(PAUSE_SECONDS)
                return
        self._set_timer(0)

    def close(self) -> None:
        """Begin no more sessions: release the clients that come within the deadline."""
        self._closing = True
        self.admit()

    def clear(self) -> None:
        """Drop all."""
        self._timer.cancel()
        for waiting in tuple(self._waiting.values()):
            self._remove(waiting)

    def _accepts(self) -> bool:
        return self._closing or self._host.has_free_slot()

    def _next(self, now: float) -> Waiting | None:
        """Return the next whose client is looked for, from the three schedules in turn."""
        takes = self._accepts()
        for _ in range(len(self._schedules)):
            self._schedules.rotate()
            schedule = self._schedules[0]
            if (takes or schedule is self._late) and (waiting := schedule.pop(now)) is not None:
                return waiting
        return None

    def _set_timer(self, pause: float) -> None:
        schedules = self._schedules if self._accepts() else (self._late,)
        due = [schedule.due for schedule in schedules if schedule.due is not None]
        if due:
            delay = max(pause, min(due) - time.monotonic())
            self._timer = self._loop.call_later(delay, self.admit)

    def _poll(self, waiting: Waiting, now: float) -> None:
        """Look for the client of `waiting`, and begin its session if it is there.

        Raises:
            OSError: no descriptor or pipe is free (`fifos.OUT_OF_DESCRIPTORS`).

        """
        try:
            opening = self._opening(waiting)
        except Refused as refused:
            self._drop(waiting, refused.reason)
            return
        except OSError as error:
            if error.errno in fifos.OUT_OF_DESCRIPTORS:
                raise
            self._drop(waiting, os_error_text(error))
            return
        if opening is None:
            self._remove(waiting)
        elif not opening.is_started:
            self._postpone(waiting, opening, now)
        else:
            waiting.opening = None
            self._remove(waiting)
            if waiting.is_late or self._closing:
                self._host.release(opening)
            else:
                self._host.begin(opening)

    def _opening(self, waiting: Waiting) -> Handshake | None:
        """Open what the client has opened; return None if its pipes are those of a session."""
        opening = waiting.opening
        if opening is None:
            pipes = self._host.find(waiting.connect)
            identities = tuple(pipe.identity for pipe in pipes.all)
            if waiting.identities and identities != waiting.identities:
                pipes.close()
                raise Refused(lambda: "its pipes were replaced")
            if self._host.conflicts(pipes, waiting.connect):
                return None
            self._host.claim(identities, waiting.handover)
            is_kept = not waiting.handover.is_empty
            try:
                opening = Handshake(pipes, waiting.handover)
            except OSError:
                pipes.close()
                raise
            if is_kept:
                waiting.handover.close()
                waiting.opening = opening
        try:
            opening.attempt()
        except OSError:
            if opening is not waiting.opening:
                opening.close()
            raise
        return opening

    def _postpone(self, waiting: Waiting, opening: Handshake, now: float) -> None:
        """Look for an absent client again later, or give it up."""
        if opening is not waiting.opening:
            opening.close()
        if waiting.turn is None:
            waiting.turn = waiting.arrived_at if self._closing else now
            self._new.from_the_end = True
        age = now - waiting.turn
        if age >= OPEN_TIMEOUT_SECONDS and self._closing:
            self._remove(waiting)
        elif age < OPEN_TIMEOUT_SECONDS:
            spread = len(self._waiting) * POLL_SECONDS_PER_CLIENT
            most = sorted((*MAX_POLL_SECONDS, spread))[1]
            delay = min(max(MIN_POLL_SECONDS, age / 4), most)
            self._polled.add(now + delay, waiting)
        elif age < 2 * OPEN_TIMEOUT_SECONDS:
            if not waiting.is_late:
                waiting.is_late = True
                reason = f"its client opened none of its pipes within {OPEN_TIMEOUT_SECONDS:g} s"
                self._host.refused(waiting.connect, reason)
            self._late.add(now + LATE_POLL_SECONDS, waiting)
        else:
            self._remove(waiting)

    def _drop(self, waiting: Waiting, reason: str) -> None:
        if not waiting.is_late:
            self._host.refused(waiting.connect, reason)
        self._remove(waiting)

    def _remove(self, waiting: Waiting) -> None:
        waiting.is_over = True
        del self._waiting[waiting.connect]
        self._forget_pipes(waiting)
        waiting.handover.close()
        if waiting.opening is not None:
            waiting.opening.close()

    def _forget_pipes(self, waiting: Waiting) -> None:
        for identity in waiting.identities:
            self._by_pipe[identity].remove(waiting)
            if not self._by_pipe[identity]:
                del self._by_pipe[identity]


def _leads_to(path: bytes, identity: tuple[int, int]) -> bool:
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == identity
