"""A session as programs use it: requests, changes, threads, asyncio, and its end."""

import asyncio
import os
import select
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kvs
from kvs.client import transport
from kvs.client.session import Session, connect
from kvs.errors import (
    InvalidValueError,
    InvalidWordError,
    RequestRejectedError,
    ScriptTooLargeError,
    SessionClosedError,
)
from kvs.protocol import frames
from kvs.store.watch import Change
from tests.client.scripted_server import Peer, scripted_server
from tests.helpers import SECONDS, until
from tests.server.raw_client import Served
from tests.strategies import values, words


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_session_is_public() -> None:
    assert (kvs.connect, kvs.Session, kvs.Change) == (connect, Session, Change)
    with pytest.raises(AttributeError):
        kvs.nothing  # noqa: B018


def test_requests_return_what_the_server_replies(served: Served) -> None:
    with connect(served.path) as session:
        assert session.subscribe("a") is False
        session.write([("a", "1"), (b"b", b"2")])
        session.write({"c": "3"})
        session.write({})
        assert session.subscribe(b"a") is True
        assert session.read(["c", "a", "none", "a"]) == {b"a": b"1", b"c": b"3"}
        assert session.read([]) == {}
        assert session.delete(["b", "b", "x"]) == [b"b", b"x"]
        assert session.delete(["c"]) == []
        assert session.delete([]) == []
        assert session.unsubscribe("a") is True
        assert session.unsubscribe("a") is False
        done = session.execute("SHOW\nfoo\n")
        assert (done.result, done.output) == (1, b"(a, 1)\n")
        assert done.errors.startswith(b"2:1: 'foo' is not a command")
    assert session.closed


def test_invalid_words_are_refused_before_sending(served: Served) -> None:
    with connect(served.path) as session:
        long = "x" * 1025
        refused: list[Callable[[], object]] = [
            lambda: session.subscribe("x" * 41),
            lambda: session.subscribe("a\0"),
            lambda: session.unsubscribe(""),
            lambda: session.read(["a", long]),
            lambda: session.delete([long]),
            lambda: session.write({long: "1"}),
            lambda: session.write({"a": "1"}, if_={long: None}),
            lambda: session.write({"a": "1"}, if_={"b": "1", b"b": "2"}),
            lambda: session.add({long: 1}),
            lambda: session.count(long),
            lambda: session.clear(long),
            lambda: session.items(after=long),
        ]
        for use in refused:
            with pytest.raises(InvalidWordError):
                use()
        with pytest.raises(TypeError):
            session.read("a")
        with pytest.raises(ScriptTooLargeError, match="a server takes at most 1048576"):
            session.execute(b"#" * (frames.MAX_SCRIPT_BYTES + 1))
        assert served.store.revision == 0
        assert session.execute(b"#" * frames.MAX_SCRIPT_BYTES).result == 0


def test_words_may_have_any_bytes(served: Served) -> None:
    pairs = {b"two words": b'say "hi",\n', b"\xff)": b"\0", b"a": b"", b"KVSERROR": b"KVSERROR"}
    with connect(served.path) as session:
        for key in pairs:
            assert session.subscribe(key) is False
        session.write(pairs)
        assert session.read([*pairs, "none"]) == pairs
        assert session.items() == sorted(pairs.items())
        changes = {change.key: change.value for change in session.changes(0)}
        assert changes == pairs | {b"\xff)": b"CHANGED"}
        assert session.delete([*pairs, "two words"]) == [b"two words"]


def test_conditions_counters_and_prefixes_are_those_of_the_library(served: Served) -> None:
    with connect(served.path) as session:
        assert session.write({"lock": "me"}, if_={"lock": None}, for_=60) is True
        assert session.write({"lock": "you"}, if_={"lock": None}) is False
        assert session.write({}, if_={"lock": "me"}) is True
        assert session.write({}, if_={"lock": "you"}) is False
        assert session.add({"n": 2, "m": -1}) == {b"n": 2, b"m": -1}
        assert session.add([("n", 1), ("n", 1)], for_=60) == {b"n": 4}
        assert session.add({}) == {}
        with pytest.raises(InvalidValueError) as caught:
            session.add({"n": 1, "lock": 1})
        assert (caught.value.key, caught.value.value) == (b"lock", b"me")
        assert session.items() == [(b"lock", b"me"), (b"m", b"-1"), (b"n", b"4")]
        assert session.items(after="lock", limit=1) == [(b"m", b"-1")]
        assert session.items(prefix="n") == [(b"n", b"4")]
        assert (session.count(), session.count("l")) == (3, 1)
        assert (session.clear("l"), session.clear(""), session.count()) == (1, 2, 0)
        with pytest.raises(ValueError, match="limit"):
            session.items(limit=-1)
        with pytest.raises(InvalidWordError, match="a prefix is at most 1024 bytes"):
            session.count("x" * 1025)
        with pytest.raises(InvalidWordError, match="a key is at most 1024 bytes"):
            session.items(after="x" * 1025)
        with pytest.raises(TypeError):
            session.clear(None)  # type: ignore[arg-type]
    lines = served.store.execute(b"SHOW UNTIL").output
    assert lines == b""


