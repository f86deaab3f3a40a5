"""A transport without a server: a test holds the server's ends of its pipes."""

import os
import select
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kvs.client.pipes import ClientPipes
from kvs.client.transport import Transport
from tests.helpers import SECONDS


class FarEnds:
    """The server's ends of the pipes of `transport`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        pipes = ClientPipes(os.fsencode(directory), b"a", shared=False)
        self.transport = Transport(pipes)
        self._open = {
            "req": os.open(pipes.connect.requests, os.O_RDONLY | os.O_NONBLOCK),
            "resp": os.open(pipes.connect.responses, os.O_WRONLY),
            "not": os.open(pipes.connect.notifications, os.O_WRONLY),
        }
        assert self.transport.open_requests()

    def send(self, pipe: str, data: bytes) -> None:
        assert os.write(self._open[pipe], data) == len(data)

    def read(self, size: int) -> bytes:
        """Read a request of `size` bytes, which the transport writes as there is room."""
        data = b""
        poll = select.poll()
        poll.register(self._open["req"], select.POLLIN)
        while len(data) < size:
            self.transport.pump()
            assert poll.poll(SECONDS * 1000), "nothing arrived"
            data += os.read(self._open["req"], size - len(data))
        return data

    def at_end(self) -> bool:
        """Return whether the transport has closed the requests pipe."""
        with suppress(BlockingIOError):
            return os.read(self._open["req"], 1) == b""
        return False

    def close(self, *pipes: str) -> None:
        for pipe in pipes or tuple(self._open):
            os.close(self._open.pop(pipe))


@contextmanager
def far_ends() -> Iterator[FarEnds]:
    """Yield the far ends of a new transport in a short directory; close both at the end."""
    with tempfile.TemporaryDirectory(prefix="k", dir="/tmp") as directory:
        ends = FarEnds(Path(directory))
        try:
            yield ends
        finally:
            ends.transport.close()
            ends.close()
