"""A jobs directory that a service serves, for tests."""

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kvs import KvsError, Store
from kvs.service.service import JobService
from kvs.settings import Settings
from tests.helpers import SECONDS, until

_numbers = itertools.count()
"""For names of jobs that no directory has contained before."""


class Served:
    """A directory being served, with the log and the errors of its service."""

    def __init__(self, path: Path, threads: int, backups: int) -> None:
        self.path = path
        self.store = Store()
        self.lines: list[str] = []
        self.errors: list[KvsError] = []
        self.service = JobService(
            self.store._core, path, Settings(threads, backups), self.errors.append, self.log
        )

    def log(self, line: str) -> None:
        self.lines.append(line.removeprefix(f"{self.path}").removeprefix("/"))

    def runs(self, name: str) -> int:
        """Return how many runs of the job have ended."""
        return sum(line.startswith(f"{name}.job: done") for line in self.lines)

    def lines_with(self, text: str) -> int:
        """Return how many lines of the log contain `text`."""
        return sum(text in line for line in self.lines)

    def wait_for_run(self, name: str, times: int = 1) -> None:
        until(lambda: self.runs(name) == times)

    def settle(self) -> None:
        """Block until all events so far are handled, because jobs start in order."""
        for _ in range(2):  # jobs that the first made due start before the second
            name = f"settle{next(_numbers)}"
            (self.path / f"{name}.job").write_text("")
            self.wait_for_run(name)


@contextmanager
def serving(path: Path, threads: int = 1, backups: int = 2) -> Iterator[Served]:
    served = Served(path, threads, backups)
    with served.service:
        yield served
    assert not (path / ".kvs.lock").exists()


def drop(directory: Path, name: str, text: str) -> None:
    """Rename a complete job into `directory`."""
    finished = directory.parent / f"{name}.finished"
    finished.write_text(text)
    os.rename(finished, directory / f"{name}.job")


@contextmanager
def blocked_worker(served: Served) -> Iterator[Callable[[], None]]:
    """Block the one worker in a command until the function that is yielded is called."""
    reached, gate = threading.Event(), threading.Event()
    real = served.store._core.execute

    def execute(script: bytes, *rest: Any) -> object:  # noqa: ANN401
        if b"gate" in script:
            reached.set()
            gate.wait()
        return real(script, *rest)

    served.store._core.execute = execute  # type: ignore[method-assign,assignment]
    (served.path / "gate.job").write_text("# gate\n")
    assert reached.wait(SECONDS)
    try:
        yield gate.set
    finally:
        gate.set()
