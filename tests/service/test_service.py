"""A service of a jobs directory: start, stop, limits, errors and log."""

import errno
import gc
import os
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from kvs import DirectoryLockedError, JobsDirectoryError
from kvs.jobs.directory import JobsDirectory
from kvs.service.directory import WatchedDirectory
from kvs.snapshot.writer import SnapshotInfo, SnapshotWriter
from tests.helpers import LONG_WAIT, SECONDS, content, until, write_jobs
from tests.service.serving import Served, serving

pytestmark = pytest.mark.usefixtures("each_engine")


def test_existing_jobs_run_in_order_of_name(tmp_path: Path) -> None:
    write_jobs(tmp_path, {name: f"WRITE [(last,{name})]\n" for name in ("c", "a", "b", "B")})
    with serving(tmp_path) as served:
        served.wait_for_run("c")
    for event in ("found", "started"):  # the first may start before the last is found
        logged = [line for line in served.lines if line.endswith(f": {event}")]
        assert logged == [f"{name}.job: {event}" for name in ("B", "a", "b", "c")]
    assert served.store.read(["last"]) == {b"last": b"c"}
    assert served.errors == []


def test_written_job_runs_once_with_its_backup(served: Served) -> None:
    (served.path / "a.job").write_text("WRITE [(a,1)]\nBAD\nBACKUP\nREAD [a]\n")
    served.wait_for_run("a")
    assert content(served.path / "a.out") == b"[(a,1)]\n"
    served.settle()
    assert served.runs("a") == 1
    assert len([line for line in served.lines if line.startswith("a.job: ")]) == 3
    assert "a.job: done, 3 commands, 1 invalid line, " in " ".join(served.lines)
    assert [str(error).partition(": ")[0] for error in served.errors] == [
        f"{served.path}/a.job:2:1"
    ]
    until(lambda: content(served.path / "a-1.bck") == b"(a, 1)\n")


def test_log_counts_backups_written_failed_and_in_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inspected = threading.Event()
    finish = SnapshotWriter.finish

    def delayed_finish(writer: SnapshotWriter, wait: Callable[[], None]) -> SnapshotInfo:
        if writer.display_path.endswith("a-3.bck"):
            assert inspected.wait(SECONDS)
        return finish(writer, wait)

    monkeypatch.setattr(SnapshotWriter, "finish", delayed_finish)
    (tmp_path / "a-1.bck").mkdir()
    with serving(tmp_path, backups=1) as served:
        (tmp_path / "a.job").write_text("BACKUP\nBACKUP\nBACKUP\n")
        try:
            served.wait_for_run("a")
        finally:
            inspected.set()
    (line,) = [line for line in served.lines if line.startswith("a.job: done")]
    assert " invalid lines, 1 backup (1 failed, 1 being written), " in line


def test_other_entries_are_ignored_and_irregular_files_fail(served: Served) -> None:
    (served.path / "a.txt").write_text("READ [a]\n")
    (served.path / "b.job").mkdir()
    os.mkfifo(served.path / "c.job")
    (served.path / "d.job").symlink_to("nowhere")
    served.settle()
    until(lambda: len(served.errors) == 3)
    assert sorted(map(str, served.errors)) == [
        f"{served.path}/b.job: cannot open it: it is not a regular file",
        f"{served.path}/c.job: cannot open it: it is not a regular file",
        f"{served.path}/d.job: cannot open it: it is a dangling symbolic link",
    ]


@pytest.mark.slow
def test_each_of_a_thousand_jobs_runs_once(tmp_path: Path) -> None:
    with serving(tmp_path, threads=4) as served:
        for number in range(500):
            (tmp_path / f"w{number}.job").write_text(f"WRITE [(w{number},1)]\n")
            (tmp_path / f"r{number}.tmp").write_text(f"WRITE [(r{number},1)]\n")
        for number in range(500):
            os.rename(tmp_path / f"r{number}.tmp", tmp_path / f"r{number}.job")
        until(lambda: served.lines_with(": done, ") >= 1000)
        served.settle()
        assert len(served.store) == 1000
        assert served.store.revision == 1000
    counted = Counter(line.partition(":")[0] for line in served.lines if ": done" in line)
    assert set(counted.values()) == {1}


def test_concurrent_jobs_are_limited_by_threads(tmp_path: Path) -> None:
    write_jobs(tmp_path, {f"j{number}": LONG_WAIT for number in range(5)})
    with serving(tmp_path, threads=3) as served:
        waiting = [b"Waiting...\n"] * 3
        until(lambda: [path.read_bytes() for path in tmp_path.glob("*.out")] == waiting)
        (tmp_path / "k.job").write_text("")
    assert len([line for line in served.lines if ": stopped, 1 command, " in line]) == 3
    assert len(list(tmp_path.glob("*.out"))) == 3


def test_failing_job_does_not_affect_others(served: Served) -> None:
    (served.path / "a.out").symlink_to("elsewhere")
    for name in "ab":
        (served.path / f"{name}.job").write_text("READ [a]\n")
    served.wait_for_run("b")
    assert [str(error) for error in served.errors] == [
        f"{served.path}/a.out: cannot open the output: it is a link; remove it"
    ]


def test_stop_ends_waiting_and_queued_jobs_and_unlocks(tmp_path: Path) -> None:
    write_jobs(tmp_path, {f"j{number:04d}": LONG_WAIT for number in range(1000)})
    with serving(tmp_path, threads=2) as served:
        until(lambda: served.lines_with(": started") == 2)
        served.service.stop()
        assert served.service.wait(30)
        assert not (tmp_path / ".kvs.lock").exists()
        served.service.stop()
    assert served.lines_with(": stopped, ") == 2
    assert len(list(tmp_path.glob("*.out"))) == 2


def test_stop_finishes_the_backup_being_written(tmp_path: Path) -> None:
    write_jobs(tmp_path, {"a": "WRITE [(a,1)]\nBACKUP\n" + LONG_WAIT})
    with serving(tmp_path) as served:
        until(lambda: "a.job: started" in served.lines and content(tmp_path / "a.out"))
    assert content(tmp_path / "a-1.bck") == b"(a, 1)\n"
    assert sorted(os.listdir(tmp_path)) == ["a-1.bck", "a.job", "a.out"]


def test_start_fails_if_the_directory_cannot_be_served(tmp_path: Path) -> None:
    def serve(path: Path) -> None:
        with serving(path):
            pass

    with pytest.raises(JobsDirectoryError, match="No such file"):
        serve(tmp_path / "nothing")
    with JobsDirectory(tmp_path) as other:
        other.lock()
        with pytest.raises(DirectoryLockedError):
            serve(tmp_path)


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    def serve() -> int:
        others = set(threading.enumerate())
        with serving(tmp_path) as served:
            served.settle()
        # The threads report the end before they end themselves, and still refer to the service.
        until(lambda: others.issuperset(threading.enumerate()))
        del served
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    before = serve()
    assert serve() == before


def test_defect_ends_the_service_and_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def due(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(WatchedDirectory, "due", due)
    with pytest.raises(ZeroDivisionError), serving(tmp_path) as served:
        assert served.service.wait(30)
    assert os.listdir(tmp_path) == []


def test_error_at_the_close_ends_the_service_and_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = WatchedDirectory.close

    def failing_close(directory: WatchedDirectory) -> None:
        close(directory)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(WatchedDirectory, "close", failing_close)
    with pytest.raises(OSError, match="Input/output error"), serving(tmp_path) as served:
        served.settle()
