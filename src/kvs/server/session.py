"""One session: a client's three pipes, its requests, its replies and its notifications.

`Session` does the I/O. `kvs.server.state` decides what it does next.
"""

import logging
import time
from collections.abc import Callable, Sequence

from kvs.errors import JournalWriteError, StoreClosedError
from kvs.posix import fifos
from kvs.posix.fifos import READ_BYTES
from kvs.protocol import frames
from kvs.protocol.requests import (
    Disconnect,
    Execute,
    OversizedExecute,
    Request,
    RequestParser,
    Subscribe,
    UnknownOperation,
    Unsubscribe,
)
from kvs.server.context import ServerContext
from kvs.server.execution import oversized_reply
from kvs.server.handshake import Handshake
from kvs.server.incomplete import IncompleteRequestTimer
from kvs.server.loop import ERR, HUP, OUT, Timer
from kvs.server.opener import PipeOpener
from kvs.server.refusals import excerpt
from kvs.server.scheduler import JOURNAL_FAILED_REASON, ScheduledScript
from kvs.server.state import (
    InputState,
    RequestState,
    SessionEvent,
    SessionState,
    StateMachine,
    Step,
)
from kvs.server.subscriptions import SessionSubscriptions
from kvs.server.writers import NotificationWriter, ReplyWriter
from kvs.store.subscriptions import Outbox

log = logging.getLogger("kvs.server")

DISCONNECT_TIMEOUT_SECONDS = 5.0
"""Seconds that a client that disconnects may take to read the replies before the last one."""

LINGER_SECONDS = 0.1
"""Seconds that a client may take, after the reply to a disconnect, to close the requests pipe."""

FINISH_SECONDS = 0.075
"""Maximum seconds of one script while draining, or of the rest of the one that was executing."""

FINISH_ALL_SECONDS = 1.0
"""Maximum seconds of draining."""

LATE_READ_BYTES = 4 << 10
"""Bytes of requests read at a time in a turn of the loop that has taken long already."""

MAX_REQUESTS_PER_TURN = 64
"""Requests of one session processed before other sessions are served."""


