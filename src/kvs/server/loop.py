"""One thread's event loop: descriptors (epoll(7)), timers, and calls from other threads."""

import heapq
import itertools
import select
import time
from collections import deque
from collections.abc import Callable
from threading import Lock

from kvs.posix.wakeup import Wakeup

IN, OUT, HUP, ERR = select.EPOLLIN, select.EPOLLOUT, select.EPOLLHUP, select.EPOLLERR
"""Events of epoll_ctl(2). HUP and ERR are reported even where no event was requested."""

TIMER_SWEEP_THRESHOLD = 64
"""Number of timers, beyond twice those that were live at the last sweep, that causes a sweep."""

TURN_SECONDS = 0.002
"""Seconds after which callbacks should leave further work for the next turn of the loop."""

Ready = Callable[[int], None]
"""Called with the events of a descriptor, a bit mask."""


class Timer:
    """A call that is due at some time."""

    def __init__(self, call: Callable[[], None] | None) -> None:
        self.call = call

    def cancel(self) -> None:
        """Cancel the call. Idempotent."""
        self.call = None


class EventLoop:
    """Calls functions when descriptors are ready and when timers are due.

    Threads: the one that calls `run_once`. Any thread, and any signal handler, may call
    `call_soon_threadsafe`; any thread may call `modify` and `yield_interpreter`.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._ready: dict[int, Ready] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._sweep_at = TIMER_SWEEP_THRESHOLD
        self._numbers = itertools.count()
        self._soon: deque[Callable[[], None]] = deque()
        wakeup = Wakeup()
        self._wakeup: Wakeup | None = wakeup
        """Interrupts epoll_wait(2); None once the loop is closed."""
        self._awake = False
        """Whether the loop is not in epoll_wait(2), and will examine `_soon` before it is."""
        self._dispatching = Lock()
        """Locking: held while the callbacks of one turn run."""
        self._turn_ends_at = 0.0
        self.register(wakeup.fileno(), IN, self._on_wakeup)

    def close(self) -> None:
        """Close the loop's own descriptors. `call_soon_threadsafe` has no effect afterwards."""
        self._epoll.close()
        self._wakeup = None  # closed once no other thread is within `wake`

    def register(self, descriptor: int, events: int, ready: Ready) -> None:
        """Call `ready` whenever `descriptor` has one of `events`, or HUP or ERR."""
        self._ready[descriptor] = ready
        self._epoll.register(descriptor, events)

    def modify(self, descriptor: int, events: int) -> None:
        """Replace the events of a registered descriptor."""
        self._epoll.modify(descriptor, events)

    def unregister(self, descriptor: int) -> None:
        """Stop watching `descriptor`. Must be called before it is closed. Idempotent."""
        if self._ready.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call `call` in `seconds`, unless the returned timer is cancelled before."""
        timer = Timer(call)
        if len(self._timers) > self._sweep_at:
            # Otherwise cancelled timers would stay until they are due, which may take months.
            self._timers = [entry for entry in self._timers if entry[2].call is not None]
            heapq.heapify(self._timers)
            self._sweep_at = 2 * len(self._timers) + TIMER_SWEEP_THRESHOLD
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._numbers), timer))
        return timer

    def call_soon_threadsafe(self, call: Callable[[], None]) -> None:
        """Call `call` on the loop's thread, in its next turn."""
        self._soon.append(call)
        # The loop clears `_awake` before it examines `_soon`. So `_awake` must be read after the
        # append: if it is still set, the loop will find the call.
        if not self._awake and (wakeup := self._wakeup) is not None:
            wakeup.wake()

    def run_once(self) -> None:
        """Run one turn: wait for events, timers or calls, and run their callbacks."""
        self._awake = False
        events = self._epoll.poll(self._seconds_to_wait())
        self._awake = True
        self._turn_ends_at = time.monotonic() + TURN_SECONDS
        with self._dispatching:
            self._dispatch(events)

    @property
    def is_turn_over(self) -> bool:
        """Whether this turn has taken so long that further work should wait for the next one."""
        return time.monotonic() >= self._turn_ends_at

    def yield_interpreter(self, seconds: float) -> None:
        """Block while the loop runs callbacks, for at most `seconds`. For other threads.

        Call this before work that would hold the interpreter or the engine's lock for long.
        """
        if self._dispatching.acquire(timeout=seconds):
            self._dispatching.release()

    def _dispatch(self, reported: list[tuple[int, int]]) -> None:
        for descriptor, events, ready in [(d, e, self._ready.get(d)) for d, e in reported]:
            # An earlier callback of this turn may have unregistered the descriptor, and the kernel
            # may have given its number to another file that is registered by now.
            if ready is not None and self._ready.get(descriptor) is ready:
                ready(events)
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            if call := heapq.heappop(self._timers)[2].call:
                call()
        for _ in range(len(self._soon)):
            self._soon.popleft()()

    def _seconds_to_wait(self) -> float | None:
        if self._soon:
            return 0
        if not self._timers:
            return None
        return max(0, self._timers[0][0] - time.monotonic())

    def _on_wakeup(self, _events: int) -> None:
        if self._wakeup is not None:
            self._wakeup.clear()
