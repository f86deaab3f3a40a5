"""A store that is kept: nothing is told before it is safe, and compaction in its place."""

import errno
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kvs
from kvs import Store
from kvs.engine.interface import JobCursor, TableView
from kvs.errors import (
    CorruptionError,
    DataDirectoryError,
    DirectoryLockedError,
    JournalWriteError,
    KvsError,
    SnapshotError,
    StoreClosedError,
    StoreNotEmptyError,
)
from kvs.journal.queue import JournalQueue, RotationPoint
from kvs.journal.storage import Storage
from kvs.settings import DataSettings
from kvs.snapshot.reader import load
from kvs.snapshot.writer import SnapshotInfo, SnapshotWriter
from kvs.store.core import StoreCore as CoreStore
from kvs.store.persistence import Persistence
from kvs.store.subscriptions import Change, Watch
from tests import strategies
from tests.helpers import SECONDS, content, until, write_jobs
from tests.journal.builders import contents, read
from tests.journal.fake_storage import Count, Fault, Gate, put_in
from tests.model import Model


@pytest.fixture(name="gate")
def _gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate = Gate()
    put_in(monkeypatch, gate)
    return gate


@pytest.fixture(name="fault")
def _fault(monkeypatch: pytest.MonkeyPatch) -> Fault:
    fault = Fault()
    put_in(monkeypatch, fault)
    return fault


@contextmanager
def in_background(call: Callable[[], object]) -> Iterator[list[object]]:
    """Call `call` on a thread, which has ended at the end; yield a list that gets the result."""
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    try:
        yield results
    finally:
        thread.join(SECONDS)
        assert not thread.is_alive()


def test_what_was_written_is_there_again_with_its_revision(tmp_path: Path) -> None:
    with Store(tmp_path / "d") as store:
        assert store.write({"a": "1", "b": "2"}) == 1
        assert store.delete(["a", "x"]) == [b"x"]
        assert store.delete(["x"]) == [b"x"]
    with Store(tmp_path / "d") as store:
        assert (store.items(), store.revision) == ([(b"b", b"2")], 2)
        assert store.write([("c", "3")]) == 3
        found = store.recovered
        assert found is not None
        assert (found.revision, found.pairs, found.commands, found.torn) == (2, 1, 2, None)
    assert read(tmp_path / "d")[1] == {b"b": b"2", b"c": b"3"}


@pytest.mark.slow
@given(st.lists(strategies.scripts(), min_size=1, max_size=5))
def test_whatever_was_carried_out_it_is_there_again(
    tmp_path_factory: pytest.TempPathFactory, scripts: list[bytes]
) -> None:
    path, model = tmp_path_factory.mktemp("data"), Model()
    path.chmod(0o700)
    for number, script in enumerate(scripts):
        with Store(path, DataSettings("never", segment_bytes=100)) as store:
            offset = 0
            while offset < len(script):
                offset = store.execute(script, offset).offset
            model.run(script)
            assert store.items() == sorted(model.pairs.items())
            assert store.revision == model.revision
            if number % 2:
                store.compact()
    found, pairs = read(path)
    assert (pairs, found.revision) == (model.pairs, model.revision)


