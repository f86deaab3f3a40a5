"""Waking a thread that waits."""

import select

from kvs.posix.wakeup import Wakeup


def is_readable(wakeup: Wakeup) -> bool:
    return bool(select.select([wakeup], [], [], 0)[0])


def test_it_is_readable_from_wake_until_clear() -> None:
    wakeup = Wakeup()
    assert not is_readable(wakeup)
    assert not wakeup.clear()
    wakeup.wake()
    wakeup.wake()
    assert is_readable(wakeup)
    assert wakeup.clear()
    assert not is_readable(wakeup)


def test_waking_never_waits() -> None:
    wakeup = Wakeup()
    for _ in range(100_000):
        wakeup.wake()
    assert is_readable(wakeup)
