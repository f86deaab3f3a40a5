"""Which pipes a server opens for a client whose user it does not know.

A write to a named pipe does not say who wrote it. So where others than the server's own user may
write to the registration pipe, a connect may come from any of them, and the server would open
pipes with its own rights for a user who has fewer. It therefore assumes the sender with the fewest
rights.

Invariants:

- A pipe must be readable and writable by every possible sender. The role of a client alone (write
  requests, read the others) would not do: the server reads requests and writes the others, and must
  never do for a sender what that sender could not do.
- Every directory of the path must be searchable by every possible sender, and the path must hold no
  links: the links of /proc lead into directories that the sender cannot search.
- Permissions are checked on the descriptor that is used for the next step, so that a file that is
  renamed or replaced meanwhile changes nothing.
- Permission bits must say all: a file with an access control list is refused.
"""

import errno
import os
import stat
from dataclasses import dataclass

from kvs.posix.fifos import Fifo
from kvs.text import printable

GROUP_OR_OTHER_WRITE = stat.S_IWGRP | stat.S_IWOTH

_READ_WRITE = 0o6
_SEARCH = 0o1
_USER_AND_GROUP = 0o110
_EVERYONE = 0o111
"""Classes of permission bits; a bit of one class times these is that bit in all of them."""

_ACCESS_LISTS = frozenset({"system.posix_acl_access", "system.nfs4_acl"})
"""Extended attributes (xattr(7)) that hold an access control list."""


class NoAccess(OSError):
    """A path that a client must not name, because its user may lack the rights to it.

    The text is what to say behind the path.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Senders:
    """The users, other than the server's own, who may have written to the registration pipe."""

    mode: int
    """The permissions of the registration pipe."""
    group: int | None
    """The group that all of them belong to; None if they may be any users."""

    def check(self, found: os.stat_result, needed: int, subject: str) -> None:
        """Raise `NoAccess` unless each of them has the rights `needed` (bits 0 to 7) to a file."""
        classes = _USER_AND_GROUP if found.st_gid == self.group else _EVERYONE
        mode = stat.S_IMODE(found.st_mode)
        missing = needed * classes & ~mode
        if missing:
            raise NoAccess(
                f"{subject}has mode {mode:03o}, and {self._anyone} may have named it; "
                f"mode {mode | missing:03o} would do"
            )

    def refusal(self, reason: str) -> NoAccess:
        """Return the error for a path that is not looked at, or no further."""
        return NoAccess(f"{reason}, and {self._anyone} may have named it")

    @property
    def _anyone(self) -> str:
        who = "any user" if self.group is None else f"any member of group {self.group}"
        return f"with --fifo-mode {self.mode:03o} {who}"


def senders(registration: int, mode: int) -> Senders | None:
    """Return who may have written to a registration pipe; None if the server's user alone.

    `registration` is an open descriptor; `mode` the permissions that the pipe was made with. Those
    that it has by now count, too.
    """
    found = os.fstat(registration)
    mode |= stat.S_IMODE(found.st_mode)
    if not mode & GROUP_OR_OTHER_WRITE:
        return None
    known = not mode & stat.S_IWOTH and not _has_access_list(registration)
    return Senders(mode, found.st_gid if known else None)


def fifo_at(path: bytes, senders: Senders) -> Fifo:
    """Return the pipe at `path`, if every one of `senders` could open it; the caller closes it.

    Raises:
        NoAccess: one of them may be unable to, with the reason.
        NotAFifo: something else is there.
        OSError: nothing is there, or it cannot be reached.

    """
    if not path.startswith(b"/"):
        raise senders.refusal("is not an absolute path")
    *directories, name = path.split(b"/")
    here = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    reached = b"/"
    try:
        _check_directory(here, reached, senders)
        for part in filter(None, directories):
            reached = os.path.join(reached, part)
            there = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
            os.close(here)
            here = there
            _check_directory(here, reached, senders)
        handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
    finally:
        os.close(here)
    try:
        fifo = Fifo.from_handle(path, handle)
        _check(handle, os.fstat(handle), _READ_WRITE, senders)
    except OSError:
        os.close(handle)
        raise
    return fifo


def _check_directory(handle: int, path: bytes, senders: Senders) -> None:
    """Raise unless `handle` names a directory that each of `senders` can search."""
    found = os.fstat(handle)
    subject = f"{printable(path)} "
    if stat.S_ISLNK(found.st_mode):
        raise senders.refusal(f"{subject}is a symbolic link")
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    _check(handle, found, _SEARCH, senders, subject)


def _check(
    handle: int, found: os.stat_result, needed: int, senders: Senders, subject: str = ""
) -> None:
    senders.check(found, needed, subject)
    if _has_access_list(handle):
        raise senders.refusal(f"{subject}has an access control list (acl(5))")


def _has_access_list(descriptor: int) -> bool:
    """Return whether a file has permissions beside its mode; True where that cannot be known."""
    try:
        names = os.listxattr(f"/proc/self/fd/{descriptor}")
    except OSError as error:
        return error.errno != errno.EOPNOTSUPP
    return not _ACCESS_LISTS.isdisjoint(names)
