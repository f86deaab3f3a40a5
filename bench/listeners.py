"""A process that listens to many pipes or sockets at once, and compares every byte that comes."""

import os
import resource
import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from bench import redis
from bench.processes import beside
from bench.session import Session

_READ_BYTES = 1 << 16

Listen = Callable[[bytes, Callable[[], object]], float]
"""Calls what makes these bytes come to each; returns the seconds from then to the last of them."""


class WrongBytes(Exception):
    """Something was missing, twice, or out of order."""


@contextmanager
def listening(opened: Callable[[], list[int]]) -> Iterator[Listen]:
    """Have a process that reads the descriptors that `opened` returns there."""
    with beside(_listen, opened) as talk:
        talk.recv()

        def listen(expected: bytes, cause: Callable[[], object]) -> float:
            talk.send(expected)
            talk.recv()
            began = time.monotonic()  # one clock for all processes
            cause()
            ended: float = talk.recv()
            return ended - began

        yield listen


def _listen(talk: "Connection[Any, Any]", opened: Callable[[], list[int]]) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    descriptors = opened()
    talk.send("ready")
    while expected := talk.recv():
        talk.send("waiting")
        _read_all(descriptors, expected)
        talk.send(time.monotonic())


def _read_all(descriptors: list[int], expected: bytes) -> None:
    """Read `expected` from each.

    Raises:
        WrongBytes: something else came.

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
                    raise WrongBytes(f"after {offset} bytes came {data[:200]!r}")
                read[descriptor] += len(data)
                if read[descriptor] == len(expected):
                    del read[descriptor]
                    poll.unregister(descriptor)


# What the listening process opens.


def notifications(registration: str, key: bytes, count: int) -> list[int]:
    """Have so many sessions subscribed to a key; return what their changes come from."""
    names = (f"{key.decode()}-{number}" for number in range(count))
    sessions = [Session(registration, name) for name in names]
    for session in sessions:
        session.subscribe(key)
    return [session.notifications for session in sessions]


def messages(path: str, channel: bytes, count: int) -> list[int]:
    """Have so many connections subscribed to a channel of Redis; return their descriptors."""
    connections = [redis.Connection(path) for _ in range(count)]
    for connection in connections:
        connection.subscribe(channel)
    return [connection.socket.detach() for connection in connections]
