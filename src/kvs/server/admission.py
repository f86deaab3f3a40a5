"""Decides which of the waiting connects becomes a session next.

A waiting connect takes no session slot and no descriptor. While a slot is free, the server polls
the pipes of the connect's client; once the client has opened one of its pipes, a session begins. A
client that has opened none is absent. The longer a client is absent, the less often it is polled,
so an absent client does not delay others. Its deadline of `OPEN_TIMEOUT_SECONDS` runs from the
first poll. For as long again after the deadline, a client that opens a pipe is unblocked
(`kvs.server.unblock`). A connect that names the same pipes as a waiting one renews that one.

Cost: a poll takes about 0.1 ms. Polls take at most `SLICE_SECONDS` at a time, and the loop runs in
between; so about 700 absent clients are polled in 100 ms.
"""

import heapq
import time
from collections import deque
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

from kvs.posix import fifos
from kvs.posix.fifos import Identity
from kvs.protocol.frames import Connect
from kvs.protocol.registration import Refused
from kvs.server.handshake import OPEN_TIMEOUT_SECONDS, Handover, Handshake
from kvs.server.loop import EventLoop, Timer
from kvs.server.pipes import ConnectedPipes, Identities
from kvs.text import os_error_text

SLICE_SECONDS = 0.003
"""Maximum seconds of polling at a time."""

PAUSE_SECONDS = 0.001
"""Minimum seconds between two such slices."""

MIN_POLL_SECONDS = 0.001
"""Minimum seconds between two polls of a client; otherwise a quarter of its absence."""

MAX_POLL_SECONDS = (0.02, 0.08)
"""Maximum seconds between two polls of a client: with few clients waiting, and with very many."""

POLL_SECONDS_PER_CLIENT = 0.0002
"""Seconds added to that maximum per waiting client, within `MAX_POLL_SECONDS`."""

LATE_POLL_SECONDS = 0.5
"""Seconds between two polls of a client after its deadline."""

DESCRIPTOR_RETRY_SECONDS = 0.1
"""Seconds until the next attempt when no descriptor or no pipe is free."""

MAX_WAITING = 100_000
"""Maximum waiting connects."""


class Host(Protocol):
    """What admission needs of the server."""

    def has_free_slot(self) -> bool:
        """Return whether a session may begin."""

    def find(self, connect: Connect) -> ConnectedPipes:
        """Return the pipes that a connect names.

        Raises:
            Refused: the pipes are not acceptable.
            OSError: no descriptor is free (`fifos.OUT_OF_DESCRIPTORS`).

        """

    def claim(self, identities: Identities, handover: Handover) -> None:
        """Stop opening these pipes; put the ends that are open into `handover`."""

    def conflicts(self, pipes: ConnectedPipes, connect: Connect) -> bool:
        """Return whether a session has one of the pipes. If so, close them; unblock the client.

        A disconnecting session does not count; it is closed instead.
        """

    def begin(self, handshake: Handshake) -> None:
        """Begin a session with a client that has opened at least one of its pipes."""

    def unblock(self, handshake: Handshake) -> None:
        """Close the pipes, and unblock the client at those that it has not opened."""

    def refused(self, connect: Connect, reason: str) -> None:
        """Log that a connect was refused."""

    def out_of_descriptors(self, error: OSError) -> None:
        """Log that no descriptor or pipe is free, and free some if possible."""


@dataclass(eq=False)
class Waiting:
    """A waiting connect."""

    connect: Connect
    identities: Identities
    """Identities of its pipes; empty if no descriptor was free when the connect arrived."""
    arrived_at: float
    polled_at: float | None = None
    """Time of the first poll (time.monotonic); None before."""
    is_late: bool = False
    """Whether its deadline has passed."""
    is_removed: bool = False
    """Whether it waits no more."""
    handshake: Handshake | None = None
    """Ends that stay open between polls, because `claim` has put some into `handover`."""
    handover: Handover = field(default_factory=Handover)


