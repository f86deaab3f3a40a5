"""The user's commands, executed in a session one at a time."""

import time

from kvs.cli.render import Renderer
from kvs.client.commands import Blank, ClientCommand, Delay
from kvs.client.conversation import DISCONNECT_TIMEOUT_SECONDS, Conversation, PendingRequest
from kvs.client.transport import MAX_POLL_SECONDS, Transport
from kvs.errors import SessionClosedError
from kvs.protocol import frames
from kvs.protocol.replies import ExecuteReply


class CommandExecutor:
    """Sends the user's commands to a server and shows what the server sends.

    The caller starts a command with `start`, then calls `step` until the command is done: whenever
    the transport is readable, and when `remaining_seconds` have passed.

    Threads: for one thread.
    """

    def __init__(self, transport: Transport, renderer: Renderer) -> None:
        self._transport = transport
        self._renderer = renderer
        self._conversation = Conversation(transport.replies, transport.notifications)
        self._line = b""
        self._number = 0
        self._request: PendingRequest | None = None
        """The request whose reply has not been shown yet."""
        self._deadline: float | None = None
        """End of a DELAY, or of the wait for the server to close the pipes after DISCONNECT."""
        self._is_disconnected = False
        """Whether the server has replied to the disconnect."""

    @property
    def is_over(self) -> bool:
        """Whether the session has ended with a disconnect."""
        return self._is_disconnected and self._is_done

    @property
    def _is_done(self) -> bool:
        return self._request is None and self._deadline is None

    def start(self, command: ClientCommand, line: bytes, number: int) -> None:
        """Begin to execute a command: the `number`-th line of the input, as it was typed."""
        self._line, self._number = line, number
        match command:
            case Delay(milliseconds):
                self._deadline = time.monotonic() + milliseconds / 1000
            case Blank():
                pass
            case request:
                self._request = self._conversation.send(request, self._transport.send)

    def step(self) -> bool:
        """Show what has arrived; return whether the command is done.

        Raises:
            SessionClosedError: the server has ended the session; everything it sent was shown.

        """
        transport = self._transport
        transport.pump()
        if transport.replies:
            transport.pump()  # changes that were sent before the reply may arrive after it
        unexpected = self._conversation.assign_replies()
        if self._request is not None and self._request.operation == frames.SUBSCRIBE:
            self._show_reply()  # before the first change of the new subscription
        self._show_changes()
        self._show_reply()
        if unexpected is not None:
            raise SessionClosedError(unexpected)
        if transport.replies_closed:
            self._handle_end()
        if self._deadline is not None and time.monotonic() >= self._deadline:
            self._deadline = None
        return self._is_done

    def remaining_seconds(self) -> float | None:
        """Return the seconds after which `step` must be called in any case; None: no limit."""
        if self._deadline is None:
            return None
        return min(max(0.0, self._deadline - time.monotonic()), MAX_POLL_SECONDS)

    def _show_changes(self) -> None:
        if changes := list(iter(self._conversation.take_change, None)):
            self._renderer.show_changes(changes)

    def _show_reply(self) -> None:
        """Show the reply to the request, if it has arrived."""
        reply = None if self._request is None else self._request.reply
        if reply is None:
            return
        self._request = None
        if isinstance(reply, ExecuteReply):
            self._renderer.show_output(reply.output)
            for error in reply.errors.decode(errors="backslashreplace").splitlines():
                self._show_error(error)
            return
        self._renderer.show_reply(reply)
        if reply.operation == frames.DISCONNECT:
            self._is_disconnected = True
            self._transport.close_requests()
            self._deadline = time.monotonic() + DISCONNECT_TIMEOUT_SECONDS

    def _show_error(self, error: str) -> None:
        """Show a line ``LINE:COLUMN: reason`` of a reply; column 1 for any other text."""
        _, _, rest = error.partition(":")
        column, separator, reason = rest.partition(": ")
        if separator and column.isascii() and column.isdigit():
            self._renderer.show_error(self._line, self._number, int(column), reason)
        else:
            self._renderer.show_error(self._line, self._number, 1, error)

    def _handle_end(self) -> None:
        self._show_changes()
        if not self._is_disconnected:
            raise self._transport.closed_error()
        if self._transport.close_reason is not None:
            self._deadline = None
