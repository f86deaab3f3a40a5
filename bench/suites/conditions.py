"""Conditional writes and counters: many in a job, and one after the other in a session."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial

from bench import redis
from bench.folders import short_folder
from bench.goals import as_fast_as
from bench.job_runs import timed_job, write_job
from bench.processes import in_fresh_process
from bench.results import KVS, PER_SECOND, REDIS, REDIS_WATCH, Goal, Outcome, Workload
from bench.rounds import Rounds, Subject
from bench.scale import Scale
from bench.served import serving
from bench.session import Session
from bench.suites.run import WrongOutputError
from kvs import Store

_KEYS = 1_000
_SCRIPT = b"""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('changed') end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""
"""A conditional write in Lua; an error, which is counted, if the value is not the expected one."""


def conditions(scale: Scale, directory: str) -> Outcome:
    """Measure conditional writes and additions, beside Redis."""
    why_no_redis = redis.missing()
    with ExitStack() as stack:
        folder = stack.enter_context(short_folder())
        subjects = list(_kvs_jobs(folder, scale.conditions))
        served = stack.enter_context(serving())
        session = Session(served.registration, "s")
        stack.callback(session.close)
        subjects += [
            partial(_conditions_of_session, session, scale.single_conditions),
            partial(_additions_of_session, session, scale.single_conditions),
        ]
        if why_no_redis is None:
            server = stack.enter_context(redis.running(directory))
            connection = stack.enter_context(redis.Connection(server.socket))
            digest = _load_script(connection)
            subjects += _redis_pipes(server, folder, digest, scale.conditions)
            subjects += [
                partial(_scripts, connection, digest, scale.single_conditions),
                partial(_watches, connection, scale.single_conditions),
                partial(_increments, connection, scale.single_conditions),
            ]
        rounds = Rounds(subjects, scale.rounds)
    return Outcome(
        list(_workloads(rounds, scale)),
        list(_goals(rounds)),
        [why_no_redis] if why_no_redis else [],
    )


def _workloads(rounds: Rounds, scale: Scale) -> Iterator[Workload]:
    def workload(name: str, label: str, count: int) -> Workload:
        systems = {KVS: KVS, REDIS: REDIS, REDIS_WATCH: REDIS_WATCH}
        figures = {system: f"{base} {name}" for system, base in systems.items()}
        return rounds.workload(name, label, figures, unit=PER_SECOND, count=count)

    many, single = scale.conditions, scale.single_conditions
    yield workload("if", f"{_IF}, {many:,} in a job ({_LUA})", many)
    yield workload("if-single", f"{_IF}, one after the other ({_LUA})", single)
    yield workload("add", f"{_ADD}, {many:,} in a job ({_INCR})", many)
    yield workload("add-single", f"{_ADD}, one after the other ({_INCR})", single)


_IF = "conditional WRITEs (`IF [(k,v)] WRITE [(k,w)]`)"
_ADD = "additions (`ADD [(k,1)]`)"
_LUA = "Redis: a script in Lua, by EVALSHA"
_INCR = "Redis: INCR"


def _goals(rounds: Rounds) -> Iterator[Goal]:
    for name, what in (("if", _IF), ("add", _ADD)):
        yield from as_fast_as(rounds, f"{what} in a job", f"{KVS} {name}", f"{REDIS} {name}")
        for base in (REDIS, REDIS_WATCH):
            yield from as_fast_as(
                rounds,
                f"{what}, one after the other",
                f"{KVS} {name}-single",
                f"{base} {name}-single",
                base,
            )


