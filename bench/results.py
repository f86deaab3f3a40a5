"""The results of suites: figures of workloads by system, and goals; as objects and as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

PATH = Path(__file__).parent.parent / "docs" / "benchmarks.json"

SECONDS = "s"
PER_SECOND = "per second"
BYTES = "bytes"
"""The units of figures."""

MICROSECOND = 1e-6
MILLISECOND = 1e-3
MEGABYTE = 1e6

_SMALL_RATIO = 0.1
"""Ratio below which two decimals would not be two digits."""

# The names of systems, which are the columns of the tables.
KVS = "kvs"
KVS_ONE_THREAD = "kvs, 1 thread"
KVS_TWO_THREADS = "kvs, 2 threads"
KVS_PYTHON = "kvs, Python engine"
KVS_IN_MEMORY = "kvs, in memory"
PYTHON_BASELINE = "Python baseline"
CPP_BASELINE = "C++ baseline"
REDIS = "Redis"
REDIS_WATCH = "Redis, WATCH"
SQLITE = "SQLite"
LMDB = "LMDB"
ETCD = "etcd"
PIPE = "bare pipe"
DISK = "bare file"

SYSTEMS = (
    KVS, KVS_ONE_THREAD, KVS_TWO_THREADS, KVS_PYTHON, KVS_IN_MEMORY,
    PYTHON_BASELINE, CPP_BASELINE, REDIS, REDIS_WATCH, SQLITE, LMDB, ETCD,
    PIPE, DISK,
)  # fmt: skip
"""The order of systems in tables and charts; other systems follow."""


@dataclass(frozen=True)
class Figure:
    """What one system needed for one workload, in the unit of the workload."""

    median: float
    low: float
    high: float
    ratios: Mapping[str, float] = field(default_factory=dict)
    """Median, over the rounds, of this figure divided by that of another system."""
    rounds: Sequence[float] = ()
    """The figure of each round; empty if it was not recorded."""


@dataclass(frozen=True)
class Workload:
    """One row of a table."""

    id: str
    """Identifies the workload within its suite; the page's template refers to it."""
    label: str
    unit: str
    systems: Mapping[str, Figure]


@dataclass(frozen=True)
class Goal:
    """A limit that was promised, and the figure that meets or misses it."""

    promise: str
    measured: str
    met: bool


@dataclass(frozen=True)
class Outcome:
    """The results of one suite."""

    workloads: Sequence[Workload]
    goals: Sequence[Goal] = ()
    remarks: Sequence[str] = ()
    """One sentence for each system that was not measured, with the reason."""


@dataclass(frozen=True)
class Section:
    """The results of one section."""

    machine: str
    """A sentence: the day and the machine of the measurement."""
    suites: Mapping[str, Outcome]


Results = Mapping[str, Section]
"""The results of all sections, by name."""


def read(path: Path = PATH) -> Results:
    """Return the results in a JSON file; empty if there is no file."""
    if not path.exists():
        return {}
    stored = json.loads(path.read_text(encoding="utf-8"))
    return {name: _section(section) for name, section in stored.items()}


def write(results: Results, path: Path = PATH) -> None:
    """Write the results to a JSON file, numbers with four digits."""
    stored = {name: _rounded(asdict(section)) for name, section in results.items()}
    text = json.dumps(stored, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _section(stored: Mapping[str, Any]) -> Section:
    suites = {name: _outcome(outcome) for name, outcome in stored["suites"].items()}
    return Section(stored["machine"], suites)


def _outcome(stored: Mapping[str, Any]) -> Outcome:
    return Outcome(
        [_workload(workload) for workload in stored["workloads"]],
        [Goal(**goal) for goal in stored["goals"]],
        stored["remarks"],
    )


def _workload(stored: Mapping[str, Any]) -> Workload:
    systems = {name: Figure(**figure) for name, figure in stored["systems"].items()}
    return Workload(stored["id"], stored["label"], stored["unit"], systems)


def _rounded(stored: Any) -> Any:  # noqa: ANN401  (any JSON)
    if isinstance(stored, float):
        return float(f"{stored:.4g}")
    if isinstance(stored, dict):
        return {name: _rounded(value) for name, value in stored.items()}
    if isinstance(stored, list | tuple):
        return [_rounded(value) for value in stored]
    return stored


def formatted(value: float, unit: str) -> str:
    """Return a figure with three digits or so, and its unit."""
    if unit == SECONDS:
        return duration(value)
    if unit == PER_SECOND:
        return f"{value:,.0f} /s"
    return size(value)


def duration(seconds: float) -> str:
    """Return `seconds` with three digits and the unit that fits."""
    if seconds < MILLISECOND:
        return f"{_three_digits(seconds / MICROSECOND)} µs"
    if seconds < 1:
        return f"{_three_digits(seconds / MILLISECOND)} ms"
    return f"{_three_digits(seconds)} s"


def size(count: float) -> str:
    """Return a number of bytes: in megabytes of 1,000,000 if it has one or more."""
    return f"{count / MEGABYTE:,.0f} MB" if count >= MEGABYTE else f"{count:,.0f} bytes"


def times(ratio: float) -> str:
    """Return a ratio as a factor."""
    return f"{ratio:.2f} x" if ratio >= _SMALL_RATIO else f"{ratio:.2g} x"


def _three_digits(number: float) -> str:
    decimals = 2 if number < 10 else 1 if number < 100 else 0
    return f"{number:.{decimals}f}"
