"""How far a long reading is, for whoever shows it."""

from collections.abc import Callable

ShowProgress = Callable[[int, int], None]
"""Called with the bytes that have been read, and with how many there are."""


def show_nobody(_done: int, _all: int) -> None:
    """Drop it."""
