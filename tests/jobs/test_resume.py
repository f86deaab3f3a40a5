"""Unfinished jobs that resume: from their checkpoint, with their output restored."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kvs.errors import BackupError, JobRestartedWarning
from kvs.jobs import checkpoint as checkpoint_module
from kvs.jobs.report import State
from kvs.jobs.run import JobRun
from kvs.settings import Settings
from kvs.store.core import StoreCore
from tests.helpers import content, write_jobs
from tests.jobs.durable_runs import LOST, half_done, run, shorten_wait
from tests.journal.crash_child import Acknowledge, victim

pytestmark = pytest.mark.slow

NEVER = 10**9
"""Number of a step that no process reaches."""


def test_interrupted_wait_starts_again(tmp_path: Path) -> None:
    data, jobs = half_done(tmp_path)
    (jobs / "a.out").unlink()
    with StoreCore(data) as store, JobRun(store, jobs, Settings(1, 1, resume=True)) as job_run:
        while b"Waiting" not in content(jobs / "a.out"):
            assert not job_run.wait(0.001)
        assert not job_run.wait(0)
        job_run.stop()
    assert content(jobs / "a.out") == b"[(a,1)]\n(a, 1)\nWaiting...\n"
    shorten_wait(jobs)
    assert run(data, jobs).report.jobs[0].state is State.DONE
    assert content(jobs / "a.out") == b"[(a,1)]\n(a, 1)\nWaiting...\n[(a,1)]\n"


def test_unfinished_job_restarts_if_its_file_changed(tmp_path: Path) -> None:
    data, jobs = half_done(tmp_path)
    write_jobs(jobs, {"a": "READ [a]\nWRITE [(a,2)]\n"})
    outcome = run(data, jobs)
    assert outcome.errors == [str(JobRestartedWarning(f"{jobs}/a.job"))]
    assert content(jobs / "a.out") == b"[(a,1)]\n"
    assert (outcome.report.jobs[0].state, outcome.items) == (State.DONE, [(b"a", b"2")])


def test_job_of_another_directory_or_name_does_not_resume(tmp_path: Path) -> None:
    data, jobs = half_done(tmp_path)
    other = write_jobs(tmp_path / "other", {"a": "READ [a]\n"})
    assert run(data, other).report.jobs[0].state is State.DONE
    assert content(other / "a.out") == b"[(a,1)]\n"
    (jobs / "a.job").rename(jobs / "b.job")
    shortened = (jobs / "b.job").read_bytes().replace(b"3600000", b"1")
    (jobs / "b.job").write_bytes(shortened)
    assert run(data, jobs).report.jobs[0].commands == 5
    assert content(jobs / "b.out").count(b"Waiting") == 1


def test_output_made_longer_or_removed_is_restored(tmp_path: Path) -> None:
    data, jobs = half_done(tmp_path)
    shorten_wait(jobs)
    with open(jobs / "a.out", "ab") as file:
        file.write(b"not from the job")
    shutil.copytree(data, tmp_path / "copy")
    run(data, jobs)
    assert content(jobs / "a.out") == b"[(a,1)]\n(a, 1)\nWaiting...\n[(a,1)]\n"
    (jobs / "a.out").unlink()
    (tmp_path / "copy").chmod(0o700)
    run(tmp_path / "copy", jobs)
    assert content(jobs / "a.out") == b"[(a,1)]\n(a, 1)\nWaiting...\n[(a,1)]\n"


def test_job_fails_if_its_synced_output_was_shortened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "SYNC_INTERVAL_BYTES", 10)
    text = "WRITE [(a,1)]\nREAD [a]\nSHOW\nWAIT 1\nSHOW\nWAIT 3600000\n"
    data, jobs = half_done(tmp_path, text, waits=2, compacted=True)
    (jobs / "a.out").write_bytes(b"[(a")
    outcome = run(data, jobs)
    assert outcome.errors == [
        f"{jobs}/a.out: cannot open the output: it is shorter than recorded; "
        "to restart the job, touch the job file"
    ]
    assert content(jobs / "a.out") == b"[(a"
    os.utime(jobs / "a.job")
    shortened = (jobs / "a.job").read_bytes().replace(b"3600000", b"1")
    (jobs / "a.job").write_bytes(shortened)
    assert run(data, jobs).report.jobs[0].state is State.DONE
    assert content(jobs / "a.out").startswith(b"[(a,1)]\n(a, 1)\n")


@pytest.mark.parametrize("synced", [10, 4 << 20])
def test_compaction_preserves_what_a_resume_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synced: int
) -> None:
    monkeypatch.setattr(checkpoint_module, "SYNC_INTERVAL_BYTES", synced)
    text = (
        "BACKUP\nWRITE [(a,1)]\nREAD [a]\nbad\nSHOW\nWAIT 1\nSHOW\nWAIT 3600000\nBACKUP\nREAD [a]\n"
    )
    data, jobs = half_done(tmp_path, text, waits=2, compacted=True)
    write_jobs(tmp_path / "done", {"d": "READ [a]\n"})
    run(data, tmp_path / "done")
    for _ in range(2):
        with StoreCore(data) as store:
            store.compact()
    shorten_wait(jobs)
    outcome = run(data, jobs)
    assert outcome.errors == []
    [job] = outcome.report.jobs
    assert (job.state, job.commands, job.invalid) == (State.DONE, 9, 1)
    assert [backup.failed for backup in job.backups] == [False, False]
    assert job.backups[0].written_before
    assert content(jobs / "a.out") == (
        b"[(a,1)]\n(a, 1)\nWaiting...\n(a, 1)\nWaiting...\n[(a,1)]\n"
    )
    again = run(data, tmp_path / "done").report.jobs[0]
    assert again.state is State.DONE_BEFORE


def test_unfinished_backup_is_reported_and_its_number_not_reused(tmp_path: Path) -> None:
    text = "WRITE [(a,1)]\nBACKUP\nWRITE [(a,2)]\nREAD [a]\nWAIT 3600000\nBACKUP\n"
    jobs = write_jobs(tmp_path / "jobs", {"a": text})

    def until_waiting(_acknowledge: Acknowledge) -> None:
        stop_children()
        with (
            StoreCore(tmp_path / "data") as store,
            JobRun(store, jobs, Settings(1, 2, resume=True)) as job_run,
        ):
            while b"Waiting" not in content(jobs / "a.out"):
                assert not job_run.wait(0.001)
            os.kill(os.getpid(), 9)

    assert victim(NEVER, until_waiting)[0]
    shorten_wait(jobs)
    outcome = run(tmp_path / "data", jobs)
    assert outcome.errors == [str(BackupError(f"{jobs}/a.job", LOST, 2, 1))]
    [job] = outcome.report.jobs
    assert [backup.failed for backup in job.backups] == [True, False]
    assert outcome.report.failed
    assert content(jobs / "a-2.bck") == b"(a, 2)\n"
    assert not (jobs / "a-1.bck").exists()
    assert run(tmp_path / "data", jobs).report.jobs[0].state is State.DONE_BEFORE


def stop_children() -> None:
    """Kill every child of this process before it has written anything; never report its end."""
    fork: Callable[[], int] = os.fork

    def forked() -> int:
        pid = fork()
        if not pid:
            os.closerange(0, 1000)
            os.kill(os.getpid(), 9)
        return pid

    waitpid = os.waitpid

    def never(pid: int, flags: int) -> tuple[int, int]:
        waitpid(pid, flags)
        import threading

        threading.Event().wait()
        raise AssertionError

    os.fork = forked
    os.waitpid = never
