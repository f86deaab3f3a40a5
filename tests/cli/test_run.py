"""``kvs run --report``: the result of a run as JSON; and ``--restore``: its initial pairs."""

import json
import os
import stat
from pathlib import Path

import pytest

from kvs import cli
from tests.helpers import (
    BLOCKING_ERRORS,
    Data,
    Start,
    backup_error,
    blocked_on_stderr,
    end,
    kvs,
    only_line,
    run_reporting,
    write_jobs,
)

JOBS = {
    "a": "WRITE [(k,v)(l,w)]\n\n# a comment\nBACKUP\nDELETE [l]\nBACKUP\n",
    "b": "READ [none]\nread [k]\n  READ [k,]\nHELP x\n",
}


def run(tmp_path: Path, jobs: dict[str, str]) -> Data:
    """Run `jobs`, one after the other, in a directory named ``jobs``; return the report."""
    write_jobs(tmp_path / "jobs", jobs)
    _, report = run_reporting("jobs", "--threads", "1", how=Start(cwd=tmp_path))
    return report


def test_report_summarizes_the_run(tmp_path: Path) -> None:
    report = run(tmp_path, JOBS)
    assert report.pop("seconds") > 0
    assert [job["name"] for job in report.pop("jobs")] == ["a", "b"]
    assert report == {
        "directory": "jobs",
        "failed": True,
        "stopped": False,
        "commands": 5,
        "revision": 2,
    }


def test_report_lists_invalid_lines(tmp_path: Path) -> None:
    job = run(tmp_path, JOBS)["jobs"][1]
    errors = job.pop("errors")
    assert job.pop("seconds") > 0
    assert job == {
        "name": "b",
        "file": "jobs/b.job",
        "state": "done",
        "failed": True,
        "error": None,
        "commands": 1,
        "invalid": 3,
        "errors_omitted": 0,
        "backups": [],
    }
    assert [(error["file"], error["line"], error["column"]) for error in errors] == [
        ("jobs/b.job", 2, 1),
        ("jobs/b.job", 3, 11),
        ("jobs/b.job", 4, 6),
    ]
    assert errors[0]["reason"] == "command names are upper case: READ"
    assert all(set(error) == {"file", "line", "column", "reason"} for error in errors)


def test_report_lists_backups_and_durations(tmp_path: Path) -> None:
    job = run(tmp_path, JOBS)["jobs"][0]
    snapshots = job["backups"]
    assert (job["failed"], job["commands"], job["error"]) == (False, 4, None)
    for snapshot in snapshots:
        assert 0 < snapshot.pop("blocked_seconds") < snapshot.pop("seconds")
    assert snapshots == [
        {
            "number": number,
            "line": line,
            "file": f"jobs/a-{number}.bck",
            "written": True,
            "error": None,
            "revision": number,
            "pairs": pairs,
            "bytes": (tmp_path / f"jobs/a-{number}.bck").stat().st_size,
        }
        for number, line, pairs in [(1, 4, 2), (2, 6, 1)]
    ]


def test_report_lists_failed_backups(tmp_path: Path) -> None:
    (tmp_path / "jobs" / "a-1.bck").mkdir(parents=True)
    job = run(tmp_path, {"a": "HELP\nBACKUP\nBACKUP\n"})["jobs"][0]
    failed, written = job["backups"]
    assert (job["state"], job["failed"], job["error"]) == ("done", True, None)
    error = backup_error(Path("jobs"), "a", line=2, number=1, reason="Is a directory")
    assert failed.pop("error") == error
    assert failed == {
        "number": 1,
        "line": 2,
        "file": "jobs/a-1.bck",
        "written": False,
        "revision": None,
        "pairs": None,
        "bytes": None,
        "seconds": None,
        "blocked_seconds": None,
    }
    assert (written["number"], written["written"], written["error"]) == (2, True, None)


def test_report_lists_failed_jobs(tmp_path: Path) -> None:
    (tmp_path / "jobs" / "b.job").mkdir(parents=True)
    report = run(tmp_path, {"a": "HELP\n"})
    good, bad = report["jobs"]
    assert (report["failed"], report["commands"]) == (True, 1)
    assert (good["state"], good["failed"]) == ("done", False)
    assert (bad["state"], bad["failed"], bad["commands"]) == ("failed", True, 0)
    assert bad["error"] == "jobs/b.job: cannot open it: it is not a regular file"


def test_report_counts_errors_beyond_1000(tmp_path: Path) -> None:
    job = run(tmp_path, {"a": "x\n" * 1_234})["jobs"][0]
    assert (job["invalid"], len(job["errors"]), job["errors_omitted"]) == (1_234, 1_000, 234)


