"""Waits that leave no lock behind, and end in a child that is forked within them."""

import itertools
import os
import signal
import threading
from collections import deque
from collections.abc import Callable
from functools import partial

import pytest

from kvs import InheritedByForkError
from kvs.concurrency.waiters import Waiters, call_uninterrupted
from tests.helpers import SECONDS
from tests.opcodes import Interrupted, at_opcode, raise_interrupted

ALARM = 20
"""Seconds after which a child that hangs is killed."""


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


WAITING = ("/kvs/concurrency/waiters.py",)
RETURNED, REFUSED, OTHER = 0, 1, 9


def killed_by_an_alarm() -> None:
    """Have this process, a child, killed if it hangs."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(ALARM)


def going_on(wait: Callable[[], object], parent: int) -> None:
    """Call `wait`; any process but `parent` ends then, with a status that says how it went."""
    status = OTHER
    try:
        wait()
        status = RETURNED
    except InheritedByForkError:
        status = REFUSED
    finally:
        if os.getpid() != parent:
            os._exit(status)


def child_forked_at(
    number: int, wait: Callable[[], object], finish: Callable[[], None]
) -> int | None:
    """Fork at a bytecode of `wait`, which `finish` ends; return the child's status, None for none.

    A child that hangs is killed by its alarm.
    """
    parent = os.getpid()
    statuses: list[int] = []

    def fork() -> None:
        child = os.fork()
        if child:
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        else:
            killed_by_an_alarm()

    timer = threading.Timer(0.003, finish)
    timer.start()
    at_opcode(number, fork, lambda: going_on(wait, parent), WAITING)
    timer.join()
    return statuses[0] if statuses else None


def check_children(begin: Callable[[], tuple[Callable[[], object], Callable[[], None]]]) -> None:
    """Fork at each bytecode of a wait: `begin` returns one, and what finishes it, each time."""
    refused = 0
    for number in itertools.count():
        status = child_forked_at(number, *begin())
        if status is None:
            break
        assert status in {RETURNED, REFUSED}
        refused += status == REFUSED
    assert refused > 10


@pytest.mark.slow
def test_a_child_forked_at_any_bytecode_of_a_wait_does_not_wait() -> None:
    def begin() -> tuple[Callable[[], object], Callable[[], None]]:
        waiters, over = Waiters(), threading.Event()

        def finish() -> None:
            over.set()
            waiters.notify_all()

        return partial(waiters.wait_for, over.is_set), finish

    check_children(begin)


def test_a_child_forked_by_a_handler_within_a_blocked_wait_does_not_wait() -> None:
    waiters, over = Waiters(), threading.Event()
    statuses: list[int] = []

    def fork(*_: object) -> None:
        child = os.fork()
        if child:
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            over.set()
            waiters.notify_all()
        else:
            killed_by_an_alarm()

    before = signal.signal(signal.SIGALRM, fork)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        going_on(lambda: waiters.wait_for(over.is_set), os.getpid())
    finally:
        signal.signal(signal.SIGALRM, before)
    assert statuses == [REFUSED]


def test_a_child_does_not_wait_at_all_for_what_its_parent_waits_for() -> None:
    waiters = Waiters()
    child = os.fork()
    if not child:
        killed_by_an_alarm()
        going_on(lambda: waiters.wait_for(lambda: False), parent=0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == REFUSED


@pytest.mark.slow
def test_a_child_forked_at_any_bytecode_of_a_call_apart_does_not_wait() -> None:
    parent = os.getpid()

    def begin() -> tuple[Callable[[], object], Callable[[], None]]:
        over = threading.Event()

        def action() -> None:
            if os.getpid() == parent:
                over.wait(SECONDS)

        return partial(call_uninterrupted, action), over.set

    check_children(begin)


def test_an_interrupt_at_any_bytecode_of_a_call_apart_leaves_no_action_under_way() -> None:
    interrupted = 0
    for number in itertools.count():
        log: list[str] = []

        def action(log: list[str] = log) -> None:
            log.append("begun")
            log.append("ended")

        try:
            if not at_opcode(
                number, raise_interrupted, partial(call_uninterrupted, action), WAITING
            ):
                break
        except Interrupted:
            interrupted += 1
            assert log in ([], ["begun", "ended"])
    assert interrupted > 20