def waits_for_the_disk(thread: threading.Thread) -> bool:
    """Tell whether a thread stands in `Log.wait`."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        if frame.f_code is JournalQueue.wait.__code__:
            return True
        frame = frame.f_back
    return False


READS: list[Callable[[Store], object]] = [
    lambda store: store.read(["k"]),
    lambda store: store.items(),
    len,
    lambda store: "k" in store,
    lambda store: store.revision,
    lambda store: store.write({"other": "1"}),
    lambda store: store.delete(["k"]),
    lambda store: store.delete(["not-there"]),
]


@pytest.mark.parametrize("call", READS)
def test_no_method_comes_back_before_what_it_tells_is_on_disk(
    tmp_path: Path, gate: Gate, call: Callable[[Store], object]
) -> None:
    with Store(tmp_path / "d") as store:
        with gate.shut():
            store.execute(b"WRITE [(k,1)]\n")
            gate.wait_until_held()
            point = store.commit_point()
            assert not point.is_committed
            began, results = threading.Event(), []

            def carry_out() -> None:
                began.set()
                results.append((call(store), point.is_committed))

            thread = threading.Thread(target=carry_out)
            thread.start()
            assert began.wait(SECONDS)
            until(lambda: waits_for_the_disk(thread))
            assert results == []
        thread.join(SECONDS)
        assert [safe for _, safe in results] == [True]


def test_a_watch_is_told_only_of_what_is_on_disk(tmp_path: Path, gate: Gate) -> None:
    with Store(tmp_path / "d") as store, store.watch(["k"]) as watch:
        with gate.shut():
            store.execute(b"WRITE [(k,1)]\nDELETE [k]\n")
            gate.wait_until_held()
            assert (watch.outbox.available, len(watch.outbox)) == (0, 2)
            assert watch.next(0) is None
            with store.watch(["k"]) as later:
                store.execute(b"WRITE [(k,2)]\n")
                assert (watch.outbox.available, later.outbox.available) == (0, 0)
        changes = [watch.next(SECONDS) for _ in range(3)]
        assert changes == [Change(b"k", b"1"), Change(b"k", None), Change(b"k", b"2")]


def test_no_line_of_an_output_and_no_snapshot_comes_before_its_changes(
    tmp_path: Path, gate: Gate
) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": "WRITE [(k,1)]\nREAD [k]\nSHOW\nBACKUP\n"})
    told: list[str] = []
    with Store(tmp_path / "d") as store:
        with gate.shut():
            results: list[kvs.Report] = []
            thread = threading.Thread(target=lambda: results.append(store.run_jobs(jobs)))
            thread.start()
            gate.wait_until_held()
            told.append(content(jobs / "a.out").decode())
            told += [path.name for path in jobs.glob("*.bck")]
        thread.join(SECONDS)
        assert told == [""]
        assert not results[0].failed
    assert content(jobs / "a.out") == b"[(k,1)]\n(k, 1)\n"
    assert load(os.fsencode(jobs / "a-1.bck")) == {b"k": b"1"}


def test_a_snapshot_is_put_in_place_only_after_the_changes_it_shows(
    tmp_path: Path, gate: Gate
) -> None:
    with Store(tmp_path / "d") as store:
        with gate.shut():
            store.execute(b"WRITE [(k,1)]\n")
            gate.wait_until_held()
            thread = threading.Thread(target=lambda: store.backup(tmp_path / "k.bck"))
            thread.start()
            until(lambda: waits_for_the_disk(thread))
            assert not (tmp_path / "k.bck").exists()
        thread.join(SECONDS)
    assert load(os.fsencode(tmp_path / "k.bck")) == {b"k": b"1"}


def test_a_job_of_fifty_thousand_commands_costs_tens_of_syncs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = Count()
    put_in(monkeypatch, count)
    text = b"".join(b"WRITE [(k%d,v)]\nREAD [k%d]\n" % (n, n) for n in range(25_000))
    jobs = write_jobs(tmp_path / "jobs", {"a": text})
    with Store(tmp_path / "d") as store:
        assert not store.run_jobs(jobs, threads=1).failed
    assert 1 < count.of["after sync"] < 100
    assert content(jobs / "a.out").count(b"\n") == 25_000


# Failures.


def failure_of(watch: Watch) -> KvsError | None:
    """Wait for the next change; return what was raised instead."""
    try:
        watch.next(SECONDS)
    except KvsError as error:
        return error
    return None


def test_when_the_journal_fails_every_method_says_so_and_nothing_is_told(
    tmp_path: Path, fault: Fault
) -> None:
    store = Store(tmp_path / "d")
    watch, closed = store.watch(["k"]), store.watch(["k"])
    store.write({"k": "1"})
    assert watch.next(SECONDS) == Change(b"k", b"1")
    closed.close()
    fault.armed = True
    with (
        in_background(lambda: failure_of(watch)) as waited,
        pytest.raises(JournalWriteError) as failed,
    ):
        store.write({"k": "2"})
    assert waited == [failed.value]
    assert failure_of(store.watch(["k"])) is failed.value
    assert closed.next() == Change(b"k", b"1")
    assert closed.next() is None
    assert failed.value.revision == 1
    jobs = write_jobs(tmp_path / "jobs", {"a": "READ [k]\n"})
    more: list[Callable[[Store], object]] = [
        lambda store: store.execute(b"READ [k]\n"),
        lambda store: store.backup(tmp_path / "k.bck"),
        lambda store: store.compact(),
        lambda store: store.run_jobs(jobs),
        lambda store: store.close(),
    ]
    for call in [*READS, *more]:
        with pytest.raises(JournalWriteError):
            call(store)
    assert watch.outbox.available == 0
    assert fault.failed == 1
    store.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "jobs"]
    assert [path.name for path in jobs.iterdir()] == ["a.job"]
    assert set(contents(tmp_path / "d")) == {"0000000001.journal"}
    fault.armed = False
    with Store(tmp_path / "d") as store:
        assert store.read(["k"])[b"k"] in {b"1", b"2"}


def test_jobs_stop_when_the_journal_fails_whatever_they_wait_for(
    tmp_path: Path, fault: Fault
) -> None:
    text = "WRITE [(k,1)]\nBACKUP\nWAIT 3600000\n"
    jobs = write_jobs(tmp_path / "jobs", {"a": text, "b": text, "c": "WRITE [(k,2)]\n"})
    told: list[kvs.KvsError] = []
    store = Store(tmp_path / "d")
    with in_background(lambda: store.run_jobs(jobs, threads=2, on_error=told.append)) as results:
        until(lambda: all(b"Waiting" in content(jobs / f"{name}.out") for name in "ab"))
        until(lambda: len(list(jobs.glob("*.bck"))) == 2)
        fault.armed = True
        with pytest.raises(JournalWriteError):
            store.write({"k": "3"})
    [report] = results
    assert isinstance(report, kvs.Report)
    assert [job.state.value for job in report.jobs] == ["failed", "failed", "not started"]
    assert sorted(map(str, told)) == [
        f"{jobs}/{name}.job: the journal failed, and what it did after revision 2 may be lost"
        for name in "ab"
    ]
    assert content(jobs / "a.out") == b"Waiting...\n"
    with pytest.raises(JournalWriteError):
        store.close()


def test_a_snapshot_whose_journal_fails_is_reported_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = Fault("before append")
    put_in(monkeypatch, fault)
    jobs = write_jobs(tmp_path / "jobs", {"a": "WRITE [(k,1)]\nBACKUP\nREAD [k]\n"})
    told: list[kvs.KvsError] = []
    store = Store(tmp_path / "d")

    original = CoreStore.fork_snapshot

    def fork(self: CoreStore, draft: SnapshotWriter) -> None:
        original(self, draft)
        fault.armed = True
        self.execute(b"WRITE [(other,1)]\n")
        until(lambda: self.failure)

    monkeypatch.setattr(CoreStore, "fork_snapshot", fork)
    report = store.run_jobs(jobs, on_error=told.append)
    assert report.failed
    reason = (
        f"{tmp_path}/d: the journal cannot be written: Input/output error; "
        "revisions up to 1 are synced, later ones are lost; fix the cause and restart"
    )
    assert (
        f"{jobs}/a.job:2: snapshot 1 failed: {jobs}/a-1.bck: no snapshot was written: {reason}"
        in map(str, told)
    )
    assert sorted(path.name for path in jobs.iterdir()) == ["a.job", "a.out"]
    assert content(jobs / "a.out") == b""
    with pytest.raises(JournalWriteError):
        store.close()


def test_whoever_opens_it_a_second_time_is_refused(tmp_path: Path) -> None:
    with Store(tmp_path / "d"):
        with pytest.raises(DirectoryLockedError) as told:
            Store(tmp_path / "d")
        assert told.value.pid == os.getpid()
    with Store(tmp_path / "d"):
        pass


def test_what_is_damaged_is_refused_and_unlocked_again(tmp_path: Path) -> None:
    with Store(tmp_path / "d") as store:
        store.write({"k": "1"})
    [segment] = (tmp_path / "d").glob("*.journal")
    segment.write_bytes(segment.read_bytes().replace(b"(k,1)", b"(k,2)"))
    before = contents(tmp_path / "d")
    for _ in range(2):
        with pytest.raises(CorruptionError) as told:
            Store(tmp_path / "d")
        assert told.value.reason == "a group does not match its checksum"
    assert contents(tmp_path / "d") == before


def test_a_closed_store_refuses_everything(tmp_path: Path) -> None:
    store = Store(tmp_path / "d")
    store.write({"k": "1"})
    store.close()
    store.close()
    more: list[Callable[[Store], object]] = [
        lambda store: store.execute(b"SHOW\n"),
        lambda store: store.compact(),
    ]
    for call in [*READS, *more]:
        with pytest.raises(StoreClosedError, match="the store is closed"):
            call(store)


def test_a_backup_is_restored_into_a_store_without_a_past_alone(tmp_path: Path) -> None:
    with Store() as memory:
        memory.write({"a": "1", "b": "2"})
        memory.backup(tmp_path / "x.bck")
    with Store(tmp_path / "d") as store:
        assert store.restore(tmp_path / "x.bck") == 1
        with pytest.raises(StoreNotEmptyError) as told:
            store.restore(tmp_path / "x.bck")
        assert str(told.value) == (
            f"{tmp_path}/d: a backup is restored into a new or empty data directory only"
        )
    with Store(tmp_path / "d") as store:
        assert store.items() == [(b"a", b"1"), (b"b", b"2")]


# Compaction.


class AtSync:
    """What children of this process do when they are about to sync their file."""

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
        """Return a child of this process that has stopped itself; 0 if there is none."""
        with suppress(ChildProcessError):  # there is none yet
            found = os.waitid(os.P_ALL, 0, os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
            return 0 if found is None else found.si_pid
        return 0


def test_a_compaction_leaves_a_snapshot_and_an_empty_segment(tmp_path: Path) -> None:
    with Store(tmp_path / "d") as store:
        for number in range(100):
            store.write({"k": str(number), f"k{number % 7}": "x"})
        written = store.compact()
        assert written is not None
        assert (written.revision, written.pairs) == (100, 8)
        assert set(contents(tmp_path / "d")) == {
            ".kvs.lock",
            "0000000002.journal",
            "0000000002.snapshot",
        }
        expected = store.items()
    found, pairs = read(tmp_path / "d")
    assert sorted(pairs.items()) == expected
    assert (found.revision, found.changes, found.snapshot_bytes) == (100, 0, written.bytes)
    assert Store().compact() is None


def test_a_finalizer_that_writes_while_a_compaction_begins_is_part_of_its_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = Persistence.begin_compaction

    def within(data: Persistence, draft: SnapshotWriter, instant: TableView) -> RotationPoint:
        store.write({"b": "2"})  # as a finalizer may, in the thread that compacts
        return begin(data, draft, instant)

    monkeypatch.setattr(Persistence, "begin_compaction", within)
    with Store(tmp_path / "d") as store:
        store.write({"a": "1"})
        assert store.compact() is not None
        store.write({"c": "3"})
    with Store(tmp_path / "d") as store:
        assert store.items() == [(b"a", b"1"), (b"b", b"2"), (b"c", b"3")]
        assert store.revision == 3


@pytest.mark.parametrize("method", [Store.close, Store.compact])
def test_what_a_finalizer_calls_in_the_thread_that_writes_waits_for_no_compaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Callable[[Store], object]
) -> None:
    create = Storage.create
    called: list[str] = []

    def within(disk: Storage, name: bytes, *pieces: bytes) -> int:
        if threading.current_thread().name == "kvs-journal" and not called:
            called.append(name.decode())
            method(store)  # as a finalizer may, in the thread that writes
        return create(disk, name, *pieces)

    store = Store(tmp_path / "d")
    store.write({"a": "1"})
    monkeypatch.setattr(Storage, "create", within)
    with in_background(store.compact):
        pass
    assert called == ["0000000002.journal"]
    store.close()
    with Store(tmp_path / "d") as again:
        assert again.items() == [(b"a", b"1")]


def test_a_compaction_within_a_compaction_requests_no_further_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a request lets the journal go on, which may wait for the compaction under way."""
    finish = SnapshotWriter.finish
    requests: list[int] = []

    def within(draft: SnapshotWriter, *arguments: Callable[..., None]) -> SnapshotInfo:
        assert store.compact() is None  # as a finalizer may, in the thread that compacts
        return finish(draft, *arguments)

    with Store(tmp_path / "d") as store:
        store.write({"a": "1"})
        assert store._core._data is not None
        monkeypatch.setattr(store._core._data, "on_compaction_due", lambda: requests.append(1))
        monkeypatch.setattr(SnapshotWriter, "finish", within)
        assert store.compact() is not None
    assert requests == []


