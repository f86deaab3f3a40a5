"""Protocol 1 by raw bytes, in both dialects: responses, notifications, ends of sessions."""

import os
import select
import signal
import stat
import struct
from collections.abc import Iterator
from itertools import count

import pytest

from tests.contract.pipes import Client, Server, serving
from tests.contract.program import content, ended_by, until

NUMBERS = count()
DIALECTS = [pytest.param(0, id="binary"), pytest.param(0x30, id="digits")]


@pytest.fixture(scope="module", name="server")
def _server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture(name="client", params=DIALECTS)
def _client(server: Server, request: pytest.FixtureRequest) -> Iterator[Client]:
    client = Client(server, f"c{next(NUMBERS)}", request.param).connect()
    yield client
    client.close()


def padded(key: bytes) -> bytes:
    return key + b"\0" * (41 - len(key))


def reply(client: Client, text: bytes) -> bytes:
    """Return a response that is written here in digits, in the client's dialect."""
    return bytes(byte - 0x30 + client.op for byte in text)


def keyed(client: Client, op: bytes, key: bytes) -> bytes:
    request = reply(client, op) + padded(key)
    assert len(request) == 42
    return request


def changed(client: Client) -> bytes:
    return client.read("not", 82)


def test_subscribe_and_unsubscribe_are_answered(client: Client) -> None:
    client.execute(b"WRITE [(here,1)]\nDELETE [gone]\n")
    assert client.ask(keyed(client, b"3", b"here")) == reply(client, b"31")
    assert client.ask(keyed(client, b"3", b"here")) == reply(client, b"31")
    assert client.ask(keyed(client, b"3", b"gone")) == reply(client, b"30")
    assert client.ask(keyed(client, b"4", b"here")) == reply(client, b"40")
    assert client.ask(keyed(client, b"4", b"here")) == reply(client, b"41")
    assert client.ask(keyed(client, b"4", b"never")) == reply(client, b"41")


def test_key_that_does_not_fit_is_answered_0(client: Client) -> None:
    for key in (b"", b"k" * 41):
        assert client.ask(keyed(client, b"3", key)) == reply(client, b"30")
        assert client.ask(keyed(client, b"4", key)) == reply(client, b"41")


def test_bytes_behind_the_first_nul_are_ignored(client: Client) -> None:
    noise = reply(client, b"3") + (b"n\0" + b"\xff" * 39)
    assert client.ask(noise) == reply(client, b"30")
    client.execute(b"WRITE [(n,1)]\nDELETE [n]\n")
    assert changed(client) == padded(b"n") + padded(b"1")


def test_notifications_have_82_bytes_in_order_of_changes(client: Client) -> None:
    long = b"k" * 40
    for key in (b"a", b"b", long):
        assert client.ask(keyed(client, b"3", key)) == reply(client, b"30")
    client.execute(
        b"WRITE [(b,2)(x,0)(a,1)]\nDELETE [none,b]\nWRITE [(a,1)]\n"
        b"WRITE [(%b,%b)]\nWRITE [(b,DELETED)]\nDELETE [%b,b,a]\n" % (long, b"v" * 40, long)
    )
    pairs = [(b"b", b"2"), (b"a", b"1"), (b"b", b"DELETED"), (b"a", b"1"), (long, b"v" * 40)]
    pairs += [(b"b", b"DELETED"), (long, b"DELETED"), (b"b", b"DELETED"), (b"a", b"DELETED")]
    assert [changed(client) for _ in pairs] == [padded(k) + padded(v) for k, v in pairs]


def test_words_are_notified_as_raw_bytes(client: Client) -> None:
    keys = (b"a b", b"c,d", b"e)", b'"', b"\xff\n")
    for key in keys:
        assert client.ask(keyed(client, b"3", key)) == reply(client, b"30")
    client.execute(
        b'WRITE [("a b","two words")("c,d","")("e)","\\n\\xff")("\\"",x)("\xff\\n",1)]\n'
        b'CLEAR [""]\n'
    )
    values = (b"two words", b"", b"\n\xff", b"x", b"1")
    pairs = [*zip(keys, values, strict=True), *((key, b"DELETED") for key in sorted(keys))]
    assert [changed(client) for _ in pairs] == [padded(k) + padded(v) for k, v in pairs]


def test_value_that_does_not_fit_arrives_as_changed(client: Client) -> None:
    client.ask(keyed(client, b"3", b"a"))
    client.execute(
        b'WRITE [(a,%b)]\nWRITE [(a,"\\0")]\nWRITE [(a,"x\\0y")]\nWRITE [(a,%b)]\nDELETE [a]\n'
        % (b"v" * 41, b"v" * 40)
    )
    values = [b"CHANGED", b"CHANGED", b"CHANGED", b"v" * 40, b"DELETED"]
    assert [changed(client) for _ in values] == [padded(b"a") + padded(v) for v in values]


def test_changes_after_unsubscribe_are_not_notified(client: Client) -> None:
    for key in (b"u", b"w"):
        client.ask(keyed(client, b"3", key))
    client.ask(keyed(client, b"4", b"u"))
    client.execute(b"WRITE [(u,1)(w,2)]\nDELETE [u,w]\n")
    assert changed(client) == padded(b"w") + padded(b"2")
    assert changed(client) == padded(b"w") + padded(b"DELETED")


