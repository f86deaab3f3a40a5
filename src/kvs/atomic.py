"""Changes of shared state that nothing interrupts, and waits that leave no lock behind.

A signal handler and a finalizer run between two instructions of Python, in the middle of whatever
their thread executes, and may call back into the same object; a handler may also raise there, as
Ctrl-C does. A lock cannot protect against its own thread: it deadlocks, or is left locked. So
shared state is changed by `atomically`: everything is computed first, and then changed in one call
into C, before or after which the handler runs, but never within.

Rules for the steps:

- Each step is implemented in C and calls nothing that is implemented in Python.
- No step creates an object that the garbage collector tracks, a tuple or an iterator for instance:
  CPython 3.11 collects at such an allocation, and runs finalizers.
- What the steps were computed from may be out of date by now. So the first step checks that it is
  not, and raises `ValueError` if it is (``partial(items.index, first, 0, 1)``); the caller computes
  them again. No thread ever waits for another, so none can wait for ever.

This rests on the interpreter's lock (GIL), which one call into C does not release.
"""

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from operator import call
from threading import TIMEOUT_MAX, Lock

from kvs import forks

Step = Callable[[], object]
"""Implemented in C: a method of a built-in type, or a `functools.partial` of one."""

_run_all = deque[object](maxlen=0).extend
"""Exhausts an iterator in C and stores nothing (the "consume" recipe of itertools)."""


def atomically(*steps: Step) -> None:
    """Call every step, in order, in one call into C. Any thread; see the rules above.

    Raises:
        ValueError: the first step refused, and no other was called.
        MemoryError: a step could not be carried out, and those behind it were not called.

    """
    _run_all(map(call, steps))


class Waiters:
    """The threads that wait for a change of some state. Any thread, signal handler or finalizer.

    Takes the place of `threading.Condition`, whose own lock an interrupt at the wrong instruction
    leaves locked. The state is the caller's: it changes the state, then calls `notify_all`.
    """

    def __init__(self) -> None:
        self._locks: deque[Lock] = deque()
        """A lock for each waiting thread, which blocks on it until it is released."""

    def notify_all(self) -> None:
        """Wake every thread that waits now, to evaluate its predicate again."""
        if self._locks:
            # One call into C: a lock that was taken from the deque is also released.
            with suppress(IndexError):  # the end of the deque
                _run_all(map(_release, iter(self._locks.popleft, None)))

    def wait_for(self, predicate: Callable[[], object], timeout: float | None = None) -> bool:
        """Block until `predicate` is true, at most `timeout` seconds; return whether it is.

        The predicate is evaluated at least once, and after each `notify_all`. In a child that was
        forked within the wait it is evaluated no more: see `kvs.forks`.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        generation = forks.generation()
        while not predicate():
            left = -1.0
            if deadline is not None:
                left = min(deadline - time.monotonic(), TIMEOUT_MAX)
                if left <= 0:
                    return False
            if forks.generation() != generation:
                raise forks.inherited()
            lock = Lock()
            lock.acquire()
            self._locks.append(lock)
            try:
                if not predicate():
                    lock.acquire(timeout=left)
            finally:
                with suppress(ValueError):  # it was taken out by notify_all
                    self._locks.remove(lock)
        return True


_release = type(Lock()).release
