"""A directory that is served, with real changes of every kind."""

import fcntl
import gc
import itertools
import os
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kvs import DirectoryLockedError, JobsDirectoryError, KvsError, Store
from kvs.jobs.directory import JobsDirectory
from kvs.posix.inotify import DirectoryWatcher, FileEvent
from kvs.service.directory import WatchedDirectory
from kvs.service.service import JobService
from kvs.settings import Settings
from kvs.snapshot.writer import SnapshotInfo, SnapshotWriter
from tests.helpers import HOUR, SECONDS, content, until, write_jobs

pytestmark = pytest.mark.usefixtures("each_engine")


_numbers = itertools.count()
"""For names of jobs that no directory has held before."""


class Served:
    """A directory being served, and what was told of it."""

    def __init__(self, path: Path, threads: int, backups: int) -> None:
        self.path = path
        self.store = Store()
        self.lines: list[str] = []
        self.errors: list[KvsError] = []
        self.service = JobService(
            self.store._core, path, Settings(threads, backups), self.errors.append, self.log
        )

    def log(self, line: str) -> None:
        self.lines.append(line.removeprefix(f"{self.path}").removeprefix("/"))

    def runs(self, name: str) -> int:
        """Return how many runs of the job have ended."""
        return sum(line.startswith(f"{name}.job: done") for line in self.lines)

    def has_run(self, name: str, times: int = 1) -> None:
        until(lambda: self.runs(name) == times)

    def settle(self) -> None:
        """Come back when everything that has been told is done: jobs are taken in order."""
        for _ in range(2):  # what the first round made due comes before the second
            name = f"settle{next(_numbers)}"
            (self.path / f"{name}.job").write_text("")
            self.has_run(name)


@contextmanager
def serving(path: Path, threads: int = 1, backups: int = 2) -> Iterator[Served]:
    served = Served(path, threads, backups)
    with served.service:
        yield served
    assert not (path / ".kvs.lock").exists()


@pytest.fixture(name="served")
def _served(tmp_path: Path) -> Iterator[Served]:
    """Serve an empty directory with one thread."""
    (tmp_path / "jobs").mkdir()
    with serving(tmp_path / "jobs") as served:
        yield served


def drop(directory: Path, name: str, text: str) -> None:
    """Rename a finished job into `directory`."""
    finished = directory.parent / f"{name}.finished"
    finished.write_text(text)
    os.rename(finished, directory / f"{name}.job")


def test_jobs_that_are_there_are_run_in_order_of_name(tmp_path: Path) -> None:
    write_jobs(tmp_path, {name: f"WRITE [(last,{name})]\n" for name in ("c", "a", "b", "B")})
    with serving(tmp_path) as served:
        served.has_run("c")
    for what in ("found", "started"):  # the first may be started before the last is found
        told = [line for line in served.lines if line.endswith(f": {what}")]
        assert told == [f"{name}.job: {what}" for name in ("B", "a", "b", "c")]
    assert served.store.read(["last"]) == {b"last": b"c"}
    assert served.errors == []


def test_one_that_is_written_is_run_once_with_its_snapshot(served: Served) -> None:
    (served.path / "a.job").write_text("WRITE [(a,1)]\nBAD\nBACKUP\nREAD [a]\n")
    served.has_run("a")
    assert content(served.path / "a.out") == b"[(a,1)]\n"
    served.settle()
    assert served.runs("a") == 1
    assert len([line for line in served.lines if line.startswith("a.job: ")]) == 3
    assert "a.job: done, 3 commands, 1 invalid line, " in " ".join(served.lines)
    counts = served.service.counts()
    assert (counts.jobs, counts.commands, counts.invalid, counts.snapshots) == (3, 3, 1, 1)
    assert [str(error).partition(": ")[0] for error in served.errors] == [
        f"{served.path}/a.job:2:1"
    ]
    until(lambda: content(served.path / "a-1.bck") == b"(a, 1)\n")


