"""Jobs in a watched directory: which events make a job run, and when it is opened."""

import fcntl
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvs.posix.inotify import DirectoryWatcher, FileEvent
from tests.helpers import content, until
from tests.service.serving import Served, blocked_worker, drop, serving

pytestmark = pytest.mark.usefixtures("each_engine")


def test_renamed_job_runs_once(served: Served) -> None:
    drop(served.path, "a", "READ [a]\n")
    served.wait_for_run("a")
    os.rename(served.path / "a.job", served.path / "b.job")
    served.wait_for_run("b")
    served.settle()
    assert (served.runs("a"), served.runs("b")) == (1, 1)


def test_hidden_entry_is_a_job_only_when_renamed(served: Served) -> None:
    (served.path / ".#a.job").symlink_to("user@host.1234")
    (served.path / ".a.job").write_text("READ [a]\n")
    served.settle()
    os.rename(served.path / ".a.job", served.path / "a.job")
    served.wait_for_run("a")
    os.rename(served.path / "a.job", served.path / ".a.job")
    served.settle()
    os.rename(served.path / ".a.job", served.path / "a.job")
    served.wait_for_run("a", times=2)
    assert not any(".a" in line or "#" in line for line in served.lines)
    assert served.errors == []


def test_slowly_written_job_runs_when_closed(served: Served) -> None:
    with (served.path / "a.job").open("w") as file:
        served.settle()
        file.write("READ [a]\n")
        file.flush()
        served.settle()
        assert served.runs("a") == 0
        assert not (served.path / "a.out").exists()
        file.write("READ [b]\n")
    served.wait_for_run("a")
    served.settle()
    assert content(served.path / "a.out") == b"[(a,KVSERROR)]\n[(b,KVSERROR)]\n"
    assert served.runs("a") == 1


def test_job_being_written_at_start_runs_when_closed(tmp_path: Path) -> None:
    with (tmp_path / "a.job").open("w") as file:
        file.write("READ [a]\n")
        file.flush()
        with serving(tmp_path) as served:
            served.settle()
            assert not (tmp_path / "a.out").exists()
            file.close()
            served.wait_for_run("a")
            served.settle()
            assert served.runs("a") == 1


def test_job_written_by_another_name_runs_when_closed(served: Served, tmp_path: Path) -> None:
    with (tmp_path / "elsewhere").open("w") as file:
        file.write("READ [a]\n")
        file.flush()
        os.link(tmp_path / "elsewhere", served.path / "a.job")
        (served.path / "b.job").symlink_to(tmp_path / "elsewhere")
        served.settle()
        assert served.runs("a") == served.runs("b") == 0
    served.wait_for_run("a")
    served.wait_for_run("b")


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_linked_job_runs_once(
    served: Served, tmp_path: Path, link: Callable[[Path, Path], None]
) -> None:
    for name, text in {"full": "READ [a]\n", "empty": ""}.items():
        (tmp_path / name).write_text(text)
        link(tmp_path / name, served.path / f"{name}.job")
        served.wait_for_run(name)
    served.settle()
    assert served.runs("full") == served.runs("empty") == 1


def test_touched_job_does_not_run_again(served: Served) -> None:
    path = served.path / "a.job"
    path.write_text("READ [a]\n")
    served.wait_for_run("a")
    subprocess.run(["touch", path], check=True)
    os.utime(path, (1, 1))
    with path.open("a"):
        pass
    path.chmod(0o600)
    served.settle()
    assert served.runs("a") == 1
    assert served.lines.count("a.job: found") == 1


def test_failed_job_runs_again_when_written_but_not_touched(served: Served) -> None:
    (served.path / "a.out").mkdir()
    (served.path / "a.job").write_text("READ [a]\n")
    until(lambda: len(served.errors) == 1)
    subprocess.run(["touch", served.path / "a.job"], check=True)
    served.settle()
    assert len(served.errors) == 1
    (served.path / "a.out").rmdir()
    (served.path / "a.job").write_text("READ [a]\n")
    served.wait_for_run("a")


def test_job_rewritten_with_the_same_bytes_runs_again(
    served: Served,
) -> None:
    for times in range(1, 4):
        (served.path / "a.job").write_text("READ [a]\n")
        served.wait_for_run("a", times)
    served.settle()
    assert served.runs("a") == 3


def test_job_changed_by_a_mapping_runs_again(served: Served) -> None:
    import mmap

    (served.path / "a.job").write_text("READ [a]\n")
    served.wait_for_run("a")
    with (served.path / "a.job").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[6:7] = b"b"
    served.wait_for_run("a", 2)
    assert content(served.path / "a.out") == b"[(b,KVSERROR)]\n"


