"""Long scripts: turns, short scripts beside them, limited memory, and the end of the session."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kvs.protocol.requests import Execute
from kvs.server import scheduler, session
from kvs.server.reply_memory import SMALL_REPLY_BYTES, Reservation
from kvs.settings import ServerSettings
from tests.helpers import until
from tests.server.raw_client import SECONDS, Client, Served, serving
from tests.server.test_session import unread

pytestmark = pytest.mark.usefixtures("each_engine")

TABLE = {f"key{number:03}": "v" * 30 for number in range(1000)}
SHOWN = 41 * 1000
"""Bytes that SHOW writes for that table."""

TOTAL = 1 << 20


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as one:
        yield one


@pytest.fixture
def bounded() -> Iterator[Served]:
    """Return a server whose replies are limited to `TOTAL`, with `TABLE` in its store."""
    with serving(ServerSettings(reply_total_bytes=TOTAL)) as one:
        one.store.write(TABLE)
        yield one


@contextlib.contextmanager
def worker_busy(served: Served) -> Iterator[None]:
    """Block the worker until the end."""
    busy, go_on = threading.Event(), threading.Event()

    def work() -> None:
        busy.set()
        go_on.wait(SECONDS)

    served.server._scheduler._worker.submit(work)
    assert busy.wait(SECONDS)
    try:
        yield
    finally:
        go_on.set()


def is_idle(served: Served) -> bool:
    scheduler = served.server._scheduler
    return scheduler._running is None and not scheduler._waiting and scheduler._large is None


def writes(key: bytes, count: int) -> bytes:
    return Execute(
        b"".join(b"WRITE [(%b,%d)]\n" % (key, number) for number in range(count))
    ).encode()


def test_long_scripts_take_turns_and_stay_in_order(served: Served) -> None:
    watcher = Client(served, "w").connected()
    clients = {key: Client(served, key.decode()).connected() for key in (b"a", b"b", b"c")}
    for key in clients:
        watcher.subscribe(key)
    count = 20_000
    with worker_busy(served):
        for key, client in clients.items():
            client.send(writes(key, count))
        until(lambda: len(served.server._scheduler._waiting) == 2)  # and one is with the worker
    seen: dict[bytes, list[int]] = {key: [] for key in clients}
    switches, last = 0, b""
    for _ in range(3 * count):
        key, value = watcher.change()
        seen[key].append(int(value))
        switches += key != last
        last = key
    assert all(numbers == list(range(count)) for numbers in seen.values())
    assert switches > 6
    for client in clients.values():
        assert client.executed() == (0, b"", b"")


def test_short_requests_are_answered_while_long_ones_wait(served: Served) -> None:
    long, other = Client(served, "l").connected(), Client(served, "o").connected()
    with worker_busy(served):
        long.send(writes(b"a", 10_000) + Execute(b"READ [a]\n").encode())
        until(lambda: served.server._scheduler._running)
        for _ in range(100):
            assert other.execute(b"READ [a]\n") == (0, b"[(a,KVSERROR)]\n", b"")
    assert long.executed() == (0, b"", b"")
    assert long.executed() == (0, b"[(a,9999)]\n", b"")


ENDLESS = {
    "empty lines and a SHOW": b"#SHOW\n" + b"\n" * 1_048_570,
    "SHOWs": b"SHOW\n" * 200_000,
    "comments that say SHOW": b"#SHOW\n" * 170_000,
    "WAIT 0": b"WAIT 0\n" * 140_000,
    "BACKUP": b"BACKUP\n" * 140_000,
    "invalid lines": b"x\n" * 520_000,
    "READs": b"READ [a]\n" * 110_000,
}

ENDS: dict[str, Callable[[Served, Client], None]] = {
    "gone": lambda _, client: client.close(),
    "dropped": lambda served, _: served.server.disconnect_all(),
}


@pytest.mark.parametrize("script", ENDLESS.values(), ids=list(ENDLESS))
@pytest.mark.parametrize("end", ENDS.values(), ids=list(ENDS))
def test_any_script_ends_with_its_session(
    served: Served,
    script: bytes,
    end: Callable[[Served, Client], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(session, "FINISH_SECONDS", 0.0)
    monkeypatch.setattr(scheduler, "TURN_SECONDS", 0.0)
    client = Client(served, "c").connected()
    slices = 0
    under_way, ended = threading.Event(), threading.Event()
    real = served.store._core.execute

    def execute(*given: Any, **options: Any) -> object:  # noqa: ANN401
        nonlocal slices
        slices += 1
        if slices == 10:
            under_way.set()
            assert ended.wait(SECONDS)
        return real(*given, **options)

    monkeypatch.setattr(served.store._core, "execute", execute)
    client.send(Execute(script).encode())
    assert under_way.wait(SECONDS)
    end(served, client)
    until(lambda: served.server.sessions == 0)
    ended.set()
    until(lambda: is_idle(served))
    assert slices == 10
    assert "its last requests took too long and were cut off" in caplog.text


def test_script_of_a_gone_client_is_executed_within_the_limit(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "FINISH_SECONDS", SECONDS)
    monkeypatch.setattr(session, "FINISH_ALL_SECONDS", SECONDS)
    client = Client(served, "c").connected()
    client.send(writes(b"a", 10_000))
    client.close()
    until(lambda: served.server.sessions == 0)
    assert served.store.read(["a"]) == {b"a": b"9999"}


def test_stop_does_not_wait_for_scripts() -> None:
    with serving() as served:
        client = Client(served, "c").connected()
        client.send(Execute(ENDLESS["SHOWs"]).encode())
        until(lambda: not is_idle(served))
    assert not is_idle(served)  # the script was still running


# Memory for replies.


@contextlib.contextmanager
def measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Yield the maximum memory that replies took."""
    peak = [0]
    real = Reservation.resize

    def hold(reservation: Reservation, held: int) -> None:
        real(reservation, held)
        peak[0] = max(peak[0], reservation.memory.used)

    with monkeypatch.context() as patched:
        patched.setattr(Reservation, "resize", hold)
        yield peak


