"""SHOW and BACKUP of a large table: their time, the waits of other threads, and their memory."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from operator import itemgetter

from bench import memory, redis
from bench.pairs import fill, random_pairs
from bench.processes import engines_built, in_fresh_process
from bench.results import BYTES, REDIS, SECONDS, Goal, Outcome, Workload, duration, size
from bench.rounds import Rounds, Subject
from bench.scale import Scale
from bench.stall_probe import StallProbe
from bench.systems import system_of
from kvs import Store
from kvs.engine.selection import COMPILED, ENGINE_VARIABLE

_DICT = "Python dict"

# Limits for a million pairs in the compiled engine:
PAIR_GOAL = 72
"""Maximum bytes per pair."""
SHOW_GOAL_S = BACKUP_GOAL_S = 0.3
"""Maximum seconds."""
DIRTY_GOAL = 20 << 20
"""Maximum bytes that the child of a BACKUP dirties."""
FORK_GOAL_S = 0.005
"""Maximum seconds for which the fork of a BACKUP blocks the store."""


def show(scale: Scale, directory: str) -> Outcome:  # noqa: ARG001  (needs no files)
    """Measure SHOW of a large table with each engine, in a fresh process each time."""
    engines = engines_built()
    rounds = Rounds(
        [partial(in_fresh_process, _show, engine, scale.pairs) for engine in engines],
        scale.long_rounds,
    )
    return Outcome(list(_show_workloads(rounds, scale.pairs)), _show_goals(rounds, scale.pairs))


def _show_workloads(rounds: Rounds, pairs: int) -> Iterator[Workload]:
    what = f"SHOW of {pairs:,} pairs"
    dict_of_last = {_DICT: f"{engines_built()[-1]} dict"}
    yield rounds.workload("show", f"{what} (dict: sort and join)", _systems("show") | dict_of_last)
    yield rounds.workload(
        "wait", f"{what}: longest wait of a reader on another thread", _systems("wait")
    )
    yield rounds.workload(
        "extra", f"{what}: peak memory above the table", _systems("extra"), unit=BYTES
    )
    yield rounds.workload(
        "pair", "memory per pair (16 + 26 bytes)", _systems("table"), unit=BYTES, count=pairs
    )


def _show_goals(rounds: Rounds, pairs: int) -> list[Goal]:
    if COMPILED not in engines_built():
        return []
    pair = rounds.median(f"{COMPILED} table") / pairs
    seconds = rounds.median(f"{COMPILED} show")
    return [
        Goal(f"a pair takes at most {PAIR_GOAL} bytes", f"{pair:.0f} bytes", pair <= PAIR_GOAL),
        _at_most(f"SHOW of {pairs:,} pairs", seconds, SHOW_GOAL_S),
    ]


def _systems(figure: str) -> dict[str, str]:
    """Return the names of a figure by system: kvs with each engine."""
    return {system_of(engine): f"{engine} {figure}" for engine in reversed(engines_built())}


def _at_most(what: str, seconds: float, goal: float) -> Goal:
    return Goal(f"{what} takes at most {duration(goal)}", duration(seconds), seconds <= goal)


def _show(engine: str, pairs: int) -> Mapping[str, float]:
    store, table = _filled(engine, pairs)
    memory.reset_peak()
    resident = memory.resident()
    seconds = _timed_show(store)
    extra = memory.peak() - resident
    probe = StallProbe(lambda: store.read([b"k"]))
    with probe.probing():
        _timed_show(store)
    figures = {
        "show": seconds,
        "wait": probe.longest_wait,
        "dict": _timed_dict_show(dict(random_pairs(pairs))),
        "extra": extra,
        "table": table,
    }
    return {f"{engine} {name}": figure for name, figure in figures.items()}


def _timed_show(store: Store) -> float:
    start = time.perf_counter()
    store.execute(b"SHOW\n")
    return time.perf_counter() - start


def _timed_dict_show(table: dict[bytes, bytes]) -> float:
    start = time.perf_counter()
    pairs = sorted(table.items(), key=itemgetter(0))
    b"(" + b")\n(".join(map(b", ".join, pairs)) + b")\n"
    return time.perf_counter() - start


def backup(scale: Scale, directory: str) -> Outcome:
    """Measure a backup of a large table with each engine, and one of the same pairs in Redis."""
    path = os.path.join(directory, "large.bck")
    subjects: list[Subject] = [
        partial(in_fresh_process, _backup, engine, scale.pairs, path) for engine in engines_built()
    ]
    why_no_redis = redis.missing()
    with ExitStack() as stack:
        if why_no_redis is None:
            server = stack.enter_context(redis.running(directory))
            subjects.append(_redis_backup(server, scale.pairs, directory))
        rounds = Rounds(subjects, scale.long_rounds)
    goals = list(_backup_goals(rounds, scale.pairs)) if COMPILED in engines_built() else []
    remarks = [why_no_redis] if why_no_redis else []
    return Outcome(list(_backup_workloads(rounds, scale.pairs)), goals, remarks)


def _backup_workloads(rounds: Rounds, pairs: int) -> Iterator[Workload]:
    what = f"BACKUP of {pairs:,} pairs"

    def workload(figure: str, label: str, unit: str = SECONDS, redis_figure: str = "") -> Workload:
        systems = _systems(figure) | {REDIS: redis_figure}
        return rounds.workload(figure, f"{what}{label}", systems, unit=unit)

    yield workload("backup", ", until it is on disk (Redis: BGSAVE)", redis_figure="bgsave")
    yield workload("held", ": fork, which blocks the store", redis_figure="bgsave fork")
    yield workload("wait", ": longest wait of a reader on another thread")
    yield workload("peak", ": peak memory of the process", BYTES)
    yield workload("resident", ": memory of the process before", BYTES)
    yield workload("child", ": peak memory of the child, shared pages included", BYTES)
    yield workload("dirtied", ": memory that the child dirtied", BYTES)


def _backup_goals(rounds: Rounds, pairs: int) -> Iterator[Goal]:
    what = f"BACKUP of {pairs:,} pairs"
    dirtied = rounds.median(f"{COMPILED} dirtied")
    yield _at_most(what, rounds.median(f"{COMPILED} backup"), BACKUP_GOAL_S)
    yield Goal(f"{what}: the child dirties at most 20 MiB", size(dirtied), dirtied <= DIRTY_GOAL)
    yield _at_most(f"{what}: the fork", rounds.median(f"{COMPILED} held"), FORK_GOAL_S)


def _redis_backup(server: redis.Redis, pairs: int, directory: str) -> Subject:
    """Fill Redis; return a subject that makes it save all pairs."""
    requests = os.path.join(directory, "pairs.resp")
    with open(requests, "wb") as file:
        file.writelines(redis.encoded(b"SET", *pair) for pair in random_pairs(pairs))
    server.feed(requests, pairs)

    def save() -> Mapping[str, float]:
        with redis.Connection(server.socket) as connection:
            seconds, fork = connection.save()
        return {"bgsave": seconds, "bgsave fork": fork}

    return save


def _backup(engine: str, pairs: int, path: str) -> Mapping[str, float]:
    store, _ = _filled(engine, pairs)
    resident = memory.resident()
    memory.reset_peak()
    written = store.backup(path)
    probe = StallProbe(lambda: store.read([b"k"]))
    with probe.probing():
        store.backup(path)
    watch = memory.ChildWatch()
    with watch.watching():
        store.backup(path)
    figures = {
        "backup": written.seconds,
        "held": written.blocked_seconds,
        "wait": probe.longest_wait,
        "resident": resident,
        "peak": memory.peak(),
        "child": memory.peak_of_children(),
        "dirtied": watch.private_dirty,
    }
    return {f"{engine} {name}": figure for name, figure in figures.items()}


def _filled(engine: str, pairs: int) -> tuple[Store, int]:
    """Return a store with `pairs` pairs, and by how many bytes the process grew."""
    os.environ[ENGINE_VARIABLE] = engine
    before = memory.resident()
    store = Store()
    fill(store, pairs)
    return store, memory.resident() - before
