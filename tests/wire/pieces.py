"""Bytes cut anyhow, as a pipe may give them."""

from collections.abc import Iterator

from hypothesis import strategies as st


def cut_everywhere(data: bytes) -> Iterator[list[bytes]]:
    """Yield `data` cut in two at every place, and into single bytes."""
    for at in range(len(data) + 1):
        yield [data[:at], data[at:]]
    yield [data[at : at + 1] for at in range(len(data))]


@st.composite
def cut(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """Cut `data` at some places; pieces may be empty."""
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=6)))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]
