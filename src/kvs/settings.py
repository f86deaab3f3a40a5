"""Settings of runs, servers and data directories, given by the command line or the caller."""

import os
from collections.abc import Callable
from dataclasses import dataclass

FSYNC_MODES = ("always", "interval", "never")
"""When the journal is synced to disk: before a commit, at an interval, or by the kernel alone."""

MAX_FSYNC_INTERVAL_SECONDS = 3600

FIFO_MODES = (0o600, 0o620, 0o602, 0o622)
"""Allowed permissions of a registration pipe. Only the server's user may read it: any other reader
would take connects away from the server."""

_modes = ", ".join(f"{mode:o}" for mode in FIFO_MODES)


def usable_cpu_count() -> int:
    """Return the number of CPUs that this process may use, 1 or more (sched_getaffinity(2))."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Settings:
    """Settings of a run of jobs. Immutable, so threads may share it.

    Raises:
        ValueError: a number is below 1.

    """

    threads: int
    """Maximum jobs running at the same time."""
    backups: int = 2
    """Maximum backups being written at the same time, over all jobs."""
    resume: bool = False
    """Whether to resume unfinished jobs and skip finished ones, as the data directory records."""

    def __post_init__(self) -> None:
        for name in ("threads", "backups"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} must be 1 or more, not {value}")


@dataclass(frozen=True)
class ServerSettings:
    """Settings of a server. Immutable, so threads may share it.

    Raises:
        ValueError: a number is below 1, or `fifo_mode` is not one of `FIFO_MODES`.

    """

    sessions: int = 256
    """Maximum sessions active at the same time; a further connect waits."""
    fifo_mode: int = 0o600
    """Permissions of the registration pipe, one of `FIFO_MODES` (docs/explanation/security.md)."""
    outbox_bytes: int = 8 << 20
    """Maximum bytes of notifications that a client has not read; beyond that it is disconnected."""
    outbox_total_bytes: int = 256 << 20
    """Maximum bytes of unread notifications of all clients; beyond, the slowest is disconnected."""
    reply_total_bytes: int = 256 << 20
    """Maximum bytes of the replies of all scripts, from their execution until they are read."""
    blocked_clients: int = 1024
    """Maximum clients whose session has ended, and whose open(2) of a pipe the server ends."""

    def __post_init__(self) -> None:
        if self.fifo_mode not in FIFO_MODES:
            raise ValueError(f"fifo_mode is one of {_modes}, not {self.fifo_mode:03o}")
        numbers = ("sessions", "outbox_bytes", "outbox_total_bytes", "reply_total_bytes")
        for name in (*numbers, "blocked_clients"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} must be 1 or more, not {value}")


@dataclass(frozen=True)
class DataSettings:
    """Settings of a data directory. Immutable, so threads may share it.

    Raises:
        ValueError: a number is out of range, or `fsync` is not one of `FSYNC_MODES`.

    """

    fsync: str = "always"
    """When the journal is synced to disk: ``always``, ``interval`` or ``never``."""
    fsync_interval: float = 1.0
    """With ``interval``: maximum seconds between a write to the journal and its sync."""
    compact_bytes: int = 64 << 20
    """Bytes of journal beyond which it is compacted, if the last snapshot is not longer."""
    segment_bytes: int = 64 << 20
    """Bytes of a segment of the journal beyond which the next one begins."""
    keep_segments: int = 0
    """Number of segments that a compaction keeps for the history, beside those after the snapshot.
    With them it keeps every snapshot from the one on at which their replay begins."""

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
        if self.keep_segments < 0:
            raise ValueError(f"keep_segments must be 0 or more, not {self.keep_segments}")


ProgressCallback = Callable[[int, int], None]
"""Called while a file is read, with the number of bytes read so far and the total."""


def ignore_progress(_done: int, _total: int) -> None:
    """Do nothing: the `ProgressCallback` of a caller that shows no progress."""
