"""Resources that run out for real: size of files, descriptors, processes (setrlimit(2))."""

import os
import resource
import signal
from pathlib import Path

import pytest

from tests.helpers import (
    HOUR,
    Start,
    content,
    end,
    fails_alone,
    kvs,
    leftovers,
    no_snapshot,
    one_line,
    pairs_job,
    pairs_listing,
    run_reporting,
    started,
    told,
    until,
    write_jobs,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("each_engine")]

# The size of a file.

NUMBERED = "".join(f"READ [k{number:06}]\n" for number in range(20_000))
NUMBERED_OUTPUT = b"".join(b"[(k%06d,KVSERROR)]\n" % number for number in range(20_000))


def sized(most: int) -> Start:
    """Let no file become longer than this."""
    return Start(limits={resource.RLIMIT_FSIZE: most})


@pytest.mark.parametrize("most", [4_096, 100_000, 250_001])
def test_an_output_that_becomes_too_long_fails_its_job_alone(tmp_path: Path, most: int) -> None:
    write_jobs(tmp_path, {"a": "READ [k]\n", "x": NUMBERED, "z": "READ [k]\n"})
    told = fails_alone(tmp_path, "x", how=sized(most))
    output = (tmp_path / "x.out").read_bytes()
    assert told == f"{tmp_path}/x.out: cannot write the output: File too large"
    assert len(output) <= most
    assert NUMBERED_OUTPUT.startswith(output)
    assert output[-1:] in {b"", b"\n"}


def test_a_snapshot_that_becomes_too_long_is_an_error_of_its_backup_alone(tmp_path: Path) -> None:
    write_jobs(tmp_path, {"a": b"BACKUP\n" + pairs_job(3_000) + b"BACKUP\nREAD [k]\n"})
    (tmp_path / "a-2.bck").write_text("older")
    ended, report = run_reporting(tmp_path, how=sized(64_000))
    assert ended.status == 1
    reason = "File too large"
    assert one_line(ended) == no_snapshot(tmp_path, "a", line=32, number=2, reason=reason)
    assert (tmp_path / "a-1.bck").read_bytes() == b""
    assert (tmp_path / "a-2.bck").read_text() == "older"
    assert (tmp_path / "a.out").read_bytes() == b"[(k,KVSERROR)]\n"
    assert leftovers(tmp_path) == []
    (job,) = report["jobs"]
    assert (job["state"], job["failed"], job["error"]) == ("done", True, None)
    assert [snapshot["written"] for snapshot in job["snapshots"]] == [True, False]


