"""A session with nothing between it and its pipes, as a program in C would have it."""

import os
import select
from collections.abc import Iterator
from contextlib import contextmanager

from kvs.protocol import frames

ANSWER_SECONDS = 60.0


class NoAnswer(Exception):
    """The server did not answer as it must."""


class Session:
    """A session, connected; for one thread. Its pipes lie in the directory of the server's."""

    def __init__(self, registration: str, name: str) -> None:
        """Connect to the server at `registration`; `name` is this session's alone."""
        self._paths = [f"{registration}.{name}.{letter}" for letter in "qrn"]
        for path in self._paths:
            os.mkfifo(path, 0o600)
        requests, responses, notifications = self._paths
        # Both before the server is told, so that it need not come again.
        self.responses = os.open(responses, os.O_RDONLY | os.O_NONBLOCK)
        self.notifications = os.open(notifications, os.O_RDONLY | os.O_NONBLOCK)
        for descriptor in (self.responses, self.notifications):
            os.set_blocking(descriptor, True)
        connect = frames.Connect(*map(os.fsencode, self._paths)).encode()
        with open(registration, "wb", buffering=0) as pipe:
            pipe.write(connect)
        # A read would be told of the end of a pipe that nobody has opened for writing yet.
        poll = select.poll()
        poll.register(self.responses, select.POLLIN)
        if not poll.poll(ANSWER_SECONDS * 1000):
            raise NoAnswer("the server did not answer a connect")
        self._expect(frames.encode_reply(frames.CONNECT, 0))
        self.requests = os.open(requests, os.O_WRONLY)

    def subscribe(self, key: bytes) -> None:
        """Subscribe to a key that is not there."""
        self.ask(
            frames.encode_key_request(frames.SUBSCRIBE, key),
            frames.encode_reply(frames.SUBSCRIBE, 0),
        )

    def execute(self, script: bytes, output: bytes) -> None:
        """Have lines carried out that put out `output`."""
        reply = frames.encode_execute_reply_header(0, len(output), 0) + output
        self.ask(frames.encode_execute(script), reply)

    def ask(self, request: bytes, reply: bytes) -> None:
        """Send requests, in one write, and wait for their replies, which are known.

        Raises:
            ConnectTimeoutError: they are others.

        """
        os.write(self.requests, request)
        self._expect(reply)

    def close(self) -> None:
        """Take leave, and remove the pipes."""
        self.ask(bytes([frames.DISCONNECT]), frames.encode_reply(frames.DISCONNECT, 0))
        for descriptor in (self.requests, self.responses, self.notifications):
            os.close(descriptor)
        for path in self._paths:
            os.unlink(path)

    def _expect(self, reply: bytes) -> None:
        found = b""
        while len(found) < len(reply):
            piece = os.read(self.responses, len(reply) - len(found))
            if not piece:
                raise NoAnswer(f"the server ended the session after {found!r}")
            found += piece
        if found != reply:
            raise NoAnswer(f"the server answered {found!r}, not {reply!r}")


@contextmanager
def sessions(registration: str, count: int, name: str = "s") -> Iterator[list[Session]]:
    """Have so many sessions until the block is left."""
    opened = [Session(registration, f"{name}{number}") for number in range(count)]
    try:
        yield opened
    finally:
        for session in opened:
            session.close()
