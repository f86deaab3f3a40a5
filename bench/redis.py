"""The same commands for Redis: a server of our own, and the jobs in its protocol.

The server listens on a socket in the bench's own directory and nowhere else, keeps on disk what it
is told to, by default nothing, and is killed in the end.
"""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator

from bench.processes import timed

SERVER = "redis-server"
CLIENT = "redis-cli"
_START_SECONDS = 60
_REPLIES = re.compile(r"errors: (\d+), replies: (\d+)")


class RedisFailed(Exception):
    """The server did not start, or did not do what it was told."""


def missing() -> str | None:
    """Return a sentence on what Redis lacks here, None if it is there."""
    absent = [name for name in (SERVER, CLIENT) if shutil.which(name) is None]
    if not absent:
        return None
    return (
        f"Redis was not measured: there is no {' and no '.join(absent)} on the PATH "
        "(on Debian, the package `redis-server` has both)."
    )


def version() -> str:
    """Return the version of the server."""
    text = timed([SERVER, "--version"])[1]
    found = re.search(r"v=(\S+)", text)
    return found[1] if found else "of some version"


def protocol(jobs: Iterable[str]) -> Iterator[bytes]:
    """Yield the command lines of the files `jobs`, as `bench.make_jobs` writes them, as requests.

    WRITE is MSET, READ is MGET, DELETE is DEL, in the Redis serialization protocol (RESP).
    """
    for path in jobs:
        with open(path, "rb") as file:
            for line in file:
                yield _request(line)


def _request(line: bytes) -> bytes:
    command, _, body = line.rstrip(b"]\n").partition(b" [")
    if command == b"WRITE":
        words = [b"MSET", *body[1:-1].replace(b")(", b",").split(b",")]
    else:
        words = [b"MGET" if command == b"READ" else b"DEL", *body.split(b",")]
    return encoded(*words)


def encoded(*words: bytes) -> bytes:
    """Return a request of these words in the Redis serialization protocol."""
    bulk = b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
    return b"*%d\r\n%b" % (len(words), bulk)


def message(channel: bytes, payload: bytes) -> bytes:
    """Return what a subscriber gets for a payload: it has the form of a request."""
    return encoded(b"message", channel, payload)


class Connection:
    """A connection by the bare socket, for one thread; it is closed where the block is left."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, *words: bytes, reply: bytes) -> None:
        """Send a request and wait for its reply, which is known.

        Raises:
            RedisFailed: it is another.

        """
        self.socket.sendall(encoded(*words))
        self.expect(reply)

    def expect(self, data: bytes) -> None:
        """Read as many bytes as `data` has.

        Raises:
            RedisFailed: they are others.

        """
        found = self.socket.recv(len(data), socket.MSG_WAITALL)
        if found != data:
            raise RedisFailed(f"Redis answered {found!r}, not {data!r}")

    def info(self, section: str) -> dict[str, str]:
        """Return what the server tells of itself in a section of INFO."""
        self.socket.sendall(encoded(b"INFO", section.encode()))
        with self.socket.makefile("rb") as replies:
            text = replies.read(int(replies.readline()[1:]) + len(b"\r\n"))
        lines = (line.partition(":") for line in text.decode().splitlines())
        return {name: value for name, separator, value in lines if separator}

    def subscribe(self, channel: bytes, before: int = 0) -> None:
        """Subscribe to a channel; this connection is to so many others `before`."""
        confirmed = b"*3\r\n$9\r\nsubscribe\r\n$%d\r\n%b\r\n:%d\r\n"
        reply = confirmed % (len(channel), channel, before + 1)
        self.ask(b"SUBSCRIBE", channel, reply=reply)


class Redis:
    """A running server, reached by its socket."""

    def __init__(self, directory: str) -> None:
        self.socket = os.path.join(directory, "redis.sock")

    def feed(self, requests: str, commands: int) -> float:
        """Feed the file `requests` to the emptied server; return the seconds of the client.

        Raises:
            RedisFailed: not so many commands came back with a good reply.

        """
        timed([CLIENT, "-s", self.socket, "FLUSHALL", "SYNC"])
        seconds, said = timed([CLIENT, "-s", self.socket, "--pipe"], stdin=requests)
        found = _REPLIES.search(said)
        if found is None or (int(found[1]), int(found[2])) != (0, commands):
            raise RedisFailed(f"{CLIENT} --pipe: {said.strip()!r}, not {commands} good replies")
        return seconds

    def keys(self) -> int:
        """Return how many keys there are."""
        return int(timed([CLIENT, "-s", self.socket, "DBSIZE"])[1])


@contextlib.contextmanager
def running(directory: str, fsync: str | None = None) -> Iterator[Redis]:
    """Start a server with its socket in `directory`; it is killed where the block is left.

    With `fsync`, one of ``no``, ``everysec`` and ``always``, it appends its changes to a file in
    `directory`, which it syncs so often (its `appendfsync`).

    Raises:
        RedisFailed: it does not start.

    """
    redis = Redis(directory)
    # No file of settings is read: everything a system's own server would do is off by this.
    command = [SERVER, "--port", "0", "--unixsocket", redis.socket, "--unixsocketperm", "700"]
    command += ["--dir", directory, "--save", "", "--daemonize", "no"]
    command += ["--appendonly", "no"] if fsync is None else ["--appendonly", "yes"]
    command += [] if fsync is None else ["--appendfsync", fsync]
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        _await(redis.socket, server)
        yield redis
    finally:
        server.kill()
        server.wait()


def _await(path: str, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
            client.connect(path)
            return
        time.sleep(0.01)
    raise RedisFailed(f"{SERVER} does not answer on its socket")
