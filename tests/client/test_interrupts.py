"""Exceptions and nested calls at every bytecode of a session's methods, and at random instants."""

import contextlib
import gc
import itertools
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kvs
from kvs.client.session import Session, connect
from kvs.errors import SessionClosedError
from tests.cli.test_serve import output, serving
from tests.client.test_session import in_thread
from tests.helpers import SECONDS, until
from tests.opcodes import Interrupted, at_opcode, raise_interrupted
from tests.server.raw_client import Place, Served

pytestmark = pytest.mark.slow


@pytest.fixture
def process(runtime: Path) -> Iterator[Place]:
    """A server in its own process."""
    with serving("--log-level", "error") as place:
        output(place, b"READ [a]\n")
        yield place


UNRAISABLE = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""For tests that raise exceptions in finalizers, where no caller can catch them."""

LONG = b"#" * 100_000 + b"\nREAD [a]\n"
"""A script that needs several write(2) calls."""


REQUESTS: dict[str, Callable[[Session], object]] = {
    "read": lambda session: session.read(["a"]),
    "long": lambda session: session.execute(LONG),
    "subscribe": lambda session: session.subscribe("a"),
}


def interrupt_everywhere(
    work: Callable[[], object], check: Callable[[int], object], step: int = 1
) -> int:
    """Interrupt `work` at every `step`-th bytecode, call `check` after each; return the count."""
    for number in itertools.count(0, step):
        with contextlib.suppress(Interrupted):
            if not at_opcode(number, raise_interrupted, work):
                return number
        check(number)
    raise AssertionError


@pytest.mark.parametrize("request_name", REQUESTS)
def test_session_survives_an_exception_at_any_bytecode(served: Served, request_name: str) -> None:
    with connect(served.path) as session:
        session.write({"a": "1"})

        def check(number: int) -> None:
            session.write({"n": str(number)})
            assert session.read(["n"]) == {b"n": b"%d" % number}

        step = 7 if request_name == "long" else 1
        count = interrupt_everywhere(lambda: REQUESTS[request_name](session), check, step)
        assert count > 300
        assert session._multiplexer.conversation.is_idle


def test_other_threads_survive_an_exception_at_any_bytecode(served: Served) -> None:
    with connect(served.path) as session:
        session.write({"a": "1"})
        session.subscribe("hot")
        taken: list[bytes | None] = []
        taker = in_thread(lambda: taken.extend(c.value for c in session.changes()))
        checked: list[int] = []

        def check(number: int) -> None:
            served.store.write({"hot": str(number)})
            until(lambda: len(taken) == number + 1 or not taker.is_alive())

        def send_requests() -> None:
            checked.append(len(session.read(["a"])))

        def check_with_request(number: int) -> None:
            thread = in_thread(send_requests)
            thread.join(SECONDS)
            assert not thread.is_alive()
            check(number)

        count = interrupt_everywhere(lambda: session.read(["a"]), check_with_request)
        assert checked == [1] * count
        session.close()
        taker.join(SECONDS)
        assert not taker.is_alive()
    assert taken == [b"%d" % number for number in range(count)]


@UNRAISABLE
def test_close_can_be_repeated_after_any_exception(served: Served, runtime: Path) -> None:
    sessions: list[Session] = []

    def work() -> None:
        sessions[-1].close()

    for number in itertools.count(0, 11):
        sessions.append(connect(served.path, id="me"))
        try:
            if not at_opcode(number, raise_interrupted, work):
                break
        except Interrupted:
            sessions[-1].close()
        assert list(runtime.iterdir()) == []
        with pytest.raises(SessionClosedError, match="the session is closed"):
            sessions[-1].read(["a"])
        del sessions[:]
    assert number > 500
    until(lambda: served.server.sessions == 0)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@UNRAISABLE
def test_connect_cleans_up_after_an_exception_at_any_bytecode(
    served: Served, runtime: Path
) -> None:
    def work() -> None:
        connect(served.path, id="me").close()

    for number in itertools.count(0, 11):
        with contextlib.suppress(Interrupted):
            if not at_opcode(number, raise_interrupted, work):
                break
        assert not runtime.exists() or list(runtime.iterdir()) == []
    assert number > 1000
    until(lambda: served.server.sessions == 0)


# Nested calls.


@pytest.mark.parametrize("request_name", REQUESTS)
def test_request_within_a_request_at_any_bytecode_succeeds(
    served: Served, request_name: str
) -> None:
    with connect(served.path) as session:
        session.write({"a": "1"})
        expected = REQUESTS[request_name](session)
        count = 0

        def inner() -> None:
            session.write({"n": str(count)})
            assert session.read(["n"]) == {b"n": b"%d" % count}

        def outer() -> None:
            got.append(REQUESTS[request_name](session))

        got: list[object] = []
        step = 7 if request_name == "long" else 1
        while at_opcode(count, inner, outer):
            count += step
        assert count > 300
        if request_name != "subscribe":
            assert all(one == expected for one in got)


def test_request_within_a_wait_for_changes_succeeds(served: Served) -> None:
    with connect(served.path) as session:
        session.subscribe("a")
        taken: list[bytes | None] = []
        count = 0

        def inner() -> None:
            session.write({"a": str(count)})

        def outer() -> None:
            taken.extend(change.value for change in itertools.islice(session.changes(0.1), 1))

        taking = 0
        while at_opcode(taking * 5, inner, outer):
            taking += 1
            count += 1
        taken += [change.value for change in session.changes(0)]
        assert taken == [b"%d" % number for number in range(count)]


def test_close_within_a_request_at_any_bytecode_succeeds(served: Served, runtime: Path) -> None:
    for number in itertools.count(0, 3):
        session = connect(served.path)
        with contextlib.suppress(SessionClosedError):
            if not at_opcode(number, session.close, lambda: session.read(["a"])):  # noqa: B023
                session.close()
                break
        assert list(runtime.iterdir()) == []
    assert number > 300


def test_finalizers_can_use_the_session_in_any_collection(served: Served) -> None:
    with connect(served.path) as session:
        used: list[int] = []

        class Cycle:
            def __init__(self) -> None:
                self.itself = self

            def __del__(self) -> None:
                number = len(used)
                used.append(number)
                session.write({"n": str(number)})
                assert session.read(["n"]).keys() == {b"n"}

        threshold = gc.get_threshold()
        gc.set_threshold(1)
        try:
            for number in range(100):
                Cycle()
                session.write({"k": str(number)})
                Cycle()
                assert session.read(["k"]) == {b"k": b"%d" % number}
        finally:
            gc.set_threshold(*threshold)
        gc.collect()  # the remaining cycles, while the session is open
        assert len(used) == 200


# Signals at random instants.


@contextlib.contextmanager
def signals(handler: Callable[[], object], max_seconds: float) -> Iterator[None]:
    """Call `handler` from a signal handler at random instants, at most `max_seconds` apart."""

    def again(*_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, max_seconds))
        handler()

    before = signal.signal(signal.SIGALRM, again)
    signal.setitimer(signal.ITIMER_REAL, max_seconds)
    try:
        yield
    finally:
        while True:
            with contextlib.suppress(Interrupted):
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, before)
                break


def repeat(work: Callable[[], object], seconds: float) -> None:
    """Call `work` repeatedly for `seconds`, also after an `Interrupted`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(Interrupted):
            while time.monotonic() < deadline:
                with contextlib.suppress(Interrupted):
                    work()


