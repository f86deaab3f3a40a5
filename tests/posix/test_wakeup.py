"""Waking a thread that polls descriptors."""

import gc
import os
import select

import pytest

from kvs.concurrency.atomic import atomically
from kvs.posix.wakeup import Wakeup


def is_readable(wakeup: Wakeup) -> bool:
    return bool(select.select([wakeup], [], [], 0)[0])


def test_wakeup_is_readable_from_wake_until_clear() -> None:
    wakeup = Wakeup()
    assert not is_readable(wakeup)
    assert not wakeup.clear()
    wakeup.wake()
    atomically(wakeup.wake_step)
    assert is_readable(wakeup)
    assert wakeup.clear()
    assert not is_readable(wakeup)


def test_wake_never_blocks() -> None:
    wakeup = Wakeup()
    os.eventfd_write(wakeup.fileno(), 2**64 - 2)
    wakeup.wake()
    assert is_readable(wakeup)


def test_each_wake_wakes_every_edge_triggered_poll_once() -> None:
    wakeup = Wakeup()
    with select.epoll() as one, select.epoll() as two:
        for poll in (one, two):
            poll.register(wakeup.fileno(), select.EPOLLIN | select.EPOLLET)
        for _ in range(3):
            wakeup.wake()
            assert len(one.poll(0)) == len(two.poll(0)) == 1
            assert one.poll(0) == two.poll(0) == []


def test_descriptor_is_closed_when_the_object_is_freed() -> None:
    wakeup = Wakeup()
    descriptor = wakeup.fileno()
    del wakeup
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
