"""The memory of processes, in bytes, as Linux tells it (proc(5))."""

import contextlib
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

KIB = 1024
_SAMPLE_SECONDS = 0.005
_RESET_PEAK = "5"


def resident() -> int:
    """Return how much of this process is in memory."""
    return _field(Path("/proc/self/status"), "VmRSS")


def peak() -> int:
    """Return the most that was, since the process began or since `forget_peak`."""
    return _field(Path("/proc/self/status"), "VmHWM")


def forget_peak() -> None:
    """Let `peak` begin anew with what is in memory now."""
    Path("/proc/self/clear_refs").write_text(_RESET_PEAK)


def peak_of_children() -> int:
    """Return the peak of the largest child that has ended; what it shares with us counts too."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * KIB


class ChildWatch:
    """While entered, watches how much memory the children of this process have to themselves.

    That is their Private_Dirty: a page a forked child shares with its parent turns into one of
    its own when either of the two writes to it. Reading it costs the child time, so what is
    watched must not be timed.
    """

    def __init__(self) -> None:
        self.private_dirty = 0
        """The most that one child had, as far as was seen in looks some milliseconds apart."""

    def _watch(self, over: Event) -> None:
        while not over.is_set():
            for child in _children():
                # It may end while it is looked at: its file is gone then, or empty.
                with contextlib.suppress(OSError, ValueError):
                    dirty = _field(child / "smaps_rollup", "Private_Dirty")
                    self.private_dirty = max(self.private_dirty, dirty)
            time.sleep(_SAMPLE_SECONDS)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch until the block is left."""
        over = Event()
        watcher = Thread(target=self._watch, args=(over,))
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()


def _children() -> Iterator[Path]:
    for children in Path("/proc/self/task").glob("*/children"):
        for pid in children.read_text().split():
            yield Path("/proc", pid)


def _field(file: Path, name: str) -> int:
    """Return the field `name` of a file of /proc.

    Raises:
        OSError: there is no such process any more.
        ValueError: the file has no such field.

    """
    for line in file.read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * KIB
    raise ValueError(f"there is no {name} in {file}")
