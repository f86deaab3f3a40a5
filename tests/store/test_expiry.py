"""Pairs that expire: removed at their time, by one thread, that never outlives the store."""

import contextlib
import gc
import os
import sys
import threading
import time
import weakref
from _thread import start_new_thread
from collections.abc import Callable
from pathlib import Path

import pytest

from kvs.engine.interface import NO_EXPIRY
from kvs.errors import JournalWriteError, StoreClosedError
from kvs.library import Store
from kvs.posix.clock import now_ms
from kvs.snapshot.reader import load
from kvs.store import expiry, maintenance
from kvs.store.core import StoreCore
from kvs.store.expiry import PAIRS_PER_CHANGE, Expiry
from tests.helpers import SECONDS, until
from tests.journal.builders import JournalBuilder, files, put
from tests.journal.fake_storage import Fault


class FakeEngine:
    """Times of pairs, and what was removed."""

    def __init__(self) -> None:
        self.times: list[int] = []
        self.calls: list[tuple[int, int]] = []
        """Time and limit of each removal."""
        self.removed: list[int] = []
        """Number of pairs of each removal that did not fail."""
        self.threads: set[int] = set()
        self.errors: list[Exception] = []
        """What the next removals raise."""

    @property
    def next_expiry(self) -> int:
        return min(self.times, default=NO_EXPIRY)

    def expire(self, now: int, limit: int) -> int:
        self.threads.add(threading.get_ident())
        self.calls.append((now, limit))
        if self.errors:
            raise self.errors.pop()
        due = sorted(time for time in self.times if time <= now)[:limit]
        for each in due:
            self.times.remove(each)
        self.removed.append(len(due))
        return len(due)


class Owner:
    """A store of a fake engine."""

    def __init__(self, publish: Callable[[], None] = lambda: None) -> None:
        self.engine = FakeEngine()
        self.expiry = Expiry(self.engine, publish, self)  # type: ignore[arg-type]

    def add(self, *times: int) -> None:
        self.engine.times += times
        self.expiry.check()


class Threads:
    """The threads that expiries started."""

    def __init__(self) -> None:
        self.started: list[None] = []
        self.ended: list[None] = []

    def start(self, function: Callable[[], None], arguments: tuple[()]) -> int:
        """Replace `start_new_thread`."""

        def run() -> None:
            try:
                function()
            finally:
                self.ended.append(None)

        self.started.append(None)
        return start_new_thread(run, arguments)

    def all_ended(self) -> bool:
        return len(self.ended) == len(self.started)


@pytest.fixture(name="threads")
def _threads(monkeypatch: pytest.MonkeyPatch) -> Threads:
    threads = Threads()
    monkeypatch.setattr(expiry, "start_new_thread", threads.start)
    return threads


LATER_MS = 10**8
"""Milliseconds after which a pair expires that the test makes due by `set_clock_forward`."""

SetClock = Callable[[], None]


@pytest.fixture(name="set_clock_forward")
def _set_clock_forward(monkeypatch: pytest.MonkeyPatch) -> SetClock:
    monkeypatch.setattr(expiry, "CLOCK_CHECK_SECONDS", 0.01)
    original = time.time_ns
    return lambda: monkeypatch.setattr(
        time, "time_ns", lambda: original() + 10 * LATER_MS * 1_000_000
    )


def test_store_without_expiries_starts_no_thread(threads: Threads) -> None:
    owner = Owner()
    owner.expiry.check()
    owner.add()
    assert not threads.started
    owner.add(now_ms() + LATER_MS)
    assert len(threads.started) == 1
    owner.expiry.stop()


def test_due_pairs_are_removed_in_changes_of_limited_size() -> None:
    owner = Owner()
    owner.engine.times = [now_ms()] * (2 * PAIRS_PER_CHANGE + 1) + [now_ms() + 10**9]
    owner.expiry.remove_due()
    assert len(owner.engine.times) == 1
    assert [limit for _, limit in owner.engine.calls] == [PAIRS_PER_CHANGE] * 3
    assert owner.engine.threads == {threading.get_ident()}


