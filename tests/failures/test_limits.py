"""Real limits: size of files, descriptors, processes (setrlimit(2))."""

import os
import resource
import signal
from pathlib import Path

import pytest

from tests.helpers import (
    LONG_WAIT,
    Start,
    backup_error,
    content,
    end,
    failing_job_error,
    kvs,
    leftovers,
    only_line,
    pairs_job,
    pairs_listing,
    run_reporting,
    started,
    stderr_lines,
    until,
    write_jobs,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("each_engine")]

# Size of a file.

NUMBERED = "".join(f"READ [k{number:06}]\n" for number in range(20_000))
NUMBERED_OUTPUT = b"".join(b"[(k%06d,KVSERROR)]\n" % number for number in range(20_000))


def limit_file_size(limit: int) -> Start:
    """Limit the bytes of a file."""
    return Start(limits={resource.RLIMIT_FSIZE: limit})


@pytest.mark.parametrize("limit", [4_096, 100_000, 250_001])
def test_too_long_output_fails_only_its_job(tmp_path: Path, limit: int) -> None:
    write_jobs(tmp_path, {"a": "READ [k]\n", "x": NUMBERED, "z": "READ [k]\n"})
    error = failing_job_error(tmp_path, "x", how=limit_file_size(limit))
    output = (tmp_path / "x.out").read_bytes()
    assert error == f"{tmp_path}/x.out: cannot write the output: File too large"
    assert len(output) <= limit
    assert NUMBERED_OUTPUT.startswith(output)
    assert output[-1:] in {b"", b"\n"}


def test_too_long_backup_fails_alone(tmp_path: Path) -> None:
    write_jobs(tmp_path, {"a": b"BACKUP\n" + pairs_job(3_000) + b"BACKUP\nREAD [k]\n"})
    (tmp_path / "a-2.bck").write_text("older")
    ended, report = run_reporting(tmp_path, how=limit_file_size(64_000))
    assert ended.status == 1
    reason = "File too large"
    assert only_line(ended) == backup_error(tmp_path, "a", line=32, number=2, reason=reason)
    assert (tmp_path / "a-1.bck").read_bytes() == b""
    assert (tmp_path / "a-2.bck").read_text() == "older"
    assert (tmp_path / "a.out").read_bytes() == b"[(k,KVSERROR)]\n"
    assert leftovers(tmp_path) == []
    (job,) = report["jobs"]
    assert (job["state"], job["failed"], job["error"]) == ("done", True, None)
    assert [backup["written"] for backup in job["backups"]] == [True, False]


