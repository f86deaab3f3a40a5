"""A server for one client with scripted behaviour: other orders of opening, wrong replies."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kvs.protocol.frames import CONNECT, CONNECT_BYTES, Connect, encode_reply
from tests.helpers import SECONDS

CONNECTED = encode_reply(CONNECT, 0)


class Peer:
    """The server's ends of one session's pipes; opening blocks, as in servers written in C."""

    def __init__(self, connect: Connect) -> None:
        self._paths = dict(zip(("req", "res", "not"), connect.paths, strict=True))
        self._open: dict[str, int] = {}

    def open(self, *pipes: str) -> None:
        for pipe in pipes:
            flags = os.O_RDONLY if pipe == "req" else os.O_WRONLY
            self._open[pipe] = os.open(self._paths[pipe], flags)

    def send(self, pipe: str, data: bytes) -> None:
        unwritten = memoryview(data)
        while unwritten:
            unwritten = unwritten[os.write(self._open[pipe], unwritten) :]

    def read(self, length: int) -> bytes:
        data = b""
        while len(data) < length and (piece := os.read(self._open["req"], length - len(data))):
            data += piece
        return data

    def connected(self) -> "Peer":
        self.open("req", "res")
        self.send("res", CONNECTED)
        self.open("not")
        return self

    def close(self, *pipes: str) -> None:
        for pipe in pipes or tuple(self._open):
            os.close(self._open.pop(pipe))


@contextmanager
def scripted_server(folder: Path, script: Callable[[Peer], None]) -> Iterator[Path]:
    """Serve one client by calling `script` in a thread; yield the registration pipe."""
    path = folder / "registration"
    os.mkfifo(path, 0o600)
    registration = os.open(path, os.O_RDWR)  # so that it has no end
    errors: list[BaseException] = []

    def serve() -> None:
        frame = os.read(registration, CONNECT_BYTES)
        if not frame.strip(b"\0"):
            return
        connect = Connect.decode(frame)
        assert connect is not None
        peer = Peer(connect)
        try:
            script(peer)
        except BaseException as error:  # noqa: BLE001  (asserted below)
            errors.append(error)
        finally:
            peer.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield path
    finally:
        os.write(registration, bytes(CONNECT_BYTES))
        thread.join(SECONDS)
        os.close(registration)
        assert not thread.is_alive()
        assert not errors, errors
