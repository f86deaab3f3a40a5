"""A served directory that is removed, renamed or replaced, and comes back."""

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kvs.jobs.directory import JobsDirectory
from kvs.snapshot.writer import SnapshotInfo, SnapshotWriter
from tests.helpers import SECONDS, content, leftovers, until
from tests.service.serving import Served, blocked_worker, serving

pytestmark = pytest.mark.usefixtures("each_engine")

GONE = ": was removed or renamed; new jobs run when the directory reappears"
BACK = ": reappeared, and is watched"


def test_directory_removed_and_made_again_is_served_again(served: Served) -> None:
    (served.path / "a.job").write_text("READ [a]\n")
    served.wait_for_run("a")
    shutil.rmtree(served.path)
    until(lambda: GONE in served.lines)
    served.path.mkdir()
    (served.path / "a.job").write_text("READ [a]\n")
    until(lambda: BACK in served.lines)
    served.wait_for_run("a", 2)
    (served.path / "b.job").write_text("READ [a]\n")
    served.wait_for_run("b")
    assert (served.path / ".kvs.lock").read_text() == f"{os.getpid()}\n"


def test_directory_renamed_and_back_runs_only_new_jobs(served: Served, tmp_path: Path) -> None:
    for name in ("unchanged", "changed"):
        (served.path / f"{name}.job").write_text("READ [a]\n")
        served.wait_for_run(name)
    os.rename(served.path, tmp_path / "away")
    until(lambda: GONE in served.lines)
    until(lambda: not (tmp_path / "away" / ".kvs.lock").exists())  # the worker may be about to end
    (tmp_path / "away" / "new.job").write_text("READ [a]\n")
    (tmp_path / "away" / "changed.job").write_text("READ [b]\n")
    os.rename(tmp_path / "away", served.path)
    served.wait_for_run("new")
    served.wait_for_run("changed", 2)
    served.settle()
    assert (served.runs("unchanged"), served.runs("new"), served.runs("changed")) == (1, 1, 2)


def test_running_jobs_of_a_renamed_directory_run_once(served: Served, tmp_path: Path) -> None:
    with blocked_worker(served) as unblock:
        (served.path / "a.job").write_text("READ [a]\n")
        until(lambda: "a.job: found" in served.lines)
        os.rename(served.path, tmp_path / "away")
        until(lambda: GONE in served.lines)
        assert (tmp_path / "away" / ".kvs.lock").exists()
        os.rename(tmp_path / "away", served.path)
        until(lambda: BACK in served.lines)
        unblock()
        served.wait_for_run("gate")
        served.wait_for_run("a")
    served.settle()
    assert (served.runs("gate"), served.runs("a")) == (1, 1)


def test_running_jobs_of_a_replaced_directory_finish_there(served: Served, tmp_path: Path) -> None:
    with blocked_worker(served) as unblock:
        (served.path / "a.job").write_text("READ [a]\n")
        until(lambda: "a.job: found" in served.lines)
        os.rename(served.path, tmp_path / "away")
        served.path.mkdir()
        (served.path / "b.job").write_text("READ [a]\n")
        until(lambda: "b.job: found" in served.lines)
        unblock()
        served.wait_for_run("b")
    until(lambda: sorted(os.listdir(tmp_path / "away")) == ["a.job", "gate.job", "gate.out"])
    assert served.runs("a") == 0


def test_backup_in_a_renamed_directory_is_finished_there(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inspected = threading.Event()
    finish = SnapshotWriter.finish

    def delayed_finish(writer: SnapshotWriter, wait: Callable[[], None]) -> SnapshotInfo:
        assert inspected.wait(SECONDS)
        return finish(writer, wait)

    monkeypatch.setattr(SnapshotWriter, "finish", delayed_finish)
    try:
        (served.path / "a.job").write_text("WRITE [(a,1)]\nBACKUP\n")
        served.wait_for_run("a")
        os.rename(served.path, tmp_path / "away")
        until(lambda: GONE in served.lines)
        assert (tmp_path / "away" / ".kvs.lock").exists()
    finally:
        inspected.set()
    until(lambda: content(tmp_path / "away" / "a-1.bck") == b"(a, 1)\n")
    until(lambda: not leftovers(tmp_path / "away"))
    assert served.errors == []


def test_directory_renamed_with_its_parents_is_served_again(tmp_path: Path) -> None:
    jobs = tmp_path / "one" / "two" / "jobs"
    jobs.mkdir(parents=True)
    with serving(jobs) as served:
        os.rename(tmp_path / "one", tmp_path / "away")
        until(lambda: GONE in served.lines)
        os.rename(tmp_path / "away", tmp_path / "one")
        until(lambda: BACK in served.lines)
        (jobs / "a.job").write_text("READ [a]\n")
        served.wait_for_run("a")


def test_directory_that_comes_back_locked_is_served_when_free(
    served: Served, tmp_path: Path
) -> None:
    os.rename(served.path, tmp_path / "away")
    until(lambda: GONE in served.lines)
    with JobsDirectory(tmp_path / "away") as other:
        other.lock()
        os.rename(tmp_path / "away", served.path)
        until(lambda: any("in use by" in line for line in served.lines))
        assert BACK not in served.lines
    until(lambda: BACK in served.lines)
    assert len([line for line in served.lines if "in use by" in line]) == 1


def test_service_stops_while_the_directory_is_gone(served: Served) -> None:
    shutil.rmtree(served.path)
    until(lambda: GONE in served.lines)
