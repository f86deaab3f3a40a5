"""Pairs that expire: removed at their time, by one thread, that never outlives the store."""

import contextlib
import gc
import os
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from kvs.engine.interface import NO_EXPIRY
from kvs.errors import JournalWriteError, StoreClosedError
from kvs.library import Store
from kvs.snapshot.reader import load
from kvs.store import expiry, maintenance
from kvs.store.core import StoreCore
from kvs.store.expiry import PAIRS_PER_CHANGE, Expiry, now_ms
from tests.helpers import SECONDS, until
from tests.journal.builders import JournalBuilder, files, put
from tests.journal.fake_storage import Fault


class FakeEngine:
    """Times of pairs, and what was removed."""

    def __init__(self) -> None:
        self.times: list[int] = []
        self.calls: list[tuple[int, int]] = []
        """Time and limit of each removal."""
        self.threads: set[int] = set()
        self.fails = 0
        """Number of removals that raise MemoryError."""

    @property
    def next_expiry(self) -> int:
        return min(self.times, default=NO_EXPIRY)

    def expire(self, now: int, limit: int) -> int:
        self.threads.add(threading.get_ident())
        self.calls.append((now, limit))
        if self.fails:
            self.fails -= 1
            raise MemoryError
        due = sorted(time for time in self.times if time <= now)[:limit]
        for each in due:
            self.times.remove(each)
        return len(due)


class Owner:
    """A store of a fake engine."""

    def __init__(self, publish: Callable[[], None] = lambda: None) -> None:
        self.engine = FakeEngine()
        self.expiry = Expiry(self.engine, publish, self)  # type: ignore[arg-type]

    def add(self, *times: int) -> None:
        self.engine.times += times
        self.expiry.check()


def threads() -> int:
    """Return the number of threads of this process."""
    return len(os.listdir("/proc/self/task"))


def test_store_without_expiries_starts_no_thread() -> None:
    before = threads()
    owner = Owner()
    owner.expiry.check()
    owner.add()
    assert threads() == before


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


def test_one_thread_removes_pairs_and_never_early() -> None:
    owner = Owner()
    last = now_ms()
    for delay in (60, 20, 90, 40):
        owner.add(last + delay)
    until(lambda: not owner.engine.times)
    assert len(owner.engine.threads) == 1
    assert threading.get_ident() not in owner.engine.threads
    assert len(owner.engine.calls) <= 4  # fewer if the thread is late: none removes nothing
    owner.add(now_ms())
    until(lambda: not owner.engine.times)
    assert len(owner.engine.threads) == 1
    owner.expiry.stop()


def test_earlier_pair_wakes_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "CLOCK_CHECK_SECONDS", 10 * SECONDS)
    owner = Owner()
    owner.add(now_ms() + 10**9)
    until(lambda: owner.expiry._wakes_at != NO_EXPIRY)
    owner.add(now_ms() + 10)
    until(lambda: len(owner.engine.times) == 1)
    owner.expiry.stop()


def test_clock_that_is_set_forward_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "CLOCK_CHECK_SECONDS", 0.01)
    owner = Owner()
    owner.add(now_ms() + 10**8)
    until(lambda: owner.expiry._wakes_at != NO_EXPIRY)
    original = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: original() + 10**15)
    until(lambda: not owner.engine.times)
    owner.expiry.stop()


def test_nothing_is_removed_after_a_stop() -> None:
    before = threads()
    owner = Owner()
    owner.add(now_ms() + 10**9)
    owner.expiry.stop()
    until(lambda: threads() <= before)
    owner.engine.times.append(now_ms())
    owner.expiry.remove_due()
    owner.expiry.check()
    until(lambda: threads() <= before)
    assert owner.engine.calls == []


def test_thread_ends_when_its_store_is_collected() -> None:
    before = threads()
    gc.disable()
    try:
        owner = Owner()
        engine = weakref.ref(owner.engine)
        owner.add(now_ms() + 10**9)
        del owner
        until(lambda: threads() <= before)
        until(lambda: engine() is None)
    finally:
        gc.enable()


def test_thread_ends_when_nothing_can_be_published() -> None:
    def publish() -> None:
        raise StoreClosedError

    before = threads()
    owner = Owner(publish)
    owner.add(now_ms())
    until(lambda: threads() <= before)
    assert owner.engine.calls == []


def test_removal_without_memory_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "CLOCK_CHECK_SECONDS", 0.01)
    owner = Owner()
    owner.engine.fails = 3
    owner.add(now_ms())
    until(lambda: not owner.engine.times)
    assert len(owner.engine.calls) == 4
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
def test_pair_is_removed_at_its_time(path: Path, data: bool) -> None:
    with StoreCore(path if data else None) as store:
        store.execute(b"WRITE [(a,1)(b,2)] FOR 30 WRITE [(c,3)]\nWRITE [(d,4)] FOR 1000000\n")
        assert len(store) == 4
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
def test_recovered_pair_is_removed_at_its_time(path: Path) -> None:
    with StoreCore(path) as store:
        store.execute(b"WRITE [(a,1)] UNTIL %d\n" % (now_ms() + 200))
    with StoreCore(path) as store:
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
def test_closed_store_removes_nothing(path: Path) -> None:
    before = threads()
    store = StoreCore(path)
    store.execute(b"WRITE [(a,1)] FOR 50\n")
    store.close()
    until(lambda: threads() <= before)
    assert records(path)[-2].startswith(b"WRITE [(a,1)] UNTIL ")


@pytest.mark.usefixtures("each_engine")
def test_failed_journal_ends_the_removal(path: Path, fault: Fault) -> None:
    before = threads()
    store = StoreCore(path)
    store.execute(b"WRITE [(a,1)] FOR 200\n")
    store.commit_point().wait()
    fault.armed = True
    store.execute(b"WRITE [(b,1)]\n")
    until(lambda: store.failure)
    until(lambda: threads() <= before)
    assert store._engine.get([b"a"]) == [b"1"]
    with contextlib.suppress(JournalWriteError):
        store.close()


@pytest.mark.usefixtures("each_engine")
def test_forked_child_removes_nothing(path: Path) -> None:
    with StoreCore(path) as store:
        store.execute(b"WRITE [(a,1)] FOR 100\n")
        pid = os.fork()
        if not pid:
            with contextlib.suppress(AssertionError):
                until(lambda: not len(store._engine), seconds=0.3)
            os._exit(len(store._engine))
        until(lambda: not len(store))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
