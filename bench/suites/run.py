"""``kvs run`` as a whole, beside the bare floor and beside Redis."""

import filecmp
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack

from bench import baseline, redis
from bench.make_jobs import make_jobs
from bench.processes import KVS, PYTHON, timed, timing
from bench.results import Goal, Outcome, Row, times
from bench.rounds import Subject, Turns
from bench.scale import Scale
from kvs import Store

GOAL = 1.5
"""How many times as long as the floor `kvs run` may take."""

_BASES = {"floor": "the floor", "redis": "Redis"}
"""What the others are compared with, and how the table calls it."""


class WrongOutput(Exception):
    """What was measured did not do the work."""


def run(scale: Scale, directory: str) -> Outcome:
    """Measure the same jobs through kvs, the floor, and Redis if it is there."""
    jobs = os.path.join(directory, "jobs")
    make_jobs(jobs, files=scale.files, commands=scale.commands)
    subjects: list[Subject] = [
        lambda: _floor(jobs),
        timing("kvs", [KVS, "run", jobs]),
        timing("kvs 1", [KVS, "run", "--threads", "1", jobs]),
    ]
    keys = keys_left(jobs)
    why_no_redis = redis.missing()
    with ExitStack() as stack:
        if why_no_redis is None:
            server = stack.enter_context(redis.running(directory))
            subjects.append(_redis(server, jobs, scale, keys))
        turns = Turns(subjects, scale.turns)
    remarks = [why_no_redis] if why_no_redis else []
    return Outcome(list(_rows(turns, scale)), [_goal(turns)], remarks)


def _floor(jobs: str) -> Mapping[str, float]:
    whole, loop = timed([PYTHON, baseline.__file__, jobs])
    return {"floor": whole, "loop": float(loop)}


def _redis(server: redis.Redis, jobs: str, scale: Scale, keys: int) -> Subject:
    requests = requests_of(jobs)
    commands = scale.files * scale.commands
    return lambda: {"redis": fed(server, requests, commands, keys)}


def requests_of(jobs: str) -> str:
    """Write the commands of all jobs, in order, as Redis takes them; return the file's path."""
    requests = jobs + ".resp"
    with open(requests, "wb") as file:
        file.writelines(redis.protocol(path + ".job" for path in paths(jobs)))
    return requests


def fed(server: redis.Redis, requests: str, commands: int, keys: int) -> float:
    """Feed so many commands to Redis, which then must have so many keys; return the seconds.

    Raises:
        WrongOutput: it has more or fewer.

    """
    seconds = server.feed(requests, commands)
    if server.keys() != keys:
        raise WrongOutput(f"Redis has {server.keys()} keys in the end, kvs {keys}")
    return seconds


def keys_left(jobs: str) -> int:
    """Run the jobs in order, for which there is but one right output, and check that it came.

    Returns how many keys there are in the end.
    """
    store = Store()
    store.run_jobs(jobs, threads=1)
    _floor(jobs)
    for path in paths(jobs):
        if not filecmp.cmp(path + ".out", path + ".floor", shallow=False):
            raise WrongOutput(f"{path}.out and {path}.floor differ")
    return len(store)


def paths(jobs: str) -> list[str]:
    """Return the paths of the jobs in order, without their extension."""
    names = sorted(name for name in os.listdir(jobs) if name.endswith(".job"))
    return [os.path.join(jobs, name.removesuffix(".job")) for name in names]


def _rows(turns: Turns, scale: Scale) -> Iterator[Row]:
    def row(what: str, name: str) -> Row:
        ratios = ", ".join(
            f"{times(turns.ratio(name, base))} {called}"
            for base, called in _BASES.items()
            if base in turns.figures and base != name
        )
        return Row(what, turns.duration(name), ratios)

    commands = f"{scale.files * scale.commands:,} commands in {scale.files} files"
    yield row(f"`kvs run`, {commands}", "kvs")
    yield row("`kvs run --threads 1`, the same", "kvs 1")
    yield row("the floor, the same", "floor")
    yield row("the loop of the floor alone", "loop")
    if "redis" in turns.figures:
        yield row(f"`redis-cli --pipe` into Redis {redis.version()}, the same", "redis")


def _goal(turns: Turns) -> Goal:
    ratio = turns.ratio("kvs", "floor")
    return Goal(
        f"`kvs run` takes at most {GOAL} times as long as the floor",
        f"{times(ratio)}, and {times(turns.ratio('kvs', 'loop'))} the loop of the floor alone",
        ratio <= GOAL,
    )
