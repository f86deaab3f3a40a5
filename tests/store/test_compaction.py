"""Compaction: what it leaves, beside writers, finalizers and failures."""

import errno
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import pytest

from kvs import Store
from kvs.engine.interface import TableView
from kvs.errors import (
    DataDirectoryError,
    JournalWriteError,
    SnapshotError,
    StoreClosedError,
)
from kvs.journal.queue import RotationPoint
from kvs.journal.storage import Storage
from kvs.settings import DataSettings
from kvs.snapshot.writer import SnapshotInfo, SnapshotWriter
from kvs.store.history import history, state_at_revision
from kvs.store.persistence import Persistence
from tests.helpers import SECONDS, until
from tests.journal.builders import contents, read
from tests.journal.fake_storage import Fault, Gate, install
from tests.store.background import in_background


class AtSync:
    """Calls `act` in each child of this process before the child syncs its file."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
        self.active = True
        parent, real = os.getpid(), os.fsync

        def fsync(file: int) -> None:
            if self.active and os.getpid() != parent:
                act()
            real(file)

        monkeypatch.setattr(os, "fsync", fsync)

    @staticmethod
    def child() -> int:
        """Return a stopped child of this process; 0 if there is none."""
        with suppress(ChildProcessError):  # no child yet
            stopped = os.waitid(os.P_ALL, 0, os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
            return 0 if stopped is None else stopped.si_pid
        return 0


def test_compaction_leaves_a_snapshot_and_an_empty_segment(tmp_path: Path) -> None:
    with Store(tmp_path / "d") as store:
        for number in range(100):
            store.write({"k": str(number), f"k{number % 7}": "x"})
        info = store.compact()
        assert info is not None
        assert (info.revision, info.pairs) == (100, 8)
        assert set(contents(tmp_path / "d")) == {
            ".kvs.lock",
            "0000000002.journal",
            "0000000002.snapshot",
        }
        expected = store.items()
    state, pairs = read(tmp_path / "d")
    assert sorted(pairs.items()) == expected
    assert (state.revision, state.changes, state.snapshot_bytes) == (100, 0, info.bytes)
    assert Store().compact() is None


def test_compaction_ended_before_its_fork_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_data: Persistence, _snapshot: SnapshotWriter, _view: TableView) -> RotationPoint:
        raise MemoryError

    with Store(tmp_path / "d") as store:
        store.write({"a": "1"})
        before = os.listdir("/proc/self/fd"), set(contents(tmp_path / "d"))
        with monkeypatch.context() as patch:
            patch.setattr(Persistence, "begin_compaction", interrupt)
            with pytest.raises(MemoryError):
                store.compact()
        assert (os.listdir("/proc/self/fd"), set(contents(tmp_path / "d"))) == before
        assert store.compact() is not None


def test_snapshot_has_the_write_of_a_finalizer_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = Persistence.begin_compaction

    def write_first(data: Persistence, snapshot: SnapshotWriter, view: TableView) -> RotationPoint:
        store.write({"b": "2"})  # as a finalizer may, in the thread that compacts
        return begin(data, snapshot, view)

    monkeypatch.setattr(Persistence, "begin_compaction", write_first)
    with Store(tmp_path / "d") as store:
        store.write({"a": "1"})
        assert store.compact() is not None
        store.write({"c": "3"})
    with Store(tmp_path / "d") as store:
        assert store.items() == [(b"a", b"1"), (b"b", b"2"), (b"c", b"3")]
        assert store.revision == 3


@pytest.mark.parametrize("method", [Store.close, Store.compact])
def test_finalizer_in_the_writer_thread_does_not_deadlock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Callable[[Store], object]
) -> None:
    create = Storage.create
    called: list[str] = []

    def call_method(storage: Storage, name: bytes, start: bytes) -> int:
        if threading.current_thread().name == "kvs-journal" and not called:
            called.append(name.decode())
            method(store)  # as a finalizer may, in the writer thread
        return create(storage, name, start)

    store = Store(tmp_path / "d")
    store.write({"a": "1"})
    monkeypatch.setattr(Storage, "create", call_method)
    with in_background(store.compact):
        pass
    assert called == ["0000000002.journal"]
    store.close()
    with Store(tmp_path / "d") as reopened:
        assert reopened.items() == [(b"a", b"1")]


def test_nested_compaction_requests_no_further_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a requested compaction resumes the journal, which may wait for this one."""
    finish = SnapshotWriter.finish
    requests: list[int] = []

    def compact_first(snapshot: SnapshotWriter, *arguments: Callable[..., None]) -> SnapshotInfo:
        assert store.compact() is None  # as a finalizer may, in the thread that compacts
        return finish(snapshot, *arguments)

    with Store(tmp_path / "d") as store:
        store.write({"a": "1"})
        assert store._core._data is not None
        monkeypatch.setattr(store._core._data, "request_compaction", lambda: requests.append(1))
        monkeypatch.setattr(SnapshotWriter, "finish", compact_first)
        assert store.compact() is not None
    assert requests == []


