r"""Origins of changes: who made them, as comments in the journal. For people and `kvs history`.

A group says where changes came from before the first of them, and again before the next changes of
another origin. The lines, each of them a comment of the command language::

    # origin library 1234
    # origin session /run/user/1000/kvs/client
    # origin job stock
    # origin job stock 1203
    # origin expiry

- ``library``: a program that has the store open, by its process ID.
- ``session``: a client of a server, by the name of its session.
- ``job``: a job, by its name, and the number of the line at which the call that made the changes
  began; without a number, at line 1. A call executes about 64 KiB. The job's checkpoint, which
  follows the changes, has the offset up to which it was executed (`kvs.journal.job_records`).
- ``expiry``: the time of the pairs had come.

A restore is recognized by its own comment (`kvs.journal.format.RESTORE`).
"""

import itertools
import os
from collections import deque
from contextlib import suppress

from kvs.engine.interface import EXPIRY_ORIGIN, UNKNOWN_ORIGIN
from kvs.language.grammar import spell

MAX_REMOVED = 1000
"""Removed origins that stay in memory: their last changes may not be in the journal yet."""

MAX_NAME_BYTES = 255
"""Bytes of a name that are written; the rest is left out."""


def encode_origin(kind: bytes, name: bytes) -> bytes:
    """Return the line of an origin, with the name in canonical spelling."""
    return b"# origin %b %b\n" % (kind, spell(name[:MAX_NAME_BYTES]))


def encode_job_origin(name: bytes, line: int) -> bytes:
    """Return the line of a job call that began at the line `line` of the job `name`."""
    origin = encode_origin(b"job", name)
    return origin if line == 1 else b"%b %d\n" % (origin[:-1], line)


class Origins:
    """The origins of one store by their numbers. Any thread, signal handler or finalizer."""

    def __init__(self) -> None:
        self._default = encode_origin(b"library", b"%d" % os.getpid())
        self._numbers = itertools.count(EXPIRY_ORIGIN + 1)
        self._lines = {UNKNOWN_ORIGIN: self._default, EXPIRY_ORIGIN: b"# origin expiry\n"}

        self._removed: deque[int] = deque()

    def __getitem__(self, number: int) -> bytes:
        """Return the line of an origin."""
        return self._lines.get(number, self._default)

    def add(self, kind: bytes, name: bytes) -> int:
        """Return the number of a further origin."""
        number = next(self._numbers)
        self._lines[number] = encode_origin(kind, name)
        return number

    def remove(self, number: int) -> None:
        """Forget an origin when `MAX_REMOVED` others have been removed after it."""
        self._removed.append(number)
        with suppress(IndexError):  # another thread forgets the last one
            while len(self._removed) > MAX_REMOVED:
                self._lines.pop(self._removed.popleft(), None)
