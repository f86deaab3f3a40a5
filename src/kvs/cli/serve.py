"""``kvs serve``: the jobs of a directory, and sessions over named pipes, against one store."""

import argparse
import ctypes
import logging
import os
import resource
import signal
import sys
from types import FrameType

from kvs.cli.log import log_to_stderr
from kvs.cli.open_store import open_store
from kvs.cli.stdio import UsageError
from kvs.errors import JobsDirectoryError, KvsError
from kvs.jobs.run import JobRun
from kvs.server.server import Server
from kvs.service.service import JobService
from kvs.settings import ServerSettings, Settings
from kvs.store.core import StoreCore
from kvs.text import pluralize

log = logging.getLogger("kvs.serve")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

DESCRIPTORS_PER_SESSION = 3
"""One for each pipe: the file that was judged until it is opened, then its end."""

RESERVED_DESCRIPTORS = 64
"""For everything but sessions, jobs and snapshots."""

DESCRIPTORS_PER_JOB = 4


SWITCH_SECONDS = 0.0005
"""Seconds after which the thread that serves sessions gets the interpreter from another."""

MMAP_THRESHOLD_BYTES = 1 << 20
"""Bytes from which on a block of memory is mapped by itself, and returned when it is freed.

More than jobs read or write at a time: to map a block and have it cleared for each takes longer
than to carry out its commands, and in part while other threads wait for the interpreter.
"""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def serve(options: argparse.Namespace) -> int:
    """Carry out ``kvs serve``; return the exit status."""
    sys.setswitchinterval(SWITCH_SECONDS)
    _return_freed_memory()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # there is no session to end yet
    log_to_stderr(options.log_level)
    settings = Settings(options.threads, options.backups, resume=options.data is not None)
    sessions = _max_sessions(options.max_sessions, settings)
    with open_store(options, log.info) as store:
        _serve(store, options, settings, sessions)
    log.info("stopped")
    return 0


def _return_freed_memory() -> None:
    """Have large blocks of memory returned to the system when they are freed.

    The C library (GNU's; mallopt(3)) does so by itself at first. But it takes larger and larger
    ones for ordinary ones, and those are returned only if nothing behind them is in use.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 2 * MMAP_THRESHOLD_BYTES)


def _serve(
    store: StoreCore, options: argparse.Namespace, settings: Settings, sessions: int
) -> None:
    """Serve until a signal, or until the journal fails; that is raised when the store is closed."""
    jobs = _create_service(store, options, settings)
    # Held back until there is something to stop. Threads of jobs never get one, so that the main
    # thread, in which alone handlers run, is always the one that is woken (signal(7)).
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        # The pipe first: who cannot have it has run no job. Connects wait in it meanwhile.
        server = _create_server(store, options, sessions)
        try:
            with jobs:
                store.on_failure(lambda _: server.stop())
                _handle_signals(server, jobs)
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
                log.info("serving at %s", options.fifo)
                server.run()
                jobs.stop()
        finally:
            server.abandon()
    except JobsDirectoryError as error:
        raise UsageError(str(error)) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _create_server(store: StoreCore, options: argparse.Namespace, sessions: int) -> Server:
    settings = ServerSettings(
        sessions,
        options.fifo_mode,
        options.outbox_bytes,
        options.outbox_total_bytes,
        options.reply_total_bytes,
    )
    return Server(store, os.fsencode(options.fifo), settings)


def _create_service(
    store: StoreCore, options: argparse.Namespace, settings: Settings
) -> JobRun | JobService:
    """Return what runs the jobs: those that are there, or also those that come."""
    if options.once:
        return JobRun(store, options.directory, settings, _log_error)
    return JobService(store, options.directory, settings, _log_error, log.info)


def _log_error(error: KvsError) -> None:
    log.error("%s", error)


def _handle_signals(server: Server, jobs: JobRun | JobService) -> None:
    """Let SIGUSR1 drop all sessions; SIGTERM and SIGINT stop, and a second one leave at once."""
    signalled = False

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal signalled
        if signalled:
            jobs.kill_children()
            server.abandon()
            os._exit(128 + number)
        signalled = True
        server.stop()
        jobs.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGUSR1, lambda *_: server.disconnect_all())


def _max_sessions(wanted: int, settings: Settings) -> int:
    """Raise the limit of open files to the hard one; return how many sessions it allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return wanted
    kept = RESERVED_DESCRIPTORS + DESCRIPTORS_PER_JOB * (settings.threads + settings.backups)
    possible = max(1, (hard - kept) // DESCRIPTORS_PER_SESSION)
    if possible >= wanted:
        return wanted
    log.warning(
        "descriptors set the bound: at most %s at the same time, not %d (ulimit -n)",
        pluralize(possible, "session"),
        wanted,
    )
    return possible