def test_thread_pauses_after_each_change(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    owner = Owner()
    owner.add(*[now_ms()] * (2 * PAIRS_PER_CHANGE + 1))
    until(lambda: pauses.count(expiry.PAUSE_SECONDS) == 3)
    assert not owner.engine.times
    owner.expiry.stop()


def test_one_thread_removes_pairs_and_never_early(threads: Threads) -> None:
    owner = Owner()
    last = now_ms()
    for delay in (60, 20, 90, 40):
        owner.add(last + delay)
    until(lambda: not owner.engine.times)
    assert len(owner.engine.threads) == 1
    assert threading.get_ident() not in owner.engine.threads
    owner.add(now_ms())
    until(lambda: not owner.engine.times)
    owner.expiry.stop()
    until(threads.all_ended)
    assert len(owner.engine.threads) == 1
    assert sum(owner.engine.removed) == 5
    assert 0 not in owner.engine.removed


def test_earlier_pair_wakes_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "CLOCK_CHECK_SECONDS", 10 * SECONDS)
    owner = Owner()
    owner.add(now_ms() + 10**9)
    until(lambda: owner.expiry._wakes_at != NO_EXPIRY)
    owner.add(now_ms() + 10)
    until(lambda: len(owner.engine.times) == 1)
    owner.expiry.stop()


def test_clock_that_is_set_forward_is_noticed(set_clock_forward: SetClock) -> None:
    owner = Owner()
    owner.add(now_ms() + LATER_MS)
    until(lambda: owner.expiry._wakes_at != NO_EXPIRY)
    set_clock_forward()
    until(lambda: not owner.engine.times)
    owner.expiry.stop()


def test_nothing_is_removed_after_a_stop(threads: Threads, set_clock_forward: SetClock) -> None:
    owner = Owner()
    owner.add(now_ms() + LATER_MS)
    owner.expiry.stop()
    set_clock_forward()
    until(threads.all_ended)
    owner.expiry.remove_due()
    owner.expiry.check()
    until(threads.all_ended)
    assert threads.started
    assert owner.engine.calls == []


def test_thread_ends_when_its_store_is_collected(threads: Threads) -> None:
    gc.disable()
    try:
        owner = Owner()
        engine = weakref.ref(owner.engine)
        owner.add(now_ms() + LATER_MS)
        assert threads.started
        del owner
        until(threads.all_ended)
        until(lambda: engine() is None)
    finally:
        gc.enable()


def test_thread_ends_when_nothing_can_be_published(threads: Threads) -> None:
    def publish() -> None:
        raise StoreClosedError

    owner = Owner(publish)
    owner.add(now_ms())
    until(threads.all_ended)
    assert threads.started
    assert owner.engine.calls == []


def test_removal_without_memory_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "CLOCK_CHECK_SECONDS", 0.01)
    owner = Owner()
    owner.engine.errors = [MemoryError()] * 3
    owner.add(now_ms())
    until(lambda: not owner.engine.times)
    assert len(owner.engine.calls) == 4
    owner.expiry.stop()


def test_wait_without_memory_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "CLOCK_CHECK_SECONDS", 0.01)
    errors = [MemoryError()] * 3
    owner = Owner()
    wait_for = owner.expiry._waiters.wait_for

    def fail(predicate: Callable[[], object], timeout: float | None = None) -> bool:
        if errors:
            raise errors.pop()
        return wait_for(predicate, timeout)

    monkeypatch.setattr(owner.expiry._waiters, "wait_for", fail)
    owner.add(now_ms() + LATER_MS)
    until(lambda: not errors)
    owner.add(now_ms())
    until(lambda: len(owner.engine.times) == 1)
    owner.expiry.stop()


def test_calls_before_the_thread_runs_start_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Callable[[], None]] = []

    def start(function: Callable[[], None], _: tuple[()]) -> int:
        started.append(function)
        return 1

    monkeypatch.setattr(expiry, "start_new_thread", start)
    owner = Owner()
    for _ in range(3):
        owner.add(now_ms())
    assert len(started) == 1


def test_defect_ends_the_thread_and_the_next_change_starts_one(
    threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: reported.append(args.exc_type))
    owner = Owner()
    owner.engine.errors = [ZeroDivisionError()]
    owner.add(now_ms())
    until(lambda: reported)
    assert reported == [ZeroDivisionError]
    owner.expiry.check()
    until(lambda: not owner.engine.times)
    assert len(threads.started) == 2
    owner.expiry.stop()


def test_thread_that_cannot_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise RuntimeError("can't start new thread")

    owner = Owner()
    with monkeypatch.context() as patch:
        patch.setattr(expiry, "start_new_thread", refuse)
        owner.add(now_ms())
    assert owner.engine.times
    owner.expiry.check()
    until(lambda: not owner.engine.times)
    owner.expiry.stop()


# With an engine.


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return tmp_path / "d"


def records(path: Path) -> list[bytes]:
    """Return the lines of the last segment, without headers."""
    data = max(path.glob("*.journal")).read_bytes()
    return [line for line in data.split(b"\n") if not line.startswith((b"# kvs", b"# group"))]


