"""The settings of a run: filled by the command line or by the caller, read by everything else."""

import os
from collections.abc import Callable
from dataclasses import dataclass

FSYNC_MODES = ("always", "interval", "never")
MAX_FSYNC_INTERVAL_SECONDS = 3600

FIFO_MODES = (0o600, 0o620, 0o602, 0o622)
"""Permissions of a registration pipe. The server's user alone reads it, as whoever else reads from
it takes connects away."""

_modes = ", ".join(f"{mode:o}" for mode in FIFO_MODES)


def usable_cpu_count() -> int:
    """Return the number of cores this process may use, 1 or more (`sched_getaffinity(2)`)."""
    return len(os.sched_getaffinity(0))


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
    resume: bool = False
    """Whether to go on with jobs that a data directory knows, but for those that are done."""

    def __post_init__(self) -> None:
        for name in ("threads", "backups"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} must be 1 or more, not {value}")


@dataclass(frozen=True)
class ServerSettings:
    """How sessions are served. Immutable, so it may be shared between threads.

    Raises:
        ValueError: a number is below 1, or `fifo_mode` is not one of `FIFO_MODES`.

    """

    sessions: int = 256
    """Sessions active at the same time, at most; a further connect waits."""
    fifo_mode: int = 0o600
    """Permissions of the registration pipe, one of `FIFO_MODES`; see docs/security.md."""
    outbox_bytes: int = 8 << 20
    """Notifications that one client has not read yet, at most; beyond that it is disconnected."""
    outbox_total_bytes: int = 256 << 20
    """The same over all clients; beyond that the one that is furthest behind goes first."""
    reply_total_bytes: int = 256 << 20
    """Maximum bytes of the replies of all scripts, from their execution until they are read."""

    def __post_init__(self) -> None:
        if self.fifo_mode not in FIFO_MODES:
            raise ValueError(f"fifo_mode is one of {_modes}, not {self.fifo_mode:03o}")
        for name in ("sessions", "outbox_bytes", "outbox_total_bytes", "reply_total_bytes"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} must be 1 or more, not {value}")


@dataclass(frozen=True)
class DataSettings:
    """How a data directory is kept. Immutable, so it may be shared between threads.

    Raises:
        ValueError: a number is out of range, or `fsync` is none of its words.

    """

    fsync: str = "always"
    """When the journal is synced to disk: ``always``, ``interval`` or ``never``."""
    fsync_interval: float = 1.0
    """With ``interval``: so many seconds after it was written, at the latest."""
    compact_bytes: int = 64 << 20
    """The journal is compacted when it is longer than this, and than the last snapshot."""
    segment_bytes: int = 64 << 20
    """A segment of the journal that is longer is followed by another."""

    def __post_init__(self) -> None:
        if self.fsync not in FSYNC_MODES:
            raise ValueError(f"fsync is one of {', '.join(FSYNC_MODES)}, not {self.fsync!r}")
        if not 0 < self.fsync_interval <= MAX_FSYNC_INTERVAL_SECONDS:
            raise ValueError(
                f"fsync_interval is up to {MAX_FSYNC_INTERVAL_SECONDS} seconds, more than 0"
            )
        for name in ("compact_bytes", "segment_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, not {getattr(self, name)}")


ProgressCallback = Callable[[int, int], None]
"""Called while a file is read, with the number of bytes read so far and the total."""


def ignore_progress(_done: int, _total: int) -> None:
    """Do nothing: the `ProgressCallback` of a caller that shows no progress."""
