"""Backups of jobs: a failure costs one backup, and neither its slot nor a child."""

from pathlib import Path

import pytest

from kvs import KvsError, State, Store, StoreClosedError
from kvs.snapshot.writer import SnapshotWriter
from kvs.store.core import StoreCore
from tests.helpers import content, write_jobs


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
