"""Latency from one process to another: a message holds the time at which it was sent.

Both processes read CLOCK_MONOTONIC, which all processes share. The sender sends a message when the
reader has acknowledged the one before by a byte through a pipe.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

from bench import redis
from bench.processes import child_process
from bench.session import Session
from kvs.protocol import frames

KEY = b"ping"

Send = Callable[[bytes], object]
"""Sends a message that holds the given bytes."""
Receive = Callable[[], bytes]
"""Blocks until the next message comes; returns the bytes in it."""
Ping = Callable[[int], float]
"""Sends a number of messages one after the other; returns their median latency in seconds."""


@contextmanager
def pinging(folder: str, name: str, connect: Callable[[], Receive], send: Send) -> Iterator[Ping]:
    """Start a process that receives with the result of `connect` what `send` sends in this one."""
    path = os.path.join(folder, f"acknowledged-{name}")
    os.mkfifo(path)
    with child_process(_receive, connect, path) as connection:
        acknowledgements = os.open(path, os.O_RDONLY)
        try:
            connection.recv()

            def ping(count: int) -> float:
                connection.send(count)
                for _ in range(count):
                    send(b"%d" % time.monotonic_ns())
                    os.read(acknowledgements, 1)
                seconds: float = connection.recv()
                return seconds

            yield ping
        finally:
            os.close(acknowledgements)


def _receive(connection: "Connection[Any, Any]", connect: Callable[[], Receive], path: str) -> None:
    with open(path, "wb", buffering=0) as acknowledgements:
        receive = connect()
        connection.send("ready")
        while count := connection.recv():
            times = []
            for _ in range(count):
                sent = int(receive())
                times.append(time.monotonic_ns() - sent)
                acknowledgements.write(b".")
            connection.send(median(times) / 1e9)


# Functions that the receiving process calls as `connect`.


def notifications(registration: str) -> Receive:
    """Return a function that receives the notifications of `KEY` in a session of its own."""
    session = Session(registration, "ping")
    session.subscribe(KEY)
    return lambda: frames.decode_notification(
        os.read(session.notifications, frames.NOTIFICATION_BYTES)
    )[1]


def fifo(path: str) -> Receive:
    """Return a function that receives notifications from a bare pipe."""
    pipe = os.open(path, os.O_RDONLY)
    return lambda: frames.decode_notification(os.read(pipe, frames.NOTIFICATION_BYTES))[1]


def messages(path: str) -> Receive:
    """Return a function that receives the messages of Redis' channel `KEY`."""
    subscriber = redis.Connection(path)
    subscriber.subscribe(KEY)
    return lambda: subscriber.socket.recv(4096).split(b"\r\n")[-2]
