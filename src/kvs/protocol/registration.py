"""The registration pipe: good connects, whatever bytes stand between them. Pure.

Invariants:

- A connect is taken where, and only where, a frame that names acceptable pipes begins; anything
  else is passed over one byte at a time. Shape alone would not do: after garbage that happens to
  look like the start of a frame, a good connect behind it would be lost.
- A byte of a path never begins a connect: ``1`` begins a frame in digits, and paths are full of it.
  A path of a frame that was taken is the name of a pipe that exists, so all its bytes are its own.
- A frame may have been cut off by the next. A frame that begins in the padding behind the first or
  second path of another replaces that one; a frame that begins in the padding behind the third
  path is taken beside it.

Cost: each byte is looked at once, and each candidate judged once: linear in what was read.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from kvs.protocol.frames import CONNECT_BYTES, CONNECT_START, MAX_PATH_BYTES, Connect

Accepted = TypeVar("Accepted")

SkipCallback = Callable[[bytes, str], None]
"""Called with bytes that are passed over, and why."""

NOT_A_CONNECT = "not a connect"
INCOMPLETE = "an incomplete connect"


class Refused(Exception):
    """A connect that names unacceptable pipes.

    Garbage gives one for nearly every byte, and few are logged, so `describe` returns the reason.
    """

    def __init__(self, describe: Callable[[], str]) -> None:
        super().__init__()
        self._describe = describe

    @property
    def reason(self) -> str:
        """Why it is refused, for the log."""
        return self._describe()


def _ignore(_data: bytes, _reason: str) -> None:
    """Report to no one."""


@dataclass(frozen=True, slots=True)
class _Taken:
    """A frame that was taken, and where it begins."""

    start: int
    connect: Connect

    def has_in_path(self, at: int) -> bool:
        """Return whether the byte at `at` belongs to one of its paths."""
        field, offset = divmod(at - self.start - 1, MAX_PATH_BYTES)
        paths = self.connect.paths
        return 0 <= field < len(paths) and offset < len(paths[field])

    def names_what_follows(self, at: int) -> bool:
        """Return whether a path of it lies behind `at`, so that its frame was cut off there."""
        return at < self.start + CONNECT_BYTES - MAX_PATH_BYTES + len(self.connect.notifications)


class ConnectParser(Generic[Accepted]):
    """The bytes of the registration pipe. For one thread.

    `accept` judges what a candidate names: it returns whatever the caller makes of an acceptable
    connect, or raises `Refused`. `pass_over` is called with all bytes that are not part of an
    acceptable connect: once for a refused candidate, whatever candidates begin within it, and once
    for what stands between candidates.
    """

    def __init__(
        self, accept: Callable[[Connect], Accepted], pass_over: SkipCallback = _ignore
    ) -> None:
        self._accept = accept
        self._skip = pass_over
        self._rest = b""
        self._taken: _Taken | None = None
        """The last frame that was taken; its start is counted from the start of `_rest`."""
        self._accounted = 0
        """Bytes of `_rest` that belong to a connect, or were passed over."""

    @property
    def is_incomplete(self) -> bool:
        """Whether there are bytes that may be the start of a connect."""
        return self._accounted < len(self._rest)

    def feed(self, data: bytes) -> list[Accepted]:
        """Take what was read; return what became of the connects that it completes, in order."""
        data = self._rest + data
        found: list[Accepted] = []
        accounted = self._accounted
        at = self._next_start(data, 0)
        while at <= len(data) - CONNECT_BYTES:
            taken = self._taken
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
                    if found and taken is not None and taken.names_what_follows(at):
                        found.pop()
                    found.append(accepted)
                    self._taken = _Taken(at, connect)
            at = self._next_start(data, at + 1)
        self._report(data[accounted:at], NOT_A_CONNECT)
        self._rest = data[at:]
        self._accounted = max(0, accounted - at)
        if self._taken is not None:
            self._taken = _Taken(self._taken.start - at, self._taken.connect)
        return found

    def _next_start(self, data: bytes, at: int) -> int:
        """Return where the next frame may begin, at `at` or behind it; the end if there is none."""
        for match in CONNECT_START.finditer(data, at):
            if self._taken is None or not self._taken.has_in_path(match.start()):
                return match.start()
        return len(data)

    def report_incomplete(self) -> None:
        """Call `pass_over` with the start of a connect; what completes it is still taken."""
        self._report(self._rest[self._accounted :], INCOMPLETE)
        self._accounted = len(self._rest)

    def _report(self, data: bytes, reason: str) -> None:
        if data:
            self._skip(data, reason)
