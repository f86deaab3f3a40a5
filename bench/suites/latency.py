"""Latency from a WRITE to its notification in another process, beside a bare pipe and Redis."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from threading import Thread

from bench import latency_probe, redis
from bench.folders import short_folder
from bench.latency_probe import Ping, Send, pinging
from bench.results import KVS, PIPE, REDIS, Outcome, Workload
from bench.rounds import Rounds, Subject
from bench.scale import Scale
from kvs import Store
from kvs.protocol import frames
from kvs.server.server import Server
from kvs.settings import ServerSettings


def latency(scale: Scale, directory: str) -> Outcome:
    """Measure the latency of single changes, written by a thread of the server's process.

    A job in a file cannot write the time at which it is executed. So the thread that pings calls
    what a job's thread calls, `Store.execute`, in the process of a server.
    """
    why_no_redis = redis.missing()
    with ExitStack() as stack:
        folder = stack.enter_context(short_folder())

        def subject(name: str, connect: Callable[[], latency_probe.Receive], send: Send) -> Subject:
            ping = stack.enter_context(pinging(folder, name, connect, send))
            return partial(_ping, name, ping, scale.pings)

        registration, path = os.path.join(folder, "r"), os.path.join(folder, "bare")
        store = stack.enter_context(_serving(registration))
        pipe = stack.enter_context(_bare_pipe(path))
        subjects = [
            subject(
                "kvs", partial(latency_probe.notifications, registration), partial(_write, store)
            ),
            subject("fifo", partial(latency_probe.fifo, path), pipe),
        ]
        if why_no_redis is None:
            server = stack.enter_context(redis.running(directory))
            publisher = stack.enter_context(redis.Connection(server.socket))
            connect = partial(latency_probe.messages, server.socket)
            subjects.append(subject("redis", connect, partial(_publish, publisher)))
        rounds = Rounds(subjects, scale.short_rounds)
    return Outcome(list(_workloads(rounds)), remarks=[why_no_redis] if why_no_redis else [])


@contextmanager
def _serving(registration: str) -> Iterator[Store]:
    """Serve a new store on a thread of this process until the end of the block."""
    store = Store()
    server = Server(store._core, os.fsencode(registration), ServerSettings())
    thread = Thread(target=server.run)
    thread.start()
    try:
        yield store
    finally:
        server.stop()
        thread.join()


def _ping(name: str, ping: Ping, count: int) -> Mapping[str, float]:
    return {name: ping(count)}


def _write(store: Store, stamp: bytes) -> None:
    store.execute(b"WRITE [(%b,%b)]\n" % (latency_probe.KEY, stamp))


def _publish(publisher: redis.Connection, stamp: bytes) -> None:
    publisher.ask(b"PUBLISH", latency_probe.KEY, stamp, reply=b":1\r\n")


@contextmanager
def _bare_pipe(path: str) -> Iterator[Send]:
    """Create a pipe; yield a function that sends through it the bytes that a session would get."""
    os.mkfifo(path)
    pipe = os.open(path, os.O_RDWR)  # open(2) does not block until the other side opens the pipe
    try:
        yield lambda stamp: os.write(pipe, frames.encode_notification(latency_probe.KEY, stamp))
    finally:
        os.close(pipe)


def _workloads(rounds: Rounds) -> Iterator[Workload]:
    yield rounds.workload(
        "notification",
        "latency from a WRITE (Redis: PUBLISH) to its notification in another process",
        {KVS: "kvs", REDIS: "redis", PIPE: "fifo"},
    )
