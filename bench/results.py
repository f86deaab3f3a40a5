"""What a measure gives: rows of the table, goals met or missed, and how numbers are written."""

from collections.abc import Sequence
from dataclasses import dataclass, field

MICROSECOND = 1e-6
MILLISECOND = 1e-3
MEGABYTE = 1e6

SMALL_RATIO = 0.1
"""Below this, two decimals would not be two digits."""


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    what: str
    figure: str
    ratio: str = ""


@dataclass(frozen=True)
class Goal:
    """Something that was promised, and whether the figures keep it."""

    promise: str
    found: str
    met: bool


@dataclass(frozen=True)
class Outcome:
    """What came of one measure."""

    rows: Sequence[Row]
    goals: Sequence[Goal] = ()
    remarks: Sequence[str] = field(default=())
    """What could not be measured and why; a sentence each."""


def duration(seconds: float) -> str:
    """Write `seconds` with three digits and the unit that fits."""
    if seconds < MILLISECOND:
        return f"{_three_digits(seconds / MICROSECOND)} µs"
    if seconds < 1:
        return f"{_three_digits(seconds / MILLISECOND)} ms"
    return f"{_three_digits(seconds)} s"


def size(count: float) -> str:
    """Write so many bytes as megabytes of 1,000,000."""
    return f"{count / MEGABYTE:,.0f} MB"


def times(ratio: float) -> str:
    """Write by how much one thing is to be multiplied to give another."""
    return f"{ratio:.2f} x" if ratio >= SMALL_RATIO else f"{ratio:.2g} x"


def _three_digits(number: float) -> str:
    decimals = 2 if number < 10 else 1 if number < 100 else 0
    return f"{number:.{decimals}f}"
