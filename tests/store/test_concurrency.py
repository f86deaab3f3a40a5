"""The store under many threads: recorded histories that must be explained by one order.

Each command is one call of `execute`, so the revision that comes back is its place in the order:
its own for one that changed something, the last before it for one that read. Replaying the
changes in that order must give every output that was seen, and the order must agree with real
time: a command that began after another had come back stands behind it.
"""

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from threading import Barrier, Event, Semaphore

import pytest

from kvs import SnapshotInfo, Store
from tests.model import Model

THREADS = 8
KEYS = [b"key%d" % number for number in range(12)]


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("each_engine", "often_switching")]


@dataclass(frozen=True)
class Call:
    """One command as it was seen from outside."""

    began: int
    """Ticks of one counter for all threads, taken before and after the call."""
    ended: int
    line: bytes
    output: bytes
    revision: int
    changed: bool


def random_line(rng: random.Random, token: bytes) -> bytes:
    keys = rng.choices(KEYS, k=rng.randint(1, 5))
    kind = rng.random()
    if kind < 0.4:
        return b"WRITE [" + b"".join(b"(%b,%b)" % (key, token) for key in keys) + b"]"
    if kind < 0.6:
        return b"DELETE [" + b",".join(keys) + b"]"
    return b"READ [" + b",".join(keys) + b"]" if kind < 0.9 else b"SHOW"


def record(store: Store, calls: int, seed: int) -> list[Call]:
    """Let `THREADS` threads run random commands; return what they saw."""
    ticks = count()
    start = Barrier(THREADS)

    def work(number: int) -> list[Call]:
        rng = random.Random(seed * 1000 + number)
        history = []
        start.wait(30)
        for index in range(calls):
            line = random_line(rng, b"%d.%d" % (number, index))
            began = next(ticks)
            pause = store.execute(line)
            ended = next(ticks)
            changed = line.startswith(b"WRITE") or (
                line.startswith(b"DELETE") and pause.output.count(b"(") < line.count(b",") + 1
            )
            history.append(Call(began, ended, line, pause.output, pause.revision, changed))
        return history

    with ThreadPoolExecutor(THREADS) as pool:
        return [call for history in pool.map(work, range(THREADS)) for call in history]


def in_order(history: list[Call]) -> list[Call]:
    """Changes in order of their revisions, what only read behind the change it saw."""
    return sorted(history, key=lambda call: (call.revision, not call.changed, call.began))


def check(history: list[Call], end: list[tuple[bytes, bytes]]) -> None:
    changes = [call.revision for call in in_order(history) if call.changed]
    assert changes == list(range(1, len(changes) + 1)), "each change has a revision of its own"
    model = Model()
    for call in in_order(history):
        model.output = b""
        model.run(call.line)
        assert (model.output, model.revision) == (call.output, call.revision), call
    assert sorted(model.pairs.items()) == end
    _check_real_time(history)


def _check_real_time(history: list[Call]) -> None:
    by_end = sorted(history, key=lambda call: call.ended)
    ended = iter(by_end)
    upcoming = next(ended)
    newest = 0
    for call in sorted(history, key=lambda call: call.began):
        while upcoming.ended < call.began:
            newest = max(newest, upcoming.revision)
            upcoming = next(ended)
        assert call.revision >= newest + call.changed, f"{call} stands before one that had ended"


def test_histories_are_linearizable() -> None:
    for seed in range(5):
        store = Store()
        check(record(store, 300, seed), store.items())


def test_wrong_history_is_not_linearizable() -> None:
    store = Store()
    history = record(store, 50, 0)
    for index, call in enumerate(history):
        if call.line.startswith(b"READ") and b"," in call.output:
            history[index] = replace(call, output=call.output.replace(b")", b"x)", 1))
            break
    with pytest.raises(AssertionError):
        check(history, store.items())


def test_write_of_many_keys_is_atomic_in_long_scripts() -> None:
    store = Store()
    keys = b",".join(KEYS)
    over = Event()

    def write(number: int) -> None:
        for index in range(60):
            value = b"%d.%d" % (number, index)
            line = b"WRITE [" + b"".join(b"(%b,%b)" % (key, value) for key in KEYS) + b"]\n"
            store.execute(20 * line + b"DELETE [" + keys + b"]\n")

    def read() -> int:
        seen = 0
        while not over.is_set():
            for line in store.execute(20 * (b"READ [" + keys + b"]\n")).output.splitlines():
                values = {pair.split(b",")[1] for pair in line[2:-2].split(b")(")}
                assert len(values) == 1, line
                seen += 1
            shown = {line.split(b", ")[1] for line in store.execute(b"SHOW").output.splitlines()}
            assert len(shown) <= 1, shown
        return seen

    with ThreadPoolExecutor(6) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        list(pool.map(write, range(3)))
        over.set()
        assert all(reader.result() for reader in readers)


def test_backups_beside_eight_writers_show_one_revision(tmp_path: Path) -> None:
    check_snapshots(tmp_path, 40)


def check_snapshots(directory: Path, count: int) -> None:
    """Take snapshots while all threads write; hold each against the changes up to its revision."""
    store = Store()
    over = Event()
    permits = Semaphore(0)  # so many changes may be made: a few for each writer and snapshot

    def write(number: int) -> list[tuple[int, bytes]]:
        rng = random.Random(number)
        changes: list[tuple[int, bytes]] = []
        while permits.acquire(timeout=60) and not over.is_set():
            keys = rng.sample(KEYS, 5)
            value = b"%d.%d" % (number, len(changes))
            line = b"WRITE [" + b"".join(b"(%b,%b)" % (key, value) for key in keys) + b"]"
            changes.append((store.execute(line).revision, line))
        return changes

    def backup(number: int) -> SnapshotInfo:
        permits.release(20 * THREADS)
        return store.backup(directory / f"{number}.bck")

    with ThreadPoolExecutor(THREADS) as pool:
        writers = [pool.submit(write, number) for number in range(THREADS)]
        try:
            written = [backup(number) for number in range(count)]
        finally:
            over.set()
            permits.release(THREADS)
        changes = sorted(change for writer in writers for change in writer.result())
    model = Model()
    replayed = iter(changes)
    for number, snapshot in enumerate(written):
        while model.revision < snapshot.revision:
            model.run(next(replayed)[1])
        model.output = b""
        model.run(b"SHOW")
        assert (directory / f"{number}.bck").read_bytes() == model.output
    assert len({snapshot.revision for snapshot in written}) > count // 2, "the writers stood still"
