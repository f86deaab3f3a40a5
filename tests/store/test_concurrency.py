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
from tests.helpers import SECONDS
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


def random_line(rng: random.Random, token: bytes, seen: bytes) -> bytes:
    """Return a command; the condition of an IF is `seen`, the pairs that a READ has written."""
    keys = rng.choices(KEYS, k=rng.randint(1, 5))
    kind = rng.random()
    write = b"WRITE [" + b"".join(b"(%b,%b)" % (key, token) for key in keys) + b"]"
    if kind < 0.2:
        return write
    if kind < 0.35:
        return b"DELETE [" + b",".join(keys) + b"]"
    if kind < 0.5:
        return b"ADD [" + b"".join(b"(%b,%d)" % (key, rng.randrange(-9, 9)) for key in keys) + b"]"
    if kind < 0.7:
        condition = seen if rng.random() < 0.8 else b"[(%b,KVSERROR)]" % keys[0]
        return b"IF %b%b" % (condition, rng.choice([write, b"DELETE [%b]%b" % (keys[0], write)]))
    if kind < 0.75:
        return rng.choice([b"CLEAR [key1]", b"COUNT", b"COUNT [key1]"])
    return b"READ [" + b",".join(keys[:2]) + b"]" if kind < 0.95 else b"SHOW"


def has_changed(line: bytes, output: bytes) -> bool:
    """Return whether a command has changed something, as its output tells."""
    if line.startswith(b"DELETE"):
        return output.count(b"(") < line.count(b",") + 1
    if line.startswith(b"CLEAR"):
        return output != b"0\n"
    return line.startswith((b"WRITE", b"ADD", b"IF")) and not output.startswith(b"NOT ")


def record(store: Store, calls: int, seed: int) -> list[Call]:
    """Let `THREADS` threads run random commands; return what they saw."""
    ticks = count()
    start = Barrier(THREADS)

    def work(number: int) -> list[Call]:
        rng = random.Random(seed * 1000 + number)
        history = []
        seen = b"[(key0,KVSERROR)]"
        start.wait(30)
        for index in range(calls):
            line = random_line(rng, b"%d.%d" % (number, index), seen)
            began = next(ticks)
            pause = store.execute(line)
            ended = next(ticks)
            changed = has_changed(line, pause.output)
            if line.startswith(b"READ"):
                seen = pause.output[:-1]
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
    conditions: list[Call] = []
    for seed in range(5):
        store = Store()
        history = record(store, 300, seed)
        check(history, store.items())
        conditions += [call for call in history if call.line.startswith(b"IF")]
    assert {call.changed for call in conditions} == {True, False}


def test_concurrent_increments_are_all_counted() -> None:
    """One half by ADD, the other by READ and IF, as a program with a computation of its own."""
    store = Store()
    rounds = 100

    def add() -> list[int]:
        return [number_in(store.execute(b"ADD [(hits,1)]").output) for _ in range(rounds)]

    def compare_and_set() -> list[int]:
        written: list[int] = []
        before = b"[(hits,KVSERROR)]"
        while len(written) < rounds:
            number = 1 if b"KVSERROR" in before else number_in(before) + 1
            output = store.execute(b"IF %b WRITE [(hits,%d)]" % (before, number)).output
            if output:
                before = output.removeprefix(b"NOT ").removesuffix(b"\n")
            else:
                written.append(number)
                before = b"[(hits,%d)]" % number
        return written

    with ThreadPoolExecutor(THREADS) as pool:
        workers = [pool.submit(add if number % 2 else compare_and_set) for number in range(THREADS)]
        numbers = sorted(number for worker in workers for number in worker.result(SECONDS))
    assert numbers == list(range(1, THREADS * rounds + 1))


def number_in(answer: bytes) -> int:
    return int(answer.split(b",")[1].split(b")")[0])


@pytest.mark.parametrize("name", [b"READ", b"ADD", b"IF"])
def test_wrong_history_is_not_linearizable(name: bytes) -> None:
    store = Store()
    history = record(store, 50, 0)
    for index, call in enumerate(history):
        if call.line.startswith(name) and b"," in call.output:
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
        lines = (directory / f"{number}.bck").read_bytes().splitlines(keepends=True)
        assert b"".join(lines[1:-1]) == model.output  # without the frame
    assert len({snapshot.revision for snapshot in written}) > count // 2, "the writers stood still"
