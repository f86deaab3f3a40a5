"""Changes of sessions, each told to be on disk before its session sends the next."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial

from bench import redis
from bench.disks import appends
from bench.pipelined import Client, flown
from bench.results import Outcome, Row, times
from bench.rounds import Subject, Turns
from bench.scale import Scale
from bench.served import serving
from bench.session import sessions
from kvs.protocol import frames

_LINE = b"WRITE [(key,value)]\n"


def acknowledged(scale: Scale, directory: str) -> Outcome:
    """Measure writes of few and many sessions, beside memory alone, Redis, and the bare disk."""
    why_no_redis = redis.missing()
    with ExitStack() as stack:
        subjects: list[Subject] = [
            lambda: {"disk": appends(directory, _LINE, scale.writes)},
        ]
        data = os.path.join(directory, "data")
        for name, path in (("kvs", data), ("memory", None)):
            clients = _sessions(stack, path, max(scale.writers))
            request, reply = (
                frames.encode_execute(_LINE),
                frames.encode_execute_reply_header(0, 0, 0),
            )
            subjects += _subjects(name, scale, clients, request, reply)
        if why_no_redis is None:
            clients = _connections(stack, directory, max(scale.writers))
            request = redis.encoded(b"SET", b"key", b"value")
            subjects += _subjects("redis", scale, clients, request, b"+OK\r\n")
        turns = Turns(subjects, scale.turns)
    return Outcome(list(_rows(turns, scale)), remarks=[why_no_redis] if why_no_redis else [])


def _sessions(stack: ExitStack, data: str | None, count: int) -> list[Client]:
    served = stack.enter_context(serving(data=data))
    opened = stack.enter_context(sessions(served.registration, count))
    return [Client(session.requests, session.responses) for session in opened]


def _connections(stack: ExitStack, directory: str, count: int) -> list[Client]:
    server = stack.enter_context(redis.running(directory, "always"))
    opened = [stack.enter_context(redis.Connection(server.socket)) for _ in range(count)]
    return [Client(each.socket.fileno(), each.socket.fileno()) for each in opened]


def _subjects(
    name: str, scale: Scale, clients: Sequence[Client], request: bytes, reply: bytes
) -> Iterator[Callable[[], Mapping[str, float]]]:
    """Yield what has so many of the clients write, and the others do nothing."""
    for count in scale.writers:
        yield partial(_flown, f"{name} {count}", clients[:count], request, reply, scale.writes)


def _flown(
    name: str, clients: Sequence[Client], request: bytes, reply: bytes, count: int
) -> Mapping[str, float]:
    return {name: flown(clients, request, reply, count)}


def _rows(turns: Turns, scale: Scale) -> Iterator[Row]:
    for count in scale.writers:
        bases = {
            "disk": "appending and syncing on the bare disk",
            f"memory {count}": "in memory alone",
            f"redis {count}": "Redis with `appendfsync always`",
        }
        ratios = (
            f"{times(turns.ratio(base, f'kvs {count}'))} {called}"
            for base, called in bases.items()
            if base in turns.figures
        )
        many = "1 session" if count == 1 else f"{count:,} sessions at once"
        yield Row(
            f"WRITEs of {many}, each on disk before its reply (`kvs serve --data`)",
            turns.rate(f"kvs {count}", scale.writes),
            ", ".join(ratios),
        )
    yield Row(
        "lines appended to a bare file and synced, one after the other",
        turns.rate("disk", scale.writes),
    )
