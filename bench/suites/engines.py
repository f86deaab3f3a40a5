"""Both engines beside the baselines in Python and C++ and beside Redis, with few and many keys."""

import filecmp
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from bench import baseline, redis
from bench.make_jobs import make_jobs
from bench.processes import KVS as KVS_PROGRAM
from bench.processes import PYTHON, engines_built, timed
from bench.results import (
    CPP_BASELINE,
    KVS_ONE_THREAD,
    KVS_PYTHON,
    KVS_TWO_THREADS,
    PYTHON_BASELINE,
    REDIS,
    Goal,
    Outcome,
    times,
)
from bench.rounds import Rounds, Subject, joined
from bench.scale import Scale
from bench.suites.run import feed, final_key_count, job_stems, write_requests
from kvs.engine import selection

_CPP_SOURCE = os.path.join(os.path.dirname(baseline.__file__), "baseline.cpp")

NOT_BUILT = "The compiled engine was not built, and so not measured."

FEW_KEYS_GOAL, MANY_KEYS_GOAL = 10, 8
"""Minimum speed of one thread as a multiple of the Python baseline's loop."""
THREADS_GOAL = 1.4
"""Minimum speed of two threads as a multiple of one."""
CPP_GOAL = 1
"""Minimum speed of one thread as a multiple of the C++ baseline."""
REDIS_GOALS = {KVS_ONE_THREAD: 4, KVS_TWO_THREADS: 7}
"""Minimum speed as a multiple of Redis."""

_NAMES_PER_KEY = 26
"""Names that `make_jobs` uses for each of its keys: one to a letter."""


@dataclass(frozen=True)
class _Jobs:
    """Jobs to measure."""

    directory: str
    files: int
    commands: int
    """Commands in all files."""
    keys: int
    """Different names of keys."""


def engines_few(scale: Scale, directory: str) -> Outcome:
    """Measure ``kvs run`` on few keys, which fit into the caches of a processor."""
    jobs = _make_jobs(scale, directory, scale.few_keys_commands, scale.few_keys)
    return _measure(scale, directory, jobs, FEW_KEYS_GOAL)


def engines_many(scale: Scale, directory: str) -> Outcome:
    """Measure ``kvs run`` on many keys, of which most accesses miss the caches."""
    jobs = _make_jobs(scale, directory, scale.many_keys_commands, scale.many_keys)
    return _measure(scale, directory, jobs, MANY_KEYS_GOAL)


def _make_jobs(scale: Scale, directory: str, commands: int, keys: int) -> _Jobs:
    path = os.path.join(directory, "jobs")
    make_jobs(path, files=scale.files, commands=commands, keys=keys)
    return _Jobs(path, scale.files, scale.files * commands, _NAMES_PER_KEY * keys)


def _measure(scale: Scale, directory: str, jobs: _Jobs, loop_goal: int) -> Outcome:
    program, why_no_cpp = _compile_baseline(directory)
    why_no_redis = redis.missing()
    key_count = final_key_count(jobs.directory)
    if program:
        _check_baseline(jobs.directory, program)
    with ExitStack() as stack:
        subjects = _subjects(jobs.directory, program)
        if why_no_redis is None:
            server = stack.enter_context(redis.running(directory))
            subjects.append(_redis(server, jobs, key_count))
        rounds = Rounds(subjects, scale.engine_rounds)
    # The Python engine takes so long that it is measured once.
    once = Rounds([_run(KVS_PYTHON, selection.PYTHON, 1, jobs.directory)], 1)
    label = f"{jobs.commands:,} commands, {jobs.keys:,} keys"
    python = once.workload("commands", label, {KVS_PYTHON: KVS_PYTHON})
    systems = (KVS_ONE_THREAD, KVS_TWO_THREADS, PYTHON_BASELINE, CPP_BASELINE, REDIS)
    main = rounds.workload("commands", label, {name: name for name in systems})
    workload = joined(main, python)
    goals = list(_goals(rounds, jobs.keys, loop_goal)) if _compiled() else []
    remarks = [None if _compiled() else NOT_BUILT, why_no_cpp, why_no_redis]
    return Outcome([workload], goals, [remark for remark in remarks if remark])


def _subjects(jobs: str, program: str | None) -> list[Subject]:
    subjects = [_printing(PYTHON_BASELINE, [PYTHON, baseline.__file__, jobs], jobs)]
    if program:
        subjects.append(_printing(CPP_BASELINE, [program, jobs], jobs))
    if _compiled():
        subjects.append(_run(KVS_ONE_THREAD, selection.COMPILED, 1, jobs))
        subjects.append(_run(KVS_TWO_THREADS, selection.COMPILED, 2, jobs))
    return subjects


def _printing(name: str, command: list[str], jobs: str) -> Subject:
    """Return a subject that runs a baseline, which prints the seconds of its loop."""

    def run() -> Mapping[str, float]:
        _remove_outputs(jobs)
        return {name: float(timed(command)[1])}

    return run


def _redis(server: redis.Redis, jobs: _Jobs, key_count: int) -> Subject:
    requests = write_requests(jobs.directory)
    return lambda: {REDIS: feed(server, requests, jobs.commands, key_count)}


def _run(name: str, engine: str, threads: int, jobs: str) -> Subject:
    options = ["--quiet", "--threads", str(threads)]
    command = [KVS_PROGRAM, "run", *options, jobs]
    variables = {selection.ENGINE_VARIABLE: engine}

    def run() -> Mapping[str, float]:
        _remove_outputs(jobs)
        return {name: timed(command, variables=variables)[0]}

    return run


def _remove_outputs(jobs: str) -> None:
    """Remove all outputs, so that no system has to truncate the large files of another."""
    for name in os.listdir(jobs):
        if name.endswith((".out", ".baseline")):
            os.unlink(os.path.join(jobs, name))


def _goals(rounds: Rounds, keys: int, loop_goal: int) -> Iterator[Goal]:
    def faster(name: str, base: str, goal: float) -> Goal:
        ratio = rounds.ratio(base, name)
        times_as_fast = "as fast" if goal == 1 else f"{goal} times as fast"
        promise = f"{name}, {keys:,} keys: at least {times_as_fast} as {base}"
        return Goal(promise, times(ratio), ratio >= goal)

    yield faster(KVS_ONE_THREAD, PYTHON_BASELINE, loop_goal)
    yield faster(KVS_TWO_THREADS, KVS_ONE_THREAD, THREADS_GOAL)
    if CPP_BASELINE in rounds.figures:
        yield faster(KVS_ONE_THREAD, CPP_BASELINE, CPP_GOAL)
    if REDIS in rounds.figures:
        for name, goal in REDIS_GOALS.items():
            yield faster(name, REDIS, goal)


def _compile_baseline(directory: str) -> tuple[str | None, str | None]:
    """Return the path of the program, or a remark why it could not be compiled."""
    program = os.path.join(directory, "baseline")
    try:
        subprocess.run(["c++", "-std=c++17", "-O3", _CPP_SOURCE, "-o", program], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return None, f"The C++ baseline was not measured: {error}."
    return program, None


def _check_baseline(jobs: str, program: str) -> None:
    """Check that the C++ baseline writes the outputs that the Python baseline has left."""
    stems = job_stems(jobs)
    for stem in stems:
        os.rename(stem + ".baseline", stem + ".python")
    timed([program, jobs])
    for stem in stems:
        if not filecmp.cmp(stem + ".baseline", stem + ".python", shallow=False):
            raise AssertionError(f"{stem}: the outputs of the baselines differ")
        os.unlink(stem + ".python")


def _compiled() -> bool:
    return selection.COMPILED in engines_built()
