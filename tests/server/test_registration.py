"""The registration pipe: garbage, replacement, removal, and permissions."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from kvs.errors import RegistrationPipeError
from kvs.posix import fifos
from kvs.protocol import frames
from kvs.protocol.requests import Disconnect
from kvs.server.registration import RegistrationPipe
from kvs.settings import ServerSettings
from tests.helpers import NOBODY_UID, until
from tests.server.raw_client import Client, open_within, send, serving


@pytest.mark.parametrize("garbage", [b"\0", b"\1", b"\1/none\0"])
@pytest.mark.slow
def test_sessions_are_served_despite_endless_garbage(
    garbage: bytes,
) -> None:
    program = (
        "import os, sys\n"
        "end = os.open(sys.argv[1], os.O_WRONLY)\n"
        "print(flush=True)\n"
        "while True: os.write(end, eval(sys.argv[2]) * 4096)\n"
    )
    with serving() as served:
        client = Client(served, "c").connected()
        with subprocess.Popen(
            [sys.executable, "-c", program, str(served.path), repr(garbage)],
            stdout=subprocess.PIPE,
        ) as writer:
            try:
                assert writer.stdout is not None
                assert writer.stdout.readline() == b"\n"
                for _ in range(20):
                    assert client.execute(b"READ [a]\n") == (0, b"[(a,KVSERROR)]\n", b"")
            finally:
                writer.kill()
        again = Client(served, "again").connected()
        assert again.subscribe(b"a") == 0


def test_no_connect_is_lost_between_random_bytes() -> None:
    rng = random.Random(1)
    with serving() as served:
        lure = Client(served, "lure").make().frame()
        for number in range(100):
            client = Client(served, f"c{number}").make()
            noise = rng.randbytes(rng.randrange(300)) + lure[: rng.randrange(40)]
            send(served, noise + client.frame() + noise[:7])
            client.opens("resp", "not", "req")
            assert client.reply() == (frames.CONNECT, 0)
            client.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make pipes of others")
@pytest.mark.parametrize("mode", [0o600, 0o622])
def test_other_users_pipes_need_a_permissive_fifo_mode(mode: int) -> None:
    with serving(ServerSettings(fifo_mode=mode)) as served:
        served.folder.chmod(0o711)
        mixed, theirs = (Client(served, name).make(0o666) for name in ("mixed", "theirs"))
        os.chown(mixed.path("resp"), NOBODY_UID, NOBODY_UID)
        for which in ("req", "resp", "not"):
            os.chown(theirs.path(which), NOBODY_UID, NOBODY_UID)
        mixed.register()
        theirs.register()
        ours = Client(served, "ours").connected(0o666)
        assert (served.server.sessions, served.server.waiting) == (1, 0 if mode == 0o600 else 1)
        for which in ("req", "resp", "not"):  # only this test has the pipe open
            reader = os.open(mixed.path(which), os.O_RDONLY | os.O_NONBLOCK)
            assert os.read(reader, 1) == b""
            os.close(reader)
        if mode != 0o600:
            theirs.opens("resp", "req", "not")
            assert theirs.reply() == (frames.CONNECT, 0)
        assert ours.subscribe(b"a") == 0


def test_replaced_registration_pipe_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("kvs.server.server.PIPE_CHECK_SECONDS", 0.01)
    with serving(ServerSettings(sessions=1)) as served:
        first = Client(served, "a").connected()
        waiting = Client(served, "b").make().register()
        first.execute(b"READ [a]\n")  # so the connect has been read
        (served.folder / "precious").write_text("precious")
        (served.folder / "precious").rename(served.path)
        until(lambda: "exists and is not a named pipe" in caplog.text)
        # The one that waited may get the descriptor that the pipe had.
        first.close()
        waiting.opens("resp", "not", "req")
        assert waiting.reply() == (frames.CONNECT, 0)
        for _ in range(20):
            waiting.execute(b"WAIT 10\n")
        assert caplog.text.count("exists and is not a named pipe") == 1
        assert served.path.read_text() == "precious"
        served.path.unlink()
        until(lambda: served.path.exists() and served.path.is_fifo())
        waiting.close()
        assert Client(served, "c").connected().subscribe(b"a") == 0


def test_connects_in_a_removed_registration_pipe_are_served() -> None:
    with serving(ServerSettings(sessions=8)) as served:  # so that none has to be quick
        live = Client(served, "live").connected()
        clients = [Client(served, f"c{number}").make().reads_at_once() for number in range(100)]
        registration = open_within(served.path, os.O_WRONLY)
        os.write(registration, b"".join(client.frame() for client in clients))
        served.path.unlink()
        for client in clients:
            assert client.reply() == (frames.CONNECT, 0)
            client.opens("not", "req")
            client.close()
        os.close(registration)
        assert live.subscribe(b"a") == 0


def test_one_of_two_servers_starting_at_once_gets_the_pipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = os.fsencode(tmp_path / "reg")
    other = RegistrationPipe(path, 0o600)
    make = fifos.make

    def made(path: bytes, mode: int, directory: int | None) -> None:
        make(path, mode, directory)
        monkeypatch.setattr(fifos, "make", make)
        other.make()  # it takes a pipe that is not open yet for a stale one

    monkeypatch.setattr(fifos, "make", made)
    with pytest.raises(RegistrationPipeError, match="a server is already there"):
        RegistrationPipe(path, 0o600).make()
    assert not other.was_removed()
    other.close(remove=True)


def test_registration_pipe_without_descriptors_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: fifos.Fifo) -> int:
        raise OSError(24, os.strerror(24))

    monkeypatch.setattr(fifos.Fifo, "open_for_reading", fail)
    with pytest.raises(RegistrationPipeError, match="Too many open files"):
        RegistrationPipe(os.fsencode(tmp_path / "reg"), 0o600).make()


def test_disconnected_client_may_reuse_its_pipes_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kvs.server.session.LINGER_SECONDS", 3600)
    with serving() as served:
        client = Client(served, "c").connected()
        for _ in range(3):
            client.send(Disconnect().encode())
            assert client.reply() == (frames.DISCONNECT, 0)
            assert client.at_end("resp")
            client.close("resp")
            client.register().opens("resp")
            assert client.reply() == (frames.CONNECT, 0)
            assert client.subscribe(b"a") == 0


def test_open_session_keeps_its_pipes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with serving() as served:
        client = Client(served, "c").connected()
        send(served, client.frame())
        until(lambda: "the pipes are in use" in caplog.text)
        assert client.subscribe(b"a") == 0


def test_link_in_the_path_leads_to_no_other_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner of a part of the path may replace it by a link at any time."""
    way, precious = tmp_path / "way", tmp_path / "precious"
    for folder in (way, precious):
        folder.mkdir()
        os.mkfifo(folder / "reg", 0o600)

    def turn() -> None:
        way.rename(tmp_path / "moved")
        way.symlink_to(precious)

    make = fifos.make

    def made(path: bytes, mode: int, directory: int | None) -> None:
        turn()
        make(path, mode, directory)

    before = precious.joinpath("reg").stat()
    monkeypatch.setattr(fifos, "make", made)
    pipe = RegistrationPipe(os.fsencode(way / "reg"), 0o622)
    pipe.make()
    assert pipe.was_removed()
    pipe.close(remove=True)
    after = precious.joinpath("reg").stat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert os.listdir(tmp_path / "moved") == []
