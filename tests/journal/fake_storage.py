"""Storage that blocks, counts, fails, or kills the process at a call of a test's choice."""

import errno
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import Condition

import pytest

from kvs.journal.storage import Storage
from kvs.posix.files import AtomicFile
from kvs.store.persistence import Persistence
from tests.helpers import SECONDS

Step = Callable[[str], None]
"""Called with "before sync", "after sync" and so on; may raise, block, or end the process."""


class Stepping(Storage):
    """A storage that calls `step` before and after each call."""

    def __init__(self, directory: int, step: Step) -> None:
        super().__init__(directory)
        self._step = step

    @contextmanager
    def _around(self, name: str) -> Iterator[None]:
        self._step(f"before {name}")
        yield
        self._step(f"after {name}")

    def mark(self, name: bytes) -> None:
        with self._around("mark"):
            super().mark(name)

    def append(self, file: int, *pieces: bytes) -> None:
        data = b"".join(pieces)
        with self._around("append"):
            half = len(data) // 2
            super().append(file, data[:half])
            self._step("within append")
            super().append(file, data[half:])

    def sync(self, file: int) -> None:
        with self._around("sync"):
            super().sync(file)

    def sync_directory(self) -> None:
        with self._around("sync_directory"):
            super().sync_directory()

    def sync_parent_directory(self) -> None:
        with self._around("sync_parent_directory"):
            super().sync_parent_directory()

    def truncate(self, file: int, size: int) -> None:
        with self._around("truncate"):
            super().truncate(file, size)

    def commit(self, replacement: AtomicFile) -> None:
        with self._around("commit"):
            super().commit(replacement)

    def remove(self, name: bytes) -> None:
        with self._around("remove"):
            super().remove(name)


def stepping(step: Step) -> Callable[[int], Storage]:
    """Return a factory of storage that calls `step`."""
    return lambda directory: Stepping(directory, step)


def install(monkeypatch: pytest.MonkeyPatch, step: Step) -> None:
    """Replace the storage of every store that is opened later with one that calls `step`."""
    persistence = partial(Persistence, storage=stepping(step))
    monkeypatch.setattr("kvs.store.persistence.Persistence", persistence)


class Count:
    """Counts the calls by name. A `Step`."""

    def __init__(self) -> None:
        self.of: Counter[str] = Counter()

    def __call__(self, name: str) -> None:
        self.of[name] += 1


class Gate:
    """Blocks the calls of one kind while it is shut. A `Step`. Thread-safe."""

    def __init__(self, name: str = "before sync") -> None:
        self._name = name
        self._changed = Condition()
        self._shut = False
        self._held = 0

    def __call__(self, name: str) -> None:
        if name != self._name:
            return
        with self._changed:
            self._held += 1
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: not self._shut, SECONDS)
            self._held -= 1

    @contextmanager
    def shut(self) -> Iterator[None]:
        """Block the calls within the ``with`` statement."""
        with self._changed:
            self._shut = True
        try:
            yield
        finally:
            self.open()

    def open(self) -> None:
        """Release the blocked calls, and block no more."""
        with self._changed:
            self._shut = False
            self._changed.notify_all()

    def wait_until_held(self) -> None:
        """Wait until a call is blocked."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._held, SECONDS)


class Fault:
    """Fails the calls of one kind once it is `armed`, after the first `spared`. A `Step`."""

    def __init__(
        self, name: str = "before sync", number: int = errno.EIO, *, spared: int = 0
    ) -> None:
        self._name = name
        self._number = number
        self._spared = spared
        self.armed = False
        self.passed = self.failed = 0
        """Number of such calls that passed, and that failed."""

    def __call__(self, name: str) -> None:
        if self.armed and name == self._name:
            if self._spared:
                self._spared -= 1
                return
            self.failed += 1
            raise OSError(self._number, os.strerror(self._number))
        self.passed += name == self._name


class FullDisk:
    """Fails the calls `name` once it is `armed`, until `free_space` is called. A `Step`."""

    def __init__(self, name: str, number: int = errno.ENOSPC) -> None:
        self.name, self.number = name, number
        self.armed = False
        self.errors: list[int | None] = []
        """Error numbers given to `free_space`."""

    def __call__(self, name: str) -> None:
        if self.armed and name == self.name:
            raise OSError(self.number, os.strerror(self.number))

    def free_space(self, error: OSError) -> bool:
        """Let the later calls pass."""
        self.errors.append(error.errno)
        self.armed = False
        return True


class Kill:
    """Kills the process at the step with this number, from 0. A `Step`."""

    def __init__(self, number: int) -> None:
        self._left = number

    def __call__(self, _name: str) -> None:
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()
        self._left -= 1
