"""Jobs with a data directory: runs that are killed or stopped, and what they leave."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kvs.engine.interface import DEFAULT_BUDGET_BYTES, UNKNOWN_ORIGIN, ExecuteResult, JobCursor
from kvs.errors import KvsError
from kvs.jobs.report import Report, State
from kvs.jobs.run import JobRun
from kvs.journal.job_records import JobRegistry
from kvs.settings import DataSettings, Settings
from kvs.store.core import StoreCore
from tests.helpers import content, write_jobs
from tests.journal.crash_child import Acknowledge, Work, reopened_as

EVERY_KIND = (
    b"WRITE [(a,1)(b,2)]\n"
    b"READ [a,nothing]\n"
    b"# a comment\n"
    b"\n"
    b"WRITE [(a,3)\n"
    b"DELETE [a,nothing]\n"
    b"SHOW\n"
    b"WAIT 1\n"
    b"BACKUP\n"
    b"HELP\r\n"
    b"WRITE [" + b"".join(b"(long%d,%d)" % (n, n) for n in range(100)) + b"]\n"
    b"READ [" + b",".join(b"long%d" % n for n in range(100)) + b"]\n"
    b"nonsense\n"
    b"BACKUP\n"
    b"DELETE [b]\n"
    b"SHOW\n"
    b"READ [b]"
)
LOST = "the process ended before it was complete"
"""Why a backup failed whose process ended before it was written."""


@dataclass
class Outcome:
    """The result of a run."""

    report: Report
    errors: list[str]
    """Errors and warnings reported."""
    items: list[tuple[bytes, bytes]]


class GroupPerCall(StoreCore):
    """A store in which each call and job record is a group of its own, durable before the next."""

    def execute(
        self,
        script: bytes,
        start: int = 0,
        budget: int = DEFAULT_BUDGET_BYTES,
        cursor: JobCursor | None = None,
        *,
        origin: int = UNKNOWN_ORIGIN,
        limits: bool = True,
    ) -> ExecuteResult:
        result = super().execute(script, start, budget, cursor, origin=origin, limits=limits)
        self.commit_point().wait()
        return result

    def record_job(self, change: Callable[[JobRegistry], bytes]) -> None:
        super().record_job(change)
        self.commit_point().wait()


def run(
    data: Path,
    jobs: Path,
    *,
    resume: bool = True,
    settings: DataSettings | None = None,
    kind: type[StoreCore] = StoreCore,
) -> Outcome:
    """Run the jobs of a directory to their end, against the store in `data`."""
    errors: list[KvsError] = []
    with reopened_as(kind, data, settings) as store:
        with JobRun(store, jobs, Settings(2, 1, resume), errors.append) as job_run:
            job_run.wait()
        return Outcome(job_run.report, [str(error) for error in errors], store.items())


def running(
    data: Path, jobs: Path, settings: DataSettings | None = None, kind: type[StoreCore] = StoreCore
) -> Work:
    """Return a function that runs jobs, for a child that is killed."""

    def work(_acknowledge: Acknowledge) -> None:
        run(data, jobs, settings=settings, kind=kind)

    return work


def results(jobs: Path) -> dict[str, bytes]:
    """Return the outputs and backups of jobs by file name."""
    return {
        path.name: path.read_bytes() for path in jobs.iterdir() if path.suffix in {".out", ".bck"}
    }


def half_done(
    tmp_path: Path,
    text: str = "WRITE [(a,1)]\nREAD [a]\nSHOW\nWAIT 3600000\nREAD [a]\n",
    waits: int = 1,
    *,
    compacted: bool = False,
) -> tuple[Path, Path]:
    """Return the data and jobs directories of a run that was stopped in its last WAIT."""
    jobs = write_jobs(tmp_path / "jobs", {"a": text})
    with StoreCore(tmp_path / "data") as store:
        with JobRun(store, jobs, Settings(1, 1, resume=True)) as job_run:
            while content(jobs / "a.out").count(b"Waiting") < waits:
                assert not job_run.wait(0.001)
            if compacted:  # the journal no longer has the synced output
                store.compact()
            job_run.stop()
        assert job_run.report.jobs[0].state is State.STOPPED
    return tmp_path / "data", jobs


def shorten_wait(jobs: Path) -> None:
    """Shorten the WAIT of a job, and keep the size and times of its file."""
    path = jobs / "a.job"
    status = path.stat()
    path.write_bytes(path.read_bytes().replace(b"3600000", b"0000001"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
