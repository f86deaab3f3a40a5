"""Decides when scripts are executed, and on which thread.

The loop's thread executes short scripts at once, and also slices of medium scripts while its turn
leaves time. One worker thread executes all other slices, as many at a time as fit into
`TURN_SECONDS`, with a turn for each session in rotation.

Threads: there is only one worker, because a long line holds the engine's lock for milliseconds;
with two, the loop's thread would wait for one after the other. The worker starts no slice while the
loop's thread runs callbacks. So a request waits for the rest of one slice at most, even if slices
hold the interpreter lock.

Invariants:

- A script must reserve memory (`ReplyMemory`) for a reply over `SMALL_REPLY_BYTES` before the
  slices that may need it are executed.
- At most one script at a time may hold such memory while it executes; the others queue in order.
  So this script can take all of the memory, and scripts never deadlock on each other's memory.
- A script that waits for memory waits as long as clients read their replies (`STALL_SECONDS`).
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic

from kvs.engine.interface import UNKNOWN_ORIGIN, ExecuteResult, StopReason
from kvs.errors import JournalWriteError, StoreClosedError, ThreadStartError
from kvs.protocol.requests import Execute
from kvs.server.execution import BLOCK_BYTES, ScriptExecution, no_memory_reason
from kvs.server.loop import EventLoop, Timer
from kvs.server.reply_memory import SMALL_REPLY_BYTES, ReplyMemory, Reservation
from kvs.store.core import StoreCore

TURN_SECONDS = 0.002
"""Seconds of a script's turn on the worker; then the next script has its turn."""

YIELD_SECONDS = 0.005
"""Maximum seconds that a slice waits for the loop's thread, so that the worker never starves."""

STALL_SECONDS = 5.0
"""Seconds without a client reading a reply after which a script stops waiting for memory."""

JOURNAL_FAILED_REASON = "the journal failed, and no further reply is released"
OUT_OF_MEMORY_REASON = "not enough memory for the client's script"


class ScheduledScript:
    """One script, from its request to its reply.

    `on_done` is called once, when the script is finished or has a `failure`; never after `cancel`.

    Threads: the loop's, except that the worker calls `run_turn`.
    """

    def __init__(
        self,
        script: ScriptExecution,
        reservation: Reservation,
        scheduler: "ScriptScheduler",
        on_done: Callable[["ScheduledScript"], None],
    ) -> None:
        self.script = script
        self.reservation = reservation
        self.failure: str | None = None
        """Why the session must be closed; None if the script can be replied to."""
        self.ends_at_wait = False
        """Whether a WAIT ends the script, because the session's client is gone."""
        self.is_cancelled = False
        self._scheduler = scheduler
        self._on_done = on_done
        self._timer: Timer | None = None

    @property
    def is_paused(self) -> bool:
        """Whether the script is in a WAIT."""
        return self._timer is not None

    def cancel(self) -> None:
        """Execute nothing more. The worker may still be executing a last slice."""
        self.is_cancelled = True
        if self._timer is not None:
            self._timer.cancel()
        self._scheduler.remove(self)

    def resume(self) -> None:
        """Execute the rest of the script, now or when its turn comes."""
        self._timer = None
        if self.script.is_medium:
            self.after_turn(self._run_at_once)
        else:
            self._scheduler.queue(self)

    def after_turn(self, get_result: Callable[[], ExecuteResult | None]) -> None:
        """Continue after a turn, whose result or exception `get_result` returns or raises."""
        try:
            wait = get_result()
        except MemoryError:
            self.failure = OUT_OF_MEMORY_REASON
        except (JournalWriteError, StoreClosedError):
            self.failure = JOURNAL_FAILED_REASON
        else:
            if wait is not None:
                return self._pause(wait.wait_ms)
            if not self.script.is_finished:
                return self._scheduler.queue(self)
        return self._end()

    def stop(self, reason: str) -> None:
        """End the script here, with an error in the reply."""
        self.script.stop(reason)
        self._end()

    def run_turn(
        self, yield_interpreter: Callable[[float], None], reserved: int
    ) -> ExecuteResult | None:
        """Run slices for a turn, or until the reply may exceed `reserved` bytes. For the worker.

        Returns the result of a WAIT, otherwise None.
        """
        deadline = monotonic() + TURN_SECONDS
        script = self.script
        while not self.is_cancelled and not script.is_finished:
            script.prepare()
            if script.required > reserved and reserved < script.limit:
                return None
            yield_interpreter(YIELD_SECONDS)
            if self.is_cancelled:
                return None
            result = script.run_slice(reserved)
            if result is not None and result.reason is StopReason.WAIT:
                return result
            if monotonic() > deadline:
                return None
        return None

    def _run_at_once(self) -> ExecuteResult | None:
        """Run slices that are as cheap as other requests, until the turn of the loop is over.

        Returns the result of a WAIT, otherwise None.
        """
        script, loop = self.script, self._scheduler.loop
        while not script.is_finished and (script.is_short or not loop.is_turn_over):
            script.prepare()
            if script.is_next_long or script.required > SMALL_REPLY_BYTES:
                return None
            result = script.run_slice(SMALL_REPLY_BYTES)
            if result is not None and result.reason is StopReason.WAIT:
                return result
        return None

    def _pause(self, milliseconds: int) -> None:
        self._scheduler.allow_next_large(self)
        self.reservation.resize(self.script.size)
        if self.ends_at_wait:
            self.failure = "the client was gone when its script reached a WAIT"
            return self._on_done(self)
        self._timer = self._scheduler.loop.call_later(milliseconds / 1000, self.resume)
        return None

    def _end(self) -> None:
        self._scheduler.allow_next_large(self)
        self.reservation.resize(self.script.size)
        self._on_done(self)


