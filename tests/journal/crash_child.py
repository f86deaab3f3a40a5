"""Processes that are killed at a step of their disk, and what a directory holds afterwards."""

import os
import signal
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from kvs.errors import DirectoryLockedError
from kvs.library import Store
from kvs.settings import DataSettings
from kvs.store import persistence as kept
from kvs.store.core import StoreCore
from kvs.store.persistence import Persistence
from tests.helpers import until
from tests.journal.fake_storage import Kill, stepping

Acknowledge = Callable[[int], None]
Work = Callable[[Acknowledge], None]

MOST_STEPS = 2000

AnyStore = TypeVar("AnyStore", Store, StoreCore)


def killed_at_every_step(work: Callable[[int], Work], stride: int = 1) -> Iterator[tuple[int, int]]:
    """Have `work(number)` killed at its step `number`, from 0 on, until it comes to its end.

    With a `stride`, only at each so many-th step.

    Yields, each time, the number, and the last revision that was acknowledged before.
    """
    for number in range(0, MOST_STEPS, stride):
        killed, acknowledged = victim(number, work(number))
        yield number, acknowledged
        if not killed:
            return
    raise AssertionError("it never ends")


def victim(number: int, work: Work) -> tuple[bool, int]:
    """Carry out `work` in a child that is killed at a step; tell if it was, and the last ack."""
    source, sink = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.close(source)
            persistence = partial(Persistence, disk=stepping(Kill(number)))
            vars(kept)["Persistence"] = persistence
            work(lambda revision: void(os.write(sink, b"%d\n" % revision)))
            status = 0
        except BaseException:  # noqa: BLE001  (it is shown, and the test fails)
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(sink)
    with open(source, "rb") as told:
        revisions = [int(line) for line in told]
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in {0, -signal.SIGKILL}
    assert revisions == sorted(revisions)
    return status != 0, max(revisions, default=0)


def void(_: object) -> None:
    """Drop it."""


def reopened(path: Path, settings: DataSettings | None = None) -> Store:
    """Open a store whose directory a child of a killed process may lock for a moment more."""
    return reopened_as(Store, path, settings)


def reopened_as(kind: type[AnyStore], path: Path, settings: DataSettings | None = None) -> AnyStore:
    """Do as `reopened`, with a store of another class."""

    def opened() -> list[AnyStore]:
        try:
            return [kind(path, settings)]
        except DirectoryLockedError:
            return []

    return until(opened)[0]


def line(number: int) -> bytes:
    """Return the command that makes revision `number`."""
    if number % 5 == 0:
        return b"DELETE [k%d]\n" % (number - 1)
    return b"WRITE [(k%d,%d)(last,%d)]\n" % (number, number, number)


def pairs_at(revision: int) -> list[tuple[bytes, bytes]]:
    """Return what a store holds in which the commands up to `revision` were carried out."""
    pairs: dict[bytes, bytes] = {}
    for number in range(1, revision + 1):
        if number % 5 == 0:
            del pairs[b"k%d" % (number - 1)]
        else:
            pairs[b"k%d" % number] = pairs[b"last"] = b"%d" % number
    return sorted(pairs.items())


def write(store: Store, count: int, acknowledge: Acknowledge = void) -> None:
    """Carry out so many more commands, one after the other; acknowledge each when it is safe."""
    for _ in range(count):
        number = store.revision + 1
        store.execute(line(number))
        store.commit_point().wait()
        acknowledge(number)


def check(path: Path, acknowledged: int) -> int:
    """Check that a directory holds all that was acknowledged; return its revision."""
    with reopened(path) as store:
        revision = store.revision
        assert revision >= acknowledged
        assert store.items() == pairs_at(revision)
        write(store, 2)
    with reopened(path) as store:
        assert store.revision == revision + 2
        assert store.items() == pairs_at(revision + 2)
    return revision
