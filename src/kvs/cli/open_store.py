"""Data directories on the command line: opened for a run or a server."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO, cast

from kvs.cli.stdio import UsageError
from kvs.errors import BackupUnreadable, DataUnusable, StoreNotEmpty, cause, counted, shown
from kvs.library import Store
from kvs.posix.files import open_directory
from kvs.progress import ShowProgress, show_nobody
from kvs.settings import DataSettings
from kvs.snapshot.reader import load

if TYPE_CHECKING:
    from kvs.journal.recovery import Torn

QUICK_SECONDS = 0.5
"""A reading that takes longer shows how far it is."""


def open_store(options: argparse.Namespace, tell: Callable[[str], None]) -> Store:
    """Return the store that the options ask for; `tell` is given lines about what was found.

    Raises:
        UsageError: the options make no sense, or the directory cannot be used.
        KvsError: it is in use, or damaged; or a backup is malformed.

    """
    if options.data is None:
        _refuse_without_data(options)
    else:
        _refuse_idle_interval(options)
    # What may be refused is looked at before a data directory is made.
    _check_jobs_directory(options.directory)
    pairs = None
    if options.restore is not None:
        with as_usage():
            pairs = load(os.fsencode(options.restore))
            if options.data is not None and _restored(options.data, pairs):
                pairs = None
    store = _opened(options, tell)
    if pairs is not None:
        try:
            with as_usage():
                store.begin_with(pairs)
        except BaseException:
            store.close()
            raise
    return store


def _restored(path: str, pairs: dict[bytes, bytes]) -> bool:
    """Restore into a new or empty data directory; return False if a store is there already."""
    from kvs.store import maintenance  # a store in memory does not wait for it

    return maintenance.restore(path, pairs) is not None


def _check_jobs_directory(path: str) -> None:
    try:
        os.close(open_directory(os.fsencode(path)))
    except OSError as error:
        raise UsageError(f"{shown(path)}: {cause(error)}") from error


def _opened(options: argparse.Namespace, tell: Callable[[str], None]) -> Store:
    if options.data is None:
        return Store()
    fsync = options.fsync or DataSettings.fsync
    interval = options.fsync_interval or DataSettings.fsync_interval
    with as_usage(), shown_progress() as progress:
        store = Store(options.data, DataSettings(fsync, interval), progress=progress)
    _tell_what_was_found(store, options.data, tell)
    return store


def _refuse_without_data(options: argparse.Namespace) -> None:
    for name in ("fsync", "fsync_interval", "resume"):
        if getattr(options, name, None):
            raise UsageError(f"--{name.replace('_', '-')} needs --data")


def _refuse_idle_interval(options: argparse.Namespace) -> None:
    if options.fsync_interval is not None and options.fsync != "interval":
        raise UsageError("--fsync-interval needs --fsync interval")


def _tell_what_was_found(store: Store, path: str, tell: Callable[[str], None]) -> None:
    found = store.recovered
    if found is None:
        return
    if found.torn is not None:
        tell(torn_end(found.torn, "was dropped"))
    if found.new:
        tell(f"{shown(path)}: a new data directory")
        return
    tell(
        f"{shown(path)}: at revision {found.revision}, {counted(found.pairs, 'pair')}; carried out "
        f"again: {counted(found.commands, 'command')} of the journal; {found.seconds:.3f} s"
    )


def torn_end(torn: "Torn", fate: str) -> str:
    """Say what a crash had left half written, and what becomes of it."""
    return (
        f"{torn.file}: {torn.reason}: what begins at byte {torn.offset} was never wholly written, "
        f"and {fate} ({counted(torn.bytes, 'byte')})"
    )


@contextmanager
def as_usage() -> Iterator[None]:
    """Make wrong usage of errors that a person's arguments are the cause of."""
    try:
        yield
    except (DataUnusable, BackupUnreadable, StoreNotEmpty) as error:
        raise UsageError(str(error)) from error


@contextmanager
def shown_progress() -> Iterator[ShowProgress]:
    """Show on a terminal how far a reading is, if it takes long."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield show_nobody
        return
    began = time.perf_counter()
    bar = None

    def show(done: int, of_all: int) -> None:
        nonlocal bar
        if bar is None:
            if time.perf_counter() - began < QUICK_SECONDS:
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