class Session:
    """A session from its connect to its end.

    `on_end` is called once, when everything of the session has been closed.

    Threads: the loop's, except that the outbox calls `_wake` on any thread.
    """

    def __init__(
        self, handshake: Handshake, context: ServerContext, on_end: Callable[["Session"], None]
    ) -> None:
        """Take over `handshake`, and read its requests pipe."""
        self.pipes = handshake.pipes
        self._state = StateMachine()
        self._context = context
        self._origin = context.store.add_origin(b"session", handshake.pipes.requests.path)
        self._loop = context.loop
        self._on_end = on_end
        self._handshake = handshake
        self._opener = PipeOpener(handshake, context.loop, self._on_pipes_opened, self.close)
        self._input = handshake.requests
        self._parser = RequestParser(handshake.pipes.dialect)
        self._incomplete = IncompleteRequestTimer(
            context.loop, self._is_incomplete, self._is_busy, self._report_incomplete
        )
        self._execution: ScheduledScript | None = None
        self._reservation = context.scheduler.memory.reserve(self._on_evicted)
        self._replies: ReplyWriter | None = None
        self._outbox: Outbox[bytes] = Outbox(self._wake, held=context.store.is_persistent)
        self._subscriptions = SessionSubscriptions(
            self._outbox, context.subscriptions, context.store, context.loop
        )
        self._notifications = NotificationWriter(self._outbox, context.loop)
        self._deadline = Timer(None)
        """Of the script under way while draining, or of the client while disconnecting."""
        self._drain_until = 0.0
        """Time at which draining ends (time.monotonic)."""
        self._close_reason = "the client closed the requests pipe"
        self._input.watch(self._loop, self._on_input)

    def begin(self) -> None:
        """Serve the client over the pipes that it has opened, and wait for the others."""
        self._opener.start()

    @property
    def has_pipes(self) -> bool:
        """Whether the pipes of the session are open."""
        return self._state.has_pipes

    @property
    def is_disconnecting(self) -> bool:
        """Whether the client has asked to disconnect, and the session has not ended."""
        return self._state.is_disconnecting

    def _on_pipes_opened(self) -> None:
        """Take over the pipes that the opener has opened."""
        if (notifications := self._handshake.take(self.pipes.notifications)) is not None:
            self._context.on_notifications_open(notifications)
            self._notifications.open(notifications, self._on_notifications_event)
        if (responses := self._handshake.take(self.pipes.responses)) is not None:
            self._replies = ReplyWriter(
                responses, self._loop, self._on_responses_event, self._reservation.on_part_written
            )
            self._state.handle(SessionEvent.RESPONSES_OPENED)
            self._reply([frames.encode_reply(frames.CONNECT, 0)])
            self._do_next_step()
        if self.has_pipes and self._input.is_ahead:
            self._on_input(0)  # epoll(7) does not report what the handshake has read already

    # Requests.

    def _on_input(self, events: int) -> None:
        # What was read is processed first; otherwise a client could have any amount read.
        if self._state.next_step is not Step.READ and not self._input.is_ahead:
            return None
        data = self._input.read(LATE_READ_BYTES if self._loop.is_turn_over else READ_BYTES)
        self._handshake.requests_opened |= data != b"" or bool(events & HUP)
        if data and not self._state.is_disconnecting:  # else it is the padding of the disconnect
            self._parser.feed(data)
            self._state.handle(SessionEvent.INPUT_RECEIVED)
        elif data == b"" and events & HUP:  # without HUP, the client has not opened the pipe yet
            self._input.unwatch()
            self._state.handle(SessionEvent.INPUT_ENDED)
            if self._state.session is SessionState.CONNECTING:
                return self.close("the client left before its connect was answered")
        self._process_requests()
        self._incomplete.on_input()
        return None

    def _is_incomplete(self) -> bool:
        return self._parser.is_incomplete and self._state.session is SessionState.OPEN

    def _is_busy(self) -> bool:
        return self._state.request is not RequestState.IDLE

    def _report_incomplete(self, seconds: float) -> None:
        reason = f"a request is incomplete after {seconds:g} s"
        self._context.refusals.add(f"session {self.pipes.name}: {reason}", self._parser.unused)

    def _process_requests(self) -> None:
        """Process what was read, until the next step is another; then do that."""
        state = self._state
        for _ in range(MAX_REQUESTS_PER_TURN):
            if state.next_step is not Step.PROCESS:
                break
            request = self._parser.next_request()
            if request is None:
                state.handle(SessionEvent.NO_REQUEST_LEFT)
                break
            self._process(request)
            if self._loop.is_turn_over:
                break
        self._do_next_step()

    def _do_next_step(self) -> None:
        match self._state.next_step:
            case Step.READ:
                self._input.watch(self._loop, self._on_input)
            case Step.PROCESS:
                self._loop.call_soon_threadsafe(self._process_requests)
            case Step.WAIT:
                self._input.unwatch()
            case Step.CLOSE:
                self.close(None if self.is_disconnecting else self._close_reason)

    def _process(self, request: Request) -> None:
        match request:
            case Subscribe(key):
                exists = self._subscriptions.add(key)
                self._reply_on_commit([frames.encode_reply(frames.SUBSCRIBE, int(exists))])
            case Unsubscribe(key):
                existed = self._subscriptions.remove(key)
                self._reply([frames.encode_reply(frames.UNSUBSCRIBE, int(not existed))])
            case Execute():
                self._execute(request)
            case OversizedExecute(length):
                self._reply(oversized_reply(length))
            case Disconnect():
                self._disconnect()
            case UnknownOperation(operation):
                data = excerpt(self._parser.unused)
                self.close(f"the client sent an unknown operation, {operation}: {data}")

    def _execute(self, request: Execute) -> None:
        execution = self._context.scheduler.start(
            request, self._reservation, self._on_executed, self._origin
        )
        self._execution = execution
        if self._state.session is SessionState.DRAINING:
            execution.ends_at_wait = True
            self._limit_script()
        execution.resume()
        # If the reply found the pipe broken, the next script may be under way already.
        if self._execution is execution:
            self._state.handle(SessionEvent.EXECUTION_SUSPENDED)

    def _on_executed(self, execution: ScheduledScript) -> None:
        """Reply to a script, or close if there is no reply. May be called within `_execute`."""
        self._execution = None
        was_suspended = self._state.request is RequestState.EXECUTING
        if was_suspended:
            self._state.handle(SessionEvent.EXECUTION_FINISHED)
        if execution.failure is not None:
            return self.close(execution.failure if self.has_pipes else self._close_reason)
        self._reply_on_commit(execution.script.reply())
        if was_suspended:
            self._do_next_step()
        return None

    # Replies and notifications.

    def _reply_on_commit(self, parts: Sequence[bytes | bytearray]) -> None:
        """Reply once everything that has been executed so far is committed."""
        store = self._context.store
        try:
            point = store.commit_point()
        except (JournalWriteError, StoreClosedError):
            return self.close(JOURNAL_FAILED_REASON)
        if point.is_committed:
            return self._reply(parts)
        self._state.handle(SessionEvent.COMMIT_AWAITED)
        point.on_commit(lambda: self._loop.call_soon_threadsafe(lambda: self._on_commit(parts)))
        return None

    def _on_commit(self, parts: Sequence[bytes | bytearray]) -> None:
        self._state.handle(SessionEvent.COMMITTED)
        self._reply(parts)
        self._process_requests()

    def _reply(self, parts: Sequence[bytes | bytearray]) -> None:
        """Write a reply, as far as the pipe takes it now. Does nothing once the pipe is closed."""
        if self._replies is None:
            return None
        try:
            self._replies.write([frames.in_dialect(parts[0], self.pipes.dialect), *parts[1:]])
        except BrokenPipeError:
            return self._on_responses_closed()
        self._reservation.on_read(is_pending=self._replies.pending)
        if self._replies.pending:
            self._state.handle(SessionEvent.REPLY_BLOCKED)
        return None

    def _on_responses_event(self, events: int) -> None:
        if events & ERR:
            return self._on_responses_closed()
        if not events & OUT or self._replies is None:
            return None
        try:
            self._replies.flush()
        except BrokenPipeError:
            return self._on_responses_closed()
        self._reservation.on_read(is_pending=self._replies.pending)
        if not self._replies.pending and self._state.request is RequestState.REPLYING:
            self._state.handle(SessionEvent.REPLY_WRITTEN)
            if self.is_disconnecting:
                self._linger()
        self._process_requests()
        return None

    def _on_responses_closed(self) -> None:
        self.drain_and_close("the client closed the responses pipe")

    def _on_evicted(self) -> None:
        """Close, because other sessions wait for the memory that the reply takes."""
        self.drain_and_close("the client does not read its reply, and others need the memory")

    def _on_notifications_event(self, events: int) -> None:
        if events & ERR:
            self.drain_and_close("the client closed the notifications pipe")
        elif events & OUT:
            self._notifications.on_writable()

    def _wake(self) -> None:
        """Send what is new in the outbox. Threads: any; the one that made the change."""
        if self._outbox.overflowed:
            reason = "slow consumer: the client does not keep up with its notifications"
            self._loop.call_soon_threadsafe(lambda: self.drain_and_close(reason))
        else:
            self._notifications.flush()

    # The end.

    def _disconnect(self) -> None:
        if self._state.session is SessionState.DRAINING:
            return self.close(None)
        self._opener.cancel()
        self._incomplete.cancel()
        self._state.handle(SessionEvent.DISCONNECT)
        return self._subscriptions.clear(self._answer_disconnect)

    def _answer_disconnect(self) -> None:
        self._reply([frames.encode_reply(frames.DISCONNECT, 0)])
        if self._state.session is not SessionState.DISCONNECTING:
            return
        if self._state.request is RequestState.REPLYING:  # earlier replies fill the pipe
            self._close_later(DISCONNECT_TIMEOUT_SECONDS)
        else:
            self._state.handle(SessionEvent.REPLY_WRITTEN)
            self._linger()
        self._do_next_step()

    def _linger(self) -> None:
        """Close the responses pipe, and give the client a moment to close its end of requests."""
        if self._replies is not None:
            self._replies.close()
            self._replies = None
        self._close_later(LINGER_SECONDS)

    def _close_later(self, seconds: float) -> None:
        self._deadline.cancel()
        self._deadline = self._loop.call_later(seconds, lambda: self.close(None))

    def drain_and_close(self, reason: str) -> None:
        """Close all pipes, process the whole requests that have arrived, then close for `reason`.

        No reply is written any more. Draining ends at a WAIT, when one script takes longer than
        `FINISH_SECONDS`, or when all of them take longer than `FINISH_ALL_SECONDS`.
        """
        if self._state.session is SessionState.DRAINING:
            return
        execution = self._execution
        is_paused = execution is not None and execution.is_paused
        if is_paused or not self._state.allows(SessionEvent.DRAIN):
            self.close(reason)
            return
        if self._state.input is InputState.OPEN:
            self._parser.feed(self._input.read(fifos.capacity(self._input.descriptor)) or b"")
        self._state.handle(SessionEvent.DRAIN)
        if execution is not None:
            execution.ends_at_wait = True
        self._close_pipes()
        self._close_reason = reason
        self._drain_until = time.monotonic() + FINISH_ALL_SECONDS
        self._limit_script()
        self._process_requests()

    def _limit_script(self) -> None:
        """Set the deadline of the script that is under way, or of the one that begins."""
        self._deadline.cancel()
        seconds = min(FINISH_SECONDS, self._drain_until - time.monotonic())
        self._deadline = self._loop.call_later(seconds, self._on_drain_timeout)

    def _on_drain_timeout(self) -> None:
        self.close(f"{self._close_reason}; its last requests took too long and were cut off")

    def close(self, reason: str | None) -> None:
        """Close everything; `reason` is for the log. Idempotent."""
        if self._state.session is SessionState.CLOSED:
            return
        log.info("session %s ended%s", self.pipes.name, "" if reason is None else f": {reason}")
        had_pipes = self.has_pipes
        self._state.handle(SessionEvent.CLOSE)
        if self._execution is not None:
            self._execution.cancel()
            self._execution = None
        if had_pipes:
            self._close_pipes()
        self._deadline.cancel()
        self._reservation.close()
        self._subscriptions.clear(lambda: None)
        self._context.store.remove_origin(self._origin)
        self._on_end(self)

    def _close_pipes(self) -> None:
        self._opener.cancel()
        self._incomplete.cancel()
        self._deadline.cancel()
        self._outbox.overflow()
        self._input.unwatch()
        if self._replies is not None:
            self._replies.close()
            self._context.scheduler.discard(self._replies.parts)
            self._replies = None
            if self._execution is None:
                self._reservation.on_read(is_pending=False)
        self._notifications.close()
        self._context.unblock(self._handshake)
