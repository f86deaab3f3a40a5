"""A client is never left blocked in open(2) of a pipe, however its session ends."""

import itertools
import os
import select
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from kvs.errors import JournalWriteError
from kvs.protocol import frames
from kvs.protocol.requests import Disconnect, Execute
from kvs.server import execution
from kvs.settings import ServerSettings
from tests.helpers import until
from tests.journal.fake_storage import Fault, install
from tests.server.raw_client import SECONDS, Client, Served, serving, stop_soon

ORDERS = list(itertools.permutations(("req", "resp", "not")))

PREFIXES = sorted({order[:count] for order in ORDERS for count in (1, 2)})
"""Pipes that a client has opened when its session ends."""

End = Callable[[Served, Client, pytest.MonkeyPatch], None]


def missing(served: Served) -> str:
    """Return the names of the pipes that the only client has not opened."""
    [session] = served.server._sessions
    return session._handshake.missing


def opened(served: Served, prefix: tuple[str, ...]) -> Client:
    """Return a client that has opened these pipes, once the server has seen it."""
    client = Client(served, "c").make().register().opens(*prefix)
    until(lambda: served.server.sessions == 1)
    until(lambda: missing(served).count(" and ") == 2 - len(prefix))
    return client


def is_unblocked(client: Client, rest: tuple[str, ...]) -> None:
    """Check that the client can open all remaining pipes, and reads the end of each."""
    client.opens(*rest)
    for which in set(client.open) - {"req"}:
        client.drain(which)
    if "req" in client.open:
        client.sees_requests_closed()
    client.close()


