"""Backups of jobs: a failure costs one backup, and neither its slot nor a child."""

from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from kvs import KvsError, State, Store, StoreClosedError
from kvs.snapshot.writer import SnapshotWriter
from kvs.store.core import StoreCore
from tests.helpers import content, leftovers, write_jobs


def test_closing_the_store_at_a_backup_frees_its_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": "BACKUP\nBACKUP\nREAD [k]\n"})
    fork = StoreCore.fork_snapshot
    forked: list[SnapshotWriter] = []

    def close_at_first(store: StoreCore, writer: SnapshotWriter) -> None:
        fork(store, writer)
        forked.append(writer)
        if len(forked) == 1:  # as if another thread closed the store before the commit point
            raise StoreClosedError

    monkeypatch.setattr(StoreCore, "fork_snapshot", close_at_first)
    errors: list[KvsError] = []
    report = Store().run_jobs(jobs, threads=1, backups=1, on_error=errors.append)
    assert [str(error) for error in errors] == [
        f"{jobs}/a.job:1: backup 1 failed: {jobs}/a-1.bck: not written: the store is closed"
    ]
    assert report.jobs[0].state is State.DONE
    assert content(jobs / "a.out") == b"[(k,KVSERROR)]\n"
    assert sorted(path.name for path in jobs.iterdir()) == ["a-2.bck", "a.job", "a.out"]


@pytest.mark.parametrize(
    ("owner", "call", "is_made"),
    [
        (SnapshotWriter, "__init__", False),
        (StoreCore, "fork_snapshot", False),
        (StoreCore, "fork_snapshot", True),
        (Thread, "start", False),
        (Thread, "start", True),
    ],
)
def test_memory_error_at_a_backup_frees_its_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: type, call: str, *, is_made: bool
) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": "BACKUP\n", "b": "BACKUP\n"})
    real = getattr(owner, call)
    raised: list[MemoryError] = []

    def failing_once(self: object, *arguments: Any) -> None:  # noqa: ANN401
        fails = not raised and not (isinstance(self, Thread) and self.name != "kvs-backup")
        if is_made or not fails:
            real(self, *arguments)
        if fails:
            raised.append(MemoryError())
            raise raised[0]

    monkeypatch.setattr(owner, call, failing_once)
    report = Store().run_jobs(jobs, threads=1, backups=1)
    first, second = report.jobs
    assert (first.state, second.state) == (State.FAILED, State.DONE)
    assert first.failure == f"{jobs}/a.job: not enough memory to continue"
    assert [backup.failed for backup in second.backups] == [False]
    assert leftovers(jobs) == []
    if not is_made or owner is not Thread:  # else its thread may finish the backup first
        assert first.backups_failed == 1
        assert not (jobs / "a-1.bck").exists()
