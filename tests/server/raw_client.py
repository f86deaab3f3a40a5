"""A server on a thread, and a client whose every step a test controls."""

import os
import select
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kvs.errors import JournalWriteError
from kvs.library import Store
from kvs.protocol import frames
from kvs.protocol.requests import Execute, Subscribe, Unsubscribe
from kvs.server.server import Server
from kvs.settings import ServerSettings

SECONDS = 30.0


@dataclass
class Place:
    """A server's registration pipe, and a folder for pipes."""

    path: Path
    folder: Path
    """Folder of the clients' pipes; its path is short."""


@dataclass
class Served(Place):
    """A server that runs on a thread, and its store."""

    server: Server
    store: Store


@contextmanager
def serving(settings: ServerSettings | None = None, data: Path | None = None) -> Iterator[Served]:
    """Run a server on a thread of its own, with everything in a short folder of its own.

    `data` is the data directory of its store; it stops when the journal fails.
    """
    with tempfile.TemporaryDirectory(prefix="k", dir="/tmp") as name:
        folder, store = Path(name), Store(data)
        server = Server(store._core, os.fsencode(folder / "reg"), settings or ServerSettings())
        store.on_failure(lambda _: server.stop())
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield Served(folder / "reg", folder, server, store)
        finally:
            server.stop()
            thread.join(SECONDS)
            assert not thread.is_alive()
            with suppress(JournalWriteError):
                store.close()


@dataclass
class Client:
    """A client's three pipes and their open ends. Opens block, as in the C programs."""

    served: Place
    name: str
    open: dict[str, int] = field(default_factory=dict)

    def path(self, which: str) -> Path:
        return self.served.folder / f"{self.name}.{which}"

    def make(self, mode: int = 0o600) -> "Client":
        for which in ("req", "resp", "not"):
            os.mkfifo(self.path(which))
            self.path(which).chmod(mode)
        return self

    def frame(self) -> bytes:
        return frames.Connect(
            *(os.fsencode(self.path(which)) for which in ("req", "resp", "not"))
        ).encode()

    def register(self) -> "Client":
        send(self.served, self.frame())
        return self

    def opens(self, *which: str) -> "Client":
        for one in which:
            flags = os.O_WRONLY if one == "req" else os.O_RDONLY
            self.open[one] = open_within(self.path(one), flags)
        return self

    def reads_at_once(self) -> "Client":
        """Open responses before the connect, as a client does that can talk to any server."""
        self.open["resp"] = os.open(self.path("resp"), os.O_RDONLY | os.O_NONBLOCK)
        return self

    def connected(self, mode: int = 0o600) -> "Client":
        """Connect, and open the pipes in the first of the orders."""
        self.make(mode).register().opens("resp")
        assert self.reply() == (frames.CONNECT, 0)
        return self.opens("req", "not")

    def send(self, data: bytes) -> None:
        os.write(self.open["req"], data)

    def reply(self) -> tuple[int, int]:
        operation, result = self.read("resp", frames.REPLY_BYTES)
        return operation, result

    def executed(self) -> tuple[int, bytes, bytes]:
        head = self.read("resp", frames.EXECUTE_REPLY_HEADER_BYTES)
        result, output, errors = frames.decode_execute_reply_header(head)
        return result, self.read("resp", output), self.read("resp", errors)

    def execute(self, script: bytes) -> tuple[int, bytes, bytes]:
        self.send(Execute(script).encode())
        return self.executed()

    def subscribe(self, key: bytes) -> int:
        self.send(Subscribe(key).encode())
        operation, result = self.reply()
        assert operation == frames.SUBSCRIBE
        return result

    def unsubscribe(self, key: bytes) -> int:
        self.send(Unsubscribe(key).encode())
        operation, result = self.reply()
        assert operation == frames.UNSUBSCRIBE
        return result

    def change(self) -> tuple[bytes, bytes]:
        return frames.decode_notification(self.read("not", frames.NOTIFICATION_BYTES))

    def read(self, which: str, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = read_within(self.open[which], size - len(data))
            assert piece, f"{which} ended after {data!r}"
            data += piece
        return data

    def at_end(self, which: str) -> bool:
        """Wait for input on a pipe; return whether it is the end of file."""
        return read_within(self.open[which], 1) == b""

    def drain(self, which: str) -> None:
        """Read a pipe to its end."""
        while read_within(self.open[which], 1 << 16):
            pass

    def sees_requests_closed(self) -> None:
        """Wait until the server has closed requests, which poll(2) reports as an error."""
        poll = select.poll()
        poll.register(self.open["req"], 0)
        assert poll.poll(SECONDS * 1000) == [(self.open["req"], select.POLLERR)]

    def remove(self) -> None:
        """Remove the pipes."""
        for which in ("req", "resp", "not"):
            self.path(which).unlink()

    def close(self, *which: str) -> None:
        for one in which or tuple(self.open):
            os.close(self.open.pop(one))


def stop_soon(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.1) -> None:
    """Shorten the time for which clients that never open their pipes are unblocked."""
    for module in ("server", "unblock"):
        monkeypatch.setattr(f"kvs.server.{module}.OPEN_TIMEOUT_SECONDS", seconds)


def send(served: Place, data: bytes) -> None:
    """Write to the registration pipe, in one piece, once a server has it open."""
    registration = open_within(served.path, os.O_WRONLY)
    assert os.write(registration, data) == len(data)
    os.close(registration)


def read_within(descriptor: int, size: int) -> bytes:
    """Read, with a timeout."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    assert poll.poll(SECONDS * 1000), "nothing arrived"
    return os.read(descriptor, size)


def open_within(path: Path, flags: int) -> int:
    """Open in blocking mode, with a timeout."""
    opened: list[int] = []
    thread = threading.Thread(target=lambda: opened.append(os.open(path, flags)), daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert opened, f"{path} was not opened from the other side"
    return opened[0]


def compiled(folder: Path, *options: str) -> Path:
    """Compile the client in C into `folder`; return the program."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("cc is not installed")
    program = folder / "old_client"
    source = Path(__file__).with_name("old_client.c")
    command: list[str | Path] = [
        compiler,
        "-Wall",
        "-Wextra",
        "-Werror",
        *options,
        "-o",
        program,
        source,
    ]
    subprocess.run(command, check=True, timeout=60)
    return program
