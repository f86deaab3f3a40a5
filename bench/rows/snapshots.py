"""SHOW and BACKUP of a large table: how long, how long others wait, how much memory."""

import os
import time
from collections.abc import Mapping
from operator import itemgetter

from bench import memory
from bench.figures import Outcome, Row, size, times
from bench.pairs import PAIR_BYTES, drawn, fill
from bench.prober import Prober
from bench.processes import in_fresh_process
from bench.scale import Scale
from bench.turns import Turns
from kvs import Store


def show(scale: Scale, directory: str) -> Outcome:  # noqa: ARG001  (needs no files)
    """Measure SHOW of a large table, in a fresh process each time."""
    turns = Turns([lambda: in_fresh_process(_show, scale.pairs)], scale.long_turns)
    what = f"SHOW of {scale.pairs:,} pairs"
    pair = turns.median("table") / scale.pairs
    return Outcome(
        [
            Row(
                f"{what} (16-byte keys, 26-byte values)",
                turns.duration("show"),
                f"{times(turns.ratio('show', 'bare'))} sorting and joining a bare dict",
            ),
            Row(
                f"{what}: the longest wait of a reader on another thread",
                turns.duration("wait"),
                f"{times(turns.ratio('wait', 'show'))} SHOW",
            ),
            Row(
                f"{what}: memory above that of the table, at its peak",
                size(turns.median("extra")),
                f"{times(turns.ratio('extra', 'table'))} the table",
            ),
            Row(
                f"memory of a pair (16 + 26 bytes), of {scale.pairs:,}",
                f"{pair:.0f} bytes",
                f"{times(pair / PAIR_BYTES)} what it holds",
            ),
        ]
    )


def _show(pairs: int) -> Mapping[str, float]:
    store, table = _filled(pairs)
    memory.forget_peak()
    resident = memory.resident()
    seconds = _timed_show(store)
    extra = memory.peak() - resident
    prober = Prober(lambda: store.read([b"k"]))
    with prober.probing():
        _timed_show(store)
    bare = _timed_bare_show(dict(drawn(pairs)))
    return {
        "show": seconds, "wait": prober.longest_wait, "bare": bare, "extra": extra, "table": table,
    }  # fmt: skip


def _timed_show(store: Store) -> float:
    began = time.perf_counter()
    store.execute(b"SHOW\n")
    return time.perf_counter() - began


def _timed_bare_show(table: dict[bytes, bytes]) -> float:
    began = time.perf_counter()
    pairs = sorted(table.items(), key=itemgetter(0))
    b"(" + b")\n(".join(map(b", ".join, pairs)) + b")\n"
    return time.perf_counter() - began


def backup(scale: Scale, directory: str) -> Outcome:
    """Measure a backup of a large table, in a fresh process each time."""
    path = os.path.join(directory, "large.bck")
    turns = Turns([lambda: in_fresh_process(_backup, scale.pairs, path)], scale.long_turns)
    what = f"BACKUP of {scale.pairs:,} pairs"
    the_table = ("table", "the table")

    def memory_row(of_what: str, name: str, base: str, called: str) -> Row:
        ratio = f"{times(turns.ratio(name, base))} {called}"
        return Row(f"{what}: {of_what}", size(turns.median(name)), ratio)

    return Outcome(
        [
            Row(
                f"{what}, {size(os.path.getsize(path))}, until it is on disk",
                turns.duration("backup"),
                f"{times(turns.ratio('backup', 'show'))} SHOW",
            ),
            Row(
                f"{what}: for how long the fork held the store",
                turns.duration("held"),
                f"{times(turns.ratio('held', 'backup'))} BACKUP",
            ),
            Row(
                f"{what}: the longest wait of a reader on another thread",
                turns.duration("wait"),
                f"{times(turns.ratio('wait', 'backup'))} BACKUP",
            ),
            memory_row("the process at its peak", "peak", "resident", "itself before"),
            memory_row("the child at its peak, what it shares included", "child", *the_table),
            memory_row("what the child dirtied and so had to itself", "dirtied", *the_table),
        ]
    )


def _backup(pairs: int, path: str) -> Mapping[str, float]:
    store, table = _filled(pairs)
    resident = memory.resident()
    memory.forget_peak()
    written = store.backup(path)
    prober = Prober(lambda: store.read([b"k"]))
    with prober.probing():
        store.backup(path)
    watch = memory.ChildWatch()
    with watch.watching():
        store.backup(path)
    peak = memory.peak()  # before SHOW, which has its own
    return {
        "backup": written.seconds,
        "held": written.held_seconds,
        "wait": prober.longest_wait,
        "table": table,
        "resident": resident,
        "peak": peak,
        "child": memory.peak_of_children(),
        "dirtied": watch.private_dirty,
        "show": _timed_show(store),
    }


def _filled(pairs: int) -> tuple[Store, int]:
    """Return a store of so many pairs, and by how much the process grew with it."""
    before = memory.resident()
    store = Store()
    fill(store, pairs)
    return store, memory.resident() - before
