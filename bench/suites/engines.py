"""Both engines beside the floors in Python and in C++, and Redis; and how a table grows."""

import filecmp
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial

from bench import baseline, memory, redis
from bench.make_jobs import make_jobs
from bench.processes import KVS, PYTHON, engines_built, in_fresh_process, timed
from bench.results import Goal, Outcome, Row, duration, times
from bench.rounds import Subject, Turns
from bench.scale import Scale
from bench.suites.run import fed, keys_left, requests_of
from kvs.engine import selection
from kvs.engine.interface import Engine
from kvs.engine.python import PythonEngine

_FLOOR_IN_CPP = os.path.join(os.path.dirname(baseline.__file__), "baseline.cpp")

_NOT_BUILT = "The compiled engine was not built, and so not measured."

_LOOP = "the loop of the floor"
_CPP = "the floor in C++"
_REDIS = "`redis-cli --pipe` into Redis"

LOOP_GOALS = (10, 8)
"""How many times as fast as the floor's loop one thread is to be, with few keys and with many."""
THREADS_GOAL = 1.4
"""How many times as fast as one thread two are to be."""
REDIS_GOALS = {1: 4, 2: 7}
"""How many times as fast as Redis so many threads are to be, with few keys."""

LONGEST_GOAL = 0.005
"""Seconds of the longest WRITE of one pair on the way to very many, at most."""


def engines(scale: Scale, directory: str) -> Outcome:
    """Measure ``kvs run`` with each engine on few keys and on many, beside what it is to beat."""
    rows: list[Row] = []
    goals: list[Goal] = []
    remarks = [] if _compiled() else [_NOT_BUILT]
    program, why_none = _built_floor(directory)
    why_no_redis = redis.missing()
    remarks += [why for why in (why_none, why_no_redis) if why]
    for keys, goal in zip(scale.engine_keys, LOOP_GOALS, strict=False):
        jobs = os.path.join(directory, f"jobs-{keys}")
        make_jobs(jobs, files=scale.files, commands=scale.engine_commands, keys=keys)
        if program:
            _check_floor(jobs, program)
        with ExitStack() as stack:
            subjects = _subjects(jobs, program)
            if why_no_redis is None:
                server = stack.enter_context(redis.running(directory))
                subjects[_REDIS] = _redis(server, jobs, scale)
            turns = Turns(list(subjects.values()), scale.engine_turns)
        rows += _rows(turns, scale, 26 * keys)
        rows += _rows_of_python(jobs, scale, 26 * keys)
        if _compiled():
            goals += _goals(turns, 26 * keys, goal)
    return Outcome(rows, goals, remarks)


def _subjects(jobs: str, program: str | None) -> dict[str, Subject]:
    subjects = {_LOOP: _printed(_LOOP, [PYTHON, baseline.__file__, jobs], jobs)}
    if program:
        subjects[_CPP] = _printed(_CPP, [program, jobs], jobs)
    if _compiled():
        for threads in (1, 2):
            subjects[_called(threads)] = _run(selection.COMPILED, threads, jobs)
    return subjects


def _printed(name: str, command: list[str], jobs: str) -> Subject:
    def run() -> Mapping[str, float]:
        _remove_outputs(jobs)
        return {name: float(timed(command)[1])}

    return run


def _redis(server: redis.Redis, jobs: str, scale: Scale) -> Subject:
    left, requests = keys_left(jobs), requests_of(jobs)
    commands = scale.files * scale.engine_commands
    return lambda: {_REDIS: fed(server, requests, commands, left)}


def _called(threads: int, engine: str = selection.COMPILED) -> str:
    return f"`kvs run --threads {threads}`, {engine} engine"


def _run(engine: str, threads: int, jobs: str) -> Subject:
    options = ["--quiet", "--threads", str(threads)]
    command = ["env", f"{selection.ENGINE_VARIABLE}={engine}", KVS, "run", *options, jobs]

    def run() -> Mapping[str, float]:
        _remove_outputs(jobs)
        return {_called(threads, engine): timed(command)[0]}

    return run


def _remove_outputs(jobs: str) -> None:
    """Spare who comes next the work of emptying the files of who came before."""
    for name in os.listdir(jobs):
        if name.endswith((".out", ".floor")):
            os.unlink(os.path.join(jobs, name))


