"""Finds the connects in the bytes of the registration pipe, whatever stands between them. Pure.

Invariants:

- A connect must be accepted exactly where a frame begins that names acceptable pipes. Any other
  byte is skipped, one at a time. Checking the shape alone would lose a good connect that follows
  garbage which happens to look like the start of a frame.
- A byte of a path never begins a connect: ``1`` begins a frame in digits, and is common in paths.
  The paths of an accepted frame name pipes that exist, so all their bytes belong to that frame.
- A frame may be cut off by the next one. A frame that begins in the padding after the first or
  second path of another replaces the other; a frame that begins in the padding after the third
  path is accepted in addition.

Cost: linear in the bytes fed. Each byte is examined once, and each candidate is validated once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from kvs.protocol.frames import CONNECT_BYTES, CONNECT_START, MAX_PATH_BYTES, Connect

Accepted = TypeVar("Accepted")

SkipCallback = Callable[[bytes, str], None]
"""Called with skipped bytes and the reason."""

NOT_A_CONNECT = "not a connect"
INCOMPLETE = "an incomplete connect"


class Refused(Exception):
    """A connect that names unacceptable pipes.

    Garbage causes one for nearly every byte, and few are logged; so the reason is a function,
    `describe`, that is called only when needed.
    """

    def __init__(self, describe: Callable[[], str]) -> None:
        super().__init__()
        self._describe = describe

    @property
    def reason(self) -> str:
        """Why the connect is refused, for the log."""
        return self._describe()


@dataclass(frozen=True, slots=True)
class _AcceptedFrame:
    """A frame that was accepted, and the offset at which it begins."""

    start: int
    connect: Connect

    def has_in_path(self, at: int) -> bool:
        """Return whether the byte at offset `at` belongs to a path of this frame."""
        field, offset = divmod(at - self.start - 1, MAX_PATH_BYTES)
        paths = self.connect.paths
        return 0 <= field < len(paths) and offset < len(paths[field])

    def is_cut_off_at(self, at: int) -> bool:
        """Return whether a path of this frame would lie after `at`, where another frame begins."""
        return at < self.start + CONNECT_BYTES - MAX_PATH_BYTES + len(self.connect.notifications)


class ConnectParser(Generic[Accepted]):
    """Parses the bytes of the registration pipe, in pieces of any size. For one thread.

    `accept` validates the pipes that a candidate names. It returns what `feed` returns for the
    connect, or raises `Refused`. `skip` is called with all bytes that are not part of an acceptable
    connect: once for a refused candidate, whatever candidates begin within it, and once for the
    bytes between candidates.
    """

    def __init__(self, accept: Callable[[Connect], Accepted], skip: SkipCallback) -> None:
        self._accept = accept
        self._skip = skip
        self._buffer = b""
        self._last: _AcceptedFrame | None = None
        """The last frame that was accepted; its offset is relative to the start of `_buffer`."""
        self._accounted = 0
        """Number of bytes of `_buffer` that belong to a connect or were reported as skipped."""

    @property
    def is_incomplete(self) -> bool:
        """Whether the last bytes fed may be the start of a connect."""
        return self._accounted < len(self._buffer)

    def feed(self, data: bytes) -> list[Accepted]:
        """Add bytes that were read; return the results of `accept` for the completed connects."""
        data = self._buffer + data
        connects: list[Accepted] = []
        accounted = self._accounted
        at = self._next_start(data, 0)
        while at <= len(data) - CONNECT_BYTES:
            last = self._last
            connect = Connect.decode(data[at : at + CONNECT_BYTES])
            if connect is not None:
                try:
                    accepted = self._accept(connect)
                except Refused as refused:
                    if at >= accounted:
                        self._report(data[accounted:at], NOT_A_CONNECT)
                        accounted = at + CONNECT_BYTES
                        self._report(data[at:accounted], refused.reason)
                else:
                    self._report(data[accounted:at], NOT_A_CONNECT)
                    accounted = at + CONNECT_BYTES
                    if connects and last is not None and last.is_cut_off_at(at):
                        connects.pop()
                    connects.append(accepted)
                    self._last = _AcceptedFrame(at, connect)
            at = self._next_start(data, at + 1)
        self._report(data[accounted:at], NOT_A_CONNECT)
        self._buffer = data[at:]
        self._accounted = max(0, accounted - at)
        if self._last is not None:
            self._last = _AcceptedFrame(self._last.start - at, self._last.connect)
        return connects

    def _next_start(self, data: bytes, at: int) -> int:
        """Return the first offset, `at` or later, where a frame may begin; else the end."""
        for match in CONNECT_START.finditer(data, at):
            if self._last is None or not self._last.has_in_path(match.start()):
                return match.start()
        return len(data)

    def report_incomplete(self) -> None:
        """Report the start of a connect as skipped; the connect may still be completed."""
        self._report(self._buffer[self._accounted :], INCOMPLETE)
        self._accounted = len(self._buffer)

    def _report(self, data: bytes, reason: str) -> None:
        if data:
            self._skip(data, reason)