@pytest.mark.parametrize("method", [Store.close, Store.compact])
def test_finalizer_during_a_fork_does_not_deadlock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Callable[[Store], object]
) -> None:
    fork = SnapshotWriter.fork
    compactions: list[threading.Thread] = []

    def call_method(
        snapshot: SnapshotWriter, revision: int, pairs: int, blocks: Callable[[], Iterable[bytes]]
    ) -> None:
        if not compactions:
            compactions.append(threading.Thread(target=compact))
            compactions[0].start()
            until(lambda: store._core._compaction.is_running)
            method(store)  # as a finalizer may, in the thread that forks
        fork(snapshot, revision, pairs, blocks)

    def compact() -> None:
        with suppress(StoreClosedError):
            store.compact()

    def backup() -> None:
        with suppress(StoreClosedError):
            store.backup(tmp_path / "x.bck")

    store = Store(tmp_path / "d")
    store.write({"a": "1"})
    monkeypatch.setattr(SnapshotWriter, "fork", call_method)
    with in_background(backup):
        pass
    compactions[0].join(SECONDS)
    assert not compactions[0].is_alive()
    store.close()
    with Store(tmp_path / "d") as reopened:
        assert reopened.items() == [(b"a", b"1")]


def test_journal_over_its_limit_is_compacted(tmp_path: Path) -> None:
    settings = DataSettings("never", compact_bytes=2000)
    with Store(tmp_path / "d", settings) as store:
        for number in range(1000):
            store.execute(b"WRITE [(k%d,%d)]\n" % (number % 10, number))
            store.commit_point().wait()
        until(lambda: list((tmp_path / "d").glob("*.snapshot")))
        expected = store.items()
    state, pairs = read(tmp_path / "d")
    assert (sorted(pairs.items()), state.revision) == (expected, 1000)
    assert state.snapshot is not None


def test_limit_follows_the_size_of_the_last_snapshot(tmp_path: Path) -> None:
    with Store(tmp_path / "d", DataSettings(compact_bytes=1)) as store:
        store.write({f"key{number}": "x" * 40 for number in range(2000)})
        until(lambda: list((tmp_path / "d").glob("*.snapshot")))
        until(lambda: not (tmp_path / "d" / "0000000001.journal").exists())
        before = set(os.listdir(tmp_path / "d"))
        for _ in range(100):
            store.write({"k": "1"})
        assert set(os.listdir(tmp_path / "d")) == before


def test_writes_continue_while_the_child_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = AtSync(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGSTOP))
    with Store(tmp_path / "d") as store:
        store.write({"k": "1"})
        with in_background(store.compact) as results:
            child = until(stopped.child)
            for value in range(2, 50):
                store.write({"k": str(value)})
            assert results == []
            os.kill(child, signal.SIGCONT)
        assert isinstance(results[0], SnapshotInfo)
        assert results[0].revision == 1
    assert read(tmp_path / "d")[1] == {b"k": b"49"}


@pytest.mark.parametrize("fsync", ["interval", "never"])
def test_writes_continue_during_the_presync(tmp_path: Path, gate: Gate, fsync: str) -> None:
    with Store(tmp_path / "d", DataSettings(fsync, 3600)) as store:
        store.write({"k": "1"})
        with gate.shut(), in_background(store.compact):
            gate.wait_until_held()
            with in_background(lambda: store.write({"k": "2"})) as results:
                until(lambda: results)
            assert results == [2]
            gate.open()
    assert read(tmp_path / "d")[1] == {b"k": b"2"}


def test_failed_presync_ends_the_journal(tmp_path: Path, fault: Fault) -> None:
    store = Store(tmp_path / "d", DataSettings("never"))
    store.write({"k": "1"})
    fault.armed = True
    with pytest.raises(SnapshotError) as caught:
        store.compact()
    assert caught.value.reason == "Input/output error"
    fault.armed = False
    assert until(lambda: store.failure)
    for refused in (lambda: store.write({"k": "2"}), store.close):
        with pytest.raises(JournalWriteError) as failed:
            refused()
        assert failed.value.reason == "Input/output error"


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def no_space() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("act", "reason"),
    [(kill_self, "its process was killed by SIGKILL"), (no_space, "No space left on device")],
)
def test_failed_compaction_loses_nothing_and_is_repeated(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    act: Callable[[], None],
    reason: str,
) -> None:
    failing = AtSync(monkeypatch, act)
    with Store(tmp_path / "d", DataSettings("never", compact_bytes=1000)) as store:
        with pytest.raises(SnapshotError) as caught:
            store.compact()
        assert caught.value.reason == reason
        with caplog.at_level(logging.WARNING, "kvs.store"):
            for number in range(30):
                store.write({"k": str(number)})
            until(lambda: caplog.records)
        assert caplog.records[0].getMessage() == (
            f"{tmp_path}/d: compaction: not written: {reason}; "
            "compaction is retried when the journal has grown"
        )
        assert not list((tmp_path / "d").glob("*.snapshot"))
        failing.active = False
        while not list((tmp_path / "d").glob("*.snapshot")):
            store.write({"k": "more"})
    assert read(tmp_path / "d")[1] == {b"k": b"more"}
    assert not list((tmp_path / "d").glob(".kvs*"))


