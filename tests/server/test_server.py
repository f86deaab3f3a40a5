"""A server as a whole: its pipe, the number of sessions, dropping all, and its end."""

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from kvs import Store
from kvs.errors import RegistrationPipeError, StoreClosedError
from kvs.protocol import frames
from kvs.protocol.requests import Execute
from kvs.server.server import Server
from kvs.settings import ServerSettings
from tests.helpers import until
from tests.server.raw_client import SECONDS, Client, serving


def test_registration_pipe_exists_while_the_server_does(tmp_path: Path) -> None:
    path = tmp_path / "reg"
    server = Server(Store()._core, os.fsencode(path), ServerSettings(fifo_mode=0o622))
    status = path.stat()
    assert (stat.S_ISFIFO(status.st_mode), stat.S_IMODE(status.st_mode)) == (True, 0o622)
    server.stop()
    server.run()
    assert os.listdir(tmp_path) == []


def test_abandoned_server_leaves_no_pipe(tmp_path: Path) -> None:
    server = Server(Store()._core, os.fsencode(tmp_path / "reg"), ServerSettings())
    server.abandon()
    assert os.listdir(tmp_path) == []
    server.stop()
    server.run()


def test_connects_beyond_the_sessions_wait() -> None:
    with serving(ServerSettings(sessions=1)) as served:
        first = Client(served, "a").connected()
        second = Client(served, "b").make().reads_at_once().register()
        until(lambda: served.server.waiting == 1)
        assert served.server.sessions == 1
        first.close()
        assert second.reply() == (frames.CONNECT, 0)
        assert (served.server.sessions, served.server.waiting) == (1, 0)
        second.close()


def test_pipes_of_a_session_cannot_be_used_by_another(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "kvs.server")
    with serving() as served:
        client = Client(served, "a").connected()
        client.register()
        until(lambda: "the pipes are in use" in caplog.text)
        assert client.execute(b"READ [a]\n") == (0, b"[(a,KVSERROR)]\n", b"")
        assert served.server.sessions == 1
        client.close()


def test_dropped_sessions_get_their_replies_and_new_ones_begin() -> None:
    with serving() as served:
        client = Client(served, "a").connected()
        client.send(Execute(b"WRITE [(a,1)]\n").encode())
        assert client.executed()[0] == 0
        served.server.disconnect_all()
        assert client.at_end("resp")
        client.close()
        client.remove()
        again = Client(served, "a").connected()
        assert again.execute(b"READ [a]\n") == (0, b"[(a,1)]\n", b"")
        again.close()


def test_stopped_server_ends_sessions_and_waiting_connects() -> None:
    with serving(ServerSettings(sessions=1)) as served:
        client = Client(served, "a").connected()
        waiting = Client(served, "b").make().reads_at_once().register()
        until(lambda: served.server.waiting == 1)
        stop = threading.Thread(target=served.server.stop)
        stop.start()
        for one in (client, waiting):
            one.drain("resp")
        stop.join(SECONDS)
        until(lambda: not served.path.exists())
        client.close()
        waiting.close()


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("call", ["os.eventfd", "os.open"])
def test_failed_start_without_descriptors_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    store = Store()
    threads, descriptors = threading.enumerate(), open_descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(call, fail)
        with pytest.raises(RegistrationPipeError, match=r"reg: cannot .*: Too many open files$"):
            Server(store._core, os.fsencode(tmp_path / "reg"), ServerSettings())
    assert threading.enumerate() == threads
    assert open_descriptors() == descriptors
    assert os.listdir(tmp_path) == []


def test_failed_start_removes_the_registration_pipe(tmp_path: Path) -> None:
    store = Store()
    store._core.close()
    threads, descriptors = threading.enumerate(), open_descriptors()
    with pytest.raises(StoreClosedError):
        Server(store._core, os.fsencode(tmp_path / "reg"), ServerSettings())
    assert threading.enumerate() == threads
    assert open_descriptors() == descriptors
    assert os.listdir(tmp_path) == []


def test_stopped_server_leaves_no_subscription(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvs.server.loop.TURN_SECONDS", 0.0)  # a turn ends one subscription
    with serving() as served:
        core = served.store._core
        client = Client(served, "c").connected()
        for key in (b"a", b"b", b"c"):
            client.subscribe(key)
        core._engine.execute(b"WRITE [(b,1)]\n", 0, 1000)
        assert core._engine.has_batches
        core._publication.publish()
    assert served.server._subscriptions not in core._publication._subscriptions
    core._engine.execute(b"WRITE [(a,1)(b,2)(c,3)]\n", 0, 1000)
    assert not core._engine.has_batches
