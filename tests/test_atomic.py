"""Changes in one call into C, and waits that leave no lock behind."""

import gc
import signal
import threading
from collections import deque
from functools import partial

import pytest

from kvs.atomic import atomically
from kvs.waiting import Waiters


def test_steps_run_in_order_up_to_the_first_that_refuses() -> None:
    items = [1, 2]
    with pytest.raises(ValueError, match="not in list"):
        atomically(partial(items.append, 3), partial(items.index, 9), partial(items.append, 4))
    assert items == [1, 2, 3]


def test_no_collection_runs_between_steps() -> None:
    seen: list[bool] = []
    inside: deque[int] = deque()

    class Cycle:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            seen.append(bool(inside))

    table: dict[bytes, bytes] = {}
    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for number in range(2000):
            Cycle()
            pairs = {b"%d" % number: b"value"}
            atomically(partial(inside.append, 1), partial(table.update, pairs), partial(inside.pop))
    finally:
        gc.set_threshold(*threshold)
    assert len(table) == 2000
    assert seen
    assert not any(seen)


def test_a_waiting_thread_is_woken_to_look_again() -> None:
    waiters, state = Waiters(), [0]
    looked: deque[int] = deque()
    reached = threading.Event()

    def predicate() -> bool:
        looked.append(state[0])
        reached.set()
        return state[0] == 2

    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(waiters.wait_for(predicate, 30)))
    thread.start()
    assert reached.wait(30)
    for value in (1, 2):
        state[0] = value
        waiters.notify_all()
    thread.join(30)
    assert results == [True]


def test_a_wait_ends_at_its_time() -> None:
    waiters = Waiters()
    assert not waiters.wait_for(lambda: False, 0)
    assert not waiters.wait_for(lambda: False, 0.001)
    waiters.notify_all()


def test_an_interrupted_wait_can_be_repeated() -> None:
    waiters = Waiters()
    state = [False]

    def interrupted_wait() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        waiters.wait_for(lambda: state[0], 30)

    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for _ in range(50):
            with pytest.raises(KeyboardInterrupt):
                interrupted_wait()
    finally:
        signal.signal(signal.SIGALRM, before)
    state[0] = True
    waiters.notify_all()
    assert waiters.wait_for(lambda: state[0], 30)
