"""``kvs serve``: run the jobs of a directory and serve sessions, against one store."""

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
"""The signals that a server handles."""

DESCRIPTORS_PER_CLIENT = 3
"""Descriptors of a session or a blocked client (`kvs.server.unblock`), one for each pipe."""

RESERVED_DESCRIPTORS = 40
"""Descriptors for everything but clients, jobs and backups."""

DESCRIPTORS_PER_JOB = 4

MIN_BLOCKED_CLIENTS = 8
"""Minimum blocked clients, for which sessions leave descriptors."""

SWITCH_SECONDS = 0.0005
"""Seconds after which the thread that serves sessions gets the interpreter from another thread."""

MMAP_THRESHOLD_BYTES = 1 << 20
"""Minimum bytes of a block of memory that is mapped by itself, and unmapped when it is freed.

Larger than the blocks that jobs read or write: mapping and clearing each of those takes longer than
executing its commands, and in part while other threads wait for the interpreter.
"""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3), from ``malloc.h`` of the GNU C library."""


def serve(options: argparse.Namespace) -> int:
    """Run ``kvs serve``; return the exit status."""
    sys.setswitchinterval(SWITCH_SECONDS)
    _return_freed_memory()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # there are no sessions yet
    log_to_stderr(options.log_level)
    settings = Settings(options.threads, options.backups, resume=options.data is not None)
    sessions, blocked_clients = _client_limits(options.max_sessions, settings)
    server_settings = ServerSettings(
        sessions,
        options.fifo_mode,
        options.outbox_bytes,
        options.outbox_total_bytes,
        options.reply_total_bytes,
        blocked_clients,
    )
    with open_store(options, log.info) as store:
        _serve(store, options, settings, server_settings)
    log.info("stopped")
    return 0


def _return_freed_memory() -> None:
    """Make the C library return large blocks of memory to the system when they are freed.

    The GNU C library does so at first (mallopt(3)). But it raises the threshold with each large
    block that is freed, and smaller blocks are returned only if no memory after them is in use.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 2 * MMAP_THRESHOLD_BYTES)


def _serve(
    store: StoreCore,
    options: argparse.Namespace,
    settings: Settings,
    server_settings: ServerSettings,
) -> None:
    """Serve until a signal, or until the journal fails: closing the store raises that error."""
    jobs = _create_service(store, options, settings)
    # The signals are blocked until there is something to stop. Threads of jobs inherit the mask, so
    # the kernel always wakes the main thread (signal(7)), in which alone Python runs handlers.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        # The pipe first: a server that cannot create it runs no jobs. Connects wait in the pipe.
        server = Server(store, os.fsencode(options.fifo), server_settings)
        try:
            with jobs:
                store.on_failure(lambda _: server.stop())
                _handle_signals(server, jobs)
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                log.info("serving at %s", options.fifo)
                server.run()
                jobs.stop()
        finally:
            server.abandon()
    except JobsDirectoryError as error:
        raise UsageError(str(error)) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _create_service(
    store: StoreCore, options: argparse.Namespace, settings: Settings
) -> JobRun | JobService:
    """Return a run of the present jobs with ``--once``, else a service for later ones, too."""
    if options.once:
        return JobRun(store, options.directory, settings, _log_error)
    return JobService(store, options.directory, settings, _log_error, log.info)


def _log_error(error: KvsError) -> None:
    log.error("%s", error)


def _handle_signals(server: Server, jobs: JobRun | JobService) -> None:
    """Make SIGUSR1 end all sessions; SIGTERM and SIGINT shut down, a second one exits at once."""
    is_stopping = False

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal is_stopping
        if is_stopping:
            jobs.kill_children()
            server.abandon()
            os._exit(128 + number)
        is_stopping = True
        server.stop()
        jobs.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGUSR1, lambda *_: server.disconnect_all())


def _client_limits(configured: int, settings: Settings) -> tuple[int, int]:
    """Raise the limit of open files to the hard one; return the limits that it allows.

    They are the maximum of sessions, of which `configured` are wanted, and of blocked clients.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    max_blocked = ServerSettings.blocked_clients
    if hard == resource.RLIM_INFINITY:
        return configured, max_blocked
    reserved = RESERVED_DESCRIPTORS + DESCRIPTORS_PER_JOB * (settings.threads + settings.backups)
    clients = (hard - reserved) // DESCRIPTORS_PER_CLIENT
    sessions = min(configured, max(1, clients - MIN_BLOCKED_CLIENTS))
    if sessions < configured:
        log.warning(
            "limit of open files: at most %s, not %d; raise it with ulimit -n",
            pluralize(sessions, "session"),
            configured,
        )
    return sessions, min(max(MIN_BLOCKED_CLIENTS, clients - sessions), max_blocked)