def _rows(turns: Turns, scale: Scale, keys: int) -> Iterator[Row]:
    what = f"{scale.files * scale.engine_commands:,} commands, {keys:,} keys"
    for name in turns.figures:
        ratios = ", ".join(
            f"{times(turns.ratio(name, base))} {base}"
            for base in (_LOOP, _CPP, _REDIS)
            if base in turns.figures and base != name
        )
        yield Row(f"{name}, {what}", turns.duration(name), ratios)


def _rows_of_python(jobs: str, scale: Scale, keys: int) -> Iterator[Row]:
    """Measure the engine in Python, which takes so long that once must do."""
    name = _called(1, selection.PYTHON)
    loop = _printed(_LOOP, [PYTHON, baseline.__file__, jobs], jobs)
    turns = Turns([loop, _run(selection.PYTHON, 1, jobs)], 1)
    what = f"{name}, {scale.files * scale.engine_commands:,} commands, {keys:,} keys"
    yield Row(what, turns.duration(name), f"{times(turns.ratio(name, _LOOP))} {_LOOP}")


def _goals(turns: Turns, keys: int, loop_goal: int) -> Iterator[Goal]:
    one, two = _called(1), _called(2)

    def faster(name: str, base: str, goal: float) -> Goal:
        ratio = turns.ratio(base, name)
        promise = f"{name}, {keys:,} keys: at least {goal} times as fast as {base}"
        return Goal(promise, times(ratio), ratio >= goal)

    yield faster(one, _LOOP, loop_goal)
    yield faster(two, one, THREADS_GOAL)
    if _CPP in turns.figures:
        yield faster(one, _CPP, 1)
    if _REDIS in turns.figures:
        for threads, goal in REDIS_GOALS.items():
            yield faster(_called(threads), _REDIS, goal)


def _built_floor(directory: str) -> tuple[str | None, str | None]:
    """Return the program, or why there is none."""
    program = os.path.join(directory, "floor")
    try:
        subprocess.run(["c++", "-std=c++17", "-O3", _FLOOR_IN_CPP, "-o", program], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return None, f"The floor in C++ was not measured: {error}."
    return program, None


def _check_floor(jobs: str, program: str) -> None:
    """Check that both floors put out the same."""
    timed([PYTHON, baseline.__file__, jobs])
    paths = [os.path.join(jobs, name) for name in os.listdir(jobs) if name.endswith(".floor")]
    for path in paths:
        os.rename(path, path + "-py")
    timed([program, jobs])
    for path in paths:
        if not filecmp.cmp(path, path + "-py", shallow=False):
            raise AssertionError(f"{path}: the floors differ")


def growth(scale: Scale, directory: str) -> Outcome:  # noqa: ARG001  (needs no files)
    """Measure how long one insert takes at most, on the way from none to very many pairs."""
    rows: list[Row] = []
    goals: list[Goal] = []
    for name in engines_built():
        turns = Turns(
            [partial(in_fresh_process, _grown, name, scale.growth_pairs)], scale.growth_turns
        )
        what = f"{name} engine, from none to {scale.growth_pairs:,} pairs (16 + 26 bytes)"
        longest = min(turns.figures["longest"])
        if name == selection.COMPILED:
            promise = f"{what}: no WRITE of one pair takes more than {duration(LONGEST_GOAL)}"
            goals.append(Goal(promise, duration(longest), longest <= LONGEST_GOAL))
        rows += [
            Row(
                f"{what}: the longest WRITE of one pair, in the turn where it was least",
                f"{duration(longest)}, {duration(turns.median('work'))} of it the thread at work",
            ),
            Row(f"{what}: a WRITE of one pair", turns.duration("mean")),
            Row(f"{what}: memory of a pair", f"{turns.median('bytes'):.0f} bytes"),
        ]
    return Outcome(rows, goals, [] if _compiled() else [_NOT_BUILT])


def _grown(name: str, pairs: int) -> Mapping[str, float]:
    engine: Engine = PythonEngine() if name == selection.PYTHON else selection.create_engine()
    before = memory.resident()
    longest = longest_work = 0.0
    began = time.perf_counter()
    for number in range(pairs):
        line = b"WRITE [(key%013d,value%021d)]" % (number * 7919 % 10**13, number)
        work, start = time.thread_time(), time.perf_counter()
        engine.execute(line, 0, 65536)
        longest = max(longest, time.perf_counter() - start)
        longest_work = max(longest_work, time.thread_time() - work)
    mean = (time.perf_counter() - began) / pairs
    return {
        "longest": longest,
        "work": longest_work,
        "mean": mean,
        "bytes": (memory.resident() - before) / pairs,
    }


def _compiled() -> bool:
    return selection.COMPILED in engines_built()
