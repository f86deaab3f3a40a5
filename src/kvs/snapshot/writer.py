"""Write a snapshot or a backup: fork a child that writes the file, then rename the file.

How it works. The child has the table as it was at the instant of fork(2). It formats it, writes and
syncs the file, and exits by `os._exit` with 0, or with the number of the error that stopped it.

Invariants:

- The child must inherit nothing that acts for the parent: no signal handler, no other thread, and
  no descriptor but the file's.
- The parent alone creates and renames files. So a file that was written in part never gets the
  final name, whatever happens to the child.
"""

import contextlib
import errno
import gc
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import call
from typing import NoReturn

from kvs.errors import SnapshotError, SnapshotNotDurableError
from kvs.posix.files import AtomicFile, DirectorySyncError, write_all
from kvs.text import os_error_text

SYNC_BYTES = 4 << 20
"""Maximum bytes that a child writes between two syncs.

On filesystems that order their data, such as ext4, an fsync(2) of another file waits for all
unsynced data of this one: without these syncs, a backup would delay the journal.
"""

_UNKNOWN = 255
"""Exit status of the child for an error without a number."""

_IGNORED_SIGNALS = (signal.SIGUSR1, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ)
"""Signals that must not end the child: those for the parent, and errors that write(2) returns."""


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """A snapshot or backup that is durable under its final name."""

    revision: int
    """Revision of the store that it contains."""
    pairs: int
    bytes: int
    seconds: float
    """Seconds from the fork until the file was durable under its name."""
    blocked_seconds: float
    """Seconds for which fork(2) blocked the store, so that no command could run."""


class SnapshotWriter:
    """Writes the file `name` in `directory`: call `fork` once, then `finish` once.

    Threads: `fork` and `finish` may run in different threads, one after the other; any thread may
    call `kill_child` at any time. After any exception but `SnapshotError` in `fork` or `finish`,
    call `cancel`.
    """

    def __init__(self, directory: int, name: bytes, display_path: str) -> None:
        """Create the temporary file. Errors name the file `display_path`.

        Raises:
            SnapshotError: it cannot be created.

        """
        self.display_path = display_path
        self._pids: list[int] = []
        """Process ID of the child; added by the same call into C that forks."""
        self._reaped: list[tuple[int, int]] = []
        """Result of waitpid(2) for the child; added by the same call into C."""
        try:
            self._replacement = AtomicFile(directory, name)
        except OSError as error:
            raise SnapshotError(display_path, os_error_text(error), error.errno) from error

    def fork(self, revision: int, pairs: int, blocks: Callable[[], Iterable[bytes]]) -> None:
        """Fork the child, which calls `blocks` and writes what it yields: `pairs` pairs.

        The caller must not change the data that `blocks` reads until this returns.

        Raises:
            SnapshotError: fork(2) failed; the temporary file was removed.

        """
        self._revision, self._pairs = revision, pairs
        self._started_at = time.perf_counter()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._pids.extend(map(call, (os.fork,)))
            if not self._pids[0]:
                _run_child(self._replacement.file, blocks, mask)
        except OSError as error:
            self._replacement.discard()
            raise SnapshotError(
                self.display_path, f"cannot fork: {os_error_text(error)}"
            ) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self._blocked_seconds = time.perf_counter() - self._started_at

    def finish(
        self,
        wait_for_commit: Callable[[], None],
        commit: Callable[[AtomicFile], None] = AtomicFile.commit,
    ) -> SnapshotInfo:
        """Wait for the child, call `wait_for_commit`, then rename the file by `commit`.

        Raises:
            SnapshotError: the child failed, or the file cannot be renamed.
            KvsError: raised by `wait_for_commit`; the temporary file was removed.

        """
        failure = self._wait_for_child()
        if failure:
            self._replacement.discard()
            raise SnapshotError(self.display_path, *failure)
        size = os.fstat(self._replacement.file).st_size
        try:
            wait_for_commit()
        except BaseException:
            self._replacement.discard()
            raise
        try:
            commit(self._replacement)
        except DirectorySyncError as error:
            raise SnapshotNotDurableError(self.display_path, os_error_text(error)) from error
        except OSError as error:
            raise SnapshotError(self.display_path, os_error_text(error), error.errno) from error
        seconds = time.perf_counter() - self._started_at
        return SnapshotInfo(self._revision, self._pairs, size, seconds, self._blocked_seconds)

    def rename(self, name: bytes) -> None:
        """Change the final name of the file, before `finish`."""
        self._replacement.name = name

    def kill_child(self) -> None:
        """Kill the child if it runs, and remove the temporary file; for a process about to exit."""
        self._kill()
        self._replacement.remove()

    def cancel(self) -> None:
        """Kill and reap the child, and remove the temporary file. Idempotent.

        A finished file stays. Threads: one, while no other is in `fork` or `finish`.
        """
        self._replacement.remove()
        self._kill()
        if self._pids:
            self._wait_for_child()
        self._replacement.discard()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            if not self._reaped:
                for pid in self._pids:
                    os.kill(pid, signal.SIGKILL)

    def _wait_for_child(self) -> tuple[str, int | None] | None:
        """Wait for the child; return why it failed, with the error number; None if it succeeded."""
        try:
            if not self._reaped:
                self._reaped.extend(map(os.waitpid, self._pids, (0,)))
        except ChildProcessError:
            self._pids.clear()
            return "its process was reaped by other code (is SIGCHLD ignored?)", None
        return _failure_reason(os.waitstatus_to_exitcode(self._reaped[0][1]))


def _run_child(
    file: int, blocks: Callable[[], Iterable[bytes]], mask: set[int | signal.Signals]
) -> NoReturn:
    status = _UNKNOWN
    try:
        _close_all_but(file)  # first: the registration pipe of a killed server must have no reader
        gc.disable()  # a collection would touch, and so copy, every page
        _reset_inherited_state(mask)
        unsynced = 0
        for block in blocks():
            write_all(file, block)
            unsynced += len(block)
            if unsynced >= SYNC_BYTES:
                os.fdatasync(file)
                unsynced = 0
        os.fsync(file)
        status = 0
    except MemoryError:
        status = errno.ENOMEM
    except OSError as error:
        status = error.errno or _UNKNOWN
    finally:
        os._exit(status)


def _close_all_but(file: int) -> None:
    """Close every descriptor but `file`: first those below, then those above, by close_range(2).

    The registration pipe is below, since it is opened before the file of any snapshot.
    """
    os.closerange(0, file)
    os.closerange(file + 1, os.sysconf("SC_OPEN_MAX"))


def _reset_inherited_state(mask: set[int | signal.Signals]) -> None:
    """Reset the wakeup descriptor, the signal handlers and the signal mask of the parent."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    for number in _IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _failure_reason(code: int) -> tuple[str, int | None] | None:
    if code == 0:
        return None
    if code < 0:
        return f"its process was killed by {_signal_name(-code)}", None
    if code == _UNKNOWN:
        return "its process failed for an unknown reason", None
    return os.strerror(code), code


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal has no name
        return f"signal {number}"
