"""Connecting a client to a server, in whatever order the server opens the pipes.

The client opens responses and notifications before it sends the connect, so a server never waits
for a reader. It opens requests as soon as the server reads it, before or after the reply.
"""

import contextlib
import os
import select
import time
from collections.abc import Callable

from kvs.client.pipes import create_pipes, is_shared, validate_client_id
from kvs.client.transport import Transport
from kvs.errors import (
    ConnectRejectedError,
    ConnectTimeoutError,
    PipeDirectoryError,
    ServerNotFoundError,
    SessionClosedError,
)
from kvs.posix import fifos
from kvs.posix.files import check_path
from kvs.protocol import frames
from kvs.protocol.replies import ExecuteReply
from kvs.text import os_error_text, printable

MIN_POLL_SECONDS = 0.001
MAX_POLL_SECONDS = 0.05
"""Seconds between checks whether the server has opened its end of requests, which causes no event;
they double from the minimum to the maximum."""

REGISTRATION_GRACE_SECONDS = 1.0
"""Seconds for which a registration pipe may be missing while a server replaces it."""

WAIT_NOTICE_SECONDS = 3.0
"""Seconds without an answer after which `on_wait` is called."""

NOT_WRITTEN = "the registration pipe is full, so the connect could not be written to it"
NOT_READ = "the connect was written, but the server has not read it: it is stopped or busy"
NOT_OPENED = (
    "the server has read the connect, but has opened none of the pipes: it is at its maximum of "
    "sessions (kvs serve --max-sessions), or it rejected the connect, and its log says why"
)
NOT_ANSWERED = "the server has opened the requests pipe, and sent no answer"
"""The four states of a connect that is not answered."""

Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]


def connect_transport(
    registration: Path,
    client_id: str | None,
    timeout: float | None,
    on_wait: Callable[[str], None] | None = None,
) -> Transport:
    """Connect to the server at `registration` as the client `client_id`, or without an ID.

    `on_wait` is called once, after `WAIT_NOTICE_SECONDS` without an answer, with the state of the
    connect.

    Raises:
        KvsError: connecting failed; `kvs.client.session.connect` lists the errors.

    """
    validate_client_id(client_id)
    handshake = _Handshake(registration, timeout, on_wait)
    try:
        return handshake.connect(client_id)
    finally:
        handshake.close()


