"""A persistent store: results are released after their commit, and failures of the journal."""

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kvs
from kvs import Store
from kvs.engine.interface import JobCursor
from kvs.errors import (
    CorruptionError,
    DirectoryLockedError,
    JournalWriteError,
    KvsError,
    StoreClosedError,
    StoreNotEmptyError,
)
from kvs.journal.queue import JournalQueue
from kvs.settings import DataSettings
from kvs.snapshot.reader import load
from kvs.snapshot.writer import SnapshotWriter
from kvs.store.core import StoreCore as CoreStore
from kvs.store.watch import Change, Watch
from tests import strategies
from tests.helpers import SECONDS, content, until, write_jobs
from tests.journal.builders import contents, read
from tests.journal.fake_storage import Count, Fault, Gate, install
from tests.model import Model
from tests.store.background import in_background


def test_reopened_store_has_its_pairs_and_revision(tmp_path: Path) -> None:
    with Store(tmp_path / "d") as store:
        assert store.write({"a": "1", "b": "2"}) == 1
        assert store.delete(["a", "x"]) == [b"x"]
        assert store.delete(["x"]) == [b"x"]
    with Store(tmp_path / "d") as store:
        assert (store.items(), store.revision) == ([(b"b", b"2")], 2)
        assert store.write([("c", "3")]) == 3
        recovered = store.recovered
        assert recovered is not None
        assert (recovered.revision, recovered.pairs, recovered.commands, recovered.torn) == (
            2,
            1,
            2,
            None,
        )
    assert read(tmp_path / "d")[1] == {b"b": b"2", b"c": b"3"}


@pytest.mark.slow
@given(st.lists(strategies.scripts(), min_size=1, max_size=5))
def test_reopened_store_equals_the_model_after_any_script(
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
    state, pairs = read(path)
    assert (pairs, state.revision) == (model.pairs, model.revision)


def waits_for_commit(thread: threading.Thread) -> bool:
    """Return whether a thread is in `JournalQueue.wait`."""
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
def test_methods_return_only_after_the_commit(
    tmp_path: Path, gate: Gate, call: Callable[[Store], object]
) -> None:
    with Store(tmp_path / "d") as store:
        with gate.shut():
            store.execute(b"WRITE [(k,1)]\n")
            gate.wait_until_held()
            point = store.commit_point()
            assert not point.is_committed
            started, results = threading.Event(), []

            def run() -> None:
                started.set()
                results.append((call(store), point.is_committed))

            thread = threading.Thread(target=run)
            thread.start()
            assert started.wait(SECONDS)
            until(lambda: waits_for_commit(thread))
            assert results == []
        thread.join(SECONDS)
        assert [is_committed for _, is_committed in results] == [True]


def test_watch_yields_committed_changes_only(tmp_path: Path, gate: Gate) -> None:
    with Store(tmp_path / "d") as store, store.watch(["k"]) as watch:
        with gate.shut():
            store.execute(b"WRITE [(k,1)]\nDELETE [k]\n")
            gate.wait_until_held()
            assert (watch._reader.outbox.available, len(watch._reader.outbox)) == (0, 2)
            assert watch.next(0) is None
            with store.watch(["k"]) as later:
                store.execute(b"WRITE [(k,2)]\n")
                assert (watch._reader.outbox.available, later._reader.outbox.available) == (0, 0)
        changes = [watch.next(SECONDS) for _ in range(3)]
        assert changes == [Change(b"k", b"1"), Change(b"k", None), Change(b"k", b"2")]


def test_job_releases_output_and_backup_after_the_commit(tmp_path: Path, gate: Gate) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": "WRITE [(k,1)]\nREAD [k]\nSHOW\nBACKUP\n"})
    released: list[str] = []
    with Store(tmp_path / "d") as store:
        with gate.shut():
            results: list[kvs.Report] = []
            thread = threading.Thread(target=lambda: results.append(store.run_jobs(jobs)))
            thread.start()
            gate.wait_until_held()
            released.append(content(jobs / "a.out").decode())
            released += [path.name for path in jobs.glob("*.bck")]
        thread.join(SECONDS)
        assert released == [""]
        assert not results[0].failed
    assert content(jobs / "a.out") == b"[(k,1)]\n(k, 1)\n"
    assert load(os.fsencode(jobs / "a-1.bck")).pairs == {b"k": b"1"}


def test_backup_is_renamed_only_after_its_commit(tmp_path: Path, gate: Gate) -> None:
    with Store(tmp_path / "d") as store:
        with gate.shut():
            store.execute(b"WRITE [(k,1)]\n")
            gate.wait_until_held()
            thread = threading.Thread(target=lambda: store.backup(tmp_path / "k.bck"))
            thread.start()
            until(lambda: waits_for_commit(thread))
            assert not (tmp_path / "k.bck").exists()
        thread.join(SECONDS)
    assert load(os.fsencode(tmp_path / "k.bck")).pairs == {b"k": b"1"}


def test_job_of_50000_commands_costs_tens_of_syncs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = Count()
    install(monkeypatch, count)
    text = b"".join(b"WRITE [(k%d,v)]\nREAD [k%d]\n" % (n, n) for n in range(25_000))
    jobs = write_jobs(tmp_path / "jobs", {"a": text})
    with Store(tmp_path / "d") as store:
        assert not store.run_jobs(jobs, threads=1).failed
    assert 1 < count.of["after sync"] < 100
    assert content(jobs / "a.out").count(b"\n") == 25_000


# Failures.


def failure_of(watch: Watch) -> KvsError | None:
    """Wait for the next change; return the error that is raised instead."""
    try:
        watch.next(SECONDS)
    except KvsError as error:
        return error
    return None


def test_failed_journal_raises_in_every_method(tmp_path: Path, fault: Fault) -> None:
    store = Store(tmp_path / "d")
    watch, closed = store.watch(["k"]), store.watch(["k"])
    store.write({"k": "1"})
    assert watch.next(SECONDS) == Change(b"k", b"1")
    closed.close()
    fault.armed = True
    with (
        in_background(lambda: failure_of(watch)) as failures,
        pytest.raises(JournalWriteError) as failed,
    ):
        store.write({"k": "2"})
    assert failures == [failed.value]
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
    assert watch._reader.outbox.available == 0
    assert fault.failed == 1
    store.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "jobs"]
    assert [path.name for path in jobs.iterdir()] == ["a.job"]
    assert set(contents(tmp_path / "d")) == {"0000000001.journal"}
    fault.armed = False
    with Store(tmp_path / "d") as store:
        assert store.read(["k"])[b"k"] in {b"1", b"2"}


