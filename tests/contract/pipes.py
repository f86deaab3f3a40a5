"""Helpers of the contract suite: a running server, and a client of protocol 1 by raw bytes."""

import os
import select
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from errno import ENOENT, ENXIO
from pathlib import Path

from tests.contract.program import SECONDS, Argument, started, until, write_jobs


def read_some(descriptor: int, size: int = 1 << 16) -> bytes:
    """Block until a pipe has bytes or is at its end; return at most `size` bytes."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    assert poll.poll(SECONDS * 1000), "no bytes within the time limit"
    return os.read(descriptor, size)


def open_writer(path: Path) -> int:
    """Open a FIFO for writing once it has a reader; return a blocking descriptor."""
    opened: list[int] = []

    def tried() -> bool:
        try:
            opened.append(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        except OSError as error:
            if error.errno not in (ENOENT, ENXIO):
                raise
        return bool(opened)

    until(tried)
    os.set_blocking(opened[0], True)
    return opened[0]


@dataclass
class Server:
    """A running `kvs serve` and its directories, whose paths are short."""

    process: subprocess.Popen[bytes]
    folder: Path
    jobs: Path
    fifo: Path

    def register(self, frame: bytes) -> None:
        """Write `frame` to the registration FIFO."""
        descriptor = open_writer(self.fifo)
        assert os.write(descriptor, frame) == len(frame)
        os.close(descriptor)


@contextmanager
def serving(*options: Argument, **jobs: bytes) -> Iterator[Server]:
    """Start a server that accepts connects; its directory is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="k", dir="/tmp") as name:
        folder = Path(name)
        directory, fifo = write_jobs(folder / "jobs", **jobs), folder / "reg"
        with started("serve", directory, "2", "2", fifo, *options) as process:
            os.close(open_writer(fifo))
            yield Server(process, folder, directory, fifo)


@dataclass
class Client:
    """A client of protocol 1 by raw bytes. It opens without blocking before its connect."""

    server: Server
    name: str
    op: int = 0
    """Number added to each op byte: 0, or 0x30 in digits."""
    pipes: dict[str, int] = field(default_factory=dict)

    def path(self, pipe: str) -> Path:
        return self.server.folder / f"{self.name}.{pipe}"

    def frame(self) -> bytes:
        paths = [bytes(self.path(pipe)).ljust(40, b"\0") for pipe in ("req", "resp", "not")]
        assert [len(path) for path in paths] == [40, 40, 40]
        return bytes([self.op + 1]) + b"".join(paths)

    def create(self) -> "Client":
        for pipe in ("req", "resp", "not"):
            os.mkfifo(self.path(pipe), 0o600)
        for pipe in ("resp", "not"):
            self.pipes[pipe] = os.open(self.path(pipe), os.O_RDONLY | os.O_NONBLOCK)
        return self

    def accept(self) -> "Client":
        """Open requests and read the response to the connect."""
        self.pipes["req"] = open_writer(self.path("req"))
        assert self.read("resp", 2) == bytes([self.op + 1, self.op])
        return self

    def connect(self) -> "Client":
        self.create()
        self.server.register(self.frame())
        return self.accept()

    def send(self, data: bytes) -> None:
        os.write(self.pipes["req"], data)

    def read(self, pipe: str, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = read_some(self.pipes[pipe], size - len(data))
            assert piece, f"{pipe} ended after {data!r}"
            data += piece
        return data

    def ask(self, request: bytes) -> bytes:
        """Send a request; return the two bytes of its response."""
        self.send(request)
        return self.read("resp", 2)

    def execute(self, script: bytes) -> tuple[int, bytes, bytes]:
        """Send an execute request; return result, output and errors."""
        self.send(bytes([self.op + 5]) + struct.pack("<I", len(script)) + script)
        op, result, output, errors = struct.unpack("<BBII", self.read("resp", 10))
        assert op == self.op + 5
        return result - self.op, self.read("resp", output), self.read("resp", errors)

    def ends(self) -> bool:
        """Block until both pipes from the server are at their end."""
        return all(read_some(self.pipes[pipe], 1) == b"" for pipe in ("resp", "not"))

    def close(self) -> None:
        while self.pipes:
            os.close(self.pipes.popitem()[1])
