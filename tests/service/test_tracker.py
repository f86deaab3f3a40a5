"""The ledger: which jobs are due, from signs alone."""

from kvs.posix.inotify import FileEvent
from kvs.service.tracker import FileVersion, JobTracker

VERSION = FileVersion(1, 2, 3, 4, 5, b"digest")


def due(ledger: JobTracker) -> list[bytes]:
    return [name for name, _ in ledger.take_due()]


def run(ledger: JobTracker, name: bytes) -> None:
    """Let `name`, which must be due alone, be opened and run."""
    assert due(ledger) == [name]
    ledger.opened(name)
    ledger.record_run(name, VERSION)
    ledger.ended(name)
    assert due(ledger) == []


def ran(*names: bytes) -> JobTracker:
    """Return a ledger of jobs that were found and run."""
    ledger = JobTracker()
    for name in names:
        ledger.on_event(FileEvent.MOVED_IN, name + b".job")
        run(ledger, name)
    return ledger


def test_what_is_found_is_due_in_its_order_and_once() -> None:
    ledger = JobTracker()
    ledger.on_listing([b"a", b"b"])
    assert ledger.take_due() == [(b"a", True), (b"b", True)]
    assert ledger.take_due() == []


def test_what_is_no_job_is_ignored() -> None:
    ledger = JobTracker()
    for name in (b"a.out", b".kvs.lock", b"job", b"a.job~", b"", b".job", b".a.job", b".#a.job"):
        ledger.on_event(FileEvent.CLOSED_AFTER_WRITE, name)
    assert ledger.take_due() == []


def test_signs_of_before_it_is_opened_make_it_run_once() -> None:
    ledger = JobTracker()
    ledger.on_event(FileEvent.CREATED, b"a.job")
    assert due(ledger) == [b"a"]
    for sign in (FileEvent.MODIFIED, FileEvent.CLOSED_AFTER_WRITE, FileEvent.MOVED_IN):
        ledger.on_event(sign, b"a.job")
    assert due(ledger) == []
    assert ledger.opened(b"a") is None
    assert not ledger.ended(b"a")
    assert due(ledger) == []


def test_signs_of_after_it_was_opened_make_it_run_once_more_when_it_has_ended() -> None:
    ledger = ran(b"a")
    ledger.on_event(FileEvent.MOVED_IN, b"a.job")
    assert due(ledger) == [b"a"]
    ledger.opened(b"a")
    for _ in range(3):
        ledger.on_event(FileEvent.MOVED_IN, b"a.job")
    assert due(ledger) == []
    assert ledger.ended(b"a")
    run(ledger, b"a")


def test_one_that_was_not_written_is_to_be_compared_and_one_that_was_is_not() -> None:
    ledger = ran(b"a")
    ledger.on_event(FileEvent.CLOSED_AFTER_WRITE, b"a.job")
    assert ledger.take_due() == [(b"a", False)]
    assert ledger.opened(b"a") == VERSION
    ledger.ended(b"a")
    ledger.on_event(FileEvent.MODIFIED, b"a.job")
    assert ledger.take_due() == []
    ledger.on_event(FileEvent.CLOSED_AFTER_WRITE, b"a.job")
    assert ledger.take_due() == [(b"a", True)]
    assert ledger.opened(b"a") is None


def test_one_that_left_is_forgotten_and_is_news_when_it_comes_again() -> None:
    ledger = ran(b"a")
    ledger.on_event(FileEvent.REMOVED, b"a.job")
    assert due(ledger) == []
    ledger.on_event(FileEvent.MOVED_IN, b"a.job")
    assert ledger.take_due() == [(b"a", True)]
    ledger.on_event(FileEvent.REMOVED, b"a.job")
    assert ledger.has_unread_changes(b"a")  # who opens it fails, and that is told
    assert not ledger.ended(b"a")
    assert ledger._entries == {}


def test_one_that_is_replaced_and_leaves_while_it_runs_is_news_that_cannot_be_opened() -> None:
    ledger = JobTracker()
    ledger.on_listing([b"a"])
    assert due(ledger) == [b"a"]
    ledger.opened(b"a")
    ledger.on_event(FileEvent.MOVED_IN, b"a.job")
    ledger.on_event(FileEvent.REMOVED, b"a.job")
    assert ledger.ended(b"a")
    assert ledger.take_due() == [(b"a", True)]


def test_one_being_written_waits_for_its_end_or_for_another_look() -> None:
    ledger = JobTracker()
    ledger.on_listing([b"a", b"b"])
    for name in due(ledger):
        ledger.mark_busy(name)
        ledger.ended(name)
    assert due(ledger) == []
    ledger.on_event(FileEvent.CLOSED_AFTER_WRITE, b"b.job")
    assert ledger.take_due() == [(b"b", False)]  # it was told before
    ledger.requeue_busy()
    assert due(ledger) == [b"a"]


def test_a_look_through_compares_all_and_forgets_what_is_gone() -> None:
    ledger = ran(b"a", b"b")
    ledger.on_listing([b"a", b"c"])
    assert ledger.take_due() == [(b"a", False), (b"c", True)]
    assert ledger.opened(b"a") == VERSION
    assert sorted(ledger._entries) == [b"a", b"c"]


def test_nothing_piles_up() -> None:
    ledger = ran(*(b"%d" % number for number in range(100)))
    for number in range(100):
        ledger.on_event(FileEvent.REMOVED, b"%d.job" % number)
    assert (ledger._entries, ledger._due, ledger._being_written) == ({}, {}, {})
