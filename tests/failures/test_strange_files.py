"""Jobs, outputs and backups of other kinds than regular files: each fails alone."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers import (
    BLOCKING_ERRORS,
    NOBODY_UID,
    backup_error,
    blocked_on_stderr,
    content,
    end,
    failing_job_error,
    kvs,
    leftovers,
    only_line,
    run_reporting,
    write_jobs,
)

GOOD = "WRITE [(k,v)]\nREAD [k]\n"

Make = Callable[[Path], object]


@pytest.fixture(name="jobs")
def _jobs(tmp_path: Path) -> Iterator[Path]:
    """Return a directory with jobs that run before and after "x"; both must be done."""
    jobs = write_jobs(tmp_path / "jobs", {"a": GOOD, "z": GOOD})
    yield jobs
    for name in "az":
        assert (jobs / f"{name}.out").read_bytes() == b"[(k,v)]\n"


def make_socket(path: Path) -> None:
    """Create a socket in the filesystem, by a short path of it."""
    directory = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{directory}/{path.name}")
    os.close(directory)


def make_file_of_another_user(path: Path) -> None:
    """Create a file that belongs to another user."""
    path.touch()
    os.chown(path, NOBODY_UID, NOBODY_UID)


JOBS: dict[str, tuple[Make, str]] = {
    "a directory": (Path.mkdir, "it is not a regular file"),
    "a pipe": (os.mkfifo, "it is not a regular file"),
    "a socket": (make_socket, "it is not a regular file"),
    "a dangling link": (lambda path: path.symlink_to("nowhere"), "it is a dangling symbolic link"),
    "a link to itself": (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    "a link to a directory": (lambda path: path.symlink_to("."), "it is not a regular file"),
    "a link to a device": (lambda path: path.symlink_to("/dev/zero"), "it is not a regular file"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("make", "reason"), JOBS.values(), ids=JOBS)
def test_job_that_is_not_a_regular_file_fails_alone(jobs: Path, make: Make, reason: str) -> None:
    make(jobs / "x.job")
    assert failing_job_error(jobs, "x") == f"{jobs}/x.job: cannot open it: {reason}"
    assert not (jobs / "x.out").exists()


OUTPUTS: dict[str, tuple[Make, str]] = {
    "a directory": (Path.mkdir, "Is a directory"),
    "a pipe": (os.mkfifo, "it is not a regular file"),
    "a socket": (make_socket, "it is not a regular file"),
    "a link": (lambda path: path.symlink_to("../precious"), "it is a link; remove it"),
    "a dangling link": (lambda path: path.symlink_to("../new"), "it is a link; remove it"),
    "a link to a device": (lambda path: path.symlink_to("/dev/null"), "it is a link; remove it"),
    "a hard link": (
        lambda path: path.hardlink_to(path.parent.parent / "precious"),
        "it is another name of some file, a hard link; remove it",
    ),
}

OTHERS_OUTPUT = pytest.param(
    make_file_of_another_user,
    "it belongs to another user; remove it",
    marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away"),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "reason"),
    [*OUTPUTS.values(), OTHERS_OUTPUT],
    ids=[*OUTPUTS, "another user's"],
)
def test_output_that_is_not_exclusive_fails_its_job_at_the_start(
    jobs: Path, make: Make, reason: str
) -> None:
    precious = jobs.parent / "precious"
    precious.write_text("precious")
    write_jobs(jobs, {"x": "WRITE [(k,changed)]\n"})
    make(jobs / "x.out")
    before = os.lstat(jobs / "x.out")
    assert failing_job_error(jobs, "x") == f"{jobs}/x.out: cannot open the output: {reason}"
    assert precious.read_text() == "precious"
    assert not (jobs.parent / "new").exists()
    after = os.lstat(jobs / "x.out")
    assert (after.st_ino, after.st_mode, after.st_size) == (
        before.st_ino,
        before.st_mode,
        before.st_size,
    )


def test_pipe_with_a_reader_is_rejected_as_an_output(jobs: Path) -> None:
    write_jobs(jobs, {"x": GOOD})
    os.mkfifo(jobs / "x.out")
    reader = os.open(jobs / "x.out", os.O_RDONLY | os.O_NONBLOCK)
    assert "it is not a regular file" in failing_job_error(jobs, "x")
    assert os.read(reader, 100) == b""
    os.close(reader)


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_job_that_is_its_own_output_is_not_changed(
    jobs: Path, link: Callable[[Path, Path], None]
) -> None:
    (jobs / "x.out").write_text(GOOD)
    link(jobs / "x.job", jobs / "x.out")
    assert "it is the job file itself" in failing_job_error(jobs, "x")
    assert (jobs / "x.job").read_text() == GOOD


def test_link_to_a_job_is_a_job(jobs: Path) -> None:
    (jobs.parent / "elsewhere").write_text("READ [none]\n")
    (jobs / "x.job").symlink_to("../elsewhere")
    assert kvs("run", jobs).status == 0
    assert (jobs / "x.out").read_bytes() == b"[(none,KVSERROR)]\n"


# Backups.


def test_backup_with_the_name_of_a_directory_fails_alone(jobs: Path) -> None:
    write_jobs(jobs, {"x": "BACKUP\nREAD [none]\nBACKUP\n"})
    (jobs / "x-1.bck").mkdir()
    ended, report = run_reporting(jobs)
    assert ended.status == 1
    assert only_line(ended) == backup_error(jobs, "x", line=1, number=1, reason="Is a directory")
    assert (jobs / "x.out").read_bytes() == b"[(none,KVSERROR)]\n"
    assert (jobs / "x-2.bck").is_file()
    assert report["jobs"][1]["state"] == "done"
    assert leftovers(jobs) == []


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_backup_replaces_a_link_and_not_its_target(
    jobs: Path, link: Callable[[Path, Path], None]
) -> None:
    precious = jobs.parent / "precious"
    precious.write_text("precious")
    write_jobs(jobs, {"x": "BACKUP\n"})
    link(jobs / "x-1.bck", precious)
    assert kvs("run", jobs, "--threads", "1").status == 0
    assert precious.read_text() == "precious"
    assert not (jobs / "x-1.bck").is_symlink()
    assert (jobs / "x-1.bck").read_bytes() == b"(k, v)\n"


# Files that change during a run.


@pytest.fixture(name="still")
def _still(tmp_path: Path) -> Path:
    """Return a directory whose first job stops, before two others."""
    jobs = {"a": "READ [a]\n" + BLOCKING_ERRORS, "b": "READ [b]\n", "c": "READ [c]\n"}
    return write_jobs(tmp_path / "still", jobs)


def test_job_removed_before_its_turn_fails_alone(still: Path) -> None:
    with blocked_on_stderr(still) as process:
        (still / "b.job").unlink()
        ended = end(process)
    assert ended.status == 1
    assert ended.lines[-1] == f"{still}/b.job: cannot open it: No such file or directory"
    assert len(ended.lines) == 201
    assert not (still / "b.out").exists()
    assert (still / "c.out").read_bytes() == b"[(c,KVSERROR)]\n"


def test_job_removed_while_it_runs_is_finished(still: Path) -> None:
    big = BLOCKING_ERRORS + "# filler\n" * 100_000 + "READ [end]\n"
    write_jobs(still, {"a": big})
    with blocked_on_stderr(still) as process:
        (still / "a.job").unlink()
        ended = end(process)
    assert len(ended.lines) == 200
    assert (still / "a.out").read_bytes() == b"[(end,KVSERROR)]\n"


@pytest.mark.parametrize("size", [0, 100, 400_000])
def test_job_that_shrinks_while_it_is_read_fails_alone(still: Path, size: int) -> None:
    big = "READ [a]\n" + BLOCKING_ERRORS + "# filler\n" * 100_000 + "READ [end]\n"
    write_jobs(still, {"a": big})
    with blocked_on_stderr(still) as process:
        os.truncate(still / "a.job", size)
        ended = end(process)
    assert ended.status == 1
    cause = "the file was truncated while it was read"
    assert ended.lines[-1] == f"{still}/a.job: cannot read it: {cause}"
    assert (still / "a.out").read_bytes() == b"[(a,KVSERROR)]\n"
    assert (still / "b.out").read_bytes() == b"[(b,KVSERROR)]\n"
    assert (still / "c.out").read_bytes() == b"[(c,KVSERROR)]\n"


def test_output_removed_during_the_run_is_not_an_error(still: Path) -> None:
    write_jobs(still, {"a": BLOCKING_ERRORS})
    with blocked_on_stderr(still) as process:
        (still / "a.out").unlink()
        ended = end(process)
    assert len(ended.lines) == 200
    assert content(still / "c.out") == b"[(c,KVSERROR)]\n"
    assert leftovers(still) == []
