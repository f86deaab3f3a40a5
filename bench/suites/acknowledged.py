"""WRITEs of sessions, each acknowledged as on disk before its session sends the next."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial

from bench import redis
from bench.disks import appends
from bench.pipelined import Client, run_clients
from bench.results import (
    DISK,
    KVS,
    KVS_IN_MEMORY,
    PER_SECOND,
    REDIS,
    Outcome,
    Workload,
)
from bench.rounds import Rounds, Subject
from bench.scale import Scale
from bench.served import serving
from bench.session import sessions
from kvs.protocol import frames
from kvs.protocol.requests import Execute

_LINE = b"WRITE [(key,value)]\n"


def acknowledged(scale: Scale, directory: str) -> Outcome:
    """Measure WRITEs of few and many sessions, beside memory only, Redis, and the bare disk."""
    why_no_redis = redis.missing()
    with ExitStack() as stack:
        subjects: list[Subject] = [
            lambda: {"disk": appends(directory, _LINE, scale.writes)},
        ]
        data = os.path.join(directory, "data")
        for name, path in (("kvs", data), ("memory", None)):
            clients = _sessions(stack, path, max(scale.writers))
            request, reply = Execute(_LINE).encode(), frames.encode_execute_reply_header(0, 0, 0)
            subjects += _subjects(name, scale, clients, request, reply)
        if why_no_redis is None:
            clients = _connections(stack, directory, max(scale.writers))
            request = redis.encoded(b"SET", b"key", b"value")
            subjects += _subjects("redis", scale, clients, request, b"+OK\r\n")
        rounds = Rounds(subjects, scale.rounds)
    return Outcome(list(_workloads(rounds, scale)), remarks=[why_no_redis] if why_no_redis else [])


def _sessions(stack: ExitStack, data: str | None, count: int) -> list[Client]:
    served = stack.enter_context(serving(data=data))
    connected = stack.enter_context(sessions(served.registration, count))
    return [Client(session.requests, session.responses) for session in connected]


def _connections(stack: ExitStack, directory: str, count: int) -> list[Client]:
    server = stack.enter_context(redis.running(directory, "always"))
    connected = [stack.enter_context(redis.Connection(server.socket)) for _ in range(count)]
    return [Client(each.socket.fileno(), each.socket.fileno()) for each in connected]


def _subjects(
    name: str, scale: Scale, clients: Sequence[Client], request: bytes, reply: bytes
) -> Iterator[Callable[[], Mapping[str, float]]]:
    """Yield a subject for each number of clients that write; the other clients do nothing."""
    for count in scale.writers:
        yield partial(_timed, f"{name} {count}", clients[:count], request, reply, scale.writes)


def _timed(
    name: str, clients: Sequence[Client], request: bytes, reply: bytes, count: int
) -> Mapping[str, float]:
    return {name: run_clients(clients, request, reply, count)}


def _workloads(rounds: Rounds, scale: Scale) -> Iterator[Workload]:
    for count in scale.writers:
        sessions = "1 session" if count == 1 else f"{count:,} sessions"
        yield rounds.workload(
            f"writes-{count}",
            f"WRITEs of {sessions}, each on disk before its reply (bare file: append and sync)",
            {
                KVS: f"kvs {count}",
                REDIS: f"redis {count}",
                DISK: "disk",
                KVS_IN_MEMORY: f"memory {count}",
            },
            unit=PER_SECOND,
            count=scale.writes,
        )
