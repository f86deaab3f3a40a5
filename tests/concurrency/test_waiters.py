"""Waits that leave no lock locked, and end in a child that is forked within them."""

import itertools
import os
import signal
import threading
from collections import deque
from collections.abc import Callable
from functools import partial

import pytest

from kvs import InheritedByForkError, ThreadStartError
from kvs.concurrency.waiters import Waiters, call_uninterrupted
from tests.helpers import SECONDS
from tests.opcodes import Interrupted, at_opcode, raise_interrupted

ALARM = 20
"""Seconds after which a child that hangs is killed."""


def test_woken_thread_evaluates_its_predicate_again() -> None:
    waiters, state = Waiters(), [0]
    evaluated: deque[int] = deque()
    reached = threading.Event()

    def predicate() -> bool:
        evaluated.append(state[0])
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


def test_wait_ends_at_its_timeout() -> None:
    waiters = Waiters()
    assert not waiters.wait_for(lambda: False, 0)
    assert not waiters.wait_for(lambda: False, 0.001)
    waiters.notify_all()


def test_interrupted_wait_can_be_repeated() -> None:
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


def kill_if_it_hangs() -> None:
    """Set an alarm that kills this process, a child, if it hangs."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(ALARM)


def exit_child_after(wait: Callable[[], object], parent: int) -> None:
    """Call `wait`; then any process but `parent` exits with a status that reports the result."""
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
    """Fork at a bytecode of `wait`, which `finish` ends; return the status of the child.

    Returns None if `wait` has fewer bytecodes. An alarm kills a child that hangs.
    """
    parent = os.getpid()
    statuses: list[int] = []

    def fork() -> None:
        child = os.fork()
        if child:
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        else:
            kill_if_it_hangs()

    timer = threading.Timer(0.003, finish)
    timer.start()
    at_opcode(number, fork, lambda: exit_child_after(wait, parent), WAITING)
    timer.join()
    return statuses[0] if statuses else None


def check_children(begin: Callable[[], tuple[Callable[[], object], Callable[[], None]]]) -> None:
    """Fork at each bytecode of a wait; `begin` returns a new wait, and what finishes it."""
    refused = 0
    for number in itertools.count():
        status = child_forked_at(number, *begin())
        if status is None:
            break
        assert status in {RETURNED, REFUSED}
        refused += status == REFUSED
    assert refused > 10


@pytest.mark.slow
def test_child_forked_at_any_bytecode_of_a_wait_does_not_wait() -> None:
    def begin() -> tuple[Callable[[], object], Callable[[], None]]:
        waiters, over = Waiters(), threading.Event()

        def finish() -> None:
            over.set()
            waiters.notify_all()

        return partial(waiters.wait_for, over.is_set), finish

    check_children(begin)


def test_child_forked_by_a_handler_in_a_wait_does_not_wait() -> None:
    waiters, over = Waiters(), threading.Event()
    statuses: list[int] = []

    def fork(*_: object) -> None:
        child = os.fork()
        if child:
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            over.set()
            waiters.notify_all()
        else:
            kill_if_it_hangs()

    before = signal.signal(signal.SIGALRM, fork)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        exit_child_after(lambda: waiters.wait_for(over.is_set), os.getpid())
    finally:
        signal.signal(signal.SIGALRM, before)
    assert statuses == [REFUSED]


def test_child_does_not_wait_for_inherited_waiters() -> None:
    waiters = Waiters()
    child = os.fork()
    if not child:
        kill_if_it_hangs()
        exit_child_after(lambda: waiters.wait_for(lambda: False), parent=0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == REFUSED


@pytest.mark.slow
def test_child_forked_in_an_uninterrupted_call_does_not_wait() -> None:
    parent = os.getpid()

    def begin() -> tuple[Callable[[], object], Callable[[], None]]:
        over = threading.Event()

        def action() -> None:
            if os.getpid() == parent:
                over.wait(SECONDS)

        return partial(call_uninterrupted, action), over.set

    check_children(begin)


def test_lack_of_threads_raises_without_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[None] = []

    def refuse(_function: Callable[[], None], _arguments: tuple[()]) -> int:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("kvs.concurrency.waiters.start_new_thread", refuse)
    with pytest.raises(ThreadStartError):
        call_uninterrupted(lambda: called.append(None))
    assert not called


def test_interrupt_waits_for_the_end_of_the_uninterrupted_call() -> None:
    interrupted = 0
    for number in itertools.count():
        log: list[str] = []

        def action(log: list[str] = log) -> None:
            log.append("started")
            log.append("ended")

        try:
            if not at_opcode(
                number, raise_interrupted, partial(call_uninterrupted, action), WAITING
            ):
                break
        except Interrupted:
            interrupted += 1
            assert log in ([], ["started", "ended"])
    assert interrupted > 20