def test_too_long_report_keeps_the_old_one(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": "x\n" * 1_000})
    report = tmp_path / "report.json"
    report.write_text("older")
    ended = kvs("run", jobs, "--report", report, how=limit_file_size(10_000))
    assert ended.status == 1
    assert f"kvs run: cannot write the report {report}: File too large" in ended.lines
    assert report.read_text() == "older"
    assert sorted(os.listdir(tmp_path)) == ["jobs", "report.json"]


def test_jobs_without_output_are_done_if_no_byte_can_be_written(tmp_path: Path) -> None:
    write_jobs(tmp_path, {"a": "WRITE [(k,v)]\n", "b": "READ [k]\n", "c": "DELETE [k]\n"})
    ended = kvs("run", tmp_path, "--quiet", "--threads", "1", how=limit_file_size(0))
    assert ended.status == 1
    assert only_line(ended) == f"{tmp_path}/b.out: cannot write the output: File too large"
    assert sorted(os.listdir(tmp_path)) == ["a.job", "a.out", "b.job", "b.out", "c.job", "c.out"]


# Descriptors.


def limit_descriptors(limit: int) -> Start:
    """Limit the number of open descriptors."""
    return Start(limits={resource.RLIMIT_NOFILE: limit})


def test_10_000_small_jobs_run_with_64_descriptors(tmp_path: Path) -> None:
    names = [f"{number:05}" for number in range(10_000)]
    write_jobs(tmp_path, {name: f"WRITE [(k{name},v)]\n" for name in names[:-1]})
    write_jobs(tmp_path, {names[-1]: "WAIT 1\nREAD [k00000]\n"})
    ended, report = run_reporting(tmp_path, how=limit_descriptors(64))
    assert (ended.status, ended.stderr) == (0, b"")
    assert [job["name"] for job in report["jobs"]] == names
    assert {job["state"] for job in report["jobs"]} == {"done"}
    assert report["revision"] == 9_999
    assert (tmp_path / "09999.out").read_bytes() == b"Waiting...\n[(k00000,v)]\n"
    assert len(os.listdir(tmp_path)) == 20_000


def test_lack_of_descriptors_fails_only_what_needs_them(tmp_path: Path) -> None:
    """From too few descriptors for one job to enough for all, step by step."""
    jobs = dict.fromkeys("abc", "READ [k]\nBACKUP\nREAD [k]\n")
    write_jobs(tmp_path, jobs)
    seen = set()
    for limit in range(6, 14):
        ended = kvs("run", tmp_path, "--quiet", "--threads", "1", how=limit_descriptors(limit))
        assert (ended.status == 0) == (ended.lines == [])
        assert all(line.endswith("Too many open files") for line in ended.lines)
        assert leftovers(tmp_path) == []
        for name in jobs:
            failed = any(f"{name}.job: " in line or f"{name}.out: " in line for line in ended.lines)
            output = content(tmp_path / f"{name}.out")
            assert output == (b"" if failed or ended.status == 2 else b"[(k,KVSERROR)]\n" * 2)
            for path in (tmp_path / f"{name}.out", tmp_path / f"{name}-1.bck"):
                path.unlink(missing_ok=True)
        seen.add(ended.status)
    assert seen >= {0, 1}


def test_jobs_without_a_descriptor_fail_while_others_wait(tmp_path: Path) -> None:
    names = [f"{number:02}" for number in range(32)]
    jobs = write_jobs(tmp_path / "jobs", dict.fromkeys(names, "READ [k]\n" + LONG_WAIT))
    errors = tmp_path / "errors"
    whole = b"[(k,KVSERROR)]\nWaiting...\n"
    limits = limit_descriptors(24).limits
    with started(
        *("run", jobs, "--threads", "32", "--quiet"),
        how=Start(limits=limits, redirections=f"2>'{errors}'"),
    ) as process:
        outputs = [jobs / f"{name}.out" for name in names]
        until(lambda: sum(content(output) == whole for output in outputs) >= 1)
        until(lambda: content(errors).endswith(b"\n"))
        process.send_signal(signal.SIGTERM)
        assert end(process).status == 143
    *failures, stopped = stderr_lines(errors.read_bytes())
    assert failures
    assert all(line.endswith("Too many open files") for line in failures)
    assert "stopped by SIGTERM" in stopped
    assert {content(output) for output in outputs} == {b"", whole}
    assert leftovers(jobs) == []


# Processes and threads of a user that no other process has.


@pytest.fixture(name="someone")
def _someone(ground: Path) -> int:
    """Return the ID of a user without processes that owns `ground`."""
    uid = 1_000_000 + os.getpid()
    os.chown(ground, uid, uid)
    return uid


def limit_processes(uid: int, limit: int) -> Start:
    """Run as a user, and limit the number of its threads and processes."""
    return Start(uid=uid, limits={resource.RLIMIT_NPROC: limit})


def test_failed_fork_fails_only_its_backup(ground: Path, someone: int) -> None:
    write_jobs(ground, {"x": b"BACKUP\n" + pairs_job(100) + b"BACKUP\nSHOW\n"})
    ended, report = run_reporting(ground, "--threads", "1", how=limit_processes(someone, 2))
    assert ended.status == 1
    reason = "cannot fork: Resource temporarily unavailable"
    assert ended.lines == [
        backup_error(ground, "x", line, number, reason) for number, line in [(1, 1), (2, 3)]
    ]
    assert {job["state"] for job in report["jobs"]} == {"done"}
    assert (ground / "x.out").read_bytes() == pairs_listing(100)
    assert not list(ground.glob("*.bck"))
    assert leftovers(ground) == []


def test_backup_is_written_though_no_thread_can_wait_for_it(ground: Path, someone: int) -> None:
    """The limit allows the child, but not one more thread."""
    write_jobs(ground, {"x": b"BACKUP\n" + pairs_job(100) + b"BACKUP\nSHOW\n"})
    ended = kvs("run", ground, "--threads", "1", how=limit_processes(someone, 3))
    assert (ended.status, ended.stderr) == (0, b"")
    assert (ground / "x-2.bck").read_bytes() == (ground / "x.out").read_bytes()


@pytest.mark.parametrize("limit", [2, 3])
def test_jobs_run_on_as_few_threads_as_allowed(ground: Path, someone: int, limit: int) -> None:
    ended = kvs("run", ground, "--threads", "8", how=limit_processes(someone, limit))
    assert (ended.status, ended.stderr) == (0, b"")
    for name in "az":
        assert (ground / f"{name}.out").read_bytes() == b"[(k,KVSERROR)]\n"


def test_run_fails_if_no_thread_can_be_started(ground: Path, someone: int) -> None:
    ended = kvs("run", ground, how=limit_processes(someone, 1))
    assert ended.status == 1
    assert only_line(ended).startswith("kvs run: cannot start a thread; raise the limit")
    assert sorted(os.listdir(ground)) == ["a.job", "z.job"]


def test_run_with_one_thread_can_be_stopped(ground: Path, someone: int) -> None:
    write_jobs(ground, {"a": LONG_WAIT})
    with started("run", ground, how=limit_processes(someone, 2)) as process:
        until(lambda: content(ground / "a.out"))
        process.send_signal(signal.SIGTERM)
        assert end(process).status == 143
    assert leftovers(ground) == []