def rests(prefix: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return the orders in which a client may open the remaining pipes."""
    return [order[len(prefix) :] for order in ORDERS if order[: len(prefix)] == prefix]


def drop(served: Served, _client: Client, _patch: pytest.MonkeyPatch) -> None:
    served.server.disconnect_all()


def stop(served: Served, _client: Client, _patch: pytest.MonkeyPatch) -> None:
    served.server.stop()


def close_a_pipe(_served: Served, client: Client, _patch: pytest.MonkeyPatch) -> None:
    client.close(next(iter(client.open)))


def fall_behind(served: Served, client: Client, _patch: pytest.MonkeyPatch) -> None:
    client.reply()
    client.subscribe(b"k")
    served.store.execute(b"WRITE [(k,1)]\n" * 1000)


def disconnect(_served: Served, client: Client, _patch: pytest.MonkeyPatch) -> None:
    client.send(Disconnect().encode())


def send_nonsense(_served: Served, client: Client, _patch: pytest.MonkeyPatch) -> None:
    client.send(b"\7")


def run_out_of_memory(_served: Served, client: Client, patch: pytest.MonkeyPatch) -> None:
    def fail(_: execution.ScriptExecution, _reserved: int) -> None:
        raise MemoryError

    patch.setattr(execution.ScriptExecution, "run_slice", fail)
    client.send(Execute(b"READ [a]\n").encode())


EARLY_ENDS: list[End] = [drop, stop, close_a_pipe]
"""Ends that may happen at any time."""

LATER_ENDS: list[End] = [fall_behind, disconnect, send_nonsense, run_out_of_memory]
"""Ends by a request, once requests and responses are open."""

CASES = [(end, prefix) for end in EARLY_ENDS for prefix in PREFIXES] + [
    (end, prefix) for end in LATER_ENDS for prefix in (("req", "resp"), ("resp", "req"))
]


@pytest.mark.parametrize(
    ("end", "prefix", "rest"),
    [(end, prefix, rest) for end, prefix in CASES for rest in rests(prefix)],
    ids=lambda value: value.__name__ if callable(value) else "-".join(value),
)
def test_client_blocked_in_open_is_unblocked_at_session_end(
    end: End, prefix: tuple[str, ...], rest: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(ServerSettings(outbox_bytes=1000)) as served:
        client = opened(served, prefix)
        end(served, client, monkeypatch)
        until(lambda: served.server.sessions == 0)
        is_unblocked(client, rest)


@pytest.mark.parametrize("prefix", PREFIXES, ids="-".join)
def test_client_blocked_in_open_is_unblocked_at_its_deadline(prefix: tuple[str, ...]) -> None:
    for rest in rests(prefix):
        with serving() as served:
            client = opened(served, prefix)
            [session] = served.server._sessions
            served.server._loop.call_soon_threadsafe(session._opener._on_timeout)
            until(lambda: served.server.sessions == 0)
            is_unblocked(client, rest)


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_client_that_opens_after_its_deadline_is_unblocked(
    order: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr("kvs.server.admission.LATE_POLL_SECONDS", 0.01)
    monkeypatch.setattr("kvs.server.admission.OPEN_TIMEOUT_SECONDS", 0.05)
    with serving() as served:
        client = Client(served, "c").make().register()
        until(lambda: "opened none of its pipes" in caplog.text)
        monkeypatch.setattr("kvs.server.admission.OPEN_TIMEOUT_SECONDS", 5.0)
        for waiting in served.server._admission._waiting.values():
            waiting.polled_at = waiting.arrived_at - 5.0
        is_unblocked(client, order)
        assert "begins" not in caplog.text


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_client_blocked_in_open_is_unblocked_when_server_stops(order: tuple[str, ...]) -> None:
    with serving(ServerSettings(sessions=1)) as served:
        first = Client(served, "first").connected()
        client = Client(served, "c").make().register()
        unread = Client(served, "u").make()
        until(lambda: served.server.waiting == 1)
        unread.register()
        served.server.stop()
        assert first.at_end("resp")
        is_unblocked(client, order)
        is_unblocked(unread, order)


@pytest.mark.parametrize("prefix", PREFIXES, ids="-".join)
def test_client_blocked_in_open_is_unblocked_when_journal_fails(
    prefix: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = Fault()
    install(monkeypatch, fault)
    with serving(data=tmp_path / "d") as served:
        client = opened(served, prefix)
        fault.armed = True
        with suppress(JournalWriteError):
            served.store.write({"k": "1"})
        is_unblocked(client, rests(prefix)[0])


@pytest.mark.parametrize("order", [("req", "not"), ("not", "req")], ids="-".join)
def test_client_naming_a_sessions_pipe_is_unblocked(order: tuple[str, ...]) -> None:
    with serving() as served:
        live = Client(served, "live").connected()
        client = Client(served, "c").make()
        client.path("resp").unlink()
        os.link(live.path("resp"), client.path("resp"))
        client.register()
        is_unblocked(client, order)
        assert live.subscribe(b"k") == 0


def test_connecting_session_survives_its_own_repeated_connect() -> None:
    with serving() as served:
        client = opened(served, ("req",))
        client.register().opens("resp")
        assert client.reply() == (frames.CONNECT, 0)
        client.opens("not")
        assert client.subscribe(b"k") == 0


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS, ids="-".join)
@pytest.mark.parametrize("prefix", PREFIXES, ids="-".join)
def test_client_reconnecting_with_the_same_pipes_is_served(
    prefix: tuple[str, ...], order: tuple[str, ...]
) -> None:
    with serving() as served:
        for _ in range(3):
            client = opened_again(served, prefix)
            served.server.disconnect_all()
            dropped = threading.Event()
            served.server._loop.call_soon_threadsafe(
                dropped.set
            )  # behind the drop, which must not meet what follows
            assert dropped.wait(SECONDS)
            until(lambda: served.server.sessions == 0)
            client.register().opens(*order)
            assert client.reply() == (frames.CONNECT, 0)
            assert client.subscribe(b"k") == 0
            client.close()
            until(lambda: served.server.sessions == 0)
            client.remove()


def opened_again(served: Served, prefix: tuple[str, ...]) -> Client:
    client = opened(served, prefix)
    client.close()
    return client


def test_unblocking_of_an_absent_client_leaks_no_descriptor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stop_soon(monkeypatch)
    with serving() as served:
        before = len(os.listdir("/proc/self/fd"))
        for prefix in PREFIXES:
            client = opened(served, prefix)
            served.server.disconnect_all()
            until(lambda: served.server.sessions == 0)
            client.close()
            client.remove()
        until(lambda: not served.server._unblocker._by_pipe)
        until(lambda: len(os.listdir("/proc/self/fd")) <= before)


def test_unblocking_over_the_limit_drops_the_oldest() -> None:
    with serving(ServerSettings(blocked_clients=2)) as served:
        clients = []
        for name in "abc":
            client = Client(served, name).make().register().opens("req")
            until(lambda: served.server.sessions == 1)
            served.server.disconnect_all()
            until(lambda: served.server.sessions == 0)
            clients.append(client)
        for client in clients[1:]:
            is_unblocked(client, ("resp", "not"))
        reader = os.open(clients[0].path("resp"), os.O_RDONLY | os.O_NONBLOCK)
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        assert poll.poll(100) == []  # nothing has opened and closed it


def test_stop_without_blocked_clients_is_immediate() -> None:
    with serving() as served:
        Client(served, "c").connected()
        gone = Client(served, "gone").make().register()
        until(lambda: served.server.waiting == 1)
        gone.remove()
        until(lambda: served.server.waiting == 0)
    assert not served.server._unblocker.has_clients
