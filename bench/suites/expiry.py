"""Pairs that expire: their memory, and the waits of a client while very many expire at once."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from itertools import islice

from bench import memory, redis
from bench.goals import as_fast_as
from bench.pairs import random_pairs
from bench.processes import in_fresh_process
from bench.results import BYTES, KVS, REDIS, Goal, Outcome, Workload, duration, size
from bench.rounds import Rounds, Subject
from bench.scale import Scale
from bench.served import serving
from bench.session import Session
from kvs.library import Store

BYTES_GOAL = 24
"""Maximum bytes of an expiry."""
STALL_GOAL_S = 0.005
"""Maximum wait of a client while a million pairs expire."""

_BATCH = 10_000
"""Pairs of one WRITE."""
_PERIOD_S = 0.001
"""Seconds between two calls of the waiting client."""
_LONGEST_S = 120
"""Seconds after which pairs that have not expired never will."""
_FAR = 1 << 48
"""A time in milliseconds since the epoch, thousands of years away."""


class ExpiryError(Exception):
    """Pairs did not expire, or before their time."""


def expiry(scale: Scale, directory: str) -> Outcome:
    """Measure as many expiring pairs as the table has, beside Redis."""
    why_no_redis = redis.missing()
    with ExitStack() as stack:
        subjects: list[Subject] = [
            partial(_memory_in_kvs, scale.pairs),
            partial(_expire_in_kvs, scale),
        ]
        if why_no_redis is None:
            server = stack.enter_context(redis.running(directory))
            subjects += [
                partial(_memory_in_redis, server, scale.pairs, directory),
                partial(_expire_in_redis, server, scale, directory),
            ]
        rounds = Rounds(subjects, scale.expiry_rounds)
    return Outcome(
        list(_workloads(rounds, scale.pairs)),
        list(_goals(rounds, scale.pairs)),
        [why_no_redis] if why_no_redis else [],
    )


def _workloads(rounds: Rounds, pairs: int) -> Iterator[Workload]:
    def workload(name: str, label: str, unit: str = "s", count: int = 1) -> Workload:
        systems = {system: f"{system} {name}" for system in (KVS, REDIS)}
        return rounds.workload(name, label, systems, unit=unit, count=count)

    what = f"{pairs:,} pairs expire at one time"
    yield workload("bytes", "memory of an expiry, beyond that of its pair", BYTES, pairs)
    yield workload("wait", f"{what}: longest wait of a client for the number of pairs")
    yield workload("gone", f"{what}: from then until the last is removed")


def _goals(rounds: Rounds, pairs: int) -> Iterator[Goal]:
    each = rounds.median(f"{KVS} bytes") / pairs
    yield Goal(f"an expiry takes at most {BYTES_GOAL} bytes", size(each), each <= BYTES_GOAL)
    wait = rounds.median(f"{KVS} wait")
    what = f"{pairs:,} pairs expire at one time"
    yield Goal(
        f"{what}: no wait of a client over {duration(STALL_GOAL_S)}",
        duration(wait),
        wait <= STALL_GOAL_S,
    )
    yield from as_fast_as(rounds, what, f"{KVS} gone", f"{REDIS} gone")


# kvs.


def _writes(pairs: int, until: int | None) -> Iterator[bytes]:
    """Yield WRITEs of many pairs each, which expire at `until` if it is given."""
    source = random_pairs(pairs)
    end = b"\n" if until is None else b" UNTIL %d\n" % until
    while batch := b"".join(b"(%b,%b)" % pair for pair in islice(source, _BATCH)):
        yield b"WRITE [%b]%b" % (batch, end)


def _memory_in_kvs(pairs: int) -> Mapping[str, float]:
    expiring, lasting = (in_fresh_process(_grown, pairs, until) for until in (_FAR, None))
    return {f"{KVS} bytes": expiring - lasting}


def _grown(pairs: int, until: int | None) -> int:
    """Return by how many bytes this process grows by pairs."""
    before = memory.resident()
    store = Store()
    for line in _writes(pairs, until):
        store.execute(line)
    return memory.resident() - before


def _expire_in_kvs(scale: Scale) -> Mapping[str, float]:
    with serving() as served:
        session = Session(served.registration, "s")
        at = _written_in_time(
            scale.expiry_s, lambda until: served.run(b"".join(_writes(scale.pairs, until)))
        )
        figures = _watch(lambda: int(session.answer(b"COUNT\n")), at)
        session.close()
    return {f"{KVS} {name}": seconds for name, seconds in figures.items()}


def _written_in_time(seconds: float, write: Callable[[int], object]) -> float:
    """Call `write` with a time in milliseconds, `seconds` from now; return it, in seconds.

    Again and with twice as many seconds if it is over when the pairs are written.
    """
    while True:
        at = time.time() + seconds
        write(round(at * 1000))
        if time.time() < at:
            return at
        seconds *= 2


def _watch(count: Callable[[], int], at: float) -> Mapping[str, float]:
    """Count the pairs, which expire at the time `at`, every millisecond until none is left.

    As in `bench.stall_probe`, a wait lasts from the time a call is due to its return.

    Raises:
        ExpiryError: there are none, or they do not expire.

    """
    if not count():
        raise ExpiryError("the pairs are missing before they expire")
    longest = 0.0
    now = time.perf_counter()
    while True:
        due = now + _PERIOD_S
        time.sleep(_PERIOD_S)
        left = count()
        now = time.perf_counter()
        longest = max(longest, now - due)
        if not left:
            return {"wait": longest, "gone": time.time() - at}
        if time.time() > at + _LONGEST_S:
            raise ExpiryError(f"{left:,} pairs are there {_LONGEST_S} s after their time")


# Redis.


def _write_sets(path: str, pairs: int, until: int | None) -> None:
    end = [] if until is None else [b"PXAT", b"%d" % until]
    with open(path, "wb") as file:
        file.writelines(redis.encoded(b"SET", *pair, *end) for pair in random_pairs(pairs))


def _memory_in_redis(server: redis.Redis, pairs: int, directory: str) -> Mapping[str, float]:
    requests = os.path.join(directory, "sets.resp")
    used = []
    with redis.Connection(server.socket) as connection:
        for until in (_FAR, None):
            _write_sets(requests, pairs, until)
            server.feed(requests, pairs)
            used.append(int(connection.info("memory")["used_memory"]))
    expiring, lasting = used
    return {f"{REDIS} bytes": expiring - lasting}


def _expire_in_redis(server: redis.Redis, scale: Scale, directory: str) -> Mapping[str, float]:
    requests = os.path.join(directory, "sets.resp")

    def write(until: int) -> None:
        _write_sets(requests, scale.pairs, until)
        server.feed(requests, scale.pairs)

    def count() -> int:
        match connection.answer(b"DBSIZE"):
            case int(pairs):
                return pairs
            case reply:
                raise redis.RedisError(f"Redis replied {reply!r} to DBSIZE")

    at = _written_in_time(scale.expiry_s, write)
    with redis.Connection(server.socket) as connection:
        figures = _watch(count, at)
    return {f"{REDIS} {name}": seconds for name, seconds in figures.items()}
