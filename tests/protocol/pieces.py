"""Cuts bytes into pieces, as reads of a pipe may return them."""

from collections.abc import Iterator

from hypothesis import strategies as st

from kvs.protocol.replies import Notification, parse_notifications


def cut_everywhere(data: bytes) -> Iterator[list[bytes]]:
    """Yield `data` cut in two at every offset, and into single bytes."""
    for at in range(len(data) + 1):
        yield [data[:at], data[at:]]
    yield [data[at : at + 1] for at in range(len(data))]


@st.composite
def cut(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """Cut `data` at random offsets; pieces may be empty."""
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=6)))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


class Notifications:
    """Parses the bytes of a notifications pipe, in pieces of any size."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Notification]:
        """Return the notifications that `data` completes, in order."""
        self._rest += data
        changes, used = parse_notifications(self._rest)
        del self._rest[:used]
        return changes
