"""The memory of replies: what is held, what fits, and which reply is the slowest."""

from types import SimpleNamespace

import pytest

from kvs.server import reply_memory
from kvs.server.reply_memory import ReplyMemory, Reservation


class Clock:
    """The time of the module, which a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(reply_memory, "time", SimpleNamespace(monotonic=lambda: self.now))


def reserve(memory: ReplyMemory, held: int) -> Reservation:
    """Return a reservation that holds `held` bytes."""
    reservation = memory.reserve(lambda: None)
    reservation.resize(held)
    return reservation


def test_reservations_share_one_limit() -> None:
    memory = ReplyMemory(100, lambda: None)
    first, second = reserve(memory, 60), reserve(memory, 0)
    assert (second.fits(40), second.fits(41)) == (True, False)
    assert (first.fits(100), first.fits(101)) == (True, False)
    second.resize(70)
    assert memory.used == 130
    first.close()
    assert memory.used == 70


def test_freed_memory_is_reported_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    calls: list[int] = []
    memory = ReplyMemory(100, lambda: calls.append(memory.used))
    reservation = reserve(memory, 50)
    reservation.resize(50)
    assert (calls, memory.freed_at) == ([], 100.0)
    clock.now = 101.0
    reservation.on_part_written(20)
    assert (calls, memory.freed_at) == ([30], 101.0)
    reservation.on_part_written(1000)
    assert (calls, memory.used) == ([30, 0], 0)


def test_reply_read_to_its_end_holds_nothing() -> None:
    memory = ReplyMemory(100, lambda: None)
    reservation = reserve(memory, 50)
    reservation.on_read(is_pending=True)
    assert (memory.used, reservation.read_at is None) == (50, False)
    reservation.on_read(is_pending=False)
    assert (memory.used, reservation.read_at) == (0, None)


def test_slowest_is_the_largest_of_those_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    memory = ReplyMemory(1000, lambda: None)
    small, large, recent, unread = (reserve(memory, held) for held in (10, 20, 30, 40))
    small.on_read(is_pending=True)
    large.on_read(is_pending=True)
    clock.now += 5
    recent.on_read(is_pending=True)
    assert memory.slowest(3) is large
    assert memory.slowest(6) is None
    large.close()
    assert memory.slowest(3) is small
    assert unread.read_at is None
