"""Write a snapshot: fork, let the child write, put its file in place.

The child has the table as it was at the instant of fork(2), and nothing of the parent goes on
there: no signal handler, no descriptor but the file's, no other thread. It formats, writes, syncs
and leaves by `os._exit`; its exit status is 0 or the number of the error that stopped it. The
parent alone makes and renames files, so whatever happens to the child, nothing half-written ever
stands under the final name.
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
"""So much does a child write, at most, before it syncs.

On filesystems that order their data, ext4 for one, whoever syncs another file meanwhile waits for
all of this one that has not reached the disk.
"""

_UNKNOWN = 255
"""The child's exit status for an error without a number."""

_IGNORED_SIGNALS = (signal.SIGUSR1, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ)


def _no_wait() -> None:
    """Wait for nothing."""


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """A snapshot that is on disk under its name."""

    revision: int
    """The store's revision that it shows."""
    pairs: int
    bytes: int
    seconds: float
    """From the fork until it was durable under its name."""
    blocked_seconds: float
    """For how long fork held the store, so that no command could run."""


class SnapshotWriter:
    """A snapshot on its way to `name` in `directory`: `fork` once, then `finish` once.

    `display_path` is how errors name the file, whose name may be changed until `finish`. `fork` and
    `finish` may be called from different threads, one after the other; `kill_child` from any
    thread, at any time. After an exception within them, `cancel` ends it.
    """

    def __init__(self, directory: int, name: bytes, shown: str) -> None:
        self.display_path = shown
        self._pids: list[int] = []
        """The child's, from the fork on; changed in one call into C with it."""
        self._reaped: list[tuple[int, int]] = []
        """What waitpid(2) returned for it, likewise."""
        try:
            self._replacement = AtomicFile(directory, name)
        except OSError as error:
            raise SnapshotError(shown, os_error_text(error), error.errno) from error

    def fork(self, revision: int, pairs: int, blocks: Callable[[], Iterable[bytes]]) -> None:
        """Start the child that writes `blocks`, called and taken there, of so many pairs.

        The caller keeps what they are made of unchanged meanwhile.

        Raises:
            SnapshotError: there is no child, and no temporary file any more.

        """
        self._revision, self._pairs = revision, pairs
        self._began = time.perf_counter()
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
        self._held = time.perf_counter() - self._began

    def finish(
        self,
        until_safe: Callable[[], None] = _no_wait,
        commit: Callable[[AtomicFile], None] = AtomicFile.commit,
    ) -> SnapshotInfo:
        """Wait for the child to end, and for `until_safe`; then put its file in place by `commit`.

        Raises:
            SnapshotError: the child failed, or the file cannot be put in place.
            KvsError: `until_safe` raised it; nothing is left of the file then.

        """
        failure = self._wait_for_child()
        if failure:
            self._replacement.discard()
            raise SnapshotError(self.display_path, *failure)
        size = os.fstat(self._replacement.file).st_size
        try:
            until_safe()
        except BaseException:
            self._replacement.discard()
            raise
        try:
            commit(self._replacement)
        except DirectorySyncError as error:
            raise SnapshotNotDurableError(self.display_path, os_error_text(error)) from error
        except OSError as error:
            raise SnapshotError(self.display_path, os_error_text(error), error.errno) from error
        seconds = time.perf_counter() - self._began
        return SnapshotInfo(self._revision, self._pairs, size, seconds, self._held)

    def rename(self, name: bytes) -> None:
        """Let the file be called `name` once it is finished."""
        self._replacement.name = name

    def discard(self) -> None:
        """Remove its file; it was not forked."""
        self._replacement.discard()

    def kill_child(self) -> None:
        """End the child, if it still runs, and remove its file; for a process about to leave."""
        self._kill()
        self._replacement.remove()

    def cancel(self) -> None:
        """End the child and leave nothing of it, nor of the file if it is not in place. Idempotent.

        One thread calls it, when no other is in `fork` or `finish`.
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
        """Wait for the child; return why it failed, with the error number; None if it did not."""
        try:
            if not self._reaped:
                self._reaped.extend(map(os.waitpid, self._pids, (0,)))
        except ChildProcessError:
            self._pids.clear()
            return "its process was reaped by somebody else (is SIGCHLD ignored?)", None
        return _failure(os.waitstatus_to_exitcode(self._reaped[0][1]))


def _run_child(
    file: int, blocks: Callable[[], Iterable[bytes]], mask: set[int | signal.Signals]
) -> NoReturn:
    status = _UNKNOWN
    try:
        _close_all_but(file)  # first: a killed server's registration pipe must lose its reader
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
    """Close every descriptor but `file`, with one close_range(2) for either side of it.

    The lower ones come first: the registration pipe is open before any snapshot's file.
    """
    os.closerange(0, file)
    os.closerange(file + 1, os.sysconf("SC_OPEN_MAX"))


def _reset_inherited_state(mask: set[int | signal.Signals]) -> None:
    """Drop the parent's wakeup descriptor and signal handlers."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    for number in _IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _failure(code: int) -> tuple[str, int | None] | None:
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