@pytest.mark.parametrize("method", [Store.close, Store.compact])
def test_what_a_finalizer_calls_while_a_backup_is_forked_waits_for_no_compaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Callable[[Store], object]
) -> None:
    fork = SnapshotWriter.fork
    compactions: list[threading.Thread] = []

    def within(
        draft: SnapshotWriter, revision: int, pairs: int, blocks: Callable[[], Iterable[bytes]]
    ) -> None:
        if not compactions:
            compactions.append(threading.Thread(target=compact))
            compactions[0].start()
            until(lambda: store._core._compacting[0])
            method(store)  # as a finalizer may, in the thread that forks
        fork(draft, revision, pairs, blocks)

    def compact() -> None:
        with suppress(StoreClosedError):
            store.compact()

    def backup() -> None:
        with suppress(StoreClosedError):
            store.backup(tmp_path / "x.bck")

    store = Store(tmp_path / "d")
    store.write({"a": "1"})
    monkeypatch.setattr(SnapshotWriter, "fork", within)
    with in_background(backup):
        pass
    compactions[0].join(SECONDS)
    assert not compactions[0].is_alive()
    store.close()
    with Store(tmp_path / "d") as again:
        assert again.items() == [(b"a", b"1")]


def test_it_comes_by_itself_when_the_journal_has_outgrown_its_bound(tmp_path: Path) -> None:
    settings = DataSettings("never", compact_bytes=2000)
    with Store(tmp_path / "d", settings) as store:
        for number in range(1000):
            store.execute(b"WRITE [(k%d,%d)]\n" % (number % 10, number))
            store.commit_point().wait()
        until(lambda: list((tmp_path / "d").glob("*.snapshot")))
        expected = store.items()
    found, pairs = read(tmp_path / "d")
    assert (sorted(pairs.items()), found.revision) == (expected, 1000)
    assert found.snapshot is not None


