"""The log: one order, groups that are durable as a whole, and an end when the disk fails."""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from kvs.errors import DataDirectoryError, JournalWriteError, StoreClosedError
from kvs.journal.directory import DataDirectory
from kvs.journal.writer import JournalWriter
from kvs.settings import DataSettings
from tests.helpers import SECONDS, until
from tests.journal.builders import STORE, Made, contents, files, read
from tests.journal.fake_storage import Count, Fault, Gate, Step, Stepping

ALWAYS = DataSettings()


@contextmanager
def opened(
    path: Path, step: Step = lambda _: None, settings: DataSettings = ALWAYS
) -> Iterator[JournalWriter]:
    """Yield a log in a new directory; it is closed at the end."""
    with DataDirectory.make(path) as folder:
        disk = Stepping(folder.descriptor, step)
        segment = folder.create_first_segment(disk, STORE)
        log = JournalWriter(disk, str(path), STORE, segment, 0, settings)
        log.start()
        try:
            yield log
        finally:
            with suppress(JournalWriteError):
                log.close()


def write(number: int) -> bytes:
    return b"WRITE [(k,%d)]\n" % number


def test_what_is_added_becomes_groups_to_the_byte(tmp_path: Path) -> None:
    with opened(tmp_path / "d") as log:
        log.append(b"WRITE [(a,1)]\n", 1)
        log.wait(log.appended_count)
        log.append(b"WRITE [(b,2)]\nDELETE [a]\n", 2)
        log.wait(log.appended_count)
        log.append(b"# job 1 done\n", 0)
    made = Made().group(b"WRITE [(a,1)]\n", 1).group(b"WRITE [(b,2)]\nDELETE [a]\n", 2)
    made.group(b"# job 1 done\n", 0)
    assert contents(tmp_path / "d") == files(made)
    assert log.bytes == len(made.data) - made.ends[0]


def test_what_comes_while_the_disk_is_busy_makes_one_group(tmp_path: Path) -> None:
    gate = Gate()
    with opened(tmp_path / "d", gate) as log:
        with gate.shut():
            log.append(write(0), 1)
            gate.wait_until_held()
            for number in range(1, 1000):
                log.append(write(number), 1)
            assert not log.is_committed(1)
            assert log.pending_bytes == sum(len(write(number)) for number in range(1000))
        log.wait(log.appended_count)
        assert log.is_committed(1000)
        assert log.pending_bytes == 0
    made = Made().group(write(0), 1).group(b"".join(map(write, range(1, 1000))), 999)
    assert contents(tmp_path / "d") == files(made)


def test_nothing_is_told_before_it_is_safe_and_all_in_order(tmp_path: Path) -> None:
    gate, told = Gate(), []
    with opened(tmp_path / "d", gate) as log:
        with gate.shut():
            log.append(write(0), 1, lambda: told.append("then 0"))
            log.on_commit(log.appended_count, lambda: told.append("after 0"))
            log.append(write(1), 1, lambda: told.append("then 1"))
            log.on_commit(log.appended_count, lambda: told.append("after 1"))
            gate.wait_until_held()
            waits = [threading.Thread(target=log.wait, args=(number,)) for number in (1, 2)]
            for each in waits:
                each.start()
            assert told == []
            assert all(each.is_alive() for each in waits)
        for each in waits:
            each.join(SECONDS)
            assert not each.is_alive()
        until(lambda: len(told) == 4)
        for kind in ("then", "after"):
            assert [each for each in told if kind in each] == [f"{kind} 0", f"{kind} 1"]
        log.on_commit(log.appended_count, lambda: told.append("at once"))
        assert told[4:] == ["at once"]


def test_a_call_that_raises_is_reported_and_the_journal_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    raised: list[object] = []
    monkeypatch.setattr("threading.excepthook", lambda args: raised.append(args.exc_value))
    defect = RuntimeError("a defect of the caller")

    def fail(*_: object) -> None:
        raise defect

    with opened(tmp_path / "d", gate) as log:
        with gate.shut():
            log.append(write(0), 1)
            log.on_commit(log.appended_count, fail)
        log.wait(log.appended_count)
        until(lambda: raised)
        log.on_commit(log.appended_count, fail)
        assert raised == [defect, defect]
        log.append(write(1), 1)
        log.wait(log.appended_count)
        assert log.failure is None


def test_compactions_leave_nothing_to_wake_the_writer_with(tmp_path: Path) -> None:
    with opened(tmp_path / "d") as log:
        for _ in range(3):
            log.let_go()
        assert log._let_go.empty()


