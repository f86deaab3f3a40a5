"""SHOW and BACKUP of a large table: how long, how long others wait, how much memory."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from operator import itemgetter

from bench import memory, redis
from bench.pairs import PAIR_BYTES, drawn, fill
from bench.processes import engines_built, in_fresh_process
from bench.results import Goal, Outcome, Row, duration, size, times
from bench.rounds import Subject, Turns
from bench.scale import Scale
from bench.stall_probe import Prober
from kvs import Store
from kvs.engine.selection import COMPILED, ENGINE_VARIABLE

_LOOK_SECONDS = 0.005


# At most, of a million pairs in the compiled engine:
PAIR_GOAL = 72
"""Bytes of a pair."""
SHOW_GOAL = BACKUP_GOAL = 0.3
"""Seconds."""
DIRTY_GOAL = 20 << 20
"""Bytes that the child of a BACKUP dirties."""
FORK_GOAL = 0.005
"""Seconds for which its fork holds the store."""


def show(scale: Scale, directory: str) -> Outcome:  # noqa: ARG001  (needs no files)
    """Measure SHOW of a large table with each engine, in a fresh process each time."""
    rows: list[Row] = []
    goals: list[Goal] = []
    for engine in engines_built():
        turns = Turns([partial(in_fresh_process, _show, engine, scale.pairs)], scale.long_turns)
        rows += _show_rows(turns, engine, scale.pairs)
        if engine == COMPILED:
            pair, seconds = turns.median("table") / scale.pairs, turns.median("show")
            goals = [
                Goal(f"a pair takes at most {PAIR_GOAL} bytes", f"{pair:.0f}", pair <= PAIR_GOAL),
                _most(f"SHOW of {scale.pairs:,} pairs", seconds, SHOW_GOAL),
            ]
    return Outcome(rows, goals)


def _most(what: str, seconds: float, goal: float) -> Goal:
    return Goal(f"{what} takes at most {duration(goal)}", duration(seconds), seconds <= goal)


def _show_rows(turns: Turns, engine: str, pairs: int) -> Iterator[Row]:
    what = f"SHOW of {pairs:,} pairs, {engine} engine"
    pair = turns.median("table") / pairs
    yield Row(
        f"{what} (16-byte keys, 26-byte values)",
        turns.duration("show"),
        f"{times(turns.ratio('show', 'bare'))} sorting and joining a bare dict",
    )
    yield Row(
        f"{what}: the longest wait of a reader on another thread",
        turns.duration("wait"),
        f"{times(turns.ratio('wait', 'show'))} SHOW",
    )
    yield Row(
        f"{what}: memory above that of the table, at its peak",
        size(turns.median("extra")),
        f"{times(turns.ratio('extra', 'table'))} the table",
    )
    yield Row(
        f"memory of a pair (16 + 26 bytes), of {pairs:,}, {engine} engine",
        f"{pair:.0f} bytes",
        f"{times(pair / PAIR_BYTES)} what it holds",
    )


def _show(engine: str, pairs: int) -> Mapping[str, float]:
    store, table = _filled(engine, pairs)
    memory.forget_peak()
    resident = memory.resident()
    seconds = _timed_show(store)
    extra = memory.peak() - resident
    prober = Prober(lambda: store.read([b"k"]))
    with prober.probing():
        _timed_show(store)
    bare = _timed_bare_show(dict(drawn(pairs)))
    return {
        "show": seconds, "wait": prober.longest_wait, "bare": bare, "extra": extra, "table": table,
    }  # fmt: skip


def _timed_show(store: Store) -> float:
    began = time.perf_counter()
    store.execute(b"SHOW\n")
    return time.perf_counter() - began


def _timed_bare_show(table: dict[bytes, bytes]) -> float:
    began = time.perf_counter()
    pairs = sorted(table.items(), key=itemgetter(0))
    b"(" + b")\n(".join(map(b", ".join, pairs)) + b")\n"
    return time.perf_counter() - began


def backup(scale: Scale, directory: str) -> Outcome:
    """Measure a backup of a large table with each engine, and Redis' of the same pairs."""
    path = os.path.join(directory, "large.bck")
    subjects: list[Subject] = [
        partial(in_fresh_process, _backup, engine, scale.pairs, path) for engine in engines_built()
    ]
    why_no_redis = redis.missing()
    with ExitStack() as stack:
        if why_no_redis is None:
            server = stack.enter_context(redis.running(directory))
            subjects.append(_redis_backup(server, scale.pairs, directory))
        turns = Turns(subjects, scale.long_turns)
    rows: list[Row] = []
    for engine in engines_built():
        rows += _backup_rows(turns, engine, f"BACKUP of {scale.pairs:,} pairs, {engine} engine")
    if why_no_redis is None:
        rows += _redis_rows(turns, scale.pairs)
    goals = _backup_goals(turns, scale.pairs) if COMPILED in engines_built() else ()
    return Outcome(rows, list(goals), [why_no_redis] if why_no_redis else [])


