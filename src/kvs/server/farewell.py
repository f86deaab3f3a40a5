"""Seeing off a client that was dropped while its pipes were being opened.

It may wait in an open(2) of a pipe that nobody opens any more. So each pipe that was not open yet
is opened once its client reads it, and closed at once: the client finds its end, and stops.
Requests is kept open meanwhile, for one that waits there.
"""

import contextlib
from collections.abc import Iterable

from kvs.server.loop import Loop
from kvs.wire import fifos
from kvs.wire.fifos import Fifo

SECONDS = 5.0
"""So long a client may take to open its pipes, as one that is served may."""

TRY_SECONDS = 0.02


class Farewell:
    """The pipes of one client that was dropped. For the loop's thread; ends by itself."""

    def __init__(self, loop: Loop, requests: int, unopened: Iterable[Fifo]) -> None:
        """Take over the end of requests, and the handles of the pipes that were not opened."""
        self._loop = loop
        self._requests = requests
        self._unopened = list(unopened)
        self._tries = round(SECONDS / TRY_SECONDS)
        self._try()

    def _try(self) -> None:
        self._unopened = [pipe for pipe in self._unopened if not _is_seen_off(pipe)]
        self._tries -= 1
        if self._unopened and self._tries > 0:
            self._loop.after(TRY_SECONDS, self._try)
            return
        for pipe in self._unopened:
            pipe.close()
        fifos.close(self._requests)


def _is_seen_off(pipe: Fifo) -> bool:
    """Show the client its end of a pipe, if it reads it by now."""
    with contextlib.suppress(OSError):  # no descriptor now: it is tried again
        descriptor = pipe.open_for_writing()
        if descriptor is not None:
            fifos.close(descriptor)
            pipe.close()
            return True
    return False
