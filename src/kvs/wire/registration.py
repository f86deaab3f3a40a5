"""The registration pipe: good connects, whatever bytes stand between them. Pure.

Laws:

- A connect is taken where, and only where, a frame that names acceptable pipes begins; anything
  else is passed over one byte at a time. Shape alone would not do: after garbage that happens to
  look like the start of a frame, a good connect behind it would be lost.
- A frame may have been cut off by the next: one that begins within what is behind the third path of
  another is taken beside it, one that begins before that is taken in its place.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

from kvs.wire.frames import CONNECT, CONNECT_BYTES, PATH_BYTES, Connect

Accepted = TypeVar("Accepted")

PassOver = Callable[[bytes, str], None]
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


class Registration(Generic[Accepted]):
    """The bytes of the registration pipe. For one thread.

    `accept` judges what a candidate names: it returns whatever the caller makes of an acceptable
    connect, or raises `Refused`. `pass_over` is called with all bytes that are not part of an
    acceptable connect: once for a refused candidate, whatever candidates begin within it, and once
    for what stands between candidates.
    """

    def __init__(
        self, accept: Callable[[Connect], Accepted], pass_over: PassOver = _ignore
    ) -> None:
        self._accept = accept
        self._pass_over = pass_over
        self._rest = b""
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
        named = 0  # where the paths of the last one found end
        accounted = self._accounted
        at = data.find(CONNECT)
        while 0 <= at <= len(data) - CONNECT_BYTES:
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
                    if at < named:
                        found.pop()
                    found.append(accepted)
                    named = at + CONNECT_BYTES - PATH_BYTES + len(connect.notifications)
            at = data.find(CONNECT, at + 1)
        kept = at if at >= 0 else len(data)
        self._report(data[accounted:kept], NOT_A_CONNECT)
        self._rest = data[kept:]
        self._accounted = max(0, accounted - kept)
        return found

    def report_incomplete(self) -> None:
        """Call `pass_over` with the start of a connect; what completes it is still taken."""
        self._report(self._rest[self._accounted :], INCOMPLETE)
        self._accounted = len(self._rest)

    def _report(self, data: bytes, reason: str) -> None:
        if data:
            self._pass_over(data, reason)
