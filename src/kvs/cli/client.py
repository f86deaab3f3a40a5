"""``kvs client``: a session with a server, from lines of standard input, or on a terminal."""

import argparse
import os
import select
import sys
from collections.abc import Iterator

from kvs.cli.dialogue import Conversation, PlainRenderer, Renderer, reply_line
from kvs.cli.signals import Interrupted, ignore_signals, interruptible
from kvs.cli.stdio import UsageError, print_error, write_result
from kvs.client.commands import parse_line
from kvs.client.handshake import connect_transport
from kvs.client.transport import Transport
from kvs.errors import ConnectRejectedError, InvalidClientIdError
from kvs.language.diagnostics import Diagnostic
from kvs.protocol.frames import CONNECT, MAX_SCRIPT_BYTES
from kvs.protocol.replies import Reply
from kvs.text import os_error_text

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
                return _LineClient(link).run()
            finally:
                ignore_signals()
                link.close()
        except Interrupted as interrupted:
            return int(interrupted.code or 0)


def _is_terminal() -> bool:
    streams = (sys.stdin, sys.stdout)
    return all(stream is not None and stream.isatty() for stream in streams)


def _connect(options: argparse.Namespace) -> Transport:
    try:
        link = connect_transport(options.fifo, options.id, options.timeout, _print_waiting)
    except InvalidClientIdError as error:
        raise UsageError(str(error)) from error
    except ConnectRejectedError as error:
        write_result(reply_line(Reply(CONNECT, error.result)).encode())
        raise
    write_result(reply_line(Reply(CONNECT, 0)).encode())
    return link


def _print_waiting(known: str) -> None:
    print_error(f"kvs client: {known}; waiting (Ctrl-C to stop)")


class _LineClient:
    """Standard input, line by line, each carried out before the next is looked at."""

    def __init__(self, link: Transport) -> None:
        self._link = link
        self._show: Renderer = PlainRenderer()
        self._dialogue = Conversation(link, self._show)
        self._input = -1 if sys.stdin is None else sys.stdin.fileno()
        self._poll = select.poll()
        self._poll.register(link.fileno(), select.POLLIN)
        self._number = 0
        self._status = 0

    def run(self) -> int:
        """Carry them out; return the exit status."""
        for line in self._lines():
            self._number += 1
            self._execute_line(line)
            if self._dialogue.over:
                return self._status
        self._execute_line(b"DISCONNECT")
        return self._status

    def _execute_line(self, line: bytes) -> None:
        if len(line) > MAX_SCRIPT_BYTES:
            if not line.lstrip(b" \t").startswith(b"#"):
                reason = f"a line has at most {MAX_SCRIPT_BYTES} bytes here, this one has more"
                self._show.error(line, self._number, MAX_SCRIPT_BYTES + 1, reason)
            return
        meant = parse_line(line)
        if isinstance(meant, Diagnostic):
            self._show.error(line, self._number, meant.column, meant.reason)
            return
        self._dialogue.send_command(meant, line, self._number)
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
            if len(rest) <= MAX_SCRIPT_BYTES:
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
            print_error(f"kvs client: stdin: cannot read it: {os_error_text(error)}")
            self._status = 1
            return b""
        finally:
            self._poll.unregister(self._input)
