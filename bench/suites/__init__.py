"""The measures, by the name that ``--rows`` takes; one module a subject."""

from collections.abc import Callable

from bench.results import Outcome
from bench.scale import Scale
from bench.suites.acknowledged import acknowledged
from bench.suites.changes import changes, many_sessions
from bench.suites.engines import engines, growth
from bench.suites.idle import idle_sessions
from bench.suites.jobs import small_jobs
from bench.suites.journal import journal
from bench.suites.latency import latency
from bench.suites.recovery import recovery, stalls
from bench.suites.requests import busy, requests
from bench.suites.run import run
from bench.suites.snapshots import backup, show
from bench.suites.start import start
from bench.suites.tables import tables

Measure = Callable[[Scale, str], Outcome]
"""Measures at some scale, with an empty directory of its own to work in."""

MEASURES: dict[str, Measure] = {
    "run": run,
    "engines": engines,
    "growth": growth,
    "tables": tables,
    "show": show,
    "backup": backup,
    "start": start,
    "small-jobs": small_jobs,
    "latency": latency,
    "changes": changes,
    "many-sessions": many_sessions,
    "requests": requests,
    "idle-sessions": idle_sessions,
    "busy": busy,
    "journal": journal,
    "acknowledged": acknowledged,
    "recovery": recovery,
    "stalls": stalls,
}