def test_a_long_segment_is_followed_by_another_that_goes_on_from_it(tmp_path: Path) -> None:
    settings = DataSettings(segment_bytes=200)
    with opened(tmp_path / "d", settings=settings) as log:
        for number in range(30):
            log.append(write(number), 1)
            log.wait(log.appended_count)
    found, pairs = read(tmp_path / "d")
    assert pairs == {b"k": b"29"}
    assert (found.revision, len(found.segments) > 1) == (30, True)
    assert found.segments == list(range(1, len(found.segments) + 1))


def test_the_length_of_a_segment_is_that_of_its_file(tmp_path: Path) -> None:
    """Of which, with a group for every change, headers are most."""
    with opened(tmp_path / "d", settings=DataSettings("never", segment_bytes=10_000)) as log:
        for number in range(1000):
            log.append(write(number), 1)
            log.wait(log.appended_count)
    *others, last = (len(data) for _, data in sorted(contents(tmp_path / "d").items()))
    assert len(others) > 5
    assert all(9_500 < size < 10_500 for size in others)
    assert last < 10_500


def test_a_segment_can_be_begun_at_any_time(tmp_path: Path) -> None:
    with opened(tmp_path / "d") as log:
        log.append(write(0), 1)
        assert log.rotate()[:3] == (2, 1, 2)
        assert log.rotate()[:3] == (3, 1, 3)
        log.wait(log.appended_count)
        assert {"0000000002.journal", "0000000003.journal"} <= set(contents(tmp_path / "d"))
        log.append(write(1), 1)
    first = Made().group(write(0), 1)
    assert contents(tmp_path / "d") == files(
        first, first.next(), first.next().next().group(write(1), 1)
    )


@pytest.mark.parametrize("fsync", ["always", "interval", "never"])
def test_how_often_it_syncs(tmp_path: Path, fsync: str) -> None:
    count = Count()
    with opened(tmp_path / "d", count, DataSettings(fsync, 3600)) as log:
        before = count.of["after sync"]
        for number in range(10):
            log.append(write(number), 1)
            log.wait(log.appended_count)
        assert count.of["after append"] == 11
        assert count.of["after sync"] - before == (10 if fsync == "always" else 0)
        log.rotate()
        log.wait(log.appended_count)
        rotated = count.of["after sync"]
        assert rotated - before == (12 if fsync == "always" else 2)  # the old one, and a new one
    assert count.of["after sync"] - rotated == (fsync != "never")


def test_with_an_interval_a_sync_comes_by_itself(tmp_path: Path) -> None:
    count = Count()
    with opened(tmp_path / "d", count, DataSettings("interval", 0.01)) as log:
        before = count.of["after sync"]
        log.append(write(0), 1)
        until(lambda: count.of["after sync"] == before + 1)
        log.append(write(1), 1)
        until(lambda: count.of["after sync"] == before + 2)


STEPS = ["before append", "within append", "after append", "before sync", "after sync"]


@pytest.mark.parametrize("step", STEPS)
def test_when_a_step_fails_nothing_is_told_or_tried_any_more(tmp_path: Path, step: str) -> None:
    fault = Fault(step)
    told: list[str] = []
    failures: list[JournalWriteError] = []
    with opened(tmp_path / "d", fault) as log:
        log.on_failure(failures.append)
        ended = log.on_failure(lambda _: told.append("ended before"))
        ended()
        ended()
        log.append(write(0), 1)
        log.wait(log.appended_count)
        fault.armed = True
        log.append(write(1), 1, lambda: told.append("then"))
        log.on_commit(2, lambda: told.append("after"))
        with pytest.raises(JournalWriteError) as failed:
            log.wait(2)
        failure = failed.value
        known = "are synced, later ones are lost"
        if "sync" in step:
            known = "were synced, later ones may be lost"
        assert str(failure) == (
            f"{tmp_path}/d: the journal cannot be written: Input/output error; "
            f"revisions up to 1 {known}; fix the cause and restart"
        )
        log.wait(1)  # it was safe before
        for refused in (
            lambda: log.append(write(2), 1),
            log.rotate,
            log.check,
            lambda: log.wait(log.appended_count),
            log.close,
        ):
            with pytest.raises(JournalWriteError) as again:
                refused()
            assert again.value is failure
        until(lambda: failures == [failure])
        log.on_failure(failures.append)()
        assert failures == [failure] * 2
        assert (log.failure, told, fault.failed) == (failure, [], 1)
    found, _ = read(tmp_path / "d")
    assert found.revision in {1, 2}


