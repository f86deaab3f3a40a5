"""Makes and removes the registration pipe, and validates the pipes that a connect names."""

import contextlib
import os
from functools import partial

from kvs.errors import RegistrationPipeError
from kvs.posix import fifos
from kvs.posix.fifos import Fifo, Identity, NotAFifo
from kvs.protocol.frames import Connect
from kvs.protocol.registration import Refused
from kvs.server import access
from kvs.server.access import Senders
from kvs.server.pipes import ConnectedPipes
from kvs.text import os_error_text, printable


class RegistrationPipe:
    """The server's registration pipe. For the loop's thread.

    Invariants:

    - Both ends must stay open while the server runs, so that the pipe has no end of file when the
      last client closes it.
    - The pipe must be made and removed relative to its open directory. So no file of another
      directory is touched, even if the owner of a part of the path renames directories or replaces
      them by links.
    """

    def __init__(self, path: bytes, mode: int) -> None:
        self._path = path
        self._name = os.path.basename(path)
        self._mode = mode
        self._directory: int | None = None
        self._ends: tuple[int, int] | None = None
        self._senders: Senders | None = None
        self.identity: Identity | None = None

    @property
    def senders(self) -> Senders | None:
        """The users that may have written to the pipe; None if only the server's own."""
        if self._ends is not None:
            self._senders = access.senders(self._ends[0], self._mode)
        return self._senders

    def make(self) -> int:
        """Make and open the pipe; return the descriptor to read from.

        Raises:
            RegistrationPipeError: a running server has the pipe, another file is at the path, or
                the pipe cannot be made.

        """
        self.close(remove=False)
        try:
            return self._make()
        except OSError as error:
            self.close(remove=False)
            reason = f"cannot create the registration pipe: {os_error_text(error)}"
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
        """Return whether the path does not name this pipe any more."""
        return self.identity is None or not fifos.is_at(self._path, self.identity)

    def close(self, *, remove: bool) -> None:
        """Close the pipe; with `remove`, also remove it. Idempotent."""
        if remove:
            self.remove()
        for end in self._ends or ():
            fifos.close(end)
        if self._directory is not None:
            os.close(self._directory)
        self._ends = self._directory = self.identity = None

    def remove(self) -> None:
        """Remove the pipe, if the path still names it."""
        if self.identity is None or not fifos.is_at(self._name, self.identity, self._directory):
            return
        with contextlib.suppress(OSError):  # it was removed just now
            os.unlink(self._name, dir_fd=self._directory)

    def _open(self) -> int:
        """Open the pipe at the path; return the end to read from.

        Another server that was started at the same time may have made this pipe. The server that
        locks the pipe owns it.
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
        """Remove a pipe of this user that no server reads any more."""
        try:
            fifo = Fifo.open_path(self._name, self._directory)
        except FileNotFoundError:
            return
        except NotAFifo as error:
            reason = "exists and is not a named pipe; remove it, or name another path"
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
    connect: Connect, registration: Identity | None, senders: Senders | None
) -> ConnectedPipes:
    """Return the pipes that `connect` names, open (O_PATH). The caller closes them.

    Acceptable are three different pipes of one owner, none of them the registration pipe. The owner
    must be this user. With `senders`, the owner may be any user, and every sender must have the
    permissions to open the pipes.

    Raises:
        Refused: the pipes are not acceptable.
        OSError: no descriptor is free (`fifos.OUT_OF_DESCRIPTORS`).

    """
    with contextlib.ExitStack() as opened:
        pipes: list[Fifo] = []
        for path in connect.paths:
            pipe = _fifo(path, senders)
            opened.callback(pipe.close)
            pipes.append(pipe)
        _check(pipes, registration, others=senders is not None)
        opened.pop_all()
        return ConnectedPipes(*pipes, dialect=connect.dialect)


def _fifo(path: bytes, senders: Senders | None) -> Fifo:
    """Return the pipe at `path`; raise `Refused` if it cannot be opened."""
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


def _check(pipes: list[Fifo], registration: Identity | None, *, others: bool) -> None:
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