def _backup_rows(turns: Turns, engine: str, what: str) -> Iterator[Row]:
    def ratio(name: str, base: str, called: str) -> str:
        return f"{times(turns.ratio(f'{engine} {name}', f'{engine} {base}'))} {called}"

    def time_row(of_what: str, name: str, base: str, called: str) -> Row:
        figure = turns.duration(f"{engine} {name}")
        return Row(f"{what}{of_what}", figure, ratio(name, base, called))

    def memory_row(of_what: str, name: str, base: str, called: str) -> Row:
        figure = size(turns.median(f"{engine} {name}"))
        return Row(f"{what}: {of_what}", figure, ratio(name, base, called))

    yield time_row(", until it is on disk", "backup", "show", "SHOW")
    yield time_row(": for how long the fork held the store", "held", "backup", "BACKUP")
    yield time_row(": the longest wait of a reader on another thread", "wait", "backup", "BACKUP")
    yield memory_row("the process at its peak", "peak", "resident", "itself before")
    yield memory_row(
        "the child at its peak, what it shares included", "child", "table", "the table"
    )
    yield memory_row("what the child dirtied and so had to itself", "dirtied", "table", "the table")


def _redis_rows(turns: Turns, pairs: int) -> Iterator[Row]:
    what = f"BGSAVE of the same {pairs:,} pairs in Redis {redis.version()}"
    built = [engine for engine in engines_built() if engine == COMPILED]

    def ratio(name: str, ours: str) -> str:
        return "".join(f"{times(turns.ratio(name, f'{each} {ours}'))} kvs" for each in built)

    yield Row(what, turns.duration("bgsave"), ratio("bgsave", "backup"))
    yield Row(f"{what}: the fork", turns.duration("bgsave fork"), ratio("bgsave fork", "held"))


def _backup_goals(turns: Turns, pairs: int) -> Iterator[Goal]:
    what = f"BACKUP of {pairs:,} pairs"
    dirtied = turns.median(f"{COMPILED} dirtied")
    yield _most(what, turns.median(f"{COMPILED} backup"), BACKUP_GOAL)
    yield Goal(f"{what}: the child dirties at most 20 MiB", size(dirtied), dirtied <= DIRTY_GOAL)
    yield _most(f"{what}: the fork", turns.median(f"{COMPILED} held"), FORK_GOAL)


def _redis_backup(server: redis.Redis, pairs: int, directory: str) -> Subject:
    """Fill Redis; return what has it write all of that."""
    requests = os.path.join(directory, "pairs.resp")
    with open(requests, "wb") as file:
        file.writelines(redis.encoded(b"SET", *pair) for pair in drawn(pairs))
    server.feed(requests, pairs)

    def saved() -> Mapping[str, float]:
        with redis.Connection(server.socket) as connection:
            began = time.perf_counter()
            connection.ask(b"BGSAVE", reply=b"+Background saving started\r\n")
            while (found := connection.info("persistence"))["rdb_bgsave_in_progress"] != "0":
                time.sleep(_LOOK_SECONDS)
            seconds = time.perf_counter() - began
            if found["rdb_last_bgsave_status"] != "ok":
                raise redis.RedisFailed("Redis could not save what it holds")
            fork = int(connection.info("stats")["latest_fork_usec"]) / 1e6
        return {"bgsave": seconds, "bgsave fork": fork}

    return saved


def _backup(engine: str, pairs: int, path: str) -> Mapping[str, float]:
    store, table = _filled(engine, pairs)
    resident = memory.resident()
    memory.forget_peak()
    written = store.backup(path)
    prober = Prober(lambda: store.read([b"k"]))
    with prober.probing():
        store.backup(path)
    watch = memory.ChildWatch()
    with watch.watching():
        store.backup(path)
    peak = memory.peak()  # before SHOW, which has its own
    figures = {
        "backup": written.seconds,
        "held": written.blocked_seconds,
        "wait": prober.longest_wait,
        "table": table,
        "resident": resident,
        "peak": peak,
        "child": memory.peak_of_children(),
        "dirtied": watch.private_dirty,
        "show": _timed_show(store),
    }
    return {f"{engine} {name}": figure for name, figure in figures.items()}


def _filled(engine: str, pairs: int) -> tuple[Store, int]:
    """Return a store of so many pairs, and by how much the process grew with it."""
    os.environ[ENGINE_VARIABLE] = engine
    before = memory.resident()
    store = Store()
    fill(store, pairs)
    return store, memory.resident() - before
