"""The jobs directory: two processes in it, files of a crash in it, and its removal."""

import fcntl
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import (
    BLOCKING_ERRORS,
    LONG_WAIT,
    Start,
    alive,
    backup_error,
    blocked_on_stderr,
    content,
    end,
    kvs,
    leftovers,
    only_line,
    started,
    stopped_children,
    until,
    write_jobs,
)

LOCK = ".kvs.lock"


# Two processes.


def test_second_process_fails_with_the_pid_of_the_first(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path, {"a": LONG_WAIT, "b": "READ [k]\n"})
    with started("run", jobs, "--threads", "1") as first:
        until(lambda: content(jobs / "a.out"))
        for name in (jobs, jobs / ".." / jobs.name):
            second = kvs("run", name)
            assert second.status == 1
            assert f": in use by process {first.pid}" in only_line(second)
        assert leftovers(jobs) == [LOCK]
        assert (jobs / "a.out").read_bytes() == b"Waiting...\n"
        first.send_signal(signal.SIGTERM)
        assert end(first).status == 143
    write_jobs(jobs, {"a": "HELP\n"})
    assert kvs("run", jobs).status == 0
    assert leftovers(jobs) == []


def test_second_process_fails_while_the_first_finishes_backups(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path, {"a": "BACKUP\n"})
    with started("run", jobs, how=Start(children_stop="sync")) as first:
        stopped_children(first)
        assert kvs("run", jobs).status == 1
        assert len(leftovers(jobs)) == 2


def test_concurrent_processes_run_one_at_a_time(tmp_path: Path) -> None:
    """All start at the same time; each fails, or finds no unfinished run."""
    jobs = write_jobs(tmp_path, {"a": "WRITE [(k,v)]\nBACKUP\nREAD [k]\n"})
    with started("run", jobs) as one, started("run", jobs) as two, started("run", jobs) as three:
        ended = [end(process) for process in (one, two, three)]
    assert {run.status for run in ended} <= {0, 1}
    assert any(run.status == 0 for run in ended)
    assert all(b"in use by" in run.stderr for run in ended if run.status)
    assert (jobs / "a.out").read_bytes() == b"[(k,v)]\n"
    assert (jobs / "a-1.bck").read_bytes() == b"(k, v)\n"
    assert leftovers(jobs) == []


# Files of a crash.


def test_files_of_a_killed_process_are_removed_at_the_next_start(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path, {"a": "WRITE [(k,v)]\nBACKUP\nBACKUP\n" + LONG_WAIT})
    with started("run", jobs, how=Start(children_stop="sync")) as process:
        until(lambda: content(jobs / "a.out"))
        children = stopped_children(process, 2)
        process.kill()
        assert end(process).status == -signal.SIGKILL
        assert len(leftovers(jobs)) == 3
        for child in children:
            os.kill(child, signal.SIGKILL)
        until(lambda: not alive(process))
    write_jobs(jobs, {"a": "READ [k]\n"})
    ended = kvs("run", jobs)
    assert (ended.status, ended.stderr) == (0, b"")
    assert (jobs / "a.out").read_bytes() == b"[(k,KVSERROR)]\n"
    assert sorted(os.listdir(jobs)) == ["a.job", "a.out"]


def test_file_of_an_orphan_is_not_removed_before_it_ends(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path, {"a": "BACKUP\n"})
    with started("run", jobs, how=Start(children_stop="sync")) as process:
        (orphan,) = stopped_children(process)
        process.kill()
        process.wait()
        assert kvs("run", jobs, "--quiet").status == 0
        (temporary,) = leftovers(jobs)
        os.kill(orphan, signal.SIGCONT)
        until(lambda: kvs("run", jobs, "--quiet").status == 0 and not leftovers(jobs))
    assert not (jobs / temporary).exists()
    assert (jobs / "a-1.bck").exists()


OTHER_FILES = [".kvs-1.tmp", ".kvs-0123456789abcdef.tmp~", "kvs-0123456789abcdef.tmp", "x.tmp"]


