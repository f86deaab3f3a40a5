"""Data directories on the command line: opened for a run or a server."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO, cast

from kvs.cli.stdio import UsageError
from kvs.errors import BackupReadError, DataDirectoryError, StoreNotEmptyError
from kvs.posix.files import open_directory
from kvs.settings import DataSettings, ProgressCallback, ignore_progress
from kvs.snapshot.reader import load
from kvs.store.core import StoreCore
from kvs.text import os_error_text, pluralize, printable

if TYPE_CHECKING:
    from kvs.journal.recovery import TornTail

PROGRESS_DELAY_SECONDS = 0.5
"""A reading that takes longer shows how far it is."""


def open_store(options: argparse.Namespace, tell: Callable[[str], None]) -> StoreCore:
    """Return the store that the options ask for; `tell` is given lines about what was found.

    Raises:
        UsageError: the options make no sense, or the directory cannot be used.
        KvsError: it is in use, or damaged; or a backup is malformed.

    """
    if options.data is None:
        _refuse_without_data(options)
    else:
        _check_fsync_options(options)
    # What may be refused is looked at before a data directory is made.
    _check_jobs_directory(options.directory)
    pairs = None
    if options.restore is not None:
        with usage_errors():
            pairs = load(os.fsencode(options.restore))
            if options.data is not None and _restore_if_empty(options.data, pairs):
                pairs = None
    store = _open(options, tell)
    if pairs is not None:
        try:
            with usage_errors():
                store.load(pairs)
        except BaseException:
            store.close()
            raise
    return store


def _restore_if_empty(path: str, pairs: dict[bytes, bytes]) -> bool:
    """Restore into a new or empty data directory; return False if a store is there already."""
    from kvs.store import maintenance  # a store in memory does not wait for it

    return maintenance.restore(path, pairs) is not None


def _check_jobs_directory(path: str) -> None:
    try:
        os.close(open_directory(os.fsencode(path)))
    except OSError as error:
        raise UsageError(f"{printable(path)}: {os_error_text(error)}") from error


def _open(options: argparse.Namespace, tell: Callable[[str], None]) -> StoreCore:
    if options.data is None:
        return StoreCore()
    fsync = options.fsync or DataSettings.fsync
    interval = options.fsync_interval or DataSettings.fsync_interval
    with usage_errors(), progress_bar() as progress:
        store = StoreCore(options.data, DataSettings(fsync, interval), progress=progress)
    _print_recovery(store, options.data, tell)
    return store


def _refuse_without_data(options: argparse.Namespace) -> None:
    for name in ("fsync", "fsync_interval", "resume"):
        if getattr(options, name, None):
            raise UsageError(f"--{name.replace('_', '-')} needs --data")


def _check_fsync_options(options: argparse.Namespace) -> None:
    if options.fsync_interval is not None and options.fsync != "interval":
        raise UsageError("--fsync-interval needs --fsync interval")


def _print_recovery(store: StoreCore, path: str, tell: Callable[[str], None]) -> None:
    found = store.recovered
    if found is None:
        return
    if found.torn is not None:
        tell(describe_torn_tail(found.torn, "was dropped"))
    if found.new:
        tell(f"{printable(path)}: a new data directory")
        return
    tell(
        f"{printable(path)}: at revision {found.revision}, {pluralize(found.pairs, 'pair')}; "
        f"carried out again: {pluralize(found.commands, 'command')} of the journal; "
        f"{found.seconds:.3f} s"
    )


def describe_torn_tail(torn: "TornTail", fate: str) -> str:
    """Say what a crash had left half written, and what becomes of it."""
    return (
        f"{torn.file}: {torn.reason}: what begins at byte {torn.offset} was never wholly written, "
        f"and {fate} ({pluralize(torn.bytes, 'byte')})"
    )


@contextmanager
def usage_errors() -> Iterator[None]:
    """Make wrong usage of errors that a person's arguments are the cause of."""
    try:
        yield
    except (DataDirectoryError, BackupReadError, StoreNotEmptyError) as error:
        raise UsageError(str(error)) from error


@contextmanager
def progress_bar() -> Iterator[ProgressCallback]:
    """Show on a terminal how far a reading is, if it takes long."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield ignore_progress
        return
    began = time.perf_counter()
    bar = None

    def show(done: int, of_all: int) -> None:
        nonlocal bar
        if bar is None:
            if time.perf_counter() - began < PROGRESS_DELAY_SECONDS:
                return
            from rich.console import Console
            from rich.progress import Progress

            from kvs.cli.run_display import Terminal

            terminal = Console(file=cast("TextIO", Terminal()))
            bar = Progress(console=terminal, transient=True)
            bar.add_task("reading the journal")
            bar.start()
        bar.update(bar.task_ids[0], total=of_all, completed=done)

    try:
        yield show
    finally:
        if bar is not None:
            bar.stop()
