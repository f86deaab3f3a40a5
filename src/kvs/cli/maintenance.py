"""Looking after data directories: ``kvs check``, ``repair``, ``dump``, ``compact``, ``restore``."""

import argparse
import os

from kvs.cli.open_store import describe_torn_tail, progress_bar, usage_errors
from kvs.cli.stdio import print_error, print_result, write_result
from kvs.errors import CorruptionError
from kvs.journal.recovery import RecoveredState
from kvs.snapshot.reader import load
from kvs.store import maintenance
from kvs.store.core import StoreCore
from kvs.text import pluralize, printable


def check(options: argparse.Namespace) -> int:
    """Carry out ``kvs check``; return the exit status."""
    with usage_errors(), progress_bar() as progress:
        try:
            found = maintenance.check(options.directory, progress)
        except CorruptionError as damage:
            print_result(f"{damage.file}: at byte {damage.offset}: {damage.reason}")
            return 1
    if found.torn is not None:
        print_result(describe_torn_tail(found.torn, "is dropped by the next start"))
    print_result(f"{printable(options.directory)}: {_sizes(found)}")
    return 0


def _sizes(found: RecoveredState) -> str:
    snapshot = "no snapshot"
    if found.snapshot is not None:
        snapshot = f"a snapshot of {pluralize(found.snapshot_bytes, 'byte')}"
    return (
        f"revision {found.revision}, {pluralize(found.pairs, 'key')}, "
        f"{pluralize(found.snapshot_bytes + found.journal_bytes, 'byte')}: {snapshot}, "
        f"{pluralize(len(found.segments), 'segment')} of the journal of "
        f"{pluralize(found.journal_bytes, 'byte')}"
    )


def repair(options: argparse.Namespace) -> int:
    """Carry out ``kvs repair``; return the exit status."""
    with usage_errors(), progress_bar() as progress:
        cut = maintenance.repair(options.directory, progress)
    if cut is None:
        print_result(f"{printable(options.directory)}: nothing is damaged, and nothing was cut")
        return 0
    print_result(f"{cut.file}: at byte {cut.offset}: {cut.reason}")
    if cut.saved_files:
        how = "put aside" if cut.lost_up_to is None else "cut there"
        print_result(
            f"{how}: {pluralize(cut.bytes, 'byte')} taken away, and kept in "
            f"{', '.join(cut.saved_files)}"
        )
    else:
        print_result("nothing of it was there to be kept; it begins anew, empty")
    print_result(
        f"{printable(options.directory)}: at revision {cut.revision}; {_describe_loss(cut)}"
    )
    return int(cut.lost_up_to is not None and not cut.revision)


def _describe_loss(cut: maintenance.RepairResult) -> str:
    if cut.lost_up_to is None:
        return "nothing is lost: what is older than the snapshot was still there"
    lost = "lost is what followed" if cut.revision else "nothing is left, lost is everything"
    if cut.lost_up_to > cut.revision:
        return f"{lost}, up to revision {cut.lost_up_to} as far as can be made out"
    return f"{lost}; how much that was cannot be made out"


def dump(options: argparse.Namespace) -> int:
    """Carry out ``kvs dump``; return the exit status."""
    with usage_errors(), progress_bar() as progress:
        for block in maintenance.dump(options.directory, progress):
            write_result(block)
    return 0


def compact(options: argparse.Namespace) -> int:
    """Carry out ``kvs compact``; return the exit status."""
    with usage_errors(), progress_bar() as progress:
        before = maintenance.check(options.directory)
        store = StoreCore(options.directory, progress=progress)
    with store, usage_errors():
        if store.recovered is not None and store.recovered.torn is not None:
            print_error(f"kvs compact: {describe_torn_tail(store.recovered.torn, 'was dropped')}")
        written = store.compact()
    if written is not None:
        print_result(
            f"{printable(options.directory)}: {before.snapshot_bytes + before.journal_bytes} bytes "
            f"have become {written.bytes}; {pluralize(written.pairs, 'pair')} at revision "
            f"{written.revision}"
        )
    return 0


def restore(options: argparse.Namespace) -> int:
    """Carry out ``kvs restore``; return the exit status."""
    with usage_errors():
        pairs = load(os.fsencode(options.file))  # before the directory is made
        revision = maintenance.restore(options.directory, pairs)
        if revision is None:
            with StoreCore(options.directory) as store:
                revision = store.load(pairs)
    print_error(
        f"{printable(options.directory)}: {pluralize(len(pairs), 'pair')}, at revision {revision}"
    )
    return 0
