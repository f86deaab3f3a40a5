"""The server: the registration pipe, the sessions, and those that wait for a place."""

import logging
from collections import deque
from collections.abc import Callable

from kvs.errors import RegistrationUnusable, cause, counted
from kvs.server.execution import Turns
from kvs.server.loop import IN, Loop, Timer
from kvs.server.pipes import Pipes
from kvs.server.registration import OTHERS_MAY_WRITE, RegistrationPipe, found
from kvs.server.room import ReplyRoom
from kvs.server.session import House, Session
from kvs.settings import ServerSettings
from kvs.store import Store
from kvs.watch import Watchers
from kvs.wire import fifos, frames
from kvs.wire.frames import Connect
from kvs.wire.registration import Registration
from kvs.wire.session import Stage

log = logging.getLogger("kvs.server")

USUAL_PIPE_BYTES = 65536
LOOK_SECONDS = 1.0
"""So often the server looks whether its registration pipe is still there."""

WAITING_CONNECTS = 100_000
"""So many connects wait for a place, at most; more are dropped, and that is logged."""

REGISTRATION_BYTES = 4096
"""Read from the registration pipe at a time: sessions are served in between, garbage or not."""

ROOM_SECONDS = 0.1
"""So long a connect waits for a descriptor, or a pipe, before it is tried again."""


