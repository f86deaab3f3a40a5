"""A thread that uses the store again and again, to feel what keeps it from doing so."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

_BETWEEN_SECONDS = 0.001


class Prober:
    """Calls `probe` on another thread, each time a millisecond after the last call has ended.

    A wait is counted from the moment a call is due to the moment it has ended. So it holds all
    that can hold a thread up: the store's lock, the interpreter's lock, the processor. A clock
    started right before the call would miss the last two, as it starts when they are over.
    """

    def __init__(self, probe: Callable[[], object]) -> None:
        self.longest_wait = 0.0
        """In seconds."""
        self._probe = probe

    @contextmanager
    def probing(self) -> Iterator[None]:
        """Go on until the block is left."""
        began, over = Event(), Event()
        thread = Thread(target=self._call, args=(began, over))
        thread.start()
        began.wait()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _call(self, began: Event, over: Event) -> None:
        now = time.perf_counter()
        while not over.is_set():
            due = now + _BETWEEN_SECONDS
            over.wait(_BETWEEN_SECONDS)
            # Once more when it is over: the end of what was watched may have held this one up.
            self._probe()
            now = time.perf_counter()
            self.longest_wait = max(self.longest_wait, now - due)
            began.set()