class ScriptScheduler:
    """Schedules scripts on the worker, and those that wait for memory. For the loop's thread."""

    def __init__(self, loop: EventLoop, store: StoreCore, reply_total_bytes: int) -> None:
        """Start the worker; limit all replies together to `reply_total_bytes`.

        Raises:
            ThreadStartError: the thread cannot be started.

        """
        self.loop = loop
        self._store = store
        self.memory = ReplyMemory(reply_total_bytes, self._on_freed)
        self._waiting: deque[ScheduledScript] = deque()
        """Scripts that wait for their turn, in order."""
        self._running: ScheduledScript | None = None
        """The script that the worker executes."""
        self._large: ScheduledScript | None = None
        """The one script that may reserve more than `SMALL_REPLY_BYTES`."""
        self._large_queue: deque[ScheduledScript] = deque()
        """The other scripts that need more, in order."""
        self._large_waits = False
        """Whether `_large` waits for memory, not for its turn."""
        self._stall = Timer(None)
        self._worker = ThreadPoolExecutor(1, "kvs-script")
        try:
            self._worker.submit(
                _do_nothing
            ).result()  # start the thread now; later the system may be at its limit
        except RuntimeError as error:
            self._worker.shutdown()
            raise ThreadStartError from error

    def start(
        self,
        request: Execute,
        reservation: Reservation,
        on_done: Callable[[ScheduledScript], None],
        origin: int = UNKNOWN_ORIGIN,
    ) -> ScheduledScript:
        """Return the execution of `request` of `origin`, which its `resume` begins."""
        script = ScriptExecution(request, self._store, self.memory.total, origin)
        return ScheduledScript(script, reservation, self, on_done)

    def close(self) -> None:
        """Stop the worker; block until it has finished its slice."""
        self._worker.shutdown()

    def queue(self, execution: ScheduledScript) -> None:
        """Queue `execution` for a turn on the worker."""
        self._waiting.append(execution)
        self._run_next()

    def remove(self, execution: ScheduledScript) -> None:
        """Give `execution` no further turn. Idempotent."""
        for waiting in (self._waiting, self._large_queue):
            if execution in waiting:
                waiting.remove(execution)
        self.allow_next_large(execution)

    def allow_next_large(self, execution: ScheduledScript) -> None:
        """Allow the next script to reserve large memory, if `execution` was the one allowed."""
        if execution is self._large:
            self._stall.cancel()
            self._large_waits = False
            self._large = self._large_queue.popleft() if self._large_queue else None
            if self._large is not None:
                self._queue_later(self._large)

    def discard(self, parts: deque[memoryview]) -> None:
        """Free the parts of a reply on the worker, one at a time, so that no session waits."""
        if len(parts) > 1:
            self._worker.submit(_pop_all, parts)

    def _queue_later(self, execution: ScheduledScript) -> None:
        """Queue `execution`, but run it only after the caller has returned."""
        self._waiting.append(execution)
        self.loop.call_soon_threadsafe(self._run_next)

    def _run_next(self) -> None:
        """Give the worker the next script, if it is idle."""
        while self._running is None and self._waiting:
            execution = self._waiting.popleft()
            if self._reserve(execution):
                self._running = execution
                future = self._worker.submit(
                    execution.run_turn, self.loop.yield_interpreter, execution.reservation.held
                )
                future.add_done_callback(self._on_turn_done)

    def _on_turn_done(self, future: "Future[ExecuteResult | None]") -> None:
        """Pass the result to the loop's thread. Threads: the worker."""
        self.loop.call_soon_threadsafe(lambda: self._after_turn(future))

    def _after_turn(self, future: "Future[ExecuteResult | None]") -> None:
        execution, self._running = self._running, None
        if execution is not None and not execution.is_cancelled:
            execution.after_turn(future.result)
        self._run_next()

    # Memory for replies.

    def _reserve(self, execution: ScheduledScript) -> bool:
        """Reserve memory for the next turn of `execution`; if there is none, let it wait."""
        script, reservation = execution.script, execution.reservation
        required = min(script.required, script.limit)
        if required <= SMALL_REPLY_BYTES:
            reservation.resize(min(SMALL_REPLY_BYTES, script.limit))
            return True
        reservation.resize(script.size)
        if self._large is None:
            self._large = execution
        if self._large is not execution:
            self._large_queue.append(execution)
            self._limit_held_back(execution)
            return False
        for size in (min(required + BLOCK_BYTES, script.limit), required):
            if reservation.fits(size):
                reservation.resize(size)
                return True
        self._large_waits = True
        self._stall = self.loop.call_later(STALL_SECONDS, self._on_stall)
        return False

    def _limit_held_back(self, execution: ScheduledScript) -> None:
        """Stop `execution`, which waits, if too much output is held back with its own."""
        waiting = [one for one in (self._large, *self._large_queue) if one is not None]
        held_back = sum(one.script.held_back_bytes for one in waiting)
        if execution.script.held_back_bytes and held_back > self.memory.total:
            self.loop.call_soon_threadsafe(lambda: self._stop_for_memory(execution))

    def _stop_for_memory(self, execution: ScheduledScript) -> None:
        if not execution.is_cancelled:
            execution.stop(no_memory_reason(self.memory.total))

    def _on_freed(self) -> None:
        """Queue the script that waits for memory, if there is enough now."""
        execution = self._large
        if not self._large_waits or execution is None:
            return
        if execution.reservation.fits(min(execution.script.required, execution.script.limit)):
            self._large_waits = False
            self._stall.cancel()
            self._queue_later(execution)

    def _on_stall(self) -> None:
        """Close the slowest reader's session, or else stop the script, if no memory was freed."""
        execution = self._large
        if not self._large_waits or execution is None:
            return
        remaining = self.memory.freed_at + STALL_SECONDS - monotonic()
        if remaining > 0:
            self._stall = self.loop.call_later(remaining, self._on_stall)
        elif (slowest := self.memory.slowest(STALL_SECONDS)) is not None:
            self._stall = self.loop.call_later(STALL_SECONDS, self._on_stall)
            slowest.evict()
        else:
            execution.stop(no_memory_reason(self.memory.total))


def _pop_all(parts: deque[memoryview]) -> None:
    while parts:
        parts.pop()


def _do_nothing() -> None:
    """Do nothing."""
