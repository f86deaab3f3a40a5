"""The time of single inserts while a table grows from empty to very large."""

import time
from collections.abc import Mapping
from functools import partial

from bench import memory
from bench.processes import engines_built, in_fresh_process
from bench.results import BYTES, Goal, Outcome, Workload, duration
from bench.rounds import Rounds
from bench.scale import Scale
from bench.suites.engines import NOT_BUILT
from bench.systems import system_of
from kvs.engine import selection
from kvs.engine.interface import Engine
from kvs.engine.python import PythonEngine

GOAL_S = 0.005
"""Maximum seconds of one WRITE of one pair."""

_BUDGET_BYTES = 65536
"""Budget of one `Engine.execute`: more than one line needs."""


def growth(scale: Scale, directory: str) -> Outcome:  # noqa: ARG001  (needs no files)
    """Measure the longest and the mean WRITE of one pair, and the memory of a pair."""
    pairs, many_pairs = scale.growth_pairs
    engines = engines_built()
    rounds = Rounds([partial(in_fresh_process, _grow, engine, pairs) for engine in engines], 1)
    workloads = _workloads(rounds, engines, pairs)
    if selection.COMPILED not in engines:
        return Outcome(workloads, remarks=[NOT_BUILT])
    large = Rounds([partial(in_fresh_process, _grow, selection.COMPILED, many_pairs)], 1)
    longest = min(large.figures[f"{selection.COMPILED} longest"])
    promise = f"0 to {many_pairs:,} pairs: no WRITE of one pair takes more than {duration(GOAL_S)}"
    goal = Goal(promise, duration(longest), longest <= GOAL_S)
    return Outcome([*workloads, *_workloads(large, [selection.COMPILED], many_pairs)], [goal])


def _workloads(rounds: Rounds, engines: list[str], pairs: int) -> list[Workload]:
    def workload(figure: str, label: str, unit: str) -> Workload:
        systems = {system_of(engine): f"{engine} {figure}" for engine in engines}
        return rounds.workload(
            f"{figure}-{pairs}", f"0 to {pairs:,} pairs: {label}", systems, unit=unit
        )

    return [
        workload("longest", "longest WRITE of one pair", "s"),
        workload("work", "longest WRITE of one pair, CPU time of the thread", "s"),
        workload("mean", "mean WRITE of one pair", "s"),
        workload("bytes", "memory per pair (16 + 26 bytes)", BYTES),
    ]


def _grow(name: str, pairs: int) -> Mapping[str, float]:
    engine: Engine = PythonEngine() if name == selection.PYTHON else selection.create_engine()
    before = memory.resident()
    longest = longest_work = 0.0
    start = time.perf_counter()
    for number in range(pairs):
        line = b"WRITE [(key%013d,value%021d)]" % (number * 7919 % 10**13, number)
        work, line_start = time.thread_time(), time.perf_counter()
        engine.execute(line, 0, _BUDGET_BYTES)
        longest = max(longest, time.perf_counter() - line_start)
        longest_work = max(longest_work, time.thread_time() - work)
    figures = {
        "longest": longest,
        "work": longest_work,
        "mean": (time.perf_counter() - start) / pairs,
        "bytes": (memory.resident() - before) / pairs,
    }
    return {f"{name} {figure}": value for figure, value in figures.items()}
