"""A thread that reads one key again and again, to feel what keeps it from doing so."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from kvs import Store

_BETWEEN_SECONDS = 0.001


class Reader:
    """Reads a key of `store` on another thread, each time a millisecond after the last.

    A wait is counted from the moment a read is due to the moment its value is there. So it holds
    all that can hold a thread up: the store's lock, the interpreter's lock, the processor. A
    clock started right before the read would miss the last two, as it starts when they are over.
    """

    def __init__(self, store: Store) -> None:
        self.longest_wait = 0.0
        """In seconds."""
        self._store = store

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read until the block is left."""
        began, over = Event(), Event()
        thread = Thread(target=self._read, args=(began, over))
        thread.start()
        began.wait()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _read(self, began: Event, over: Event) -> None:
        now = time.perf_counter()
        while not over.is_set():
            due = now + _BETWEEN_SECONDS
            over.wait(_BETWEEN_SECONDS)
            # Read also when it is over: the end of what was watched may have held this one up.
            self._store.read([b"k"])
            now = time.perf_counter()
            self.longest_wait = max(self.longest_wait, now - due)
            began.set()
