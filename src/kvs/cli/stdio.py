"""The two ways out: results to stdout, everything else to stderr. Never through a bare print.

Either may be closed, full, or a pipe whose reader has gone.
"""

import contextlib
import errno
import os
import sys
from threading import Lock

from kvs.errors import KvsError, cause
from kvs.posix.files import write_all

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
    put_bytes(f"{text}\n".encode(sys.stdout.encoding, sys.stdout.errors or "strict"))


def put_bytes(data: bytes) -> None:
    """Write `data` to stdout, as it is.

    Past Python's buffers: an unbuffered stdout (``python -u``) ignores that the kernel has accepted
    only a part, and a buffered one writes again at exit what has failed before.

    Raises:
        OutputLost: it was not written.

    """
    if sys.stdout is None:
        raise OutputLost("stdout is closed: the results cannot be written")
    try:
        write_all(sys.stdout.fileno(), data)
    except OSError as error:
        kind = ReaderGone if error.errno == errno.EPIPE else OutputLost
        raise kind(f"stdout: cannot write the results: {cause(error)}") from error


def flush_at_exit() -> None:
    """Flush stdout and stderr, and discard what one of them does not accept.

    For `atexit`. The interpreter flushes both after it, and where that fails it exits with status
    120 in place of the program's own.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is None or stream.closed:
            continue
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
