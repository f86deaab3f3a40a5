"""The event loop: timers, descriptors, and calls from other threads."""

import os
import signal
import threading
from collections.abc import Iterator
from functools import partial

import pytest

from kvs.server.loop import HUP, IN, OUT, EventLoop
from tests.helpers import SECONDS, until
from tests.server.raw_client import read_within


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    one = EventLoop()
    yield one
    one.close()


def test_calls_from_other_threads_run_in_order_and_wake_loop(loop: EventLoop) -> None:
    called: list[int] = []

    def call() -> None:
        for number in range(9):
            loop.call_soon_threadsafe(partial(called.append, number))

    ask = threading.Thread(target=call)
    ask.start()
    while len(called) < 9:
        loop.run_once()
    ask.join(SECONDS)
    assert called == list(range(9))


@pytest.mark.slow
def test_many_calls_before_a_turn_all_run_in_order(loop: EventLoop) -> None:
    called: list[int] = []
    for number in range(100_000):
        loop.call_soon_threadsafe(partial(called.append, number))
    while len(called) < 100_000:
        loop.run_once()
    assert called == list(range(100_000))


def test_single_calls_always_wake_the_loop(loop: EventLoop) -> None:
    count = 1_000
    over: list[bool] = []

    def call() -> None:
        called = threading.Semaphore(0)
        for _ in range(count):
            loop.call_soon_threadsafe(called.release)
            if not called.acquire(timeout=SECONDS):
                return
        loop.call_soon_threadsafe(lambda: over.append(True))

    loop.call_later(2 * SECONDS, lambda: over.append(False))
    ask = threading.Thread(target=call)
    ask.start()
    while not over:
        loop.run_once()
    ask.join(SECONDS)
    assert over == [True]


def test_call_just_before_the_wait_wakes_the_loop(
    loop: EventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    look = loop._seconds_to_wait

    def look_and_be_called() -> float | None:
        seconds = look()
        monkeypatch.undo()
        loop.call_soon_threadsafe(lambda: called.append("in time"))
        return seconds

    loop.call_later(SECONDS, lambda: called.append("late"))
    loop.call_soon_threadsafe(lambda: None)
    loop.run_once()  # so that it has been at work before
    monkeypatch.setattr(loop, "_seconds_to_wait", look_and_be_called)
    loop.run_once()
    assert called == ["in time"]


def test_timers_fire_in_order_and_cancelled_ones_never(loop: EventLoop) -> None:
    called: list[str] = []
    loop.call_later(0.03, lambda: called.append("late"))
    loop.call_later(0.01, lambda: called.append("early"))
    loop.call_later(0.02, lambda: called.append("never")).cancel()
    while len(called) < 2:
        loop.run_once()
    assert called == ["early", "late"]


def test_cancelled_timers_are_swept_before_they_are_due(loop: EventLoop) -> None:
    called: list[int] = []
    for number in range(100):
        loop.call_later(0.001 * number, partial(called.append, number))
    for _ in range(10_000):
        loop.call_later(1e7, lambda: called.append(-1)).cancel()
    assert len(loop._timers) < 500
    while len(called) < 100:
        loop.run_once()
    assert called == list(range(100))


def test_callback_unregistered_in_the_same_turn_is_not_called(loop: EventLoop) -> None:
    ends = [os.pipe() for _ in range(2)]
    called: list[int] = []

    def ready(reader: int) -> None:
        called.append(reader)
        for other, _ in ends:
            loop.unregister(other)

    for reader, writer in ends:
        os.write(writer, b"x")
        loop.register(reader, IN, lambda _, reader=reader: ready(reader))  # type: ignore[misc]
    loop.run_once()
    assert len(called) == 1
    for end in sum(ends, ()):
        os.close(end)


def test_reused_descriptor_gets_no_event_of_the_closed_one(
    loop: EventLoop,
) -> None:
    ends = [os.pipe() for _ in range(2)]
    new: list[int] = []
    events: list[int] = []

    def ready(_: int) -> None:
        for reader, _writer in ends:
            loop.unregister(reader)
            os.close(reader)
        new.extend(os.pipe() + os.pipe())
        for end in new[::2]:
            loop.register(end, IN, events.append)

    for reader, writer in ends:
        loop.register(reader, IN, ready)
        os.close(writer)
    loop.run_once()
    assert {reader for reader, _ in ends} <= set(new)
    assert events == []
    os.write(new[1], b"x")
    loop.run_once()
    assert events == [IN]
    for end in new[::2]:
        loop.unregister(end)
    for end in new:
        os.close(end)


def test_modify_changes_events_and_hup_is_always_reported(loop: EventLoop) -> None:
    reader, writer = os.pipe()
    events: list[int] = []
    loop.register(reader, 0, events.append)
    loop.register(writer, OUT, events.append)
    loop.run_once()
    assert events == [OUT]
    loop.unregister(writer)
    os.close(writer)
    loop.run_once()
    assert events == [OUT, HUP]
    loop.unregister(reader)
    os.close(reader)


def test_call_after_close_does_nothing() -> None:
    loop = EventLoop()
    loop.close()
    others = [os.pipe2(os.O_NONBLOCK) for _ in range(4)]  # they have the numbers that it had
    loop.call_soon_threadsafe(lambda: None)
    for reader, writer in others:
        with pytest.raises(BlockingIOError):
            os.read(reader, 1)
        os.close(reader)
        os.close(writer)


def test_signal_handlers_may_schedule_calls_at_any_time(loop: EventLoop) -> None:
    called: list[int] = []
    handled, tell = os.pipe()  # a handler may be called within a lock that this thread holds
    begun: list[int] = []
    over = threading.Event()

    def handle(*_: object) -> None:
        loop.call_soon_threadsafe(lambda: called.append(0))
        begun.append(0)
        os.write(tell, b"x")

    def storm() -> None:
        while not over.is_set():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR2)
            read_within(handled, 1)

    before = signal.signal(signal.SIGUSR2, handle)
    thread = threading.Thread(target=storm)
    thread.start()
    try:
        until(lambda: begun)
        for _ in range(3000):
            loop.call_soon_threadsafe(lambda: called.append(1))
            loop.run_once()
    finally:
        over.set()
        thread.join(SECONDS)
        signal.signal(signal.SIGUSR2, before)
        os.close(handled)
        os.close(tell)
    loop.call_soon_threadsafe(lambda: None)
    loop.run_once()
    assert called.count(1) == 3000
    assert called.count(0) > 0


def test_yield_interpreter_blocks_for_a_bounded_time(loop: EventLoop) -> None:
    order: list[str] = []
    serving, waited = threading.Event(), threading.Event()

    def serve() -> None:
        serving.set()
        assert waited.wait(SECONDS)
        order.append("served")

    def other() -> None:
        assert serving.wait(SECONDS)
        loop.yield_interpreter(0.001)  # the loop is busy for longer
        waited.set()
        loop.yield_interpreter(SECONDS)
        order.append("other")

    thread = threading.Thread(target=other)
    thread.start()
    loop.call_soon_threadsafe(serve)
    loop.run_once()
    thread.join(SECONDS)
    assert order == ["served", "other"]


def test_turn_is_over_after_its_time(loop: EventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    for seconds in (SECONDS, 0.0):
        monkeypatch.setattr("kvs.server.loop.TURN_SECONDS", seconds)
        loop.call_soon_threadsafe(lambda: seen.append(loop.is_turn_over))
        loop.run_once()
    assert seen == [False, True]
