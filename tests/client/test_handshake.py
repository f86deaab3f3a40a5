"""Connecting to servers that open the pipes in any order, and to paths without a server."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kvs.client.session import connect
from kvs.errors import (
    ClientIdInUseError,
    ConnectRejectedError,
    ConnectTimeoutError,
    ServerNotFoundError,
    SessionClosedError,
)
from kvs.protocol import frames
from kvs.protocol.requests import Disconnect, Subscribe
from kvs.settings import ServerSettings
from tests.client.scripted_server import CONNECTED, Peer, scripted_server
from tests.helpers import SECONDS, until
from tests.server.raw_client import Served, serving

ORDERS = ["req res reply not", "res reply req not", "not res req reply", "res not reply req"]


@contextmanager
def calling_later(call: Callable[[], object]) -> Iterator[None]:
    """Call `call` in a thread after 50 ms, and wait for its end."""
    timer = threading.Timer(0.05, call)
    timer.start()
    try:
        yield
    finally:
        timer.join(SECONDS)
        assert not timer.is_alive()


@pytest.mark.parametrize("order", ORDERS)
def test_server_may_open_the_pipes_in_any_order(runtime: Path, tmp_path: Path, order: str) -> None:
    def script(peer: Peer) -> None:
        for step in order.split():
            if step == "reply":
                peer.send("res", CONNECTED)
            else:
                peer.open(step)
        assert peer.read(42) == Subscribe(b"k").encode()
        peer.send("not", frames.encode_notification(b"k", b"v"))
        peer.send("res", frames.encode_reply(frames.SUBSCRIBE, 1))
        assert peer.read(1) == b"\x02"
        peer.send("res", frames.encode_reply(frames.DISCONNECT, 0))
        assert peer.read(1) == b""

    with scripted_server(tmp_path, script) as fifo:
        with connect(fifo) as session:
            assert session.subscribe("k")
        assert [(change.key, change.value) for change in session.changes()] == [(b"k", b"v")]


def test_rejected_connect_raises_with_the_result(runtime: Path, tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.open("req", "res")
        peer.send("res", frames.encode_reply(frames.CONNECT, 7))

    with scripted_server(tmp_path, script) as fifo, pytest.raises(ConnectRejectedError) as refused:
        connect(fifo)
    assert refused.value.result == 7


def test_connect_accepts_the_digit_0_as_success(runtime: Path, tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.open("req", "res", "not")
        peer.send("res", bytes([frames.CONNECT]) + b"0")
        assert peer.read(42) == Subscribe(b"k").encode()
        peer.send("res", frames.encode_reply(frames.SUBSCRIBE, 0))
        assert peer.read(1) == Disconnect().encode()
        peer.send("res", frames.encode_reply(frames.DISCONNECT, 0))

    with scripted_server(tmp_path, script) as fifo, connect(fifo) as session:
        assert not session.subscribe("k")


@pytest.mark.parametrize("answer", [b"\x03\x00", frames.encode_execute_reply_header(0, 0, 0)])
def test_reply_of_another_operation_ends_the_connect(
    runtime: Path, tmp_path: Path, answer: bytes
) -> None:
    def script(peer: Peer) -> None:
        peer.open("req", "res")
        peer.send("res", answer)

    with (
        scripted_server(tmp_path, script) as fifo,
        pytest.raises(SessionClosedError, match="does not match the connect"),
    ):
        connect(fifo)


def test_connect_fails_when_the_server_closes_the_pipes(runtime: Path, tmp_path: Path) -> None:
    with (
        scripted_server(tmp_path, lambda peer: peer.open("req", "res")) as fifo,
        pytest.raises(SessionClosedError, match="before it answered"),
    ):
        connect(fifo)


def test_connect_times_out_without_an_answer(runtime: Path, tmp_path: Path) -> None:
    with (
        scripted_server(tmp_path, lambda _: None) as fifo,
        pytest.raises(ConnectTimeoutError) as caught,
    ):
        connect(fifo, timeout=0.05)
    assert isinstance(caught.value, TimeoutError)
    assert "within 0.05 s" in str(caught.value)


def test_timeout_error_says_what_the_server_has_done(runtime: Path, tmp_path: Path) -> None:
    def timeout_error(fifo: Path) -> str:
        with pytest.raises(ConnectTimeoutError) as caught:
            connect(fifo, timeout=0.2)
        return str(caught.value)

    with scripted_server(tmp_path, lambda _: None) as fifo:
        assert timeout_error(fifo).endswith("its log says why")
    stopped = tmp_path / "stopped"
    os.mkfifo(stopped)
    end = os.open(stopped, os.O_RDWR | os.O_NONBLOCK)
    assert "the server has not read it" in timeout_error(stopped)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(end, bytes(64))
    assert "could not be written" in timeout_error(stopped)
    os.close(end)

    over, folder = threading.Event(), tmp_path / "d"
    folder.mkdir()

    def hang(peer: Peer) -> None:
        peer.open("req")
        over.wait(SECONDS)

    with scripted_server(folder, hang) as fifo:
        assert "opened the requests pipe, and sent no answer" in timeout_error(fifo)
        over.set()


@pytest.mark.slow
def test_connect_fails_when_the_server_exits(runtime: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "registration"
    os.mkfifo(fifo)
    registration = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)

    def exit_server() -> None:
        until(lambda: runtime.exists() and len(list(runtime.iterdir())) == 4)
        os.close(registration)

    thread = threading.Thread(target=exit_server)
    thread.start()
    with pytest.raises(ServerNotFoundError):
        connect(fifo, timeout=None)
    thread.join()


def test_connect_without_a_server_says_why(runtime: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    (tmp_path / "file").touch()
    missing, dangling = tmp_path / "missing", tmp_path / "dangling"
    dangling.symlink_to("missing")
    start = "'kvs serve JOBS_DIR MAX_THREADS BACKUPS_MAX"
    reasons = {
        fifo: f"no server reads this pipe; {start} {fifo}' starts a server",
        tmp_path / "file": "it is not a named pipe",
        tmp_path: "it is not a named pipe",
        Path("/dev/null"): "it is not a named pipe",
        missing: f"the registration pipe does not exist; {start} {missing}' starts a server",
        dangling: f"the registration pipe does not exist; {start} {dangling}' starts a server",
        tmp_path / "file" / "x": "Not a directory",
    }
    for path, reason in reasons.items():
        with pytest.raises(ServerNotFoundError) as refused:
            connect(path)
        assert str(refused.value) == f"{path}: {reason}"
    assert not runtime.exists()


def test_connect_follows_a_link_to_the_registration_pipe(served: Served, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(served.path)
    with connect(os.fsencode(tmp_path / "link")) as session:
        assert not session.subscribe("k")


def test_id_in_use_is_refused(served: Served) -> None:
    with connect(served.path, id="me") as session:
        with pytest.raises(ClientIdInUseError):
            connect(served.path, id="me")
        assert not session.subscribe("k")
    with connect(served.path, id="me"):
        pass


def test_connect_waits_for_a_free_session(runtime: Path) -> None:
    with serving(ServerSettings(sessions=1)) as served:
        first = connect(served.path)
        with pytest.raises(ConnectTimeoutError):
            connect(served.path, timeout=0.05)
        with calling_later(first.close), connect(served.path) as second:
            assert not second.subscribe("k")


def test_waiting_connect_succeeds_after_disconnect_all(runtime: Path) -> None:
    with serving(ServerSettings(sessions=1)) as served, connect(served.path) as first:
        with calling_later(served.server.disconnect_all), connect(served.path) as second:
            assert not second.subscribe("k")
        with pytest.raises(SessionClosedError):
            first.subscribe("k")


@pytest.mark.slow
def test_waiting_connect_survives_a_new_registration_pipe(runtime: Path) -> None:
    with serving(ServerSettings(sessions=1)) as served:
        first = connect(served.path)

        def replace_pipe() -> None:
            until(lambda: served.server.waiting)
            before = os.open(served.path, os.O_PATH)  # so that no other file gets its inode
            served.path.unlink()
            until(served.path.exists)
            assert not os.path.samestat(served.path.stat(), os.fstat(before))
            os.close(before)
            first.close()

        thread = threading.Thread(target=replace_pipe)
        thread.start()
        with connect(served.path) as second:
            assert not second.subscribe("k")
        thread.join()


def test_fifty_clients_connect_at_once(served: Served) -> None:
    errors: list[BaseException] = []

    def one(number: int) -> None:
        try:
            with connect(served.path) as session:
                session.write({f"k{number}": str(number)})
        except BaseException as error:  # noqa: BLE001  (asserted below)
            errors.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(served.store) == 50
