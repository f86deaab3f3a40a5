"""Looking after data directories: ``kvs check``, ``repair``, ``dump``, ``compact``, ``restore``."""

import argparse
import os

from kvs.cli.open_store import as_usage, shown_progress, torn_end
from kvs.cli.stdio import put, put_bytes, say
from kvs.errors import DataDamaged, counted, shown
from kvs.journal.recovery import Found
from kvs.library import Store
from kvs.snapshot.reader import load
from kvs.store import maintenance


def check(options: argparse.Namespace) -> int:
    """Carry out ``kvs check``; return the exit status."""
    with as_usage(), shown_progress() as progress:
        try:
            found = maintenance.check(options.directory, progress)
        except DataDamaged as damage:
            put(f"{damage.file}: at byte {damage.offset}: {damage.reason}")
            return 1
    if found.torn is not None:
        put(torn_end(found.torn, "is dropped by the next start"))
    put(f"{shown(options.directory)}: {_sizes(found)}")
    return 0


def _sizes(found: Found) -> str:
    snapshot = "no snapshot"
    if found.snapshot is not None:
        snapshot = f"a snapshot of {counted(found.snapshot_bytes, 'byte')}"
    return (
        f"revision {found.revision}, {counted(found.pairs, 'key')}, "
        f"{counted(found.snapshot_bytes + found.journal_bytes, 'byte')}: {snapshot}, "
        f"{counted(len(found.segments), 'segment')} of the journal of "
        f"{counted(found.journal_bytes, 'byte')}"
    )


def repair(options: argparse.Namespace) -> int:
    """Carry out ``kvs repair``; return the exit status."""
    with as_usage(), shown_progress() as progress:
        cut = maintenance.repair(options.directory, progress)
    if cut is None:
        put(f"{shown(options.directory)}: nothing is damaged, and nothing was cut")
        return 0
    put(f"{cut.file}: at byte {cut.offset}: {cut.reason}")
    if cut.kept:
        how = "put aside" if cut.lost_up_to is None else "cut there"
        put(f"{how}: {counted(cut.bytes, 'byte')} taken away, and kept in {', '.join(cut.kept)}")
    else:
        put("nothing of it was there to be kept; it begins anew, empty")
    put(f"{shown(options.directory)}: at revision {cut.revision}; {_lost(cut)}")
    return int(cut.lost_up_to is not None and not cut.revision)


def _lost(cut: maintenance.Cut) -> str:
    if cut.lost_up_to is None:
        return "nothing is lost: what is older than the snapshot was still there"
    lost = "lost is what followed" if cut.revision else "nothing is left, lost is everything"
    if cut.lost_up_to > cut.revision:
        return f"{lost}, up to revision {cut.lost_up_to} as far as can be made out"
    return f"{lost}; how much that was cannot be made out"


def dump(options: argparse.Namespace) -> int:
    """Carry out ``kvs dump``; return the exit status."""
    with as_usage(), shown_progress() as progress:
        for block in maintenance.dump(options.directory, progress):
            put_bytes(block)
    return 0


def compact(options: argparse.Namespace) -> int:
    """Carry out ``kvs compact``; return the exit status."""
    with as_usage(), shown_progress() as progress:
        before = maintenance.check(options.directory)
        store = Store(options.directory, progress=progress)
    with store, as_usage():
        if store.recovered is not None and store.recovered.torn is not None:
            say(f"kvs compact: {torn_end(store.recovered.torn, 'was dropped')}")
        written = store.compact()
    if written is not None:
        put(
            f"{shown(options.directory)}: {before.snapshot_bytes + before.journal_bytes} bytes "
            f"have become {written.bytes}; {counted(written.pairs, 'pair')} at revision "
            f"{written.revision}"
        )
    return 0


def restore(options: argparse.Namespace) -> int:
    """Carry out ``kvs restore``; return the exit status."""
    with as_usage():
        pairs = load(os.fsencode(options.file))  # before the directory is made
        revision = maintenance.restore(options.directory, pairs)
        if revision is None:
            with Store(options.directory) as store:
                revision = store.begin_with(pairs)
    say(f"{shown(options.directory)}: {counted(len(pairs), 'pair')}, at revision {revision}")
    return 0
