"""A flag that a signal handler may set."""

from kvs.concurrency.waiters import Waiters


class Flag:
    """A flag that is set once and stays set. Any thread, signal handler or finalizer.

    Replaces `threading.Event`, whose lock is not reentrant: a handler that calls `set` within `set`
    of the same thread would deadlock.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._waiters = Waiters()

    def is_set(self) -> bool:
        """Return whether the flag is set."""
        return self._is_set

    def set(self) -> None:
        """Set the flag, and wake every thread that waits for it."""
        self._is_set = True
        self._waiters.notify_all()

    def wait(self, seconds: float | None = None) -> bool:
        """Block until the flag is set, at most `seconds`; return whether it is.

        Raises:
            InheritedByForkError: the flag is not set, and this process is a forked child.

        """
        return self._waiters.wait_for(self.is_set, seconds)
