"""Signals that end a program in good order, whatever it is at."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def keyboard_interrupt_on_sigint() -> Iterator[None]:
    """Have SIGINT raise KeyboardInterrupt, as Python has it, where it would end the process."""
    ends = signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    if ends:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if ends:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


class Interrupted(SystemExit):
    """The first of them has come; the code is the exit status, as a shell tells it."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Have the first signal raise `Interrupted`; further ones do not disturb what that unwinds.

    What was ignored when the program was started, as nohup(1) has it, stays ignored. For the main
    thread, which alone gets signals.
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
    """Ignore them from now on: the program only clears away what is its own, and ends."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
