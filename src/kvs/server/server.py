"""The server: reads connects from the registration pipe, and begins and ends sessions."""

import contextlib
import logging
import time
from collections.abc import Callable

from kvs.errors import RegistrationPipeError
from kvs.posix import fifos
from kvs.posix.fifos import Fifo, Identity
from kvs.protocol import frames
from kvs.protocol.frames import Connect
from kvs.protocol.registration import ConnectParser
from kvs.server.admission import Admission
from kvs.server.context import ServerContext
from kvs.server.handshake import OPEN_TIMEOUT_SECONDS, Handover, Handshake, RequestsReader
from kvs.server.incomplete import INCOMPLETE_SECONDS
from kvs.server.loop import IN, EventLoop, Timer
from kvs.server.pipes import ConnectedPipes, Identities
from kvs.server.refusals import RefusalLog
from kvs.server.registration import RegistrationPipe, open_client_pipes
from kvs.server.scheduler import ScriptScheduler
from kvs.server.session import Session
from kvs.server.unblock import ClientUnblocker
from kvs.settings import ServerSettings
from kvs.store.core import StoreCore
from kvs.store.subscriptions import Subscriptions
from kvs.text import os_error_text, pluralize, printable

log = logging.getLogger("kvs.server")

USUAL_PIPE_BYTES = 65536
"""Default capacity of a pipe, in bytes (pipe(7))."""

PIPE_CHECK_SECONDS = 1.0
"""Seconds between two checks that the registration pipe still exists."""

REGISTRATION_BYTES = 512
"""Maximum bytes read from the registration pipe at a time; sessions are served in between.

Garbage is expensive: each byte may begin a connect, and validating a candidate takes system calls.
"""

ADMIT_SECONDS = 0.02
"""Maximum seconds of reading connects before clients are polled, even if more connects arrive.

Otherwise clients would wait for as long as another process writes connects.
"""


