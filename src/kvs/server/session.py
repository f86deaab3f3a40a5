"""One session: a client's three pipes, its requests, its replies and its notifications."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kvs.errors import InvalidWordError, JournalWriteError, StoreClosedError
from kvs.language.diagnostics import validate_word
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
from kvs.server import execution as scripts
from kvs.server.handshake import Handshake
from kvs.server.loop import ERR, HUP, IN, OUT, EventLoop, Timer
from kvs.server.refusals import RefusalLog, excerpt
from kvs.server.reply_memory import ReplyMemory
from kvs.server.scheduler import JOURNAL_FAILED_REASON, ScheduledScript, ScriptScheduler
from kvs.server.state import ACCEPTS_REQUESTS, TRANSITIONS, SessionEvent, SessionState
from kvs.server.writers import NotificationWriter, ReplyWriter
from kvs.store.core import StoreCore
from kvs.store.subscriptions import Outbox, Subscriptions
from kvs.text import os_error_text

log = logging.getLogger("kvs.server")

OPEN_TIMEOUT_SECONDS = 5.0
"""Seconds that a client may take to open the next of its pipes; or, when it disconnects, to make
room for the answer."""

INCOMPLETE_SECONDS = 5.0
"""Seconds without a further byte after which an incomplete request is logged."""

LINGER_SECONDS = 0.1
"""So long a client that disconnected may take to close its end of requests."""

FINISH_SECONDS = 0.075
"""Seconds that a script may still take once its client is gone, or that one behind it may take."""

FINISH_ALL_SECONDS = 1.0
"""Seconds that all requests of a client that is gone may take."""

LATE_READ_BYTES = 4 << 10
"""Bytes of requests read at a time where others have been served for long in the same turn."""

MAX_REQUESTS_PER_TURN = 64
"""After so many requests of one session the others are served."""

_RETRY_SECONDS = (0.001,) * 20 + (0.005,) * 20
"""Seconds between attempts to open what the client has opened; from then on `_RETRY_LATER`."""
_RETRY_LATER = 0.02


@dataclass(frozen=True)
class ServerContext:
    """What all sessions of a server share."""

    loop: EventLoop
    store: StoreCore
    subscriptions: Subscriptions[bytes]
    scheduler: ScriptScheduler
    """Executes scripts."""
    reply_memory: ReplyMemory
    """For the replies of scripts."""
    on_notifications_open: Callable[[int], None]
    """Called with each notifications pipe that was opened."""
    release: Callable[[Handshake], None]
    """Called at the end of a session, which may come before its client has opened all pipes."""
    refusals: RefusalLog


class Session:
    """A session from its connect to its end. All but its outbox's wake is the loop's thread's.

    `ended` is called once, when everything of it has been closed.
    """

    def __init__(
        self, opening: Handshake, house: ServerContext, ended: Callable[["Session"], None]
    ) -> None:
        self.pipes = opening.pipes
        self.stage = SessionState.OPENING
        self._context = house
        self._loop = house.loop
        self._on_end = ended
        self._requests = RequestParser(opening.pipes.dialect)
        self._requests_ended = False
        self._execution: ScheduledScript | None = None
        self._claim = house.reply_memory.reserve(self._on_evicted)
        self._replies: ReplyWriter | None = None
        self._deadline = self._retry = self._incomplete = Timer(None)
        self._read_at = 0.0
        """When requests was last read."""
        self._opening = opening
        self._close_reason: str | None = None
        """Why it ends, once what had been asked is carried out; its pipes are closed by then."""
        self._tries = 0
        self._processing_scheduled = False  # whether a call of _serve is on its way
        self._finish_by = 0.0
        self._awaiting_commit = False  # whether a reply waits until it may be shown
        self._outbox: Outbox[bytes] = Outbox(self._wake, held=house.store.is_persistent)
        self._notifications = NotificationWriter(self._outbox, house.loop)
        self._input = opening.requests.descriptor
        self._loop.register(self._input, IN, self._requests_ready)
        self._watching = True

    def begin(self) -> None:
        """Serve the client over the pipes that it has opened, and wait for the others."""
        self._go_on_opening(progress=True)

    # Opening: the server blocks at none of the client's pipes, whichever it opens first.

    def _open(self) -> None:
        """Open what the client has opened by now, and try again later for the others."""
        progress = False
        try:
            progress = self._opening.attempt()
        except OSError as error:
            if (
                error.errno not in fifos.OUT_OF_DESCRIPTORS
            ):  # those may be there before its deadline
                return self.close(f"its pipes cannot be opened: {os_error_text(error)}")
        return self._go_on_opening(progress=progress)

    def _go_on_opening(self, *, progress: bool) -> None:
        opening = self._opening
        if progress:
            self._tries = 0
            self._deadline.cancel()
            self._deadline = self._loop.call_later(OPEN_TIMEOUT_SECONDS, self._on_open_timeout)
            self._use_opened()
            if self.holds_pipes:
                self._requests_ready(0)  # what the attempt has read ahead causes no event
        if not self.holds_pipes or self.stage is SessionState.CLOSING:
            return
        if opening.is_complete:
            self._deadline.cancel()
            return
        late = self._tries >= len(_RETRY_SECONDS)
        self._retry = self._loop.call_later(
            _RETRY_LATER if late else _RETRY_SECONDS[self._tries], self._open
        )
        self._tries += 1

    def _use_opened(self) -> None:
        """Take over what `_opening` has opened."""
        if (notifications := self._opening.take(self.pipes.notifications)) is not None:
            self._context.on_notifications_open(notifications)
            self._notifications.open(notifications, self._notifications_ready)
        if (responses := self._opening.take(self.pipes.responses)) is not None:
            self._replies = ReplyWriter(
                responses, self._loop, self._replies_ready, self._on_reply_written
            )
            self._move(SessionEvent.RESPONSES_OPEN)
            self._reply([frames.encode_reply(frames.CONNECT, 0)])
            self._schedule_processing()
        if self.stage is SessionState.CONNECTED and self._notifications.is_open:
            self._move(SessionEvent.NOTIFICATIONS_OPEN)

    def _on_open_timeout(self) -> None:
        missing = self._opening.missing
        self.close(f"its client did not open {missing} within {OPEN_TIMEOUT_SECONDS:g} s")

    def _cancel_timers(self) -> None:
        for timer in (self._deadline, self._retry, self._incomplete):
            timer.cancel()

    def _move(self, event: SessionEvent) -> None:
        self.stage = TRANSITIONS[self.stage, event]

    # Requests.

    def _requests_ready(self, events: int) -> None:
        if self._processing_scheduled and not self._opening.requests.is_ahead:
            return None  # what was read is served first: else a client could have any amount read
        data = self._opening.requests.read(
            LATE_READ_BYTES if self._loop.is_turn_over else READ_BYTES
        )
        self._opening.requests_opened |= data != b"" or bool(events & HUP)
        if data and self.stage is not SessionState.CLOSING:  # else the padding of a disconnect
            self._requests.feed(data)
        elif data == b"" and events & HUP:  # without HUP, no writer has been there yet
            self._requests_ended = True
            self._stop_reading()
            if self.stage is SessionState.OPENING:
                return self.close("its client went before it was greeted")
        self._process_requests()
        self._read_at = time.monotonic()
        incomplete = self.stage in ACCEPTS_REQUESTS and self._requests.is_incomplete
        if incomplete and self._incomplete.call is None:
            self._incomplete = self._loop.call_later(INCOMPLETE_SECONDS, self._check_incomplete)
        return None

    def _check_incomplete(self) -> None:
        """Log a request that has been incomplete for too long."""
        self._incomplete = Timer(None)
        if not self._requests.is_incomplete or self.stage not in ACCEPTS_REQUESTS:
            return
        left = self._read_at + INCOMPLETE_SECONDS - time.monotonic()
        if self._processing_scheduled or self._is_busy():  # what is unused may be whole requests
            left = INCOMPLETE_SECONDS
        if left > 0:
            self._incomplete = self._loop.call_later(left, self._check_incomplete)
            return
        reason = f"session {self.pipes.name}: a request is incomplete"
        self._context.refusals.add(
            f"{reason} after {INCOMPLETE_SECONDS:g} s", self._requests.unused
        )

    def _process_requests(self) -> None:
        """Carry out the requests that are there, as far as the client reads its replies."""
        self._processing_scheduled = True  # what is over at once needs no call of its own
        is_more = self._process_some()
        self._processing_scheduled = False
        if is_more:
            self._schedule_processing()
        if self.stage is SessionState.CLOSING and self._requests_ended and self._replies is None:
            self.close(None)
        self._read_only_when_idle()

    def _process_some(self) -> bool:
        """Carry out some requests; return whether there may be more to do."""
        for _ in range(MAX_REQUESTS_PER_TURN):
            if self.stage not in ACCEPTS_REQUESTS or self._is_busy():
                return False
            request = self._requests.next_request()
            if request is None:
                if self._requests_ended:
                    self.close(self._close_reason or "its client closed its requests")
                return False
            self._handle_request(request)
            if self._loop.is_turn_over:
                break
        return True

    def _schedule_processing(self) -> None:
        if not self._processing_scheduled:
            self._processing_scheduled = True
            self._loop.call_soon_threadsafe(self._process_requests)

    def _is_busy(self) -> bool:
        """Tell whether a request is being carried out, or its reply is still on its way."""
        return self._execution is not None or self._awaiting_commit or self._unread_replies()

    def _unread_replies(self) -> bool:
        return self._replies is not None and self._replies.pending

    def _read_only_when_idle(self) -> None:
        """Read no further requests while one is being carried out or its reply unread."""
        if self.stage is SessionState.CLOSED or self._requests_ended:
            return
        if self._is_busy():
            self._stop_reading()
        elif not self._watching:
            self._loop.register(self._input, IN, self._requests_ready)
            self._watching = True

    def _stop_reading(self) -> None:
        if self._watching:
            self._loop.unregister(self._input)
            self._watching = False

    def _handle_request(self, request: Request) -> None:
        match request:
            case Subscribe(key):
                there = self._subscribe(key)
                self._reply_on_commit([frames.encode_reply(frames.SUBSCRIBE, int(there))])
            case Unsubscribe(key):
                house = self._context
                was_there = house.store.unsubscribe(house.subscriptions, self._outbox, key)
                self._reply([frames.encode_reply(frames.UNSUBSCRIBE, int(not was_there))])
            case Execute():
                turns = self._context.scheduler
                self._execution = turns.start(request, self._claim, self._on_executed)
                if self._close_reason is not None:
                    self._execution.ends_at_wait = True
                    self._limit_script()
                self._execution.resume()
            case OversizedExecute(length):
                self._reply(scripts.oversized_reply(length))
            case Disconnect():
                self._disconnect()
            case UnknownOperation(operation):
                arrived = excerpt(self._requests.unused)
                self.close(f"it sent an unknown operation, {operation}: {arrived}")

    def _subscribe(self, key: bytes) -> bool:
        try:
            validate_word(key, "key")
        except InvalidWordError:
            return False
        return self._context.store.subscribe(self._context.subscriptions, self._outbox, key)

    def _on_executed(self, execution: ScheduledScript) -> None:
        """Reply to a script, or end if there is no reply."""
        self._execution = None
        if execution.failure is not None:
            return self.close(self._close_reason or execution.failure)
        self._reply_on_commit(execution.script.reply())
        self._schedule_processing()
        return None

    # Replies and notifications.

    def _reply_on_commit(self, parts: Sequence[bytes | bytearray]) -> None:
        """Reply as soon as all that the reply tells may be shown; requests wait as long."""
        store = self._context.store
        try:
            point = store.commit_point()
        except (JournalWriteError, StoreClosedError):
            return self.close(JOURNAL_FAILED_REASON)
        if point.is_committed:
            return self._reply(parts)
        self._awaiting_commit = True
        point.on_commit(lambda: self._loop.call_soon_threadsafe(lambda: self._on_commit(parts)))
        return None

    def _on_commit(self, parts: Sequence[bytes | bytearray]) -> None:
        self._awaiting_commit = False
        self._reply(parts)
        self._process_requests()

    def _reply(self, parts: Sequence[bytes | bytearray]) -> None:
        if self._replies is None or self.stage is SessionState.CLOSED:
            return None
        try:
            self._replies.write([frames.in_dialect(parts[0], self.pipes.dialect), *parts[1:]])
        except BrokenPipeError:
            return self.drain_and_close("its client reads no responses any more")
        self._note_progress()
        return None

    def _note_progress(self) -> None:
        """Note that the client has read of its reply, or all of it."""
        if self._unread_replies():
            self._claim.read_at = time.monotonic()
        else:
            self._claim.read_at = None
            self._claim.resize(0)

    def _on_reply_written(self, size: int) -> None:
        """Give back what a part of a reply took."""
        self._claim.resize(max(0, self._claim.held - size))

    def _on_evicted(self) -> None:
        """End, as others wait for the memory that the reply takes."""
        self.drain_and_close("its client does not read its reply, and others need the room")

    def _replies_ready(self, events: int) -> None:
        if events & ERR:
            return self.drain_and_close("its client reads no responses any more")
        if events & OUT and self._replies is not None:
            try:
                self._replies.flush()
            except BrokenPipeError:
                return self.drain_and_close("its client reads no responses any more")
            self._note_progress()
            if self.stage is SessionState.CLOSING and not self._replies.pending:
                self._linger()
            self._process_requests()
        return None

    def _notifications_ready(self, events: int) -> None:
        if events & ERR:
            self.drain_and_close("its client reads no notifications any more")
        elif events & OUT:
            self._notifications.on_writable()

    def _wake(self) -> None:
        """There are more changes in the outbox; from the thread that made them."""
        if self._outbox.overflowed:
            why = "its client does not keep up with its notifications"
            self._loop.call_soon_threadsafe(lambda: self.drain_and_close(why))
        else:
            self._notifications.flush()

    # The end.

    def _disconnect(self) -> None:
        self._cancel_timers()
        self._move(SessionEvent.DISCONNECT)
        self._unsubscribe_all(self._answer_disconnect)

    def _unsubscribe_all(self, then: Callable[[], None]) -> None:
        """End its subscriptions, over several turns if there are many; call `then`."""
        keys = iter(list(self._outbox.keys))

        def go_on() -> None:
            for key in keys:
                self._context.store.unsubscribe(self._context.subscriptions, self._outbox, key)
                if self._loop.is_turn_over:
                    return self._loop.call_soon_threadsafe(go_on)
            return then()

        go_on()

    def _answer_disconnect(self) -> None:
        self._reply([frames.encode_reply(frames.DISCONNECT, 0)])
        if self.stage is SessionState.CLOSED:
            return
        if self._unread_replies():  # what it was answered before fills the pipe
            self._deadline = self._loop.call_later(OPEN_TIMEOUT_SECONDS, lambda: self.close(None))
        else:
            self._linger()

    def _linger(self) -> None:
        """Close responses, as the answer is on its way, and give the client a moment to go."""
        if self._replies is not None:
            self._replies.close()
            self._replies = None
        self._deadline.cancel()
        self._deadline = self._loop.call_later(LINGER_SECONDS, lambda: self.close(None))

    def drain_and_close(self, why: str) -> None:
        """Close everything, and carry out the whole requests that had come; then it has ended.

        Nobody is answered any more. It ends at a WAIT, and where a script takes longer than
        `FINISH_SECONDS`, or all together `FINISH_ALL_SECONDS`.
        """
        if self._close_reason is not None:
            return None
        execution = self._execution
        if self.stage not in ACCEPTS_REQUESTS or (execution is not None and execution.is_paused):
            return self.close(why)
        if not self._requests_ended:
            self._requests_ended = True
            reader = self._opening.requests
            self._requests.feed(reader.read(fifos.capacity(reader.descriptor)) or b"")
        if execution is not None:
            execution.ends_at_wait = True
        self._close()
        self._close_reason = why
        self._finish_by = time.monotonic() + FINISH_ALL_SECONDS
        self._limit_script()
        self._process_requests()
        return None

    def _limit_script(self) -> None:
        """Let the script under way, or the one that begins, take so long and no longer."""
        self._deadline.cancel()
        seconds = min(FINISH_SECONDS, self._finish_by - time.monotonic())
        self._deadline = self._loop.call_later(seconds, self._on_finish_timeout)

    def _on_finish_timeout(self) -> None:
        self.close(f"{self._close_reason}; its last requests took too long and were cut short")

    def close(self, why: str | None) -> None:
        """Close everything; `why` goes to the log. Once it has ended this does nothing."""
        if self.stage is SessionState.CLOSED:
            return
        if why is not None:
            log.info("session %s ended: %s", self.pipes.name, why)
        else:
            log.info("session %s ended", self.pipes.name)
        self._move(SessionEvent.END)
        if self._execution is not None:
            self._execution.cancel()
            self._execution = None
        if self._close_reason is None:
            self._close()
        self._deadline.cancel()
        self._claim.close()
        self._unsubscribe_all(lambda: None)
        self._on_end(self)

    @property
    def holds_pipes(self) -> bool:
        """Whether its pipes are still open."""
        return self._close_reason is None and self.stage is not SessionState.CLOSED

    def _close(self) -> None:
        self._cancel_timers()
        self._outbox.overflow()
        self._stop_reading()
        if self._replies is not None:
            self._replies.close()
            self._context.scheduler.discard(self._replies.parts)
            self._replies = None
            if self._execution is None:
                self._note_progress()
        self._notifications.close()
        self._context.release(self._opening)
