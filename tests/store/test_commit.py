"""When results that depend on a moment of the store may be released."""

import threading
from pathlib import Path

import pytest

from kvs import DataSettings, JournalWriteError, Store, StoreClosedError
from tests.helpers import until
from tests.journal.fake_storage import Fault, Gate, install

pytestmark = pytest.mark.usefixtures("each_engine")

SECONDS = 30.0


def test_a_store_in_memory_is_committed_at_once() -> None:
    store = Store()
    store.execute(b"WRITE [(a,1)]\n")
    point = store.commit_point()
    called: list[int] = []
    point.on_commit(lambda: called.append(1))
    point.wait()
    assert (point.is_committed, called) == (True, [1])


def test_commit_point_survives_a_close_that_overlaps(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    publication = store._core._publication
    appended_count = publication.appended_count

    def close_first() -> int:
        store.close()  # as another thread may do then
        return appended_count()

    monkeypatch.setattr(publication, "appended_count", close_first)
    store.commit_point().wait()


def test_changes_are_committed_once_they_are_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    install(monkeypatch, gate)
    with Store(tmp_path / "d", DataSettings(fsync="always")) as store:
        before = store.commit_point()
        with gate.shut():
            store.execute(b"WRITE [(a,1)]\n")
            gate.wait_until_held()
            point = store.commit_point()
            called: list[int] = []
            point.on_commit(lambda: called.append(1))
            waiting = threading.Thread(target=point.wait)
            waiting.start()
            assert (before.is_committed, point.is_committed, called) == (True, False, [])
            assert waiting.is_alive()
        waiting.join(SECONDS)
        until(lambda: called)
        assert not waiting.is_alive()
        assert point.is_committed


def test_a_failed_journal_commits_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = Fault()
    install(monkeypatch, fault)
    store = Store(tmp_path / "d", DataSettings(fsync="always"))
    fault.armed = True
    store.execute(b"WRITE [(a,1)]\n")
    with pytest.raises(JournalWriteError):
        store.commit_point().wait()
    with pytest.raises(JournalWriteError):
        store.commit_point()
    with pytest.raises(JournalWriteError):
        store.close()


def test_a_point_outlives_its_store(tmp_path: Path) -> None:
    store = Store(tmp_path / "d")
    store.execute(b"WRITE [(a,1)]\n")
    point = store.commit_point()
    store.close()
    point.wait()
    assert point.is_committed
    with pytest.raises(StoreClosedError):
        store.commit_point()
