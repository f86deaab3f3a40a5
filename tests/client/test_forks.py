"""A forked child can neither use the session of its parent nor disturb it."""

import asyncio
import copy
import gc
import os
import pickle
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

import kvs
from kvs.client.session import Session, connect
from kvs.errors import InheritedByForkError, SessionClosedError
from tests.cli.test_serve import output, serving
from tests.client.test_session import in_thread
from tests.helpers import SECONDS, until
from tests.server.raw_client import Place, Served


@pytest.fixture
def process(runtime: Path) -> Iterator[Place]:
    """A server in its own process."""
    with serving() as place:
        output(place, b"READ [a]\n")
        yield place


def in_child(work: Callable[[], object]) -> None:
    """Call `work` in a forked child, and check that it returns within `SECONDS`."""
    child = os.fork()
    if not child:
        status = 1
        try:
            signal.alarm(int(SECONDS))
            work()
            status = 0
        except BaseException as error:  # noqa: BLE001  (shown, and reported by the status)
            os.write(2, f"in the child: {error!r}\n".encode())
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


async def first_change(session: Session) -> object:
    return await anext(aiter(session))


USES: dict[str, Callable[[Session], object]] = {
    "read": lambda session: session.read(["a"]),
    "read nothing": lambda session: session.read([]),
    "write": lambda session: session.write({"a": "2"}),
    "delete": lambda session: session.delete(["a"]),
    "execute": lambda session: session.execute("SHOW\n"),
    "subscribe": lambda session: session.subscribe("a"),
    "unsubscribe": lambda session: session.unsubscribe("a"),
    "changes": lambda session: session.changes(),
    "asyncio": lambda session: asyncio.run(first_change(session)),
    "fileno": lambda session: session.fileno(),
    "with": lambda session: session.__enter__(),
}


def check_refused(session: Session) -> None:
    for use in USES.values():
        with pytest.raises(InheritedByForkError, match=f"process {os.getpid()} is a forked child"):
            use(session)


def test_child_cannot_use_the_session_of_its_parent(process: Place) -> None:
    with connect(process.path) as session:
        session.write({"a": "1"})
        changes = session.changes()

        def work() -> None:
            check_refused(session)
            with pytest.raises(InheritedByForkError):
                next(changes)
            session.close()
            session.close()
            assert session.closed
            check_refused(session)

        in_child(work)
        assert session.read(["a"]) == {b"a": b"1"}


@pytest.mark.slow
@pytest.mark.parametrize("end", ["close", "with", "forget", "exit", "collect"])
def test_closing_in_a_child_leaves_the_session_open(
    process: Place, runtime: Path, end: str
) -> None:
    session = connect(process.path, id="me")
    session.subscribe("a")
    files = sorted(path.name for path in runtime.iterdir())
    assert len(files) == 4

    def work() -> None:
        nonlocal session
        if end == "close":
            session.close()
        elif end == "with":
            with pytest.raises(InheritedByForkError), session:
                pass
            session.__exit__(None, None, None)
        elif end == "exit":
            transport = session._multiplexer.transport
            for finalizer in (session._finalizer, transport._finalizer, transport.pipes._finalizer):
                finalizer()  # as atexit does
        else:
            session = None  # type: ignore[assignment]
            gc.collect()

    in_child(work)
    assert sorted(path.name for path in runtime.iterdir()) == files
    session.write({"a": "1"})
    assert next(session.changes(SECONDS)) == kvs.Change(b"a", b"1")
    with pytest.raises(kvs.ClientIdInUseError):
        connect(process.path, id="me")
    session.close()
    assert list(runtime.iterdir()) == []


def test_child_holds_neither_session_nor_client_id(served: Served) -> None:
    session = connect(served.path, id="me")
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    try:
        session._multiplexer.transport.close()  # as when the parent is killed: without a disconnect
        until(lambda: served.server.sessions == 0)
        connect(served.path, id="me").close()
    finally:
        os.close(writer)
        os.waitpid(child, 0)
        session.close()


def test_fork_does_not_disturb_requests_of_other_threads(
    process: Place, often_switching: None
) -> None:
    with connect(process.path) as session:
        session.subscribe("hot")
        stop = threading.Event()
        errors: list[BaseException] = []

        def use(number: int) -> None:
            try:
                while not stop.is_set():
                    session.write({f"k{number}": "1", "hot": "1"})
                    assert session.read([f"k{number}"])
            except BaseException as error:  # noqa: BLE001  (asserted below)
                errors.append(error)

        threads = [in_thread(partial(use, number)) for number in range(3)]
        threads.append(in_thread(lambda: all(session.changes())))

        def work() -> None:
            check_refused(session)
            session.close()

        for _ in range(30):
            in_child(work)
        stop.set()
        for thread in threads[:3]:
            thread.join(SECONDS)
            assert not thread.is_alive()
        assert not errors
    threads[-1].join(SECONDS)
    assert not threads[-1].is_alive()


def test_fork_in_a_signal_handler_during_a_request_succeeds(served: Served) -> None:
    with connect(served.path) as session:
        children: list[int] = []

        def fork(*_: object) -> None:
            children.append(os.fork())

        before = signal.signal(signal.SIGALRM, fork)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            session.execute("WAIT 300\n")
        except InheritedByForkError:
            os._exit(7)
        finally:
            if children == [0]:
                os._exit(1)
            signal.signal(signal.SIGALRM, before)
        [child] = children
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        session.write({"a": "1"})
        assert session.read(["a"]) == {b"a": b"1"}


def test_child_can_open_its_own_session(process: Place) -> None:
    with connect(process.path) as session:

        def work() -> None:
            with connect(process.path) as own:
                own.write({"child": "1"})

        in_child(work)
        assert session.read(["child"]) == {b"child": b"1"}


# Dropped sessions.


def test_dropped_session_in_a_cycle_is_closed_by_the_collector(
    served: Served, runtime: Path
) -> None:
    session = connect(served.path)
    cycle: list[object] = [session]
    cycle.append(cycle)
    del session, cycle
    with pytest.warns(ResourceWarning, match="unclosed session with the pipe"):
        gc.collect()
    assert list(runtime.iterdir()) == []
    until(lambda: served.server.sessions == 0)


def test_iterator_of_changes_references_its_session(served: Served) -> None:
    session = connect(served.path)
    session.subscribe("a")
    changes = session.changes()
    reference = weakref.ref(session)
    del session
    served.store.write({"a": "1"})
    assert next(changes) == kvs.Change(b"a", b"1")
    with pytest.warns(ResourceWarning):
        del changes
    assert reference() is None


def test_closed_session_is_dropped_without_a_warning(served: Served) -> None:
    session = connect(served.path)
    session.close()
    with pytest.raises(SessionClosedError):
        session.read(["a"])
    del session
    gc.collect()


# Copies.


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_session_cannot_be_copied_or_pickled(
    served: Served, duplicate: Callable[[object], object]
) -> None:
    with connect(served.path) as session:
        with pytest.raises(TypeError, match="cannot copy or pickle a Session"):
            duplicate(session)
        assert session.read(["a"]) == {}
