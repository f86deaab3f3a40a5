"""``kvs client``: a session with a server, for lines of standard input or on a terminal."""

import argparse
import os
import select
import sys
from collections.abc import Iterator

from kvs.cli.executor import CommandExecutor
from kvs.cli.render import PlainRenderer, Renderer, reply_line
from kvs.cli.signals import Interrupted, ignore_signals, interruptible
from kvs.cli.stdio import UsageError, print_error, write_result
from kvs.client.commands import HELP, parse_line
from kvs.client.handshake import connect_transport
from kvs.client.transport import Transport
from kvs.errors import ConnectRejectedError, InvalidClientIdError
from kvs.language.diagnostics import Diagnostic
from kvs.protocol.frames import CONNECT, MAX_SCRIPT_BYTES
from kvs.protocol.replies import Reply
from kvs.text import os_error_text

READ_BYTES = 65536


def client(options: argparse.Namespace) -> int:
    """Run ``kvs client``; return the exit status."""
    with interruptible():
        try:
            transport = _connect(options)
            try:
                if _is_terminal():
                    from kvs.cli.console import Console

                    return Console(transport).run()
                return _LineClient(transport).run()
            finally:
                ignore_signals()
                transport.close()
        except Interrupted as interrupted:
            return int(interrupted.code or 0)


def _is_terminal() -> bool:
    streams = (sys.stdin, sys.stdout)
    return all(stream is not None and stream.isatty() for stream in streams)


def _connect(options: argparse.Namespace) -> Transport:
    try:
        transport = connect_transport(options.fifo, options.id, options.timeout, _print_waiting)
    except InvalidClientIdError as error:
        raise UsageError(str(error)) from error
    except ConnectRejectedError as error:
        write_result(reply_line(Reply(CONNECT, error.result)).encode())
        raise
    write_result(reply_line(Reply(CONNECT, 0)).encode())
    return transport


def _print_waiting(state: str) -> None:
    print_error(f"kvs client: {state}; waiting (Ctrl-C to stop)")


class _LineClient:
    """The lines of standard input, each executed before the next one is parsed."""

    def __init__(self, transport: Transport) -> None:
        self._renderer: Renderer = PlainRenderer()
        self._executor = CommandExecutor(transport, self._renderer)
        self._input = -1 if sys.stdin is None else sys.stdin.fileno()
        self._poll = select.poll()
        self._poll.register(transport.fileno(), select.POLLIN)
        self._number = 0
        self._status = 0

    def run(self) -> int:
        """Execute all lines; return the exit status."""
        for line in self._lines():
            self._number += 1
            self._execute_line(line)
            if self._executor.is_over:
                return self._status
        self._execute_line(b"DISCONNECT")
        return self._status

    def _execute_line(self, line: bytes) -> None:
        if len(line) > MAX_SCRIPT_BYTES:
            if not line.lstrip(b" \t").startswith(b"#"):
                reason = f"a line has at most {MAX_SCRIPT_BYTES} bytes here, this one has more"
                self._renderer.show_error(line, self._number, MAX_SCRIPT_BYTES + 1, reason)
            return
        if line.strip() == b"HELP":
            self._renderer.show_output(HELP)
            return
        command = parse_line(line)
        if isinstance(command, Diagnostic):
            self._renderer.show_error(line, self._number, command.column, command.reason)
            return
        self._executor.start(command, line, self._number)
        while not self._executor.step():
            seconds = self._executor.remaining_seconds()
            self._poll.poll(None if seconds is None else seconds * 1000 + 1)

    def _lines(self) -> Iterator[bytes]:
        """Yield lines without their newline; of an oversized one, at most one read(2) too much."""
        start = b""
        while data := self._read():
            *lines, last = data.split(b"\n")
            if lines:
                yield start + lines[0]
                yield from lines[1:]
                start = b""
            if len(start) <= MAX_SCRIPT_BYTES:
                start += last
        if start:
            yield start

    def _read(self) -> bytes:
        """Return the next input, empty at its end; show meanwhile what the server sends."""
        if self._input < 0:
            return b""
        self._poll.register(self._input, select.POLLIN)
        try:
            while True:
                ready = dict(self._poll.poll())
                self._executor.step()
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
