"""Logs refused connects and requests: the first of a kind at once, then the number of repeats."""

import logging
import re
from collections import Counter

from kvs.server.loop import EventLoop, Timer
from kvs.text import pluralize, printable

log = logging.getLogger("kvs.server")

REPEAT_SECONDS = 10.0
"""Seconds from the first refusal until the numbers of repeats are logged."""

MAX_KINDS = 20
"""Maximum kinds logged in that time; of further kinds only the number is logged."""

EXCERPT_BYTES = 128
"""Maximum bytes quoted of the data that arrived; consecutive NULs are quoted as one."""


class RefusalLog:
    """Logs refusals at `info`, in a bounded number of lines. For the loop's thread."""

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop
        self._repeats: Counter[str] = Counter()
        self._others = 0
        self._timer = Timer(None)

    def add(self, reason: str, data: bytes) -> None:
        """Log `reason` and an excerpt of `data`, or count a repeat of what was logged just now."""
        line = f"{reason}: {excerpt(data)}"
        if line in self._repeats:
            self._repeats[line] += 1
        elif len(self._repeats) >= MAX_KINDS:
            self._others += 1
        else:
            if not self._repeats:
                self._timer = self._loop.call_later(REPEAT_SECONDS, self.report)
            self._repeats[line] = 0
            log.info("%s", line)

    def report(self) -> None:
        """Log the numbers of repeats now."""
        self._timer.cancel()
        for line, number in self._repeats.items():
            if number:
                log.info("%s: %d more", line, number)
        if self._others:
            log.info("others refused: %d more", self._others)
        self._repeats.clear()
        self._others = 0


def excerpt(data: bytes) -> str:
    """Return the length and the first bytes of `data`, for the log."""
    quoted = printable(re.sub(rb"\0+", b"\0", data[: 16 * EXCERPT_BYTES]), EXCERPT_BYTES)
    return f"{pluralize(len(data), 'byte')}: {quoted}"
