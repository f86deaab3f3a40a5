"""The pipes of a client: files in a directory of the user's own, under names that are locked.

Invariants:

- The private directory must belong to the user, must not be a symbolic link, and must be closed to
  other users (mode 700), so that no other user can replace a pipe.
- A name belongs to the process that holds the lock (flock(2)) on its ``.lock`` file. The kernel
  releases the lock however a process ends, so the pipes of a crashed process are replaced, and
  those of a live one are not touched.
- A server that cannot tell which user sent a connect accepts only pipes that every user can open
  (`kvs.server.access`). Pipes for such a server are in a second directory, which other users can
  search but not list (mode 711), under a secret name: only a process that knows the name can open
  the pipes, and the client sends it to the server only. The lock file holds the secret name, so
  that the pipes of a killed process can be removed.
- A path must have at most 40 bytes, the size of its field (`kvs.protocol.frames`): 20 for the
  private directory, a slash, 15 for the name, 4 for the suffix; or 21 for the second directory, a
  slash, 16 for the secret name, 2 for the suffix.
"""

import contextlib
import os
import re
import stat
import weakref
from functools import partial
from itertools import count
from secrets import token_urlsafe

from kvs.concurrency import forks
from kvs.concurrency.resources import NonCopyable
from kvs.errors import ClientIdInUseError, InvalidClientIdError, PipeDirectoryError
from kvs.posix import fifos
from kvs.posix.files import GROUP_OR_OTHER_WRITE
from kvs.posix.locks import FileLockedError, LockFile
from kvs.protocol.frames import Connect
from kvs.text import os_error_text, printable

ID = re.compile(r"[A-Za-z0-9_-]{1,15}")

MAX_DIRECTORY_BYTES = 20
LOCK_SUFFIX = b".lock"
PIPE_SUFFIXES = (b".req", b".res", b".not")
"""Suffixes of the pipes for requests, responses and notifications."""

SECRET_BYTES = 12
"""Random bytes in a secret name, which has 4 characters for every 3 bytes."""
SECRET_PIPE_SUFFIXES = (b".q", b".r", b".n")
_SECRET = re.compile(rb"[A-Za-z0-9_-]{16}")

_unnamed = count()


class ClientPipes(NonCopyable):
    """The three pipes of one client, newly created, and the lock on their name.

    `remove`, the garbage collector or the exit of the process (atexit) removes the pipes. Only a
    killed process leaves its pipes behind, and the next client of that name replaces them. A forked
    child removes nothing and does not hold the lock.
    """

    def __init__(self, directory: bytes, name: bytes, *, shared: bool) -> None:
        """Create the pipes; `shared` ones can be opened by every user who knows the secret name.

        Raises:
            ClientIdInUseError: another client uses the name.
            PipeDirectoryError: the lock file cannot be opened, locked or written.
            OSError: a pipe cannot be created.

        """
        base = os.path.join(directory, name)
        secret = token_urlsafe(SECRET_BYTES).encode("ascii") if shared else b""
        private = [base + suffix for suffix in PIPE_SUFFIXES]
        paths = _secret_paths(secret) if shared else private
        self.connect = Connect(*paths)
        """The connect frame that names the pipes."""
        lock = LockFile(base + LOCK_SUFFIX, mode=0o600)
        self._remove = partial(_remove, paths, lock, forks.generation())
        self._finalizer = weakref.finalize(self, self._remove)
        try:
            previous = _acquire(lock, base + LOCK_SUFFIX, name, note=secret)
            orphaned = _secret_paths(previous) if _SECRET.fullmatch(previous) else []
            for path in (*private, *orphaned):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
            for path in paths:
                fifos.make(path, 0o666 if shared else 0o600)
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Remove the pipes and release the name. Idempotent; for any thread.

        After an exception in it, a second call or the garbage collector does the rest.
        """
        self._remove()
        self._finalizer.detach()


def validate_client_id(client_id: str | None) -> None:
    """Check the ID of a client; None, for a client without an ID, is valid.

    Raises:
        InvalidClientIdError: the ID is not valid.

    """
    if client_id is not None and not ID.fullmatch(client_id):
        raise InvalidClientIdError(client_id)


def is_shared(registration: os.stat_result) -> bool:
    """Return whether a server accepts only pipes that every user can open.

    It does if another user runs it, or if other users may write to its registration pipe.
    """
    others_write = registration.st_mode & GROUP_OR_OTHER_WRITE
    return bool(others_write) or registration.st_uid != os.geteuid()


def create_pipes(client_id: str | None, *, shared: bool = False) -> ClientPipes:
    """Create the pipes of the client `client_id`, a valid ID, or of a client without an ID.

    `shared` pipes are for a server for which `is_shared` is true.

    Raises:
        ClientIdInUseError: another client uses the ID.
        PipeDirectoryError: a directory or a pipe cannot be created.

    """
    directory = _pipe_directory()
    _make_directory(directory, 0o700)
    if shared:
        _make_directory(_shared_directory(), 0o711)
    try:
        if client_id is not None:
            return ClientPipes(directory, client_id.encode("ascii"), shared=shared)
        return _create_unnamed(directory, shared=shared)
    except OSError as error:
        path = _shared_directory() if shared else directory
        raise PipeDirectoryError(printable(path), os_error_text(error)) from error


def _create_unnamed(directory: bytes, *, shared: bool) -> ClientPipes:
    """Create pipes under a name that is not a valid ID.

    A process of another PID namespace may use the same names, so several are tried.
    """
    while True:
        name = b"+%d.%d" % (os.getpid(), next(_unnamed) % 10_000)
        with contextlib.suppress(ClientIdInUseError):
            return ClientPipes(directory, name, shared=shared)


def _pipe_directory() -> bytes:
    """Return the user's runtime directory (XDG Base Directory Specification), or one in /tmp."""
    runtime = os.fsencode(os.environ.get("XDG_RUNTIME_DIR", ""))
    directory = os.path.join(runtime, b"kvs")
    if runtime.startswith(b"/") and len(directory) <= MAX_DIRECTORY_BYTES:
        with contextlib.suppress(OSError):
            status = os.stat(runtime)
            if status.st_uid == os.geteuid() and not status.st_mode & 0o077:
                return directory
    return b"/tmp/kvs-%d" % os.geteuid()


