"""Waits that leave no lock behind, and what other threads have to wait for."""

import errno
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

T = TypeVar("T")


class Waiters:
    """The threads that wait for a change of some state. Any thread, signal handler or finalizer.

    Takes the place of `threading.Condition`, whose own lock an interrupt at the wrong instruction
    leaves locked. The state is the caller's: it changes the state, then calls `notify_all`.
    """

    def __init__(self) -> None:
        self._locks: deque[Lock] = deque()
        """A lock for each waiting thread, which blocks on it until it is released."""
        self._generation = forks.generation()
        _all_waiters.add(self)

    def notify_all(self) -> None:
        """Wake every thread that waits now, to evaluate its predicate again."""
        if self._locks:
            # One call into C: a lock that was taken from the deque is also released.
            with suppress(IndexError):  # the end of the deque
                exhaust(map(_release, iter(self._locks.popleft, None)))

    def wait_for(self, predicate: Callable[[], object], timeout: float | None = None) -> bool:
        """Block until `predicate` is true, at most `timeout` seconds; return whether it is.

        The predicate is evaluated at least once, and after each `notify_all`.

        Raises:
            InheritedByForkError: it is not true, and this process is a forked child, also one that
                was forked within the wait (see `kvs.concurrency.forks`).

        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not predicate():
            left = -1.0
            if deadline is not None:
                left = min(deadline - time.monotonic(), TIMEOUT_MAX)
                if left <= 0:
                    return False
            lock = Lock()
            lock.acquire()
            try:
                self._locks.append(lock)
                # A child that is forked from here on finds the lock released.
                if forks.generation() == self._generation and not predicate():
                    lock.acquire(timeout=left)
            finally:
                with suppress(ValueError):  # it was taken out by notify_all
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
    """Return what `action` returns, called in a thread that no signal handler interrupts.

    For what makes other threads wait until it is over: only the main thread executes handlers, and
    it then has a thread of its own call `action`. An exception that a handler raises meanwhile is
    raised here when the action is over, in place of its result.

    Raises:
        InheritedByForkError: this process is a child that was forked meanwhile, by a signal
            handler.
        OSError: the system gives no thread.
        BaseException: what `action` raises.

    """
    if get_ident() != main_thread().ident:
        return action()
    results: list[T] = []
    errors: list[BaseException] = []
    over = Waiters()

    def run() -> None:
        try:
            results.append(action())
        except BaseException as error:  # noqa: BLE001  (raised in the calling thread)
            errors.append(error)
        over.notify_all()

    generation = forks.generation()
    started: list[int] = []
    interrupted: BaseException | None = None
    while not results and not errors:
        try:
            if not started:  # in one call into C: an exception comes before it or behind it
                started.extend(map(start_new_thread, (run,), ((),)))
            over.wait_for(lambda: results or errors)
        except BaseException as error:
            if isinstance(error, RuntimeError) and not started:
                reason = "cannot start a thread; raise the limit of processes (ulimit -u)"
                raise OSError(errno.EAGAIN, reason) from error
            if not started or forks.generation() != generation:
                raise
            interrupted = error
    if interrupted is not None:
        raise interrupted
    if errors:
        raise errors[0]
    return results[0]


def fork_uninterrupted(action: Callable[[], T]) -> T:
    """Return what `action`, which forks, returns; call it as `call_uninterrupted` does.

    The thread-local objects of the calling thread stay alive in the child.

    Raises:
        InheritedByForkError, OSError, BaseException: as `call_uninterrupted` does.

    """
    if get_ident() != main_thread().ident:
        return action()
    in_use = _objects_of_thread()
    try:
        return call_uninterrupted(action)
    finally:
        del in_use


def _objects_of_thread() -> list[object]:
    """Return what holds the thread-local objects, and the context variables, of this thread.

    In a child that another thread forks, CPython drops the references of this thread to them
    (`PyOS_AfterFork_Child`). Finalizers would run there, and remove the parent's files for one.
    The objects live as long as a `_localdummy`: each `threading.local` has one of its own, in the
    thread's dict, before CPython 3.13, and all of them share one from then on.
    """
    import ctypes

    get_dict = ctypes.pythonapi.PyThreadState_GetDict  # a borrowed reference
    get_dict.restype = ctypes.c_void_p
    own = local()
    own.used = True
    references = (each for each in gc.get_referents(own) if isinstance(each, set))
    shared = [reference() for reference in chain.from_iterable(references)]
    return [ctypes.cast(get_dict(), ctypes.py_object).value, shared, copy_context()]
