"""Where a client's pipes lie: a directory of the user's own, under names that are locked.

Invariants:

- The private directory is the user's, no link, and no other user gets in (mode 700), so nothing can
  be put in the place of a pipe.
- A name belongs to whoever holds the lock (flock(2)) on its ``.lock`` file, and the kernel lets go
  of that however a process ends: what a crash left behind is replaced, what lives is not touched.
- A server that does not know whose connects it reads takes only pipes that every user can open
  (`kvs.server.access`). Pipes for such a server lie in a second directory, which other users can
  search but not list (mode 711), under a secret name: only a process that knows it can open them,
  and the client tells it to the server alone. The lock file holds the name, so that the pipes of a
  process that was killed can be removed.
- A path has at most 40 bytes, the size of its field (`kvs.protocol.frames`): 20 for the
  private directory, a slash, 15 for the name, 4 for the suffix; or 21 for the second directory, a
  slash, 16 for the secret, 2 for the suffix.
"""

import contextlib
import fcntl
import os
import re
import stat
import weakref
from collections import deque
from functools import partial
from itertools import count
from secrets import token_urlsafe

from kvs.concurrency import forks
from kvs.concurrency.atomic import atomically
from kvs.concurrency.noncopyable import NonCopyable
from kvs.errors import ClientIdInUseError, InvalidClientIdError, PipeDirectoryError
from kvs.posix import fifos
from kvs.protocol.frames import Connect
from kvs.text import os_error_text, printable

ID = re.compile(r"[A-Za-z0-9_-]{1,15}")

DIRECTORY_BYTES = 20
LOCK_SUFFIX = b".lock"
PIPE_SUFFIXES = (b".req", b".res", b".not")
"""Requests, responses, notifications."""

SECRET_BYTES = 12
"""Random bytes in a secret name, which has 4 characters for every 3 of them."""
SECRET_PIPES = (b".q", b".r", b".n")
_SECRET = re.compile(rb"[A-Za-z0-9_-]{16}")

_unnamed = count()


class ClientPipes(NonCopyable):
    """The three pipes of one client, made new, and the lock on their name.

    They are removed with `remove`, when the object is forgotten, or at the end of the process
    (atexit); only a process that is killed leaves them, for the next of that name to replace. A
    forked child removes nothing, and does not have the lock.
    """

    def __init__(self, directory: bytes, name: bytes, *, shared: bool) -> None:
        """Make them; `shared` ones can be opened by every user who knows their secret name.

        Raises:
            ClientIdInUseError: another client has the name.
            OSError: they cannot be made.

        """
        base = os.path.join(directory, name)
        secret = token_urlsafe(SECRET_BYTES).encode("ascii") if shared else b""
        private = [base + suffix for suffix in PIPE_SUFFIXES]
        paths = _secret_paths(secret) if shared else private
        self.connect = Connect(*paths)
        """What a server is to be told of them."""
        self._lock: deque[int] = deque()
        """The descriptor of the lock file, until it is closed."""
        self._remove = partial(
            _remove, [*paths, base + LOCK_SUFFIX], self._lock, forks.generation()
        )
        self._finalizer = weakref.finalize(self, self._remove)
        forks.close_group_in_children(self._lock)
        try:
            left = _lock(base + LOCK_SUFFIX, name, secret, self._lock)
            for path in (*private, *left):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
            for path in paths:
                fifos.make(path, 0o666 if shared else 0o600)
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Remove the pipes, and free the name. Idempotent, any thread.

        After an exception in it, a second call or the garbage collector does what is left.
        """
        self._remove()
        self._finalizer.detach()


def validate_client_id(given: str | None) -> None:
    """Check what a client is to be called; None is good, too.

    Raises:
        InvalidClientIdError: it is no ID.

    """
    if given is not None and not ID.fullmatch(given):
        raise InvalidClientIdError(given)


def is_shared(registration: os.stat_result) -> bool:
    """Return whether a server takes only pipes that every user can open.

    It does if it is another user's, or if others may write to its registration pipe.
    """
    others_write = registration.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return bool(others_write) or registration.st_uid != os.geteuid()


def create_pipes(given: str | None, *, shared: bool = False) -> ClientPipes:
    """Make the pipes of the client `given`, which is an ID, or of one with no name.

    `shared` tells for which kind of server (`is_shared`).

    Raises:
        ClientIdInUseError: another client has it.
        PipeDirectoryError: there is no place for them.

    """
    directory = _pipe_directory()
    _make_directory(directory, 0o700)
    if shared:
        _make_directory(_shared_directory(), 0o711)
    try:
        if given is not None:
            return ClientPipes(directory, given.encode("ascii"), shared=shared)
        return _create_unnamed(directory, shared=shared)
    except OSError as error:
        where = _shared_directory() if shared else directory
        raise PipeDirectoryError(printable(where), os_error_text(error)) from error


def _create_unnamed(directory: bytes, *, shared: bool) -> ClientPipes:
    """Make pipes under a name that no ID can be; another PID namespace may have the first ones."""
    while True:
        name = b"+%d.%d" % (os.getpid(), next(_unnamed) % 10_000)
        with contextlib.suppress(ClientIdInUseError):
            return ClientPipes(directory, name, shared=shared)


def _pipe_directory() -> bytes:
    """Return the user's runtime directory (XDG Base Directory Specification), or one in /tmp."""
    runtime = os.fsencode(os.environ.get("XDG_RUNTIME_DIR", ""))
    ours = os.path.join(runtime, b"kvs")
    if runtime.startswith(b"/") and len(ours) <= DIRECTORY_BYTES:
        with contextlib.suppress(OSError):
            found = os.stat(runtime)
            if found.st_uid == os.geteuid() and not found.st_mode & 0o077:
                return ours
    return b"/tmp/kvs-%d" % os.geteuid()


