"""How a client comes to a session: connect, with any server, in whatever order that opens pipes.

Responses and notifications are open before connect is sent, so a server never waits for a reader;
requests is opened as soon as the server reads it, before or after its reply.
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
"""How often is looked whether the server has opened its end of requests: no event tells."""

REGISTRATION_GRACE_SECONDS = 1.0
"""So long a registration pipe may be gone while a server makes it again."""

WAIT_NOTICE_SECONDS = 3.0
"""Seconds without an answer after which a person is told what is known."""

NOT_WRITTEN = "the registration pipe is full, and the connect could not be written to it"
NOT_READ = "the connect was written, and the server has not read it: it is stopped or busy"
NOT_OPENED = (
    "the server has read the connect and opened none of the pipes: it has as many sessions as it "
    "takes (kvs serve --max-sessions), or it refused the connect, and its log says why"
)
NOT_ANSWERED = "the server has opened the requests pipe, and sent no answer"
"""What may be known of a server that does not answer."""

Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]


def connect_transport(
    registration: Path,
    given: str | None,
    timeout: float | None,
    on_wait: Callable[[str], None] | None = None,
) -> Transport:
    """Connect to the server at `registration` as the client `given`, or as one with no name.

    `on_wait` is called once, after `WAIT_NOTICE_SECONDS` without an answer, with what is known.

    Raises:
        KvsError: it cannot be done; `kvs.client.session.connect` lists the errors.

    """
    validate_client_id(given)
    opening = _Handshake(registration, timeout, on_wait)
    try:
        link = opening.link(given)
    finally:
        opening.close()
    return link


class _Handshake:
    """One connect, and the time that it may take."""

    def __init__(
        self,
        registration: Path,
        timeout: float | None,
        on_wait: Callable[[str], None] | None,
    ) -> None:
        self._shown = printable(registration)
        path = os.fsencode(registration)
        try:
            check_path(path)
        except OSError as error:
            raise ServerNotFoundError(self._shown, os_error_text(error)) from error
        # Any path that a person gives may lead there by links; the pipe itself is none.
        self._path = os.path.realpath(path)
        self._timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._notice_at = time.monotonic() + WAIT_NOTICE_SECONDS
        self._on_wait = on_wait
        self._known = NOT_WRITTEN
        self._gone_since: float | None = None
        self._shared = False
        self._server = self._find_server()

    def close(self) -> None:
        os.close(self._server)

    def link(self, given: str | None) -> Transport:
        place = create_pipes(given, shared=self._shared)
        try:
            link = Transport(place)
        except OSError as error:
            place.remove()
            raise PipeDirectoryError(
                os.path.dirname(printable(place.connect.requests)), os_error_text(error)
            ) from error
        except BaseException:
            place.remove()
            raise
        try:
            self._send(place.connect.encode())
            self._await_answer(link)
        except BaseException:
            link.close()
            raise
        return link

    def _find_server(self) -> int:
        """Open the registration pipe."""
        try:
            fifo = fifos.Fifo.open_path(self._path)
            try:
                server = fifo.open_for_writing()
            finally:
                fifo.close()
        except FileNotFoundError as error:
            raise self._server_not_found("no server serves it: there is no such pipe") from error
        except OSError as error:
            raise ServerNotFoundError(self._shown, os_error_text(error)) from error
        if server is None:
            raise self._server_not_found("no server reads this pipe")
        self._shared = is_shared(os.fstat(server))  # a server that reads it has set its mode
        return server

    def _server_not_found(self, reason: str) -> ServerNotFoundError:
        start = f"kvs serve JOBS_DIR MAX_THREADS BACKUPS_MAX {self._shown}"
        return ServerNotFoundError(self._shown, reason, f"'{start}' starts one")

    def _send(self, frame: bytes) -> None:
        """Write the connect, whole or not at all (pipe(7)); a full pipe is waited for."""
        try:
            while not fifos.write(self._server, frame):
                self._poll(self._remaining_seconds(MAX_POLL_SECONDS), select.POLLOUT)
        except BrokenPipeError:
            raise ServerNotFoundError(self._shown, "the server is gone") from None
        self._known = NOT_READ

    def _await_answer(self, link: Transport) -> None:
        """Wait until the reply is there and requests is open, however long others come first."""
        tick = MIN_POLL_SECONDS
        while not (link.open_requests() and link.replies):
            self._look_at_progress(link)
            if link.close_reason is not None:
                raise SessionClosedError(
                    "the server closed the pipes before it answered the connect"
                )
            self._reopen_registration()
            self._poll(self._remaining_seconds(tick), 0, link)
            link.pump()
            tick = min(2 * tick, MAX_POLL_SECONDS)
        reply = link.replies.popleft()
        if isinstance(reply, ExecuteReply) or reply.operation != frames.CONNECT:
            raise SessionClosedError("what the server answered to the connect is no answer to it")
        if reply.result not in {0, ord("0")}:  # servers in C that answer in characters
            raise ConnectRejectedError(self._shown, reply.result)

    def _poll(self, seconds: float, events: int, link: Transport | None = None) -> None:
        poll = select.poll()
        if self._gone_since is None:
            poll.register(self._server, events)
        if link is not None:
            poll.register(link.fileno(), select.POLLIN)
        for descriptor, event in poll.poll(seconds * 1000):
            if descriptor == self._server and event & select.POLLERR:
                self._gone_since = time.monotonic()

    def _look_at_progress(self, link: Transport) -> None:
        """Note how far the server has come with the connect."""
        if link.requests_are_open:
            self._known = NOT_ANSWERED
        elif self._gone_since is None and not fifos.unread(self._server):
            self._known = NOT_OPENED

    def _reopen_registration(self) -> None:
        """Bear with a registration pipe that is made again; without one, nobody will answer."""
        gone_since = self._gone_since
        if gone_since is None:
            return
        with contextlib.suppress(ServerNotFoundError):
            server = self._find_server()
            os.close(self._server)
            self._server, self._gone_since = server, None
            return
        if time.monotonic() > gone_since + REGISTRATION_GRACE_SECONDS:
            raise ServerNotFoundError(self._shown, "the server went before it answered")

    def _remaining_seconds(self, most: float) -> float:
        """Return how long may be waited now, at most `most` seconds."""
        if self._on_wait is not None and time.monotonic() >= self._notice_at:
            self._on_wait(f"{self._shown}: no answer yet: {self._known}")
            self._on_wait = None
        if self._deadline is None or self._timeout is None:
            return most
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise ConnectTimeoutError(self._shown, self._timeout, self._known)
        return min(left, most)
