"""The pool of workers: work in order, an end by `close` or `stop`, defects, too few threads."""

import itertools
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import NoReturn

import pytest

from kvs.errors import ThreadStartError
from kvs.jobs.pool import WorkerPool
from kvs.settings import Settings
from kvs.store.core import StoreCore
from tests.helpers import SECONDS
from tests.opcodes import at_opcode


@contextmanager
def pool_of(workers: int) -> Iterator[WorkerPool]:
    """Yield a started pool; stop it at the end, and wait for its threads."""
    pool = WorkerPool(StoreCore(), Settings(workers, 1), lambda _: None)
    pool.start(workers)
    try:
        yield pool
    finally:
        pool.stop()
        assert pool.wait(SECONDS)


def test_one_worker_runs_work_in_order() -> None:
    done: list[int] = []
    with pool_of(1) as pool:
        for number in range(20):
            pool.add(partial(done.append, number))
        pool.close()
        assert pool.wait(SECONDS)
    assert done == list(range(20))


def test_workers_run_side_by_side() -> None:
    barrier = threading.Barrier(3)

    def meet() -> None:
        barrier.wait(SECONDS)

    with pool_of(3) as pool:
        for _ in range(3):
            pool.add(meet)
        pool.close()
        assert pool.wait(SECONDS)
    assert (pool.internal_error, barrier.broken) == (None, False)


def test_stopped_pool_finishes_running_work_alone() -> None:
    running, go_on, done = threading.Event(), threading.Event(), list[str]()

    def work() -> None:
        running.set()
        go_on.wait(SECONDS)
        done.append("first")

    with pool_of(1) as pool:
        pool.add(work)
        pool.add(lambda: done.append("second"))
        assert running.wait(SECONDS)
        pool.stop()
        assert (pool.wait(0), pool.stopping.is_set()) == (False, True)
        go_on.set()
        assert pool.wait(SECONDS)
    assert done == ["first"]
    assert not pool.backup_slots.acquire()


def test_exception_of_work_stops_the_pool() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pool_of(2) as pool:
        pool.add(fail)
        assert pool.wait(SECONDS)
    assert isinstance(pool.internal_error, ZeroDivisionError)
    assert pool.stopping.is_set()


def test_first_of_several_defects_is_kept() -> None:
    with pool_of(1) as pool:
        pool.fail(ZeroDivisionError())
        pool.fail(OSError())
    assert isinstance(pool.internal_error, ZeroDivisionError)


@pytest.mark.parametrize("given", [0, 1, 2])
def test_pool_works_with_as_many_threads_as_it_gets(
    monkeypatch: pytest.MonkeyPatch, given: int
) -> None:
    start, started = threading.Thread.start, list[threading.Thread]()

    def start_some(thread: threading.Thread) -> None:
        if len(started) == given:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_some)
    done: list[int] = []
    with ExitStack() as stack:
        if not given:
            stack.enter_context(pytest.raises(ThreadStartError))
        pool = WorkerPool(StoreCore(), Settings(4, 1), lambda _: None)
        for number in range(5):
            pool.add(partial(done.append, number))
        pool.close()
        pool.start(4)
        assert pool.wait(SECONDS)
    assert sorted(done) == (list(range(5)) if given else [])
    assert len(started) == given


def test_stop_may_interrupt_stop_at_any_bytecode() -> None:
    for number in itertools.count():
        with pool_of(2) as pool:
            is_interrupted = at_opcode(number, pool.stop, pool.stop, ("/kvs/", "/threading.py"))
            assert pool.wait(SECONDS)
        if not is_interrupted:
            break
    assert number > 10


def test_error_at_the_start_of_a_worker_ends_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def failing(thread: threading.Thread) -> None:
        if thread.name == "kvs-job-2":
            raise MemoryError
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", failing)
    with pool_of(3) as pool:
        assert pool.wait(SECONDS)
    assert isinstance(pool.internal_error, MemoryError)


def test_error_of_the_store_at_the_start_ends_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> NoReturn:
        raise MemoryError

    monkeypatch.setattr(StoreCore, "on_failure", fail)
    with pool_of(1) as pool:
        assert pool.wait(SECONDS)
    assert isinstance(pool.internal_error, MemoryError)
