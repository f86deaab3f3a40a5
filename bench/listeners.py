"""A process that reads many pipes or sockets at once, and compares every byte."""

import os
import resource
import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from bench import redis
from bench.processes import child_process
from bench.session import Session

_READ_BYTES = 1 << 16

Listen = Callable[[bytes, Callable[[], object]], float]
"""Calls a function that sends the given bytes to each reader; returns seconds to the last byte."""


class WrongBytesError(Exception):
    """A byte was missing, duplicated, or out of order."""


@contextmanager
def listening(connect: Callable[[], list[int]]) -> Iterator[Listen]:
    """Start a process that calls `connect` and reads the descriptors that it returns."""
    with child_process(_listen, connect) as connection:
        connection.recv()

        def listen(expected: bytes, cause: Callable[[], object]) -> float:
            connection.send(expected)
            connection.recv()
            start = time.monotonic()  # all processes share this clock
            cause()
            end: float = connection.recv()
            return end - start

        yield listen


def _listen(connection: "Connection[Any, Any]", connect: Callable[[], list[int]]) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    descriptors = connect()
    connection.send("ready")
    while expected := connection.recv():
        connection.send("waiting")
        _read_all(descriptors, expected)
        connection.send(time.monotonic())


def _read_all(descriptors: list[int], expected: bytes) -> None:
    """Read `expected` from each descriptor.

    Raises:
        WrongBytesError: other bytes came.

    """
    read = dict.fromkeys(descriptors, 0)
    with select.epoll() as poll:
        for descriptor in descriptors:
            poll.register(descriptor, select.EPOLLIN)
        while read:
            for descriptor, _ in poll.poll():
                data = os.read(descriptor, _READ_BYTES)
                offset = read[descriptor]
                if not data or not expected.startswith(data, offset):
                    raise WrongBytesError(f"byte {offset}: unexpected bytes {data[:200]!r}")
                read[descriptor] += len(data)
                if read[descriptor] == len(expected):
                    del read[descriptor]
                    poll.unregister(descriptor)


# Functions that the listening process calls as `connect`.


def notifications(registration: str, key: bytes, count: int) -> list[int]:
    """Open `count` sessions subscribed to a key; return their notification pipes."""
    names = (f"{key.decode()}-{number}" for number in range(count))
    sessions = [Session(registration, name) for name in names]
    for session in sessions:
        session.subscribe(key)
    return [session.notifications for session in sessions]


def messages(path: str, channel: bytes, count: int) -> list[int]:
    """Open `count` connections subscribed to a channel of Redis; return their descriptors."""
    connections = [redis.Connection(path) for _ in range(count)]
    for connection in connections:
        connection.subscribe(channel)
    return [connection.socket.detach() for connection in connections]
