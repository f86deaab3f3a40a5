"""The measures, by the name that ``--rows`` takes; one module a subject."""

from collections.abc import Callable

from bench.figures import Outcome
from bench.rows.engines import engines, growth
from bench.rows.jobs import small_jobs
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
}