class Server:
    """Sessions over named pipes, for one store, on the thread that calls `run`.

    `stop` and `disconnect_all` may be called from any thread and from signal handlers.
    """

    def __init__(self, store: StoreCore, path: bytes, settings: ServerSettings) -> None:
        """Make the registration pipe at `path`, in which connects wait until `run`.

        Raises:
            RegistrationPipeError: the pipe cannot be made, or no descriptor is free.
            ThreadStartError: no thread can be started.

        """
        self._store = store
        self._settings = settings
        self._sessions: set[Session] = set()
        self._in_use: dict[Identity, Session] = {}
        """Sessions that have not ended, by the identity of each of their pipes."""
        self._stopping = False
        self._admit_at = 0.0
        """Time at which clients are polled even if more connects arrive (time.monotonic)."""
        self._small_pipes_logged = False
        self._descriptor_limit_logged = False
        self._incomplete = Timer(None)
        self._last_logged_error = ""
        """The last reason logged why the registration pipe cannot be made again."""
        self._registration = ConnectParser(self._validate_connect, self._on_skipped)
        self._subscriptions = Subscriptions(
            frames.encode_notification,
            outbox_bytes=settings.outbox_bytes,
            total_bytes=settings.outbox_total_bytes,
        )
        with contextlib.ExitStack() as undo:
            self._loop = _create_loop(path)
            undo.callback(self._loop.close)
            self._scheduler = ScriptScheduler(self._loop, store, settings.reply_total_bytes)
            undo.callback(self._scheduler.close)
            self._refusals = RefusalLog(self._loop)
            self._unblocker = ClientUnblocker(
                self._loop, settings.blocked_clients, self._read_connects
            )
            self._admission = Admission(self._loop, self)
            self._context = ServerContext(
                self._loop, store, self._subscriptions, self._scheduler,
                self._on_notifications_open, self.unblock, self._refusals,
            )  # fmt: skip
            self._pipe = RegistrationPipe(path, settings.fifo_mode)
            self._input: int | None = self._pipe.make()
            undo.callback(self._pipe.close, remove=True)
            self._loop.register(self._input, IN, self._registration_ready)
            self._loop.call_later(PIPE_CHECK_SECONDS, self._check_registration_pipe)
            store.add_subscriptions(self._subscriptions)
            undo.pop_all()

    @property
    def sessions(self) -> int:
        """Number of sessions."""
        return len(self._sessions)

    @property
    def waiting(self) -> int:
        """Number of waiting connects, including those whose clients have opened no pipe yet."""
        return len(self._admission)

    def run(self) -> None:
        """Serve until `stop` is called; then end all sessions and remove the pipe.

        If clients are still blocked in open(2), returns up to `OPEN_TIMEOUT_SECONDS` later.
        """
        try:
            while not self._stopping:
                self._loop.run_once()
            self._unblock_all()
        finally:
            self._end_sessions(Session.close, "the server stops")
            self._close_registration(remove=True)
            self._admission.clear()
            self._unblocker.close()
            self._refusals.report()
            self._store.remove_subscriptions(self._subscriptions)
            self._scheduler.close()
            self._loop.close()

    def _unblock_all(self) -> None:
        """End all sessions; unblock their clients and the clients of waiting connects."""
        self._end_sessions(Session.close, "the server stops")
        self._read_connects()
        self._close_registration(remove=True)
        self._admission.close()
        end = time.monotonic() + OPEN_TIMEOUT_SECONDS
        self._loop.call_later(OPEN_TIMEOUT_SECONDS, lambda: None)
        while (self._admission or self._unblocker.has_clients) and time.monotonic() < end:
            self._loop.run_once()

    def stop(self) -> None:
        """Make `run` return."""
        self._stopping = True
        self._loop.call_soon_threadsafe(lambda: None)

    def abandon(self) -> None:
        """Remove the pipe, for a process that is about to exit without `stop`."""
        self._pipe.remove()

    def disconnect_all(self) -> None:
        """End every session; then serve the connects that are waiting."""
        self._loop.call_soon_threadsafe(
            lambda: self._end_sessions(Session.drain_and_close, "all sessions were dropped")
        )

    def _end_sessions(self, end: Callable[[Session, str], None], reason: str) -> None:
        if self._sessions:
            log.info("ending %s: %s", pluralize(len(self._sessions), "session"), reason)
        for session in list(self._sessions):
            end(session, reason)

    # Connects.

    def _registration_ready(self, _events: int) -> None:
        has_more = self._read_registration()
        now = time.monotonic()
        if not has_more or now >= self._admit_at:
            self._admit_at = now + ADMIT_SECONDS
            self._admission.admit()

    def _read_registration(self) -> bool:
        """Read some connects; return whether there may be more."""
        if self._input is None or not (data := fifos.read(self._input, REGISTRATION_BYTES)):
            return False
        for connect, identities in self._registration.feed(data):
            self._admission.add(connect, identities)
        self._incomplete.cancel()
        if self._registration.is_incomplete:
            self._incomplete = self._loop.call_later(
                INCOMPLETE_SECONDS, self._registration.report_incomplete
            )
        return len(data) == REGISTRATION_BYTES

    def _read_connects(self) -> None:
        """Read all connects that have arrived."""
        for _ in range(USUAL_PIPE_BYTES // REGISTRATION_BYTES):
            if not self._read_registration():
                break
        self._loop.call_soon_threadsafe(self._admit)

    def _admit(self) -> None:
        self._admission.admit()

    def _validate_connect(self, connect: Connect) -> tuple[Connect, Identities]:
        try:
            pipes = self.find(connect)
        except OSError:
            return connect, ()  # no descriptor is free; the connect is validated when it is polled
        pipes.close()
        return connect, pipes.identities

    def _on_skipped(self, data: bytes, reason: str) -> None:
        self._refusals.add(f"connect refused: {reason}", data)

    # What admission needs of the server.

    def has_free_slot(self) -> bool:
        """Return whether a session may begin."""
        return len(self._sessions) < self._settings.sessions

    def find(self, connect: Connect) -> ConnectedPipes:
        """Return the pipes that `connect` names, which the caller closes.

        Raises:
            Refused: the pipes are not acceptable.
            OSError: no descriptor is free (`fifos.OUT_OF_DESCRIPTORS`).

        """
        return open_client_pipes(connect, self._pipe.identity, self._pipe.senders)

    def claim(self, identities: Identities, handover: Handover) -> None:
        """Stop opening these pipes; put the ends that are open into `handover`."""
        self._unblocker.claim(identities, handover)

    def conflicts(self, pipes: ConnectedPipes, connect: Connect) -> bool:
        """Return whether a session has one of the `pipes` of `connect`. If so, close them.

        A disconnecting session does not count; it is closed instead. Its client may use its pipes
        again once the disconnect was answered, and the kernel may reuse the inode of a removed one.
        """
        for pipe in pipes.all:
            session = self._in_use.get(pipe.identity)
            if session is not None and session.is_disconnecting:
                session.close(None)
        sessions = {pipe: self._in_use.get(pipe.identity) for pipe in pipes.all}
        used = {pipe for pipe, session in sessions.items() if session and session.has_pipes}
        if not used:
            return False
        self.refused(connect, f"{pipes.name}: the pipes are in use")
        self._unblock_unused(pipes, used)
        return True

    def _unblock_unused(self, pipes: ConnectedPipes, used: set[Fifo]) -> None:
        """Close the pipes; unblock the client at those that are not `used` by a session."""
        reader = None
        if pipes.requests not in used:
            with contextlib.suppress(OSError):  # no descriptor is free
                reader = RequestsReader(pipes.requests)
        for pipe in (*used, *((pipes.requests,) if pipes.requests not in used else ())):
            pipe.close()
        unopened = [pipe for pipe in (pipes.responses, pipes.notifications) if pipe not in used]
        self._unblocker.add(unopened, reader)

    def begin(self, handshake: Handshake) -> None:
        """Begin a session with a client that has opened at least one of its pipes."""
        session = Session(handshake, self._context, self._on_session_closed)
        self._in_use.update(dict.fromkeys(handshake.pipes.identities, session))
        self._sessions.add(session)
        log.info("session %s begins", handshake.pipes.name)
        session.begin()

    def unblock(self, handshake: Handshake) -> None:
        """Close `handshake`; unblock its client at the pipes that it has not opened."""
        requests, unopened = handshake.split()
        for pipe in tuple(unopened):
            if self._admission.names(pipe.identity):
                unopened.remove(pipe)
                pipe.close()
        if requests is not None and self._admission.names(requests.identity):
            requests.close()
            requests = None
        if unopened or requests is not None:
            self._unblocker.add(unopened, requests)

    def refused(self, connect: Connect, reason: str) -> None:
        """Log that a connect was refused."""
        self._refusals.add(f"connect refused: {reason}", connect.encode())

    def out_of_descriptors(self, error: OSError) -> None:
        """Log that no descriptor or pipe is free, and free some if possible."""
        self._unblocker.drop_oldest()
        if not self._descriptor_limit_logged:
            self._descriptor_limit_logged = True
            log.warning(
                "out of descriptors or pipes: %s with %s; connects wait until some are free",
                os_error_text(error),
                pluralize(len(self._sessions), "session"),
            )

    def _on_session_closed(self, session: Session) -> None:
        self._sessions.discard(session)
        for identity in session.pipes.identities:
            if self._in_use.get(identity) is session:
                del self._in_use[identity]
        if not self._stopping:
            self._loop.call_soon_threadsafe(self._admit)

    def _on_notifications_open(self, descriptor: int) -> None:
        if not self._small_pipes_logged and fifos.capacity(descriptor) < USUAL_PIPE_BYTES:
            self._small_pipes_logged = True
            log.warning(
                "the user's pipe budget is exhausted: new pipes hold %d bytes instead of %d, and "
                "notifications take more writes; see pipe-user-pages-soft in pipe(7)",
                fifos.capacity(descriptor), USUAL_PIPE_BYTES,
            )  # fmt: skip

    def _check_registration_pipe(self) -> None:
        if self._stopping:
            return
        self._loop.call_later(PIPE_CHECK_SECONDS, self._check_registration_pipe)
        if not self._pipe.was_removed():
            return
        self._read_connects()  # those that were written before the pipe was removed
        self._close_registration(remove=False)
        try:
            self._input = self._pipe.make()
        except RegistrationPipeError as error:
            if str(error) != self._last_logged_error:
                self._last_logged_error = str(error)
                log.warning("%s; retrying every %g s", error, PIPE_CHECK_SECONDS)
            return
        self._last_logged_error = ""
        self._loop.register(self._input, IN, self._registration_ready)
        log.warning("the registration pipe was removed, and was made again")

    def _close_registration(self, *, remove: bool) -> None:
        if self._input is not None:
            self._loop.unregister(self._input)
            self._input = None
        self._pipe.close(remove=remove)


def _create_loop(path: bytes) -> EventLoop:
    try:
        return EventLoop()
    except OSError as error:
        reason = f"cannot serve: {os_error_text(error)}"
        raise RegistrationPipeError(printable(path), reason) from error