def test_compaction_over_quota_is_retried_with_the_reserve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fstatvfs(2) does not report a quota, so the compaction meets it only when it writes."""
    reserve = tmp_path / "d" / "kvs.reserve"

    def meet_quota() -> None:
        if reserve.exists():
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    AtSync(monkeypatch, meet_quota)
    with Store(tmp_path / "d") as store:
        store.write({"k": "1"})
        info = store.compact()
        assert info is not None
        assert info.pairs == 1
        assert reserve.exists()  # renewed
    assert read(tmp_path / "d")[1] == {b"k": b"1"}


def test_finalizer_in_the_compaction_thread_does_not_deadlock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal is held until the compaction is done."""
    failing: list[str] = []
    revisions: list[int] = []

    def step(name: str) -> None:
        if failing == [name]:
            failing.clear()
            no_space()
        if name == "before commit" and threading.current_thread().name == "kvs-compaction":
            # A finalizer that the garbage collector runs here.
            revisions.append(store.write({"b": "2"}))
            store.read(["b"])

    install(monkeypatch, step)
    with Store(tmp_path / "d") as store:
        failing.append("before append")
        store.write({"a": "1"})
        until(lambda: revisions)
        store.write({"c": "3"})
    assert revisions == [2]
    assert read(tmp_path / "d")[1] == {b"a": b"1", b"b": b"2", b"c": b"3"}


def test_replaced_file_that_cannot_be_removed_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = Fault("before remove", errno.EPERM)
    install(monkeypatch, fault)
    fault.armed = True
    with Store(tmp_path / "d") as store:
        store.write({"k": "1"})
        with pytest.raises(DataDirectoryError) as caught:
            store.compact()
        assert str(caught.value) == (
            f"{tmp_path}/d/0000000001.journal: cannot remove it: Operation not permitted"
        )
        store.write({"k": "2"})
    assert read(tmp_path / "d")[1] == {b"k": b"2"}
    with Store(tmp_path / "d") as store:
        fault.armed = False
        assert store.read(["k"]) == {b"k": b"2"}
        store.compact()
        assert set(contents(tmp_path / "d")) == {
            ".kvs.lock", "0000000003.journal", "0000000003.snapshot",
        }  # fmt: skip


def test_kept_segments_outlive_openings_until_a_compaction(tmp_path: Path) -> None:
    keeping = DataSettings(keep_segments=2, segment_bytes=1)
    expected: dict[int, bytes | None] = {}
    for number in range(4):
        with Store(tmp_path / "d", keeping) as store:
            for step in range(3):
                store.write({"k": f"{number}.{step}"})
                expected[store.revision] = f"{number}.{step}".encode()
            store.compact()
    kept = {version.revision: version.value for version in history(tmp_path / "d", b"k")}
    assert kept.items() <= expected.items()
    assert 3 <= len(kept) <= 5
    with Store(tmp_path / "d") as store:
        assert store.read(["k"]) == {b"k": b"3.2"}
        assert store.revision == 12
    again = {version.revision: version.value for version in history(tmp_path / "d", b"k")}
    assert again == kept
    for revision, value in kept.items():
        assert state_at_revision(tmp_path / "d", revision) == ({b"k": value}, {})
    with Store(tmp_path / "d") as store:
        store.compact()
    assert [version.revision for version in history(tmp_path / "d", b"k")] == [12]


@pytest.mark.slow
def test_compactions_beside_writers_lose_nothing(tmp_path: Path, often_switching: None) -> None:
    with Store(tmp_path / "d", DataSettings(compact_bytes=3000, segment_bytes=2000)) as store:

        def write(name: int) -> None:
            for number in range(150):
                store.write({f"k{name}": str(number), f"k{name}-{number % 9}": str(number)})

        threads = [threading.Thread(target=write, args=(name,)) for name in range(3)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            store.compact()
        expected = store.items()
    state, pairs = read(tmp_path / "d")
    assert (sorted(pairs.items()), state.revision) == (expected, 450)
