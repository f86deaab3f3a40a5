"""Memory for replies: one limit on the replies of all sessions together.

Invariants:

- The output and errors of scripts must count from when a script may produce them until the client
  has read them or the session has ended.
- What a script produces beyond its estimate, because words are long, must be held back until it is
  reserved. All that is held back must not exceed the limit either; more stops its script.
- A reply of up to `SMALL_REPLY_BYTES`, as estimated by `ScriptExecution.prepare`, must never wait
  for memory. So a session that does not read a large reply delays no short request, and all replies
  together may exceed the limit by that much for each session.
"""

import time
from collections.abc import Callable

SMALL_REPLY_BYTES = 64 << 10
"""Maximum bytes of a reply that never waits for memory."""


class ReplyMemory:
    """The memory that all replies take. For the loop's thread."""

    def __init__(self, total: int, on_freed: Callable[[], None]) -> None:
        """Allow `total` bytes; `on_freed` is called whenever a reservation was reduced."""
        self.total = total
        self.on_freed = on_freed
        self.used = 0
        """Bytes that all reservations hold."""
        self.freed_at = time.monotonic()
        """Time at which a reservation was last reduced (time.monotonic)."""
        self._reservations: set[Reservation] = set()

    def reserve(self, evict: Callable[[], None]) -> "Reservation":
        """Return an empty reservation for a session; `evict` closes that session."""
        reservation = Reservation(self, evict)
        self._reservations.add(reservation)
        return reservation

    def slowest(self, seconds: float) -> "Reservation | None":
        """Return the largest of the replies of which nothing has been read for `seconds`."""
        before = time.monotonic() - seconds
        slow = [
            one for one in self._reservations if one.read_at is not None and one.read_at < before
        ]
        return max(slow, key=lambda one: one.held, default=None)

    def remove(self, reservation: "Reservation") -> None:
        """Forget a reservation whose session has ended."""
        self._reservations.discard(reservation)


class Reservation:
    """The memory that one session's reply takes. For the loop's thread."""

    def __init__(self, memory: ReplyMemory, evict: Callable[[], None]) -> None:
        self.memory = memory
        self.evict = evict
        self.held = 0
        """Bytes that the reply takes, or may take."""
        self.read_at: float | None = None
        """Time at which the client last read a part of a reply that it has not read to its end."""

    def resize(self, held: int) -> None:
        """Hold `held` bytes, even if that exceeds the limit."""
        freed = self.held - held
        self.memory.used -= freed
        self.held = held
        if freed > 0:
            self.memory.freed_at = time.monotonic()
            self.memory.on_freed()

    def fits(self, held: int) -> bool:
        """Return whether the reservation may be resized to `held` bytes within the limit."""
        return self.memory.used - self.held + held <= self.memory.total

    def on_read(self, *, is_pending: bool) -> None:
        """Note that the client has read a part of its reply, or all of it unless `is_pending`."""
        if is_pending:
            self.read_at = time.monotonic()
        else:
            self.read_at = None
            self.resize(0)

    def on_part_written(self, size: int) -> None:
        """Free the memory of a part of the reply that was written."""
        self.resize(max(0, self.held - size))

    def close(self) -> None:
        """Free everything, at the end of the session."""
        self.read_at = None
        self.memory.remove(self)
        self.resize(0)
