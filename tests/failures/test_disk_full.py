"""A small filesystem in memory that fills up during a run; and a read-only one."""

import os
import subprocess
from pathlib import Path

from tests.failures.conftest import Mount
from tests.helpers import (
    backup_error,
    failing_job_error,
    kvs,
    leftovers,
    only_line,
    pairs_job,
    pairs_listing,
    run_reporting,
    write_jobs,
)

FULL = "No space left on device"

LONG = "".join(f"READ [a{number:02},{'x,' * 499}x]\n" for number in range(40))
LONG_OUTPUT = b"".join(
    b"[(a%02d,KVSERROR)%b]\n" % (number, b"(x,KVSERROR)" * 500) for number in range(40)
)
"""Output of `LONG`: six times as long as the job, in lines of 6 KiB."""


def fill(place: Path) -> None:
    """Fill the filesystem with one file to the last byte."""
    free = os.statvfs(place)
    (place / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize))


def test_output_without_space_fails_its_job_alone(mount: Mount) -> None:
    place = mount("size=160k")
    write_jobs(place, {"a": "READ [k]\n", "x": LONG, "z": "WRITE [(k,v)]\nREAD [k]\n"})
    reason = failing_job_error(
        place, "x", "--threads", "1"
    )  # no other job writes while x fills the disk
    output = (place / "x.out").read_bytes()
    assert reason == f"{place}/x.out: cannot write the output: {FULL}"
    assert LONG_OUTPUT.startswith(output)
    assert output.endswith(b"\n")
    assert (place / "z.out").read_bytes() == b"[(k,v)]\n"


def test_backup_without_space_fails_alone(
    mount: Mount,
) -> None:
    place = mount("size=200k")
    write_jobs(place, {"a": b"BACKUP\n" + pairs_job(3_000) + b"BACKUP\nDELETE [key000000001]\n"})
    (place / "a-2.bck").write_text("older")
    ended, report = run_reporting(place)
    assert ended.status == 1
    assert only_line(ended) == backup_error(place, "a", line=32, number=2, reason=FULL)
    assert (place / "a-2.bck").read_text() == "older"
    assert leftovers(place) == []
    assert (report["jobs"][0]["state"], report["jobs"][0]["commands"]) == ("done", 33)


def test_backup_replaces_an_older_one_on_a_small_disk(mount: Mount) -> None:
    place = mount("size=400k")
    write_jobs(place, {"a": pairs_job(3_000) + b"BACKUP\n"})
    for _ in range(2):
        ended = kvs("run", place)
        assert (ended.status, ended.stderr) == (0, b"")
        assert (place / "a-1.bck").read_bytes() == pairs_listing(3_000)


def test_jobs_without_output_are_done_on_a_full_disk(mount: Mount) -> None:
    place = mount("size=64k")
    write_jobs(place, {"a": "WRITE [(k,v)]\n", "b": "READ [k]\n", "c": "WRITE [(k,w)]\n"})
    fill(place)
    assert failing_job_error(place, "b") == f"{place}/b.out: cannot write the output: {FULL}"
    assert (place / "b.out").read_bytes() == b""


def test_output_without_an_inode_fails_its_job_alone(mount: Mount) -> None:
    """Inodes for the directory itself, three jobs, the lock, and two outputs."""
    place = mount("nr_inodes=7")
    write_jobs(place, dict.fromkeys("abc", "READ [k]\n"))
    ended, report = run_reporting(place, "--threads", "1")
    assert ended.status == 1
    assert only_line(ended) == f"{place}/c.out: cannot open the output: {FULL}"
    assert [job["state"] for job in report["jobs"]] == ["done", "done", "failed"]
    assert (place / "b.out").read_bytes() == b"[(k,KVSERROR)]\n"
    assert leftovers(place) == []


def test_report_without_space_leaves_the_older_one(mount: Mount, tmp_path: Path) -> None:
    place = mount("size=64k")
    jobs = write_jobs(tmp_path / "jobs", {"a": "READ [k]\n"})
    (place / "report.json").write_text("older")
    fill(place)
    ended = kvs("run", jobs, "--quiet", "--report", place / "report.json")
    assert ended.status == 1
    assert only_line(ended) == f"kvs run: cannot write the report {place}/report.json: {FULL}"
    assert (place / "report.json").read_text() == "older"
    assert sorted(os.listdir(place)) == ["filler", "report.json"]
    assert (jobs / "a.out").read_bytes() == b"[(k,KVSERROR)]\n"


def test_read_only_filesystem_fails_every_job(mount: Mount) -> None:
    place = mount("size=64k")
    write_jobs(place, {"a": "READ [k]\n", "z": "BACKUP\n"})
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    ended, report = run_reporting(place, "--threads", "1")
    assert ended.status == 1
    assert ended.lines == [
        f"{place}/{name}.out: cannot open the output: Read-only file system" for name in "az"
    ]
    assert [job["state"] for job in report["jobs"]] == ["failed", "failed"]
    assert sorted(os.listdir(place)) == ["a.job", "z.job"]
