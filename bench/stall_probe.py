"""A thread that uses the store again and again, to measure how long it is held up."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

_PERIOD_S = 0.001


class StallProbe:
    """Calls `probe` on another thread, each time a millisecond after the last call returned.

    A wait lasts from the time a call is due to the time it returns. So it includes everything that
    can hold a thread up: the store's lock, the interpreter's lock, the processor. A clock started
    right before the call would miss the last two, as it starts when they are over.
    """

    def __init__(self, probe: Callable[[], object]) -> None:
        self.longest_wait = 0.0
        """Longest wait in seconds."""
        self._probe = probe

    @contextmanager
    def probing(self) -> Iterator[None]:
        """Call the function until the end of the block."""
        started, stop = Event(), Event()
        thread = Thread(target=self._call, args=(started, stop))
        thread.start()
        started.wait()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _call(self, started: Event, stop: Event) -> None:
        now = time.perf_counter()
        while not stop.is_set():
            due = now + _PERIOD_S
            stop.wait(_PERIOD_S)
            # Once more after `stop`: the end of the watched operation may have held this call up.
            self._probe()
            now = time.perf_counter()
            self.longest_wait = max(self.longest_wait, now - due)
            started.set()
