"""The measures, by the name that ``--rows`` takes; one module a subject."""

from collections.abc import Callable

from bench.figures import Outcome
from bench.rows.acknowledged import acknowledged
from bench.rows.changes import changes, many_sessions
from bench.rows.engines import engines, growth
from bench.rows.idle import idle_sessions
from bench.rows.jobs import small_jobs
from bench.rows.journal import journal
from bench.rows.latency import latency
from bench.rows.recovery import recovery, stalls
from bench.rows.requests import busy, requests
from bench.rows.run import run
from bench.rows.snapshots import backup, show
from bench.rows.start import start
from bench.rows.tables import tables
from bench.scale import Scale

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
