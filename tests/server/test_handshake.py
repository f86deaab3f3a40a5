"""The server's ends of a client's pipes, opened as the client opens its own."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvs.posix.fifos import Fifo
from kvs.server.handshake import Handover, Handshake, RequestsReader
from kvs.server.pipes import ConnectedPipes

NAMES = ("req", "resp", "not")


class Client:
    """The three pipes of a client, and its open ends."""

    def __init__(self, folder: Path) -> None:
        self.paths = {name: folder / name for name in NAMES}
        self.ends: dict[str, int] = {}
        for path in self.paths.values():
            os.mkfifo(path)

    def pipes(self) -> ConnectedPipes:
        """Return the pipes as a connect names them."""
        return ConnectedPipes(*(Fifo.open_path(os.fsencode(self.paths[name])) for name in NAMES))

    def open(self, name: str) -> int:
        """Open an end, as the server has its own end open or the client waits for it."""
        flags = os.O_WRONLY if name == "req" else os.O_RDONLY
        self.ends[name] = os.open(self.paths[name], flags | os.O_NONBLOCK)
        return self.ends[name]


@pytest.fixture(name="client")
def _client(tmp_path: Path) -> Iterator[Client]:
    client = Client(tmp_path)
    yield client
    for end in client.ends.values():
        os.close(end)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize(
    ("order", "missing"),
    [
        (NAMES, ["responses and notifications", "notifications", ""]),
        (("not", "resp", "req"), ["requests and responses", "requests", ""]),
    ],
)
def test_missing_pipes_are_those_the_client_has_not_opened(
    client: Client, order: tuple[str, ...], missing: list[str]
) -> None:
    handshake = Handshake(client.pipes())
    assert (handshake.attempt(), handshake.is_started) == (False, False)
    assert handshake.missing == "requests and responses and notifications"
    for name, rest in zip(order, missing, strict=True):
        client.open(name)
        assert (handshake.attempt(), handshake.attempt()) == (True, False)
        assert (handshake.is_started, handshake.missing) == (True, rest)
    assert handshake.is_complete
    handshake.close()


def test_closed_handshake_leaves_no_descriptor(client: Client) -> None:
    before = open_descriptors()
    handshake = Handshake(client.pipes())
    client.open("resp")
    assert handshake.attempt()
    handshake.close()
    assert open_descriptors() == before + 1


def test_taken_end_belongs_to_the_caller(client: Client) -> None:
    pipes = client.pipes()
    handshake = Handshake(pipes)
    client.open("resp")
    handshake.attempt()
    end = handshake.take(pipes.responses)
    assert handshake.take(pipes.responses) is handshake.take(pipes.notifications) is None
    handshake.close()
    assert end is not None
    os.write(end, b"reply")
    assert os.read(client.ends["resp"], 9) == b"reply"
    os.close(end)


def test_byte_read_to_find_a_writer_is_not_lost(client: Client) -> None:
    pipes = client.pipes()
    reader = RequestsReader(pipes.requests)
    assert not reader.has_writer()
    os.write(client.open("req"), b"request")
    assert (reader.is_ahead, reader.has_writer(), reader.is_ahead) == (False, True, True)
    assert (reader.read(), reader.is_ahead) == (b"request", False)
    assert reader.read() is None
    os.close(client.ends.pop("req"))
    assert reader.has_writer()
    assert reader.read() == b""
    reader.close()
    pipes.close()


def test_handed_over_ends_are_used_by_the_next_handshake(client: Client) -> None:
    pipes = client.pipes()
    reader = RequestsReader(pipes.requests)
    client.open("resp")
    end = pipes.responses.open_for_writing()
    assert end is not None
    handover = Handover(reader, {pipes.responses.identity: end})
    handshake = Handshake(pipes, handover)
    assert handover.is_empty
    assert (handshake.requests, handshake.take(pipes.responses)) == (reader, end)
    assert handshake.unopened == [pipes.notifications]
    handshake.close()
    os.close(end)


def test_split_returns_what_the_client_has_not_opened(client: Client) -> None:
    pipes = client.pipes()
    handshake = Handshake(pipes)
    client.open("resp")
    handshake.attempt()
    reader, unopened = handshake.split()
    assert (reader, unopened) == (handshake.requests, [pipes.notifications])
    assert os.read(client.ends["resp"], 1) == b""
    assert reader is not None
    reader.close()
    pipes.notifications.close()


def test_split_closes_requests_that_the_client_has_opened(client: Client) -> None:
    handshake = Handshake(client.pipes())
    client.open("req")
    handshake.attempt()
    reader, unopened = handshake.split()
    assert (reader, len(unopened)) == (None, 2)
    with pytest.raises(BrokenPipeError):
        os.write(client.ends["req"], b"request")
    for pipe in unopened:
        pipe.close()
