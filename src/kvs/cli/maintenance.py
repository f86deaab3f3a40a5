"""The commands for data directories: ``check``, ``dump``, ``backup`` and so on."""

import argparse
import os
from collections.abc import Iterable
from functools import partial

from kvs.cli.open_store import describe_torn_tail, progress_bar, usage_errors
from kvs.cli.stdio import UsageError, print_error, print_result, write_result
from kvs.engine.interface import TableView
from kvs.errors import CorruptionError, SnapshotError, SnapshotNotDurableError
from kvs.journal.recovery import RecoveredState
from kvs.posix.files import (
    AtomicFile,
    DirectorySyncError,
    check_can_replace,
    open_directory,
    write_all,
)
from kvs.settings import DataSettings
from kvs.snapshot.frame import framed
from kvs.snapshot.reader import load
from kvs.store import maintenance
from kvs.store.core import StoreCore
from kvs.store.history import state_at_revision, state_at_time
from kvs.text import os_error_text, pluralize, printable


def check(options: argparse.Namespace) -> int:
    """Run ``kvs check``; return the exit status."""
    with usage_errors(), progress_bar() as progress:
        try:
            state = maintenance.check(options.directory, progress)
        except CorruptionError as error:
            print_result(f"{error.path}: at byte {error.offset}: {error.reason}")
            return 1
    if state.torn is not None:
        print_result(describe_torn_tail(state.torn, "will be truncated at the next start"))
    print_result(f"{printable(options.directory)}: {_describe_sizes(state)}")
    return 0


def _describe_sizes(state: RecoveredState) -> str:
    snapshot = "no snapshot"
    if state.snapshot is not None:
        snapshot = f"a snapshot of {pluralize(state.snapshot_bytes, 'byte')}"
    older = ""
    if state.older_segments:
        older = f", {pluralize(state.older_segments, 'older segment')}"
    return (
        f"revision {state.revision}, {pluralize(state.pairs, 'pair')}, "
        f"{pluralize(state.snapshot_bytes + state.journal_bytes, 'byte')}: {snapshot}, "
        f"{pluralize(len(state.segments), 'segment')} of the journal of "
        f"{pluralize(state.journal_bytes, 'byte')}{older}"
    )


def repair(options: argparse.Namespace) -> int:
    """Run ``kvs repair``; return the exit status."""
    if not options.cut:
        with usage_errors():
            maintenance.size_bytes(options.directory)  # only a data directory can be repaired
        directory = printable(options.directory)
        raise UsageError(
            f"{directory}: a repair changes the journal: confirm with 'kvs repair --cut "
            f"{directory}'; 'kvs check {directory}' shows the damage"
        )
    with usage_errors(), progress_bar() as progress:
        result = maintenance.repair(options.directory, progress)
    if result is None:
        print_result(f"{printable(options.directory)}: nothing is damaged, and nothing was cut")
        return 0
    print_result(f"{result.file}: at byte {result.offset}: {result.reason}")
    if result.saved_files:
        action = "set aside" if result.lost_up_to is None else "cut there"
        print_result(
            f"{action}: {pluralize(result.bytes, 'byte')} moved to {', '.join(result.saved_files)}"
        )
    else:
        print_result("no bytes to save; a new, empty file replaces it")
    print_result(
        f"{printable(options.directory)}: at revision {result.revision}; {_describe_loss(result)}"
    )
    return int(result.lost_up_to is not None and not result.revision)


def _describe_loss(result: maintenance.RepairResult) -> str:
    if result.lost_up_to is None:
        return "nothing is lost: the journal before the snapshot was complete"
    lost = "later changes are lost" if result.revision else "all changes are lost"
    if result.lost_up_to > result.revision:
        return f"{lost}, at least up to revision {result.lost_up_to}"
    return f"{lost}; their number is unknown"


def dump(options: argparse.Namespace) -> int:
    """Run ``kvs dump``; return the exit status."""
    with usage_errors(), progress_bar() as progress:
        engine = maintenance.load(options.directory, progress)
    engine.with_locked_view(_write_listing)
    return 0


def _write_listing(view: TableView) -> None:
    for block in view.listing(expiries=True):
        write_result(block)


def backup(options: argparse.Namespace) -> int:
    """Run ``kvs backup``; return the exit status."""
    path = printable(options.file)
    with usage_errors(), progress_bar() as progress:
        engine = maintenance.load(options.directory, progress)
    try:
        engine.with_locked_view(partial(_replace_backup, options.file))
    except DirectorySyncError as error:
        raise SnapshotNotDurableError(path, os_error_text(error)) from error
    except OSError as error:
        raise SnapshotError(path, os_error_text(error), error.errno) from error
    return 0


def _replace_backup(path: str, view: TableView) -> None:
    replace_file(path, framed(view.revision, len(view), view.listing(expiries=True)))


def replace_file(path: str, blocks: Iterable[bytes]) -> None:
    """Write `blocks` to a new file, and replace `path` by the file when it is on disk.

    Raises:
        DirectorySyncError: the file is in place, but a loss of power may undo that.
        OSError: the file cannot be written, and `path` is unchanged.

    """
    parent, name = os.path.split(os.fsencode(path))
    directory = open_directory(parent or b".")
    try:
        check_can_replace(name, directory)
        with AtomicFile(directory, name) as file:
            for block in blocks:
                write_all(file.file, block)
            os.fsync(file.file)
            file.commit()
    finally:
        os.close(directory)


def compact(options: argparse.Namespace) -> int:
    """Run ``kvs compact``; return the exit status."""
    with usage_errors(), progress_bar() as progress:
        before = maintenance.size_bytes(options.directory)
        settings = DataSettings(keep_segments=options.keep_segments or 0)
        store = StoreCore(options.directory, settings, progress=progress)
    with store, usage_errors():
        if store.recovered is not None and store.recovered.torn is not None:
            print_error(f"kvs compact: {describe_torn_tail(store.recovered.torn, 'was truncated')}")
        snapshot = store.compact()
        after = maintenance.size_bytes(options.directory)
    if snapshot is not None:
        print_result(
            f"{printable(options.directory)}: {before} bytes have become {after}; "
            f"{pluralize(snapshot.pairs, 'pair')} at revision {snapshot.revision}"
        )
    return 0


def restore(options: argparse.Namespace) -> int:
    """Run ``kvs restore``; return the exit status."""
    with usage_errors():
        pairs, expiries = _pairs_to_restore(options)  # before the directory is created
        revision = maintenance.restore(options.directory, pairs, expiries)
        if revision is None:
            with StoreCore(options.directory) as store:
                revision = store.load(pairs, expiries)
    print_error(
        f"{printable(options.directory)}: {pluralize(len(pairs), 'pair')}, at revision {revision}"
    )
    return 0


def _pairs_to_restore(options: argparse.Namespace) -> tuple[dict[bytes, bytes], dict[bytes, int]]:
    if options.at is None:
        backup = load(os.fsencode(options.file))
        return backup.pairs, backup.expiries
    kind, number = options.at
    state = {"revision": state_at_revision, "time": state_at_time}[kind]
    with progress_bar() as progress:
        return state(options.file, number, progress)