@pytest.mark.parametrize("fsync", ["interval", "never"])
def test_a_failure_tells_what_is_synced_and_what_is_only_written(
    tmp_path: Path, fsync: str
) -> None:
    fault = Fault("within append", errno.EDQUOT)
    with opened(tmp_path / "d", fault, DataSettings(fsync, 3600)) as log:
        for number in range(3):
            log.append(write(number), 1)
            log.wait(log.appended_count)
        log.presync()
        for number in range(3, 5):
            log.append(write(number), 1)
            log.wait(log.appended_count)
        fault.armed = True
        log.append(write(5), 1)
        with pytest.raises(JournalWriteError) as failed:
            log.wait(log.appended_count)
    assert (failed.value.revision, failed.value.written) == (3, 5)
    assert str(failed.value) == (
        f"{tmp_path}/d: the journal cannot be written: Disk quota exceeded; revisions up to 3 are "
        "synced, up to 5 are written but may be lost in a power failure, later ones are lost; "
        "fix the cause and restart"
    )
    assert failed.value.lost_after == "what it did after revision 5 is lost"
    assert read(tmp_path / "d")[0].revision == 5


def test_after_a_failed_sync_it_tells_only_what_was_synced_before(tmp_path: Path) -> None:
    fault = Fault()
    with opened(tmp_path / "d", fault, DataSettings("never")) as log:
        log.append(write(0), 1)
        log.rotate()
        log.append(write(1), 1)
        log.wait(log.appended_count)
        fault.armed = True
        with pytest.raises(OSError, match="Input/output error"):
            log.presync()
        failure = until(lambda: log.failure)
    assert failure is not None
    assert (failure.revision, failure.written) == (1, None)
    assert failure.lost_after == "what it did after revision 1 may be lost"


class Room:
    """Fails steps called `name` as a full disk does, until room is made. A `Step`."""

    def __init__(self, name: str, number: int = errno.ENOSPC) -> None:
        self.name, self.number = name, number
        self.armed = False
        self.asked: list[int | None] = []

    def __call__(self, name: str) -> None:
        if self.armed and name == self.name:
            raise OSError(self.number, os.strerror(self.number))

    def made(self, error: OSError) -> bool:
        self.asked.append(error.errno)
        self.armed = False
        return True


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("step", ["before append", "within append"])
def test_a_group_for_which_the_disk_is_full_is_written_again_when_room_was_made(
    tmp_path: Path, step: str, number: int
) -> None:
    room = Room(step, number)
    with opened(tmp_path / "d", room) as log:
        log.on_full = room.made
        log.append(write(0), 1)
        log.wait(log.appended_count)
        room.armed = True
        for text in (write(1), write(2)):
            log.append(text, 1)
            log.wait(log.appended_count)
        log.append(write(3), 1)
    made = Made()
    for text in map(write, range(4)):
        made.group(text, 1)
    assert contents(tmp_path / "d") == files(made)
    assert room.asked == [number]


def test_a_new_segment_for_which_the_disk_is_full_is_made_when_room_was_made(
    tmp_path: Path,
) -> None:
    room = Room("within append")
    with opened(tmp_path / "d", room) as log:
        log.on_full = room.made
        log.append(write(0), 1)
        log.wait(log.appended_count)
        room.armed = True
        log.rotate()
        log.append(write(1), 1)
    first = Made().group(write(0), 1)
    assert contents(tmp_path / "d") == files(first, first.next().group(write(1), 1))
    assert room.asked == [errno.ENOSPC]


@pytest.mark.parametrize(
    ("step", "number"),
    [("within append", errno.EIO), ("before sync", errno.ENOSPC), ("before sync", errno.EDQUOT)],
)
def test_no_other_failure_is_recovered_from(tmp_path: Path, step: str, number: int) -> None:
    room = Room(step, number)
    with opened(tmp_path / "d", room) as log:
        log.on_full = room.made
        log.append(write(0), 1)
        log.wait(log.appended_count)
        room.armed = True
        log.append(write(1), 1)
        with pytest.raises(JournalWriteError):
            log.wait(log.appended_count)
    assert room.asked == []


def test_a_sync_that_fails_while_a_group_is_cut_off_is_the_end(tmp_path: Path) -> None:
    room = Room("within append")
    with opened(tmp_path / "d", room) as log:

        def made(_error: OSError) -> bool:
            room.name, room.number = "before truncate", errno.EIO
            return True

        log.on_full = made
        log.append(write(0), 1)
        log.wait(log.appended_count)
        room.armed = True
        log.append(write(1), 1)
        with pytest.raises(JournalWriteError) as failed:
            log.wait(log.appended_count)
    assert (failed.value.reason, failed.value.revision) == ("Input/output error", 1)
    assert failed.value.written is None


