"""An event loop whose time a test sets: nothing is called before `pass_time`."""

from collections.abc import Callable

from kvs.server.loop import EventLoop, Timer


class FakeLoop(EventLoop):
    """Calls timers in order as time passes, and functions given by threads in `run_calls`."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.timers: list[tuple[float, Timer]] = []
        self.calls: list[Callable[[], None]] = []

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        timer = Timer(call)
        self.timers.append((self.now + seconds, timer))
        return timer

    def call_soon_threadsafe(self, call: Callable[[], None]) -> None:
        self.calls.append(call)

    def run_calls(self) -> int:
        """Make the calls that wait for the next turn; return their number."""
        calls, self.calls = self.calls, []
        for call in calls:
            call()
        return len(calls)

    def pass_time(self, seconds: float) -> None:
        """Call the timers that are due within `seconds`, each at its time."""
        end = self.now + seconds
        while True:
            waiting = [entry for entry in self.timers if entry[1].call is not None]
            due = min((entry for entry in waiting if entry[0] <= end), key=lambda e: e[0],
                      default=None)  # fmt: skip
            if due is None:
                break
            self.now, timer = due
            self.timers.remove(due)
            call, timer.call = timer.call, None
            assert call is not None
            call()
        self.now = end

    @property
    def waiting(self) -> int:
        """Number of timers that are not cancelled."""
        return sum(timer.call is not None for _, timer in self.timers)
