"""The registration pipe: made, kept, read; and which of what it names is acceptable."""

import contextlib
import os
from functools import partial

from kvs.errors import RegistrationUnusable, cause, shown
from kvs.server.pipes import Pipes
from kvs.wire import fifos
from kvs.wire.fifos import Fifo, NotAFifo
from kvs.wire.frames import Connect
from kvs.wire.registration import Refused

OTHERS_MAY_WRITE = 0o022


class RegistrationPipe:
    """The pipe at a path, open for as long as the server runs. For the loop's thread.

    Both ends are held open, so that clients that come and go never end it.
    """

    def __init__(self, path: bytes, mode: int) -> None:
        self._path = path
        self._mode = mode
        self._ends: tuple[int, int] | None = None
        self.identity: tuple[int, int] | None = None

    def make(self) -> int:
        """Make it and open it; return the descriptor to read from.

        Raises:
            RegistrationUnusable: a live server has it, something else is there, or it cannot be
                made.

        """
        self.close(remove=False)
        self._remove_stale()
        try:
            fifos.make(self._path, self._mode)
            reader = self._open()
        except OSError as error:
            reason = f"cannot make the registration pipe: {cause(error)}"
            raise RegistrationUnusable(shown(self._path), reason) from error
        return reader

    def is_gone(self) -> bool:
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
        self._ends = self.identity = None

    def remove(self) -> None:
        """Remove it, if the path still leads to it."""
        if self._ends is not None and not self.is_gone():
            with contextlib.suppress(OSError):  # gone in between
                os.unlink(self._path)

    def _open(self) -> int:
        """Open the pipe that stands at the path; return the end to read from.

        It may be that of a server that was started at the same moment: whoever locks it has it.
        """
        fifo = Fifo.at(self._path)
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
            raise RegistrationUnusable(shown(self._path), "a server is already there")
        self._ends = (reader, writer)
        self.identity = fifo.identity
        return reader

    def _remove_stale(self) -> None:
        """Remove a pipe of ours that no server reads any more."""
        try:
            fifo = Fifo.at(self._path)
        except FileNotFoundError:
            return
        except NotAFifo as error:
            reason = "something else than a pipe is there; remove it, or name another path"
            raise RegistrationUnusable(shown(self._path), reason) from error
        except OSError as error:
            raise RegistrationUnusable(shown(self._path), cause(error)) from error
        try:
            if fifo.owner != os.geteuid():
                reason = "a pipe of another user is there"
                raise RegistrationUnusable(shown(self._path), reason)
            writer = fifo.open_for_writing()
            if writer is not None:
                fifos.close(writer)
                reason = "a server is already there"
                raise RegistrationUnusable(shown(self._path), reason)
            os.unlink(self._path)
        finally:
            fifo.close()


def found(connect: Connect, registration: tuple[int, int] | None, *, others: bool) -> Pipes:
    """Return the pipes that `connect` names, open; the caller closes them.

    They are three different pipes of one owner, this user (or, with `others`, any user), and none
    of them is the registration pipe.

    Raises:
        Refused: the pipes are not acceptable.
        OSError: no descriptor is left to open them with (`fifos.NO_ROOM`).

    """
    with contextlib.ExitStack() as opened:
        pipes: list[Fifo] = []
        for path in connect.paths:
            pipe = _fifo(path)
            opened.callback(pipe.close)
            pipes.append(pipe)
        _check(pipes, registration, others=others)
        opened.pop_all()
        return Pipes(*pipes)


def _fifo(path: bytes) -> Fifo:
    """Return the pipe at `path`; raise `Refused` if there is none."""
    try:
        return Fifo.at(path)
    except OSError as error:
        if error.errno in fifos.NO_ROOM:
            raise
        raise Refused(partial(_no_fifo, path, error)) from None


def _no_fifo(path: bytes, error: OSError) -> str:
    reason = cause(error)
    if isinstance(error, NotAFifo):
        reason = "is not a named pipe (symbolic links are not followed)"
    if not path.startswith(b"/"):
        reason += f" (a relative path, resolved in {shown(os.getcwdb())})"
    return f"{shown(path)}: {reason}"


def _check(pipes: list[Fifo], registration: tuple[int, int] | None, *, others: bool) -> None:
    """Raise `Refused` unless `pipes` are acceptable as the pipes of one client."""
    if len({pipe.identity for pipe in pipes}) < len(pipes):
        raise Refused(lambda: "one pipe is named twice")
    for pipe in pipes:
        if pipe.identity == registration:
            raise Refused(lambda: "it names the registration pipe")
        if not others and pipe.owner != os.geteuid():
            raise Refused(partial("{}: belongs to user {}".format, shown(pipe.path), pipe.owner))
    if len({pipe.owner for pipe in pipes}) > 1:
        raise Refused(lambda: "the pipes belong to different users")
