"""``kvs run`` as a whole, beside the Python baseline and Redis."""

import filecmp
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack

from bench import baseline, redis
from bench.make_jobs import make_jobs
from bench.processes import KVS as KVS_PROGRAM
from bench.processes import PYTHON, timed, timing
from bench.results import (
    KVS,
    KVS_ONE_THREAD,
    PYTHON_BASELINE,
    REDIS,
    Goal,
    Outcome,
    Workload,
    times,
)
from bench.rounds import Rounds, Subject
from bench.scale import Scale
from kvs import Store

GOAL = 1.5
"""Maximum time of `kvs run` as a multiple of the Python baseline's."""


class WrongOutputError(Exception):
    """A measured system did not do the work."""


def run(scale: Scale, directory: str) -> Outcome:
    """Measure the same jobs in kvs, in the Python baseline, and in Redis if it is installed."""
    jobs = os.path.join(directory, "jobs")
    make_jobs(jobs, files=scale.files, commands=scale.commands)
    subjects: list[Subject] = [
        lambda: _baseline(jobs),
        timing("kvs", [KVS_PROGRAM, "run", jobs]),
        timing("kvs 1", [KVS_PROGRAM, "run", "--threads", "1", jobs]),
    ]
    key_count = final_key_count(jobs)
    why_no_redis = redis.missing()
    with ExitStack() as stack:
        if why_no_redis is None:
            server = stack.enter_context(redis.running(directory))
            subjects.append(_redis(server, jobs, scale, key_count))
        rounds = Rounds(subjects, scale.rounds)
    remarks = [why_no_redis] if why_no_redis else []
    return Outcome(list(_workloads(rounds, scale)), [_goal(rounds)], remarks)


def _baseline(jobs: str) -> Mapping[str, float]:
    seconds, loop = timed([PYTHON, baseline.__file__, jobs])
    return {"baseline": seconds, "loop": float(loop)}


def _redis(server: redis.Redis, jobs: str, scale: Scale, key_count: int) -> Subject:
    requests = write_requests(jobs)
    commands = scale.files * scale.commands
    return lambda: {"redis": feed(server, requests, commands, key_count)}


def write_requests(jobs: str) -> str:
    """Write the commands of all jobs, in order, as requests to Redis; return the file's path."""
    requests = jobs + ".resp"
    with open(requests, "wb") as file:
        file.writelines(redis.protocol(stem + ".job" for stem in job_stems(jobs)))
    return requests


def feed(server: redis.Redis, requests: str, commands: int, key_count: int) -> float:
    """Send `commands` commands to Redis, which then must have `key_count` keys; return the seconds.

    Raises:
        WrongOutputError: Redis has more or fewer keys.

    """
    seconds = server.feed(requests, commands)
    if server.keys() != key_count:
        raise WrongOutputError(f"Redis has {server.keys()} keys at the end, kvs {key_count}")
    return seconds


def final_key_count(jobs: str) -> int:
    """Run the jobs in kvs and in the Python baseline; return the number of keys at the end.

    Raises:
        WrongOutputError: the outputs differ.

    """
    store = Store()
    store.run_jobs(jobs, threads=1)
    _baseline(jobs)
    for stem in job_stems(jobs):
        if not filecmp.cmp(stem + ".out", stem + ".baseline", shallow=False):
            raise WrongOutputError(f"{stem}.out and {stem}.baseline differ")
    return len(store)


def job_stems(jobs: str) -> list[str]:
    """Return the paths of the jobs in order, without their extension."""
    names = sorted(name for name in os.listdir(jobs) if name.endswith(".job"))
    return [os.path.join(jobs, name.removesuffix(".job")) for name in names]


def _workloads(rounds: Rounds, scale: Scale) -> Iterator[Workload]:
    yield rounds.workload(
        "jobs",
        f"{scale.files * scale.commands:,} commands in {scale.files} files, whole program",
        {KVS: "kvs", KVS_ONE_THREAD: "kvs 1", PYTHON_BASELINE: "baseline", REDIS: "redis"},
    )
    yield rounds.workload("loop", "the same, without start-up", {PYTHON_BASELINE: "loop"})


def _goal(rounds: Rounds) -> Goal:
    ratio = rounds.ratio("kvs", "baseline")
    return Goal(
        f"`kvs run` takes at most {GOAL} times as long as the Python baseline",
        f"{times(ratio)}, and {times(rounds.ratio('kvs', 'loop'))} without the baseline's start-up",
        ratio <= GOAL,
    )
