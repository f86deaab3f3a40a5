"""The time of a command on tables of different sizes."""

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from threading import Lock

from bench import baseline
from bench.make_jobs import PAIRS, lines
from bench.processes import in_fresh_process
from bench.results import Goal, Outcome, Row, times
from bench.rounds import Turns
from bench.scale import Scale
from kvs import Store

GOAL = 1.1
"""How much more kvs may grow with the table than the floor does, which only misses caches."""

_FILL_AT_ONCE = 10_000


def tables(scale: Scale, directory: str) -> Outcome:  # noqa: ARG001  (needs no files)
    """Measure the same number of commands on one thread, on full tables of each size."""
    turns = in_fresh_process(_measured, scale.table_sizes, scale.table_commands, scale.turns)
    smallest, largest = scale.table_sizes[0], scale.table_sizes[-1]
    grown = _growth(turns, "kvs", largest, smallest)
    floor_grown = _growth(turns, "floor", largest, smallest)
    goal = Goal(
        "a command takes as long with many keys as with few, but for cache misses: from "
        f"{smallest:,} to {largest:,} keys it slows down at most {GOAL} times as much as on a "
        "bare dict",
        f"{times(grown)}, on a bare dict {times(floor_grown)}",
        grown <= GOAL * floor_grown,
    )
    rows = list(_rows(turns, scale.table_sizes, scale.table_commands))
    # A very large one takes long to fill.
    sizes = (smallest, scale.largest_table)
    turns = in_fresh_process(_measured, sizes, scale.table_commands, scale.growth_turns)
    rows += list(_rows(turns, sizes, scale.table_commands))[1:]
    return Outcome(rows, [goal])


def _rows(turns: Turns, sizes: Sequence[int], commands: int) -> Iterator[Row]:
    smallest = sizes[0]
    for keys in sizes:
        what = f"a command with {keys:,} keys, one thread, in the process"
        figure = turns.duration(f"kvs {keys}", per=commands)
        ratio = f"{times(turns.ratio(f'kvs {keys}', f'floor {keys}'))} the floor's loop"
        if keys != smallest:
            ratio += f", {times(_growth(turns, 'kvs', keys, smallest))} {smallest:,} keys"
            ratio += f" (on a bare dict {times(_growth(turns, 'floor', keys, smallest))})"
        yield Row(what, figure, ratio)


def _growth(turns: Turns, name: str, keys: int, smallest: int) -> float:
    return turns.ratio(f"{name} {keys}", f"{name} {smallest}")


def _measured(sizes: Sequence[int], commands: int, count: int) -> Turns:
    tables = [_Table(keys, commands) for keys in sizes]
    for table in tables:
        table.check()
    return Turns([run for table in tables for run in (table.kvs, table.floor)], count)


class _Table:
    """The same keys in a store and in the floor's dict, and commands for both."""

    def __init__(self, keys: int, commands: int) -> None:
        rng = random.Random(keys)
        # All names are of one length, so that the commands are of one length on all tables.
        script = lines(rng, commands, lambda: _name(rng.randrange(keys)), PAIRS)
        self._script = "".join(script).encode()
        self._keys = keys
        self._store = Store()
        self._dict: dict[bytes, bytes] = {}
        self._lock = Lock()

    def kvs(self) -> Mapping[str, float]:
        self._fill_store()
        began = time.perf_counter()
        self._execute()
        return {f"kvs {self._keys}": time.perf_counter() - began}

    def floor(self) -> Mapping[str, float]:
        self._fill_dict()
        began = time.perf_counter()
        baseline.carry_out(self._script, self._dict, self._lock)
        return {f"floor {self._keys}": time.perf_counter() - began}

    def check(self) -> None:
        self._fill_store()
        self._fill_dict()
        if self._execute() != baseline.carry_out(self._script, self._dict, self._lock):
            raise AssertionError(f"with {self._keys} keys, kvs and the floor differ")

    def _execute(self) -> bytes:
        output = []
        offset = 0
        while offset < len(self._script):
            pause = self._store.execute(self._script, offset)
            output.append(pause.output)
            offset = pause.offset
        return b"".join(output)

    # Filled again before each measurement: the DELETEs of the one before left holes.

    def _fill_store(self) -> None:
        for pairs in self._all():
            self._store.write(pairs)

    def _fill_dict(self) -> None:
        for pairs in self._all():
            self._dict.update(pairs)

    def _all(self) -> Iterator[dict[bytes, bytes]]:
        for start in range(0, self._keys, _FILL_AT_ONCE):
            numbers = range(start, min(start + _FILL_AT_ONCE, self._keys))
            yield {_name(number).encode(): b"value%d" % number for number in numbers}


def _name(number: int) -> str:
    return f"key{number:013}"
