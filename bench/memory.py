"""The memory of processes in bytes, as Linux reports it (proc(5))."""

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
    """Return the resident memory of this process."""
    return _field(Path("/proc/self/status"), "VmRSS")


def peak() -> int:
    """Return the peak of the resident memory since the process started, or since `reset_peak`."""
    return _field(Path("/proc/self/status"), "VmHWM")


def reset_peak() -> None:
    """Set `peak` to the resident memory of now."""
    Path("/proc/self/clear_refs").write_text(_RESET_PEAK)


def peak_of_children() -> int:
    """Return the peak of the largest child that has exited, pages shared with others included."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * KIB


class ChildWatch:
    """Samples the private memory of the children of this process, their Private_Dirty.

    A page that a forked child shares with its parent becomes private when either of the two writes
    to it.

    Cost: reading the figure takes time of the child, so a watched child must not be timed.
    """

    def __init__(self) -> None:
        self.private_dirty = 0
        """Maximum bytes of one child, sampled every few milliseconds."""

    def _watch(self, stop: Event) -> None:
        while not stop.is_set():
            for child in _children():
                # The child may exit meanwhile: its file is then missing or empty.
                with contextlib.suppress(OSError, ValueError):
                    dirty = _field(child / "smaps_rollup", "Private_Dirty")
                    self.private_dirty = max(self.private_dirty, dirty)
            time.sleep(_SAMPLE_SECONDS)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch until the end of the block."""
        stop = Event()
        watcher = Thread(target=self._watch, args=(stop,))
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()


def _children() -> Iterator[Path]:
    for children in Path("/proc/self/task").glob("*/children"):
        for pid in children.read_text().split():
            yield Path("/proc", pid)


def _field(file: Path, name: str) -> int:
    """Return the field `name` of a file of /proc.

    Raises:
        OSError: the process does not exist any more.
        ValueError: the file has no such field.

    """
    for line in file.read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * KIB
    raise ValueError(f"{file}: no field {name}")
