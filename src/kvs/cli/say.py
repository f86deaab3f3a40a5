"""The two ways out: results to stdout, everything else to stderr. Never through a bare print.

Either may be closed, full, or a pipe whose reader has gone.
"""

import contextlib
import errno
import os
import sys
from threading import Lock

from kvs.errors import KvsError, cause

_saying = Lock()
"""Keeps lines whole that several threads tell at the same time."""


class UsageError(KvsError):
    """The command was called in a way that it cannot mean: exit status 2."""


class OutputLost(KvsError):
    """Results could not be written to stdout."""


class ReaderGone(OutputLost):
    """Who read our stdout wants no more, as `head` does: nobody needs to be told."""


def say(line: str) -> None:
    """Tell a person `line`, on stderr; a stderr that takes nothing is no reason to stop."""
    if sys.stderr is not None:
        with _saying, contextlib.suppress(OSError):
            print(line, file=sys.stderr, flush=True)


def put(text: str) -> None:
    """Write `text` and a newline to stdout.

    Raises:
        OutputLost: it was not written.

    """
    if sys.stdout is None:
        raise OutputLost("stdout is closed: the results cannot be written")
    try:
        print(text, flush=True)
    except OSError as error:
        raise _lost(error) from error


def put_bytes(data: bytes) -> None:
    """Write `data` to stdout, as it is.

    Raises:
        OutputLost: it was not written.

    """
    if sys.stdout is None:
        raise OutputLost("stdout is closed: the results cannot be written")
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise _lost(error) from error


def _lost(error: OSError) -> OutputLost:
    # What Python has buffered would fail again at exit; give it a place to go.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    kind = ReaderGone if error.errno == errno.EPIPE else OutputLost
    return kind(f"stdout: cannot write the results: {cause(error)}")
