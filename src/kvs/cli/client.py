"""``kvs client``: a session with a server, from lines of standard input, or on a terminal."""

import argparse
import os
import select
import sys
from collections.abc import Iterator

from kvs.cli.dialogue import Dialogue, Plain, Show, reply_line
from kvs.cli.signals import Interrupted, interruptible, leave_undisturbed
from kvs.cli.stdio import UsageError, put_bytes, say
from kvs.client.commands import typed
from kvs.client.handshake import open_link
from kvs.client.transport import Link
from kvs.errors import ConnectRefused, IdRefused, cause
from kvs.language.diagnostics import Fault
from kvs.protocol.frames import CONNECT, SCRIPT_BYTES
from kvs.protocol.replies import Reply

READ_BYTES = 65536


def client(options: argparse.Namespace) -> int:
    """Carry out ``kvs client``; return the exit status."""
    with interruptible():
        try:
            link = _connect(options)
            try:
                if _is_terminal():
                    from kvs.cli.console import Console

                    return Console(link).run()
                return _Lines(link).run()
            finally:
                leave_undisturbed()
                link.close()
        except Interrupted as interrupted:
            return int(interrupted.code or 0)


def _is_terminal() -> bool:
    streams = (sys.stdin, sys.stdout)
    return all(stream is not None and stream.isatty() for stream in streams)


def _connect(options: argparse.Namespace) -> Link:
    try:
        link = open_link(options.fifo, options.id, options.timeout, _tell_of_waiting)
    except IdRefused as error:
        raise UsageError(str(error)) from error
    except ConnectRefused as error:
        put_bytes(reply_line(Reply(CONNECT, error.result)).encode())
        raise
    put_bytes(reply_line(Reply(CONNECT, 0)).encode())
    return link


def _tell_of_waiting(known: str) -> None:
    say(f"kvs client: {known}; waiting (Ctrl-C to stop)")


class _Lines:
    """Standard input, line by line, each carried out before the next is looked at."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._show: Show = Plain()
        self._dialogue = Dialogue(link, self._show)
        self._input = -1 if sys.stdin is None else sys.stdin.fileno()
        self._poll = select.poll()
        self._poll.register(link.fileno(), select.POLLIN)
        self._number = 0
        self._status = 0

    def run(self) -> int:
        """Carry them out; return the exit status."""
        for line in self._lines():
            self._number += 1
            self._carry_out(line)
            if self._dialogue.over:
                return self._status
        self._carry_out(b"DISCONNECT")
        return self._status

    def _carry_out(self, line: bytes) -> None:
        if len(line) > SCRIPT_BYTES:
            if not line.lstrip(b" \t").startswith(b"#"):
                reason = f"a line has at most {SCRIPT_BYTES} bytes here, this one has more"
                self._show.error(line, self._number, SCRIPT_BYTES + 1, reason)
            return
        meant = typed(line)
        if isinstance(meant, Fault):
            self._show.error(line, self._number, meant.column, meant.reason)
            return
        self._dialogue.begin(meant, line, self._number)
        while not self._dialogue.step():
            left = self._dialogue.seconds_left()
            self._poll.poll(None if left is None else left * 1000 + 1)

    def _lines(self) -> Iterator[bytes]:
        """Yield lines without their newline; of one too long only somewhat more than the bound."""
        rest = b""
        while data := self._read():
            *lines, last = data.split(b"\n")
            if lines:
                yield rest + lines[0]
                yield from lines[1:]
                rest = b""
            if len(rest) <= SCRIPT_BYTES:
                rest += last
        if rest:
            yield rest

    def _read(self) -> bytes:
        """Read input, showing what comes meanwhile; nothing at its end."""
        if self._input < 0:
            return b""
        self._poll.register(self._input, select.POLLIN)
        try:
            while True:
                ready = dict(self._poll.poll())
                self._dialogue.step()
                if self._input in ready:
                    try:
                        return os.read(self._input, READ_BYTES)
                    except BlockingIOError:
                        continue
        except OSError as error:
            say(f"kvs client: stdin: cannot read it: {cause(error)}")
            self._status = 1
            return b""
        finally:
            self._poll.unregister(self._input)
