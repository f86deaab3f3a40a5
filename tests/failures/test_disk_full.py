"""A small filesystem, in memory, that is full half-way; and one that may only be read."""

import os
import subprocess
from pathlib import Path

from tests.failures.conftest import Mount
from tests.helpers import (
    fails_alone,
    kvs,
    leftovers,
    no_snapshot,
    one_line,
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
"""Six times as long as its job, with lines of 6 KiB."""


def fill(place: Path) -> None:
    """Fill the filesystem with one file to the last byte."""
    free = os.statvfs(place)
    (place / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize))


def test_an_output_for_which_there_is_no_space_fails_its_job_alone(mount: Mount) -> None:
    place = mount("size=160k")
    write_jobs(place, {"a": "READ [k]\n", "x": LONG, "z": "WRITE [(k,v)]\nREAD [k]\n"})
    told = fails_alone(place, "x", "--threads", "1")  # while x fills the disk, no other writes
    output = (place / "x.out").read_bytes()
    assert told == f"{place}/x.out: cannot write the output: {FULL}"
    assert LONG_OUTPUT.startswith(output)
    assert output.endswith(b"\n")
    assert (place / "z.out").read_bytes() == b"[(k,v)]\n"


def test_a_snapshot_for_which_there_is_no_space_is_an_error_of_its_backup_alone(
    mount: Mount,
) -> None:
    place = mount("size=200k")
    write_jobs(place, {"a": b"BACKUP\n" + pairs_job(3_000) + b"BACKUP\nDELETE [key000000001]\n"})
    (place / "a-2.bck").write_text("older")
    ended, report = run_reporting(place)
    assert ended.status == 1
    assert one_line(ended) == no_snapshot(place, "a", line=32, number=2, reason=FULL)
    assert (place / "a-2.bck").read_text() == "older"
    assert leftovers(place) == []
    assert (report["jobs"][0]["state"], report["jobs"][0]["commands"]) == ("done", 33)


def test_a_snapshot_that_fits_only_beside_the_older_one_replaces_it(mount: Mount) -> None:
    place = mount("size=400k")
    write_jobs(place, {"a": pairs_job(3_000) + b"BACKUP\n"})
    for _ in range(2):
        ended = kvs("run", place)
        assert (ended.status, ended.stderr) == (0, b"")
        assert (place / "a-1.bck").read_bytes() == pairs_listing(3_000)


def test_where_not_a_byte_can_be_written_every_job_that_needs_none_is_done(mount: Mount) -> None:
    place = mount("size=64k")
    write_jobs(place, {"a": "WRITE [(k,v)]\n", "b": "READ [k]\n", "c": "WRITE [(k,w)]\n"})
    fill(place)
    assert fails_alone(place, "b") == f"{place}/b.out: cannot write the output: {FULL}"
    assert (place / "b.out").read_bytes() == b""


def test_a_job_for_whose_output_there_is_no_inode_fails_alone(mount: Mount) -> None:
    """Places for the directory itself, three jobs, the lock, and two outputs."""
    place = mount("nr_inodes=7")
    write_jobs(place, dict.fromkeys("abc", "READ [k]\n"))
    ended, report = run_reporting(place, "--threads", "1")
    assert ended.status == 1
    assert one_line(ended) == f"{place}/c.out: cannot open the output: {FULL}"
    assert [job["state"] for job in report["jobs"]] == ["done", "done", "failed"]
    assert (place / "b.out").read_bytes() == b"[(k,KVSERROR)]\n"
    assert leftovers(place) == []


def test_a_report_for_which_there_is_no_space_leaves_the_older_one(
    mount: Mount, tmp_path: Path
) -> None:
    place = mount("size=64k")
    jobs = write_jobs(tmp_path / "jobs", {"a": "READ [k]\n"})
    (place / "report.json").write_text("older")
    fill(place)
    ended = kvs("run", jobs, "--quiet", "--report", place / "report.json")
    assert ended.status == 1
    assert one_line(ended) == f"kvs run: cannot write the report {place}/report.json: {FULL}"
    assert (place / "report.json").read_text() == "older"
    assert sorted(os.listdir(place)) == ["filler", "report.json"]
    assert (jobs / "a.out").read_bytes() == b"[(k,KVSERROR)]\n"


def test_on_a_read_only_filesystem_every_job_fails_with_its_reason(mount: Mount) -> None:
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
