"""Which scripts are executed when, and by which thread.

Short scripts are executed at once by the loop's thread, and so are short slices of scripts that
are not much longer, while a turn of the loop has time. All else is executed by one worker thread,
so many slices at a time as fit into `TURN_SECONDS`, a turn for each session in rotation. One
thread, because a long line holds the engine's lock for milliseconds: two would let the loop's
thread wait for one after the other. The worker starts no slice while the loop's thread serves, so
that a request waits for the rest of one slice at most, also where slices hold the interpreter.

A reply beyond `SMALL_REPLY_BYTES` needs room (`ReplyMemory`) before its slices are executed. One
script at a time gets such room, in the order in which they need it; so that one can take all that
there is, and not all of them wait for what the others hold. When there is no room, the script
waits as long as clients read their replies.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic

from kvs.engine.interface import ExecuteResult, StopReason
from kvs.errors import JournalWriteError, StoreClosedError, ThreadStartError
from kvs.protocol.requests import Execute
from kvs.server.execution import BLOCK_BYTES, ScriptExecution
from kvs.server.loop import EventLoop, Timer
from kvs.server.reply_memory import SMALL_REPLY_BYTES, ReplyMemory, Reservation
from kvs.store.core import StoreCore

TURN_SECONDS = 0.002
"""Seconds after which a script lets the next have its turn."""

YIELD_SECONDS = 0.005
"""Seconds that a slice waits for the loop's thread at most, so that the worker always goes on."""

STALL_SECONDS = 5.0
"""Seconds without any reply being read after which a script waits for room no longer."""

JOURNAL_FAILED_REASON = "the journal failed, and nothing more is told"
NO_MEMORY = "there was not enough memory for its script"


class ScheduledScript:
    """One script, from its request to its reply. For the loop's thread, but for `run_turn`.

    `done` is called once, unless it is cancelled: when the script is over, or has `failure`.
    """

    def __init__(
        self,
        script: ScriptExecution,
        claim: Reservation,
        turns: "ScriptScheduler",
        done: Callable[["ScheduledScript"], None],
    ) -> None:
        self.script = script
        self.claim = claim
        self.failure: str | None = None
        """Why the session must end."""
        self.ends_at_wait = False
        """Whether a WAIT is its end, because the session's client is gone."""
        self.is_cancelled = False
        self._turns = turns
        self._done = done
        self._timer: Timer | None = None

    @property
    def is_paused(self) -> bool:
        """Whether it is in a WAIT."""
        return self._timer is not None

    def cancel(self) -> None:
        """Execute nothing more. The worker may be at its last slice for a moment."""
        self.is_cancelled = True
        if self._timer is not None:
            self._timer.cancel()
        self._turns.remove(self)

    def resume(self) -> None:
        """Execute the script, or what is left of it, now or when its turn comes."""
        self._timer = None
        if self.script.is_medium:
            self.after_turn(self._run_at_once)
        else:
            self._turns.queue(self)

    def after_turn(self, result: Callable[[], ExecuteResult | None]) -> None:
        """Go on after some slices, of which `result` returns or raises what came."""
        try:
            pause = result()
        except MemoryError:
            self.failure = NO_MEMORY
        except (JournalWriteError, StoreClosedError):
            self.failure = JOURNAL_FAILED_REASON
        else:
            if pause is not None and pause.reason is StopReason.WAIT:
                return self._pause(pause.wait_ms)
            if not self.script.is_finished:
                return self._turns.queue(self)
        return self._end()

    def stop(self, reason: str) -> None:
        """End the script where it is, with an error in the reply."""
        self.script.stop(reason)
        self._end()

    def run_turn(self, give_way: Callable[[float], None], room: int) -> ExecuteResult | None:
        """Run slices for a turn, or until the reply may be over `room` bytes. For the worker.

        Returns the pause of a WAIT, None otherwise.
        """
        until = monotonic() + TURN_SECONDS
        script = self.script
        pause = None
        while not self.is_cancelled and not script.is_finished:
            script.prepare()
            if script.needs > room and room < script.limit:
                return None
            give_way(YIELD_SECONDS)
            if self.is_cancelled:
                return None
            pause = script.run_slice()
            if pause.reason is StopReason.WAIT:
                return pause
            if monotonic() > until:
                return None
        return None

    def _run_at_once(self) -> ExecuteResult | None:
        """Run slices that are as cheap as other requests, as long as this turn of the loop."""
        script, loop = self.script, self._turns.loop
        while not script.is_finished and (script.is_short or not loop.is_turn_over):
            script.prepare()
            if script.is_next_long or script.needs > SMALL_REPLY_BYTES:
                return None
            pause = script.run_slice()
            if pause.reason is StopReason.WAIT:
                return pause
        return None

    def _pause(self, milliseconds: int) -> None:
        self._turns.release_memory(self)
        self.claim.resize(self.script.size)
        if self.ends_at_wait:
            self.failure = "its client was gone when its script came to a WAIT"
            return self._done(self)
        self._timer = self._turns.loop.call_later(milliseconds / 1000, self.resume)
        return None

    def _end(self) -> None:
        self._turns.release_memory(self)
        self.claim.resize(self.script.size)
        self._done(self)


