"""Events of real changes."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvs.posix.files import open_directory
from kvs.posix.inotify import DirectoryWatcher, FileEvent

Events = Callable[[], list[tuple[FileEvent, str]]]


@pytest.fixture(name="events")
def _events(tmp_path: Path) -> Iterator[Events]:
    """Return a function that returns the events of `tmp_path`/jobs since the last call."""
    (tmp_path / "jobs").mkdir()
    directory = open_directory(os.fsencode(tmp_path / "jobs"))
    watcher = DirectoryWatcher(directory)
    yield lambda: [(event, os.fsdecode(name)) for event, name in watcher.read_events()]
    watcher.close()
    os.close(directory)


def test_new_file_is_created_modified_and_closed(tmp_path: Path, events: Events) -> None:
    assert events() == []
    (tmp_path / "jobs" / "a").write_text("x")
    assert events() == [
        (FileEvent.CREATED, "a"),
        (FileEvent.MODIFIED, "a"),
        (FileEvent.CLOSED_AFTER_WRITE, "a"),
    ]
    (tmp_path / "jobs" / "a").read_text()
    assert events() == []


def test_touch_is_not_a_modification(tmp_path: Path, events: Events) -> None:
    (tmp_path / "jobs" / "a").write_text("x")
    events()
    with (tmp_path / "jobs" / "a").open("a"):
        os.utime(tmp_path / "jobs" / "a")
    assert events() == [(FileEvent.CLOSED_AFTER_WRITE, "a")]


def test_truncation_is_a_modification(tmp_path: Path, events: Events) -> None:
    for text in ("", "x"):
        (tmp_path / "jobs" / "a").write_text(text)
        events()
        (tmp_path / "jobs" / "a").write_text("")
        assert events() == [(FileEvent.MODIFIED, "a"), (FileEvent.CLOSED_AFTER_WRITE, "a")]


def test_links_renames_and_removals_have_events(tmp_path: Path, events: Events) -> None:
    (tmp_path / "a").touch()
    os.link(tmp_path / "a", tmp_path / "jobs" / "b")
    (tmp_path / "jobs" / "c").symlink_to("b")
    os.rename(tmp_path / "a", tmp_path / "jobs" / "d")
    os.rename(tmp_path / "jobs" / "c", tmp_path / "jobs" / "e\udcff")
    os.unlink(tmp_path / "jobs" / "b")
    assert events() == [
        (FileEvent.CREATED, "b"),
        (FileEvent.CREATED, "c"),
        (FileEvent.MOVED_IN, "d"),
        (FileEvent.REMOVED, "c"),
        (FileEvent.MOVED_IN, "e\udcff"),
        (FileEvent.REMOVED, "b"),
    ]


def test_writes_to_a_replaced_file_have_no_events(tmp_path: Path, events: Events) -> None:
    for name in "ab":
        (tmp_path / "jobs" / name).touch()
    (tmp_path / "new").touch()
    with (tmp_path / "jobs" / "a").open("a") as old, (tmp_path / "jobs" / "b").open("a") as gone:
        os.rename(tmp_path / "new", tmp_path / "jobs" / "a")
        os.unlink(tmp_path / "jobs" / "b")
        events()
        old.write("x")
        gone.write("x")
    assert events() == []


def test_renamed_directory_is_still_watched(tmp_path: Path, events: Events) -> None:
    os.rename(tmp_path / "jobs", tmp_path / "away")
    assert events() == [(FileEvent.SELF_MOVED, "")]
    (tmp_path / "away" / "a").touch()
    assert events() == [(FileEvent.CREATED, "a"), (FileEvent.CLOSED_AFTER_WRITE, "a")]


@pytest.mark.slow
def test_full_queue_ends_with_an_overflow_event(tmp_path: Path, events: Events) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 100_000:
        pytest.skip(f"the kernel queues {limit} events")
    name = tmp_path / "jobs" / "a"
    for _ in range(limit):
        name.touch()
        name.unlink()
    queued = events()
    assert len(queued) == limit + 1
    assert queued[-1] == (FileEvent.OVERFLOWED, "")