def _shared_directory() -> bytes:
    """Return a directory that other users can reach; the runtime directory is the user's alone."""
    return b"/tmp/kvs-%d-x" % os.geteuid()


def _secret_paths(secret: bytes) -> list[bytes]:
    return [os.path.join(_shared_directory(), secret + suffix) for suffix in SECRET_PIPES]


def _make_directory(directory: bytes, mode: int) -> None:
    """Make a directory of the user's with exactly this mode, unless it is there.

    Raises:
        PipeDirectoryError: it cannot be made, or something else is there.

    """
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, mode)
        found = os.lstat(directory)
        if not stat.S_ISDIR(found.st_mode):
            raise PipeDirectoryError(printable(directory), "it is no directory")
        if found.st_uid != os.geteuid():
            advice = "root can remove it"
            if not mode & 0o077:
                advice = "set XDG_RUNTIME_DIR to a directory of your own, mode 700"
            reason = f"it belongs to user {found.st_uid}; {advice}"
            raise PipeDirectoryError(printable(directory), reason)
        is_mode = stat.S_IMODE(found.st_mode)
        if is_mode & ~mode:
            reason = f"its mode is {is_mode:o}, it must be {mode:o}"
            raise PipeDirectoryError(printable(directory), reason)
        if is_mode != mode:  # the umask took some, of this process or of another that made it
            os.chmod(directory, mode)
    except OSError as error:
        raise PipeDirectoryError(printable(directory), os_error_text(error)) from error


def _lock(path: bytes, name: bytes, secret: bytes, held: deque[int]) -> list[bytes]:
    """Lock the file at `path`, created if need be, and write down which process has it.

    The file is open in `held` then. Return the secret paths that a process that had it before has
    left.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    while True:
        held.extend(map(os.open, (path,), (flags,), (0o600,)))
        [file] = held
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid, _ = _read_lock(file)
            raise ClientIdInUseError(
                name.decode("ascii"), int(pid) if pid.isdigit() else None
            ) from None
        if _is_same_file(file, path):
            os.fchmod(file, 0o600)  # the umask may have taken some of it
            _, before = _read_lock(file)
            os.ftruncate(file, 0)
            os.pwrite(file, b"%d\n%b" % (os.getpid(), secret), 0)
            return _secret_paths(before) if before else []
        _close(held)  # the process that held the lock has just removed the file


def _read_lock(file: int) -> tuple[bytes, bytes]:
    """Return process and secret name in a lock file; empty what is not there, or is none."""
    pid, _, secret = os.pread(file, 64, 0).partition(b"\n")
    return pid, secret if _SECRET.fullmatch(secret) else b""


def _is_same_file(file: int, path: bytes) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file), os.lstat(path))
    return False


def _remove(paths: list[bytes], lock: deque[int], generation: int) -> None:
    if forks.generation() != generation:
        return  # the parent goes on to use them
    for file in list(lock):
        if _is_ours(file, lock, paths[-1]):
            for path in paths:  # the lock file is the last: this can be called again until then
                with contextlib.suppress(OSError):
                    os.unlink(path)
    _close(lock)
    forks.stop_closing_group(lock)


def _is_ours(file: int, lock: deque[int], path: bytes) -> bool:
    """Return whether this process has the name: an exception may have come before it was locked."""
    with contextlib.suppress(OSError, ValueError):
        flags = fcntl.LOCK_EX | fcntl.LOCK_NB
        atomically(partial(lock.index, file), partial(fcntl.flock, file, flags))
        return _is_same_file(file, path)
    return False


def _close(descriptors: deque[int]) -> None:
    for descriptor in list(descriptors):
        forks.close_once(descriptors, descriptor)
