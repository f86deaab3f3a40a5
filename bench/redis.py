"""The same commands for Redis: a server that the benchmark starts, and the jobs in its protocol.

The server listens on a socket in the benchmark's own directory only, writes to disk only what
`running` asks for, by default nothing, and is killed at the end.
"""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from threading import Thread
from typing import BinaryIO

from bench.processes import timed

SERVER = "redis-server"
CLIENT = "redis-cli"
_START_SECONDS = 60
_POLL_S = 0.005
_STREAM_BYTES = 1 << 20
"""Bytes of replies received at a time."""
_STREAM_SECONDS = 60
"""Seconds without a reply after which none comes."""
_REPLIES = re.compile(r"errors: (\d+), replies: (\d+)")


Reply = int | bytes | list["Reply"] | None
"""A reply of the server; a status or an error is bytes."""


class RedisError(Exception):
    """The server did not start, or did not execute a command."""


def missing() -> str | None:
    """Return a sentence on which programs of Redis are missing; None if none is."""
    absent = [name for name in (SERVER, CLIENT) if shutil.which(name) is None]
    if not absent:
        return None
    return (
        f"Redis was not measured: {' and '.join(absent)} not found on the PATH "
        "(on Debian, the package `redis-server` has both)."
    )


def version() -> str:
    """Return the version of the server."""
    text = timed([SERVER, "--version"])[1]
    match = re.search(r"v=(\S+)", text)
    return match[1] if match else "(unknown version)"


def protocol(jobs: Iterable[str]) -> Iterator[bytes]:
    """Yield the command lines of the files `jobs`, as `bench.make_jobs` writes them, as requests.

    WRITE becomes MSET, READ MGET, DELETE DEL, in the Redis serialization protocol (RESP).
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
    """Return the bytes that a subscriber gets for a payload: they have the form of a request."""
    return encoded(b"message", channel, payload)


class Connection:
    """A connection by the bare socket, for one thread; closed at the end of the block."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, *words: bytes, reply: bytes) -> None:
        """Send a request and block until its reply, which must be `reply`.

        Raises:
            RedisError: it is different.

        """
        self.socket.sendall(encoded(*words))
        self.expect(reply)

    def expect(self, data: bytes) -> None:
        """Read as many bytes as `data` has, which must be equal.

        Raises:
            RedisError: they are different.

        """
        answer = self.receive(len(data))
        if answer != data:
            raise RedisError(f"Redis replied {answer!r}, expected {data!r}")

    def receive(self, count: int) -> bytes:
        """Block until `count` bytes of replies have come, and return them."""
        return self.socket.recv(count, socket.MSG_WAITALL)

    def stream(self, requests: str, reply_bytes: int) -> float:
        """Send the file `requests`, and discard `reply_bytes` bytes of replies; return the seconds.

        `redis-cli --pipe` buffers replies that come faster than it reads them, and moves all of
        them for each one: it takes minutes for long values.

        Raises:
            RedisError: fewer bytes came.

        """
        buffer = bytearray(_STREAM_BYTES)
        left = reply_bytes
        self.socket.settimeout(_STREAM_SECONDS)
        with open(requests, "rb") as file:
            start = time.perf_counter()
            sender = Thread(target=self.socket.sendfile, args=(file,))
            sender.start()
            try:
                while left and (count := self._receive_into(buffer, left)):
                    left -= count
                seconds = time.perf_counter() - start
            finally:
                if left:
                    self.socket.shutdown(socket.SHUT_RDWR)
                sender.join()
        self.socket.settimeout(None)
        if left:
            raise RedisError(f"Redis replied {left} bytes less than expected")
        return seconds

    def _receive_into(self, buffer: bytearray, limit: int) -> int:
        try:
            return self.socket.recv_into(buffer, min(limit, len(buffer)))
        except TimeoutError:
            return 0

    def info(self, section: str) -> dict[str, str]:
        """Return the fields of a section of INFO."""
        self.socket.sendall(encoded(b"INFO", section.encode()))
        with self.socket.makefile("rb") as replies:
            text = replies.read(int(replies.readline()[1:]) + len(b"\r\n"))
        lines = (line.partition(":") for line in text.decode().splitlines())
        return {name: value for name, separator, value in lines if separator}

    def answer(self, *words: bytes) -> Reply:
        """Send a request; block until its reply, and return it."""
        self.socket.sendall(encoded(*words))
        with self.socket.makefile("rb") as replies:
            return _reply(replies)

    def save(self) -> tuple[float, float]:
        """Make the server save all pairs (BGSAVE); return the seconds, and those of its fork.

        Raises:
            RedisError: it failed.

        """
        start = time.perf_counter()
        self.ask(b"BGSAVE", reply=b"+Background saving started\r\n")
        while (info := self.info("persistence"))["rdb_bgsave_in_progress"] != "0":
            time.sleep(_POLL_S)
        seconds = time.perf_counter() - start
        if info["rdb_last_bgsave_status"] != "ok":
            raise RedisError("BGSAVE failed")
        return seconds, int(self.info("stats")["latest_fork_usec"]) / 1e6

    def subscribe(self, channel: bytes, count: int = 0) -> None:
        """Subscribe to a channel; this connection already has `count` subscriptions."""
        confirmed = b"*3\r\n$9\r\nsubscribe\r\n$%d\r\n%b\r\n:%d\r\n"
        reply = confirmed % (len(channel), channel, count + 1)
        self.ask(b"SUBSCRIBE", channel, reply=reply)