def test_execute_answers_with_output_and_errors(client: Client) -> None:
    script = b"WRITE [(e,1)]\nREAD [e]\nDELETE [e]"
    client.send(reply(client, b"5") + struct.pack("<I", len(script)) + script)
    output = b"[(e,1)]\n"
    expected = reply(client, b"50") + b"\x08\0\0\0\0\0\0\0" + output
    assert client.read("resp", len(expected)) == expected
    assert client.execute(b"") == (0, b"", b"")
    result, output, errors = client.execute(b"READ [e]\nREAD e\n\n BACKUP\nWAIT 1\n")
    assert (result, output) == (1, b"[(e,KVSERROR)]\nWaiting...\n")
    places = [line.partition(b": ")[0] for line in errors.splitlines()]
    assert places == [b"2:6", b"4:2"]
    assert errors.endswith(b"\n")


def test_script_of_more_than_1_mib_is_refused(client: Client) -> None:
    result, output, errors = client.execute(b"#" * ((1 << 20) - 1) + b"\n")
    assert (result, output, errors) == (0, b"", b"")
    result, output, errors = client.execute(b"#" * (1 << 20) + b"\n")
    assert (result, output) == (1, b"")
    assert errors.count(b"\n") == 1
    assert client.execute(b"READ [none]\n") == (0, b"[(none,KVSERROR)]\n", b"")


@pytest.mark.parametrize("padding", [0, 41])
def test_disconnect_is_answered_and_ends_the_pipes(client: Client, padding: int) -> None:
    assert client.ask(reply(client, b"2") + b"\0" * padding) == reply(client, b"20")
    assert client.ends()


@pytest.mark.parametrize("op", [0, 1, 6, None])
def test_unknown_op_ends_the_session(client: Client, op: int | None) -> None:
    other = 0x30 - client.op + 3
    client.send(bytes([other if op is None else client.op + op]) + b"k" * 41)
    assert client.ends()


def test_requests_in_pieces_and_in_one_write_are_answered(client: Client) -> None:
    one = keyed(client, b"3", b"piece")
    client.send(one[:7])
    client.send(one[7:] + one + keyed(client, b"4", b"piece") + reply(client, b"2"))
    assert client.read("resp", 8) == reply(client, b"30304020")
    assert client.ends()


@pytest.mark.parametrize("order", ["resp ? req not", "req resp not ?", "resp not req ?"])
@pytest.mark.parametrize("op", DIALECTS)
def test_blocking_opens_of_c_clients_are_served(server: Server, order: str, op: int) -> None:
    client = Client(server, f"c{next(NUMBERS)}", op).create()
    client.close()
    server.register(client.frame())
    for pipe in order.split():
        if pipe == "?":
            assert client.read("resp", 2) == reply(client, b"10")
        else:
            flags = os.O_WRONLY if pipe == "req" else os.O_RDONLY
            client.pipes[pipe] = os.open(client.path(pipe), flags)
    assert client.ask(reply(client, b"2")) == reply(client, b"20")
    os.close(client.pipes.pop("req"))
    assert client.ends()
    client.close()


def test_connect_is_found_behind_garbage(server: Server) -> None:
    client = Client(server, "garbage").create()
    server.register(b"\x01/tmp/x\0\0" + b"1" * 130 + b"\xff\0\x02" + client.frame())
    client.accept().close()


def test_connects_in_one_write_are_all_served(server: Server) -> None:
    clients = [Client(server, f"many{n}", op).create() for n, op in enumerate((0, 0x30, 0))]
    server.register(b"".join(client.frame() for client in clients))
    for client in clients:
        client.accept().close()


def test_sigusr1_ends_all_sessions_and_serves_on() -> None:
    with serving("--max-sessions", "2") as server:
        first, second = (Client(server, name).connect() for name in ("a", "b"))
        waiting = Client(server, "c").create()
        server.register(waiting.frame())
        first.ask(keyed(first, b"3", b"k"))
        server.process.send_signal(signal.SIGUSR1)
        assert first.ends()
        assert second.ends()
        waiting.accept()
        later = Client(server, "d", 0x30).connect()
        assert waiting.ask(keyed(waiting, b"3", b"k")) == b"\x03\x00"
        later.execute(b"WRITE [(k,1)]\n")
        assert changed(waiting) == padded(b"k") + padded(b"1")
        for client in (first, second, waiting, later):
            client.close()
        assert ended_by(server.process, signal.SIGTERM) == 0


def test_connect_beyond_the_limit_waits_for_an_end() -> None:
    with serving("--max-sessions", "1") as server:
        first = Client(server, "a").connect()
        waiting = Client(server, "b").create()
        server.register(waiting.frame())
        assert first.execute(b"READ [x]\n") == (0, b"[(x,KVSERROR)]\n", b"")
        assert select.select([waiting.pipes["resp"]], [], [], 0)[0] == []
        assert first.ask(b"\x02") == b"\x02\x00"
        first.close()
        waiting.accept().close()


def test_jobs_and_sessions_share_one_store() -> None:
    with serving(start=b"WRITE [(k,1)]\n") as server:
        assert stat.S_IMODE(server.fifo.stat().st_mode) == 0o600
        client = Client(server, "a").connect()
        until(lambda: client.execute(b"READ [k]\n")[1] == b"[(k,1)]\n")
        assert client.ask(keyed(client, b"3", b"k")) == b"\x03\x01"
        (server.jobs / ".late").write_bytes(b"WRITE [(k,2)]\nREAD [k]\nBACKUP\n")
        (server.jobs / ".late").rename(server.jobs / "late.job")
        assert changed(client) == padded(b"k") + padded(b"2")
        until(lambda: content(server.jobs / "late-1.bck") == b"(k, 2)\n")
        until(lambda: content(server.jobs / "late.out") == b"[(k,2)]\n")
        assert ended_by(server.process, signal.SIGTERM) == 0
        assert client.ends()
        assert not server.fifo.exists()
        client.close()
