"""Data directories on the command line: opened for a run or a server, and looked after."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kvs import upkeep
from kvs.cli.say import UsageError, put, put_bytes, say
from kvs.errors import (
    BackupUnreadable,
    DataDamaged,
    DataUnusable,
    StoreNotEmpty,
    shown,
)
from kvs.journal.recovery import Found, Torn
from kvs.library import Store
from kvs.persistence import ShowProgress, show_nobody
from kvs.settings import DataSettings

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
        store = Store()
    else:
        fsync = options.fsync or DataSettings.fsync
        interval = options.fsync_interval or DataSettings.fsync_interval
        with _usage(), _progress() as progress:
            store = Store(options.data, DataSettings(fsync, interval), progress=progress)
        _tell_what_was_found(store, options.data, tell)
    if options.restore is not None:
        try:
            with _usage():
                store.restore(options.restore)
        except BaseException:
            store.close()
            raise
    return store


def _refuse_without_data(options: argparse.Namespace) -> None:
    for name in ("fsync", "fsync_interval", "resume"):
        if getattr(options, name, None):
            raise UsageError(f"--{name.replace('_', '-')} needs --data")


def _tell_what_was_found(store: Store, path: str, tell: Callable[[str], None]) -> None:
    found = store.recovered
    if found is None:
        return
    if found.torn is not None:
        tell(_torn(found.torn) + ", and were dropped")
    tell(
        f"{shown(path)}: at revision {found.revision}, {found.pairs} pairs; {found.commands} "
        f"commands of the journal were carried out again; {found.seconds:.3f} s"
    )


def _torn(torn: Torn) -> str:
    return (
        f"{torn.file}: {torn.reason}: the last {torn.bytes} bytes, from byte {torn.offset} on, "
        "were never wholly written"
    )


@contextmanager
def _usage() -> Iterator[None]:
    """Make wrong usage of errors that a person's arguments are the cause of."""
    try:
        yield
    except (DataUnusable, BackupUnreadable, StoreNotEmpty) as error:
        raise UsageError(str(error)) from error


@contextmanager
def _progress() -> Iterator[ShowProgress]:
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

            bar = Progress(console=Console(stderr=True), transient=True)
            bar.add_task("reading the journal")
            bar.start()
        bar.update(bar.task_ids[0], total=of_all, completed=done)

    try:
        yield show
    finally:
        if bar is not None:
            bar.stop()


def check(options: argparse.Namespace) -> int:
    """Carry out ``kvs check``; return the exit status."""
    with _usage(), _progress() as progress:
        try:
            found = upkeep.check(options.directory, progress)
        except DataDamaged as damage:
            put(f"{damage.file}: at byte {damage.offset}: {damage.reason}")
            return 1
    if found.torn is not None:
        put(f"{_torn(found.torn)}: the next start drops them")
    put(f"{shown(options.directory)}: {_sizes(found)}")
    return 0


def _sizes(found: Found) -> str:
    snapshot = "no snapshot"
    if found.snapshot is not None:
        snapshot = f"a snapshot of {found.snapshot_bytes} bytes"
    segments = f"{len(found.segments)} segment{'s' if len(found.segments) > 1 else ''}"
    return (
        f"revision {found.revision}, {found.pairs} keys, "
        f"{found.snapshot_bytes + found.journal_bytes} bytes: {snapshot}, "
        f"{segments} of the journal of {found.journal_bytes} bytes"
    )


def repair(options: argparse.Namespace) -> int:
    """Carry out ``kvs repair``; return the exit status."""
    with _usage(), _progress() as progress:
        cut = upkeep.repair(options.directory, progress)
    if cut is None:
        put(f"{shown(options.directory)}: nothing is damaged, and nothing was cut")
        return 0
    put(
        f"{cut.file}: at byte {cut.offset}: {cut.reason}\n"
        f"cut there: {cut.bytes} bytes were taken away, and are kept in {', '.join(cut.kept)}\n"
        f"{shown(options.directory)}: at revision {cut.revision}; lost is what followed, up to "
        f"revision {cut.lost_up_to} as far as can be made out"
    )
    return 0


def dump(options: argparse.Namespace) -> int:
    """Carry out ``kvs dump``; return the exit status."""
    with _usage(), _progress() as progress:
        for block in upkeep.dump(options.directory, progress):
            put_bytes(block)
    return 0


def compact(options: argparse.Namespace) -> int:
    """Carry out ``kvs compact``; return the exit status."""
    with _usage(), _progress() as progress:
        before = upkeep.check(options.directory)
        store = Store(options.directory, progress=progress)
    with store, _usage():
        if store.recovered is not None and store.recovered.torn is not None:
            say(f"kvs compact: {_torn(store.recovered.torn)}, and were dropped")
        written = store.compact()
    if written is not None:
        put(
            f"{shown(options.directory)}: {before.snapshot_bytes + before.journal_bytes} bytes "
            f"have become {written.bytes}; {written.pairs} pairs at revision {written.revision}"
        )
    return 0


def restore(options: argparse.Namespace) -> int:
    """Carry out ``kvs restore``; return the exit status."""
    with _usage(), Store(options.directory) as store:
        revision = store.restore(options.file)
        say(f"{shown(options.directory)}: {len(store)} pairs, at revision {revision}")
    return 0