def test_job_replaced_while_it_runs_then_runs_its_newest_file(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "jobs"
    directory.mkdir()
    with serving(directory, threads=4) as served:
        gate = threading.Event()
        real = served.store._core.execute

        def execute(script: bytes, *rest: Any) -> object:  # noqa: ANN401
            if b"gate" in script:
                gate.wait()
            return real(script, *rest)

        served.store._core.execute = execute  # type: ignore[method-assign,assignment]
        drop(directory, "a", "# gate\nREAD [first]\n")
        until(lambda: "a.job: started" in served.lines)
        for number in range(20):
            drop(directory, "a", f"READ [again{number}]\n")
        served.settle()
        assert served.lines.count("a.job: started") == 1
        gate.set()
        served.wait_for_run("a", 2)
        served.settle()
        assert served.runs("a") == 2
        assert content(directory / "a.out") == b"[(again19,KVSERROR)]\n"


def test_job_deleted_before_its_turn_fails_and_can_come_again(
    served: Served,
) -> None:
    with blocked_worker(served) as unblock:
        for name in "ab":
            (served.path / f"{name}.job").write_text("READ [a]\n")
        until(lambda: "b.job: found" in served.lines)
        (served.path / "a.job").unlink()
        unblock()
        served.wait_for_run("b")
    [error] = served.errors
    assert str(error) == f"{served.path}/a.job: cannot open it: No such file or directory"
    (served.path / "a.job").write_text("READ [a]\n")
    served.wait_for_run("a")


def test_queued_job_that_is_rewritten_runs_once(
    served: Served,
) -> None:
    with blocked_worker(served) as unblock:
        for text in ("READ [a]\n", "READ [b]\n"):
            (served.path / "a.job").write_text(text)
            until(lambda: "a.job: found" in served.lines)
        unblock()
        served.wait_for_run("a")
    served.settle()
    assert served.runs("a") == 1
    assert content(served.path / "a.out") == b"[(b,KVSERROR)]\n"


def test_job_rewritten_while_it_runs_then_runs_once_more(
    served: Served,
) -> None:
    with blocked_worker(served) as unblock:
        for _ in range(3):
            (served.path / "gate.job").write_text("# gate\n")
        unblock()
        served.wait_for_run("gate", 2)
    served.settle()
    assert served.runs("gate") == 2


def test_job_written_without_a_name_runs_when_closed(served: Served) -> None:
    """Created with O_TMPFILE, written, and then linked into the directory (open(2))."""
    file = os.open(served.path, os.O_TMPFILE | os.O_WRONLY, 0o600)
    here = os.open("/", os.O_RDONLY)  # with a directory, os.link follows the link to the file
    try:
        os.write(file, b"READ [a]\n")
        os.link(f"/proc/self/fd/{file}", served.path / "a.job", src_dir_fd=here)
        served.settle()
        assert served.runs("a") == 0
    finally:
        os.close(here)
        os.close(file)
    served.wait_for_run("a")
    served.settle()
    assert served.runs("a") == 1


# Lost events.


def test_lost_events_are_made_good_by_a_listing(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events are dropped here, as from a full queue."""
    for name in ("unchanged", "touched", "changed", "gone"):
        (served.path / f"{name}.job").write_text("READ [a]\n")
        served.wait_for_run(name)
    real, lose = DirectoryWatcher.read_events, threading.Event()

    def read_events(self: DirectoryWatcher) -> list[tuple[FileEvent, bytes]]:
        events = real(self)
        return [(FileEvent.OVERFLOWED, b"")] if lose.is_set() and events else events

    monkeypatch.setattr(DirectoryWatcher, "read_events", read_events)
    with blocked_worker(served) as unblock:
        lose.set()
        (served.path / "new.job").write_text("READ [a]\n")
        (served.path / "changed.job").write_text("READ [b]\n")
        subprocess.run(["touch", served.path / "touched.job"], check=True)
        (served.path / "gone.job").unlink()
        unblock()
        served.wait_for_run("new")
        served.wait_for_run("changed", 2)
        lose.clear()
    served.settle()
    runs = {name: served.runs(name) for name in ("unchanged", "touched", "changed", "gone", "new")}
    assert runs == {"unchanged": 1, "touched": 1, "changed": 2, "gone": 1, "new": 1}
    assert any("changes may have been missed" in line for line in served.lines)


@pytest.mark.slow
def test_real_queue_overflow_is_made_good(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events of another file fill the kernel's queue before the jobs arrive."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 100_000:
        pytest.skip(f"the kernel keeps {limit} events")
    reading = threading.Event()
    reading.set()
    real = DirectoryWatcher.read_events

    def read_events(self: DirectoryWatcher) -> list[tuple[FileEvent, bytes]]:
        reading.wait()
        return real(self)

    monkeypatch.setattr(DirectoryWatcher, "read_events", read_events)
    drop(served.path, "before", "WRITE [(before,1)]\n")
    served.wait_for_run("before")
    try:
        reading.clear()
        other = served.path / "other"
        for _ in range(limit):  # equal events in a row would be merged into one
            other.touch()
            other.unlink()
        for number in range(100):
            (served.path / f"a{number}.job").write_text(f"WRITE [(a{number},1)]\n")
    finally:
        reading.set()
    until(lambda: served.lines_with(": done, ") == 101)
    served.settle()
    assert served.store.revision == len(served.store) == 101
    assert any("changes may have been missed" in line for line in served.lines)


# Filesystems without leases.


def test_jobs_without_leases_run_when_closed_linked_or_renamed(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fcntl.fcntl

    def refused(file: int, command: int, *rest: int) -> int:
        if command == fcntl.F_SETLEASE:
            raise PermissionError(13, "Permission denied")
        return real(file, command, *rest)

    monkeypatch.setattr(fcntl, "fcntl", refused)
    with (served.path / "slow.job").open("w") as file:
        file.write("READ [a]\n")
        file.flush()
        served.settle()
        assert served.runs("slow") == 0
    served.wait_for_run("slow")
    drop(served.path, "renamed", "READ [a]\n")
    (tmp_path / "target").write_text("READ [a]\n")
    os.link(tmp_path / "target", served.path / "hard.job")
    (served.path / "soft.job").symlink_to(tmp_path / "target")
    for name in ("renamed", "hard", "soft"):
        served.wait_for_run(name)
    served.settle()
    runs = [served.runs(name) for name in ("slow", "renamed", "hard", "soft")]
    assert runs == [1, 1, 1, 1]
    assert len([line for line in served.lines if "no leases" in line]) == 1