@pytest.mark.parametrize("data", [True, False])
@pytest.mark.usefixtures("each_engine")
def test_pair_is_removed_at_its_time(path: Path, data: bool, set_clock_forward: SetClock) -> None:
    with StoreCore(path if data else None) as store:
        store.execute(b"WRITE [(a,1)(b,2)] FOR %d WRITE [(c,3)]\n" % LATER_MS)
        store.execute(b"WRITE [(d,4)] FOR %d\n" % (1000 * LATER_MS))
        assert len(store) == 4
        set_clock_forward()
        until(lambda: len(store) == 2)
        assert store.items() == [(b"c", b"3"), (b"d", b"4")]
        assert store.revision == 3
    if data:
        assert records(path)[-3:-1] == [b"# origin expiry", b"DELETE [a,b]"]


@pytest.mark.usefixtures("each_engine")
def test_due_pairs_are_removed_before_the_first_command(path: Path) -> None:
    segment = JournalBuilder().group(b"WRITE [(a,1)(b,2)] UNTIL 5\nWRITE [(c,3)]\n", 2)
    put(path, files(segment))
    with StoreCore(path) as store:
        assert store.execute(b"SHOW\n").output == b"(c, 3)\n"
        assert store.revision == 3
    assert b"DELETE [a,b]" in records(path)


@pytest.mark.usefixtures("each_engine")
def test_recovered_pair_is_removed_at_its_time(path: Path, set_clock_forward: SetClock) -> None:
    with StoreCore(path) as store:
        store.execute(b"WRITE [(a,1)] UNTIL %d\n" % (now_ms() + LATER_MS))
    with StoreCore(path) as store:
        assert len(store) == 1
        set_clock_forward()
        until(lambda: not len(store))


@pytest.mark.usefixtures("each_engine")
def test_many_due_pairs_are_removed_in_small_changes(path: Path) -> None:
    count = 2 * PAIRS_PER_CHANGE + 1
    pairs = b"".join(b"(k%d,1)" % number for number in range(count))
    with StoreCore(path) as store:
        store.execute(b"WRITE [%b] UNTIL 1\n" % pairs)
        until(lambda: not len(store))
        assert store.revision == 1 + 3


@pytest.mark.usefixtures("each_engine")
def test_expiries_outlast_compaction_backup_and_restore(path: Path, tmp_path: Path) -> None:
    backup = tmp_path / "x.bck"
    with Store(path) as store:
        store.execute(b'WRITE [(a,1)("b c","")] UNTIL 999999999999999\nWRITE [(c,3)]\n')
        store.compact()
        store.backup(backup)
    shown = b'(a, 1) UNTIL 999999999999999\n("b c", "") UNTIL 999999999999999\n(c, 3)\n'
    assert b"# kvs backup 2\n" + shown in backup.read_bytes()
    loaded = load(os.fsencode(backup))
    assert maintenance.restore(tmp_path / "e", loaded.pairs, loaded.expiries) == 1
    with Store(tmp_path / "f") as store:
        assert store.restore(backup) == 1
    for name in "def":
        with Store(tmp_path / name) as store:
            assert store.execute("SHOW UNTIL\n").output == shown


@pytest.mark.usefixtures("each_engine")
def test_closed_store_removes_nothing(
    path: Path, threads: Threads, set_clock_forward: SetClock
) -> None:
    store = StoreCore(path)
    store.execute(b"WRITE [(a,1)] FOR %d\n" % LATER_MS)
    assert threads.started
    store.close()
    set_clock_forward()
    until(threads.all_ended)
    assert records(path)[-2].startswith(b"WRITE [(a,1)] UNTIL ")


@pytest.mark.usefixtures("each_engine")
def test_failed_journal_ends_the_removal(
    path: Path, fault: Fault, threads: Threads, set_clock_forward: SetClock
) -> None:
    store = StoreCore(path)
    store.execute(b"WRITE [(a,1)] FOR %d\n" % LATER_MS)
    store.commit_point().wait()
    fault.armed = True
    store.execute(b"WRITE [(b,1)]\n")
    until(lambda: store.failure)
    set_clock_forward()
    until(threads.all_ended)
    assert threads.started
    assert store._engine.get([b"a"]) == [b"1"]
    with contextlib.suppress(JournalWriteError):
        store.close()


@pytest.mark.usefixtures("each_engine")
def test_forked_child_removes_nothing(path: Path, set_clock_forward: SetClock) -> None:
    with StoreCore(path) as store:
        store.execute(b"WRITE [(a,1)] FOR %d\n" % LATER_MS)
        pid = os.fork()
        if not pid:
            set_clock_forward()
            with contextlib.suppress(AssertionError):
                until(lambda: not len(store._engine), seconds=0.3)
            os._exit(len(store._engine))
        set_clock_forward()
        until(lambda: not len(store))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
