"""Files beside the jobs: names, modes, replacement, bytes of a backup, the lock."""

import os
import signal
import stat
from pathlib import Path

import pytest

from tests.contract.program import (
    content,
    ended_by,
    kvs,
    lines_of,
    started,
    until,
    write_jobs,
)

HOUR = b"WAIT 3600000\n"


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def run(directory: Path, *options: str | Path, status: int = 0) -> list[str]:
    """Run jobs one after the other; return the lines on stderr."""
    ended = kvs("run", "--quiet", "--threads", "1", *options, directory)
    assert ended.returncode == status, ended
    assert ended.stdout == b""
    return lines_of(ended.stderr)


def test_backups_are_numbered_from_1_in_each_job(tmp_path: Path) -> None:
    text = b"WRITE [(b,((2)(a,1)]\nBACKUP\nWRITE [(B,\xff)]\nBACKUP\nDELETE [a,b,B]\nBACKUP\n"
    jobs = write_jobs(tmp_path / "jobs", one=text, two=b"BACKUP\nWRITE [(z,1)]\n")
    assert run(jobs) == []
    outputs = ["one-1.bck", "one-2.bck", "one-3.bck", "one.out", "two-1.bck", "two.out"]
    assert names(jobs) == sorted([*outputs, "one.job", "two.job"])
    assert [content(jobs / name) for name in outputs] == [
        b"(a, 1)\n(b, ((2)\n",
        b"(B, \xff)\n(a, 1)\n(b, ((2)\n",
        b"",
        b"",
        b"",
        b"",
    ]


def test_new_outputs_have_mode_0600(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "jobs", a=b"SHOW\nBACKUP\n")
    before = os.umask(0)
    try:
        run(jobs)
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((jobs / name).stat().st_mode) for name in ("a.out", "a-1.bck")]
    assert modes == [0o600, 0o600]


def test_older_outputs_are_replaced(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "jobs", a=b"WRITE [(k,v)]\nREAD [k]\nBACKUP\n")
    for name in ("a.out", "a-1.bck", "a-2.bck"):
        (jobs / name).write_bytes(b"an older and longer text\n" * 9)
    run(jobs)
    assert content(jobs / "a.out") == b"[(k,v)]\n"
    assert content(jobs / "a-1.bck") == b"(k, v)\n"
    assert content(jobs / "a-2.bck") == b"an older and longer text\n" * 9


def test_backup_is_restored_by_restore_option(tmp_path: Path) -> None:
    backup = tmp_path / "any-name.bck"
    backup.write_bytes(b"(a, 1)\n(b, [2)\n")
    jobs = write_jobs(tmp_path / "jobs", a=b"SHOW\n")
    run(jobs, "--restore", backup)
    assert content(jobs / "a.out") == b"(a, 1)\n(b, [2)\n"
    for text in (b"(b, 1)\n(a, 2)\n", b"(a, 1)\n(a, 2)\n", b"(a, 1)", b"(a,1)\n", b"# (a, 1)\n"):
        backup.write_bytes(text)
        (line,) = run(jobs, "--restore", backup, status=1)
        assert f"{backup}:" in line


@pytest.mark.slow
def test_jobs_are_chosen_by_name_in_byte_order(tmp_path: Path) -> None:
    text = b"READ [last]\nWRITE [(last,%b)]\n"
    jobs = write_jobs(tmp_path / "jobs", **{name: text % name.encode() for name in "aBbA"})
    below = jobs / "folder"
    write_jobs(below, hidden=text % b"folder")
    for name in (".a.job", "a.JOB", "a.job~", "job", "c.job.x", ".job"):
        (jobs / name).write_bytes(text % b"other")
    (jobs / "link.job").symlink_to(write_jobs(tmp_path / "far", real=text % b"link") / "real.job")
    assert run(jobs) == []
    outputs = ["A.out", "B.out", "a.out", "b.out", "link.out"]
    assert [name for name in names(jobs) if name.endswith(".out")] == outputs
    values = [b"KVSERROR", b"A", b"B", b"a", b"b"]
    assert [content(jobs / name) for name in outputs] == [b"[(last,%b)]\n" % v for v in values]
    assert names(below) == ["hidden.job"]


def test_job_fails_alone_when_its_output_is_unsafe(tmp_path: Path) -> None:
    text = b"WRITE [(ran,yes)]\nREAD [ran]\n"
    jobs = write_jobs(tmp_path / "jobs", a=text, b=text, c=text, d=b"READ [ran]\n")
    other = tmp_path / "other"
    other.write_bytes(b"not an output")
    (jobs / "a.out").symlink_to(other)
    (jobs / "b.out").hardlink_to(other)
    (jobs / "c.out").mkdir()
    (jobs / "e.job").mkdir()
    lines = run(jobs, status=1)
    assert [line.split(": ")[0] for line in lines] == [
        f"{jobs}/{name}" for name in ("a.out", "b.out", "c.out", "e.job")
    ]
    assert content(other) == b"not an output"
    assert content(jobs / "d.out") == b"[(ran,KVSERROR)]\n"


def test_lock_of_a_jobs_directory_names_its_process(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "jobs", a=b"READ [a]\n" + HOUR)
    with started("run", "--quiet", jobs) as process:
        until(lambda: content(jobs / "a.out").endswith(b"Waiting...\n"))
        assert names(jobs) == [".kvs.lock", "a.job", "a.out"]
        assert content(jobs / ".kvs.lock") == b"%d\n" % process.pid
        (line,) = run(jobs, status=1)
        assert str(process.pid) in line
        assert ended_by(process, signal.SIGINT) == 130
    assert names(jobs) == ["a.job", "a.out"]
    assert content(jobs / "a.out") == b"[(a,KVSERROR)]\nWaiting...\n"
