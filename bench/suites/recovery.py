"""A data directory with many pairs: the time to open it, and waits of writers beside compaction."""

import glob
import os
import time
from collections.abc import Mapping
from functools import partial
from tempfile import TemporaryDirectory
from threading import Lock

from bench import baseline
from bench.pairs import fill, random_pairs
from bench.processes import KVS as KVS_PROGRAM
from bench.processes import in_fresh_process, timed
from bench.results import KVS, KVS_IN_MEMORY, PYTHON_BASELINE, Outcome, Workload, size
from bench.rounds import Rounds
from bench.scale import Scale
from bench.stall_probe import StallProbe
from kvs.library import Store
from kvs.settings import DataSettings

_NEVER = 1 << 40
"""Size in bytes at which a journal is compacted: larger than any journal here."""

_MODES = ("always", "never")
_FIGURES = ("compaction", "held", "beside", "quiet")


def recovery(scale: Scale, directory: str) -> Outcome:
    """Measure opening a data directory, from its journal only and from a snapshot."""
    journal, compacted = (os.path.join(directory, name) for name in ("journal", "compacted"))
    for data in (journal, compacted):
        in_fresh_process(_write_singly, data, scale.pairs)
    timed([KVS_PROGRAM, "compact", compacted])
    rounds = Rounds(
        [
            lambda: {"journal": in_fresh_process(_open, journal)},
            lambda: {"snapshot": in_fresh_process(_open, compacted)},
            lambda: {"baseline": in_fresh_process(_run_baseline, journal)},
        ],
        scale.long_rounds,
    )
    what = f"open a data directory of {scale.pairs:,} pairs"
    return Outcome(
        [
            rounds.workload(
                "journal",
                f"{what}: journal of as many WRITEs, {size(_bytes(journal))}",
                {KVS: "journal", PYTHON_BASELINE: "baseline"},
            ),
            rounds.workload(
                "snapshot",
                f"{what}: snapshot of `kvs compact`, {size(_bytes(compacted))}",
                {KVS: "snapshot"},
            ),
        ]
    )


def _write_singly(data: str, pairs: int) -> None:
    script = b"".join(b"WRITE [(%b,%b)]\n" % pair for pair in random_pairs(pairs))
    with Store(data, DataSettings("never", compact_bytes=_NEVER)) as store:
        offset = 0
        while offset < len(script):
            offset = store.execute(script, offset).offset


def _open(data: str) -> float:
    start = time.perf_counter()
    with Store(data, DataSettings(compact_bytes=_NEVER)):
        return time.perf_counter() - start


def _segments(data: str) -> list[str]:
    """Return the paths of the journal's segments, in order."""
    return sorted(glob.glob(os.path.join(glob.escape(data), "*.journal")))


def _run_baseline(data: str) -> float:
    table: dict[bytes, bytes] = {}
    start = time.perf_counter()
    for path in _segments(data):
        with open(path, "rb") as file:
            baseline.execute(file.read(), table, Lock())
    return time.perf_counter() - start


def _bytes(data: str) -> int:
    """Return the size of a data directory without its reserve for a full disk."""
    names = [name for name in os.listdir(data) if not name.endswith(".reserve")]
    return sum(os.path.getsize(os.path.join(data, name)) for name in names)


def stalls(scale: Scale, directory: str) -> Outcome:
    """Measure the longest wait of a thread that writes, beside a compaction and without one."""
    rounds = Rounds([partial(_stalls, scale.pairs, directory)], scale.long_rounds)

    def workload(figure: str, label: str, **systems: str) -> Workload:
        by_mode = {f"kvs, `--fsync {mode}`": f"{mode} {figure}" for mode in _MODES}
        return rounds.workload(figure, label, by_mode | systems)

    what = f"compaction of {scale.pairs:,} pairs"
    quiet = "longest wait of a writing thread without a compaction"
    return Outcome(
        [
            workload("compaction", f"{what}, until it is on disk"),
            workload("held", f"{what}: fork, which blocks the store"),
            workload("beside", f"{what}: longest wait of a writing thread"),
            workload("quiet", quiet, **{KVS_IN_MEMORY: "memory"}),
        ]
    )


def _stalls(pairs: int, directory: str) -> Mapping[str, float]:
    figures: dict[str, float] = {}
    for mode in _MODES:
        with TemporaryDirectory(dir=directory) as data:
            figures |= in_fresh_process(_compact_beside, data, mode, pairs)
    seconds = figures[f"{_MODES[0]} compaction"]
    return figures | {"memory": in_fresh_process(_write_in_memory, pairs, seconds)}


def _compact_beside(data: str, mode: str, pairs: int) -> Mapping[str, float]:
    with Store(data, DataSettings(mode, compact_bytes=_NEVER)) as store:
        fill(store, pairs)
        beside = StallProbe(lambda: store.write({b"k": b"v"}))
        with beside.probing():
            written = store.compact()
        if written is None:
            raise AssertionError("an in-memory store was not compacted")
        quiet = _longest_wait(store, written.seconds)
        figures = (written.seconds, written.blocked_seconds, beside.longest_wait, quiet)
        return {f"{mode} {name}": figure for name, figure in zip(_FIGURES, figures, strict=True)}


def _write_in_memory(pairs: int, seconds: float) -> float:
    store = Store()
    fill(store, pairs)
    return _longest_wait(store, seconds)


def _longest_wait(store: Store, seconds: float) -> float:
    """Write for `seconds` seconds; return the longest wait."""
    probe = StallProbe(lambda: store.write({b"k": b"v"}))
    with probe.probing():
        time.sleep(seconds)
    return probe.longest_wait