def test_of_snapshots_it_is_told_how_many_are_there_and_how_many_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = threading.Event()
    finish = SnapshotWriter.finish

    def finished(draft: SnapshotWriter, until_safe: Callable[[], None]) -> SnapshotInfo:
        if draft.display_path.endswith("a-3.bck"):
            assert looked_at.wait(SECONDS)
        return finish(draft, until_safe)

    monkeypatch.setattr(SnapshotWriter, "finish", finished)
    (tmp_path / "a-1.bck").mkdir()
    with serving(tmp_path, backups=1) as served:
        (tmp_path / "a.job").write_text("BACKUP\nBACKUP\nBACKUP\n")
        try:
            served.has_run("a")
        finally:
            looked_at.set()
    (line,) = [line for line in served.lines if line.startswith("a.job: done")]
    assert " invalid lines, 1 snapshot (1 failed, 1 being written), " in line


def test_one_that_is_renamed_into_it_is_run_once(served: Served) -> None:
    drop(served.path, "a", "READ [a]\n")
    served.has_run("a")
    os.rename(served.path / "a.job", served.path / "b.job")
    served.has_run("b")
    served.settle()
    assert (served.runs("a"), served.runs("b")) == (1, 1)


def test_an_entry_that_begins_with_a_dot_is_a_job_only_when_it_is_renamed(served: Served) -> None:
    (served.path / ".#a.job").symlink_to("user@host.1234")
    (served.path / ".a.job").write_text("READ [a]\n")
    served.settle()
    os.rename(served.path / ".a.job", served.path / "a.job")
    served.has_run("a")
    os.rename(served.path / "a.job", served.path / ".a.job")
    served.settle()
    os.rename(served.path / ".a.job", served.path / "a.job")
    served.has_run("a", times=2)
    assert not any(".a" in line or "#" in line for line in served.lines)
    assert served.errors == []


def test_one_that_is_written_slowly_is_not_touched_before_it_is_closed(served: Served) -> None:
    with (served.path / "a.job").open("w") as file:
        served.settle()
        file.write("READ [a]\n")
        file.flush()
        served.settle()
        assert served.runs("a") == 0
        assert not (served.path / "a.out").exists()
        file.write("READ [b]\n")
    served.has_run("a")
    served.settle()
    assert content(served.path / "a.out") == b"[(a,KVSERROR)]\n[(b,KVSERROR)]\n"
    assert served.runs("a") == 1


def test_one_that_is_being_written_at_the_start_is_not_touched_either(tmp_path: Path) -> None:
    with (tmp_path / "a.job").open("w") as file:
        file.write("READ [a]\n")
        file.flush()
        with serving(tmp_path) as served:
            served.settle()
            assert not (tmp_path / "a.out").exists()
            file.close()
            served.has_run("a")
            served.settle()
            assert served.runs("a") == 1


def test_one_that_is_written_by_another_name_is_run_when_that_is_closed(
    served: Served, tmp_path: Path
) -> None:
    with (tmp_path / "elsewhere").open("w") as file:
        file.write("READ [a]\n")
        file.flush()
        os.link(tmp_path / "elsewhere", served.path / "a.job")
        (served.path / "b.job").symlink_to(tmp_path / "elsewhere")
        served.settle()
        assert served.runs("a") == served.runs("b") == 0
    served.has_run("a")
    served.has_run("b")


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_one_that_is_linked_is_run_once(
    served: Served, tmp_path: Path, link: Callable[[Path, Path], None]
) -> None:
    for name, text in {"full": "READ [a]\n", "empty": ""}.items():
        (tmp_path / name).write_text(text)
        link(tmp_path / name, served.path / f"{name}.job")
        served.has_run(name)
    served.settle()
    assert served.runs("full") == served.runs("empty") == 1


def test_what_is_no_job_is_ignored_and_no_regular_file_fails(served: Served) -> None:
    (served.path / "a.txt").write_text("READ [a]\n")
    (served.path / "b.job").mkdir()
    os.mkfifo(served.path / "c.job")
    (served.path / "d.job").symlink_to("nowhere")
    served.settle()
    until(lambda: len(served.errors) == 3)
    assert sorted(map(str, served.errors)) == [
        f"{served.path}/b.job: cannot open it: it is no regular file",
        f"{served.path}/c.job: cannot open it: it is no regular file",
        f"{served.path}/d.job: cannot open it: it is a link that leads nowhere",
    ]
    assert served.service.counts().failed == 3