def test_while_it_holds_it_writes_up_to_the_next_segment_and_no_further(tmp_path: Path) -> None:
    with opened(tmp_path / "d", settings=DataSettings(segment_bytes=200)) as log:
        log.hold()
        for number in range(20):  # into segments of its own making
            log.append(write(number), 1)
            log.wait(log.appended_count)
        log.rotate()
        begun = log.appended_count
        log.append(write(20), 1)
        log.wait(begun)
        assert not log.is_committed(log.appended_count)
        assert read(tmp_path / "d")[0].revision == 20
        log.let_go()
        log.wait(log.appended_count)
        log.hold()
        log.rotate()
        log.append(write(21), 1)
    assert read(tmp_path / "d")[0].revision == 22  # closed all the same


@pytest.mark.parametrize("step", ["before sync", "before commit", "after commit"])
def test_a_segment_that_cannot_be_begun_is_the_end(tmp_path: Path, step: str) -> None:
    fault = Fault(step, errno.ENOSPC)
    with opened(tmp_path / "d", fault, DataSettings("never", segment_bytes=1)) as log:
        fault.armed = True
        log.append(write(0), 1)
        with pytest.raises(JournalWriteError) as failed:
            log.wait(log.appended_count)
        assert failed.value.reason == "No space left on device"
    found, pairs = read(tmp_path / "d")
    assert (found.revision, pairs) == (1, {b"k": b"0"})


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_defect_in_the_thread_that_writes_leaves_nobody_waiting(tmp_path: Path) -> None:
    def broken() -> None:
        raise RuntimeError("oh")

    with opened(tmp_path / "d") as log:
        log.append(write(0), 1, broken)
        log.append(write(1), 1)
        with pytest.raises(JournalWriteError) as failed:
            log.wait(log.appended_count + 1)
        assert failed.value.reason == "a defect: RuntimeError('oh')"
    log._writer.join()  # it raises the defect at its end


def test_a_failed_sync_between_writes_is_told_to_the_next(tmp_path: Path) -> None:
    fault = Fault()
    with opened(tmp_path / "d", fault, DataSettings("interval", 0.01)) as log:
        before = fault.passed
        log.append(write(0), 1)
        until(lambda: fault.passed > before)
        fault.armed = True
        log.append(write(0), 1)
        failure = until(lambda: log.failure)
        assert failure is not None
        assert failure.revision == 1
        with pytest.raises(JournalWriteError):
            log.append(write(1), 1)
        with pytest.raises(JournalWriteError):
            log.close()


def test_closing_writes_what_waits_at_once_and_refuses_what_comes_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvs.journal.writer.TAMPER_CHECK_SECONDS", 10 * SECONDS)
    gate = Gate()
    with opened(tmp_path / "d", gate) as log:
        with gate.shut():
            log.append(write(0), 1)
            gate.wait_until_held()
            log.append(write(1), 1)
            closer = threading.Thread(target=log.close)
            closer.start()
            until(lambda: log._closing)
            assert closer.is_alive()
        closer.join(SECONDS)
        assert not closer.is_alive()
        for refused in (lambda: log.append(write(2), 1), log.rotate, log.check):
            with pytest.raises(StoreClosedError):
                refused()
        log.wait(log.appended_count)
        log.close()
    assert read(tmp_path / "d")[0].revision == 2


def test_many_threads_add_and_each_finds_its_own_in_order(tmp_path: Path) -> None:
    with opened(tmp_path / "d", settings=DataSettings(segment_bytes=5000)) as log:

        def add(name: int) -> None:
            for number in range(200):
                log.append(b"WRITE [(k%d,%d)]\n" % (name, number), 1)
                if number % 20 == 0:
                    log.wait(log.appended_count)

        threads = [threading.Thread(target=add, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
    found, pairs = read(tmp_path / "d")
    assert found.revision == 800
    assert pairs == {b"k%d" % name: b"199" for name in range(4)}
    lines = b"".join(data for name, data in sorted(contents(tmp_path / "d").items()))
    for name in range(4):
        places = [lines.index(b"WRITE [(k%d,%d)]\n" % (name, number)) for number in range(200)]
        assert places == sorted(places)


def test_without_a_thread_to_write_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_more)
    with DataDirectory.make(tmp_path / "d") as folder:
        disk = Stepping(folder.descriptor, lambda _: None)
        segment = folder.create_first_segment(disk, STORE)
        log = JournalWriter(disk, str(tmp_path / "d"), STORE, segment, 0, ALWAYS)
        with pytest.raises(DataDirectoryError) as told:
            log.start()
        disk.close(segment.file)
    assert told.value.reason == (
        "cannot start a thread to write the journal; raise the limit of processes (ulimit -u)"
    )