class _Handshake:
    """One connect and its deadline."""

    def __init__(
        self,
        registration: Path,
        timeout: float | None,
        on_wait: Callable[[str], None] | None,
    ) -> None:
        self._display_path = printable(registration)
        path = os.fsencode(registration)
        try:
            check_path(path)
        except OSError as error:
            raise ServerNotFoundError(self._display_path, os_error_text(error)) from error
        # The path may lead through symbolic links, but the pipe itself must not be one.
        self._path = os.path.realpath(path)
        self._timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._notice_at = time.monotonic() + WAIT_NOTICE_SECONDS
        self._on_wait = on_wait
        self._state = NOT_WRITTEN
        self._gone_since: float | None = None
        """When the server closed the registration pipe; None while it is open."""
        self._is_shared = False
        self._registration = self._open_registration()

    def close(self) -> None:
        os.close(self._registration)

    def connect(self, client_id: str | None) -> Transport:
        pipes = create_pipes(client_id, shared=self._is_shared)
        try:
            transport = Transport(pipes)
        except OSError as error:
            pipes.remove()
            raise PipeDirectoryError(
                os.path.dirname(printable(pipes.connect.requests)), os_error_text(error)
            ) from error
        except BaseException:
            pipes.remove()
            raise
        try:
            self._send(pipes.connect.encode())
            self._await_answer(transport)
        except BaseException:
            transport.close()
            raise
        return transport

    def _open_registration(self) -> int:
        try:
            fifo = fifos.Fifo.open_path(self._path)
            try:
                registration = fifo.open_for_writing()
            finally:
                fifo.close()
        except FileNotFoundError as error:
            raise self._server_not_found("the registration pipe does not exist") from error
        except OSError as error:
            raise ServerNotFoundError(self._display_path, os_error_text(error)) from error
        if registration is None:
            raise self._server_not_found("no server reads this pipe")
        # A server that reads the pipe has set its mode.
        self._is_shared = is_shared(os.fstat(registration))
        return registration

    def _server_not_found(self, reason: str) -> ServerNotFoundError:
        command = f"kvs serve JOBS_DIR MAX_THREADS BACKUPS_MAX {self._display_path}"
        return ServerNotFoundError(self._display_path, reason, f"'{command}' starts a server")

    def _send(self, frame: bytes) -> None:
        """Write the connect, whole or not at all (pipe(7)); wait while the pipe is full."""
        try:
            while not fifos.write(self._registration, frame):
                self._poll(self._remaining_seconds(MAX_POLL_SECONDS), select.POLLOUT)
        except BrokenPipeError:
            raise ServerNotFoundError(self._display_path, "the server is gone") from None
        self._state = NOT_READ

    def _await_answer(self, transport: Transport) -> None:
        """Wait until the reply has arrived and requests is open, in whatever order."""
        interval = MIN_POLL_SECONDS
        while not (transport.open_requests() and transport.replies):
            self._update_state(transport)
            if transport.close_reason is not None:
                raise SessionClosedError(
                    "the server closed the pipes before it answered the connect"
                )
            self._reopen_registration()
            self._poll(self._remaining_seconds(interval), 0, transport)
            transport.pump()
            interval = min(2 * interval, MAX_POLL_SECONDS)
        reply = transport.replies.popleft()
        if isinstance(reply, ExecuteReply) or reply.operation != frames.CONNECT:
            raise SessionClosedError("the server sent a reply that does not match the connect")
        if reply.result not in {0, ord("0")}:  # servers in C that answer in characters
            raise ConnectRejectedError(self._display_path, reply.result)

    def _poll(self, seconds: float, events: int, transport: Transport | None = None) -> None:
        poll = select.poll()
        if self._gone_since is None:
            poll.register(self._registration, events)
        if transport is not None:
            poll.register(transport.fileno(), select.POLLIN)
        for descriptor, event in poll.poll(seconds * 1000):
            if descriptor == self._registration and event & select.POLLERR:
                self._gone_since = time.monotonic()

    def _update_state(self, transport: Transport) -> None:
        """Note how much of the handshake the server has done."""
        if transport.requests_are_open:
            self._state = NOT_ANSWERED
        elif self._gone_since is None and not fifos.unread(self._registration):
            self._state = NOT_OPENED

    def _reopen_registration(self) -> None:
        """Open a registration pipe that the server has replaced.

        Raises:
            ServerNotFoundError: the pipe has been missing for `REGISTRATION_GRACE_SECONDS`, so no
                server will answer.

        """
        gone_since = self._gone_since
        if gone_since is None:
            return
        with contextlib.suppress(ServerNotFoundError):
            registration = self._open_registration()
            os.close(self._registration)
            self._registration, self._gone_since = registration, None
            return
        if time.monotonic() > gone_since + REGISTRATION_GRACE_SECONDS:
            raise ServerNotFoundError(self._display_path, "the server exited before it answered")

    def _remaining_seconds(self, max_seconds: float) -> float:
        """Return the seconds that the next poll may take; call `on_wait` when it is time.

        Raises:
            ConnectTimeoutError: the deadline has passed.

        """
        if self._on_wait is not None and time.monotonic() >= self._notice_at:
            self._on_wait(f"{self._display_path}: no answer yet: {self._state}")
            self._on_wait = None
        if self._deadline is None or self._timeout is None:
            return max_seconds
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise ConnectTimeoutError(self._display_path, self._timeout, self._state)
        return min(remaining, max_seconds)
