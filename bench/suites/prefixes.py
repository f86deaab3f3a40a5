"""Listing the few of many pairs whose keys have a prefix, from another process."""

import os
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from statistics import median

from bench import etcd, redis
from bench.folders import short_folder
from bench.goals import as_fast_as
from bench.results import ETCD, KVS, REDIS, Outcome
from bench.rounds import Rounds, Subject
from bench.scale import Scale
from bench.served import serving
from bench.session import Session
from bench.suites.run import WrongOutputError

_SCAN_COUNT = b"10000"
"""Keys that one SCAN of Redis looks at, so many that a round trip hardly counts."""
_VALUE = b"value%021d"


def prefixes(scale: Scale, directory: str) -> Outcome:
    """Measure listing the pairs of one prefix, beside Redis and etcd."""
    listed = _listed(scale)
    remarks = [remark for remark in (redis.missing(), etcd.missing()) if remark]
    with ExitStack() as stack:
        subjects = [_in_kvs(stack, scale, listed)]
        if redis.missing() is None:
            subjects.append(_in_redis(stack, scale, listed, directory))
        if etcd.missing() is None:
            subjects.append(_in_etcd(stack, scale, listed))
        rounds = Rounds(subjects, scale.long_rounds)
    what = f"list {len(listed):,} of {scale.pairs:,} pairs by prefix"
    workload = rounds.workload(
        "list",
        f"{what}: `SHOW [prefix]` (Redis: SCAN with MATCH, then MGET; etcd: range)",
        {system: system for system in (KVS, REDIS, ETCD)},
    )
    return Outcome([workload], list(as_fast_as(rounds, what, KVS, REDIS)), remarks)


def _pairs(scale: Scale) -> Iterator[tuple[bytes, bytes]]:
    """Yield all pairs in random order; keys of 16 bytes, values of 26."""
    numbers = list(range(scale.pairs))
    random.Random(scale.pairs).shuffle(numbers)
    for number in numbers:
        yield b"%03d:%012d" % (number % scale.prefixes, number), _VALUE % number


_PREFIX = b"007:"


def _listed(scale: Scale) -> list[tuple[bytes, bytes]]:
    """Return the pairs to list, in order."""
    return sorted(pair for pair in _pairs(scale) if pair[0].startswith(_PREFIX))


def _in_kvs(stack: ExitStack, scale: Scale, listed: list[tuple[bytes, bytes]]) -> Subject:
    served = stack.enter_context(serving())
    served.run(b"".join(b"WRITE [(%b,%b)]\n" % pair for pair in _pairs(scale)))
    session = Session(served.registration, "s")
    stack.callback(session.close)
    output = b"".join(b"(%b, %b)\n" % pair for pair in listed)

    def show() -> Mapping[str, float]:
        seconds = []
        for _ in range(scale.listings):
            start = time.perf_counter()
            answer = session.answer(b"SHOW [%b]\n" % _PREFIX)
            seconds.append(time.perf_counter() - start)
            _check(answer == output, KVS)
        return {KVS: median(seconds)}

    return show


def _in_redis(
    stack: ExitStack, scale: Scale, listed: list[tuple[bytes, bytes]], directory: str
) -> Subject:
    server = stack.enter_context(redis.running(directory))
    requests = os.path.join(directory, "pairs.resp")
    with open(requests, "wb") as file:
        file.writelines(redis.encoded(b"SET", *pair) for pair in _pairs(scale))
    server.feed(requests, scale.pairs)
    connection = stack.enter_context(redis.Connection(server.socket))
    # All values are equally long, so that the reply need not be parsed while time is taken.
    reply_bytes = len(b"*%d\r\n" % len(listed)) + len(listed) * len(
        b"$26\r\n" + _VALUE % 0 + b"\r\n"
    )

    def scan() -> Mapping[str, float]:
        seconds = []
        for _ in range(scale.listings):
            start = time.perf_counter()
            keys = _scan(connection)
            connection.socket.sendall(redis.encoded(b"MGET", *keys))
            reply = connection.receive(reply_bytes)
            seconds.append(time.perf_counter() - start)
            values = reply.split(b"\r\n")[2::2]
            _check(sorted(zip(keys, values, strict=True)) == listed, REDIS)
        return {REDIS: median(seconds)}

    return scan


def _scan(connection: redis.Connection) -> list[bytes]:
    """Return the keys with the prefix."""
    found: list[bytes] = []
    cursor = b"0"
    while True:
        match connection.answer(b"SCAN", cursor, b"MATCH", _PREFIX + b"*", b"COUNT", _SCAN_COUNT):
            case [bytes(cursor), list(keys)]:
                found += (key for key in keys if isinstance(key, bytes))
            case reply:
                raise redis.RedisError(f"Redis replied {reply!r} to SCAN")
        if cursor == b"0":
            return found


def _in_etcd(stack: ExitStack, scale: Scale, listed: list[tuple[bytes, bytes]]) -> Subject:
    # Its log is on files in memory: it syncs each transaction, and only its reads are timed.
    folder = stack.enter_context(short_folder())
    connection = stack.enter_context(etcd.Connection(stack.enter_context(etcd.running(folder))))
    connection.put(_pairs(scale))

    def get_range() -> Mapping[str, float]:
        seconds = []
        for _ in range(scale.listings):
            start = time.perf_counter()
            reply = connection.range(_PREFIX)
            seconds.append(time.perf_counter() - start)
        _check(list(etcd.pairs_of(reply)) == listed, ETCD)
        return {ETCD: median(seconds)}

    return get_range


def _check(right: bool, system: str) -> None:
    if not right:
        raise WrongOutputError(f"the pairs that {system} lists are not those with the prefix")