def test_a_report_that_becomes_too_long_leaves_the_older_one(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": "x\n" * 1_000})
    report = tmp_path / "report.json"
    report.write_text("older")
    ended = kvs("run", jobs, "--report", report, how=sized(10_000))
    assert ended.status == 1
    assert f"kvs run: cannot write the report {report}: File too large" in ended.lines
    assert report.read_text() == "older"
    assert sorted(os.listdir(tmp_path)) == ["jobs", "report.json"]


def test_where_not_a_byte_can_be_written_every_job_that_needs_none_is_done(tmp_path: Path) -> None:
    write_jobs(tmp_path, {"a": "WRITE [(k,v)]\n", "b": "READ [k]\n", "c": "DELETE [k]\n"})
    ended = kvs("run", tmp_path, "--quiet", "--threads", "1", how=sized(0))
    assert ended.status == 1
    assert one_line(ended) == f"{tmp_path}/b.out: cannot write the output: File too large"
    assert sorted(os.listdir(tmp_path)) == ["a.job", "a.out", "b.job", "b.out", "c.job", "c.out"]


# Descriptors.


def opened(most: int) -> Start:
    """Let no more files than these be open at the same time."""
    return Start(limits={resource.RLIMIT_NOFILE: most})


def test_10_000_small_jobs_are_run_with_64_descriptors(tmp_path: Path) -> None:
    names = [f"{number:05}" for number in range(10_000)]
    write_jobs(tmp_path, {name: f"WRITE [(k{name},v)]\n" for name in names[:-1]})
    write_jobs(tmp_path, {names[-1]: "WAIT 1\nREAD [k00000]\n"})
    ended, report = run_reporting(tmp_path, how=opened(64))
    assert (ended.status, ended.stderr) == (0, b"")
    assert [job["name"] for job in report["jobs"]] == names
    assert {job["state"] for job in report["jobs"]} == {"done"}
    assert report["revision"] == 9_999
    assert (tmp_path / "09999.out").read_bytes() == b"Waiting...\n[(k00000,v)]\n"
    assert len(os.listdir(tmp_path)) == 20_000


def test_what_lacks_a_descriptor_is_told_and_everything_else_is_done(tmp_path: Path) -> None:
    """From too few for one job to enough for all, step by step."""
    jobs = dict.fromkeys("abc", "READ [k]\nBACKUP\nREAD [k]\n")
    write_jobs(tmp_path, jobs)
    seen = set()
    for most in range(6, 14):
        ended = kvs("run", tmp_path, "--quiet", "--threads", "1", how=opened(most))
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


def test_jobs_that_lack_a_descriptor_fail_alone_while_others_wait(tmp_path: Path) -> None:
    names = [f"{number:02}" for number in range(32)]
    jobs = write_jobs(tmp_path / "jobs", dict.fromkeys(names, "READ [k]\n" + HOUR))
    errors = tmp_path / "errors"
    whole = b"[(k,KVSERROR)]\nWaiting...\n"
    limits = opened(24).limits
    with started(
        *("run", jobs, "--threads", "32", "--quiet"),
        how=Start(limits=limits, redirections=f"2>'{errors}'"),
    ) as process:
        outputs = [jobs / f"{name}.out" for name in names]
        until(lambda: sum(content(output) == whole for output in outputs) >= 1)
        until(lambda: content(errors).endswith(b"\n"))
        process.send_signal(signal.SIGTERM)
        assert end(process).status == 143
    *failures, stopped = told(errors.read_bytes())
    assert failures
    assert all(line.endswith("Too many open files") for line in failures)
    assert "stopped by SIGTERM" in stopped
    assert {content(output) for output in outputs} == {b"", whole}
    assert leftovers(jobs) == []


# Processes and threads, of a user of their own whom nobody else is.


@pytest.fixture(name="someone")
def _someone(ground: Path) -> int:
    """Return a user who has no process, and to whom `ground` belongs."""
    uid = 1_000_000 + os.getpid()
    os.chown(ground, uid, uid)
    return uid


def crowded(uid: int, most: int) -> Start:
    """Let the user have no more threads and processes than these."""
    return Start(uid=uid, limits={resource.RLIMIT_NPROC: most})


def test_a_fork_that_fails_is_an_error_of_its_backup_alone(ground: Path, someone: int) -> None:
    write_jobs(ground, {"x": b"BACKUP\n" + pairs_job(100) + b"BACKUP\nSHOW\n"})
    ended, report = run_reporting(ground, "--threads", "1", how=crowded(someone, 2))
    assert ended.status == 1
    reason = "cannot fork: Resource temporarily unavailable"
    assert ended.lines == [
        no_snapshot(ground, "x", line, number, reason) for number, line in [(1, 1), (2, 3)]
    ]
    assert {job["state"] for job in report["jobs"]} == {"done"}
    assert (ground / "x.out").read_bytes() == pairs_listing(100)
    assert not list(ground.glob("*.bck"))
    assert leftovers(ground) == []


def test_a_snapshot_is_written_though_no_thread_can_wait_for_it(ground: Path, someone: int) -> None:
    """There is place for the child, but then not for one more thread."""
    write_jobs(ground, {"x": b"BACKUP\n" + pairs_job(100) + b"BACKUP\nSHOW\n"})
    ended = kvs("run", ground, "--threads", "1", how=crowded(someone, 3))
    assert (ended.status, ended.stderr) == (0, b"")
    assert (ground / "x-2.bck").read_bytes() == (ground / "x.out").read_bytes()


@pytest.mark.parametrize("most", [2, 3])
def test_jobs_are_run_by_as_few_threads_as_there_are(ground: Path, someone: int, most: int) -> None:
    ended = kvs("run", ground, "--threads", "8", how=crowded(someone, most))
    assert (ended.status, ended.stderr) == (0, b"")
    for name in "az":
        assert (ground / f"{name}.out").read_bytes() == b"[(k,KVSERROR)]\n"


def test_where_no_thread_can_be_started_that_is_told_and_nothing_is_done(
    ground: Path, someone: int
) -> None:
    ended = kvs("run", ground, how=crowded(someone, 1))
    assert ended.status == 1
    assert one_line(ended).startswith("kvs run: cannot start a thread to run jobs on")
    assert sorted(os.listdir(ground)) == ["a.job", "z.job"]


def test_a_run_with_one_thread_only_can_be_stopped(ground: Path, someone: int) -> None:
    write_jobs(ground, {"a": HOUR})
    with started("run", ground, how=crowded(someone, 2)) as process:
        until(lambda: content(ground / "a.out"))
        process.send_signal(signal.SIGTERM)
        assert end(process).status == 143
    assert leftovers(ground) == []
