"""The settings of a run: filled by the command line or by the caller, read by everything else."""

import os
from dataclasses import dataclass


def cores() -> int:
    """Return the number of cores this process may use, 1 or more (`sched_getaffinity(2)`)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class Settings:
    """How jobs are run. Immutable, so it may be shared between threads.

    Raises:
        ValueError: a number is below 1.

    """

    threads: int
    """Jobs running at the same time, at most."""
    backups: int = 2
    """Snapshots being written at the same time, at most, over all jobs."""

    def __post_init__(self) -> None:
        for name in ("threads", "backups"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} must be 1 or more, not {value}")