def test_rejected_request_raises_with_the_reason(runtime: Path, tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.connected().read(5)
        peer.send("res", frames.encode_execute_reply_header(1, 0, 8) + b"1:1: no\n")
        assert peer.read(len(b"WRITE [(a,1)]\n\x02")).endswith(b"\x02")
        peer.send("res", frames.encode_reply(frames.DISCONNECT, 0))

    with (
        scripted_server(tmp_path, script) as fifo,
        connect(fifo) as session,
        pytest.raises(RequestRejectedError, match="the server rejected the request: 1:1: no"),
    ):
        session.write({"a": "1"})


def test_written_pairs_are_read_back(served: Served) -> None:
    with connect(served.path) as session:

        @settings(max_examples=50, deadline=None)
        @given(st.dictionaries(words, values, min_size=1, max_size=8))
        def check(pairs: dict[bytes, bytes]) -> None:
            session.write(pairs)
            assert session.read(pairs) == pairs
            assert session.delete([*pairs, *pairs]) == sorted(pairs)

        check()


def test_scripts_and_replies_may_exceed_a_pipe(served: Served) -> None:
    script = b"".join(b"WRITE [(key%06d,%b)]\n" % (n, b"v" * 20) for n in range(20_000))
    with connect(served.path) as session:
        assert session.execute(script).result == 0
        assert session.execute("SHOW\n" * 5).output.count(b"\n") == 100_000


# Changes.


def test_changes_arrive_in_order(served: Served) -> None:
    with connect(served.path) as session:
        session.subscribe("a")
        for number in range(3000):
            served.store.write({"a": str(number), "b": "x"})
        served.store.delete(["a"])
        changes = session.changes()
        assert [next(changes).value for _ in range(3000)] == [b"%d" % n for n in range(3000)]
        assert next(changes) == Change(b"a", None)
        assert list(session.changes(0)) == []


def test_timeout_ends_the_iterator_but_not_the_session(served: Served) -> None:
    with connect(served.path) as session:
        session.subscribe("a")
        began = time.monotonic()
        assert list(session.changes(0.05)) == []
        assert time.monotonic() - began >= 0.05
        served.store.write({"a": "1"})
        assert next(session.changes(SECONDS)).value == b"1"


@pytest.mark.parametrize("seconds", [1e10, float("inf")])
def test_timeout_may_exceed_the_maximum_of_poll(served: Served, seconds: float) -> None:
    with kvs.connect(served.path) as session:
        session.subscribe("a")
        writer = threading.Timer(0.05, lambda: served.store.write({"a": "1"}))
        writer.start()
        assert next(session.changes(seconds)) == Change(b"a", b"1")
        writer.join()


def test_changes_are_read_while_a_request_waits(runtime: Path, tmp_path: Path) -> None:
    """The server writes more notifications than a pipe holds before it replies."""
    count = 10_000

    def script(peer: Peer) -> None:
        peer.connected().read(42)
        for number in range(count):
            peer.send("not", frames.encode_notification(b"k", b"%d" % number))
        peer.send("res", frames.encode_reply(frames.SUBSCRIBE, 1))
        peer.read(1)
        peer.send("res", frames.encode_reply(frames.DISCONNECT, 0))

    with scripted_server(tmp_path, script) as fifo, connect(fifo) as session:
        assert session.subscribe("k")
        assert [c.value for c in session.changes(0)] == [b"%d" % number for number in range(count)]


def test_too_many_unread_changes_end_the_session(
    runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "MAX_UNREAD_CHANGES", 100)

    def script(peer: Peer) -> None:
        peer.connected().read(42)
        peer.send("not", frames.encode_notification(b"k", b"v") * 200)
        assert peer.read(1) == b""

    with scripted_server(tmp_path, script) as fifo, connect(fifo) as session:
        with pytest.raises(SessionClosedError, match="more than 100 changes"):
            session.subscribe("k")
        assert len([next(session.changes()) for _ in range(101)]) == 101


def test_threads_can_share_a_session(served: Served, often_switching: None) -> None:
    with connect(served.path) as session:
        session.subscribe("hot")
        taken: list[Change] = []
        errors: list[BaseException] = []

        def take() -> None:
            try:
                taken.extend(session.changes())
            except BaseException as error:  # noqa: BLE001  (asserted below)
                errors.append(error)

        def ask(number: int) -> None:
            try:
                for turn in range(200):
                    key = f"k{number}"
                    session.write({key: str(turn), "hot": f"{number}.{turn}"})
                    assert session.read([key]) == {key.encode(): str(turn).encode()}
            except BaseException as error:  # noqa: BLE001  (asserted below)
                errors.append(error)

        takers = [in_thread(take) for _ in range(2)]
        askers = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()
        until(lambda: len(taken) >= 800 or errors)
        session.close()
        for taker in takers:
            taker.join(SECONDS)
            assert not taker.is_alive()
    assert not errors
    values_taken = sorted(change.value or b"" for change in taken)
    assert values_taken == sorted(b"%d.%d" % (n, turn) for n in range(4) for turn in range(200))


def test_waiting_thread_does_not_block_another(served: Served) -> None:
    with connect(served.path) as session:
        session.subscribe("a")
        got: list[Change] = []
        waiting = in_thread(lambda: got.append(next(session.changes())))
        for number in range(20):
            session.write({"b": str(number)})
        session.write({"a": "1"})
        waiting.join(SECONDS)
        assert got == [Change(b"a", b"1")]


def test_fileno_is_readable_when_a_change_arrives(served: Served) -> None:
    with connect(served.path) as session:
        session.subscribe("a")
        poll = select.poll()
        poll.register(session.fileno(), select.POLLIN)
        assert poll.poll(0) == []
        served.store.write({"a": "1"})
        assert poll.poll(SECONDS * 1000)
        assert [change.value for change in session.changes(0)] == [b"1"]
        assert poll.poll(0) == []
    with pytest.raises(SessionClosedError):
        session.fileno()


# asyncio.


def test_asyncio_iterates_over_changes(served: Served) -> None:
    async def main() -> list[bytes | None]:
        with connect(served.path) as session:
            await asyncio.to_thread(session.subscribe, "a")

            async def write() -> None:
                for number in range(100):
                    await asyncio.to_thread(session.write, {"a": str(number)})

            writing = asyncio.create_task(write())
            got = []
            async for change in session:
                got.append(change.value)
                if len(got) == 100:
                    break
            await writing
            return got

    assert asyncio.run(main()) == [b"%d" % number for number in range(100)]


def test_asyncio_waits_without_using_the_processor(served: Served) -> None:
    async def main() -> None:
        with connect(served.path) as session:
            session.subscribe("a")
            changes = aiter(session)
            taking = asyncio.ensure_future(anext(changes))
            used: list[float] = []
            while not used or used[-1] >= 0.1:
                assert len(used) < 10, used  # a busy loop uses the processor in every interval
                before = time.thread_time()
                await asyncio.wait({taking}, timeout=0.2)
                used.append(time.thread_time() - before)
            served.store.write({"a": "1"})
            assert (await asyncio.wait_for(taking, SECONDS)).value == b"1"
            waiting = asyncio.ensure_future(anext(changes))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait({waiting})

    asyncio.run(main())


def test_asyncio_iteration_ends_with_the_session(served: Served) -> None:
    async def take(session: Session) -> list[Change]:
        return [change async for change in session]

    async def main() -> None:
        session = connect(served.path)
        session.subscribe("a")
        taking = asyncio.create_task(take(session))
        await asyncio.sleep(0)
        served.store.write({"a": "1"})
        await asyncio.to_thread(session.close)
        assert await asyncio.wait_for(taking, SECONDS) == [Change(b"a", b"1")]
        session = connect(served.path)
        taking = asyncio.create_task(take(session))
        await asyncio.sleep(0)
        served.server.disconnect_all()
        with pytest.raises(SessionClosedError):
            await asyncio.wait_for(taking, SECONDS)
        session.close()

    asyncio.run(main())


# The end.


def test_changes_can_be_taken_after_the_server_ends_a_session(served: Served) -> None:
    with connect(served.path) as session:
        session.subscribe("a")
        served.store.write({"a": "1"})
        served.server.disconnect_all()
        changes = session.changes()
        assert next(changes) == Change(b"a", b"1")
        with pytest.raises(SessionClosedError, match="the server closed the session"):
            next(changes)
        for request in (lambda: session.subscribe("a"), lambda: session.execute("SHOW")):
            with pytest.raises(SessionClosedError, match="the server closed the session"):
                request()


def test_waiting_threads_are_woken_when_the_session_ends(served: Served) -> None:
    session = connect(served.path)
    errors: list[SessionClosedError] = []

    def wait(work: Callable[[], object]) -> None:
        try:
            work()
        except SessionClosedError as error:
            errors.append(error)

    threads = [
        in_thread(lambda: wait(lambda: next(session.changes()))),
        in_thread(lambda: wait(lambda: session.execute("WAIT 3600000"))),
    ]
    until(lambda: not session._multiplexer.conversation.is_idle)
    served.server.disconnect_all()
    for thread in threads:
        thread.join(SECONDS)
    assert len(errors) == 2
    session.close()


def test_close_wakes_waiting_threads(served: Served) -> None:
    session = connect(served.path)
    got: list[object] = []

    def wait() -> None:
        try:
            got.append(session.execute("WAIT 3600000"))
        except SessionClosedError as error:
            got.append(str(error))

    threads = [in_thread(wait), in_thread(lambda: got.append(list(session.changes())))]
    until(lambda: not session._multiplexer.conversation.is_idle)
    session.close()
    for thread in threads:
        thread.join(SECONDS)
    assert sorted(map(str, got)) == ["[]", "the session is closed"]


def test_closed_session_yields_its_last_changes(served: Served) -> None:
    session = connect(served.path)
    session.subscribe("a")
    served.store.write({"a": "1"})
    session.close()
    session.close()
    assert list(session.changes()) == [Change(b"a", b"1")]
    with pytest.raises(SessionClosedError, match="the session is closed"):
        session.read(["a"])
    until(lambda: served.server.sessions == 0)


def test_close_returns_without_an_answer(
    runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvs.client.multiplexer.DISCONNECT_TIMEOUT_SECONDS", 0.05)
    closed = threading.Event()

    def script(peer: Peer) -> None:
        peer.connected()
        assert closed.wait(SECONDS)

    with scripted_server(tmp_path, script) as fifo:
        connect(fifo).close()
        assert list(runtime.iterdir()) == []
        closed.set()


@pytest.mark.parametrize(
    "wrong", [b"\x04\x00", b"\x00\x00", frames.encode_execute_reply_header(0, 0, 0)]
)
def test_unexpected_reply_ends_the_session(runtime: Path, tmp_path: Path, wrong: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.connected().read(42)
        peer.send("res", wrong)
        peer.read(1)

    with (
        scripted_server(tmp_path, script) as fifo,
        connect(fifo) as session,
        pytest.raises(SessionClosedError, match="does not match the request"),
    ):
        session.subscribe("k")


def test_dropped_session_leaves_no_descriptors_or_files(served: Served, runtime: Path) -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    connect(served.path).close()
    until(lambda: served.server.sessions == 0)
    before = open_files()
    with pytest.warns(ResourceWarning, match=f"unclosed session with the pipe '{runtime}/"):
        connect(served.path)
    until(lambda: served.server.sessions == 0)
    until(lambda: open_files() <= before)
    assert list(runtime.iterdir()) == []


def test_interrupted_request_does_not_shift_replies(served: Served) -> None:
    class HandlerError(Exception):
        pass

    with connect(served.path) as session:
        session.write({"a": "1"})
        monitor = session._multiplexer.transport.monitor

        def interrupted() -> select.epoll:
            session._multiplexer.transport.monitor = monitor  # type: ignore[method-assign]
            raise HandlerError

        session._multiplexer.transport.monitor = interrupted  # type: ignore[method-assign]
        with pytest.raises(HandlerError):
            session.read(["b"])
        assert session.read(["a"]) == {b"a": b"1"}
