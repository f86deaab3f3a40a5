"""A flag that threads wait for, and that a signal handler sets."""

import itertools
import threading

from kvs.concurrency.flag import Flag
from tests.helpers import SECONDS
from tests.opcodes import at_opcode


def test_wait_ends_when_the_flag_is_set() -> None:
    flag = Flag()
    assert not flag.is_set()
    assert not flag.wait(0)
    results: list[bool] = []
    threads = [
        threading.Thread(target=lambda: results.append(flag.wait(SECONDS))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    flag.set()
    for thread in threads:
        thread.join(SECONDS)
    assert results == [True] * 3
    assert flag.is_set()
    assert flag.wait(0)


def test_set_may_interrupt_set_at_any_bytecode() -> None:
    for number in itertools.count():
        flag = Flag()
        waiting = [threading.Thread(target=flag.wait, args=(SECONDS,)) for _ in range(2)]
        for thread in waiting:
            thread.start()
        is_interrupted = at_opcode(
            number, flag.set, flag.set, ("/kvs/concurrency/", "/threading.py")
        )
        for thread in waiting:
            thread.join(SECONDS)
            assert not thread.is_alive()
        if not is_interrupted:
            break
    assert number > 10
