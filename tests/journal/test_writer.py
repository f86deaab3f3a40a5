"""The writer thread: groups to the byte, syncs, and a full disk with space to free."""

import errno
import threading
from pathlib import Path

import pytest

from kvs.errors import DataDirectoryError
from kvs.journal.queue import PendingAppend
from kvs.settings import DataSettings
from tests.helpers import until
from tests.journal.builders import JournalBuilder, contents, files
from tests.journal.fake_storage import Count, FullDisk, Gate
from tests.journal.open_journal import append_and_wait, open_journal, write_line


def test_groups_have_the_exact_bytes_of_the_format(tmp_path: Path) -> None:
    with open_journal(tmp_path / "d") as (queue, _):
        queue.append(b"WRITE [(a,1)]\n", 1)
        queue.wait(queue.appended_count)
        queue.append(b"WRITE [(b,2)]\nDELETE [a]\n", 2)
        queue.wait(queue.appended_count)
        queue.append(b"# job 1 done\n", 0)
    made = JournalBuilder().group(b"WRITE [(a,1)]\n", 1).group(b"WRITE [(b,2)]\nDELETE [a]\n", 2)
    made.group(b"# job 1 done\n", 0)
    assert contents(tmp_path / "d") == files(made)
    assert queue.written_bytes == len(made.data) - made.ends[0]


def test_appends_during_a_sync_become_one_group(tmp_path: Path) -> None:
    gate = Gate()
    with open_journal(tmp_path / "d", gate) as (queue, _):
        with gate.shut():
            queue.append(write_line(0), 1)
            gate.wait_until_held()
            for number in range(1, 1000):
                queue.append(write_line(number), 1)
            assert not queue.is_committed(1)
            assert queue.pending_bytes == sum(len(write_line(number)) for number in range(1000))
        queue.wait(queue.appended_count)
        assert queue.is_committed(1000)
        assert queue.pending_bytes == 0
    made = (
        JournalBuilder()
        .group(write_line(0), 1)
        .group(b"".join(map(write_line, range(1, 1000))), 999)
    )
    assert contents(tmp_path / "d") == files(made)


@pytest.mark.parametrize("fsync", ["always", "interval", "never"])
def test_fsync_policy_decides_the_number_of_syncs(tmp_path: Path, fsync: str) -> None:
    count = Count()
    with open_journal(tmp_path / "d", count, DataSettings(fsync, 3600)) as (queue, _):
        before = count.of["after sync"]
        append_and_wait(queue, *range(10))
        assert count.of["after append"] == 11
        assert count.of["after sync"] - before == (10 if fsync == "always" else 0)
        queue.rotate()
        queue.wait(queue.appended_count)
        rotated = count.of["after sync"]
        assert rotated - before == (12 if fsync == "always" else 2)  # the old one, and a new one
    assert count.of["after sync"] - rotated == (fsync != "never")


def test_interval_sync_needs_no_further_append(tmp_path: Path) -> None:
    count = Count()
    with open_journal(tmp_path / "d", count, DataSettings("interval", 0.01)) as (queue, _):
        before = count.of["after sync"]
        queue.append(write_line(0), 1)
        until(lambda: count.of["after sync"] == before + 1)
        queue.append(write_line(1), 1)
        until(lambda: count.of["after sync"] == before + 2)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("step", ["before append", "within append"])
def test_group_is_retried_once_space_is_freed(tmp_path: Path, step: str, number: int) -> None:
    disk = FullDisk(step, number)
    with open_journal(tmp_path / "d", disk, on_disk_full=disk.free_space) as (queue, _):
        append_and_wait(queue, 0)
        disk.armed = True
        append_and_wait(queue, 1, 2)
        queue.append(write_line(3), 1)
    made = JournalBuilder()
    for lines in map(write_line, range(4)):
        made.group(lines, 1)
    assert contents(tmp_path / "d") == files(made)
    assert disk.errors == [number]


def test_rotation_is_retried_once_space_is_freed(tmp_path: Path) -> None:
    disk = FullDisk("within append")
    with open_journal(tmp_path / "d", disk, on_disk_full=disk.free_space) as (queue, _):
        append_and_wait(queue, 0)
        disk.armed = True
        queue.rotate()
        queue.append(write_line(1), 1)
    first = JournalBuilder().group(write_line(0), 1)
    assert contents(tmp_path / "d") == files(first, first.next().group(write_line(1), 1))
    assert disk.errors == [errno.ENOSPC]


def test_start_without_threads_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(DataDirectoryError) as caught, open_journal(tmp_path / "d"):
        pass
    assert caught.value.reason == (
        "cannot start the journal's writer thread; raise the limit of processes (ulimit -u)"
    )


def test_pending_appends_are_written_in_bounded_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvs.journal.queue.GROUP_BYTES", 2 * len(write_line(1)))
    gate = Gate()
    with open_journal(tmp_path / "d", gate) as (queue, _):
        with gate.shut():
            queue.append(write_line(0), 1)
            gate.wait_until_held()
            for number in range(1, 6):
                queue.append(write_line(number), 1)
        queue.wait(queue.appended_count)
    made = JournalBuilder().group(write_line(0), 1)
    for numbers in ((1, 2), (3, 4), (5,)):
        made.group(b"".join(map(write_line, numbers)), len(numbers))
    assert contents(tmp_path / "d") == files(made)


def test_restore_has_a_group_of_its_own(tmp_path: Path) -> None:
    gate = Gate()
    restore = (b"# restore\n", b"WRITE [(a,1)]\n", b"WRITE [(b,2)]\n")
    with open_journal(tmp_path / "d", gate) as (queue, _):
        with gate.shut():
            queue.append(b"# job 1 done\n", 0)
            gate.wait_until_held()
            queue.append(b"# job 2 done\n", 0)
            size = sum(map(len, restore))
            queue.append_item(PendingAppend(restore, size, 1, is_restore=True))
            queue.append(write_line(1), 1)
        queue.wait(queue.appended_count)
    made = JournalBuilder().group(b"# job 1 done\n", 0).group(b"# job 2 done\n", 0)
    made.group(b"".join(restore), 1).group(write_line(1), 1)
    assert contents(tmp_path / "d") == files(made)
