"""Waking a thread that polls descriptors: an eventfd(2)."""

import contextlib
import os
from collections import deque
from functools import partial

from kvs.concurrency.atomic import Step


class Wakeup:
    """A descriptor that is readable from `wake` until `clear`.

    A thread that polls it level-triggered calls `clear`. Registered edge-triggered (EPOLLET) with
    any number of epoll instances, it is never cleared: each `wake` wakes each of them once.

    Threads: any, signal handlers and finalizers too, also within a call of the same thread. No call
    blocks.

    The descriptor is closed when the object is freed, never before: so a late `wake` cannot write
    to another file that has got its number. A forked child has a copy of the descriptor, which
    counts in the same place: only the process that created the object may wake and clear.

    Raises:
        OSError: the system gives no descriptor.

    """

    def __init__(self) -> None:
        self._opened: deque[int] = deque()
        # In one call into C: an exception of a signal handler leaves no descriptor open.
        self._opened.extend(map(os.eventfd, (0,), (os.EFD_NONBLOCK | os.EFD_CLOEXEC,)))
        self.wake_step: Step = partial(os.eventfd_write, self.fileno(), 1)
        """What `wake` does, as a step of `kvs.concurrency.atomic.atomically`."""

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._opened[0]

    def wake(self) -> None:
        """Make the descriptor readable."""
        with contextlib.suppress(BlockingIOError):  # 2**64 - 2 calls: it is readable
            self.wake_step()

    def clear(self) -> bool:
        """Make the descriptor unreadable; return whether it was readable."""
        try:
            return bool(os.eventfd_read(self.fileno()))
        except BlockingIOError:
            return False

    def __del__(self) -> None:
        while self._opened:
            os.close(self._opened.pop())
