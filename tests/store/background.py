"""A call in another thread."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.helpers import SECONDS


@contextmanager
def in_background(call: Callable[[], object]) -> Iterator[list[object]]:
    """Run `call` in a thread, joined at the end; yield a list that receives the result."""
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    try:
        yield results
    finally:
        thread.join(SECONDS)
        assert not thread.is_alive()
