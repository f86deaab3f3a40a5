"""Sessions of a persistent store: nothing is sent before what it depends on is committed."""

import select
from pathlib import Path

import pytest

from kvs.protocol import frames
from kvs.protocol.requests import Execute, Subscribe
from tests.journal.fake_storage import Fault, Gate, install
from tests.server.raw_client import Client, serving


def nothing_came(client: Client, other: Client) -> bool:
    """Return whether a client was sent nothing, after the server had time to send."""
    assert other.unsubscribe(b"nothing") == 1  # an answer that depends on no change
    poll = select.poll()
    for which in ("resp", "not"):
        poll.register(client.open[which], select.POLLIN)
    return poll.poll(0) == []


@pytest.fixture(name="gate")
def _gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate = Gate()
    install(monkeypatch, gate)
    return gate


def test_reply_and_notifications_wait_for_commit(tmp_path: Path, gate: Gate) -> None:
    with serving(data=tmp_path / "d") as server:
        writer, reader, other = (Client(server, name).connected() for name in "wro")
        watcher = Client(server, "x").connected()
        watcher.subscribe(b"k")
        with gate.shut():
            writer.send(Execute(b"WRITE [(k,1)]\nREAD [k]\n").encode())
            gate.wait_until_held()
            reader.send(Execute(b"READ [k]\n").encode())
            for _ in range(5):
                for client in (writer, reader, watcher):
                    assert nothing_came(client, other)
        assert writer.executed() == (0, b"[(k,1)]\n", b"")
        assert reader.executed() == (0, b"[(k,1)]\n", b"")
        assert watcher.change() == (b"k", b"1")


def test_subscribe_reply_waits_for_commit(tmp_path: Path, gate: Gate) -> None:
    with serving(data=tmp_path / "d") as server:
        writer, asker, other = (Client(server, name).connected() for name in "wao")
        with gate.shut():
            writer.send(Execute(b"WRITE [(k,1)]\n").encode())
            gate.wait_until_held()
            asker.send(Subscribe(b"k").encode())
            for _ in range(5):
                assert nothing_came(asker, other)
        assert asker.reply() == (frames.SUBSCRIBE, 1)
        writer.executed()
        writer.execute(b"WRITE [(k,2)]\n")
        assert asker.change() == (b"k", b"2")


def test_requests_behind_an_uncommitted_reply_stay_in_order(tmp_path: Path, gate: Gate) -> None:
    with serving(data=tmp_path / "d") as server:
        client = Client(server, "c").connected()
        with gate.shut():
            for number in range(10):
                client.send(Execute(b"WRITE [(k,%d)]\nREAD [k]\n" % number).encode())
            gate.wait_until_held()
        for number in range(10):
            assert client.executed() == (0, b"[(k,%d)]\n" % number, b"")


def test_journal_failure_ends_sessions_and_sends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = Fault()
    install(monkeypatch, fault)
    with serving(data=tmp_path / "d") as server:
        writer, watcher, idle = (Client(server, name).connected() for name in "wxi")
        watcher.subscribe(b"k")
        assert writer.execute(b"WRITE [(k,1)]\n") == (0, b"", b"")
        assert watcher.change() == (b"k", b"1")
        fault.armed = True
        writer.send(Execute(b"WRITE [(k,2)]\nREAD [k]\n").encode())
        for client in (writer, watcher, idle):
            assert client.at_end("resp")
            assert client.at_end("not")


def test_client_gone_before_commit_disturbs_no_other(tmp_path: Path, gate: Gate) -> None:
    with serving(data=tmp_path / "d") as server:
        other = Client(server, "o").connected()
        gone = Client(server, "g").connected()
        with gate.shut():
            gone.send(Execute(b"WRITE [(k,1)]\nREAD [k]\n").encode())
            gate.wait_until_held()
            gone.close()
            assert other.unsubscribe(b"nothing") == 1
        assert other.execute(b"READ [k]\n") == (0, b"[(k,1)]\n", b"")
