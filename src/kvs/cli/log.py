"""The log of a server on stderr, which never blocks the thread that logs.

stderr may be a pipe that nothing reads, a terminal stopped with Ctrl-S, a full disk, or closed. A
thread of its own writes to it, which works for every kind of file. O_NONBLOCK does not: it belongs
to the open file description, which other processes share, and a terminal's output may block in the
middle of a write(2) that poll(2) allowed. The unwritten bytes are bounded; beyond the bound lines
are dropped and counted, and the number is logged after the next successful write.
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
"""Seconds between a failed write and the next attempt."""


class LogWriter:
    """A text stream whose lines a thread of its own writes to a descriptor.

    Threads: every method may be called from any thread. `write` never blocks.
    Locking: `_changed` guards everything but `_partial`, and is never held during a write(2).
    """

    encoding, errors, closed = "utf-8", "backslashreplace", False

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._partial = local()
        """The incomplete last line of each thread."""
        self._changed = Condition()
        self._waiting = bytearray()
        self._dropped = 0
        """Lines dropped and not reported yet."""
        self._is_writing = False
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:  # signals must interrupt the main thread alone
            Thread(target=self._run, name="kvs-log", daemon=True).start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Return whether the descriptor is a terminal."""
        return os.isatty(self._descriptor)

    def write(self, text: str) -> int:
        """Queue the complete lines of `text`; drop and count those beyond the bound."""
        lines, newline, rest = (getattr(self._partial, "text", "") + text).rpartition("\n")
        self._partial.text = rest
        if newline:
            self._add(f"{lines}\n".encode(errors=self.errors))
        return len(text)

    def flush(self) -> None:
        """Block until everything is written, or nothing could be for `FLUSH_SECONDS`."""
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
        unwritten = memoryview(lines)
        while unwritten:
            try:
                size = os.write(self._descriptor, unwritten[: select.PIPE_BUF])
                unwritten = unwritten[size:]
            except BlockingIOError:  # another process has made the description non-blocking
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()
            except OSError:
                return bytes(unwritten).count(b"\n")
            with self._changed:
                self._changed.notify_all()  # `flush` waits as long as there is progress
        return 0


class _Handler(logging.Handler):
    """A handler that writes records to a `LogWriter`."""

    def __init__(self, writer: LogWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        self._writer.write(f"{self.format(record)}\n")


def _dropped_line(number: int) -> bytes:
    text = f"{pluralize(number, 'line')} of the log dropped: stderr could not be written"
    values = {"levelno": logging.WARNING, "levelname": "WARNING", "msg": text}
    return f"{logging.Formatter(FORMAT).format(logging.makeLogRecord(values))}\n".encode()


def log_to_stderr(level: str) -> None:
    """Send the log to stderr, and make every write to `sys.stderr` non-blocking from now on.

    At exit, lines that cannot be written within `FLUSH_SECONDS` are lost.
    """
    if sys.stderr is None:  # it was closed when the process started
        logging.basicConfig(handlers=[logging.NullHandler()], level=level.upper())
        return
    writer = LogWriter(sys.stderr.fileno())
    sys.stderr = cast(TextIO, writer)
    logging.basicConfig(handlers=[_Handler(writer)], level=level.upper(), format=FORMAT)
    atexit.register(_close, writer)


def _close(writer: LogWriter) -> None:
    """Flush while the writer's thread still runs, and keep the interpreter from flushing later."""
    writer.flush()
    sys.stderr = None
