"""Sessions in digits: the op bytes and the first two bytes of each reply are ASCII digits."""

import array
import fcntl
import termios
from collections.abc import Iterator

import pytest

from kvs.protocol import frames
from kvs.protocol.frames import Dialect
from kvs.protocol.requests import Disconnect
from tests.helpers import until
from tests.server.raw_client import Client, Served, send, serving


@pytest.fixture(name="served")
def _served() -> Iterator[Served]:
    with serving() as served:
        yield served


def connected(served: Served, name: str = "d") -> Client:
    """Return a client whose connect began with the character 1."""
    client = Client(served, name).make()
    send(served, b"1" + client.frame()[1:])
    client.opens("resp", "req", "not")
    assert client.read("resp", 2) == b"10"
    return client


def keyed(operation: bytes, key: bytes) -> bytes:
    return operation + key + bytes(41 - len(key))


def test_session_in_digits_from_connect_to_disconnect(served: Served) -> None:
    client = connected(served)
    client.send(keyed(b"3", b"key"))
    assert client.read("resp", 2) == b"30"
    served.store.write({"key": "v"})
    assert client.read("not", 82) == b"key".ljust(41, b"\0") + b"v".ljust(41, b"\0")
    client.send(keyed(b"3", b"key"))
    assert client.read("resp", 2) == b"31"
    client.send(keyed(b"4", b"key") + keyed(b"4", b"key"))
    assert client.read("resp", 4) == b"4041"
    client.send(b"2")
    assert client.read("resp", 2) == b"20"
    assert client.at_end("resp")
    client.close("req")
    assert client.at_end("not")


def test_execute_in_digits_has_binary_lengths(served: Served) -> None:
    client = connected(served)
    client.send(b"5" + (9).to_bytes(4, "little") + b"READ [a]\n")
    assert client.read("resp", 10) == b"50" + (15).to_bytes(4, "little") + bytes(4)
    assert client.read("resp", 15) == b"[(a,KVSERROR)]\n"
    client.send(b"5" + (1).to_bytes(4, "little") + b"x")
    assert client.read("resp", 6) == b"51" + bytes(4)
    client.read("resp", int.from_bytes(client.read("resp", 4), "little"))
    client.send(b"5" + b"\xff\xff\xff\x00" + bytes(100))
    for _ in range(255):
        client.send(bytes(65536))
    client.send(bytes(0xFFFFFF - 255 * 65536 - 100))
    assert client.read("resp", 6) == b"51" + bytes(4)


@pytest.mark.parametrize("dialect", Dialect)
def test_disconnect_may_be_padded_to_42_bytes(served: Served, dialect: Dialect) -> None:
    client = Client(served, "c").make()
    send(served, bytes([1 + dialect]) + client.frame()[1:])
    client.opens("resp", "req", "not")
    client.send(keyed(bytes([3 + dialect]), b"a") + keyed(bytes([2 + dialect]), b"noise\3" * 6))
    expected = b"".join(frames.encode_reply(op, 0) for op in (1, 3, 2))
    assert client.read("resp", 6) == bytes(byte + dialect for byte in expected)
    assert client.at_end("resp")
    client.close("resp")
    # The same pipes serve another session, which must not see that padding.
    client.register().opens("resp")
    assert client.reply() == (frames.CONNECT, 0)
    assert client.subscribe(b"a") == 0


@pytest.mark.parametrize("dialect", Dialect)
def test_op_byte_of_the_other_dialect_ends_the_session(
    served: Served, dialect: Dialect, caplog: pytest.LogCaptureFixture
) -> None:
    client = connected(served) if dialect is Dialect.DIGITS else Client(served, "c").connected()
    wrong = 3 if dialect is Dialect.DIGITS else ord("3")
    with caplog.at_level("INFO"):
        client.send(keyed(bytes([wrong]), b"a"))
        assert client.at_end("resp")
        until(lambda: f"unknown operation, {wrong}" in caplog.text)


def test_sessions_of_both_dialects_share_a_server(served: Served) -> None:
    digits, binary = connected(served, "1"), Client(served, "2").connected()
    digits.send(keyed(b"3", b"k"))
    assert digits.read("resp", 2) == b"30"
    assert binary.execute(b"WRITE [(k,1)]\n") == (0, b"", b"")
    assert digits.change() == (b"k", b"1")


def test_path_full_of_ones_is_accepted(served: Served) -> None:
    """Each byte ``1`` of a path might begin a connect of its own."""
    for name in ("1", "11/1", "1" * 20):
        (served.folder / name).parent.mkdir(exist_ok=True)
        client = Client(served, name).make()
        send(served, b"1" + client.frame()[1:])
        client.opens("resp", "not", "req")
        assert client.read("resp", 2) == b"10"
        client.close()
        until(lambda: served.server.sessions == 0)


def test_bytes_after_a_disconnect_are_discarded(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvs.server.session.LINGER_SECONDS", 3600)
    client = Client(served, "c").connected()
    (session,) = served.server._sessions
    client.send(Disconnect().encode())
    assert client.reply() == (frames.DISCONNECT, 0)
    for _ in range(16):  # more than the pipe holds, so the server reads it
        client.send(b"\3" * 65536)
    until(lambda: not unread(client.open["req"]))
    assert len(session._parser._data) == 0
    client.close("req")
    assert client.at_end("not")


def unread(descriptor: int) -> int:
    """Return the number of unread bytes in a pipe."""
    size = array.array("i", [0])
    fcntl.ioctl(descriptor, termios.FIONREAD, size)
    return size[0]
