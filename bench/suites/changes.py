"""Changes told to many sessions: how many a second, every byte compared."""

import resource
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial

from bench import listeners, redis
from bench.listeners import Listen, listening
from bench.results import Outcome, Row, times
from bench.rounds import Subject, Turns
from bench.scale import Scale
from bench.served import Served, serving
from kvs.protocol import frames

_DESCRIPTORS_A_SESSION = 6
_DESCRIPTORS_KEPT = 100


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
        turns = Turns(subjects, scale.turns)
    return Outcome(list(_rows(turns, scale)), remarks=[why_no_redis] if why_no_redis else [])


def _rows(turns: Turns, scale: Scale) -> Iterator[Row]:
    least = scale.subscribers[0]
    for count in scale.subscribers:
        ratios = []
        if count != least:
            ratios.append(f"{_speed(turns, count, least)} as many to {_sessions(least)}")
        if f"redis {count}" in turns.figures:
            faster = times(turns.ratio(f"redis {count}", f"kvs {count}"))
            ratios.append(f"{faster} Redis publish/subscribe")
        yield Row(
            f"notifications to {_sessions(count)}, {scale.changes:,} WRITEs of one key in a job",
            turns.rate(f"kvs {count}", count * scale.changes),
            ", ".join(ratios),
        )
    for count in scale.subscribers:
        if f"redis {count}" in turns.figures:
            yield Row(
                f"messages to {count:,} of Redis' clients, {scale.changes:,} PUBLISHes of another",
                turns.rate(f"redis {count}", count * scale.changes),
            )


def many_sessions(scale: Scale, directory: str) -> Outcome:  # noqa: ARG001  (needs a short path)
    """Measure as many sessions as the machine lets us have, up to a bound, all on one hot key."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(scale.many_sessions, (hard - _DESCRIPTORS_KEPT) // _DESCRIPTORS_A_SESSION)
    with ExitStack() as stack:
        served = stack.enter_context(serving())
        turns = Turns(
            [_to_sessions(stack, served, number, scale.many_changes) for number in (1, count)],
            scale.turns,
        )
    row = Row(
        f"notifications to {_sessions(count)} at once, each of {scale.many_changes:,} changes of a "
        "hot key: each got all, in order, none twice",
        turns.rate(f"kvs {count}", count * scale.many_changes),
        f"{_speed(turns, count, 1)} as many to 1 session",
    )
    remarks = []
    if count < scale.many_sessions:
        remarks.append(f"Open files (`ulimit -Hn`, {hard:,}) allowed {count:,} sessions.")
    return Outcome([row], remarks=remarks)


def _sessions(count: int) -> str:
    return "1 session" if count == 1 else f"{count:,} sessions"


def _speed(turns: Turns, count: int, base: int) -> str:
    """Write how many times as many notifications went out, each session counted."""
    return times(turns.ratio(f"kvs {base}", f"kvs {count}") * count / base)


def _to_sessions(stack: ExitStack, served: Served, count: int, number: int) -> Subject:
    key = b"hot%d" % count
    opened = partial(listeners.notifications, served.registration, key, count)
    listen = stack.enter_context(listening(opened))
    script = b"".join(b"WRITE [(%b,%d)]\n" % (key, value) for value in range(number))
    expected = b"".join(frames.encode_notification(key, b"%d" % value) for value in range(number))
    return _heard(f"kvs {count}", listen, expected, partial(served.run, script))


def _to_connections(
    stack: ExitStack, server: redis.Redis, publisher: redis.Connection, count: int, number: int
) -> Subject:
    channel = b"hot%d" % count
    opened = partial(listeners.messages, server.socket, channel, count)
    listen = stack.enter_context(listening(opened))
    payloads = [b"%d" % value for value in range(number)]
    requests = b"".join(redis.encoded(b"PUBLISH", channel, payload) for payload in payloads)
    expected = b"".join(redis.message(channel, payload) for payload in payloads)

    def publish() -> None:
        publisher.socket.sendall(requests)
        publisher.expect(b":%d\r\n" % count * number)

    return _heard(f"redis {count}", listen, expected, publish)


def _heard(name: str, listen: Listen, expected: bytes, cause: Callable[[], object]) -> Subject:
    def subject() -> Mapping[str, float]:
        return {name: listen(expected, cause)}

    return subject
