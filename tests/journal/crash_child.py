"""Processes that are killed at a step of their storage, and checks of their directories."""

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
from kvs.store import persistence
from kvs.store.core import StoreCore
from kvs.store.persistence import Persistence
from tests.helpers import until
from tests.journal.fake_storage import Kill, stepping

Acknowledge = Callable[[int], None]
Work = Callable[[Acknowledge], None]

MAX_STEPS = 2000

AnyStore = TypeVar("AnyStore", Store, StoreCore)


def killed_at_every_step(work: Callable[[int], Work], stride: int = 1) -> Iterator[tuple[int, int]]:
    """Kill `work(number)` at its step `number`, from 0 on, until one is not killed.

    With a `stride`, kill it at every `stride`-th step only. Yield, each time, the number and the
    last revision that was acknowledged before.
    """
    for number in range(0, MAX_STEPS, stride):
        killed, acknowledged = victim(number, work(number))
        yield number, acknowledged
        if not killed:
            return
    raise AssertionError(f"the work has more than {MAX_STEPS} steps")


def victim(number: int, work: Work) -> tuple[bool, int]:
    """Run `work` in a child that is killed at step `number`.

    Return whether it was killed, and the last revision that it acknowledged.
    """
    source, sink = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.close(source)
            replaced = partial(Persistence, storage=stepping(Kill(number)))
            vars(persistence)["Persistence"] = replaced
            work(lambda revision: ignore(os.write(sink, b"%d\n" % revision)))
            status = 0
        except BaseException:  # noqa: BLE001  (printed, and the test fails)
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(sink)
    with open(source, "rb") as acknowledgements:
        revisions = [int(line) for line in acknowledgements]
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in {0, -signal.SIGKILL}
    assert revisions == sorted(revisions)
    return status != 0, max(revisions, default=0)


def ignore(_: object) -> None:
    """Do nothing."""


def reopened(path: Path, settings: DataSettings | None = None) -> Store:
    """Open a store of a killed process, once no child of that process holds its lock."""
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
    """Return the pairs of a store after the commands up to `revision`."""
    pairs: dict[bytes, bytes] = {}
    for number in range(1, revision + 1):
        if number % 5 == 0:
            del pairs[b"k%d" % (number - 1)]
        else:
            pairs[b"k%d" % number] = pairs[b"last"] = b"%d" % number
    return sorted(pairs.items())


def write(store: Store, count: int, acknowledge: Acknowledge = ignore) -> None:
    """Execute the next `count` commands, one by one; acknowledge each when it is committed."""
    for _ in range(count):
        number = store.revision + 1
        store.execute(line(number))
        store.commit_point().wait()
        acknowledge(number)


def check(path: Path, acknowledged: int) -> int:
    """Check that a directory has every acknowledged revision; return its revision."""
    with reopened(path) as store:
        revision = store.revision
        assert revision >= acknowledged
        assert store.items() == pairs_at(revision)
        write(store, 2)
    with reopened(path) as store:
        assert store.revision == revision + 2
        assert store.items() == pairs_at(revision + 2)
    return revision
