"""Requests of sessions: connects, subscribes, and reads beside jobs that run flat out."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing.connection import Connection
from statistics import median, quantiles
from typing import Any

from bench import redis
from bench.folders import short_folder
from bench.processes import beside, engines_built
from bench.results import Goal, Outcome, Row, duration, times
from bench.rounds import Turns
from bench.scale import Scale
from bench.served import Served, ServerFailed, serving
from bench.session import Session
from kvs.engine.selection import COMPILED, PYTHON
from kvs.protocol import frames

_AT_ONCE = 500
"""Requests in one write: these, and their replies, fit into the pipes."""

_JOBS = 2
_COMMANDS = {COMPILED: 1_000_000, PYTHON: 100_000}
"""Of a job."""
_AGAIN = 200
"""So often it is run again: the jobs must outlast the requests, and are stopped then."""

_BETWEEN_SECONDS = 0.005
"""Jobs come to run between two requests. One after the other, they would mostly wait themselves."""

_LATE = "99th of 100"

_READ = b"READ [key]\n"
_MISSING = b"[(key,KVSERROR)]\n"


def requests(scale: Scale, directory: str) -> Outcome:
    """Measure connects and subscribes, one after the other, beside Redis and a bare pipe."""
    why_no_redis = redis.missing()
    with ExitStack() as stack:
        served = stack.enter_context(serving())
        echo = stack.enter_context(_echoing())
        subjects = [
            lambda: _connects(served, scale.connects),
            lambda: _subscribes(served, scale.requests),
            lambda: {"pipe": echo(scale.requests)},
        ]
        if why_no_redis is None:
            server = stack.enter_context(redis.running(directory))
            subjects.append(lambda: _in_redis(server, scale))
        turns = Turns(subjects, scale.turns)
    return Outcome(list(_rows(turns, scale)), remarks=[why_no_redis] if why_no_redis else [])


def _rows(turns: Turns, scale: Scale) -> Iterator[Row]:
    def faster(name: str, **bases: str) -> str:
        return ", ".join(
            f"{times(turns.ratio(base, name))} {called}"
            for base, called in bases.items()
            if base in turns.figures
        )

    yield Row(
        "connects: three pipes made, connected, answered, disconnected, removed",
        turns.rate("connects", scale.connects),
        faster("connects", redis_connects="Redis (connect, PING, close)"),
    )
    yield Row(
        "subscribes of one session, one after the other",
        turns.rate("subscribes", scale.requests),
        faster("subscribes", pipe="a byte there and back", redis_subscribes="Redis"),
    )
    yield Row(
        f"the same, {_AT_ONCE} in one write",
        turns.rate("batches", scale.requests),
        faster("batches", subscribes="one after the other"),
    )
    yield Row(
        "a byte through a bare named pipe to another process, and back through one",
        turns.rate("pipe", scale.requests),
    )


def _connects(served: Served, count: int) -> Mapping[str, float]:
    began = time.perf_counter()
    for number in range(count):
        Session(served.registration, f"c{number}").close()
    return {"connects": time.perf_counter() - began}


def _subscribes(served: Served, count: int) -> Mapping[str, float]:
    one, other = Session(served.registration, "s"), Session(served.registration, "b")
    began = time.perf_counter()
    for number in range(count):
        one.subscribe(b"key%d" % number)
    between = time.perf_counter()
    for start in range(0, count, _AT_ONCE):
        numbers = range(start, min(start + _AT_ONCE, count))
        asked = (
            frames.encode_key_request(frames.SUBSCRIBE, b"key%d" % number) for number in numbers
        )
        other.ask(b"".join(asked), frames.encode_reply(frames.SUBSCRIBE, 0) * len(numbers))
    ended = time.perf_counter()
    one.close()
    other.close()
    return {"subscribes": between - began, "batches": ended - between}


def _in_redis(server: redis.Redis, scale: Scale) -> Mapping[str, float]:
    began = time.perf_counter()
    for _ in range(scale.connects):
        with redis.Connection(server.socket) as connection:
            connection.ask(b"PING", reply=b"+PONG\r\n")
    between = time.perf_counter()
    with redis.Connection(server.socket) as connection:
        for number in range(scale.requests):
            connection.subscribe(b"key%d" % number, before=number)
        return {
            "redis_connects": between - began,
            "redis_subscribes": time.perf_counter() - between,
        }


@contextmanager
def _echoing() -> Iterator[Callable[[int], float]]:
    """Have a process that sends back each byte; give what sends so many and returns the seconds."""
    with short_folder() as folder:
        there, back = (os.path.join(folder, name) for name in ("there", "back"))
        os.mkfifo(there)
        os.mkfifo(back)
        with (
            beside(_echo, there, back),
            open(there, "wb", buffering=0) as to,
            open(back, "rb", buffering=0) as answers,
        ):

            def echo(count: int) -> float:
                began = time.perf_counter()
                for _ in range(count):
                    to.write(b".")
                    answers.read(1)
                return time.perf_counter() - began

            yield echo


def _echo(_talk: "Connection[Any, Any]", there: str, back: str) -> None:
    with open(there, "rb", buffering=0) as questions, open(back, "wb", buffering=0) as answers:
        while byte := questions.read(1):
            answers.write(byte)


def busy(scale: Scale, directory: str) -> Outcome:  # noqa: ARG001  (needs a short path)
    """Measure READs of a session on an idle server, and while jobs run flat out, on each engine."""
    rows: list[Row] = []
    goals = []
    for engine in engines_built():
        script = b"READ [hot]\n" + b"WRITE [(hot,value)]\n" * _COMMANDS[engine]
        turns = Turns(
            [
                partial(_reads, scale, engine, "idle", b""),
                partial(_reads, scale, engine, "busy", script),
            ],
            scale.turns,
        )
        rows += _busy_rows(turns, engine)
        if engine == COMPILED:
            goals = _busy_goals(turns)
    return Outcome(rows, goals)


def _busy_rows(turns: Turns, engine: str) -> Iterator[Row]:
    what = f"a session's READ of one key, from request to reply, {engine} engine"
    slower = f"{times(turns.ratio('busy', 'idle'))} an idle server"
    last = f"{times(turns.ratio('busy 99th', 'idle 99th'))} an idle server"
    yield Row(f"{what}, on an idle server", turns.duration("idle"))
    yield Row(f"the same, the {_LATE}", turns.duration("idle 99th"))
    yield Row(f"{what}, while {_JOBS} jobs run flat out", turns.duration("busy"), slower)
    yield Row(f"the same, the {_LATE}", turns.duration("busy 99th"), last)


def _busy_goals(turns: Turns) -> list[Goal]:
    def goal(what: str, name: str, most: float) -> Goal:
        over = turns.median(f"busy{name}") - turns.median(f"idle{name}")
        promise = f"{what} beside {_JOBS} busy jobs, compiled engine: {duration(most)} over idle"
        return Goal(promise, f"{duration(over)} over idle", over <= most)

    return [goal("a READ", "", 50e-6), goal(f"the {_LATE} READ", " 99th", 3e-3)]


def _reads(scale: Scale, engine: str, name: str, script: bytes) -> Mapping[str, float]:
    """Time reads on a new server, which is ended under its jobs when that is done."""
    with serving(threads=_JOBS, engine=engine) as served:
        session = Session(served.registration, "s")
        jobs = [served.drop(script)] if script else []
        jobs += [served.drop_again(job) for job in jobs * _AGAIN]
        for job in jobs[:_JOBS]:
            served.await_output(job)
        seconds = []
        for _ in range(scale.busy_requests):
            time.sleep(_BETWEEN_SECONDS)
            began = time.perf_counter()
            session.execute(_READ, _MISSING)
            seconds.append(time.perf_counter() - began)
        if all(served.has_ended(job) is not None for job in jobs[-_JOBS:]) and jobs:
            raise ServerFailed("the jobs ended before the requests did: give them more commands")
        session.close()
    return {name: median(seconds), f"{name} 99th": quantiles(seconds, n=100)[98]}
