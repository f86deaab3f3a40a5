"""The clock by which pairs expire and changes have their time."""

import time


def now_ms() -> int:
    """Return the time of CLOCK_REALTIME in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
