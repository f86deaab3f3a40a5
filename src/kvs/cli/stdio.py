"""Output: results to stdout, everything else to stderr; never by a bare `print`.

Either stream may be closed, full, or a pipe without a reader.
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
"""Keeps the lines of several threads from mixing."""


class UsageError(KvsError):
    """Wrong usage of a command: exit status 2."""


class StdoutError(KvsError):
    """Results could not be written to stdout."""


class StdoutClosed(StdoutError):
    """The reader of stdout has closed it, as `head` does: exit status 1 without a message."""


def print_error(line: str) -> None:
    """Write `line` to stderr for the user; ignore a failed write."""
    if sys.stderr is not None:
        with _stderr_lock, contextlib.suppress(OSError):
            print(line, file=sys.stderr, flush=True)


def print_result(text: str) -> None:
    """Write `text` and a newline to stdout.

    Raises:
        StdoutError: the write failed.

    """
    if sys.stdout is None:
        raise StdoutError("stdout is closed: the results cannot be written")
    write_result(f"{text}\n".encode(sys.stdout.encoding, sys.stdout.errors or "strict"))


def write_result(data: bytes) -> None:
    """Write `data` to stdout, unchanged.

    Bypasses Python's stream: an unbuffered one (``python -u``) ignores a partial write(2), and a
    buffered one repeats a failed write at exit.

    Raises:
        StdoutError: the write failed.

    """
    if sys.stdout is None:
        raise StdoutError("stdout is closed: the results cannot be written")
    try:
        write_all(sys.stdout.fileno(), data)
    except OSError as error:
        kind = StdoutClosed if error.errno == errno.EPIPE else StdoutError
        raise kind(f"stdout: cannot write the results: {os_error_text(error)}") from error


def flush_at_exit() -> None:
    """Flush stdout and stderr; discard the buffer of one that cannot be written.

    For `atexit`: the interpreter flushes both later, and exits with status 120 if that fails.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is None or stream.closed:
            continue
        try:
            stream.flush()
        except OSError:
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, stream.fileno())
            os.close(devnull)
