"""A person's lines and a server's answers, however the host waits for either.

The host gives a line to `send_command`, and calls `step` until that is carried out, whenever the
link has something to be handled or `seconds_left` are over. For one thread.
"""

import time
from abc import ABC, abstractmethod

from kvs.cli.stdio import print_error, write_result
from kvs.client.commands import (
    Blank,
    ClientCommand,
    Delay,
    Disconnect,
    Execute,
    Subscribe,
    Unsubscribe,
)
from kvs.client.transport import MAX_POLL_SECONDS, Transport
from kvs.errors import SessionClosedError
from kvs.protocol import frames
from kvs.protocol.replies import ExecuteReply, Notification, Reply

LEAVE_SECONDS = 2.0
"""How long the server may take to close the last pipe, once it has seen the client off."""


class Renderer(ABC):
    """Where a dialogue is seen."""

    @abstractmethod
    def reply(self, reply: Reply) -> None:
        """Show a response."""

    @abstractmethod
    def changes(self, changes: list[Notification]) -> None:
        """Show notifications."""

    @abstractmethod
    def output(self, output: bytes) -> None:
        """Show what commands wrote."""

    @abstractmethod
    def error(self, line: bytes, number: int, column: int, reason: str) -> None:
        """Tell of an invalid line; lines are counted from 1, columns in bytes from 1."""


class PlainRenderer(Renderer):
    """Lines on stdout and stderr, for programs to read."""

    def reply(self, reply: Reply) -> None:
        """Write the line of a response."""
        write_result(reply_line(reply).encode())

    def changes(self, changes: list[Notification]) -> None:
        """Write a line for each notification."""
        write_result(b"".join(b"(%b,%b)\n" % (change.key, change.value) for change in changes))

    def output(self, output: bytes) -> None:
        """Write it as it is."""
        write_result(output)

    def error(self, line: bytes, number: int, column: int, reason: str) -> None:  # noqa: ARG002
        """Write place and reason to stderr."""
        print_error(f"stdin:{number}:{column}: {reason}")


def reply_line(reply: Reply) -> str:
    """Return how a response is written."""
    operation = frames.OPERATIONS.get(reply.operation, str(reply.operation))
    return f"Server returned {reply.result} for operation: {operation}\n"


class Conversation:
    """One session, line by line."""

    def __init__(self, link: Transport, show: Renderer) -> None:
        self._link = link
        self._show = show
        self._line = b""
        self._number = 0
        self._awaited: int | None = None
        """The operation whose response is still to come."""
        self._deadline: float | None = None
        self._left = False
        """Whether the server has seen us off: its pipes' end is still to come."""

    @property
    def over(self) -> bool:
        """Whether the session has ended as it should."""
        return self._left and self._awaited is None and self._deadline is None

    def send_command(self, meant: ClientCommand, line: bytes, number: int) -> None:
        """Send what the `number`-th line means."""
        self._line, self._number = line, number
        match meant:
            case Subscribe(key):
                self._send(frames.encode_key_request(frames.SUBSCRIBE, key))
            case Unsubscribe(key):
                self._send(frames.encode_key_request(frames.UNSUBSCRIBE, key))
            case Disconnect():
                self._send(bytes([frames.DISCONNECT]))
            case Execute(command):
                self._send(frames.encode_execute(command))
            case Delay(milliseconds):
                self._deadline = time.monotonic() + milliseconds / 1000
            case Blank():
                pass

    def step(self) -> bool:
        """Show what has come; tell whether the line is carried out.

        Raises:
            SessionClosedError: the server has ended the session, and all that it told is shown.

        """
        link = self._link
        link.pump()
        if self._awaited == frames.SUBSCRIBE and link.replies:
            self._on_reply()  # before the first notification that it brings
        elif link.replies:
            link.pump()  # what was told before the answer may have come behind it
        self._show_changes()
        if link.replies:
            self._on_reply()
        if link.close_reason is not None or link.replies_closed:
            self._ended()
        if self._deadline is not None and time.monotonic() >= self._deadline:
            self._deadline = None
        return self._awaited is None and self._deadline is None

    def seconds_left(self) -> float | None:
        """Return when `step` is to be called though nothing has come; None: need not be."""
        if self._deadline is None:
            return None
        return min(max(0.0, self._deadline - time.monotonic()), MAX_POLL_SECONDS)

    def _send(self, frame: bytes) -> None:
        self._awaited = frame[0]
        self._link.send(frame)

    def _show_changes(self) -> None:
        changes = list(self._link.changes)
        self._link.changes.clear()
        if changes:
            self._show.changes(changes)

    def _on_reply(self) -> None:
        reply = self._link.replies.popleft()
        operation = frames.EXECUTE if isinstance(reply, ExecuteReply) else reply.operation
        if operation != self._awaited:
            raise SessionClosedError("what the server answered is no answer to what it was asked")
        self._awaited = None
        if isinstance(reply, Reply):
            self._show.reply(reply)
            if operation == frames.DISCONNECT:
                self._left = True
                self._link.close_requests()
                self._deadline = time.monotonic() + LEAVE_SECONDS
            return
        self._show.output(reply.output)
        for error in reply.errors.decode(errors="backslashreplace").splitlines():
            self._failed(error)

    def _failed(self, error: str) -> None:
        _, _, rest = error.partition(":")
        column, sign, reason = rest.partition(": ")
        placed = bool(sign) and column.isascii() and column.isdigit()
        where, why = (int(column), reason) if placed else (1, error)
        self._show.error(self._line, self._number, where, why)

    def _ended(self) -> None:
        self._show_changes()
        if not self._left:
            raise SessionClosedError(self._link.close_reason or "the server closed the session")
        if self._link.close_reason is not None:
            self._deadline = None
