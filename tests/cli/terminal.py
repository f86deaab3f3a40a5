"""A pseudo-terminal (pty(7)) on which tests run the program, read its screen and type."""

import os
import pty
import re
import select
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from tests.helpers import SECONDS, USUAL, Argument, Start, started

_ESCAPE_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


class Terminal:
    """A terminal of 30 lines."""

    def __init__(self, columns: int) -> None:
        self._master, self.end_of_program = pty.openpty()
        termios.tcsetwinsize(self._master, (30, columns))
        self._bytes = b""

    @property
    def raw(self) -> str:
        """All text read so far, as it was written."""
        return self._bytes.decode(errors="replace")

    @property
    def text(self) -> str:
        """The text read so far, without escape sequences and carriage returns."""
        return _ESCAPE_SEQUENCE.sub("", self.raw).replace("\r", "")

    def read_until(self, pattern: str) -> re.Match[str]:
        """Read until the text matches the pattern; return the match."""
        while not (match := re.search(pattern, self.text)):
            assert self._read(), f"the end, and no {pattern!r} in {self.raw!r}"
        return match

    def read_to_end(self) -> str:
        """Read until every process has closed the terminal; return all its text."""
        while self._read():
            pass
        return self.text

    def type(self, keys: bytes) -> None:
        """Type keys."""
        os.write(self._master, keys)

    def hang_up(self) -> None:
        """Hang up, as when a window is closed. Idempotent."""
        master, self._master = self._master, -1
        if master >= 0:
            os.close(master)

    def _read(self) -> bool:
        deadline = time.monotonic() + SECONDS
        while not select.select([self._master], [], [], 1)[0]:
            assert time.monotonic() < deadline, f"no more output after {self.raw!r}"
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: no process has the other end open (pty(7) of Linux)
            return False
        self._bytes += data
        return bool(data)


@contextmanager
def on_terminal(
    *arguments: Argument, how: Start = USUAL, columns: int = 100
) -> Iterator[tuple[subprocess.Popen[bytes], Terminal]]:
    """Start the program on its own terminal."""
    terminal = Terminal(columns)
    environment = {"TERM": "xterm-256color", **how.environment}
    how = replace(how, terminal=terminal.end_of_program, environment=environment)
    try:
        with started(*arguments, how=how) as process:
            os.close(terminal.end_of_program)
            yield process, terminal
    finally:
        terminal.hang_up()
