"""The job tracker: which jobs are due, from events alone."""

from kvs.posix.inotify import FileEvent
from kvs.service.tracker import FileFingerprint, JobTracker

FINGERPRINT = FileFingerprint(1, 2, 3, 4, 5, b"digest")


def due(tracker: JobTracker) -> list[bytes]:
    return [name for name, _ in tracker.take_due()]


def run(tracker: JobTracker, name: bytes) -> None:
    """Open and run `name`, which must be the only job due."""
    assert due(tracker) == [name]
    tracker.opened(name)
    tracker.record_run(name, FINGERPRINT)
    tracker.ended(name)
    assert due(tracker) == []


def ran(*names: bytes) -> JobTracker:
    """Return a tracker of jobs that have run."""
    tracker = JobTracker()
    for name in names:
        tracker.on_event(FileEvent.MOVED_IN, name + b".job")
        run(tracker, name)
    return tracker


def test_listed_jobs_are_due_once_and_in_order() -> None:
    tracker = JobTracker()
    tracker.on_listing([b"a", b"b"])
    assert tracker.take_due() == [(b"a", True), (b"b", True)]
    assert tracker.take_due() == []


def test_other_entries_are_ignored() -> None:
    tracker = JobTracker()
    for name in (b"a.out", b".kvs.lock", b"job", b"a.job~", b"", b".job", b".a.job", b".#a.job"):
        tracker.on_event(FileEvent.CLOSED_AFTER_WRITE, name)
    assert tracker.take_due() == []


def test_job_runs_once_for_all_events_before_its_open() -> None:
    tracker = JobTracker()
    tracker.on_event(FileEvent.CREATED, b"a.job")
    assert due(tracker) == [b"a"]
    for event in (FileEvent.MODIFIED, FileEvent.CLOSED_AFTER_WRITE, FileEvent.MOVED_IN):
        tracker.on_event(event, b"a.job")
    assert due(tracker) == []
    assert tracker.opened(b"a") is None
    assert not tracker.ended(b"a")
    assert due(tracker) == []


def test_job_runs_once_more_for_events_after_its_open() -> None:
    tracker = ran(b"a")
    tracker.on_event(FileEvent.MOVED_IN, b"a.job")
    assert due(tracker) == [b"a"]
    tracker.opened(b"a")
    for _ in range(3):
        tracker.on_event(FileEvent.MOVED_IN, b"a.job")
    assert due(tracker) == []
    assert tracker.ended(b"a")
    run(tracker, b"a")


def test_job_is_compared_only_if_it_was_not_written() -> None:
    tracker = ran(b"a")
    tracker.on_event(FileEvent.CLOSED_AFTER_WRITE, b"a.job")
    assert tracker.take_due() == [(b"a", False)]
    assert tracker.opened(b"a") == FINGERPRINT
    tracker.ended(b"a")
    tracker.on_event(FileEvent.MODIFIED, b"a.job")
    assert tracker.take_due() == []
    tracker.on_event(FileEvent.CLOSED_AFTER_WRITE, b"a.job")
    assert tracker.take_due() == [(b"a", True)]
    assert tracker.opened(b"a") is None


def test_removed_job_is_new_when_it_comes_again() -> None:
    tracker = ran(b"a")
    tracker.on_event(FileEvent.REMOVED, b"a.job")
    assert due(tracker) == []
    tracker.on_event(FileEvent.MOVED_IN, b"a.job")
    assert tracker.take_due() == [(b"a", True)]
    tracker.on_event(FileEvent.REMOVED, b"a.job")
    assert tracker.has_unread_changes(b"a")  # its open fails, and the error is reported
    assert not tracker.ended(b"a")
    assert tracker._entries == {}


def test_job_replaced_and_removed_while_it_runs_is_due_again() -> None:
    tracker = JobTracker()
    tracker.on_listing([b"a"])
    assert due(tracker) == [b"a"]
    tracker.opened(b"a")
    tracker.on_event(FileEvent.MOVED_IN, b"a.job")
    tracker.on_event(FileEvent.REMOVED, b"a.job")
    assert tracker.ended(b"a")
    assert tracker.take_due() == [(b"a", True)]


def test_job_being_written_is_due_when_closed_or_retried() -> None:
    tracker = JobTracker()
    tracker.on_listing([b"a", b"b"])
    for name in due(tracker):
        tracker.mark_being_written(name)
        tracker.ended(name)
    assert due(tracker) == []
    tracker.on_event(FileEvent.CLOSED_AFTER_WRITE, b"b.job")
    assert tracker.take_due() == [(b"b", False)]  # it was reported before
    tracker.requeue_being_written()
    assert due(tracker) == [b"a"]


def test_listing_makes_all_jobs_due_and_deletes_missing_ones() -> None:
    tracker = ran(b"a", b"b")
    tracker.on_listing([b"a", b"c"])
    assert tracker.take_due() == [(b"a", False), (b"c", True)]
    assert tracker.opened(b"a") == FINGERPRINT
    assert sorted(tracker._entries) == [b"a", b"c"]


def test_removed_jobs_leave_no_state() -> None:
    tracker = ran(*(b"%d" % number for number in range(100)))
    for number in range(100):
        tracker.on_event(FileEvent.REMOVED, b"%d.job" % number)
    assert (tracker._entries, tracker._due, tracker._being_written) == ({}, {}, {})
