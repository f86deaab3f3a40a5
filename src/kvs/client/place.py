"""Where a client's pipes lie: a directory of the user's own, under names that are locked.

Laws:

- The directory is the user's, no link, and nobody else gets in (mode 700), so nothing can be put
  in the place of a pipe.
- A name belongs to whoever holds the lock (flock(2)) on its ``.lock`` file, and the kernel lets go
  of that however a process ends: what a crash left behind is replaced, what lives is not touched.
- A path has at most 40 bytes, for it stands in a field of so many (`kvs.wire.frames`): 20 for the
  directory, a slash, 15 for the name, 4 for the suffix.
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

from kvs import forks
from kvs.atomic import atomically
from kvs.errors import IdInUse, IdRefused, NoPlaceForPipes, cause, shown
from kvs.noncopyable import NonCopyable
from kvs.wire import fifos
from kvs.wire.frames import Connect

ID = re.compile(r"[A-Za-z0-9_-]{1,15}")

DIRECTORY_BYTES = 20
LOCK = b".lock"
PIPES = (b".req", b".res", b".not")
"""Requests, responses, notifications."""

_unnamed = count()


class Place(NonCopyable):
    """The three pipes of one client, made new, and the lock on their name.

    They are removed with `remove`, when the object is forgotten, or at the end of the process
    (atexit); only a process that is killed leaves them, for the next of that name to replace. A
    forked child removes nothing, and does not have the lock.
    """

    def __init__(self, directory: bytes, name: bytes) -> None:
        base = os.path.join(directory, name)
        paths = [base + suffix for suffix in PIPES]
        self.connect = Connect(*paths)
        """What a server is to be told of them."""
        self._lock: deque[int] = deque()
        """The descriptor of the lock file, until it is closed."""
        self._remove = partial(_remove, [*paths, base + LOCK], self._lock, forks.generation())
        self._finalizer = weakref.finalize(self, self._remove)
        forks.close_group_in_children(self._lock)
        try:
            _lock(base + LOCK, name, self._lock)
            for path in paths:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                fifos.make(path)
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Remove the pipes, and free the name. Idempotent, any thread.

        After an exception in it, a second call or the garbage collector does what is left.
        """
        self._remove()
        self._finalizer.detach()


def check_id(given: str | None) -> None:
    """Check what a client is to be called; None is good, too.

    Raises:
        IdRefused: it is no ID.

    """
    if given is not None and not ID.fullmatch(given):
        raise IdRefused(given)


def claim(given: str | None) -> Place:
    """Make the pipes of the client `given`, which is an ID, or of one with no name.

    Raises:
        IdInUse: another client has it.
        NoPlaceForPipes: there is no place for them.

    """
    directory = _place()
    try:
        _make_private(directory)
        if given is not None:
            return Place(directory, given.encode("ascii"))
        return _claim_unnamed(directory)
    except OSError as error:
        raise NoPlaceForPipes(shown(directory), cause(error)) from error


def _claim_unnamed(directory: bytes) -> Place:
    """Make pipes under a name that no ID can be; another PID namespace may have the first ones."""
    while True:
        name = b"+%d.%d" % (os.getpid(), next(_unnamed) % 10_000)
        with contextlib.suppress(IdInUse):
            return Place(directory, name)


def _place() -> bytes:
    """Return the user's runtime directory (XDG Base Directory Specification), or one in /tmp."""
    runtime = os.fsencode(os.environ.get("XDG_RUNTIME_DIR", ""))
    ours = os.path.join(runtime, b"kvs")
    if runtime.startswith(b"/") and len(ours) <= DIRECTORY_BYTES:
        with contextlib.suppress(OSError):
            found = os.stat(runtime)
            if found.st_uid == os.geteuid() and not found.st_mode & 0o077:
                return ours
    return b"/tmp/kvs-%d" % os.geteuid()


def _make_private(directory: bytes) -> None:
    try:
        os.mkdir(directory, 0o700)
        os.chmod(directory, 0o700)  # the umask may have taken some of it
    except FileExistsError:
        pass
    found = os.lstat(directory)
    if not stat.S_ISDIR(found.st_mode):
        raise NoPlaceForPipes(shown(directory), "it is no directory")
    if found.st_uid != os.geteuid():
        raise NoPlaceForPipes(shown(directory), f"it belongs to user {found.st_uid}")
    if stat.S_IMODE(found.st_mode) != 0o700:
        mode = stat.S_IMODE(found.st_mode)
        raise NoPlaceForPipes(shown(directory), f"its mode is {mode:o}, it must be 700")


def _lock(path: bytes, name: bytes, held: deque[int]) -> None:
    """Lock the file at `path`, which is made if need be; it is open in `held` then."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    while True:
        held.extend(map(os.open, (path,), (flags,), (0o600,)))
        [file] = held
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(file, 20, 0)
            raise IdInUse(name.decode("ascii"), int(pid) if pid.isdigit() else None) from None
        if _stands_at(file, path):
            os.fchmod(file, 0o600)  # the umask may have taken some of it
            os.ftruncate(file, 0)
            os.pwrite(file, b"%d" % os.getpid(), 0)
            return
        _close(held)  # the process that held the lock has just removed the file


def _stands_at(file: int, path: bytes) -> bool:
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
    forks.forget_group(lock)


def _is_ours(file: int, lock: deque[int], path: bytes) -> bool:
    """Return whether this process has the name: an exception may have come before it was locked."""
    with contextlib.suppress(OSError, ValueError):
        flags = fcntl.LOCK_EX | fcntl.LOCK_NB
        atomically(partial(lock.index, file), partial(fcntl.flock, file, flags))
        return _stands_at(file, path)
    return False


def _close(descriptors: deque[int]) -> None:
    for descriptor in list(descriptors):
        forks.close_once(descriptors, descriptor)
