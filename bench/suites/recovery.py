"""A data directory with many pairs: how long it takes to open, and what compacting it holds up."""

import glob
import os
import time
from collections.abc import Mapping
from functools import partial
from tempfile import TemporaryDirectory
from threading import Lock

from bench import baseline
from bench.pairs import drawn, fill
from bench.processes import KVS, in_fresh_process, timed
from bench.results import Outcome, Row, size, times
from bench.rounds import Turns
from bench.scale import Scale
from bench.stall_probe import Prober
from kvs.library import Store
from kvs.settings import DataSettings

_NEVER = 1 << 40
"""No journal here grows so long that it is compacted, unless that is asked for."""

_MODES = ("always", "never")
_FIGURES = ("compaction", "held", "beside", "quiet")


def recovery(scale: Scale, directory: str) -> Outcome:
    """Measure the opening of a directory, from its journal alone and from a snapshot."""
    journal, compacted = (os.path.join(directory, name) for name in ("journal", "compacted"))
    for data in (journal, compacted):
        in_fresh_process(_write_singly, data, scale.pairs)
    timed([KVS, "compact", compacted])
    turns = Turns(
        [
            lambda: {"journal": in_fresh_process(_open, journal)},
            lambda: {"snapshot": in_fresh_process(_open, compacted)},
            lambda: {"floor": in_fresh_process(_carry_out_bare, journal)},
        ],
        scale.long_turns,
    )
    what = f"opening a data directory of {scale.pairs:,} pairs"
    return Outcome(
        [
            Row(
                f"{what}, from the journal alone, as many WRITEs in {size(_bytes(journal))}",
                turns.duration("journal"),
                f"{times(turns.ratio('journal', 'floor'))} the floor's loop on the same files",
            ),
            Row(
                f"{what}, from a snapshot of {size(_bytes(compacted))}, as `kvs compact` makes it",
                turns.duration("snapshot"),
                f"{times(turns.ratio('snapshot', 'journal'))} from the journal",
            ),
        ]
    )


def _write_singly(data: str, pairs: int) -> None:
    script = b"".join(b"WRITE [(%b,%b)]\n" % pair for pair in drawn(pairs))
    with Store(data, DataSettings("never", compact_bytes=_NEVER)) as store:
        offset = 0
        while offset < len(script):
            offset = store.execute(script, offset).offset


def _open(data: str) -> float:
    began = time.perf_counter()
    with Store(data, DataSettings(compact_bytes=_NEVER)):
        return time.perf_counter() - began


def _segments(data: str) -> list[str]:
    """Return the paths of the journal's segments, in order."""
    return sorted(glob.glob(os.path.join(glob.escape(data), "*.journal")))


def _carry_out_bare(data: str) -> float:
    table: dict[bytes, bytes] = {}
    began = time.perf_counter()
    for path in _segments(data):
        with open(path, "rb") as file:
            baseline.carry_out(file.read(), table, Lock())
    return time.perf_counter() - began


def _bytes(data: str) -> int:
    """Return the size of a data directory, but for the reserve for a full disk."""
    names = [name for name in os.listdir(data) if not name.endswith(".reserve")]
    return sum(os.path.getsize(os.path.join(data, name)) for name in names)


def stalls(scale: Scale, directory: str) -> Outcome:
    """Measure the longest wait of a thread that writes, while another compacts and while not."""
    turns = Turns([partial(_stalls, scale.pairs, directory)], scale.long_turns)
    rows = []
    for mode in _MODES:
        took, held, beside, quiet = (f"{mode} {name}" for name in _FIGURES)
        rows += [
            Row(
                f"compacting {scale.pairs:,} pairs with `--fsync {mode}`, until it is on disk",
                turns.duration(took),
            ),
            Row(
                "the same: for how long the fork held the store",
                turns.duration(held),
                f"{times(turns.ratio(held, took))} the compaction",
            ),
            Row(
                "the same: the longest wait of another thread that writes single pairs",
                turns.duration(beside),
                f"{times(turns.ratio(beside, quiet))} without a compaction, "
                f"{times(turns.ratio(beside, 'memory'))} in memory alone",
            ),
            Row(
                "the longest wait of such a thread in as much time without a compaction",
                turns.duration(quiet),
            ),
        ]
    rows.append(Row("the same with the store in memory alone", turns.duration("memory")))
    return Outcome(rows)


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
        beside = Prober(lambda: store.write({b"k": b"v"}))
        with beside.probing():
            written = store.compact()
        if written is None:
            raise AssertionError("a store in memory is not compacted")
        quiet = _longest_wait(store, written.seconds)
        found = (written.seconds, written.blocked_seconds, beside.longest_wait, quiet)
        return {f"{mode} {name}": figure for name, figure in zip(_FIGURES, found, strict=True)}


def _write_in_memory(pairs: int, seconds: float) -> float:
    store = Store()
    fill(store, pairs)
    return _longest_wait(store, seconds)


def _longest_wait(store: Store, seconds: float) -> float:
    """Write for so long; return the longest wait."""
    prober = Prober(lambda: store.write({b"k": b"v"}))
    with prober.probing():
        time.sleep(seconds)
    return prober.longest_wait
