"""Times from one process to another: a message holds the time at which it was sent.

Both read CLOCK_MONOTONIC, which is one for all processes. A message is sent when the one before
has been taken, which its reader tells by a byte through a pipe.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

from bench import redis
from bench.processes import beside
from bench.session import Session
from kvs.protocol import frames

KEY = b"ping"

Send = Callable[[bytes], object]
"""Sends a message that holds these bytes."""
Receive = Callable[[], bytes]
"""Waits for the next message; returns what it holds."""
Ping = Callable[[int], float]
"""Sends so many messages one after the other; returns the median of their times, in seconds."""


@contextmanager
def pinging(folder: str, name: str, opened: Callable[[], Receive], send: Send) -> Iterator[Ping]:
    """Have a process that receives, by what `opened` returns there, what `send` sends from here."""
    path = os.path.join(folder, f"taken-{name}")
    os.mkfifo(path)
    with beside(_receive, opened, path) as talk:
        taken = os.open(path, os.O_RDONLY)
        try:
            talk.recv()

            def ping(count: int) -> float:
                talk.send(count)
                for _ in range(count):
                    send(b"%d" % time.monotonic_ns())
                    os.read(taken, 1)
                seconds: float = talk.recv()
                return seconds

            yield ping
        finally:
            os.close(taken)


def _receive(talk: "Connection[Any, Any]", opened: Callable[[], Receive], path: str) -> None:
    with open(path, "wb", buffering=0) as taken:
        receive = opened()
        talk.send("ready")
        while count := talk.recv():
            times = []
            for _ in range(count):
                sent = int(receive())
                times.append(time.monotonic_ns() - sent)
                taken.write(b".")
            talk.send(median(times) / 1e9)


# What the receiving process opens.


def notifications(registration: str) -> Receive:
    """Return what receives the changes of `KEY` in a session of its own."""
    session = Session(registration, "ping")
    session.subscribe(KEY)
    return lambda: frames.decode_notification(
        os.read(session.notifications, frames.NOTIFICATION_BYTES)
    )[1]


def fifo(path: str) -> Receive:
    """Return what receives notifications from a bare pipe."""
    pipe = os.open(path, os.O_RDONLY)
    return lambda: frames.decode_notification(os.read(pipe, frames.NOTIFICATION_BYTES))[1]


def messages(path: str) -> Receive:
    """Return what receives the messages of the channel `KEY` of Redis."""
    connection = redis.Connection(path)
    connection.subscribe(KEY)
    return lambda: connection.socket.recv(4096).split(b"\r\n")[-2]