def test_only_files_of_the_program_are_removed(tmp_path: Path) -> None:
    for name in OTHER_FILES:
        (tmp_path / name).write_text("precious")
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / ".kvs-0123456789abcdef.tmp").symlink_to(precious)
    (tmp_path / ".kvs-0123456789abcde0.tmp").mkdir()
    (tmp_path / ".kvs-0123456789abcde1.tmp").write_text("stale")
    assert kvs("run", tmp_path).status == 0
    assert precious.read_text() == "precious"
    assert set(os.listdir(tmp_path)) >= {*OTHER_FILES, "precious", ".kvs-0123456789abcde0.tmp"}
    assert not (tmp_path / ".kvs-0123456789abcde1.tmp").exists()


@pytest.mark.parametrize("text", ["", "1\n", "999999999\n"])
def test_unlocked_lock_file_is_taken(tmp_path: Path, text: str) -> None:
    write_jobs(tmp_path, {"a": "HELP\n"})
    (tmp_path / LOCK).write_text(text)
    assert kvs("run", tmp_path).status == 0
    assert leftovers(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("text", ["", "nonsense", "nonsense\n"])
def test_locked_lock_file_is_respected_whatever_its_content(tmp_path: Path, text: str) -> None:
    write_jobs(tmp_path, {"a": "HELP\n"})
    with (tmp_path / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(text)
        lock.flush()
        ended = kvs("run", tmp_path)
    assert ended.status == 1
    assert f"in use by process {os.getpid()}" in only_line(ended)
    assert (tmp_path / LOCK).read_text() == text


LOCKS: dict[str, Callable[[Path], object]] = {
    "a directory": Path.mkdir,
    "a pipe": os.mkfifo,
    "a link": lambda path: path.symlink_to("precious"),
    "a hard link": lambda path: path.hardlink_to(path.with_name("precious")),
}


@pytest.mark.parametrize("make", LOCKS.values(), ids=LOCKS)
def test_lock_file_that_is_not_exclusive_is_rejected(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    write_jobs(tmp_path, {"a": "HELP\n"})
    (tmp_path / "precious").write_text("precious")
    make(tmp_path / LOCK)
    ended = kvs("run", tmp_path)
    assert ended.status == 2
    assert f"{tmp_path}: cannot lock it with {LOCK}: " in only_line(ended)
    assert (tmp_path / "precious").read_text() == "precious"
    assert not (tmp_path / "a.out").exists()


# A directory that is removed or renamed.


@pytest.fixture(name="still")
def _still(tmp_path: Path) -> Path:
    """Return a directory whose first job stops and then makes a backup."""
    script = "READ [a]\n" + BLOCKING_ERRORS + "BACKUP\nREAD [end]\n"
    return write_jobs(tmp_path / "still", {"a": script, "b": "READ [b]\n", "c": "READ [c]\n"})


def test_removed_directory_fails_the_files_not_yet_opened(still: Path) -> None:
    with blocked_on_stderr(still) as process:
        shutil.rmtree(still)
        ended = end(process)
    assert ended.status == 1
    assert ended.lines[200:] == [
        backup_error(still, "a", line=202, number=1, reason="No such file or directory"),
        f"{still}/b.job: cannot open it: No such file or directory",
        f"{still}/c.job: cannot open it: No such file or directory",
    ]
    assert not still.exists()


def test_run_continues_in_a_renamed_directory(still: Path) -> None:
    renamed = still.with_name("renamed")
    with blocked_on_stderr(still) as process:
        still.rename(renamed)
        write_jobs(still, {"b": "READ [other]\n"})
        ended = end(process)
    assert len(ended.lines) == 200
    assert sorted(os.listdir(still)) == ["b.job"]
    assert (renamed / "b.out").read_bytes() == b"[(b,KVSERROR)]\n"
    assert (renamed / "a-1.bck").exists()
    assert leftovers(renamed) == []
