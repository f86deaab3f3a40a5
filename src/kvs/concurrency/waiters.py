"""Waits that leave no lock locked, and calls that no signal handler interrupts."""

import gc
import os
import time
from _thread import start_new_thread
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from itertools import chain
from threading import TIMEOUT_MAX, Lock, get_ident, local, main_thread
from typing import TypeVar
from weakref import WeakSet

from kvs.concurrency import forks
from kvs.concurrency.atomic import exhaust
from kvs.errors import ThreadStartError

T = TypeVar("T")


class Waiters:
    """The threads that wait for a change of some state. Any thread, signal handler or finalizer.

    Replaces `threading.Condition`, whose own lock stays locked after an exception at the wrong
    instruction. The state is the caller's: the caller changes it, and then calls `notify_all`.
    """

    def __init__(self) -> None:
        self._locks: deque[Lock] = deque()
        """A locked lock per waiting thread, which blocks until another thread releases it."""
        self._generation = forks.generation()
        _all_waiters.add(self)

    def notify_all(self) -> None:
        """Wake every thread that waits now; each evaluates its predicate again."""
        if self._locks:
            # One call into C: a lock that is removed from the deque is also released.
            with suppress(IndexError):  # the end of the deque
                exhaust(map(_release, iter(self._locks.popleft, None)))

    def wait_for(self, predicate: Callable[[], object], timeout: float | None = None) -> bool:
        """Block until `predicate` is true, at most `timeout` seconds; return whether it is.

        The predicate is evaluated at least once, and after each `notify_all`.

        Raises:
            InheritedByForkError: the predicate is false, and this process is a forked child,
                perhaps forked within the wait (see `kvs.concurrency.forks`).

        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not predicate():
            seconds = -1.0
            if deadline is not None:
                seconds = min(deadline - time.monotonic(), TIMEOUT_MAX)
                if seconds <= 0:
                    return False
            lock = Lock()
            lock.acquire()
            try:
                self._locks.append(lock)
                # A child that is forked from here on finds the lock released.
                if forks.generation() == self._generation and not predicate():
                    lock.acquire(timeout=seconds)
            finally:
                with suppress(ValueError):  # notify_all removed it
                    self._locks.remove(lock)
            if forks.generation() != self._generation:
                raise forks.inherited_error()
        return True


_all_waiters: WeakSet[Waiters] = WeakSet()


def _in_child() -> None:
    for waiters in _all_waiters:
        waiters.notify_all()


os.register_at_fork(after_in_child=_in_child)


_release = type(Lock()).release


def call_uninterrupted(action: Callable[[], T]) -> T:
    """Return the result of `action`, called in a thread that no signal handler interrupts.

    For actions that other threads wait for. Only the main thread executes handlers; called there,
    this function starts a thread that calls `action`. An exception that a handler raises meanwhile
    is raised when the action has ended, in place of its result.

    Raises:
        InheritedByForkError: this process is a child that a signal handler forked meanwhile.
        ThreadStartError: the system gives no thread.
        BaseException: `action` raised it.

    """
    if get_ident() != main_thread().ident:
        return action()
    results: list[T] = []
    errors: list[BaseException] = []
    ended = Waiters()

    def run() -> None:
        try:
            results.append(action())
        except BaseException as error:  # noqa: BLE001  (raised in the calling thread)
            errors.append(error)
        ended.notify_all()

    generation = forks.generation()
    started: list[int] = []
    interrupted: BaseException | None = None
    while not results and not errors:
        try:
            if not started:  # in one call into C: an exception comes before or after it
                started.extend(map(start_new_thread, (run,), ((),)))
            ended.wait_for(lambda: results or errors)
        except BaseException as error:
            if isinstance(error, RuntimeError) and not started:
                raise ThreadStartError from error
            if not started or forks.generation() != generation:
                raise
            interrupted = error
    if interrupted is not None:
        raise interrupted
    if errors:
        raise errors[0]
    return results[0]


def fork_uninterrupted(action: Callable[[], T]) -> T:
    """Return the result of `action`, which forks, called as by `call_uninterrupted`.

    The thread-local objects of the calling thread stay alive in the child.

    Raises:
        InheritedByForkError, ThreadStartError, BaseException: as by `call_uninterrupted`.

    """
    if get_ident() != main_thread().ident:
        return action()
    in_use = _objects_of_thread()
    try:
        return call_uninterrupted(action)
    finally:
        del in_use


def _objects_of_thread() -> list[object]:
    """Return references that keep this thread's thread-local objects and context variables alive.

    In a child that another thread forks, CPython drops this thread's references to them
    (`PyOS_AfterFork_Child`). So finalizers would run there, and for example remove the parent's
    files. The objects live as long as a `_localdummy` in the thread's dict: before CPython 3.13,
    each `threading.local` has its own; since then all share one.
    """
    import ctypes

    get_dict = ctypes.pythonapi.PyThreadState_GetDict  # a borrowed reference
    get_dict.restype = ctypes.c_void_p
    own = local()
    own.used = True
    references = (item for item in gc.get_referents(own) if isinstance(item, set))
    shared = [reference() for reference in chain.from_iterable(references)]
    return [ctypes.cast(get_dict(), ctypes.py_object).value, shared, copy_context()]