def test_failed_journal_stops_waiting_jobs(tmp_path: Path, fault: Fault) -> None:
    text = "WRITE [(k,1)]\nBACKUP\nWAIT 3600000\n"
    jobs = write_jobs(tmp_path / "jobs", {"a": text, "b": text, "c": "WRITE [(k,2)]\n"})
    errors: list[kvs.KvsError] = []
    store = Store(tmp_path / "d")
    with in_background(lambda: store.run_jobs(jobs, threads=2, on_error=errors.append)) as results:
        until(lambda: all(b"Waiting" in content(jobs / f"{name}.out") for name in "ab"))
        until(lambda: len(list(jobs.glob("*.bck"))) == 2)
        fault.armed = True
        with pytest.raises(JournalWriteError):
            store.write({"k": "3"})
    [report] = results
    assert isinstance(report, kvs.Report)
    assert [job.state.value for job in report.jobs] == ["failed", "failed", "not started"]
    assert sorted(map(str, errors)) == [
        f"{jobs}/{name}.job: the journal failed, and its changes after revision 2 may be lost"
        for name in "ab"
    ]
    assert content(jobs / "a.out") == b"Waiting...\n"
    with pytest.raises(JournalWriteError):
        store.close()


def test_backup_without_a_commit_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = Fault("before append")
    install(monkeypatch, fault)
    jobs = write_jobs(tmp_path / "jobs", {"a": "WRITE [(k,1)]\nBACKUP\nREAD [k]\n"})
    errors: list[kvs.KvsError] = []
    store = Store(tmp_path / "d")

    original = CoreStore.fork_snapshot

    def fork(self: CoreStore, snapshot: SnapshotWriter) -> None:
        original(self, snapshot)
        fault.armed = True
        self.execute(b"WRITE [(other,1)]\n")
        until(lambda: self.failure)

    monkeypatch.setattr(CoreStore, "fork_snapshot", fork)
    report = store.run_jobs(jobs, on_error=errors.append)
    assert report.failed
    reason = (
        f"{tmp_path}/d: cannot write the journal: Input/output error; "
        "revisions up to 1 are synced, later ones are lost; fix the cause and restart"
    )
    assert f"{jobs}/a.job:2: backup 1 failed: {jobs}/a-1.bck: not written: {reason}" in map(
        str, errors
    )
    assert sorted(path.name for path in jobs.iterdir()) == ["a.job", "a.out"]
    assert content(jobs / "a.out") == b""
    with pytest.raises(JournalWriteError):
        store.close()


def test_second_open_is_refused(tmp_path: Path) -> None:
    with Store(tmp_path / "d"):
        with pytest.raises(DirectoryLockedError) as caught:
            Store(tmp_path / "d")
        assert caught.value.pid == os.getpid()
    with Store(tmp_path / "d"):
        pass


def test_damaged_directory_is_refused_and_unlocked(tmp_path: Path) -> None:
    with Store(tmp_path / "d") as store:
        store.write({"k": "1"})
    [segment] = (tmp_path / "d").glob("*.journal")
    segment.write_bytes(segment.read_bytes().replace(b"(k,1)", b"(k,2)"))
    before = contents(tmp_path / "d")
    for _ in range(2):
        with pytest.raises(CorruptionError) as caught:
            Store(tmp_path / "d")
        assert caught.value.reason == "a group does not match its checksum"
    assert contents(tmp_path / "d") == before


def test_closed_store_refuses_every_method(tmp_path: Path) -> None:
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


def test_backup_is_restored_only_into_a_new_store(tmp_path: Path) -> None:
    with Store() as memory:
        memory.write({"a": "1", "b": "2"})
        memory.backup(tmp_path / "x.bck")
    with Store(tmp_path / "d") as store:
        assert store.restore(tmp_path / "x.bck") == 1
        with pytest.raises(StoreNotEmptyError) as caught:
            store.restore(tmp_path / "x.bck")
        assert str(caught.value) == (
            f"{tmp_path}/d: not empty: a backup can be restored only into a new or empty data "
            "directory"
        )
    with Store(tmp_path / "d") as store:
        assert store.items() == [(b"a", b"1"), (b"b", b"2")]


def test_cursor_of_an_unknown_job_is_refused(tmp_path: Path) -> None:
    with Store(tmp_path / "d") as store:
        with pytest.raises(ValueError, match="job 7 of the cursor is not known"):
            store._core.execute(b"WRITE [(a,1)]\n", cursor=JobCursor(7, 0))
        assert store.write({"b": "2"}) == 1