def _changes(count: int) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yield a key, its value and its next value, for each of `count` conditional writes."""
    for number in range(count):
        version, key = divmod(number, _KEYS)
        yield b"key%04d" % key, b"value%d" % version, b"value%d" % (version + 1)


def _first_pairs() -> dict[bytes, bytes]:
    return {key: value for key, value, _ in _changes(_KEYS)}


# Many in a job: kvs in a new process, Redis by `redis-cli --pipe`.


def _kvs_jobs(folder: str, count: int) -> Iterator[Subject]:
    conditional = os.path.join(folder, "if")
    lines = (b"IF [(%b,%b)] WRITE [(%b,%b)]\n" % (k, v, k, w) for k, v, w in _changes(count))
    write_job(conditional, b"".join(lines))
    adding = os.path.join(folder, "add")
    write_job(adding, b"".join(b"ADD [(%b,1)]\n" % key for key, *_ in _changes(count)))
    yield partial(in_fresh_process, _conditions_of_job, conditional)
    yield partial(in_fresh_process, _additions_of_job, adding, count)


def _conditions_of_job(job: str) -> Mapping[str, float]:
    store = Store()
    store.write(_first_pairs())
    seconds = timed_job(store, job)
    if os.path.getsize(os.path.join(job, "only.out")):
        raise WrongOutputError(f"{job}: the condition of a line failed")
    return {f"{KVS} if": seconds}


def _additions_of_job(job: str, count: int) -> Mapping[str, float]:
    store = Store()
    seconds = timed_job(store, job)
    if sum(int(value) for _, value in store.items()) != count:
        raise WrongOutputError(f"{job}: the sum of the counters is not {count}")
    return {f"{KVS} add": seconds}


def _load_script(connection: redis.Connection) -> bytes:
    """Store the script in the server; return its digest."""
    digest = hashlib.sha1(_SCRIPT, usedforsecurity=False).hexdigest().encode()
    connection.ask(b"SCRIPT", b"LOAD", _SCRIPT, reply=b"$%d\r\n%b\r\n" % (len(digest), digest))
    return digest


def _redis_pipes(
    server: redis.Redis, folder: str, digest: bytes, count: int
) -> Iterator[Callable[[], Mapping[str, float]]]:
    conditional, adding = (os.path.join(folder, name) for name in ("if.resp", "add.resp"))
    first = os.path.join(folder, "first.resp")
    with open(first, "wb") as file:
        file.writelines(redis.encoded(b"SET", *pair) for pair in _first_pairs().items())
    with open(conditional, "wb") as file:
        for change in _changes(count):
            file.write(redis.encoded(b"EVALSHA", digest, b"1", *change))
    with open(adding, "wb") as file:
        file.writelines(redis.encoded(b"INCR", key) for key, *_ in _changes(count))

    def conditions_of_pipe() -> Mapping[str, float]:
        server.feed(first, _KEYS)
        return {f"{REDIS} if": server.pipe(conditional, count)}

    yield conditions_of_pipe
    yield lambda: {f"{REDIS} add": server.feed(adding, count)}


# One after the other: each is sent when the one before has been answered.


def _conditions_of_session(session: Session, count: int) -> Mapping[str, float]:
    session.answer(b"".join(b"WRITE [(%b,%b)]\n" % pair for pair in _first_pairs().items()))
    start = time.perf_counter()
    for key, value, new in _changes(count):
        session.execute(b"IF [(%b,%b)] WRITE [(%b,%b)]\n" % (key, value, key, new), b"")
    return {f"{KVS} if-single": time.perf_counter() - start}


def _additions_of_session(session: Session, count: int) -> Mapping[str, float]:
    session.answer(b'CLEAR [""]\n')
    start = time.perf_counter()
    for number, (key, *_) in enumerate(_changes(count)):
        session.execute(b"ADD [(%b,1)]\n" % key, b"[(%b,%d)]\n" % (key, number // _KEYS + 1))
    return {f"{KVS} add-single": time.perf_counter() - start}


def _set_first(connection: redis.Connection) -> None:
    for pair in _first_pairs().items():
        connection.ask(b"SET", *pair, reply=b"+OK\r\n")


def _scripts(connection: redis.Connection, digest: bytes, count: int) -> Mapping[str, float]:
    _set_first(connection)
    start = time.perf_counter()
    for change in _changes(count):
        connection.ask(b"EVALSHA", digest, b"1", *change, reply=b":1\r\n")
    return {f"{REDIS} if-single": time.perf_counter() - start}


def _watches(connection: redis.Connection, count: int) -> Mapping[str, float]:
    """Measure two round trips a conditional write: the client compares the value in between."""
    _set_first(connection)
    start = time.perf_counter()
    for key, value, new in _changes(count):
        connection.socket.sendall(redis.encoded(b"WATCH", key) + redis.encoded(b"GET", key))
        connection.expect(b"+OK\r\n$%d\r\n%b\r\n" % (len(value), value))
        connection.socket.sendall(
            redis.encoded(b"MULTI") + redis.encoded(b"SET", key, new) + redis.encoded(b"EXEC")
        )
        connection.expect(b"+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n")
    return {f"{REDIS_WATCH} if-single": time.perf_counter() - start}


def _increments(connection: redis.Connection, count: int) -> Mapping[str, float]:
    connection.ask(b"FLUSHALL", b"SYNC", reply=b"+OK\r\n")
    start = time.perf_counter()
    for number, (key, *_) in enumerate(_changes(count)):
        connection.ask(b"INCR", key, reply=b":%d\r\n" % (number // _KEYS + 1))
    return {f"{REDIS} add-single": time.perf_counter() - start}
