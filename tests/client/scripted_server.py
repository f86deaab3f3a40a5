"""A server for one client that does what a test says: other opening orders, wrong answers."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kvs.protocol.frames import CONNECT, CONNECT_BYTES, Connect, encode_reply
from tests.helpers import SECONDS

CONNECTED = encode_reply(CONNECT, 0)


class Peer:
    """The server's ends of one session's pipes; opens wait, as in servers written in C."""

    def __init__(self, connect: Connect) -> None:
        self._paths = dict(zip(("req", "res", "not"), connect.paths, strict=True))
        self._open: dict[str, int] = {}

    def open(self, *which: str) -> None:
        for one in which:
            flags = os.O_RDONLY if one == "req" else os.O_WRONLY
            self._open[one] = os.open(self._paths[one], flags)

    def send(self, which: str, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._open[which], rest) :]

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

    def close(self, *which: str) -> None:
        for one in which or tuple(self._open):
            os.close(self._open.pop(one))


@contextmanager
def playing(folder: Path, play: Callable[[Peer], None]) -> Iterator[Path]:
    """Have one client served by `play`, on a thread; yield the registration pipe."""
    path = folder / "registration"
    os.mkfifo(path, 0o600)
    registration = os.open(path, os.O_RDWR)  # so it never ends
    failed: list[BaseException] = []

    def serve() -> None:
        frame = os.read(registration, CONNECT_BYTES)
        if not frame.strip(b"\0"):
            return
        connect = Connect.decode(frame)
        assert connect is not None
        peer = Peer(connect)
        try:
            play(peer)
        except BaseException as error:  # noqa: BLE001  (told below)
            failed.append(error)
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
        assert not failed, failed