def _shared_directory() -> bytes:
    """Return a directory that other users can search, which a runtime directory is not."""
    return b"/tmp/kvs-%d-x" % os.geteuid()


def _secret_paths(secret: bytes) -> list[bytes]:
    return [os.path.join(_shared_directory(), secret + suffix) for suffix in SECRET_PIPE_SUFFIXES]


def _make_directory(directory: bytes, mode: int) -> None:
    """Create a directory with exactly this mode, unless it exists.

    Raises:
        PipeDirectoryError: the directory cannot be created, or has another type, owner or mode.

    """
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, mode)
        status = os.lstat(directory)
        if not stat.S_ISDIR(status.st_mode):
            raise PipeDirectoryError(printable(directory), "it is not a directory")
        if status.st_uid != os.geteuid():
            advice = "root can remove it"
            if not mode & 0o077:
                advice = "set XDG_RUNTIME_DIR to a directory of your own, mode 700"
            reason = f"it belongs to user {status.st_uid}; {advice}"
            raise PipeDirectoryError(printable(directory), reason)
        actual_mode = stat.S_IMODE(status.st_mode)
        if actual_mode & ~mode:
            reason = f"its mode is {actual_mode:o}, it must be {mode:o}"
            raise PipeDirectoryError(printable(directory), reason)
        if actual_mode != mode:  # the umask of the process that created it removed some bits
            os.chmod(directory, mode)
    except OSError as error:
        raise PipeDirectoryError(printable(directory), os_error_text(error)) from error


def _acquire(lock: LockFile, path: bytes, name: bytes, note: bytes) -> bytes:
    """Acquire `lock`, the lock file `path` of the client `name`, with a note; return the last note.

    Raises:
        ClientIdInUseError: another client holds it.
        PipeDirectoryError: it cannot be opened, locked or written.

    """
    try:
        return lock.acquire(note)
    except FileLockedError as error:
        raise ClientIdInUseError(name.decode("ascii"), error.pid) from None
    except OSError as error:
        raise PipeDirectoryError(printable(path), os_error_text(error)) from error


def _remove(paths: list[bytes], lock: LockFile, generation: int) -> None:
    if forks.generation() != generation:
        return  # the parent still uses them
    if lock.is_held:
        for path in paths:  # the lock file last: until then an interrupted call can be repeated
            with contextlib.suppress(OSError):
                os.unlink(path)
    lock.release()