def test_a_touch_runs_nothing(served: Served) -> None:
    path = served.path / "a.job"
    path.write_text("READ [a]\n")
    served.has_run("a")
    subprocess.run(["touch", path], check=True)
    os.utime(path, (1, 1))
    with path.open("a"):
        pass
    path.chmod(0o600)
    served.settle()
    assert served.runs("a") == 1
    assert served.lines.count("a.job: found") == 1


def test_one_that_failed_is_not_run_for_a_touch_but_when_written(served: Served) -> None:
    (served.path / "a.out").mkdir()
    (served.path / "a.job").write_text("READ [a]\n")
    until(lambda: len(served.errors) == 1)
    subprocess.run(["touch", served.path / "a.job"], check=True)
    served.settle()
    assert len(served.errors) == 1
    (served.path / "a.out").rmdir()
    (served.path / "a.job").write_text("READ [a]\n")
    served.has_run("a")


def test_one_that_is_rewritten_in_place_is_run_again_even_with_the_same_bytes(
    served: Served,
) -> None:
    for times in range(1, 4):
        (served.path / "a.job").write_text("READ [a]\n")
        served.has_run("a", times)
    served.settle()
    assert served.runs("a") == 3


def test_one_that_is_changed_by_a_mapping_is_run_again(served: Served) -> None:
    import mmap

    (served.path / "a.job").write_text("READ [a]\n")
    served.has_run("a")
    with (served.path / "a.job").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[6:7] = b"b"
    served.has_run("a", 2)
    assert content(served.path / "a.out") == b"[(b,KVSERROR)]\n"