def _reply(replies: BinaryIO) -> Reply:
    """Read one reply."""
    line = replies.readline().removesuffix(b"\r\n")
    kind, rest = line[:1], line[1:]
    if kind == b":":
        return int(rest)
    if kind == b"$":
        return None if rest == b"-1" else replies.read(int(rest) + len(b"\r\n"))[:-2]
    if kind == b"*":
        return [_reply(replies) for _ in range(int(rest))]
    return rest


class Redis:
    """A running server."""

    def __init__(self, directory: str) -> None:
        self.socket = os.path.join(directory, "redis.sock")

    def feed(self, requests: str, commands: int) -> float:
        """Send the file `requests` to the emptied server; return the seconds of the client.

        Raises:
            RedisError: the number of replies without error is not `commands`.

        """
        timed([CLIENT, "-s", self.socket, "FLUSHALL", "SYNC"])
        return self.pipe(requests, commands)

    def pipe(self, requests: str, commands: int) -> float:
        """Send the file `requests` to the server; return the seconds of the client.

        Raises:
            RedisError: the number of replies without error is not `commands`.

        """
        seconds, output = timed([CLIENT, "-s", self.socket, "--pipe"], stdin=requests)
        match = _REPLIES.search(output)
        if match is None or (int(match[1]), int(match[2])) != (0, commands):
            raise RedisError(
                f"{CLIENT} --pipe: {output.strip()!r}, expected {commands} replies without error"
            )
        return seconds

    def keys(self) -> int:
        """Return the number of keys."""
        return int(timed([CLIENT, "-s", self.socket, "DBSIZE"])[1])


@contextlib.contextmanager
def running(directory: str, fsync: str | None = None) -> Iterator[Redis]:
    """Start a server with its socket in `directory`; kill it at the end of the block.

    With `fsync`, its `appendfsync` (``no``, ``everysec`` or ``always``), it appends its changes to
    a file in `directory`.

    Raises:
        RedisError: the server does not start.

    """
    redis = Redis(directory)
    # No configuration file is read: these options turn off what a system's own server would do.
    command = [SERVER, "--port", "0", "--unixsocket", redis.socket, "--unixsocketperm", "700"]
    command += ["--dir", directory, "--save", "", "--daemonize", "no"]
    # As kvs does; compressing takes Redis several times as long here as writing more bytes.
    command += ["--rdbcompression", "no"]
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
    raise RedisError(f"{SERVER} does not accept connections on its socket")
