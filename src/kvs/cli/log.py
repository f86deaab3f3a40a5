"""The log of a server on stderr, which never blocks the thread that logs.

stderr may be a pipe that nothing reads, a terminal stopped with Ctrl-S, a full disk, or closed. A
thread of its own writes to it. That is right for every kind of file; O_NONBLOCK is not: it belongs
to the open file description, which other processes share, and a terminal's output may block in the
middle of a write(2) that poll(2) allowed. What the thread has not written yet is bounded; beyond
the bound lines are dropped and counted, and the number is logged once the thread gets on.
"""

import atexit
import logging
import os
import select
import signal
import sys
import time
from threading import Condition, Thread, local
from typing import TextIO, cast

from kvs.text import pluralize

FORMAT = "%(asctime)s %(levelname)s %(message)s"

MAX_BYTES = 1 << 16
"""Maximum bytes that wait to be written."""

FLUSH_SECONDS = 0.2
"""Seconds that `flush` waits while nothing can be written."""

RETRY_SECONDS = 1.0
"""Seconds from a write that failed to the next."""


class LogWriter:
    """A stream whose lines a thread of its own writes to a descriptor.

    Threads: every method may be called from any thread. `write` never blocks.
    Locking: `_changed` guards everything but `_partial`, and is never held while writing.
    """

    encoding, errors, closed = "utf-8", "backslashreplace", False

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._partial = local()
        """Text of the calling thread that lacks its newline."""
        self._changed = Condition()
        self._waiting = bytearray()
        self._dropped = 0
        """Lines dropped, and not reported yet."""
        self._is_writing = False
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:  # signals must interrupt the main thread alone
            Thread(target=self._run, name="kvs-log", daemon=True).start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def fileno(self) -> int:
        """Return the descriptor that is written to."""
        return self._descriptor

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return os.isatty(self._descriptor)

    def write(self, text: str) -> int:
        """Take `text`; each line of it is written, or dropped and counted."""
        whole, newline, rest = (getattr(self._partial, "text", "") + text).rpartition("\n")
        self._partial.text = rest
        if newline:
            self._add(f"{whole}\n".encode(errors=self.errors))
        return len(text)

    def flush(self) -> None:
        """Wait until everything is written, but only as long as the thread gets on."""
        with self._changed:
            while self._waiting or self._dropped or self._is_writing:
                if not self._changed.wait(FLUSH_SECONDS):
                    return

    def _add(self, lines: bytes) -> None:
        with self._changed:
            if self._dropped or len(self._waiting) + len(lines) > MAX_BYTES:
                self._dropped += lines.count(b"\n")
            else:
                self._waiting += lines
                self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting or self._dropped)
                lines, dropped = bytes(self._waiting), self._dropped
                self._waiting.clear()
                self._is_writing = True
            lost = self._write(lines)
            is_reported = not lost and bool(dropped) and not self._write(_dropped_line(dropped))
            with self._changed:
                self._dropped += lost - (dropped if is_reported else 0)
            if lost or (dropped and not is_reported):
                time.sleep(RETRY_SECONDS)

    def _write(self, lines: bytes) -> int:
        """Write `lines`; return how many could not be written."""
        rest = memoryview(lines)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest[: select.PIPE_BUF]) :]
            except BlockingIOError:  # another process has made the description non-blocking
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()
            except OSError:
                return bytes(rest).count(b"\n")
            with self._changed:
                self._changed.notify_all()  # `flush` waits as long as it gets on
        return 0


class _Handler(logging.Handler):
    """Gives records to a `LogWriter`."""

    def __init__(self, writer: LogWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        self._writer.write(f"{self.format(record)}\n")


def _dropped_line(number: int) -> bytes:
    text = f"{pluralize(number, 'line')} of the log dropped: stderr did not take them"
    values = {"levelno": logging.WARNING, "levelname": "WARNING", "msg": text}
    return f"{logging.Formatter(FORMAT).format(logging.makeLogRecord(values))}\n".encode()


def log_to_stderr(level: str) -> None:
    """Send the log to stderr, and have nothing that is written to `sys.stderr` block from now on.

    What cannot be written within `FLUSH_SECONDS` when the process exits is lost.
    """
    if sys.stderr is None:  # it was closed when the process started
        logging.basicConfig(handlers=[logging.NullHandler()], level=level.upper())
        return
    writer = LogWriter(sys.stderr.fileno())
    sys.stderr = cast(TextIO, writer)
    logging.basicConfig(handlers=[_Handler(writer)], level=level.upper(), format=FORMAT)
    atexit.register(_leave, writer)


def _leave(writer: LogWriter) -> None:
    """Write what is left while the writer's thread still runs; the interpreter flushes no more."""
    writer.flush()
    sys.stderr = None