def test_one_that_is_replaced_while_it_runs_is_run_again_after_that_with_the_newest(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "jobs"
    directory.mkdir()
    with serving(directory, threads=4) as served:
        gate = threading.Event()
        real = served.store.execute

        def execute(script: bytes, *rest: Any) -> object:  # noqa: ANN401
            if b"gate" in script:
                gate.wait()
            return real(script, *rest)

        served.store.execute = execute  # type: ignore[method-assign,assignment]
        drop(directory, "a", "# gate\nREAD [first]\n")
        until(lambda: "a.job: started" in served.lines)
        for number in range(20):
            drop(directory, "a", f"READ [again{number}]\n")
        served.settle()
        assert served.lines.count("a.job: started") == 1
        gate.set()
        served.has_run("a", 2)
        served.settle()
        assert served.runs("a") == 2
        assert content(directory / "a.out") == b"[(again19,KVSERROR)]\n"


def test_a_thousand_at_once_are_each_run_once(tmp_path: Path) -> None:
    with serving(tmp_path, threads=4) as served:
        for number in range(500):
            (tmp_path / f"w{number}.job").write_text(f"WRITE [(w{number},1)]\n")
            (tmp_path / f"r{number}.tmp").write_text(f"WRITE [(r{number},1)]\n")
        for number in range(500):
            os.rename(tmp_path / f"r{number}.tmp", tmp_path / f"r{number}.job")
        until(lambda: served.service.counts().jobs >= 1000)
        served.settle()
        assert len(served.store) == 1000
        assert served.store.revision == 1000
    counted = Counter(line.partition(":")[0] for line in served.lines if ": done" in line)
    assert set(counted.values()) == {1}


def test_at_most_so_many_run_at_the_same_time(tmp_path: Path) -> None:
    write_jobs(tmp_path, {f"j{number}": HOUR for number in range(5)})
    with serving(tmp_path, threads=3) as served:
        until(lambda: served.service.counts().running == 3)
        waiting = [b"Waiting...\n"] * 3
        until(lambda: [path.read_bytes() for path in tmp_path.glob("*.out")] == waiting)
        (tmp_path / "k.job").write_text("")
    assert len([line for line in served.lines if ": stopped, 1 command, " in line]) == 3
    assert len(list(tmp_path.glob("*.out"))) == 3


def test_one_that_is_deleted_before_its_turn_is_told_and_run_when_it_comes_again(
    served: Served,
) -> None:
    with held(served) as let_go:
        for name in "ab":
            (served.path / f"{name}.job").write_text("READ [a]\n")
        until(lambda: "b.job: found" in served.lines)
        (served.path / "a.job").unlink()
        let_go()
        served.has_run("b")
    [error] = served.errors
    assert str(error) == f"{served.path}/a.job: cannot open it: No such file or directory"
    (served.path / "a.job").write_text("READ [a]\n")
    served.has_run("a")


@contextmanager
def held(served: Served) -> Iterator[Callable[[], None]]:
    """Keep the one worker at a command until the function that this gives is called."""
    reached, gate = threading.Event(), threading.Event()
    real = served.store.execute

    def execute(script: bytes, *rest: Any) -> object:  # noqa: ANN401
        if b"gate" in script:
            reached.set()
            gate.wait()
        return real(script, *rest)

    served.store.execute = execute  # type: ignore[method-assign,assignment]
    (served.path / "gate.job").write_text("# gate\n")
    assert reached.wait(SECONDS)
    try:
        yield gate.set
    finally:
        gate.set()


def test_one_that_waits_for_its_turn_and_is_rewritten_is_run_once_as_it_is_then(
    served: Served,
) -> None:
    with held(served) as let_go:
        for text in ("READ [a]\n", "READ [b]\n"):
            (served.path / "a.job").write_text(text)
            until(lambda: "a.job: found" in served.lines)
        let_go()
        served.has_run("a")
    served.settle()
    assert served.runs("a") == 1
    assert content(served.path / "a.out") == b"[(b,KVSERROR)]\n"


def test_one_that_is_rewritten_in_place_while_it_runs_is_run_again_after_that(
    served: Served,
) -> None:
    with held(served) as let_go:
        for _ in range(3):
            (served.path / "gate.job").write_text("# gate\n")
        let_go()
        served.has_run("gate", 2)
    served.settle()
    assert served.runs("gate") == 2


def test_one_without_a_name_while_it_is_written_is_run_when_it_is_closed(served: Served) -> None:
    """Made by O_TMPFILE, and linked into the directory when there is something in it (open(2))."""
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
    served.has_run("a")
    served.settle()
    assert served.runs("a") == 1


def test_one_that_fails_fails_alone(served: Served) -> None:
    (served.path / "a.out").symlink_to("elsewhere")
    for name in "ab":
        (served.path / f"{name}.job").write_text("READ [a]\n")
    served.has_run("b")
    assert [str(error) for error in served.errors] == [
        f"{served.path}/a.out: cannot open the output: it is a link; remove it"
    ]
    assert served.service.counts().failed == 1


# The queue of the kernel overflows.


def test_what_the_kernel_lost_is_made_good(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs are taken away here, as a full queue does."""
    for name in ("kept", "touched", "changed", "gone"):
        (served.path / f"{name}.job").write_text("READ [a]\n")
        served.has_run(name)
    real, lose = DirectoryWatcher.read_events, threading.Event()

    def signs(self: DirectoryWatcher) -> list[tuple[FileEvent, bytes]]:
        told = real(self)
        return [(FileEvent.OVERFLOWED, b"")] if lose.is_set() and told else told

    monkeypatch.setattr(DirectoryWatcher, "read_events", signs)
    with held(served) as let_go:
        lose.set()
        (served.path / "new.job").write_text("READ [a]\n")
        (served.path / "changed.job").write_text("READ [b]\n")
        subprocess.run(["touch", served.path / "touched.job"], check=True)
        (served.path / "gone.job").unlink()
        let_go()
        served.has_run("new")
        served.has_run("changed", 2)
        lose.clear()
    served.settle()
    runs = {name: served.runs(name) for name in ("kept", "touched", "changed", "gone", "new")}
    assert runs == {"kept": 1, "touched": 1, "changed": 2, "gone": 1, "new": 1}
    assert any("changes may have been missed" in line for line in served.lines)


@pytest.mark.slow
def test_a_real_overflow_is_made_good(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's queue is full of signs of another file before the jobs come."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 100_000:
        pytest.skip(f"the kernel keeps {limit} events")
    reading = threading.Event()
    reading.set()
    real = DirectoryWatcher.read_events

    def signs(self: DirectoryWatcher) -> list[tuple[FileEvent, bytes]]:
        reading.wait()
        return real(self)

    monkeypatch.setattr(DirectoryWatcher, "read_events", signs)
    drop(served.path, "before", "WRITE [(before,1)]\n")
    served.has_run("before")
    try:
        reading.clear()
        other = served.path / "other"
        for _ in range(limit):  # the like of one sign after the other would be one sign
            other.touch()
            other.unlink()
        for number in range(100):
            (served.path / f"a{number}.job").write_text(f"WRITE [(a{number},1)]\n")
    finally:
        reading.set()
    until(lambda: served.service.counts().jobs == 101)
    served.settle()
    assert served.store.revision == len(served.store) == 101
    assert any("changes may have been missed" in line for line in served.lines)


# The directory goes and comes back.

GONE = ": it is gone; what is new in it is run when it is back"
BACK = ": it is back, and watched"


def test_one_that_is_removed_and_made_again_is_taken_up_again(served: Served) -> None:
    (served.path / "a.job").write_text("READ [a]\n")
    served.has_run("a")
    shutil.rmtree(served.path)
    until(lambda: GONE in served.lines)
    served.path.mkdir()
    (served.path / "a.job").write_text("READ [a]\n")
    until(lambda: BACK in served.lines)
    served.has_run("a", 2)
    (served.path / "b.job").write_text("READ [a]\n")
    served.has_run("b")
    assert (served.path / ".kvs.lock").read_text() == f"{os.getpid()}\n"


def test_one_that_is_renamed_away_and_back_runs_what_is_new_there(
    served: Served, tmp_path: Path
) -> None:
    for name in ("kept", "changed"):
        (served.path / f"{name}.job").write_text("READ [a]\n")
        served.has_run(name)
    os.rename(served.path, tmp_path / "away")
    until(lambda: GONE in served.lines)
    until(lambda: not (tmp_path / "away" / ".kvs.lock").exists())  # the worker may be at its end
    (tmp_path / "away" / "new.job").write_text("READ [a]\n")
    (tmp_path / "away" / "changed.job").write_text("READ [b]\n")
    os.rename(tmp_path / "away", served.path)
    served.has_run("new")
    served.has_run("changed", 2)
    served.settle()
    assert (served.runs("kept"), served.runs("new"), served.runs("changed")) == (1, 1, 2)


def test_jobs_that_run_finish_where_the_directory_went_and_are_not_run_twice(
    served: Served, tmp_path: Path
) -> None:
    with held(served) as let_go:
        (served.path / "a.job").write_text("READ [a]\n")
        until(lambda: "a.job: found" in served.lines)
        os.rename(served.path, tmp_path / "away")
        until(lambda: GONE in served.lines)
        assert (tmp_path / "away" / ".kvs.lock").exists()
        os.rename(tmp_path / "away", served.path)
        until(lambda: BACK in served.lines)
        let_go()
        served.has_run("gate")
        served.has_run("a")
    served.settle()
    assert (served.runs("gate"), served.runs("a")) == (1, 1)


def test_jobs_of_a_directory_that_is_replaced_finish_there(served: Served, tmp_path: Path) -> None:
    with held(served) as let_go:
        (served.path / "a.job").write_text("READ [a]\n")
        until(lambda: "a.job: found" in served.lines)
        os.rename(served.path, tmp_path / "away")
        served.path.mkdir()
        (served.path / "b.job").write_text("READ [a]\n")
        until(lambda: "b.job: found" in served.lines)
        let_go()
        served.has_run("b")
    until(lambda: sorted(os.listdir(tmp_path / "away")) == ["a.job", "gate.job", "gate.out"])
    assert served.runs("a") == 0


def test_one_that_goes_with_its_parents_is_taken_up_again(tmp_path: Path) -> None:
    jobs = tmp_path / "one" / "two" / "jobs"
    jobs.mkdir(parents=True)
    with serving(jobs) as served:
        os.rename(tmp_path / "one", tmp_path / "away")
        until(lambda: GONE in served.lines)
        os.rename(tmp_path / "away", tmp_path / "one")
        until(lambda: BACK in served.lines)
        (jobs / "a.job").write_text("READ [a]\n")
        served.has_run("a")


def test_one_that_comes_back_in_use_is_taken_up_when_it_is_free(
    served: Served, tmp_path: Path
) -> None:
    os.rename(served.path, tmp_path / "away")
    until(lambda: GONE in served.lines)
    with JobsDirectory(tmp_path / "away") as other:
        other.lock()
        os.rename(tmp_path / "away", served.path)
        until(lambda: any("is at work in this directory" in line for line in served.lines))
        assert BACK not in served.lines
    until(lambda: BACK in served.lines)
    assert len([line for line in served.lines if "is at work in this directory" in line]) == 1


# Leases.


def test_without_leases_jobs_are_run_when_they_are_closed_linked_or_renamed(
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
    served.has_run("slow")
    drop(served.path, "renamed", "READ [a]\n")
    (tmp_path / "target").write_text("READ [a]\n")
    os.link(tmp_path / "target", served.path / "hard.job")
    (served.path / "soft.job").symlink_to(tmp_path / "target")
    for name in ("renamed", "hard", "soft"):
        served.has_run(name)
    served.settle()
    runs = [served.runs(name) for name in ("slow", "renamed", "hard", "soft")]
    assert runs == [1, 1, 1, 1]
    assert len([line for line in served.lines if "cannot be seen here" in line]) == 1


# Starting and stopping.


def test_a_stop_ends_a_wait_and_many_jobs_and_unlocks(tmp_path: Path) -> None:
    write_jobs(tmp_path, {f"j{number:04d}": HOUR for number in range(1000)})
    with serving(tmp_path, threads=2) as served:
        until(lambda: served.service.counts().running == 2)
        served.service.stop()
        assert served.service.wait(30)
        assert not (tmp_path / ".kvs.lock").exists()
        served.service.stop()
    assert served.service.counts().jobs == 2
    assert len(list(tmp_path.glob("*.out"))) == 2


def test_a_snapshot_being_written_is_finished_at_a_stop(tmp_path: Path) -> None:
    write_jobs(tmp_path, {"a": "WRITE [(a,1)]\nBACKUP\n" + HOUR})
    with serving(tmp_path) as served:
        until(lambda: "a.job: started" in served.lines and content(tmp_path / "a.out"))
    assert content(tmp_path / "a-1.bck") == b"(a, 1)\n"
    assert sorted(os.listdir(tmp_path)) == ["a-1.bck", "a.job", "a.out"]


def test_a_stop_while_the_directory_is_gone(served: Served) -> None:
    shutil.rmtree(served.path)
    until(lambda: GONE in served.lines)


def test_what_cannot_be_served_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(JobsDirectoryError, match="No such file"):
        JobService(Store()._core, tmp_path / "nothing", Settings(1)).__enter__()
    with JobsDirectory(tmp_path) as other:
        other.lock()
        with pytest.raises(DirectoryLockedError):
            JobService(Store()._core, tmp_path, Settings(1)).__enter__()


def test_nothing_is_left_open(tmp_path: Path) -> None:
    def serve() -> int:
        others = set(threading.enumerate())
        with serving(tmp_path) as served:
            served.settle()
        # That it has ended is the last thing that its threads tell; they still have the service.
        until(lambda: others.issuperset(threading.enumerate()))
        del served
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    before = serve()
    assert serve() == before


def test_a_defect_ends_the_service_and_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def due(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(WatchedDirectory, "due", due)
    with pytest.raises(ZeroDivisionError), serving(tmp_path) as served:
        assert served.service.wait(30)
    assert os.listdir(tmp_path) == []