class Server:
    """Sessions over named pipes, for one store, on the thread that calls `run`.

    `stop` and `drop_sessions` may be called from any thread and from signal handlers.
    """

    def __init__(self, store: Store, path: bytes, settings: ServerSettings) -> None:
        self._settings = settings
        self._loop = Loop()
        self._watchers = Watchers(
            frames.notification,
            outbox_bytes=settings.outbox_bytes,
            total_bytes=settings.outbox_total_bytes,
        )
        store.attach(self._watchers)
        room = ReplyRoom(settings.reply_total_bytes)
        self._turns = Turns(self._loop, store, room)
        self._house = House(self._loop, store, self._watchers, self._turns, room, self._opened)
        self._pipe = RegistrationPipe(path, settings.fifo_mode)
        self._others = bool(settings.fifo_mode & OTHERS_MAY_WRITE)
        self._registration = Registration(self._judged)
        self._sessions: set[Session] = set()
        self._in_use: dict[tuple[int, int], Session] = {}
        """The pipes of all sessions that have not ended."""
        self._waiting: deque[Connect] = deque()
        self._stopping = False
        self._small_pipes_told = False
        self._no_room_told = False
        self._retry = Timer(None)
        self._complaint = ""
        """The last reason told why the registration pipe cannot be made again."""
        self._input: int | None = self._pipe.make()
        self._loop.watch(self._input, IN, self._registration_ready)
        self._loop.after(LOOK_SECONDS, self._look_after_the_pipe)

    @property
    def sessions(self) -> int:
        """How many sessions there are, those being opened included."""
        return len(self._sessions)

    def run(self) -> None:
        """Serve until `stop` is called; then end all sessions and remove the pipe."""
        try:
            while not self._stopping:
                self._loop.turn()
        finally:
            self._end_sessions(Session.end, "the server stops")
            self._close_registration(remove=True)
            self._turns.close()
            self._loop.close()

    def stop(self) -> None:
        """Let `run` come to its end."""
        self._stopping = True
        self._loop.soon(lambda: None)

    def abandon(self) -> None:
        """Remove the pipe, for a process that is about to leave at once."""
        self._pipe.remove()

    def drop_sessions(self) -> None:
        """End every session; then those that waited for a place have their turn."""
        self._loop.soon(lambda: self._end_sessions(Session.drop, "all sessions were dropped"))

    def _end_sessions(self, end: Callable[[Session, str], None], why: str) -> None:
        if self._sessions:
            log.info("ending %s: %s", counted(len(self._sessions), "session"), why)
        for session in list(self._sessions):
            end(session, why)

    # Connects.

    def _registration_ready(self, _events: int) -> None:
        if self._input is not None and (data := fifos.read(self._input, REGISTRATION_BYTES)):
            for connect in self._registration.feed(data):
                self._admit(connect)

    def _judged(self, connect: Connect) -> Connect | None:
        try:
            pipes = self._found(connect)
        except OSError:
            return connect  # it waits for a descriptor, and is judged when its turn comes
        if pipes is None:
            return None
        pipes.close()
        return connect

    def _found(self, connect: Connect) -> Pipes | None:
        return found(connect, self._pipe.identity, others=self._others)

    def _admit(self, connect: Connect) -> None:
        if len(self._waiting) >= WAITING_CONNECTS:
            log.warning("a connect was dropped: %d wait already", len(self._waiting))
            return
        self._waiting.append(connect)
        self._admit_waiting()

    def _admit_waiting(self) -> None:
        while self._waiting and len(self._sessions) < self._settings.sessions:
            connect = self._waiting.popleft()
            try:
                self._begin(connect)
            except OSError as error:
                self._waiting.appendleft(connect)
                self._wait_for_room(error)
                return

    def _wait_for_room(self, error: OSError) -> None:
        if not self._no_room_told:
            self._no_room_told = True
            log.warning(
                "descriptors or pipes set the bound: %s with %s; connects wait for some",
                cause(error),
                counted(len(self._sessions), "session"),
            )
        self._retry.cancel()
        self._retry = self._loop.after(ROOM_SECONDS, self._admit_waiting)

    def _begin(self, connect: Connect) -> None:
        """Begin a session, if what it names is still, or now, acceptable.

        Raises:
            OSError: there is no room for it (`fifos.NO_ROOM`).

        """
        pipes = self._found(connect)
        if pipes is None:
            return
        if self._are_in_use(pipes):
            log.warning("a connect of %s was dropped: its pipes are in use", pipes.name)
            pipes.close()
            return
        try:
            session = Session(pipes, self._house, self._ended)
        except OSError as error:
            pipes.close()
            if error.errno in fifos.NO_ROOM:
                raise
            log.warning("a connect of %s was dropped: %s", pipes.name, cause(error))
            return
        self._in_use.update((pipe.identity, session) for pipe in pipes.all)
        self._sessions.add(session)
        log.info("session %s begins", pipes.name)
        session.begin()

    def _are_in_use(self, pipes: Pipes) -> bool:
        """Tell whether a session has one of them; one that is leaving does not keep it.

        Its client may use its pipes again as soon as it was answered, and the kernel the number of
        one that was removed.
        """
        for pipe in pipes.all:
            session = self._in_use.get(pipe.identity)
            if session is not None and session.stage is Stage.LEAVING:
                session.end(None)
        sessions = (self._in_use.get(pipe.identity) for pipe in pipes.all)
        return any(session is not None and session.holds_pipes for session in sessions)

    def _ended(self, session: Session) -> None:
        self._sessions.discard(session)
        for pipe in session.pipes.all:
            if self._in_use.get(pipe.identity) is session:
                del self._in_use[pipe.identity]
        if not self._stopping:
            self._loop.soon(self._admit_waiting)

    def _opened(self, descriptor: int) -> None:
        if not self._small_pipes_told and fifos.capacity(descriptor) < USUAL_PIPE_BYTES:
            self._small_pipes_told = True
            log.warning(
                "the kernel's budget for pipes is used up, and new ones hold %d bytes instead of "
                "%d: notifications take more writes; see pipe-user-pages-soft in pipe(7)",
                fifos.capacity(descriptor), USUAL_PIPE_BYTES,
            )  # fmt: skip

    def _look_after_the_pipe(self) -> None:
        self._loop.after(LOOK_SECONDS, self._look_after_the_pipe)
        if not self._pipe.is_gone():
            return
        for _ in range(USUAL_PIPE_BYTES // REGISTRATION_BYTES):
            self._registration_ready(IN)  # what had come to the one that is gone
        self._close_registration(remove=False)
        try:
            self._input = self._pipe.make()
        except RegistrationUnusable as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                log.warning("%s; it is tried again every %g s", error, LOOK_SECONDS)
            return
        self._complaint = ""
        self._loop.watch(self._input, IN, self._registration_ready)
        log.warning("the registration pipe was gone, and was made again")

    def _close_registration(self, *, remove: bool) -> None:
        if self._input is not None:
            self._loop.forget(self._input)
            self._input = None
        self._pipe.close(remove=remove)
