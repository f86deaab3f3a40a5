"""Signs, from real changes."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvs.posix.files import open_directory
from kvs.posix.inotify import DirectoryWatcher, FileEvent

Signs = Callable[[], list[tuple[FileEvent, str]]]


@pytest.fixture(name="signs")
def _signs(tmp_path: Path) -> Iterator[Signs]:
    """Return what gives the signs of `tmp_path`/jobs since the last call."""
    (tmp_path / "jobs").mkdir()
    directory = open_directory(os.fsencode(tmp_path / "jobs"))
    watch = DirectoryWatcher(directory)
    yield lambda: [(sign, os.fsdecode(name)) for sign, name in watch.read_events()]
    watch.close()
    os.close(directory)


def test_a_file_is_made_written_and_closed(tmp_path: Path, signs: Signs) -> None:
    assert signs() == []
    (tmp_path / "jobs" / "a").write_text("x")
    assert signs() == [
        (FileEvent.CREATED, "a"),
        (FileEvent.MODIFIED, "a"),
        (FileEvent.CLOSED_AFTER_WRITE, "a"),
    ]
    (tmp_path / "jobs" / "a").read_text()
    assert signs() == []


def test_a_touch_writes_nothing(tmp_path: Path, signs: Signs) -> None:
    (tmp_path / "jobs" / "a").write_text("x")
    signs()
    with (tmp_path / "jobs" / "a").open("a"):
        os.utime(tmp_path / "jobs" / "a")
    assert signs() == [(FileEvent.CLOSED_AFTER_WRITE, "a")]


def test_one_that_is_emptied_is_written(tmp_path: Path, signs: Signs) -> None:
    for text in ("", "x"):
        (tmp_path / "jobs" / "a").write_text(text)
        signs()
        (tmp_path / "jobs" / "a").write_text("")
        assert signs() == [(FileEvent.MODIFIED, "a"), (FileEvent.CLOSED_AFTER_WRITE, "a")]


def test_links_renames_and_removals(tmp_path: Path, signs: Signs) -> None:
    (tmp_path / "a").touch()
    os.link(tmp_path / "a", tmp_path / "jobs" / "b")
    (tmp_path / "jobs" / "c").symlink_to("b")
    os.rename(tmp_path / "a", tmp_path / "jobs" / "d")
    os.rename(tmp_path / "jobs" / "c", tmp_path / "jobs" / "e\udcff")
    os.unlink(tmp_path / "jobs" / "b")
    assert signs() == [
        (FileEvent.CREATED, "b"),
        (FileEvent.CREATED, "c"),
        (FileEvent.MOVED_IN, "d"),
        (FileEvent.REMOVED, "c"),
        (FileEvent.MOVED_IN, "e\udcff"),
        (FileEvent.REMOVED, "b"),
    ]


def test_one_that_was_replaced_or_removed_is_of_no_interest(tmp_path: Path, signs: Signs) -> None:
    for name in "ab":
        (tmp_path / "jobs" / name).touch()
    (tmp_path / "new").touch()
    with (tmp_path / "jobs" / "a").open("a") as old, (tmp_path / "jobs" / "b").open("a") as gone:
        os.rename(tmp_path / "new", tmp_path / "jobs" / "a")
        os.unlink(tmp_path / "jobs" / "b")
        signs()
        old.write("x")
        gone.write("x")
    assert signs() == []


def test_the_directory_itself(tmp_path: Path, signs: Signs) -> None:
    os.rename(tmp_path / "jobs", tmp_path / "away")
    assert signs() == [(FileEvent.SELF_MOVED, "")]
    (tmp_path / "away" / "a").touch()
    assert signs() == [(FileEvent.CREATED, "a"), (FileEvent.CLOSED_AFTER_WRITE, "a")]


@pytest.mark.slow
def test_more_than_the_kernel_keeps_is_told_as_lost(tmp_path: Path, signs: Signs) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 100_000:
        pytest.skip(f"the kernel keeps {limit} events")
    name = tmp_path / "jobs" / "a"
    for _ in range(limit):
        name.touch()
        name.unlink()
    told = signs()
    assert len(told) == limit + 1
    assert told[-1] == (FileEvent.OVERFLOWED, "")
