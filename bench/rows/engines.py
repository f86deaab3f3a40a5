"""Both engines beside the floors in Python and in C++; and how a table grows."""

import filecmp
import os
import subprocess
import time
from collections.abc import Iterator, Mapping

from bench import floor, memory
from bench.figures import Outcome, Row, duration, times
from bench.make_jobs import make_jobs
from bench.processes import KVS, PYTHON, in_fresh_process, timed
from bench.scale import Scale
from bench.turns import Subject, Turns
from kvs.engine.boundary import Engine
from kvs.engine.choice import COMPILED, VARIABLE, engine_name, new_engine
from kvs.engine.python import PythonEngine

_FLOOR_IN_CPP = os.path.join(os.path.dirname(floor.__file__), "floor.cpp")

_NOT_BUILT = "The compiled engine was not built, and so not measured."


def engines(scale: Scale, directory: str) -> Outcome:
    """Measure ``kvs run`` with each engine on few keys and on many, beside both floors."""
    rows: list[Row] = []
    remarks = [] if _compiled() else [_NOT_BUILT]
    program, why_none = _built_floor(directory)
    remarks += [why_none] if why_none else []
    for keys in scale.engine_keys:
        jobs = os.path.join(directory, f"jobs-{keys}")
        make_jobs(jobs, files=scale.files, commands=scale.engine_commands, keys=keys)
        subjects = _subjects(jobs, program)
        if program:
            _check_floor(jobs, program)
        turns = Turns(list(subjects.values()), scale.engine_turns)
        rows += _rows(turns, scale, 26 * keys, list(subjects))
    return Outcome(rows, remarks=remarks)


def _subjects(jobs: str, program: str | None) -> dict[str, Subject]:
    def printed(name: str, command: list[str]) -> Subject:
        return lambda: {name: float(timed(command)[1])}

    subjects: dict[str, Subject] = {
        "the loop of the floor": printed("the loop of the floor", [PYTHON, floor.__file__, jobs])
    }
    if program:
        subjects["the floor in C++"] = printed("the floor in C++", [program, jobs])
    for engine in ("python", COMPILED) if _compiled() else ("python",):
        for threads in (1, 2):
            name = f"`kvs run --threads {threads}`, {engine} engine"
            subjects[name] = _run(name, engine, threads, jobs)
    return subjects


def _run(name: str, engine: str, threads: int, jobs: str) -> Subject:
    command = [
        "env",
        f"{VARIABLE}={engine}",
        KVS,
        "run",
        "--quiet",
        "--threads",
        str(threads),
        jobs,
    ]
    return lambda: {name: timed(command)[0]}


def _rows(turns: Turns, scale: Scale, keys: int, names: list[str]) -> Iterator[Row]:
    for name in names:
        ratio = f"{times(turns.ratio(name, names[0]))} the loop of the floor"
        commands = f"{scale.files * scale.engine_commands:,} commands, {keys:,} keys"
        yield Row(f"{name}, {commands}", turns.duration(name), "" if name == names[0] else ratio)


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
    timed([PYTHON, floor.__file__, jobs])
    paths = [os.path.join(jobs, name) for name in os.listdir(jobs) if name.endswith(".floor")]
    for path in paths:
        os.rename(path, path + "-py")
    timed([program, jobs])
    for path in paths:
        if not filecmp.cmp(path, path + "-py", shallow=False):
            raise AssertionError(f"{path}: the floors differ")


def growth(scale: Scale, directory: str) -> Outcome:  # noqa: ARG001  (needs no files)
    """Measure how long one insert takes at most, on the way from none to very many pairs."""
    rows = []
    for name in ("python", COMPILED) if _compiled() else ("python",):
        turns = Turns(
            [lambda name=name: in_fresh_process(_grown, name, scale.growth_pairs)],  # type: ignore[misc]
            scale.growth_turns,
        )
        what = f"{name} engine, from none to {scale.growth_pairs:,} pairs (16 + 26 bytes)"
        longest = min(turns.figures["longest"])
        rows += [
            Row(
                f"{what}: the longest WRITE of one pair, in the turn where it was least",
                f"{duration(longest)}, {duration(turns.median('work'))} of it the thread at work",
            ),
            Row(f"{what}: a WRITE of one pair", turns.duration("mean")),
            Row(f"{what}: memory of a pair", f"{turns.median('bytes'):.0f} bytes"),
        ]
    return Outcome(rows, remarks=[] if _compiled() else [_NOT_BUILT])


def _grown(name: str, pairs: int) -> Mapping[str, float]:
    engine: Engine = PythonEngine() if name == "python" else new_engine()
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
    return engine_name() == COMPILED