def test_replies_over_the_total_are_produced_one_by_one(
    bounded: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = [Client(bounded, f"c{number}").connected() for number in range(6)]
    shows = (TOTAL - 6 * SMALL_REPLY_BYTES) // SHOWN
    with measured(monkeypatch) as peak:
        for client in clients:
            client.send(Execute(b"SHOW\n" * shows).encode())
        got = {}
        readers = [
            threading.Thread(target=lambda one: got.update({one.name: one.executed()}), args=(one,))
            for one in clients
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(SECONDS)
    for client in clients:
        result, output, errors = got[client.name]
        assert (result, len(output), errors) == (0, shows * SHOWN, b"")
    until(lambda: bounded.server._scheduler.memory.used == 0)
    assert peak[0] <= TOTAL + 6 * SMALL_REPLY_BYTES


def test_replies_of_long_values_are_reserved_one_by_one(
    bounded: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = b"v" * (TOTAL // 3)
    bounded.store.write({"long": value})
    clients = [Client(bounded, f"c{number}").connected() for number in range(8)]
    with measured(monkeypatch) as peak:
        for client in clients[:3]:
            client.send(Execute(b"READ [long]\n" * 2).encode())
        other = clients[-1]
        for _ in range(20):
            assert other.execute(b"READ [key001]\n")[0] == 0
        for client in clients[:3]:
            assert client.executed() == (0, b"[(long,%b)]\n" % value * 2, b"")
    assert peak[0] <= TOTAL + 8 * SMALL_REPLY_BYTES


def test_output_held_back_is_limited(bounded: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "STALL_SECONDS", SECONDS)
    value = b"v" * (TOTAL * 2 // 3)
    bounded.store.write({"long": value})
    clients = [Client(bounded, f"c{number}").connected() for number in range(4)]
    clients[0].send(Execute(b"READ [long]\n").encode())
    until(lambda: unread(clients[0].open["resp"]) > 0)
    clients[1].send(Execute(b"READ [long]\n").encode())
    until(lambda: bounded.server._scheduler._large_waits)
    result, output, errors = clients[2].execute(b"READ [long]\n")
    assert (result, output) == (1, b"")
    assert errors == (
        b"1:1: the replies of all sessions would be longer than %d bytes; "
        b"the script stops here\n" % TOTAL
    )
    assert clients[3].execute(b"READ [key001]\n")[0] == 0
    for client in clients[:2]:
        assert client.executed() == (0, b"[(long,%b)]\n" % value, b"")


def test_reply_over_the_total_alone_stops_with_an_error(bounded: Served) -> None:
    client = Client(bounded, "c").connected()
    result, output, errors = client.execute(b"SHOW\n" * 30 + b"WRITE [(z,1)]\n")
    assert (result, len(output)) == (1, TOTAL // SHOWN * SHOWN)
    line = TOTAL // SHOWN + 1
    assert errors.startswith(b"%d:1: the reply would be longer than the %d" % (line, TOTAL))
    assert b"z" not in bounded.store


def test_only_large_replies_wait_for_reply_memory(
    bounded: Served,
) -> None:
    first, second = Client(bounded, "f").connected(), Client(bounded, "s").connected()
    first.send(Execute(b"SHOW\n" * 20).encode())
    until(lambda: unread(first.open["resp"]) > 0)
    second.send(Execute(b"SHOW\n" * 20).encode())
    until(lambda: bounded.server._scheduler._large_waits)
    other = Client(bounded, "o").connected()
    for _ in range(20):
        assert len(other.execute(b"READ [key001]\n" * 1000)[1]) == 42_000
        assert other.execute(b"x\n")[0] == 1
    assert unread(second.open["resp"]) == 0
    assert len(first.executed()[1]) == 20 * SHOWN
    assert len(second.executed()[1]) == 20 * SHOWN


def test_unread_reply_is_evicted_when_others_need_memory(
    bounded: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    lazy, second = Client(bounded, "l").connected(), Client(bounded, "s").connected()
    lazy.send(Execute(b"SHOW\n" * 20).encode())
    until(lambda: unread(lazy.open["resp"]) > 0)
    monkeypatch.setattr(scheduler, "STALL_SECONDS", 0.1)
    result, output, errors = second.execute(b"SHOW\n" * 20)
    assert (result, len(output), errors) == (0, 20 * SHOWN, b"")
    lazy.drain("resp")
    assert lazy.at_end("not")
    assert "does not read its reply, and others need the memory" in caplog.text


def test_script_stops_when_no_reply_memory_is_freed(
    bounded: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, second = Client(bounded, "w").connected(), Client(bounded, "s").connected()
    waits.send(Execute(b"SHOW\n" * 20 + b"WAIT 9999999\n").encode())
    until(lambda: bounded.server._scheduler.memory.used >= 20 * SHOWN and is_idle(bounded))
    monkeypatch.setattr(scheduler, "STALL_SECONDS", 0.1)
    result, output, errors = second.execute(b"SHOW\n" * 20)
    assert result == 1
    assert len(output) % SHOWN == 0
    line = len(output) // SHOWN + 1
    assert errors == (
        b"%d:1: the replies of all sessions would be longer than %d bytes; "
        b"the script stops here\n" % (line, TOTAL)
    )
    waits.close()
    until(lambda: bounded.server._scheduler.memory.used == 0)
    assert len(second.execute(b"SHOW\n" * 20)[1]) == 20 * SHOWN


def test_ended_session_frees_its_reply_memory(bounded: Served) -> None:
    first, second = Client(bounded, "f").connected(), Client(bounded, "s").connected()
    first.send(Execute(b"SHOW\n" * 20).encode())
    until(lambda: unread(first.open["resp"]) > 0)
    second.send(Execute(b"SHOW\n" * 20).encode())
    until(lambda: bounded.server._scheduler._large_waits)
    third = Client(bounded, "t").connected()
    third.send(Execute(b"SHOW\n" * 20).encode())
    until(lambda: bounded.server._scheduler._large_queue)
    second.close()  # one that waits
    first.close()
    assert len(third.executed()[1]) == 20 * SHOWN
    until(lambda: bounded.server.sessions == 1)
