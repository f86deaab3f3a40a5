"""One job: its commands, errors, waits and backups, and the states in which it ends."""

import os
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest

from kvs import KvsError
from kvs.concurrency.flag import Flag
from kvs.errors import JournalWriteError
from kvs.jobs.backups import BackupSlots
from kvs.jobs.directory import JobsDirectory
from kvs.jobs.job import Job, JobContext
from kvs.jobs.report import JobReport, State
from kvs.store.core import StoreCore
from tests.helpers import LONG_WAIT, SECONDS, content, until, write_jobs

pytestmark = pytest.mark.usefixtures("each_engine")

Action = Callable[[Job], None]


class Place:
    """A jobs directory, a store in memory, and what its jobs reported."""

    def __init__(self, path: Path, text: bytes | None) -> None:
        self.path = write_jobs(path / "jobs", {} if text is None else {"a": text})
        self.store = StoreCore()
        self.errors: list[str] = []
        self.stopping = Flag()

    def run(self, action: Action = Job.run) -> JobReport:
        """Do `action` with the job "a" to its end; return its report."""
        slots = BackupSlots(1, self._on_internal_error)
        context = JobContext(
            self.store, slots, self.stopping, resume=False, on_error=self._on_error
        )
        with JobsDirectory(self.path) as directory:
            directory.lock()
            job = Job(b"a", directory, context)
            action(job)
            slots.join()
        return job.report

    @property
    def output(self) -> bytes:
        return content(self.path / "a.out")

    def _on_error(self, error: KvsError) -> None:
        self.errors.append(str(error))

    def _on_internal_error(self, error: BaseException) -> None:
        raise error


def test_commands_are_executed_and_counted(tmp_path: Path) -> None:
    place = Place(tmp_path, b"WRITE [(k,1)]\n\n# comment\nREAD [k]\nWAIT 1\nREAD [k]")
    report = place.run()
    assert (report.state, report.commands, report.invalid) == (State.DONE, 4, 0)
    assert place.output == b"[(k,1)]\nWaiting...\n[(k,1)]\n"
    assert (place.errors, place.store.items()) == ([], [(b"k", b"1")])


def test_invalid_lines_are_reported_with_their_positions(tmp_path: Path) -> None:
    place = Place(tmp_path, b"WAIT 0\nfoo\n" + b"READ [k]\n" * 9 + b"BACKUP\nREAD k\nHELP\n")
    report = place.run()
    assert (report.state, report.commands) == (State.DONE, 12)
    assert [error.line for error in report.errors] == [2, 13]
    assert [line.split(": ")[0] for line in place.errors] == [
        f"{place.path}/a.job:2:1",
        f"{place.path}/a.job:13:6",
    ]


def test_backup_holds_the_pairs_of_its_line(tmp_path: Path) -> None:
    place = Place(tmp_path, b"WRITE [(k,1)]\nBACKUP\nWRITE [(k,2)]\nBACKUP\n")
    [first, second] = place.run().backups
    assert [(each.number, each.line, each.failed) for each in (first, second)] == [
        (1, 2, False),
        (2, 4, False),
    ]
    assert content(place.path / "a-1.bck") == b"(k, 1)\n"
    assert content(place.path / "a-2.bck") == b"(k, 2)\n"


def test_missing_file_fails_the_job(tmp_path: Path) -> None:
    place = Place(tmp_path, None)
    report = place.run()
    assert (report.state, report.failure) == (State.FAILED, place.errors[0])
    assert place.errors == [f"{place.path}/a.job: cannot open it: No such file or directory"]


def test_given_descriptor_is_read_and_closed(tmp_path: Path) -> None:
    place = Place(tmp_path, b"READ [k]\n")
    file = os.open(place.path / "a.job", os.O_RDONLY)
    assert place.run(lambda job: job.run(file)).state is State.DONE
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file)
    assert place.output == b"[(k,KVSERROR)]\n"


def test_stop_during_a_wait_ends_the_job_there(tmp_path: Path) -> None:
    place = Place(tmp_path, b"READ [k]\n" + LONG_WAIT.encode() + b"WRITE [(k,1)]\n")

    def stop_within_wait(job: Job) -> None:
        thread = Thread(target=job.run)
        thread.start()
        until(lambda: b"Waiting" in place.output)
        assert job.report.state is State.RUNNING
        place.stopping.set()
        thread.join(SECONDS)
        assert not thread.is_alive()

    report = place.run(stop_within_wait)
    assert (report.state, report.commands, report.failed) == (State.STOPPED, 2, False)
    assert (place.output, len(place.store)) == (b"[(k,KVSERROR)]\nWaiting...\n", 0)


def test_job_of_a_stopped_pool_executes_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path, b"WRITE [(k,1)]\n")
    place.stopping.set()
    assert (place.run().state, len(place.store)) == (State.STOPPED, 0)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "not enough memory to continue"),
        (JournalWriteError("d", 3, "no space"), "the journal failed, and "),
    ],
)
def test_error_of_the_store_fails_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    place = Place(tmp_path, b"READ [k]\n")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(place.store, "execute", fail)
    report = place.run()
    assert report.state is State.FAILED
    assert place.errors[0].startswith(f"{place.path}/a.job: {reason}")
