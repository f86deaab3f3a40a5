"""What the journal records of jobs: finished ones are skipped, stale records are deleted."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from kvs.errors import JobOutputChangedWarning
from kvs.jobs.checkpoint import open_checkpoint
from kvs.jobs.directory import JobsDirectory
from kvs.jobs.report import State
from kvs.journal import job_records
from kvs.settings import DataSettings
from kvs.store.core import StoreCore
from tests.helpers import content, write_jobs
from tests.jobs.durable_runs import EVERY_KIND, half_done, run

pytestmark = pytest.mark.slow


def test_finished_job_is_skipped(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": EVERY_KIND})
    first = run(tmp_path / "data", jobs)
    (jobs / "a.out").write_bytes(b"mine now")
    again = run(tmp_path / "data", jobs)
    [job] = again.report.jobs
    assert (job.state, job.commands, len(again.errors)) == (State.DONE_BEFORE, 0, 1)
    assert content(jobs / "a.out") == b"mine now"
    assert again.report.revision == first.report.revision
    assert not again.report.failed
    third = run(tmp_path / "data", jobs, resume=False)
    assert third.report.jobs[0].state is State.DONE
    assert third.report.revision > first.report.revision


@pytest.mark.parametrize("text", ["WRITE [(a,1)]\n", "WRITE [(a,1)]\nREAD [a]\n"])
def test_output_and_its_name_are_durable_before_job_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": text})
    (jobs / "a.out").write_bytes(b"of an earlier run")
    calls: list[object] = []
    fsync, encode = os.fsync, job_records.encode_done

    def synced(file: int) -> None:
        fsync(file)
        calls.append(os.fstat(file).st_ino)

    def encode_done(number: int) -> bytes:
        calls.append("done")
        return encode(number)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(job_records, "encode_done", encode_done)
    run(tmp_path / "data", jobs)
    assert calls[-3:] == [(jobs / "a.out").stat().st_ino, jobs.stat().st_ino, "done"]


@pytest.mark.parametrize("fsync", ["always", "never"])
def test_job_whose_output_cannot_be_closed_is_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fsync: str
) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": "WRITE [(a,1)]\nREAD [a]\n"})
    settings = DataSettings(fsync=fsync)

    def fail(file: int) -> None:
        os.close(file)
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with monkeypatch.context() as patched:
        patched.setattr("kvs.jobs.output.os", SimpleNamespace(close=fail, fsync=os.fsync))
        first = run(tmp_path / "data", jobs, settings=settings)
    assert first.errors == [f"{jobs}/a.out: cannot write the output: Disk quota exceeded"]
    (jobs / "a.out").write_bytes(b"")  # what was written is lost
    again = run(tmp_path / "data", jobs, settings=settings)
    states = [outcome.report.jobs[0].state for outcome in (first, again)]
    assert states == [State.FAILED, State.DONE]
    assert content(jobs / "a.out") == b"[(a,1)]\n"


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (None, "the output does not exist any more"),
        (b"", "the output has 0 bytes, but the job wrote 15"),
        (b"[(a,1)]\n(a, 1)\nx", "the output has 16 bytes, but the job wrote 15"),
        (b"[(b,1)]\n(b, 1)\n", None),
    ],
)
def test_changed_output_of_finished_job_is_reported(
    tmp_path: Path, output: bytes | None, reason: str | None, compacted: bool
) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": "WRITE [(a,1)]\nREAD [a]\nWAIT 0\nHELPS\nSHOW\n"})
    data = tmp_path / "data"
    run(data, jobs)
    length = len(content(jobs / "a.out"))
    assert length == 15
    if compacted:
        with StoreCore(data) as store:
            store.compact()
    (jobs / "a.out").unlink()
    if output is not None:
        (jobs / "a.out").write_bytes(output)
    again = run(data, jobs)
    assert again.report.jobs[0].state is State.DONE_BEFORE
    assert not again.report.failed
    warnings = [] if reason is None else [JobOutputChangedWarning(f"{jobs}/a.out", reason)]
    assert again.errors == list(map(str, warnings))
    (jobs / "a.job").touch()
    assert [job.state for job in run(data, jobs).report.jobs] == [State.DONE]


def test_finished_job_runs_again_if_its_file_changed(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": "WRITE [(a,1)]\n", "b": "WRITE [(b,1)]\n"})
    run(tmp_path / "data", jobs)
    write_jobs(jobs, {"a": "WRITE [(a,22)]\n"})
    outcome = run(tmp_path / "data", jobs)
    assert [job.state for job in outcome.report.jobs] == [State.DONE, State.DONE_BEFORE]
    assert (outcome.items, outcome.errors) == ([(b"a", b"22"), (b"b", b"1")], [])


def test_job_is_recognized_under_another_device_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a restart of the machine, on some filesystems."""
    jobs = write_jobs(tmp_path / "jobs", {"a": "WRITE [(a,1)]\n", "b": "WRITE [(b,1)]\n"})
    run(tmp_path / "data", jobs)

    class Moved:
        def __init__(self, status: os.stat_result) -> None:
            self.status = status
            self.st_dev = status.st_dev + 1

        def __getattr__(self, name: str) -> int:
            return int(getattr(self.status, name))

    moved = SimpleNamespace(fstat=lambda file: Moved(os.fstat(file)), fstatvfs=os.fstatvfs)
    monkeypatch.setattr("kvs.jobs.checkpoint.os", moved)
    states = [job.state for job in run(tmp_path / "data", jobs).report.jobs]
    assert states == [State.DONE_BEFORE, State.DONE_BEFORE]


def test_records_of_removed_jobs_are_deleted(tmp_path: Path) -> None:
    data, jobs = half_done(tmp_path)
    (jobs / "a.job").unlink()
    run(data, write_jobs(jobs, {"b": "READ [a]\n"}))
    with StoreCore(data) as store:
        store.compact()
    journal = b"".join(path.read_bytes() for path in data.iterdir())
    records = [line.split()[3:5] for line in journal.split(b"\n") if line.startswith(b"# job")]
    assert [words[1] for words in records if words[0] == b"is"] == [b"62"]


def test_backup_that_ends_after_a_restart_records_nothing(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": "BACKUP\n"})
    file = os.open(jobs / "a.job", os.O_RDONLY)
    with StoreCore(tmp_path / "data") as store, JobsDirectory(jobs) as directory:
        directory.lock()
        first = open_checkpoint(store, directory, b"a", file, resume=True)
        output = first.open_output(file)
        first.backup_started()
        first.finish()
        second = open_checkpoint(store, directory, b"a", file, resume=True)
        first.backup_ended(1, written=True)
        second.finish()
        output.close()
    os.close(file)
    [job] = run(tmp_path / "data", jobs).report.jobs
    assert (job.state, job.backups) == (State.DONE_BEFORE, [])
