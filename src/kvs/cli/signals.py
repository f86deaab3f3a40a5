"""Signals that end a program after it has cleaned up, at any point of its work."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that end a client."""


@contextmanager
def keyboard_interrupt_on_sigint() -> Iterator[None]:
    """Make SIGINT raise KeyboardInterrupt, as Python's default is, if it would kill the process."""
    is_default = signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    if is_default:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if is_default:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


class Interrupted(SystemExit):
    """One of `SIGNALS` has arrived; the code is the exit status, 128 plus the signal's number."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Make the first of `SIGNALS` raise `Interrupted`; ignore further ones while it propagates.

    A signal that was ignored when the program started, as by nohup(1), stays ignored.

    Threads: for the main thread, in which alone Python runs signal handlers.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def interrupt(number: int, _frame: FrameType | None) -> None:
        ignore_signals()
        raise Interrupted(128 + number)

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_signals() -> None:
    """Ignore `SIGNALS` from now on, while the program cleans up and exits."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
