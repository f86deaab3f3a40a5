"""Reports of jobs and backups: counts, limits, failure, and JSON."""

import json

import pytest

from kvs.errors import InvalidCommandError
from kvs.jobs import report as module
from kvs.jobs.report import BackupReport, JobReport, Report, State
from kvs.snapshot.writer import SnapshotInfo

INFO = SnapshotInfo(7, 2, 30, 0.12345678, 0.00000049)


def error(line: int) -> InvalidCommandError:
    return InvalidCommandError("d/a.job", "expected ']'", line, 3)


def test_errors_beyond_the_limit_are_only_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REPORTED_ERRORS", 2)
    job = JobReport(b"a", "d/a.job")
    assert [job.add_error(error(line)) for line in (1, 2, 3)] == [True, True, False]
    assert (job.invalid, job.errors_omitted) == (3, 1)
    assert [each.line for each in job.errors] == [1, 2]


@pytest.mark.parametrize("state", State)
def test_job_without_errors_fails_only_in_state_failed(state: State) -> None:
    assert JobReport(b"a", "d/a.job", state).failed == (state is State.FAILED)


def test_invalid_line_and_failed_backup_fail_their_job_and_run() -> None:
    good, invalid, lacking = (JobReport(name, "f", State.DONE) for name in (b"a", b"b", b"c"))
    invalid.add_error(error(1))
    lacking.backups.append(BackupReport(1, 2, "d/c-1.bck", failure="d/c-1.bck: no space"))
    assert [job.failed for job in (good, invalid, lacking)] == [False, True, True]
    assert [Report("d", [job]).failed for job in (good, invalid, lacking)] == [False, True, True]
    assert Report("d", [good, lacking]).failed


def test_backup_being_written_is_neither_written_nor_failed() -> None:
    job = JobReport(b"a", "d/a.job")
    job.backups = [
        BackupReport(1, 1, "1.bck", INFO),
        BackupReport(2, 2, "2.bck", written_before=True),
        BackupReport(3, 3, "3.bck", failure="no space"),
        BackupReport(4, 4, "4.bck"),
    ]
    assert [backup.failed for backup in job.backups] == [False, False, True, True]
    assert (job.backups_written, job.backups_failed) == (2, 1)


def test_report_as_json_has_every_field() -> None:
    job = JobReport(b"a\n", "d/a.job", State.STOPPED, commands=5, seconds=1.23456789)
    job.add_error(error(4))
    job.backups = [BackupReport(1, 2, "d/a-1.bck", INFO), BackupReport(2, 3, "f", failure="no")]
    report = Report("d", [job, JobReport(b"b", "d/b.job", commands=3)], 2.0, revision=9)
    report.stopped = True
    result = json.loads(json.dumps(report.to_dict()))
    first, second = result.pop("jobs")
    assert result == {
        "directory": "d",
        "failed": True,
        "stopped": True,
        "seconds": 2.0,
        "commands": 8,
        "revision": 9,
    }
    assert second["state"] == "not started"
    written, failed = first.pop("backups")
    assert first == {
        "name": r"a\n",
        "file": "d/a.job",
        "state": "stopped",
        "failed": True,
        "error": None,
        "commands": 5,
        "invalid": 1,
        "seconds": 1.234568,
        "errors": [{"file": "d/a.job", "line": 4, "column": 3, "reason": "expected ']'"}],
        "errors_omitted": 0,
    }
    assert written == {
        "number": 1,
        "line": 2,
        "file": "d/a-1.bck",
        "written": True,
        "error": None,
        "revision": 7,
        "pairs": 2,
        "bytes": 30,
        "seconds": 0.123457,
        "blocked_seconds": 0.0,
    }
    assert (failed["written"], failed["error"], failed["bytes"]) == (False, "no", None)
