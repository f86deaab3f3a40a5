"""A job beside sessions that do nothing."""

import random
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from bench import make_jobs
from bench.results import KVS, PER_SECOND, Goal, Outcome, times
from bench.rounds import Rounds
from bench.scale import Scale
from bench.served import ServerProcess, serving
from bench.session import sessions

MANY = 100
"""Maximum number of sessions."""
GOAL = 1.05
"""Maximum time of a job beside idle sessions, as a multiple of its time alone; less is noise."""

_REPETITIONS = 10
"""Repetitions of each command in the job: a server logs seconds with three decimals."""


@dataclass(frozen=True)
class _Load:
    """The sessions that are connected while a job runs."""

    id: str
    label: str
    sessions: int
    subscribed: bool = False
    """Whether each is subscribed to a key that does not change."""


_ALONE = _Load("alone", "no session", 0)
_LOADS = (
    _ALONE,
    _Load("one", "1 idle session", 1),
    _Load("idle", f"{MANY} idle sessions", MANY),
    _Load("subscribed", f"{MANY} sessions subscribed to an unchanged key", MANY, subscribed=True),
)


def idle_sessions(scale: Scale, directory: str) -> Outcome:  # noqa: ARG001  (the path is too long)
    """Measure the same job on servers with no session, with one and with many, all idle."""
    commands = _REPETITIONS * scale.files * scale.commands
    script = _REPETITIONS * _script(commands // _REPETITIONS)
    with ExitStack() as stack:
        rounds = Rounds(
            [partial(_run_job, load.id, _start_server(stack, load), script) for load in _LOADS],
            scale.rounds,
        )
    workloads = [
        rounds.workload(
            load.id,
            f"a job of {commands:,} commands beside {load.label}",
            {KVS: load.id},
            unit=PER_SECOND,
            count=commands,
        )
        for load in _LOADS
    ]
    goals = [
        Goal(
            f"a job beside {load.label} takes at most {GOAL} times as long as alone",
            times(_slowdown(rounds, load)),
            _slowdown(rounds, load) <= GOAL,
        )
        for load in _LOADS
        if load.sessions == MANY
    ]
    return Outcome(workloads, goals)


def _slowdown(rounds: Rounds, load: _Load) -> float:
    return rounds.ratio(load.id, _ALONE.id)


def _script(commands: int) -> bytes:
    rng = random.Random(0)
    lines = make_jobs.lines(
        rng, commands, lambda: f"key{rng.randrange(make_jobs.KEYS)}", make_jobs.PAIRS
    )
    return "".join(lines).encode()


def _start_server(stack: ExitStack, load: _Load) -> ServerProcess:
    served = stack.enter_context(serving())
    for session in stack.enter_context(sessions(served.registration, load.sessions)):
        if load.subscribed:
            session.subscribe(b"nothing")
    return served


def _run_job(name: str, served: ServerProcess, script: bytes) -> Mapping[str, float]:
    return {name: served.run(script)}
