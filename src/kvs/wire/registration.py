"""The registration pipe: good connects, whatever bytes stand between them. Pure.

Law: a connect is taken where, and only where, a frame that names acceptable pipes begins; anything
else is passed over one byte at a time. Shape alone would not do: after garbage that happens to
look like the start of a frame, a good connect behind it would be lost.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

from kvs.wire.frames import CONNECT, CONNECT_BYTES, Connect

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
        at = data.find(CONNECT)
        while 0 <= at <= len(data) - CONNECT_BYTES:
            connect = Connect.decode(data[at : at + CONNECT_BYTES])
            accepted = None if connect is None else self._accept(connect)
            if accepted is None:
                at = data.find(CONNECT, at + 1)
            else:
                found.append(accepted)
                at = data.find(CONNECT, at + CONNECT_BYTES)
        self._rest = data[at:] if at >= 0 else b""
        return found
