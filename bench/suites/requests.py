"""Requests of sessions: connects, subscribes, and READs beside running jobs."""

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
from bench.processes import child_process, engines_built
from bench.results import KVS, PER_SECOND, PIPE, REDIS, Goal, Outcome, Workload, duration
from bench.rounds import Rounds, joined
from bench.scale import Scale
from bench.served import ServerError, ServerProcess, serving
from bench.session import Session
from bench.systems import system_of
from kvs.engine.selection import COMPILED, PYTHON
from kvs.protocol import frames
from kvs.protocol.requests import Subscribe

_PER_WRITE = 500
"""Requests per write, so many that they and their replies fit into the pipes."""

_JOBS = 2
_COMMANDS = {COMPILED: 1_000_000, PYTHON: 100_000}
"""Commands per job."""
_COPIES = 200
"""Copies of the job: they must outlast the requests, and are interrupted then."""

_PAUSE_S = 0.005
"""Seconds between two requests, in which jobs run. Without it, the jobs would mostly wait."""

_99TH = "99th percentile"

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
        rounds = Rounds(subjects, scale.rounds)
    return Outcome(list(_workloads(rounds, scale)), remarks=[why_no_redis] if why_no_redis else [])


def _workloads(rounds: Rounds, scale: Scale) -> Iterator[Workload]:
    yield rounds.workload(
        "connects",
        "connects: three pipes created, connect, disconnect, pipes removed (Redis: PING)",
        {KVS: "connects", REDIS: "redis_connects"},
        unit=PER_SECOND,
        count=scale.connects,
    )
    yield rounds.workload(
        "subscribes",
        "subscribes of one session, one after the other (pipe: a byte there and back)",
        {KVS: "subscribes", REDIS: "redis_subscribes", PIPE: "pipe"},
        unit=PER_SECOND,
        count=scale.requests,
    )
    yield rounds.workload(
        "batches",
        f"subscribes of one session, {_PER_WRITE} per write",
        {KVS: "batches"},
        unit=PER_SECOND,
        count=scale.requests,
    )


def _connects(served: ServerProcess, count: int) -> Mapping[str, float]:
    start = time.perf_counter()
    for number in range(count):
        Session(served.registration, f"c{number}").close()
    return {"connects": time.perf_counter() - start}


def _subscribes(served: ServerProcess, count: int) -> Mapping[str, float]:
    single, batched = Session(served.registration, "s"), Session(served.registration, "b")
    start = time.perf_counter()
    for number in range(count):
        single.subscribe(b"key%d" % number)
    middle = time.perf_counter()
    for first in range(0, count, _PER_WRITE):
        numbers = range(first, min(first + _PER_WRITE, count))
        subscribes = (Subscribe(b"key%d" % number).encode() for number in numbers)
        batched.ask(b"".join(subscribes), frames.encode_reply(frames.SUBSCRIBE, 0) * len(numbers))
    end = time.perf_counter()
    single.close()
    batched.close()
    return {"subscribes": middle - start, "batches": end - middle}


def _in_redis(server: redis.Redis, scale: Scale) -> Mapping[str, float]:
    start = time.perf_counter()
    for _ in range(scale.connects):
        with redis.Connection(server.socket) as connection:
            connection.ask(b"PING", reply=b"+PONG\r\n")
    middle = time.perf_counter()
    with redis.Connection(server.socket) as connection:
        for number in range(scale.requests):
            connection.subscribe(b"key%d" % number, count=number)
        return {
            "redis_connects": middle - start,
            "redis_subscribes": time.perf_counter() - middle,
        }


@contextmanager
def _echoing() -> Iterator[Callable[[int], float]]:
    """Start a process that echoes bytes; yield a function that returns the seconds of a number."""
    with short_folder() as folder:
        request_path, reply_path = (os.path.join(folder, name) for name in ("requests", "replies"))
        os.mkfifo(request_path)
        os.mkfifo(reply_path)
        with (
            child_process(_echo, request_path, reply_path),
            open(request_path, "wb", buffering=0) as requests,
            open(reply_path, "rb", buffering=0) as replies,
        ):

            def echo(count: int) -> float:
                start = time.perf_counter()
                for _ in range(count):
                    requests.write(b".")
                    replies.read(1)
                return time.perf_counter() - start

            yield echo


def _echo(_connection: "Connection[Any, Any]", request_path: str, reply_path: str) -> None:
    with (
        open(request_path, "rb", buffering=0) as requests,
        open(reply_path, "wb", buffering=0) as replies,
    ):
        while byte := requests.read(1):
            replies.write(byte)


def busy(scale: Scale, directory: str) -> Outcome:  # noqa: ARG001  (the path is too long)
    """Measure READs of a session on an idle server and beside running jobs, with each engine."""
    workloads: list[list[Workload]] = []
    goals = []
    for engine in reversed(engines_built()):
        script = b"READ [hot]\n" + b"WRITE [(hot,value)]\n" * _COMMANDS[engine]
        rounds = Rounds(
            [
                partial(_reads, scale, engine, "idle", b""),
                partial(_reads, scale, engine, "busy", script),
            ],
            scale.busy_rounds,
        )
        workloads.append(list(_busy_workloads(rounds, engine)))
        if engine == COMPILED:
            goals = _busy_goals(rounds)
    return Outcome([joined(*of_engines) for of_engines in zip(*workloads, strict=True)], goals)


def _busy_workloads(rounds: Rounds, engine: str) -> Iterator[Workload]:
    jobs = f"beside {_JOBS} running jobs"
    for name, load in (("idle", "on an idle server"), ("busy", jobs)):
        yield rounds.workload(name, f"READ of one key, {load}", {system_of(engine): name})
        yield rounds.workload(
            f"{name}-99th", f"READ of one key, {load}, {_99TH}", {system_of(engine): f"{name} 99th"}
        )


def _busy_goals(rounds: Rounds) -> list[Goal]:
    def goal(what: str, name: str, limit: float) -> Goal:
        over = rounds.median(f"busy{name}") - rounds.median(f"idle{name}")
        promise = f"{what} beside {_JOBS} running jobs: at most {duration(limit)} over idle"
        return Goal(promise, f"{duration(over)} over idle", over <= limit)

    return [goal("a READ", "", 50e-6), goal(f"{_99TH} of READ", " 99th", 3e-3)]


def _reads(scale: Scale, engine: str, name: str, script: bytes) -> Mapping[str, float]:
    """Time READs on a new server, which is then shut down while its jobs run."""
    with serving(threads=_JOBS, engine=engine) as served:
        session = Session(served.registration, "s")
        jobs = [served.add_job(script)] if script else []
        jobs += [served.add_job_again(job) for job in jobs * _COPIES]
        for job in jobs[:_JOBS]:
            served.await_output(job)
        seconds = []
        for _ in range(scale.busy_requests):
            time.sleep(_PAUSE_S)
            start = time.perf_counter()
            session.execute(_READ, _MISSING)
            seconds.append(time.perf_counter() - start)
        if all(served.seconds_of(job) is not None for job in jobs[-_JOBS:]) and jobs:
            raise ServerError("the jobs finished before the requests: increase _COPIES")
        session.close()
    return {name: median(seconds), f"{name} 99th": quantiles(seconds, n=100)[98]}