class ScriptScheduler:
    """The scripts that the worker executes, and those that wait for room. For the loop's thread."""

    def __init__(self, loop: EventLoop, store: StoreCore, room: ReplyMemory) -> None:
        """Start the worker.

        Raises:
            ThreadStartError: there is none now.

        """
        self.loop = loop
        self._store = store
        self._room = room
        room.on_freed = self._freed
        self._waiting: deque[ScheduledScript] = deque()
        """Those that wait for their turn."""
        self._running: ScheduledScript | None = None
        """The one whose turn it is."""
        self._large: ScheduledScript | None = None
        """The only one that may take room beyond `SMALL_REPLY_BYTES`."""
        self._large_later: deque[ScheduledScript] = deque()
        """Those that need it, too, in order."""
        self._large_waits = False
        """Whether `_large` waits for room, and not for its turn."""
        self._stall = Timer(None)
        self._worker = ThreadPoolExecutor(1, "kvs-script")
        try:
            self._worker.submit(_nothing).result()  # later there may be no room for a thread
        except RuntimeError as error:
            self._worker.shutdown()
            raise ThreadStartError from error

    def start(
        self, request: Execute, claim: Reservation, done: Callable[[ScheduledScript], None]
    ) -> ScheduledScript:
        """Return the execution of `request`; its `resume` begins it."""
        return ScheduledScript(
            ScriptExecution(request, self._store, self._room.total), claim, self, done
        )

    def close(self) -> None:
        """End the worker; block until it has come back from its slice."""
        self._worker.shutdown()

    def queue(self, execution: ScheduledScript) -> None:
        """Give a turn to `execution` behind the others."""
        self._waiting.append(execution)
        self._next()

    def remove(self, execution: ScheduledScript) -> None:
        """Give `execution` no further turn."""
        for waiting in (self._waiting, self._large_later):
            if execution in waiting:
                waiting.remove(execution)
        self.release_memory(execution)

    def release_memory(self, execution: ScheduledScript) -> None:
        """Let another script have the room that `execution`, which needs no more, could take."""
        if execution is self._large:
            self._stall.cancel()
            self._large_waits = False
            self._large = self._large_later.popleft() if self._large_later else None
            if self._large is not None:
                self._queue_later(self._large)

    def discard(self, parts: deque[memoryview]) -> None:
        """Free the parts of a reply, one at a time, where nobody waits for it."""
        if len(parts) > 1:
            self._worker.submit(_pop_all, parts)

    def _queue_later(self, execution: ScheduledScript) -> None:
        """Do as `queue` does, but not inside of whatever has led here."""
        self._waiting.append(execution)
        self.loop.call_soon_threadsafe(self._next)

    def _next(self) -> None:
        """Give the worker what comes next, if it has nothing to do."""
        while self._running is None and self._waiting:
            execution = self._waiting.popleft()
            if self._has_room(execution):
                self._running = execution
                future = self._worker.submit(
                    execution.run_turn, self.loop.yield_interpreter, execution.claim.held
                )
                future.add_done_callback(self._came_back)

    def _came_back(self, future: "Future[ExecuteResult | None]") -> None:
        """Hand over to the loop's thread, from the worker's."""
        self.loop.call_soon_threadsafe(lambda: self._after_turn(future))

    def _after_turn(self, future: "Future[ExecuteResult | None]") -> None:
        execution, self._running = self._running, None
        if execution is not None and not execution.is_cancelled:
            execution.after_turn(future.result)
        self._next()

    # Room for replies.

    def _has_room(self, execution: ScheduledScript) -> bool:
        """Hold room for the next turn of `execution`; if there is none, let it wait for some."""
        script, claim = execution.script, execution.claim
        needs = min(script.needs, script.limit)
        if needs <= SMALL_REPLY_BYTES:
            claim.resize(min(SMALL_REPLY_BYTES, script.limit))
            return True
        claim.resize(script.size)
        if self._large is None:
            self._large = execution
        if self._large is not execution:
            self._large_later.append(execution)
            return False
        for wanted in (min(needs + BLOCK_BYTES, script.limit), needs):
            if claim.fits(wanted):
                claim.resize(wanted)
                return True
        self._large_waits = True
        self._stall = self.loop.call_later(STALL_SECONDS, self._stalled)
        return False

    def _freed(self) -> None:
        """Go on with the script that waits for room, if there is enough by now."""
        execution = self._large
        if not self._large_waits or execution is None:
            return
        if execution.claim.fits(min(execution.script.needs, execution.script.limit)):
            self._large_waits = False
            self._stall.cancel()
            self._queue_later(execution)

    def _stalled(self) -> None:
        """No room came for a while: end the session that reads nothing, or else the script."""
        execution = self._large
        if not self._large_waits or execution is None:
            return
        left = self._room.freed_at + STALL_SECONDS - monotonic()
        if left > 0:
            self._stall = self.loop.call_later(left, self._stalled)
        elif (slowest := self._room.slowest(STALL_SECONDS)) is not None:
            self._stall = self.loop.call_later(STALL_SECONDS, self._stalled)
            slowest.evict()
        else:
            total = self._room.total
            execution.stop(f"the replies of all sessions would be longer than {total} bytes")


def _pop_all(parts: deque[memoryview]) -> None:
    while parts:
        parts.pop()


def _nothing() -> None:
    """Do nothing."""
