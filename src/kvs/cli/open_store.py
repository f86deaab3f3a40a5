"""Opening the store of a run or a server, as the options ask."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO, cast

from kvs.cli.stdio import UsageError
from kvs.errors import BackupReadError, DataDirectoryError, JobsDirectoryError, StoreNotEmptyError
from kvs.jobs.directory import JobsDirectory
from kvs.settings import DataSettings, ProgressCallback, ignore_progress
from kvs.snapshot.reader import Backup, load
from kvs.store.core import StoreCore
from kvs.text import pluralize, printable

if TYPE_CHECKING:
    from kvs.journal.recovery import TornTail

PROGRESS_DELAY_SECONDS = 0.5
"""Seconds after which reading a data directory shows a progress bar."""


def open_store(options: argparse.Namespace, report: Callable[[str], None]) -> StoreCore:
    """Open and return the store that the options ask for.

    `report` is called with lines about what recovery found; with ``--quiet`` only if a group was
    truncated or the directory is new, which a mistyped path may have caused.

    Raises:
        UsageError: the options contradict each other, or a file or directory cannot be used.
        KvsError: the data directory is in use or corrupt, or the backup is malformed.

    """
    if options.data is None:
        _check_data_is_not_needed(options)
    else:
        _check_fsync_options(options)
    # Everything that may fail is checked before a data directory is created.
    _check_jobs_directory(options.directory)
    backup = None
    if options.restore is not None:
        with usage_errors():
            backup = load(os.fsencode(options.restore))
            if options.data is not None and _restore_if_empty(options.data, backup):
                backup = None
    store = _open(options, report)
    if backup is not None:
        try:
            with usage_errors():
                store.load(backup.pairs, backup.expiries)
        except BaseException:
            store.close()
            raise
    return store


def _restore_if_empty(path: str, backup: Backup) -> bool:
    """Restore into a new or empty data directory; return False if it holds a store already."""
    from kvs.store import maintenance  # not imported for an in-memory store, which starts faster

    return maintenance.restore(path, backup.pairs, backup.expiries) is not None


def _check_jobs_directory(path: str) -> None:
    try:
        with JobsDirectory(path):
            pass
    except JobsDirectoryError as error:
        raise UsageError(str(error)) from error


def _open(options: argparse.Namespace, report: Callable[[str], None]) -> StoreCore:
    if options.data is None:
        return StoreCore()
    fsync = options.fsync or DataSettings.fsync
    interval = options.fsync_interval or DataSettings.fsync_interval
    settings = DataSettings(fsync, interval, keep_segments=options.keep_segments or 0)
    with usage_errors(), progress_bar() as progress:
        store = StoreCore(options.data, settings, progress=progress)
    _report_recovery(store, options, report)
    return store


def _check_data_is_not_needed(options: argparse.Namespace) -> None:
    for name in ("fsync", "fsync_interval", "keep_segments", "resume"):
        if getattr(options, name, None):
            more = " and --fsync interval" if name == "fsync_interval" else ""
            raise UsageError(f"--{name.replace('_', '-')} needs --data{more}")


def _check_fsync_options(options: argparse.Namespace) -> None:
    if options.fsync_interval is not None and options.fsync != "interval":
        raise UsageError("--fsync-interval needs --fsync interval")


def _report_recovery(
    store: StoreCore, options: argparse.Namespace, report: Callable[[str], None]
) -> None:
    state, path = store.recovered, printable(options.data)
    if state is None:
        return
    if state.torn is not None:
        report(describe_torn_tail(state.torn, "was truncated"))
    if state.new:
        report(f"{path}: a new data directory")
    elif not getattr(options, "quiet", False):
        report(
            f"{path}: at revision {state.revision}, {pluralize(state.pairs, 'pair')}; replayed "
            f"{pluralize(state.commands, 'command')} of the journal in {state.seconds:.3f} s"
        )


def describe_torn_tail(torn: "TornTail", fate: str) -> str:
    """Return a line about a group that a crash left incomplete, and about its fate."""
    return (
        f"{torn.file}: {torn.reason}: the incomplete group at byte {torn.offset} {fate} "
        f"({pluralize(torn.bytes, 'byte')})"
    )


@contextmanager
def usage_errors() -> Iterator[None]:
    """Raise errors that the arguments cause as `UsageError`."""
    try:
        yield
    except (DataDirectoryError, BackupReadError, StoreNotEmptyError) as error:
        raise UsageError(str(error)) from error


@contextmanager
def progress_bar(description: str = "reading the journal") -> Iterator[ProgressCallback]:
    """Yield a callback that shows the progress of a long reading on a terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield ignore_progress
        return
    start = time.perf_counter()
    bar = None

    def show(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            if time.perf_counter() - start < PROGRESS_DELAY_SECONDS:
                return
            from rich.console import Console
            from rich.progress import Progress

            from kvs.cli.run_display import Terminal

            terminal = Console(file=cast("TextIO", Terminal()))
            bar = Progress(console=terminal, transient=True)
            bar.add_task(description)
            bar.start()
        bar.update(bar.task_ids[0], total=total, completed=done)

    try:
        yield show
    finally:
        if bar is not None:
            bar.stop()
