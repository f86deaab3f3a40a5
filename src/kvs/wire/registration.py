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


class Registration(Generic[Accepted]):
    """The bytes of the registration pipe. For one thread.

    `accept` judges what a candidate names: it returns whatever the caller makes of an acceptable
    connect, or None.
    """

    def __init__(self, accept: Callable[[Connect], Accepted | None]) -> None:
        self._accept = accept
        self._rest = b""

    def feed(self, data: bytes) -> list[Accepted]:
        """Take what was read; return what became of the connects that it completes, in order."""
        data = self._rest + data
        found: list[Accepted] = []
        named = 0  # where the paths of the last one found end
        at = data.find(CONNECT)
        while 0 <= at <= len(data) - CONNECT_BYTES:
            connect = Connect.decode(data[at : at + CONNECT_BYTES])
            accepted = None if connect is None else self._accept(connect)
            if connect is not None and accepted is not None:
                if at < named:
                    found.pop()
                found.append(accepted)
                named = at + CONNECT_BYTES - PATH_BYTES + len(connect.notifications)
            at = data.find(CONNECT, at + 1)
        self._rest = data[at:] if at >= 0 else b""
        return found
