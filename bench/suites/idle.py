"""A job beside sessions that are there and do nothing."""

import random
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from bench import make_jobs
from bench.results import Goal, Outcome, Row, times
from bench.rounds import Turns
from bench.scale import Scale
from bench.served import Served, serving
from bench.session import sessions

MANY = 100
GOAL = 1.05
"""How much longer a job may take beside sessions that do nothing; less is noise."""

_TIMES = 10
"""So often the job has each command: a server tells its seconds to the millisecond."""


@dataclass(frozen=True)
class _Company:
    """Who is there while a job runs."""

    called: str
    sessions: int
    subscribed: bool = False
    """Each to a key that nobody writes."""


_ALONE = _Company("no session", 0)
_COMPANIES = (
    _ALONE,
    _Company("1 idle session", 1),
    _Company(f"{MANY} idle sessions", MANY),
    _Company(
        f"{MANY} sessions that wait for changes of a key nobody writes", MANY, subscribed=True
    ),
)


def idle_sessions(scale: Scale, directory: str) -> Outcome:  # noqa: ARG001  (needs a short path)
    """Measure the same job on servers with no session, with one and with many, all idle."""
    commands = _TIMES * scale.files * scale.commands
    script = _TIMES * _script(commands // _TIMES)
    with ExitStack() as stack:
        turns = Turns(
            [
                partial(_ran, company.called, _served(stack, company), script)
                for company in _COMPANIES
            ],
            scale.turns,
        )
    rows = [
        Row(
            f"a job of {commands:,} commands beside {company.called}",
            turns.rate(company.called, commands),
            "" if company is _ALONE else f"{times(1 / _slower(turns, company))} alone",
        )
        for company in _COMPANIES
    ]
    goals = [
        Goal(
            f"a job beside {company.called} takes at most {GOAL} times as long as alone",
            times(_slower(turns, company)),
            _slower(turns, company) <= GOAL,
        )
        for company in _COMPANIES
        if company.sessions == MANY
    ]
    return Outcome(rows, goals)


def _slower(turns: Turns, company: _Company) -> float:
    return turns.ratio(company.called, _ALONE.called)


def _script(commands: int) -> bytes:
    rng = random.Random(0)
    drawn = make_jobs.lines(
        rng, commands, lambda: f"key{rng.randrange(make_jobs.KEYS)}", make_jobs.PAIRS
    )
    return "".join(drawn).encode()


def _served(stack: ExitStack, company: _Company) -> Served:
    served = stack.enter_context(serving())
    for session in stack.enter_context(sessions(served.registration, company.sessions)):
        if company.subscribed:
            session.subscribe(b"nothing")
    return served


def _ran(name: str, served: Served, script: bytes) -> Mapping[str, float]:
    return {name: served.run(script)}