def test_the_bound_follows_the_size_of_the_last_snapshot(tmp_path: Path) -> None:
    settings = DataSettings("never", compact_bytes=1)
    with Store(tmp_path / "d", settings) as store:
        store.write({f"key{number}": "x" * 40 for number in range(2000)})
        until(lambda: list((tmp_path / "d").glob("*.snapshot")))
        until(lambda: not (tmp_path / "d" / "0000000001.journal").exists())
        before = set(os.listdir(tmp_path / "d"))
        for _ in range(100):
            store.write({"k": "1"})
        assert set(os.listdir(tmp_path / "d")) == before


def test_writers_go_on_while_the_child_is_at_work(
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
def test_writers_go_on_while_what_was_not_synced_is_before_a_compaction(
    tmp_path: Path, gate: Gate, fsync: str
) -> None:
    with Store(tmp_path / "d", DataSettings(fsync, 3600)) as store:
        store.write({"k": "1"})
        with gate.shut(), in_background(store.compact):
            gate.wait_until_held()
            with in_background(lambda: store.write({"k": "2"})) as results:
                until(lambda: results)
            assert results == [2]
            gate.open()
    assert read(tmp_path / "d")[1] == {b"k": b"2"}


def test_a_sync_that_fails_before_a_compaction_is_the_end_for_the_journal_too(
    tmp_path: Path, fault: Fault
) -> None:
    store = Store(tmp_path / "d", DataSettings("never"))
    store.write({"k": "1"})
    fault.armed = True
    with pytest.raises(SnapshotError) as told:
        store.compact()
    assert told.value.reason == "Input/output error"
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
def test_a_compaction_whose_child_fails_loses_nothing_and_is_tried_again_later(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    act: Callable[[], None],
    reason: str,
) -> None:
    failing = AtSync(monkeypatch, act)
    with Store(tmp_path / "d", DataSettings("never", compact_bytes=1000)) as store:
        with pytest.raises(SnapshotError) as told:
            store.compact()
        assert told.value.reason == reason
        with caplog.at_level(logging.WARNING, "kvs.store"):
            for number in range(30):
                store.write({"k": str(number)})
            until(lambda: caplog.records)
        assert caplog.records[0].getMessage() == (
            f"{tmp_path}/d: compaction: no snapshot was written: {reason}; "
            "it is tried again when the journal has grown more"
        )
        assert not list((tmp_path / "d").glob("*.snapshot"))
        failing.active = False
        while not list((tmp_path / "d").glob("*.snapshot")):
            store.write({"k": "more"})
    assert read(tmp_path / "d")[1] == {b"k": b"more"}
    assert not list((tmp_path / "d").glob(".kvs*"))


def test_a_compaction_that_meets_a_full_quota_is_tried_again_with_the_reserve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quota is not seen before: fstatvfs(2) does not tell of it."""
    reserve = tmp_path / "d" / "kvs.reserve"

    def meet_quota() -> None:
        if reserve.exists():
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    AtSync(monkeypatch, meet_quota)
    with Store(tmp_path / "d") as store:
        store.write({"k": "1"})
        written = store.compact()
        assert written is not None
        assert written.pairs == 1
        assert reserve.exists()  # made again
    assert read(tmp_path / "d")[1] == {b"k": b"1"}


def test_a_finalizer_in_the_thread_that_compacts_for_a_full_disk_does_not_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal goes on only when the compaction is done."""
    failing: list[str] = []
    revisions: list[int] = []

    def step(name: str) -> None:
        if failing == [name]:
            failing.clear()
            no_space()
        if name == "before commit" and threading.current_thread().name == "kvs-compaction":
            # What a finalizer does that the collector runs here.
            revisions.append(store.write({"b": "2"}))
            store.read(["b"])

    put_in(monkeypatch, step)
    with Store(tmp_path / "d") as store:
        failing.append("before append")
        store.write({"a": "1"})
        until(lambda: revisions)
        store.write({"c": "3"})
    assert revisions == [2]
    assert read(tmp_path / "d")[1] == {b"a": b"1", b"b": b"2", b"c": b"3"}


def test_the_mark_of_an_unknown_job_is_refused_and_no_harm(tmp_path: Path) -> None:
    with Store(tmp_path / "d") as store:
        with pytest.raises(ValueError, match="job 7 of the mark is not known"):
            store._core.execute(b"WRITE [(a,1)]\n", mark=JobCursor(7, 0))
        assert store.write({"b": "2"}) == 1


def test_a_needless_file_that_cannot_be_removed_is_told_and_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = Fault("before remove", errno.EPERM)
    put_in(monkeypatch, fault)
    fault.armed = True
    with Store(tmp_path / "d") as store:
        store.write({"k": "1"})
        with pytest.raises(DataDirectoryError) as told:
            store.compact()
        assert str(told.value) == (
            f"{tmp_path}/d/0000000001.journal: cannot remove it: Operation not permitted"
        )
        store.write({"k": "2"})
    assert read(tmp_path / "d")[1] == {b"k": b"2"}
    with pytest.raises(DataDirectoryError):
        Store(tmp_path / "d")
    fault.armed = False
    with Store(tmp_path / "d") as store:
        assert store.read(["k"]) == {b"k": b"2"}
        assert "0000000001.journal" not in contents(tmp_path / "d")


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
    found, pairs = read(tmp_path / "d")
    assert (sorted(pairs.items()), found.revision) == (expected, 450)
