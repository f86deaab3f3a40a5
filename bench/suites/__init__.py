"""The sections of the benchmarks, and the suites of each."""

from collections.abc import Callable, Mapping

from bench.results import Outcome
from bench.scale import Scale
from bench.suites.acknowledged import acknowledged
from bench.suites.changes import changes, many_sessions
from bench.suites.conditions import conditions
from bench.suites.engines import engines_few, engines_many
from bench.suites.expiry import expiry
from bench.suites.growth import growth
from bench.suites.idle import idle_sessions
from bench.suites.jobs import small_jobs
from bench.suites.journal import journal
from bench.suites.latency import latency
from bench.suites.prefixes import prefixes
from bench.suites.recovery import recovery, stalls
from bench.suites.requests import busy, requests
from bench.suites.run import run
from bench.suites.snapshots import backup, show
from bench.suites.start import start
from bench.suites.tables import tables
from bench.suites.values import values, values_on_disk

Suite = Callable[[Scale, str], Outcome]
"""Measures at some scale; the second argument is an empty directory to work in."""

SECTIONS: Mapping[str, Mapping[str, Suite]] = {
    "throughput": {
        "run": run,
        "start": start,
        "small-jobs": small_jobs,
        "engines-few": engines_few,
    },
    "large-tables": {"engines-many": engines_many},
    "growth": {"tables": tables, "growth": growth},
    "backups": {"show": show, "backup": backup},
    "server": {
        "latency": latency,
        "changes": changes,
        "many-sessions": many_sessions,
        "requests": requests,
        "idle-sessions": idle_sessions,
        "busy": busy,
    },
    "durability": {"journal": journal, "acknowledged": acknowledged},
    "recovery": {"recovery": recovery, "stalls": stalls},
    "values": {"values": values, "values-on-disk": values_on_disk},
    "conditions": {"conditions": conditions},
    "prefixes": {"prefixes": prefixes},
    "expiry": {"expiry": expiry},
}
"""Suites by name, by section. A section takes at most three minutes on a slow machine."""