def storm(served: Place, seconds: float) -> int:
    """Interrupt requests and waits of one thread while another sends requests; return the count."""
    interrupted = 0
    with connect(served.path) as session, connect(served.path) as other:
        session.subscribe("hot")
        errors: list[BaseException] = []
        stop = threading.Event()

        def send_requests() -> None:
            try:
                for number in itertools.takewhile(lambda _: not stop.is_set(), itertools.count()):
                    session.write({"t": str(number)})
                    assert session.read(["t"]) == {b"t": b"%d" % number}
            except BaseException as error:  # noqa: BLE001  (asserted below)
                errors.append(error)

        def work() -> None:
            session.write({"n": "1"})
            session.execute(LONG)
            list(session.changes(0.001))

        def interrupt() -> None:
            nonlocal interrupted
            interrupted += 1
            raise Interrupted

        thread = in_thread(send_requests)
        with signals(interrupt, 0.002):
            repeat(lambda: repeat(work, seconds), seconds)
        stop.set()
        thread.join(SECONDS)
        assert not thread.is_alive()
        assert not errors
        assert list(session.changes(0)) == []
        other.write({"hot": "1"})
        assert next(session.changes(SECONDS)) == kvs.Change(b"hot", b"1")
    return interrupted


def storm_of_calls(served: Place, seconds: float) -> int:
    """Use a session in a signal handler while the same thread uses it; return the count."""
    calls = 0
    with connect(served.path) as session:

        def handle() -> None:
            nonlocal calls
            calls += 1
            key = f"h{calls}"
            session.write({key: "1"})
            assert session.read([key]) == {key.encode(): b"1"}

        def work() -> None:
            number = b"%d" % time.monotonic_ns()
            session.write({"k": number})
            assert session.read(["k"]) == {b"k": number}
            assert list(session.changes(0.001)) == []

        with signals(handle, 0.02):
            repeat(work, seconds)
    return calls


def test_session_survives_a_storm_of_exceptions(process: Place) -> None:
    assert storm(process, 2.0) > 100


def test_session_survives_a_storm_of_handler_calls(process: Place) -> None:
    assert storm_of_calls(process, 2.0) > 50


@pytest.mark.stress
def test_session_survives_a_long_storm_of_exceptions(process: Place) -> None:
    assert storm(process, 60.0) > 5000


@pytest.mark.stress
def test_session_survives_a_long_storm_of_handler_calls(process: Place) -> None:
    assert storm_of_calls(process, 60.0) > 2000


def test_close_in_a_signal_handler_ends_a_waiting_request(served: Served) -> None:
    session = connect(served.path)
    before = signal.signal(signal.SIGALRM, lambda *_: session.close())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(SessionClosedError, match="the session is closed"):
            session.execute("WAIT 3600000")
    finally:
        signal.signal(signal.SIGALRM, before)
