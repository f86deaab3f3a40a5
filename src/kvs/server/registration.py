"""The registration pipe: made, kept, read; and which of what it names is acceptable."""

import contextlib
import os
from functools import partial

from kvs.errors import RegistrationPipeError
from kvs.posix import fifos
from kvs.posix.fifos import Fifo, NotAFifo
from kvs.protocol.frames import Connect
from kvs.protocol.registration import Refused
from kvs.server import access
from kvs.server.access import Senders
from kvs.server.pipes import ClientPipes
from kvs.text import os_error_text, printable


class RegistrationPipe:
    """The pipe at a path, open for as long as the server runs. For the loop's thread.

    Both ends are held open, so that clients that come and go never end it. So is its directory,
    while it is made and removed: nothing in another directory is touched, even if a user who owns a
    part of the path renames directories or puts links in their place.
    """

    def __init__(self, path: bytes, mode: int) -> None:
        self._path = path
        self._name = os.path.basename(path)
        self._mode = mode
        self._directory: int | None = None
        self._ends: tuple[int, int] | None = None
        self._senders: Senders | None = None
        self.identity: tuple[int, int] | None = None

    @property
    def senders(self) -> Senders | None:
        """Who may have written to it; None if the server's own user alone."""
        if self._ends is not None:
            self._senders = access.senders(self._ends[0], self._mode)
        return self._senders

    def make(self) -> int:
        """Make it and open it; return the descriptor to read from.

        Raises:
            RegistrationPipeError: a live server has it, something else is there, or it cannot be
                made.

        """
        self.close(remove=False)
        try:
            return self._make()
        except OSError as error:
            self.close(remove=False)
            reason = f"cannot make the registration pipe: {os_error_text(error)}"
            raise RegistrationPipeError(printable(self._path), reason) from error
        except RegistrationPipeError:
            self.close(remove=False)
            raise

    def _make(self) -> int:
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        self._directory = os.open(os.path.dirname(self._path) or b".", flags)
        self._remove_stale()
        fifos.make(self._name, self._mode, self._directory)
        return self._open()

    def was_removed(self) -> bool:
        """Tell whether the path does not lead to it any more."""
        try:
            found = os.lstat(self._path)
        except OSError:
            return True
        return (found.st_dev, found.st_ino) != self.identity

    def close(self, *, remove: bool) -> None:
        """Close it; with `remove`, also remove it, if it is still there."""
        if remove:
            self.remove()
        for end in self._ends or ():
            fifos.close(end)
        if self._directory is not None:
            os.close(self._directory)
        self._ends = self._directory = self.identity = None

    def remove(self) -> None:
        """Remove it, if it is still there."""
        if self._ends is None:
            return
        with contextlib.suppress(OSError):  # gone, perhaps in between
            found = os.stat(self._name, dir_fd=self._directory, follow_symlinks=False)
            if (found.st_dev, found.st_ino) == self.identity:
                os.unlink(self._name, dir_fd=self._directory)

    def _open(self) -> int:
        """Open the pipe that stands at the path; return the end to read from.

        It may be that of a server that was started at the same moment: whoever locks it has it.
        """
        fifo = Fifo.open_path(self._name, self._directory)
        try:
            reader = fifo.open_for_reading()
            try:
                writer = fifo.open_for_writing() if fifos.lock(reader) else None
            except OSError:
                fifos.close(reader)
                raise
        finally:
            fifo.close()
        if writer is None:
            fifos.close(reader)
            raise RegistrationPipeError(printable(self._path), "a server is already there")
        self._ends = (reader, writer)
        self.identity = fifo.identity
        return reader

    def _remove_stale(self) -> None:
        """Remove a pipe of ours that no server reads any more."""
        try:
            fifo = Fifo.open_path(self._name, self._directory)
        except FileNotFoundError:
            return
        except NotAFifo as error:
            reason = "something else than a pipe is there; remove it, or name another path"
            raise RegistrationPipeError(printable(self._path), reason) from error
        try:
            if fifo.owner != os.geteuid():
                reason = "a pipe of another user is there"
                raise RegistrationPipeError(printable(self._path), reason)
            writer = fifo.open_for_writing()
            if writer is not None:
                fifos.close(writer)
                reason = "a server is already there"
                raise RegistrationPipeError(printable(self._path), reason)
            os.unlink(self._name, dir_fd=self._directory)
        finally:
            fifo.close()


def open_client_pipes(
    connect: Connect, registration: tuple[int, int] | None, senders: Senders | None
) -> ClientPipes:
    """Return the pipes that `connect` names, open; the caller closes them.

    They are three different pipes of one owner, and none of them is the registration pipe. The
    owner is this user, or, with `senders`, any user, if each of those could open the pipes.

    Raises:
        Refused: the pipes are not acceptable.
        OSError: no descriptor is left to open them with (`fifos.OUT_OF_DESCRIPTORS`).

    """
    with contextlib.ExitStack() as opened:
        pipes: list[Fifo] = []
        for path in connect.paths:
            pipe = _fifo(path, senders)
            opened.callback(pipe.close)
            pipes.append(pipe)
        _check(pipes, registration, others=senders is not None)
        opened.pop_all()
        return ClientPipes(*pipes, dialect=connect.dialect)


def _fifo(path: bytes, senders: Senders | None) -> Fifo:
    """Return the pipe at `path`; raise `Refused` if there is none."""
    try:
        return Fifo.open_path(path) if senders is None else access.fifo_at(path, senders)
    except OSError as error:
        if error.errno in fifos.OUT_OF_DESCRIPTORS:
            raise
        raise Refused(partial(_no_fifo, path, error, senders)) from None


def _no_fifo(path: bytes, error: OSError, senders: Senders | None) -> str:
    reason = os_error_text(error)
    if isinstance(error, NotAFifo):
        reason = "is not a named pipe (symbolic links are not followed)"
    if senders is None and not path.startswith(b"/"):
        reason += " (a relative path, resolved in the directory of the server)"
    return f"{printable(path)}: {reason}"


def _check(pipes: list[Fifo], registration: tuple[int, int] | None, *, others: bool) -> None:
    """Raise `Refused` unless `pipes` are acceptable as the pipes of one client."""
    if len({pipe.identity for pipe in pipes}) < len(pipes):
        raise Refused(lambda: "one pipe is named twice")
    for pipe in pipes:
        if pipe.identity == registration:
            raise Refused(partial("{}: is the registration pipe".format, printable(pipe.path)))
        if not others and pipe.owner != os.geteuid():
            raise Refused(
                partial("{}: belongs to user {}".format, printable(pipe.path), pipe.owner)
            )
    if len({pipe.owner for pipe in pipes}) > 1:
        raise Refused(lambda: "the pipes belong to different users")
