"""The two ways out: results to stdout, everything else to stderr. Never through a bare print.

Either may be closed, full, or a pipe whose reader has gone.
"""

import contextlib
import errno
import os
import sys
from threading import Lock

from kvs.errors import KvsError
from kvs.posix.files import write_all
from kvs.text import os_error_text

_stderr_lock = Lock()
"""Keeps lines whole that several threads tell at the same time."""


class UsageError(KvsError):
    """The command was called in a way that it cannot mean: exit status 2."""


class StdoutError(KvsError):
    """Results could not be written to stdout."""


class StdoutClosed(StdoutError):
    """Who read our stdout wants no more, as `head` does: nobody needs to be told."""


def print_error(line: str) -> None:
    """Tell a person `line`, on stderr; a stderr that takes nothing is no reason to stop."""
    if sys.stderr is not None:
        with _stderr_lock, contextlib.suppress(OSError):
            print(line, file=sys.stderr, flush=True)


def print_result(text: str) -> None:
    """Write `text` and a newline to stdout.

    Raises:
        StdoutError: it was not written.

    """
    if sys.stdout is None:
        raise StdoutError("stdout is closed: the results cannot be written")
    write_result(f"{text}\n".encode(sys.stdout.encoding, sys.stdout.errors or "strict"))


def write_result(data: bytes) -> None:
    """Write `data` to stdout, as it is.

    Past Python's buffers: an unbuffered stdout (``python -u``) ignores that the kernel has accepted
    only a part, and a buffered one writes again at exit what has failed before.

    Raises:
        StdoutError: it was not written.

    """
    if sys.stdout is None:
        raise StdoutError("stdout is closed: the results cannot be written")
    try:
        write_all(sys.stdout.fileno(), data)
    except OSError as error:
        kind = StdoutClosed if error.errno == errno.EPIPE else StdoutError
        raise kind(f"stdout: cannot write the results: {os_error_text(error)}") from error


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