class Arrivals:
    """Connects whose clients have not been polled yet.

    The next is the oldest; but after a client that is absent, the newest, because clients of
    similar age may be absent, too.
    """

    def __init__(self) -> None:
        self._queue: deque[Waiting] = deque()
        self.is_newest_next = False

    def add(self, waiting: Waiting) -> None:
        """Add a connect that has just arrived."""
        self._queue.append(waiting)

    def put_back(self, waiting: Waiting) -> None:
        """Return a connect to the front."""
        self._queue.appendleft(waiting)

    def pop(self, _now: float) -> Waiting | None:
        """Remove and return the next connect; None if there is none."""
        while self._queue:
            waiting = self._queue.pop() if self.is_newest_next else self._queue.popleft()
            if not waiting.is_removed:
                self.is_newest_next = False
                return waiting
        return None

    @property
    def due(self) -> float | None:
        """Time at which the next is due: always in the past; None if there is none."""
        return 0.0 if self._queue else None


class Schedule:
    """Connects by the time at which their clients are polled next."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Waiting]] = []
        self._numbers = count()

    def add(self, due: float, waiting: Waiting) -> None:
        """Add a connect whose client is polled at `due` (time.monotonic)."""
        heapq.heappush(self._heap, (due, next(self._numbers), waiting))

    def pop(self, now: float) -> Waiting | None:
        """Remove and return the first connect that is due; None if there is none."""
        while self._heap and self._heap[0][0] <= now:
            waiting = heapq.heappop(self._heap)[2]
            if not waiting.is_removed:
                return waiting
        return None

    @property
    def due(self) -> float | None:
        """Time at which the first is due (time.monotonic); None if there is none."""
        return self._heap[0][0] if self._heap else None


class Admission:
    """The connects that wait for a session slot. For the loop's thread."""

    def __init__(self, loop: EventLoop, host: Host) -> None:
        self._loop = loop
        self._host = host
        self._waiting: dict[Connect, Waiting] = {}
        self._by_pipe: dict[Identity, list[Waiting]] = {}
        self._new, self._polled, self._late = Arrivals(), Schedule(), Schedule()
        self._schedules = deque[Arrivals | Schedule]((self._new, self._polled, self._late))
        self._timer = Timer(None)
        self._closing = False

    def __len__(self) -> int:
        return len(self._waiting)

    def names(self, identity: Identity) -> bool:
        """Return whether a waiting connect names this pipe.

        The paths are checked again: the pipes that they named when the connect arrived may have
        been removed, and their inodes reused.
        """
        waiting = self._by_pipe.get(identity, [])
        return any(fifos.is_at(path, identity) for one in waiting for path in one.connect.paths)

    def add(self, connect: Connect, identities: Identities) -> None:
        """Add a connect that has arrived. The caller must call `admit` afterwards."""
        now = time.monotonic()
        waiting = self._waiting.get(connect)
        if waiting is None and len(self._waiting) >= MAX_WAITING:
            self._host.refused(connect, f"{MAX_WAITING} connects are waiting already")
            return
        if waiting is None or waiting.is_late:
            if waiting is not None:
                self._remove(waiting)
            waiting = self._waiting[connect] = Waiting(connect, identities, now)
            self._new.add(waiting)
        else:
            self._forget_pipes(waiting)
            waiting.arrived_at, waiting.identities = now, identities
            waiting.polled_at = None if waiting.polled_at is None else now
            _close_replaced(waiting)
        for identity in identities:
            self._by_pipe.setdefault(identity, []).append(waiting)
        self._host.claim(identities, waiting.handover)

    def admit(self) -> None:
        """Poll the clients that are due; begin sessions while slots are free."""
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
        """Begin no more sessions; unblock the clients that open a pipe within the deadline."""
        self._closing = True
        self.admit()

    def clear(self) -> None:
        """Drop all connects."""
        self._timer.cancel()
        for waiting in tuple(self._waiting.values()):
            self._remove(waiting)

    def _can_admit(self) -> bool:
        return self._closing or self._host.has_free_slot()

    def _next(self, now: float) -> Waiting | None:
        """Return the next connect to poll, from the three schedules in turn."""
        can_admit = self._can_admit()
        for _ in range(len(self._schedules)):
            self._schedules.rotate()
            schedule = self._schedules[0]
            if (can_admit or schedule is self._late) and (waiting := schedule.pop(now)) is not None:
                return waiting
        return None

    def _set_timer(self, pause: float) -> None:
        schedules = self._schedules if self._can_admit() else (self._late,)
        due = [schedule.due for schedule in schedules if schedule.due is not None]
        if due:
            delay = max(pause, min(due) - time.monotonic())
            self._timer = self._loop.call_later(delay, self.admit)

    def _poll(self, waiting: Waiting, now: float) -> None:
        """Poll the client of `waiting`; begin its session if it has opened a pipe.

        Raises:
            OSError: no descriptor or pipe is free (`fifos.OUT_OF_DESCRIPTORS`).

        """
        try:
            handshake = self._handshake(waiting)
        except Refused as refused:
            self._drop(waiting, refused.reason)
            return
        except OSError as error:
            if error.errno in fifos.OUT_OF_DESCRIPTORS:
                raise
            self._drop(waiting, os_error_text(error))
            return
        if handshake is None:
            self._remove(waiting)
        elif not handshake.is_started:
            self._postpone(waiting, handshake, now)
        else:
            waiting.handshake = None
            self._remove(waiting)
            if waiting.is_late or self._closing:
                self._host.unblock(handshake)
            else:
                self._host.begin(handshake)

    def _handshake(self, waiting: Waiting) -> Handshake | None:
        """Open what the client has opened; return None if a session has its pipes."""
        handshake = waiting.handshake
        if handshake is None:
            pipes = self._host.find(waiting.connect)
            identities = pipes.identities
            if waiting.identities and identities != waiting.identities:
                pipes.close()
                raise Refused(lambda: "the pipes were replaced")
            if self._host.conflicts(pipes, waiting.connect):
                return None
            self._host.claim(identities, waiting.handover)
            was_handed_over = not waiting.handover.is_empty
            try:
                handshake = Handshake(pipes, waiting.handover)
            except OSError:
                pipes.close()
                raise
            if was_handed_over:
                waiting.handover.close()
                waiting.handshake = handshake
        try:
            handshake.attempt()
        except OSError:
            if handshake is not waiting.handshake:
                handshake.close()
            raise
        return handshake

    def _postpone(self, waiting: Waiting, handshake: Handshake, now: float) -> None:
        """Poll an absent client again later, or drop it after its deadlines."""
        if handshake is not waiting.handshake:
            handshake.close()
        if waiting.polled_at is None:
            waiting.polled_at = waiting.arrived_at if self._closing else now
            self._new.is_newest_next = True
        age = now - waiting.polled_at
        if age >= OPEN_TIMEOUT_SECONDS and self._closing:
            self._remove(waiting)
        elif age < OPEN_TIMEOUT_SECONDS:
            spread = len(self._waiting) * POLL_SECONDS_PER_CLIENT
            longest = sorted((*MAX_POLL_SECONDS, spread))[1]
            delay = min(max(MIN_POLL_SECONDS, age / 4), longest)
            self._polled.add(now + delay, waiting)
        elif age < 2 * OPEN_TIMEOUT_SECONDS:
            if not waiting.is_late:
                waiting.is_late = True
                reason = f"the client opened none of its pipes within {OPEN_TIMEOUT_SECONDS:g} s"
                self._host.refused(waiting.connect, reason)
            self._late.add(now + LATE_POLL_SECONDS, waiting)
        else:
            self._remove(waiting)

    def _drop(self, waiting: Waiting, reason: str) -> None:
        if not waiting.is_late:
            self._host.refused(waiting.connect, reason)
        self._remove(waiting)

    def _remove(self, waiting: Waiting) -> None:
        waiting.is_removed = True
        del self._waiting[waiting.connect]
        self._forget_pipes(waiting)
        waiting.handover.close()
        if waiting.handshake is not None:
            waiting.handshake.close()

    def _forget_pipes(self, waiting: Waiting) -> None:
        for identity in waiting.identities:
            self._by_pipe[identity].remove(waiting)
            if not self._by_pipe[identity]:
                del self._by_pipe[identity]


def _close_replaced(waiting: Waiting) -> None:
    """Close the ends of `waiting` if its client has made its pipes again since they were opened."""
    if waiting.handshake is None:
        return
    identities = waiting.handshake.pipes.identities
    if not all(map(fifos.is_at, waiting.connect.paths, identities)):
        waiting.handshake.close()
        waiting.handshake = None
