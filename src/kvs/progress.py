"""How far a long reading is, for whoever shows it."""

from collections.abc import Callable

ProgressCallback = Callable[[int, int], None]
"""Called with the bytes that have been read, and with how many there are."""


def ignore_progress(_done: int, _all: int) -> None:
    """Drop it."""
