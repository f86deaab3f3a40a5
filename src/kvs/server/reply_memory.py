"""Memory for replies: a bound on the replies of all sessions together.

Invariants:

- What counts is output and errors of scripts, from when a script may produce them to when the
  client has read them, or the session has ended.
- A reply of up to `SMALL_REPLY_BYTES`, by the estimate of `Script.prepare`, never waits for room.
  So a session that does not read a large reply delays no short request, and all replies together
  may be over the bound, by that much for each session.
"""

import time
from collections.abc import Callable

SMALL_REPLY_BYTES = 64 << 10
"""Bytes of a reply that never wait for room."""


class ReplyMemory:
    """The bytes that all replies take. For the loop's thread."""

    def __init__(self, total: int) -> None:
        """Allow `total` bytes."""
        self.total = total
        self.used = 0
        """Bytes that replies take, or may take: what all claims hold."""
        self.freed_at = time.monotonic()
        """When a claim last gave bytes back."""
        self.on_freed: Callable[[], None] = _nothing
        """Called whenever a claim has given bytes back."""
        self._claims: set[Reservation] = set()

    def reserve(self, evict: Callable[[], None]) -> "Reservation":
        """Return the claim of a session; `evict` ends that session."""
        claim = Reservation(self, evict)
        self._claims.add(claim)
        return claim

    def slowest(self, seconds: float) -> "Reservation | None":
        """Return the largest of the replies of which nothing was read for so many seconds."""
        before = time.monotonic() - seconds
        slow = [each for each in self._claims if each.read_at is not None and each.read_at < before]
        return max(slow, key=lambda each: each.held, default=None)

    def _close(self, claim: "Reservation") -> None:
        self._claims.discard(claim)


class Reservation:
    """What one session's reply takes of the room. For the loop's thread."""

    def __init__(self, room: ReplyMemory, evict: Callable[[], None]) -> None:
        self.room = room
        self.evict = evict
        self.held = 0
        """Bytes that the reply takes, or may take."""
        self.read_at: float | None = None
        """When the client last read of a reply that it has not read to its end."""

    def resize(self, held: int) -> None:
        """Hold so many bytes from now on, whether or not there is room."""
        freed = self.held - held
        self.room.used -= freed
        self.held = held
        if freed > 0:
            self.room.freed_at = time.monotonic()
            self.room.on_freed()

    def fits(self, held: int) -> bool:
        """Tell whether there is room to hold so many bytes."""
        return self.room.used - self.held + held <= self.room.total

    def close(self) -> None:
        """Give everything back, for the end of the session."""
        self.read_at = None
        self.room._close(self)
        self.resize(0)


def _nothing() -> None:
    """Do nothing."""
