"""One thread's event loop: descriptors (epoll(7)), timers, and calls from other threads."""

import contextlib
import heapq
import itertools
import os
import select
import time
from collections import deque
from collections.abc import Callable
from threading import Lock, RLock

IN, OUT, HUP, ERR = select.EPOLLIN, select.EPOLLOUT, select.EPOLLHUP, select.EPOLLERR
"""HUP and ERR are always told, also where nothing was asked for."""

TIMER_SWEEP_THRESHOLD = 64
"""So many timers may be there, beyond twice those that are due some time, before they are swept."""

TURN_SECONDS = 0.002
"""Seconds that a turn may take before those who have more to do are to leave it for the next."""

Ready = Callable[[int], None]
"""Called with the events of a descriptor."""


class Timer:
    """A call that is due; `cancel` makes nothing of it."""

    def __init__(self, call: Callable[[], None] | None) -> None:
        self.call = call

    def cancel(self) -> None:
        """Let it not be called."""
        self.call = None


class EventLoop:
    """Calls functions when descriptors are ready and when time has passed.

    Threads: one, but any thread may call `call_soon_threadsafe`, `modify` and `yield_interpreter`.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._ready: dict[int, Ready] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._sweep_at = TIMER_SWEEP_THRESHOLD
        self._numbers = itertools.count()
        self._soon: deque[Callable[[], None]] = deque()
        self._wakeup, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._waking = RLock()  # a signal handler may come while its own thread has it
        """Held for a write that never waits, and for the closing."""
        self._closed = False  # guarded by _waking
        self._awake = False
        """Whether it is not waiting, and will look at `_soon` before it waits."""
        self._serving = Lock()
        """Held while descriptors, timers and calls are served."""
        self._turn_over = 0.0
        self.register(self._wakeup, IN, self._woken)

    def close(self) -> None:
        """Close the loop's own descriptors. `call_soon_threadsafe` does nothing from now on."""
        with self._waking:
            self._closed = True
        self._epoll.close()
        os.close(self._wakeup)
        os.close(self._wake)

    def register(self, descriptor: int, events: int, ready: Ready) -> None:
        """Call `ready` whenever one of `events`, or HUP or ERR, is there."""
        self._ready[descriptor] = ready
        self._epoll.register(descriptor, events)

    def modify(self, descriptor: int, events: int) -> None:
        """Ask for other events of a descriptor that is watched."""
        self._epoll.modify(descriptor, events)

    def unregister(self, descriptor: int) -> None:
        """Watch it no more; to be called before it is closed."""
        if self._ready.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call `call` in so many seconds, unless the timer is cancelled before."""
        timer = Timer(call)
        if len(self._timers) > self._sweep_at:
            # Those that were cancelled would stay until they were due, which may take months.
            self._timers = [entry for entry in self._timers if entry[2].call is not None]
            heapq.heapify(self._timers)
            self._sweep_at = 2 * len(self._timers) + TIMER_SWEEP_THRESHOLD
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._numbers), timer))
        return timer

    def call_soon_threadsafe(self, call: Callable[[], None]) -> None:
        """Call `call` in the loop's thread, as soon as it comes to it."""
        self._soon.append(call)
        if self._awake:  # looked at after the appending, as the loop lets go of it before it looks
            return
        with self._waking, contextlib.suppress(BlockingIOError):  # full of calls to wake already
            if not self._closed:
                os.write(self._wake, b"x")

    def run_once(self) -> None:
        """Wait for whatever comes next, and call who is concerned."""
        self._awake = False
        told = self._epoll.poll(self._seconds_to_wait())
        self._awake = True
        self._turn_over = time.monotonic() + TURN_SECONDS
        with self._serving:
            self._dispatch(told)

    @property
    def is_turn_over(self) -> bool:
        """Whether this turn has taken so long that others should be served."""
        return time.monotonic() >= self._turn_over

    def yield_interpreter(self, seconds: float) -> None:
        """Block while the loop's thread serves, at most `seconds`. For other threads.

        For what would take the interpreter or the store from that thread for long.
        """
        if self._serving.acquire(timeout=seconds):
            self._serving.release()

    def _dispatch(self, told: list[tuple[int, int]]) -> None:
        for descriptor, events, ready in [(d, events, self._ready.get(d)) for d, events in told]:
            # One that was forgotten by a call before it in this turn has nobody to tell any more,
            # and its number may be that of another by now.
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

    def _woken(self, _events: int) -> None:
        os.read(self._wakeup, 65536)
