"""One session: a client's three pipes, its requests, its replies and its notifications."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kvs.errors import JournalFailed, StoreClosed, WordRefused, cause
from kvs.language.diagnostics import checked_word
from kvs.posix import fifos
from kvs.posix.fifos import READ_BYTES
from kvs.protocol import frames
from kvs.protocol.requests import (
    Disconnect,
    Execute,
    Request,
    Requests,
    Subscribe,
    TooLong,
    Unknown,
    Unsubscribe,
)
from kvs.server import execution as scripts
from kvs.server.handshake import Opening
from kvs.server.loop import ERR, HUP, IN, OUT, Loop, Timer
from kvs.server.refusals import Refusals, excerpt
from kvs.server.reply_memory import ReplyRoom
from kvs.server.scheduler import FAILED_JOURNAL, Execution, Turns
from kvs.server.state import SERVES, TRANSITIONS, Event, Stage
from kvs.server.writers import Notifications, Replies
from kvs.store.core import Store
from kvs.store.subscriptions import Outbox, Watchers

log = logging.getLogger("kvs.server")

OPENING_SECONDS = 5.0
"""Seconds that a client may take to open the next of its pipes; or, when it disconnects, to make
room for the answer."""

INCOMPLETE_SECONDS = 5.0
"""Seconds without a further byte after which an incomplete request is logged."""

LEAVING_SECONDS = 0.1
"""So long a client that disconnected may take to close its end of requests."""

FINISH_SECONDS = 0.075
"""Seconds that a script may still take once its client is gone, or that one behind it may take."""

FINISH_ALL_SECONDS = 1.0
"""Seconds that all requests of a client that is gone may take."""

LATE_READ_BYTES = 4 << 10
"""Bytes of requests read at a time where others have been served for long in the same turn."""

REQUESTS_A_TURN = 64
"""After so many requests of one session the others are served."""

_RETRY_SECONDS = (0.001,) * 20 + (0.005,) * 20
"""Seconds between attempts to open what the client has opened; from then on `_RETRY_LATER`."""
_RETRY_LATER = 0.02


@dataclass(frozen=True)
class House:
    """What all sessions of a server share."""

    loop: Loop
    store: Store
    watchers: Watchers[bytes]
    turns: Turns
    """Executes scripts."""
    room: ReplyRoom
    """For the replies of scripts."""
    opened: Callable[[int], None]
    """Called with each notifications pipe that was opened."""
    release: Callable[[Opening], None]
    """Called at the end of a session, which may come before its client has opened all pipes."""
    refusals: Refusals


class Session:
    """A session from its connect to its end. All but its outbox's wake is the loop's thread's.

    `ended` is called once, when everything of it has been closed.
    """

    def __init__(self, opening: Opening, house: House, ended: Callable[["Session"], None]) -> None:
        self.pipes = opening.pipes
        self.stage = Stage.OPENING
        self._house = house
        self._loop = house.loop
        self._on_end = ended
        self._requests = Requests(opening.pipes.dialect)
        self._requests_ended = False
        self._execution: Execution | None = None
        self._claim = house.room.claim(self._evicted)
        self._replies: Replies | None = None
        self._deadline = self._retry = self._incomplete = Timer(None)
        self._read_at = 0.0
        """When requests was last read."""
        self._opening = opening
        self._finishing: str | None = None
        """Why it ends, once what had been asked is carried out; its pipes are closed by then."""
        self._tries = 0
        self._due = False  # whether a call of _serve is on its way
        self._finish_by = 0.0
        self._unsafe = False  # whether a reply waits until it may be shown
        self._outbox: Outbox[bytes] = Outbox(self._wake, held=house.store.is_kept)
        self._notifications = Notifications(self._outbox, house.loop)
        self._input = opening.requests.descriptor
        self._loop.watch(self._input, IN, self._requests_ready)
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
            if error.errno not in fifos.NO_ROOM:  # those may be there before its deadline
                return self.end(f"its pipes cannot be opened: {cause(error)}")
        return self._go_on_opening(progress=progress)

    def _go_on_opening(self, *, progress: bool) -> None:
        opening = self._opening
        if progress:
            self._tries = 0
            self._deadline.cancel()
            self._deadline = self._loop.after(OPENING_SECONDS, self._too_late)
            self._use_opened()
            if self.holds_pipes:
                self._requests_ready(0)  # what the attempt has read ahead causes no event
        if not self.holds_pipes or self.stage is Stage.LEAVING:
            return
        if opening.is_complete:
            self._deadline.cancel()
            return
        late = self._tries >= len(_RETRY_SECONDS)
        self._retry = self._loop.after(
            _RETRY_LATER if late else _RETRY_SECONDS[self._tries], self._open
        )
        self._tries += 1

    def _use_opened(self) -> None:
        """Take over what `_opening` has opened."""
        if (notifications := self._opening.take(self.pipes.notifications)) is not None:
            self._house.opened(notifications)
            self._notifications.open(notifications, self._notifications_ready)
        if (responses := self._opening.take(self.pipes.responses)) is not None:
            self._replies = Replies(responses, self._loop, self._replies_ready, self._written)
            self._move(Event.RESPONSES_OPEN)
            self._reply([frames.reply(frames.CONNECT, 0)])
            self._serve_soon()
        if self.stage is Stage.GREETED and self._notifications.is_open:
            self._move(Event.NOTIFICATIONS_OPEN)

    def _too_late(self) -> None:
        missing = self._opening.missing
        self.end(f"its client did not open {missing} within {OPENING_SECONDS:g} s")

    def _cancel_timers(self) -> None:
        for timer in (self._deadline, self._retry, self._incomplete):
            timer.cancel()

    def _move(self, event: Event) -> None:
        self.stage = TRANSITIONS[self.stage, event]

    # Requests.

    def _requests_ready(self, events: int) -> None:
        if self._due and not self._opening.requests.is_ahead:
            return None  # what was read is served first: else a client could have any amount read
        data = self._opening.requests.read(
            LATE_READ_BYTES if self._loop.is_turn_over else READ_BYTES
        )
        self._opening.requests_opened |= data != b"" or bool(events & HUP)
        if data and self.stage is not Stage.LEAVING:  # else the padding of a disconnect
            self._requests.feed(data)
        elif data == b"" and events & HUP:  # without HUP, no writer has been there yet
            self._requests_ended = True
            self._stop_reading()
            if self.stage is Stage.OPENING:
                return self.end("its client went before it was greeted")
        self._serve()
        self._read_at = time.monotonic()
        incomplete = self.stage in SERVES and self._requests.is_incomplete
        if incomplete and self._incomplete.call is None:
            self._incomplete = self._loop.after(INCOMPLETE_SECONDS, self._check_incomplete)
        return None

    def _check_incomplete(self) -> None:
        """Log a request that has been incomplete for too long."""
        self._incomplete = Timer(None)
        if not self._requests.is_incomplete or self.stage not in SERVES:
            return
        left = self._read_at + INCOMPLETE_SECONDS - time.monotonic()
        if self._due or self._is_busy():  # what is unused may be whole requests
            left = INCOMPLETE_SECONDS
        if left > 0:
            self._incomplete = self._loop.after(left, self._check_incomplete)
            return
        reason = f"session {self.pipes.name}: a request is incomplete"
        self._house.refusals.add(f"{reason} after {INCOMPLETE_SECONDS:g} s", self._requests.unused)

    def _serve(self) -> None:
        """Carry out the requests that are there, as far as the client reads its replies."""
        self._due = True  # what is over at once needs no call of its own
        is_more = self._serve_some()
        self._due = False
        if is_more:
            self._serve_soon()
        if self.stage is Stage.LEAVING and self._requests_ended and self._replies is None:
            self.end(None)
        self._read_only_when_idle()

    def _serve_some(self) -> bool:
        """Carry out some requests; return whether there may be more to do."""
        for _ in range(REQUESTS_A_TURN):
            if self.stage not in SERVES or self._is_busy():
                return False
            request = self._requests.next()
            if request is None:
                if self._requests_ended:
                    self.end(self._finishing or "its client closed its requests")
                return False
            self._carry_out(request)
            if self._loop.is_turn_over:
                break
        return True

    def _serve_soon(self) -> None:
        if not self._due:
            self._due = True
            self._loop.soon(self._serve)

    def _is_busy(self) -> bool:
        """Tell whether a request is being carried out, or its reply is still on its way."""
        return self._execution is not None or self._unsafe or self._unread_replies()

    def _unread_replies(self) -> bool:
        return self._replies is not None and self._replies.pending

    def _read_only_when_idle(self) -> None:
        """Read no further requests while one is being carried out or its reply unread."""
        if self.stage is Stage.ENDED or self._requests_ended:
            return
        if self._is_busy():
            self._stop_reading()
        elif not self._watching:
            self._loop.watch(self._input, IN, self._requests_ready)
            self._watching = True

    def _stop_reading(self) -> None:
        if self._watching:
            self._loop.forget(self._input)
            self._watching = False

    def _carry_out(self, request: Request) -> None:
        match request:
            case Subscribe(key):
                there = self._subscribe(key)
                self._reply_when_safe([frames.reply(frames.SUBSCRIBE, int(there))])
            case Unsubscribe(key):
                house = self._house
                was_there = house.store.unsubscribe(house.watchers, self._outbox, key)
                self._reply([frames.reply(frames.UNSUBSCRIBE, int(not was_there))])
            case Execute():
                turns = self._house.turns
                self._execution = turns.start(request, self._claim, self._executed)
                if self._finishing is not None:
                    self._execution.ends_at_wait = True
                    self._limit_script()
                self._execution.go_on()
            case TooLong(length):
                self._reply(scripts.refused(length))
            case Disconnect():
                self._disconnect()
            case Unknown(operation):
                arrived = excerpt(self._requests.unused)
                self.end(f"it sent an unknown operation, {operation}: {arrived}")

    def _subscribe(self, key: bytes) -> bool:
        try:
            checked_word(key, "key")
        except WordRefused:
            return False
        return self._house.store.subscribe(self._house.watchers, self._outbox, key)

    def _executed(self, execution: Execution) -> None:
        """Reply to a script, or end if there is no reply."""
        self._execution = None
        if execution.failure is not None:
            return self.end(self._finishing or execution.failure)
        self._reply_when_safe(execution.script.reply())
        self._serve_soon()
        return None

    # Replies and notifications.

    def _reply_when_safe(self, parts: Sequence[bytes | bytearray]) -> None:
        """Reply as soon as all that the reply tells may be shown; requests wait as long."""
        store = self._house.store
        try:
            position = store.position()
        except (JournalFailed, StoreClosed):
            return self.end(FAILED_JOURNAL)
        if store.is_safe(position):
            return self._reply(parts)
        self._unsafe = True
        store.when_safe(position, lambda: self._loop.soon(lambda: self._is_safe(parts)))
        return None

    def _is_safe(self, parts: Sequence[bytes | bytearray]) -> None:
        self._unsafe = False
        self._reply(parts)
        self._serve()

    def _reply(self, parts: Sequence[bytes | bytearray]) -> None:
        if self._replies is None or self.stage is Stage.ENDED:
            return None
        try:
            self._replies.put([frames.in_dialect(parts[0], self.pipes.dialect), *parts[1:]])
        except BrokenPipeError:
            return self.finish("its client reads no responses any more")
        self._note_progress()
        return None

    def _note_progress(self) -> None:
        """Note that the client has read of its reply, or all of it."""
        if self._unread_replies():
            self._claim.read_at = time.monotonic()
        else:
            self._claim.read_at = None
            self._claim.hold(0)

    def _written(self, size: int) -> None:
        """Give back what a part of a reply took."""
        self._claim.hold(max(0, self._claim.held - size))

    def _evicted(self) -> None:
        """End, as others wait for the memory that the reply takes."""
        self.finish("its client does not read its reply, and others need the room")

    def _replies_ready(self, events: int) -> None:
        if events & ERR:
            return self.finish("its client reads no responses any more")
        if events & OUT and self._replies is not None:
            try:
                self._replies.write()
            except BrokenPipeError:
                return self.finish("its client reads no responses any more")
            self._note_progress()
            if self.stage is Stage.LEAVING and not self._replies.pending:
                self._see_off()
            self._serve()
        return None

    def _notifications_ready(self, events: int) -> None:
        if events & ERR:
            self.finish("its client reads no notifications any more")
        elif events & OUT:
            self._notifications.go_on()

    def _wake(self) -> None:
        """There are more changes in the outbox; from the thread that made them."""
        if self._outbox.given_up:
            why = "its client does not keep up with its notifications"
            self._loop.soon(lambda: self.finish(why))
        else:
            self._notifications.flush()

    # The end.

    def _disconnect(self) -> None:
        self._cancel_timers()
        self._move(Event.DISCONNECT)
        self._unsubscribe_all(self._answer_disconnect)

    def _unsubscribe_all(self, then: Callable[[], None]) -> None:
        """End its subscriptions, over several turns if there are many; call `then`."""
        keys = iter(list(self._outbox.keys))

        def go_on() -> None:
            for key in keys:
                self._house.store.unsubscribe(self._house.watchers, self._outbox, key)
                if self._loop.is_turn_over:
                    return self._loop.soon(go_on)
            return then()

        go_on()

    def _answer_disconnect(self) -> None:
        self._reply([frames.reply(frames.DISCONNECT, 0)])
        if self.stage is Stage.ENDED:
            return
        if self._unread_replies():  # what it was answered before fills the pipe
            self._deadline = self._loop.after(OPENING_SECONDS, lambda: self.end(None))
        else:
            self._see_off()

    def _see_off(self) -> None:
        """Close responses, as the answer is on its way, and give the client a moment to go."""
        if self._replies is not None:
            self._replies.close()
            self._replies = None
        self._deadline.cancel()
        self._deadline = self._loop.after(LEAVING_SECONDS, lambda: self.end(None))

    def finish(self, why: str) -> None:
        """Close everything, and carry out the whole requests that had come; then it has ended.

        Nobody is answered any more. It ends at a WAIT, and where a script takes longer than
        `FINISH_SECONDS`, or all together `FINISH_ALL_SECONDS`.
        """
        if self._finishing is not None:
            return None
        execution = self._execution
        if self.stage not in SERVES or (execution is not None and execution.is_paused):
            return self.end(why)
        if not self._requests_ended:
            self._requests_ended = True
            reader = self._opening.requests
            self._requests.feed(reader.read(fifos.capacity(reader.descriptor)) or b"")
        if execution is not None:
            execution.ends_at_wait = True
        self._close()
        self._finishing = why
        self._finish_by = time.monotonic() + FINISH_ALL_SECONDS
        self._limit_script()
        self._serve()
        return None

    def _limit_script(self) -> None:
        """Let the script under way, or the one that begins, take so long and no longer."""
        self._deadline.cancel()
        seconds = min(FINISH_SECONDS, self._finish_by - time.monotonic())
        self._deadline = self._loop.after(seconds, self._finished_late)

    def _finished_late(self) -> None:
        self.end(f"{self._finishing}; its last requests took too long and were cut short")

    def end(self, why: str | None) -> None:
        """Close everything; `why` goes to the log. Once it has ended this does nothing."""
        if self.stage is Stage.ENDED:
            return
        if why is not None:
            log.info("session %s ended: %s", self.pipes.name, why)
        else:
            log.info("session %s ended", self.pipes.name)
        self._move(Event.END)
        if self._execution is not None:
            self._execution.cancel()
            self._execution = None
        if self._finishing is None:
            self._close()
        self._deadline.cancel()
        self._claim.close()
        self._unsubscribe_all(lambda: None)
        self._on_end(self)

    @property
    def holds_pipes(self) -> bool:
        """Whether its pipes are still open."""
        return self._finishing is None and self.stage is not Stage.ENDED

    def _close(self) -> None:
        self._cancel_timers()
        self._outbox.give_up()
        self._stop_reading()
        if self._replies is not None:
            self._replies.close()
            self._house.turns.discard(self._replies.parts)
            self._replies = None
            if self._execution is None:
                self._note_progress()
        self._notifications.close()
        self._house.release(self._opening)
