"""Which thread compacts a store, and for which threads a compaction waits."""

import contextlib
from collections.abc import Callable
from functools import partial
from threading import get_ident
from typing import TypeVar

from kvs.concurrency.atomic import atomically
from kvs.concurrency.waiters import Waiters

T = TypeVar("T")


class CompactionTurn:
    """One compaction at a time.

    Threads: any, and any signal handler or finalizer, except where a method says otherwise. No lock
    is held, so a finalizer that runs in the thread that compacts may call every method.
    """

    def __init__(self) -> None:
        self._thread = [0]
        """Identifier of the thread that compacts, or 0."""
        self._ended = Waiters()
        """Threads that wait for the end of a compaction."""
        self._blockers: list[int] = []
        """Identifiers of threads for which a compaction waits."""

    @property
    def is_running(self) -> bool:
        """Whether a thread compacts."""
        return self._thread[0] != 0

    @property
    def is_running_here(self) -> bool:
        """Whether the calling thread compacts."""
        return self._thread[0] == get_ident()

    @property
    def involves_this_thread(self) -> bool:
        """Whether the calling thread compacts, or a compaction may wait for it.

        A finalizer that runs in such a thread must not wait for a compaction.
        """
        return self.is_running_here or get_ident() in self._blockers

    def blocking(self, call: Callable[[], T]) -> T:
        """Call `call` and return its result; a compaction may wait for this thread meanwhile.

        Only in a thread that no signal handler interrupts.
        """
        me = get_ident()
        self._blockers.append(me)
        try:
            return call()
        finally:
            self._blockers.remove(me)

    def begin(self, *, wait: bool) -> bool:
        """Begin a compaction in this thread; without `wait`, return False if another one runs.

        Only in a thread that no signal handler interrupts; it must call `end`.
        """
        me = get_ident()
        while True:
            with contextlib.suppress(ValueError):  # another thread compacts
                atomically(partial(self._thread.index, 0), partial(self._thread.__setitem__, 0, me))
                return True
            if not wait:
                return False
            self.wait_until_ended()

    def end(self) -> None:
        """End the compaction of this thread."""
        self._thread[0] = 0
        self._ended.notify_all()

    def wait_until_ended(self) -> None:
        """Block until no thread compacts."""
        self._ended.wait_for(lambda: not self.is_running)
