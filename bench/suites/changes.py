"""Notifications to many sessions: their rate, every byte compared."""

import resource
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial

from bench import listeners, redis
from bench.listeners import Listen, listening
from bench.results import KVS, PER_SECOND, REDIS, Outcome, Workload
from bench.rounds import Rounds, Subject
from bench.scale import Scale
from bench.served import ServerProcess, serving
from kvs.protocol import frames

_DESCRIPTORS_PER_SESSION = 6
_OTHER_DESCRIPTORS = 100


def changes(scale: Scale, directory: str) -> Outcome:
    """Measure one job that writes a key again and again, with few and many subscribers."""
    why_no_redis = redis.missing()
    with ExitStack() as stack:
        served = stack.enter_context(serving())
        subjects = [
            _to_sessions(stack, served, count, scale.changes) for count in scale.subscribers
        ]
        if why_no_redis is None:
            server = stack.enter_context(redis.running(directory))
            publisher = stack.enter_context(redis.Connection(server.socket))
            subjects += [
                _to_connections(stack, server, publisher, count, scale.changes)
                for count in scale.subscribers
            ]
        rounds = Rounds(subjects, scale.rounds)
    return Outcome(list(_workloads(rounds, scale)), remarks=[why_no_redis] if why_no_redis else [])


def _workloads(rounds: Rounds, scale: Scale) -> Iterator[Workload]:
    for count in scale.subscribers:
        yield rounds.workload(
            f"sessions-{count}",
            f"notifications to {_sessions(count)}, {scale.changes:,} changes of one key",
            {KVS: f"kvs {count}", REDIS: f"redis {count}"},
            unit=PER_SECOND,
            count=count * scale.changes,
        )


def many_sessions(scale: Scale, directory: str) -> Outcome:  # noqa: ARG001  (the path is too long)
    """Measure as many sessions as the machine allows, up to a limit, subscribed to one key."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(scale.many_sessions, (hard - _OTHER_DESCRIPTORS) // _DESCRIPTORS_PER_SESSION)
    with ExitStack() as stack:
        served = stack.enter_context(serving())
        rounds = Rounds(
            [_to_sessions(stack, served, number, scale.many_changes) for number in (1, count)],
            scale.rounds,
        )
    workloads = [
        rounds.workload(
            f"sessions-{number}",
            f"notifications to {_sessions(number)}, {scale.many_changes:,} changes of one key",
            {KVS: f"kvs {number}"},
            unit=PER_SECOND,
            count=number * scale.many_changes,
        )
        for number in (1, count)
    ]
    remarks = []
    if count < scale.many_sessions:
        remarks.append(
            f"The limit of open files (`ulimit -Hn`, {hard:,}) allowed {count:,} sessions."
        )
    return Outcome(workloads, remarks=remarks)


def _sessions(count: int) -> str:
    return "1 session" if count == 1 else f"{count:,} sessions"


def _to_sessions(stack: ExitStack, served: ServerProcess, count: int, number: int) -> Subject:
    key = b"hot%d" % count
    connect = partial(listeners.notifications, served.registration, key, count)
    listen = stack.enter_context(listening(connect))
    script = b"".join(b"WRITE [(%b,%d)]\n" % (key, value) for value in range(number))
    expected = b"".join(frames.encode_notification(key, b"%d" % value) for value in range(number))
    return _timed_by(f"kvs {count}", listen, expected, partial(served.run, script))


def _to_connections(
    stack: ExitStack, server: redis.Redis, publisher: redis.Connection, count: int, number: int
) -> Subject:
    channel = b"hot%d" % count
    connect = partial(listeners.messages, server.socket, channel, count)
    listen = stack.enter_context(listening(connect))
    payloads = [b"%d" % value for value in range(number)]
    requests = b"".join(redis.encoded(b"PUBLISH", channel, payload) for payload in payloads)
    expected = b"".join(redis.message(channel, payload) for payload in payloads)

    def publish() -> None:
        publisher.socket.sendall(requests)
        publisher.expect(b":%d\r\n" % count * number)

    return _timed_by(f"redis {count}", listen, expected, publish)


def _timed_by(name: str, listen: Listen, expected: bytes, cause: Callable[[], object]) -> Subject:
    def subject() -> Mapping[str, float]:
        return {name: listen(expected, cause)}

    return subject
