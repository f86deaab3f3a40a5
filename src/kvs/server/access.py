"""Decides which pipes a server may open for a client whose user it does not know.

The reader of a named pipe cannot find out which user wrote to it. So if users other than the
server's own may write to the registration pipe, a connect may come from any of them, and the server
would open pipes with its own rights for a user who has fewer. The server therefore assumes the
sender with the fewest rights.

Invariants:

- A pipe must be readable and writable by every possible sender. The role of a client alone (write
  requests, read the others) is not enough: the server reads requests and writes the others, and
  must never do for a sender what that sender could not do.
- Every directory of the path must be searchable by every possible sender, and the path must
  contain no symbolic link: the links of /proc lead into directories that the sender cannot search.
- Permissions must be checked on the descriptor that is used for the next step, so that renaming or
  replacing a file in between has no effect.
- Permission bits must be the only permissions: a file with an access control list is refused.
"""

import errno
import os
import stat
from dataclasses import dataclass

from kvs.posix.fifos import Fifo
from kvs.posix.files import GROUP_OR_OTHER_WRITE
from kvs.text import printable

_READ_WRITE = 0o6
_SEARCH = 0o1
_USER_AND_GROUP = 0o110
_EVERYONE = 0o111
"""Factors that repeat a permission bit of one class of users in several classes."""

_ACCESS_LISTS = frozenset({"system.posix_acl_access", "system.nfs4_acl"})
"""Extended attributes (xattr(7)) that hold an access control list."""


class NoAccess(OSError):
    """A path that a client must not name, because its user may lack the permissions.

    The text is the reason, to be put after the path.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Senders:
    """The users, other than the server's own, that may have written to the registration pipe."""

    mode: int
    """Permissions of the registration pipe."""
    group: int | None
    """Group that all these users belong to; None if any user may have written."""

    def check(self, status: os.stat_result, needed: int, subject: str) -> None:
        """Raise `NoAccess` unless every sender has the permissions `needed` (0 to 7) on a file."""
        classes = _USER_AND_GROUP if status.st_gid == self.group else _EVERYONE
        mode = stat.S_IMODE(status.st_mode)
        missing = needed * classes & ~mode
        if missing:
            raise NoAccess(
                f"{subject}has mode {mode:03o}, and {self._anyone} may have named it; "
                f"mode {mode | missing:03o} would do"
            )

    def refusal(self, reason: str) -> NoAccess:
        """Return the error for a path that is refused for `reason`, whatever its permissions."""
        return NoAccess(f"{reason}, and {self._anyone} may have named it")

    @property
    def _anyone(self) -> str:
        users = "any user" if self.group is None else f"any member of group {self.group}"
        return f"with --fifo-mode {self.mode:03o} {users}"


def senders(registration: int, mode: int) -> Senders | None:
    """Return the users that may have written to a registration pipe; None if only the server's.

    `registration` is an open descriptor of the pipe. `mode` is the permissions that the pipe was
    made with; the permissions that it has now are added.
    """
    status = os.fstat(registration)
    mode |= stat.S_IMODE(status.st_mode)
    if not mode & GROUP_OR_OTHER_WRITE:
        return None
    is_one_group = not mode & stat.S_IWOTH and not _has_access_list(registration)
    return Senders(mode, status.st_gid if is_one_group else None)


def fifo_at(path: bytes, senders: Senders) -> Fifo:
    """Return the pipe at `path` if every sender could open it. The caller closes the pipe.

    Raises:
        NoAccess: a sender may lack the permissions.
        NotAFifo: the file is not a named pipe.
        OSError: the file does not exist or cannot be reached.

    """
    if not path.startswith(b"/"):
        raise senders.refusal("is not an absolute path")
    *directories, name = path.split(b"/")
    directory = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    reached = b"/"
    try:
        _check_directory(directory, reached, senders)
        for part in filter(None, directories):
            reached = os.path.join(reached, part)
            child = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            os.close(directory)
            directory = child
            _check_directory(directory, reached, senders)
        handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    finally:
        os.close(directory)
    try:
        fifo = Fifo.from_handle(path, handle)
        _check(handle, os.fstat(handle), _READ_WRITE, senders)
    except OSError:
        os.close(handle)
        raise
    return fifo


def _check_directory(handle: int, path: bytes, senders: Senders) -> None:
    """Raise unless `handle` names a directory that every sender can search."""
    status = os.fstat(handle)
    subject = f"{printable(path)} "
    if stat.S_ISLNK(status.st_mode):
        raise senders.refusal(f"{subject}is a symbolic link")
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    _check(handle, status, _SEARCH, senders, subject)


def _check(
    handle: int, status: os.stat_result, needed: int, senders: Senders, subject: str = ""
) -> None:
    senders.check(status, needed, subject)
    if _has_access_list(handle):
        raise senders.refusal(f"{subject}has an access control list (acl(5))")


def _has_access_list(descriptor: int) -> bool:
    """Return whether a file has permissions besides its mode; True if that is unknown."""
    try:
        names = os.listxattr(f"/proc/self/fd/{descriptor}")
    except OSError as error:
        return error.errno != errno.EOPNOTSUPP
    return not _ACCESS_LISTS.isdisjoint(names)
