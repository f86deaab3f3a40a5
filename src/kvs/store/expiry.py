"""The removal of pairs at their time, by a thread of the store.

How it works. After each call that may have given a pair an expiry, `check` compares the earliest
one with the time at which the thread looks next, and wakes the thread if it would be late. The
thread starts at the first such call: a store without expiries has none.

Invariants:

- The thread must state the time at which it looks next before it reads the earliest expiry once
  more and waits. So either the thread sees an earlier one, or `check` sees that the thread is late.
- One call into C must start the thread and count it: else each change until the thread runs would
  start a further one, or an interrupted call would leave a count without a thread.
- Nothing may be removed once the store is closed or its journal has failed.
- The thread must not keep the store from being collected.

Threads: any, and any signal handler or finalizer. No lock is held. In a forked child, where the
thread does not exist, nothing is called.
"""

import time
import weakref
from _thread import start_new_thread
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from operator import setitem

from kvs.concurrency.atomic import atomically
from kvs.concurrency.waiters import Waiters
from kvs.engine.interface import NO_EXPIRY, Engine
from kvs.errors import KvsError
from kvs.posix.clock import now_ms

PAIRS_PER_CHANGE = 256
"""Maximum pairs removed as one change, for which the engine is locked."""

PAUSE_SECONDS = 1e-4
"""Pause of the thread after each change, in which waiting threads get the engine and the
interpreter: without it, the thread that releases a lock is the first to have it again."""

CLOCK_CHECK_SECONDS = 1.0
"""Maximum seconds of a wait, after which a clock that was set is noticed, and seconds after which a
removal without memory is tried again."""


class Expiry:
    """The expiries of one engine."""

    def __init__(self, engine: Engine, publish: Callable[[], None], owner: object) -> None:
        """Start nothing yet.

        `publish` is called after each change; it may block, and raises `KvsError` when nothing may
        be removed any more. The thread ends when `owner` is collected.
        """
        self._engine = engine
        self._publish = publish
        self._stopped = [False]
        self._wakes_at = NO_EXPIRY
        """Time at which the thread looks next (`now_ms`); later expiries need no wake."""
        self._thread_count = [0]
        self._waiters = Waiters()
        """The thread, in its wait."""
        # Refers to no part of this object but these, which would keep the engine in memory.
        self._owner = weakref.ref(owner, partial(_stop, self._stopped, self._waiters))

    def check(self) -> None:
        """Have the thread remove the earliest pair in time. To be called after each change."""
        if self._engine.next_expiry < self._wakes_at:
            self._wake()

    def _wake(self) -> None:
        self._waiters.notify_all()
        # ValueError: there is a thread. RuntimeError: none can be started; the next change tries
        # again.
        with suppress(ValueError, RuntimeError):
            atomically(
                partial(self._thread_count.index, 0),
                partial(start_new_thread, self._run, ()),
                partial(setitem, self._thread_count, 0, 1),
            )

    def stop(self) -> None:
        """Remove nothing more, and end the thread. Idempotent."""
        _stop(self._stopped, self._waiters)

    def remove_due(self, pause: float = 0.0) -> None:
        """Remove every pair whose time has come; sleep for `pause` seconds after each change.

        Raises:
            KvsError: `publish` raised it.

        """
        while not self._stopped[0] and self._engine.next_expiry <= (now := now_ms()):
            self._publish()  # raises before anything is removed
            self._engine.expire(now, PAIRS_PER_CHANGE)
            self._publish()
            if pause:
                time.sleep(pause)

    def _run(self) -> None:
        """Remove pairs at their times, in the thread.

        Without memory, the thread tries again after `CLOCK_CHECK_SECONDS`. Any other error is a
        defect: it ends the thread and goes to `sys.unraisablehook`, and the next call of `check`
        with an expiry starts another thread.
        """
        try:
            while not self._stopped[0]:
                try:
                    self.remove_due(PAUSE_SECONDS)
                    self._wait()
                except MemoryError:
                    time.sleep(CLOCK_CHECK_SECONDS)
        except KvsError:
            pass  # reported by what waits for the journal
        except BaseException:
            self._wakes_at = NO_EXPIRY
            self._thread_count[0] = 0
            raise

    def _wait(self) -> None:
        """Block until the earliest pair is due, at most until a clock that was set is noticed."""
        self._wakes_at = earliest = self._engine.next_expiry
        timeout = None
        if earliest != NO_EXPIRY:
            timeout = min((earliest - now_ms()) / 1000, CLOCK_CHECK_SECONDS)
        self._waiters.wait_for(
            lambda: self._stopped[0] or self._engine.next_expiry < earliest, timeout
        )


def _stop(stopped: list[bool], waiters: Waiters, _: object = None) -> None:
    stopped[0] = True
    waiters.notify_all()
