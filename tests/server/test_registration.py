"""The registration pipe, whatever is written to it, put in its place, or done beside it."""

import os
import threading
from pathlib import Path

import pytest

from kvs.errors import RegistrationUnusable
from kvs.server.registration import RegistrationPipe
from kvs.settings import ServerSettings
from kvs.wire import fifos, frames
from tests.server.raw import SECONDS, Client, open_within, send, serving
from tests.tools import until


def test_sessions_are_served_beside_somebody_who_never_stops_writing_garbage() -> None:
    with serving() as served:
        registration = open_within(served.path, os.O_WRONLY)
        over = threading.Event()

        def write() -> None:
            while not over.is_set():
                os.write(registration, b"\x01/none\0" * 9000)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for number in range(5):
                client = Client(served, f"c{number}").connected()
                assert client.execute(b"READ [a]\n") == (0, b"[(a,KVSERROR)]\n", b"")
        finally:
            over.set()
            writer.join(SECONDS)
            os.close(registration)


def test_something_else_in_its_place_is_left_alone_and_sessions_go_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("kvs.server.server.LOOK_SECONDS", 0.01)
    with serving(ServerSettings(sessions=1)) as served:
        first = Client(served, "a").connected()
        waiting = Client(served, "b").make().register()
        first.execute(b"READ [a]\n")  # so the connect has been read
        (served.folder / "precious").write_text("precious")
        (served.folder / "precious").rename(served.path)
        until(lambda: "something else than a pipe is there" in caplog.text)
        # The one that waited may get the descriptor that the pipe had.
        first.close()
        waiting.opens("resp", "not", "req")
        assert waiting.reply() == (frames.CONNECT, 0)
        for _ in range(20):
            waiting.execute(b"WAIT 10\n")
        assert caplog.text.count("something else than a pipe is there") == 1
        assert served.path.read_text() == "precious"
        served.path.unlink()
        until(lambda: served.path.exists() and served.path.is_fifo())
        waiting.close()
        assert Client(served, "c").connected().subscribe(b"a") == 0


def test_connects_that_had_come_to_one_that_is_removed_are_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serving() as served:
        live = Client(served, "live").connected()
        clients = [Client(served, f"c{number}").make() for number in range(100)]
        registration = open_within(served.path, os.O_WRONLY)
        os.write(registration, b"".join(client.frame() for client in clients))
        served.path.unlink()
        for client in clients:
            client.opens("resp", "not", "req")
            assert client.reply() == (frames.CONNECT, 0)
            client.close()
        os.close(registration)
        assert live.subscribe(b"a") == 0


def test_of_two_servers_that_start_at_the_same_moment_one_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = os.fsencode(tmp_path / "reg")
    other = RegistrationPipe(path, 0o600)
    make = fifos.make

    def made(path: bytes, mode: int) -> None:
        make(path, mode)
        monkeypatch.setattr(fifos, "make", make)
        other.make()  # it takes what was made, and is not open yet, for one left behind

    monkeypatch.setattr(fifos, "make", made)
    with pytest.raises(RegistrationUnusable, match="a server is already there"):
        RegistrationPipe(path, 0o600).make()
    assert not other.is_gone()
    other.close(remove=True)


def test_one_that_cannot_be_opened_for_want_of_descriptors_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: fifos.Fifo) -> int:
        raise OSError(24, os.strerror(24))

    monkeypatch.setattr(fifos.Fifo, "open_for_reading", fail)
    with pytest.raises(RegistrationUnusable, match="Too many open files"):
        RegistrationPipe(os.fsencode(tmp_path / "reg"), 0o600).make()


def test_a_client_that_disconnected_may_connect_again_at_once_with_the_same_pipes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kvs.server.session.LEAVING_SECONDS", 3600)
    with serving() as served:
        client = Client(served, "c").connected()
        for _ in range(3):
            client.send(bytes([frames.DISCONNECT]))
            assert client.reply() == (frames.DISCONNECT, 0)
            assert client.at_end("resp")
            client.close("resp", "not")  # and keeps requests open
            client.register().opens("resp", "not")
            assert client.reply() == (frames.CONNECT, 0)
            assert client.subscribe(b"a") == 0


def test_a_session_that_is_served_keeps_its_pipes(caplog: pytest.LogCaptureFixture) -> None:
    with serving() as served:
        client = Client(served, "c").connected()
        send(served, client.frame())
        until(lambda: "its pipes are in use" in caplog.text)
        assert client.subscribe(b"a") == 0
