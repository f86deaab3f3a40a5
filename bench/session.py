"""A session that uses its pipes directly, as a program in C would."""

import os
import select
from collections.abc import Iterator
from contextlib import contextmanager

from kvs.protocol import frames
from kvs.protocol.requests import Disconnect, Execute, Subscribe

TIMEOUT_S = 60.0


class NoReplyError(Exception):
    """The server did not reply, or the reply was wrong."""


class Session:
    """A connected session, for one thread. Its pipes are beside the registration pipe."""

    def __init__(self, registration: str, name: str) -> None:
        """Connect to the server at `registration`; `name` must be unique."""
        self._paths = [f"{registration}.{name}.{letter}" for letter in "qrn"]
        for path in self._paths:
            os.mkfifo(path, 0o600)
        requests, responses, notifications = self._paths
        # Both before the server opens them, so that it need not retry.
        self.responses = os.open(responses, os.O_RDONLY | os.O_NONBLOCK)
        self.notifications = os.open(notifications, os.O_RDONLY | os.O_NONBLOCK)
        for descriptor in (self.responses, self.notifications):
            os.set_blocking(descriptor, True)
        connect = frames.Connect(*map(os.fsencode, self._paths)).encode()
        with open(registration, "wb", buffering=0) as pipe:
            pipe.write(connect)
        # A read would return the end of a pipe that no process has connected for writing yet.
        poll = select.poll()
        poll.register(self.responses, select.POLLIN)
        if not poll.poll(TIMEOUT_S * 1000):
            raise NoReplyError("the server did not reply to a connect")
        self._expect(frames.encode_reply(frames.CONNECT, 0))
        self.requests = os.open(requests, os.O_WRONLY)

    def subscribe(self, key: bytes) -> None:
        """Subscribe to a key that does not exist."""
        self.ask(Subscribe(key).encode(), frames.encode_reply(frames.SUBSCRIBE, 0))

    def execute(self, script: bytes, output: bytes) -> None:
        """Execute lines whose output must be `output`."""
        reply = frames.encode_execute_reply_header(0, len(output), 0) + output
        self.ask(Execute(script).encode(), reply)

    def answer(self, script: bytes) -> bytes:
        """Execute lines that must be valid; return their output.

        Raises:
            NoReplyError: a line was invalid.

        """
        os.write(self.requests, Execute(script).encode())
        head = self._read(frames.EXECUTE_REPLY_HEADER_BYTES)
        result, output, errors = frames.decode_execute_reply_header(head)
        answer = self._read(output + errors)
        if result:
            raise NoReplyError(f"the server replied {answer!r}")
        return answer

    def ask(self, request: bytes, reply: bytes) -> None:
        """Send requests in one write, and block until their replies, which must be `reply`.

        Raises:
            NoReplyError: they are different.

        """
        os.write(self.requests, request)
        self._expect(reply)

    def close(self) -> None:
        """Disconnect, and remove the pipes."""
        self.ask(Disconnect().encode(), frames.encode_reply(frames.DISCONNECT, 0))
        for descriptor in (self.requests, self.responses, self.notifications):
            os.close(descriptor)
        for path in self._paths:
            os.unlink(path)

    def _expect(self, reply: bytes) -> None:
        answer = self._read(len(reply))
        if answer != reply:
            raise NoReplyError(f"the server replied {answer!r}, expected {reply!r}")

    def _read(self, count: int) -> bytes:
        """Block until `count` bytes of replies have come, and return them."""
        answer = bytearray()
        while len(answer) < count:
            data = os.read(self.responses, count - len(answer))
            if not data:
                raise NoReplyError(f"the server closed the session after {bytes(answer)!r}")
            answer += data
        return bytes(answer)


@contextmanager
def sessions(registration: str, count: int, name: str = "s") -> Iterator[list[Session]]:
    """Open `count` sessions; close them at the end of the block."""
    connected = [Session(registration, f"{name}{number}") for number in range(count)]
    try:
        yield connected
    finally:
        for session in connected:
            session.close()
