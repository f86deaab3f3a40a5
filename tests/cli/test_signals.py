"""Signals that end a client: the first raises, further ones are ignored meanwhile."""

import os
import signal
from collections.abc import Iterator

import pytest

from kvs.cli.signals import (
    SIGNALS,
    Interrupted,
    ignore_signals,
    interruptible,
    keyboard_interrupt_on_sigint,
)


@pytest.fixture(autouse=True)
def default_handlers() -> Iterator[None]:
    """Set the default of a program for each of the signals, and restore the handlers."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def handlers() -> set[object]:
    return {signal.getsignal(number) for number in SIGNALS}


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_exits_with_its_status(number: signal.Signals) -> None:
    with pytest.raises(Interrupted) as caught, interruptible():
        os.kill(os.getpid(), number)
    assert caught.value.code == 128 + number
    assert handlers() == {signal.SIG_DFL}


def test_further_signals_do_not_interrupt_the_clean_up() -> None:
    cleaned_up: list[signal.Signals] = []

    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            for number in SIGNALS:
                os.kill(os.getpid(), number)
                cleaned_up.append(number)

    with pytest.raises(Interrupted) as caught, interruptible():
        work()
    assert (tuple(cleaned_up), caught.value.code) == (SIGNALS, 128 + signal.SIGTERM)


def test_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with interruptible():
        os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_ignored_signals_have_no_effect() -> None:
    ignore_signals()
    for number in SIGNALS:
        os.kill(os.getpid(), number)
    assert handlers() == {signal.SIG_IGN}


def test_sigint_raises_only_where_it_would_kill() -> None:
    with pytest.raises(KeyboardInterrupt), keyboard_interrupt_on_sigint():
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with keyboard_interrupt_on_sigint():
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
