"""The mark of a store: drawn anew whenever an acknowledged revision may have been taken back."""

import os
import signal
from pathlib import Path

import pytest

from kvs.errors import DataDirectoryError
from kvs.journal.format import StoreMark
from kvs.settings import FSYNC_MODES, DataSettings
from kvs.store import maintenance
from kvs.store.core import StoreCore
from tests.journal.builders import read
from tests.journal.crash_child import reopened_as
from tests.journal.fake_storage import Fault, install

LAZY = [mode for mode in FSYNC_MODES if mode != "always"]


def killed(path: Path, settings: DataSettings, *, compact: bool = False) -> bytes:
    """Return the mark of a store in a process that kills itself after a committed change."""
    source, sink = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            store = StoreCore(path, settings)
            store.after_commit(store.execute(b"WRITE [(a,1)]\n"))
            if compact:
                store.compact()
            os.write(sink, store.mark)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.close(sink)
    with open(source, "rb") as file:
        mark = file.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert len(mark) == 16
    return mark


def mark_of(path: Path, fsync: str = "always") -> bytes:
    """Return the mark of a store that is opened and closed."""
    with reopened_as(StoreCore, path, DataSettings(fsync)) as store:
        return store.mark


def test_stores_in_memory_have_marks_of_their_own() -> None:
    marks = {StoreCore().mark for _ in range(3)}
    assert len(marks) == 3
    assert all(len(mark) == 16 and int(mark, 16) >= 0 for mark in marks)


@pytest.mark.parametrize("fsync", FSYNC_MODES)
def test_mark_outlasts_restarts_and_compactions(tmp_path: Path, fsync: str) -> None:
    marks = {mark_of(tmp_path / "d", fsync) for _ in range(3)}
    for _ in range(2):
        with StoreCore(tmp_path / "d", DataSettings(fsync)) as store:
            store.execute(b"WRITE [(a,1)]\n")
            store.compact()
            marks.add(store.mark)
    assert marks == {mark_of(tmp_path / "d")}
    assert mark_of(tmp_path / "other") not in marks


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("fsync", LAZY)
def test_kill_of_a_store_that_syncs_late_changes_the_mark(
    tmp_path: Path, fsync: str, compact: bool
) -> None:
    before = killed(tmp_path / "d", DataSettings(fsync), compact=compact)
    after = mark_of(tmp_path / "d")
    assert after != before
    assert mark_of(tmp_path / "d", fsync) == mark_of(tmp_path / "d") == after


def test_kill_of_a_store_that_syncs_always_keeps_the_mark(tmp_path: Path) -> None:
    before = mark_of(tmp_path / "d", "never")
    assert killed(tmp_path / "d", DataSettings()) == before
    assert mark_of(tmp_path / "d") == before


def test_every_kill_changes_the_mark_again(tmp_path: Path) -> None:
    marks = [killed(tmp_path / "d", DataSettings("interval")) for _ in range(3)]
    assert len({*marks, mark_of(tmp_path / "d")}) == 4


@pytest.mark.parametrize("fsync", LAZY)
def test_open_mark_is_synced_before_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fsync: str
) -> None:
    mark_of(tmp_path / "d")
    fault = Fault(spared=1)  # the first sync is of what was recovered
    fault.armed = True
    install(monkeypatch, fault)
    with pytest.raises(DataDirectoryError):
        StoreCore(tmp_path / "d", DataSettings(fsync))
    assert fault.failed


def test_restore_draws_a_mark(tmp_path: Path) -> None:
    for name in "ab":
        assert maintenance.restore(tmp_path / name, {b"k": b"1"}) == 1
    assert mark_of(tmp_path / "a") != mark_of(tmp_path / "b")


@pytest.mark.parametrize("at", [0, 120])
def test_repair_changes_the_mark(tmp_path: Path, at: int) -> None:
    before = mark_of(tmp_path / "d")
    for number in range(2):
        with StoreCore(tmp_path / "d") as store:
            store.after_commit(store.execute(b"WRITE [(a,%d)]\n" % number))
    first = tmp_path / "d" / "0000000001.journal"
    data = first.read_bytes()
    at = at and data.index(b"(a,1)")
    first.write_bytes(data[:at] + b"~" + data[at + 1 :])
    assert maintenance.repair(tmp_path / "d") is not None
    state, _ = read(tmp_path / "d")
    assert state.mark is not None
    assert mark_of(tmp_path / "d") == state.mark.mark != before
    assert state.mark == StoreMark(state.mark.mark)
    assert state.revision == int(at > 0)