def test_report_escapes_names(tmp_path: Path) -> None:
    with open(bytes(tmp_path) + b"/latin-\xe9\n\x1b.job", "wb") as job:
        job.write(b"\x1b\xe9\n")
    _, report = run_reporting(".", how=Start(cwd=tmp_path))
    (job_report,) = report["jobs"]
    assert job_report["name"] == r"latin-\xe9\n\x1b"
    assert job_report["file"] == r"./latin-\xe9\n\x1b.job"
    assert r"\x1b\xe9" in job_report["errors"][0]["reason"]


def test_report_of_no_jobs_is_valid(tmp_path: Path) -> None:
    assert run(tmp_path, {})["jobs"] == []


def test_report_replaces_an_older_one_atomically(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": "HELP\n"})
    report = tmp_path / "report.json"
    report.write_text("old " * 10_000)
    with report.open() as old:
        assert kvs("run", jobs, "--report", report).status == 0
        assert old.read() == "old " * 10_000
    assert json.loads(report.read_text())["commands"] == 1
    assert stat.S_IMODE(report.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["jobs", "report.json"]


def test_lack_of_memory_leaves_the_older_report_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": "HELP\n"})
    report = tmp_path / "report.json"
    report.write_text("old")

    def fail(_file: int, *_pieces: bytes) -> None:
        raise MemoryError

    monkeypatch.setattr("kvs.cli.run.write_all", fail)
    with pytest.raises(MemoryError):
        cli.main(["run", str(jobs), "--quiet", "--report", str(report)])
    assert report.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["jobs", "report.json"]


def test_report_is_not_touched_by_wrong_usage(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    report.write_text("old")
    assert kvs("run", tmp_path / "nowhere", "--report", report).status == 2
    assert report.read_text() == "old"


def test_report_does_not_replace_a_pipe(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": "HELP\n"})
    pipe = tmp_path / "report.json"
    os.mkfifo(pipe)
    ended = kvs("run", jobs, "--report", pipe)
    assert pipe.is_fifo()
    assert ended.status == 2
    assert str(pipe) in only_line(ended)


def test_unwritable_report_is_an_error(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": BLOCKING_ERRORS})
    place = tmp_path / "place"
    place.mkdir()
    with blocked_on_stderr(jobs, "--quiet", "--report", place / "r.json") as process:
        place.rmdir()
        ended = end(process)
    assert ended.status == 1
    assert ended.lines[-1] == (
        f"kvs run: cannot write the report {place}/r.json: No such file or directory"
    )


# Restore.


def test_restore_loads_the_pairs_of_a_backup(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": "WRITE [(k,v)(a,b)]\nBACKUP\nWRITE [(k,w)]\n"})
    assert kvs("run", jobs).status == 0
    write_jobs(jobs, {"a": "SHOW\nBACKUP\n"})
    ended, report = run_reporting(jobs, "--restore", jobs / "a-1.bck")
    assert (ended.status, ended.stderr) == (0, b"")
    assert (jobs / "a.out").read_bytes() == b"(a, b)\n(k, v)\n"
    assert (jobs / "a-1.bck").read_bytes() == b"(a, b)\n(k, v)\n"
    assert report["revision"] == 1


MALFORMED = {
    "no pair": (b"(a, b)\nHELP\n", ":2: expected '(key, value)', not 'HELP'"),
    "bytes that no terminal takes": (b"\x1b[31m\n", r"not '\x1b[31m'"),
    "a NUL": (b"(a, b\0)\n", r"\x00"),
    "no newline at the end": (b"(a, b)\n(c, d)", ":2: the last line has no newline"),
    "a key twice": (b"(a, b)\n(a, b)\n", ":2: key 'a' is not greater than the key before it, 'a'"),
    "keys that descend": (
        b"(a, b)\n(c, d)\n(b, x)\n",
        ":3: key 'b' is not greater than the key before it, 'c'",
    ),
    "a value that is reserved": (b"(a, KVSERROR)\n", ":1: "),
    "a word too long": (b"(%b, b)\n" % (b"x" * 1025), ":1: a key is at most 1024 bytes"),
    "a line without an end": (b"(" * 3_000_000, ":1: "),
}


@pytest.mark.slow
@pytest.mark.parametrize(("text", "reason"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_backup_is_refused_before_jobs_run(
    tmp_path: Path, text: bytes, reason: str
) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": "HELP\n"})
    snapshot = tmp_path / "old.bck"
    snapshot.write_bytes(text)
    ended = kvs("run", jobs, "--restore", snapshot)
    line = only_line(ended)
    assert ended.status == 1
    assert line.startswith(f"kvs run: {snapshot}:")
    assert line.endswith("; nothing was restored")
    assert reason in line
    assert list(jobs.iterdir()) == [jobs / "a.job"]
