"""From a WRITE to its notification in another process, beside a bare pipe and beside Redis."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from threading import Thread

from bench import latency_probe, redis
from bench.folders import short_folder
from bench.latency_probe import Ping, Send, pinging
from bench.results import Outcome, Row, times
from bench.rounds import Subject, Turns
from bench.scale import Scale
from kvs import Store
from kvs.protocol import frames
from kvs.server.server import Server
from kvs.settings import ServerSettings


def latency(scale: Scale, directory: str) -> Outcome:
    """Measure the time of single changes, on a thread as a job has it, in the server's process.

    A job in a file cannot write the time at which it is carried out. So the thread that pings
    calls what a job's thread calls, `Store.execute`, in a process that serves.
    """
    why_no_redis = redis.missing()
    with ExitStack() as stack:
        folder = stack.enter_context(short_folder())

        def subject(name: str, opened: Callable[[], latency_probe.Receive], send: Send) -> Subject:
            ping = stack.enter_context(pinging(folder, name, opened, send))
            return partial(_pinged, name, ping, scale.pings)

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
            opened = partial(latency_probe.messages, server.socket)
            subjects.append(subject("redis", opened, partial(_publish, publisher)))
        turns = Turns(subjects, scale.short_turns)
    return Outcome(list(_rows(turns)), remarks=[why_no_redis] if why_no_redis else [])


@contextmanager
def _serving(registration: str) -> Iterator[Store]:
    """Serve a new store on a thread of this process."""
    store = Store()
    server = Server(store._core, os.fsencode(registration), ServerSettings())
    thread = Thread(target=server.run)
    thread.start()
    try:
        yield store
    finally:
        server.stop()
        thread.join()


def _pinged(name: str, ping: Ping, count: int) -> Mapping[str, float]:
    return {name: ping(count)}


def _write(store: Store, stamp: bytes) -> None:
    store.execute(b"WRITE [(%b,%b)]\n" % (latency_probe.KEY, stamp))


def _publish(publisher: redis.Connection, stamp: bytes) -> None:
    publisher.ask(b"PUBLISH", latency_probe.KEY, stamp, reply=b":1\r\n")


@contextmanager
def _bare_pipe(path: str) -> Iterator[Send]:
    """Make a pipe; give what sends through it the bytes that a session would get."""
    os.mkfifo(path)
    pipe = os.open(path, os.O_RDWR)  # so that neither side waits for the other to open it
    try:
        yield lambda stamp: os.write(pipe, frames.encode_notification(latency_probe.KEY, stamp))
    finally:
        os.close(pipe)


def _rows(turns: Turns) -> Iterator[Row]:
    def row(what: str, name: str) -> Row:
        bases = {"fifo": "the bare pipe", "redis": "Redis"}
        ratios = ", ".join(
            f"{times(turns.ratio(name, base))} {called}"
            for base, called in bases.items()
            if base in turns.figures and base != name
        )
        return Row(what, turns.duration(name), ratios)

    yield row("from a WRITE to its notification read in a client process", "kvs")
    yield row("the same bytes through a bare named pipe to another process", "fifo")
    if "redis" in turns.figures:
        yield row(f"from a PUBLISH to Redis {redis.version()} to its message read", "redis")
