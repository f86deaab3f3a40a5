"""Failure: one error for every caller, nothing retried, and the tampering check."""

import errno
from pathlib import Path

import pytest

from kvs.errors import JournalWriteError
from kvs.journal.failure import TamperedError, TamperWatch
from kvs.journal.storage import Segment
from kvs.settings import DataSettings
from tests.helpers import until
from tests.journal.builders import read
from tests.journal.fake_storage import Fault, FullDisk
from tests.journal.open_journal import append_and_wait, open_journal, write_line

STEPS = ["before append", "within append", "after append", "before sync", "after sync"]


@pytest.mark.parametrize("step", STEPS)
def test_failed_step_ends_the_journal_for_every_caller(tmp_path: Path, step: str) -> None:
    fault = Fault(step)
    calls: list[str] = []
    failures: list[JournalWriteError] = []
    with open_journal(tmp_path / "d", fault) as (queue, _):
        queue.on_failure(failures.append)
        unregister = queue.on_failure(lambda _: calls.append("unregistered"))
        unregister()
        unregister()
        append_and_wait(queue, 0)
        fault.armed = True
        queue.append(write_line(1), 1, lambda: calls.append("append"))
        queue.on_commit(2, lambda: calls.append("on_commit"))
        with pytest.raises(JournalWriteError) as caught:
            queue.wait(2)
        failure = caught.value
        extent = "are synced, later ones are lost"
        if "sync" in step:
            extent = "were synced, later ones may be lost"
        assert str(failure) == (
            f"{tmp_path}/d: cannot write the journal: Input/output error; "
            f"revisions up to 1 {extent}; fix the cause and restart"
        )
        queue.wait(1)  # committed before
        for refused in (
            lambda: queue.append(write_line(2), 1),
            queue.rotate,
            queue.check,
            lambda: queue.wait(queue.appended_count),
            queue.close,
        ):
            with pytest.raises(JournalWriteError) as again:
                refused()
            assert again.value is failure
        until(lambda: failures == [failure])
        queue.on_failure(failures.append)()
        assert failures == [failure] * 2
        assert (queue.failure, calls, fault.failed) == (failure, [], 1)
    state, _ = read(tmp_path / "d")
    assert state.revision in {1, 2}


@pytest.mark.parametrize("fsync", ["interval", "never"])
def test_failure_names_synced_and_written_revisions(tmp_path: Path, fsync: str) -> None:
    fault = Fault("within append", errno.EDQUOT)
    with open_journal(tmp_path / "d", fault, DataSettings(fsync, 3600)) as (queue, writer):
        append_and_wait(queue, *range(3))
        writer.presync()
        append_and_wait(queue, *range(3, 5))
        fault.armed = True
        queue.append(write_line(5), 1)
        with pytest.raises(JournalWriteError) as caught:
            queue.wait(queue.appended_count)
    assert (caught.value.revision, caught.value.written) == (3, 5)
    assert str(caught.value) == (
        f"{tmp_path}/d: cannot write the journal: Disk quota exceeded; revisions up to 3 are "
        "synced, up to 5 are written but may be lost in a power failure, later ones are lost; "
        "fix the cause and restart"
    )
    assert caught.value.lost_after == "its changes after revision 5 are lost"
    assert read(tmp_path / "d")[0].revision == 5


def test_failed_presync_ends_the_journal(tmp_path: Path) -> None:
    fault = Fault()
    with open_journal(tmp_path / "d", fault, DataSettings("never")) as (queue, writer):
        queue.append(write_line(0), 1)
        queue.rotate()
        append_and_wait(queue, 1)
        fault.armed = True
        with pytest.raises(OSError, match="Input/output error"):
            writer.presync()
        failure = until(lambda: queue.failure)
    assert failure is not None
    assert (failure.revision, failure.written) == (1, None)
    assert failure.lost_after == "its changes after revision 1 may be lost"


def test_failed_interval_sync_is_raised_by_later_calls(tmp_path: Path) -> None:
    fault = Fault()
    with open_journal(tmp_path / "d", fault, DataSettings("interval", 0.01)) as (queue, _):
        before = fault.passed
        queue.append(write_line(0), 1)
        until(lambda: fault.passed > before)
        fault.armed = True
        queue.append(write_line(0), 1)
        failure = until(lambda: queue.failure)
        assert failure is not None
        assert failure.revision == 1
        with pytest.raises(JournalWriteError):
            queue.append(write_line(1), 1)
        with pytest.raises(JournalWriteError):
            queue.close()


@pytest.mark.parametrize(
    ("step", "number"),
    [("within append", errno.EIO), ("before sync", errno.ENOSPC), ("before sync", errno.EDQUOT)],
)
def test_other_errors_free_no_space(tmp_path: Path, step: str, number: int) -> None:
    disk = FullDisk(step, number)
    with open_journal(tmp_path / "d", disk, on_disk_full=disk.free_space) as (queue, _):
        append_and_wait(queue, 0)
        disk.armed = True
        with pytest.raises(JournalWriteError):
            append_and_wait(queue, 1)
    assert disk.errors == []


def test_failed_truncation_on_a_full_disk_is_fatal(tmp_path: Path) -> None:
    disk = FullDisk("within append")

    def free_space(_error: OSError) -> bool:
        disk.name, disk.number = "before truncate", errno.EIO
        return True

    with open_journal(tmp_path / "d", disk, on_disk_full=free_space) as (queue, _):
        append_and_wait(queue, 0)
        disk.armed = True
        with pytest.raises(JournalWriteError) as caught:
            append_and_wait(queue, 1)
    assert (caught.value.reason, caught.value.revision) == ("Input/output error", 1)
    assert caught.value.written is None


@pytest.mark.parametrize("step", ["before sync", "before commit", "after commit"])
def test_failed_rotation_is_fatal(tmp_path: Path, step: str) -> None:
    fault = Fault(step, errno.ENOSPC)
    settings = DataSettings("never", segment_bytes=1)
    with open_journal(tmp_path / "d", fault, settings) as (queue, _):
        fault.armed = True
        with pytest.raises(JournalWriteError) as caught:
            append_and_wait(queue, 0)
        assert caught.value.reason == "No space left on device"
    state, pairs = read(tmp_path / "d")
    assert (state.revision, pairs) == (1, {b"k": b"0"})


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_defect_in_the_writer_thread_wakes_waiters(tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("oh")

    with open_journal(tmp_path / "d") as (queue, _):
        queue.append(write_line(0), 1, fail)
        queue.append(write_line(1), 1)
        with pytest.raises(JournalWriteError) as caught:
            queue.wait(queue.appended_count + 1)
        assert caught.value.reason == "a defect: RuntimeError('oh')"
    assert queue._writer_thread is not None
    queue._writer_thread.join()  # it raises the defect at its end


def test_tamper_watch_remembers_the_last_good_revision() -> None:
    tampering: list[str] = []
    segment = Segment(3, 1, 0, 100)
    watch = TamperWatch(lambda _: tampering[0] if tampering else None, 5)
    first_due_at = watch.due_at
    watch.check(segment, 7)
    assert watch.revision == 7
    assert first_due_at <= watch.due_at
    tampering.append("it was removed")
    with pytest.raises(TamperedError, match="it was removed"):
        watch.check(segment, 9)
    assert watch.revision == 7
