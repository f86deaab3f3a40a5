"""Incomplete requests: reported once, after a time without a further byte."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from kvs.server import incomplete
from kvs.server.incomplete import INCOMPLETE_SECONDS, IncompleteRequestTimer
from tests.server.fake_loop import FakeLoop


class Watched:
    """A session whose state a test sets, and what was reported of it."""

    def __init__(self, loop: FakeLoop) -> None:
        self.is_incomplete = self.is_busy = False
        self.reports: list[float] = []
        self.timer = IncompleteRequestTimer(
            loop, lambda: self.is_incomplete, lambda: self.is_busy, self.reports.append
        )

    def receive(self, *, incomplete: bool) -> None:
        """Note input that ends within a request, or with its end."""
        self.is_incomplete = incomplete
        self.timer.on_input()


@pytest.fixture(name="loop")
def _loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeLoop]:
    loop = FakeLoop()
    monkeypatch.setattr(incomplete, "time", SimpleNamespace(monotonic=lambda: loop.now))
    yield loop
    loop.close()


def test_incomplete_request_is_reported_once(loop: FakeLoop) -> None:
    session = Watched(loop)
    session.receive(incomplete=True)
    loop.pass_time(INCOMPLETE_SECONDS - 1)
    assert session.reports == []
    loop.pass_time(1)
    assert session.reports == [INCOMPLETE_SECONDS]
    loop.pass_time(10 * INCOMPLETE_SECONDS)
    assert session.reports == [INCOMPLETE_SECONDS]


def test_complete_request_is_not_reported(loop: FakeLoop) -> None:
    session = Watched(loop)
    session.receive(incomplete=False)
    assert loop.waiting == 0
    session.receive(incomplete=True)
    session.receive(incomplete=False)
    loop.pass_time(2 * INCOMPLETE_SECONDS)
    assert session.reports == []


def test_time_counts_from_the_last_byte(loop: FakeLoop) -> None:
    session = Watched(loop)
    for _ in range(3):
        session.receive(incomplete=True)
        loop.pass_time(INCOMPLETE_SECONDS - 1)
    assert (session.reports, loop.waiting) == ([], 1)
    loop.pass_time(1)
    assert session.reports == [INCOMPLETE_SECONDS]


def test_requests_being_processed_prolong_the_time(loop: FakeLoop) -> None:
    session = Watched(loop)
    session.is_busy = True
    session.receive(incomplete=True)
    loop.pass_time(3 * INCOMPLETE_SECONDS)
    assert session.reports == []
    session.is_busy = False
    loop.pass_time(INCOMPLETE_SECONDS)
    assert session.reports == [INCOMPLETE_SECONDS]


def test_cancelled_timer_reports_nothing(loop: FakeLoop) -> None:
    session = Watched(loop)
    session.receive(incomplete=True)
    session.timer.cancel()
    loop.pass_time(2 * INCOMPLETE_SECONDS)
    assert session.reports == []
