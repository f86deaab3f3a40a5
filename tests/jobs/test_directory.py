"""A jobs directory: its lock, its jobs, and the outputs that it rejects."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvs.errors import DirectoryLockedError, JobError, JobsDirectoryError
from kvs.jobs.directory import JobsDirectory


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[JobsDirectory]:
    with JobsDirectory(tmp_path) as opened:
        opened.lock()
        yield opened


def test_jobs_are_entries_with_the_suffix_in_byte_order(
    directory: JobsDirectory, tmp_path: Path
) -> None:
    (tmp_path / "folder.job").mkdir()
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "c.job").touch()
    for name in (b"b.job", b"B.job", b"a-.job", b"a.job", b"a.b.job", b"\xff.job", b"x.jobs"):
        (Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name)))).touch()
    assert directory.list_jobs() == [b"B", b"a", b"a-", b"a.b", b"b", b"folder", b"\xff"]


def test_hidden_entries_are_not_jobs(directory: JobsDirectory, tmp_path: Path) -> None:
    for name in (".job", "..job", ".a.job"):
        (tmp_path / name).touch()
    (tmp_path / ".#a.job").symlink_to("user@host.1234")
    (tmp_path / "a.job").touch()
    assert directory.list_jobs() == [b"a"]


def test_second_lock_fails_with_the_pid_of_the_first(tmp_path: Path) -> None:
    with JobsDirectory(tmp_path) as first, JobsDirectory(tmp_path) as second:
        first.lock()
        with pytest.raises(DirectoryLockedError) as caught:
            second.lock()
        assert caught.value.pid == os.getpid()
        first.unlock()
        second.lock()
    assert os.listdir(tmp_path) == []


def test_lock_file_of_a_crashed_process_locks_nothing(tmp_path: Path) -> None:
    (tmp_path / ".kvs.lock").write_text("1234567\n")
    with JobsDirectory(tmp_path) as directory:
        directory.lock()
        assert (tmp_path / ".kvs.lock").read_text() == f"{os.getpid()}\n"


def test_lock_file_that_is_not_exclusive_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("precious")
    (tmp_path / ".kvs.lock").symlink_to("other")
    with JobsDirectory(tmp_path) as directory, pytest.raises(JobsDirectoryError, match="lock"):
        directory.lock()
    assert (tmp_path / "other").read_text() == "precious"
    (tmp_path / ".kvs.lock").unlink()
    os.mkfifo(tmp_path / ".kvs.lock")
    with JobsDirectory(tmp_path) as directory, pytest.raises(JobsDirectoryError, match="regular"):
        directory.lock()


def test_lock_removes_temporary_files_of_a_crash(tmp_path: Path) -> None:
    (tmp_path / ".kvs-0123456789abcdef.tmp").write_text("half a backup")
    with JobsDirectory(tmp_path) as directory:
        directory.lock()
        assert os.listdir(tmp_path) == [".kvs.lock"]


def test_path_that_is_not_a_directory_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, reason in [("none", "No such file or directory"), ("file", "Not a directory")]:
        with pytest.raises(JobsDirectoryError, match=reason), JobsDirectory(tmp_path / name):
            pass


def test_job_may_be_a_link_but_must_be_a_regular_file(
    directory: JobsDirectory, tmp_path: Path
) -> None:
    (tmp_path / "a.job").write_text("SHOW\n")
    (tmp_path / "link.job").symlink_to("a.job")
    (tmp_path / "dangling.job").symlink_to("none")
    (tmp_path / "folder.job").mkdir()
    os.mkfifo(tmp_path / "pipe.job")
    os.close(directory.open_job(b"link"))
    for name in (b"dangling", b"folder", b"pipe", b"none"):
        with pytest.raises(JobError, match=r"cannot open it: .*(not a regular|dangling|No such)"):
            directory.open_job(name)


def test_output_must_be_a_regular_file_of_its_own(directory: JobsDirectory, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "a.job").write_text("SHOW\n")
    out = tmp_path / "a.out"
    makers: dict[str, Callable[[], None]] = {
        "it is a link": lambda: out.symlink_to("precious"),
        "another name": lambda: out.hardlink_to(tmp_path / "precious"),
        "the job file itself": lambda: out.hardlink_to(tmp_path / "a.job"),
        "not a regular file": lambda: os.mkfifo(out),
        "directory": out.mkdir,
    }
    job = directory.open_job(b"a")
    for reason, make in makers.items():
        make()
        with pytest.raises(JobError, match=reason) as caught:
            directory.open_output(b"a", job)
        assert caught.value.path == str(out)
        out.rmdir() if out.is_dir() else out.unlink()
    os.close(job)
    assert (tmp_path / "precious").read_text() == "precious"
    assert (tmp_path / "a.job").read_text() == "SHOW\n"


def test_old_output_is_emptied_and_a_new_one_is_private(
    directory: JobsDirectory, tmp_path: Path
) -> None:
    (tmp_path / "a.job").touch()
    (tmp_path / "a.out").write_text("old")
    (tmp_path / "b.job").touch()
    for name in (b"a", b"b"):
        job = directory.open_job(name)
        os.close(directory.open_output(name, job))
        os.close(job)
    assert (tmp_path / "a.out").read_text() == ""
    assert (tmp_path / "b.out").stat().st_mode & 0o777 == 0o600
