"""The time of a command on tables of different sizes."""

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from threading import Lock

from bench import baseline
from bench.make_jobs import PAIRS, lines
from bench.processes import in_fresh_process
from bench.results import KVS_ONE_THREAD, PYTHON_BASELINE, Goal, Outcome, Workload, times
from bench.rounds import Rounds
from bench.scale import Scale
from kvs import Store

GOAL = 1.1
"""Maximum slowdown by a large table, as a multiple of a dict's, which only misses caches."""

_BATCH = 10_000
"""Pairs per write when a table is filled."""


def tables(scale: Scale, directory: str) -> Outcome:  # noqa: ARG001  (needs no files)
    """Measure the same number of commands on one thread, on full tables of each size."""
    rounds = in_fresh_process(_measure, scale.table_sizes, scale.table_commands, scale.long_rounds)
    # A very large table takes long to fill.
    large = in_fresh_process(_measure, (scale.largest_table,), scale.table_commands, 1)
    return Outcome(
        [
            *_workloads(rounds, scale.table_sizes, scale.table_commands),
            *_workloads(large, (scale.largest_table,), scale.table_commands),
        ],
        [_goal(rounds, scale.table_sizes[0], scale.table_sizes[-1])],
    )


def _goal(rounds: Rounds, smallest: int, largest: int) -> Goal:
    slowdown = rounds.ratio(f"kvs {largest}", f"kvs {smallest}")
    of_dict = rounds.ratio(f"baseline {largest}", f"baseline {smallest}")
    return Goal(
        f"from {smallest:,} to {largest:,} keys a command slows down at most {GOAL} times as much "
        "as in the Python baseline, whose dict only misses caches",
        f"{times(slowdown)}, baseline {times(of_dict)}",
        slowdown <= GOAL * of_dict,
    )


def _workloads(rounds: Rounds, sizes: Sequence[int], commands: int) -> Iterator[Workload]:
    for keys in sizes:
        yield rounds.workload(
            f"command-{keys}",
            f"a command with {keys:,} keys, in the process",
            {KVS_ONE_THREAD: f"kvs {keys}", PYTHON_BASELINE: f"baseline {keys}"},
            count=commands,
        )


def _measure(sizes: Sequence[int], commands: int, count: int) -> Rounds:
    tables = [_Table(keys, commands) for keys in sizes]
    for table in tables:
        table.check()
    return Rounds([run for table in tables for run in (table.kvs, table.baseline)], count)


class _Table:
    """The same keys in a store and in the baseline's dict, and commands for both."""

    def __init__(self, keys: int, commands: int) -> None:
        rng = random.Random(keys)
        # All names have the same length, so that commands are equally long on all tables.
        script = lines(rng, commands, lambda: _name(rng.randrange(keys)), PAIRS)
        self._script = "".join(script).encode()
        self._keys = keys
        self._store = Store()
        self._dict: dict[bytes, bytes] = {}
        self._lock = Lock()

    def kvs(self) -> Mapping[str, float]:
        self._fill_store()
        start = time.perf_counter()
        self._execute()
        return {f"kvs {self._keys}": time.perf_counter() - start}

    def baseline(self) -> Mapping[str, float]:
        self._fill_dict()
        start = time.perf_counter()
        baseline.execute(self._script, self._dict, self._lock)
        return {f"baseline {self._keys}": time.perf_counter() - start}

    def check(self) -> None:
        self._fill_store()
        self._fill_dict()
        if self._execute() != baseline.execute(self._script, self._dict, self._lock):
            raise AssertionError(f"{self._keys} keys: the outputs of kvs and the baseline differ")

    def _execute(self) -> bytes:
        output = []
        offset = 0
        while offset < len(self._script):
            result = self._store.execute(self._script, offset)
            output.append(result.output)
            offset = result.offset
        return b"".join(output)

    # Both are filled again before each measurement, as its DELETEs remove keys.

    def _fill_store(self) -> None:
        for pairs in self._batches():
            self._store.write(pairs)

    def _fill_dict(self) -> None:
        for pairs in self._batches():
            self._dict.update(pairs)

    def _batches(self) -> Iterator[dict[bytes, bytes]]:
        for start in range(0, self._keys, _BATCH):
            numbers = range(start, min(start + _BATCH, self._keys))
            yield {_name(number).encode(): b"value%d" % number for number in numbers}


def _name(number: int) -> str:
    return f"key{number:013}"
