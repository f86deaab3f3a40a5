"""Which connect is served next: one whose client is there, whatever waits before it."""

import os
import re

import pytest

from kvs.protocol import frames
from kvs.protocol.requests import Execute, Subscribe
from kvs.settings import ServerSettings
from tests.helpers import until
from tests.server.raw_client import Client, Served, send, serving, stop_soon


@pytest.fixture(autouse=True)
def _stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the unblocking of clients that never open their pipes."""
    stop_soon(monkeypatch)


def absent(served: Served, count: int, name: str = "d") -> list[Client]:
    """Return so many sets of pipes that nothing opens, made and named in a connect."""
    return [Client(served, f"{name}{number}").make().register() for number in range(count)]


def test_unopened_pipes_delay_no_live_client() -> None:
    with serving(ServerSettings(sessions=1)) as served:
        dead = absent(served, 100)
        for number in range(3):
            for client in dead:
                client.register()
            client = Client(served, f"c{number}").connected()
            assert client.execute(b"READ [a]\n") == (0, b"[(a,KVSERROR)]\n", b"")
            client.close()
            until(lambda: served.server.sessions == 0)
        assert served.server.waiting == 100


def test_absent_clients_are_skipped_when_a_slot_becomes_free() -> None:
    with serving(ServerSettings(sessions=1)) as served:
        first = Client(served, "first").connected()
        absent(served, 200)
        client = Client(served, "c").make().reads_at_once().register()
        absent(served, 10, "e")
        until(lambda: served.server.waiting == 211)
        first.close()
        assert client.reply() == (frames.CONNECT, 0)


def test_repeated_connect_counts_once() -> None:
    with serving() as served:
        [client] = absent(served, 1)
        for _ in range(50):
            client.register()
        other = Client(served, "o").connected()
        assert served.server.waiting == 1
        client.opens("resp", "req", "not")
        assert client.reply() == (frames.CONNECT, 0)
        assert served.server.waiting == 0
        assert other.subscribe(b"k") == 0


def test_recreated_pipes_belong_to_a_new_connect() -> None:
    with serving(ServerSettings(sessions=1)) as served:
        first = Client(served, "first").connected()
        [client] = absent(served, 1)
        until(lambda: served.server.waiting == 1)
        os.link(client.path("req"), served.folder / "old")  # so that its inode is not used again
        client.remove()
        client.make()
        first.close()
        until(lambda: served.server.waiting == 0)
        client.register().opens("resp", "req", "not")
        assert client.reply() == (frames.CONNECT, 0)


def test_recreated_pipes_are_polled_in_place_of_ends_of_the_old_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    with serving() as served:
        client = Client(served, "c").make().reads_at_once().register()
        assert client.reply() == (frames.CONNECT, 0)
        client.close()  # before it has opened requests, which the server now holds open
        until(lambda: served.server.sessions == 0)
        client.register()
        until(lambda: served.server.waiting == 1)
        Client(served, "o").connected()  # so that the connect before it has been polled
        client.remove()
        client.make().reads_at_once().register().opens("req")
        assert client.reply() == (frames.CONNECT, 0)


def test_active_sessions_never_exceed_the_limit() -> None:
    most = 3
    with serving(ServerSettings(sessions=most)) as served:
        clients = [Client(served, f"c{number}").make().reads_at_once() for number in range(20)]
        for client in clients:
            client.register()
        seen = 0
        for client in clients:
            assert client.reply() == (frames.CONNECT, 0)
            client.opens("req", "not")
            seen = max(seen, served.server.sessions)
            client.close()
        assert seen == most


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the deadlines."""
    monkeypatch.setattr("kvs.server.admission.OPEN_TIMEOUT_SECONDS", 0.05)
    monkeypatch.setattr("kvs.server.opener.OPEN_TIMEOUT_SECONDS", 0.05)


@pytest.mark.usefixtures("impatient")
def test_deadlines_do_not_run_while_all_slots_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(ServerSettings(sessions=1)) as served:
        first = Client(served, "first").make().reads_at_once()
        first.open["not"] = os.open(first.path("not"), os.O_RDONLY | os.O_NONBLOCK)
        first.register().opens("req")
        assert first.reply() == (frames.CONNECT, 0)
        [client] = absent(served, 1)
        until(lambda: served.server.waiting == 1)
        for _ in range(4):
            first.execute(b"WAIT 50\n")
        assert served.server.waiting == 1
        monkeypatch.undo()
        first.close()
        client.opens("resp", "req", "not")
        assert client.reply() == (frames.CONNECT, 0)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("never", ["req", "resp", "not"])
def test_each_pipe_has_an_open_deadline(never: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with serving() as served:
        client = Client(served, "c").make()
        for which in {"resp", "not"} - {never}:
            client.open[which] = os.open(client.path(which), os.O_RDONLY | os.O_NONBLOCK)
        client.register()
        if never != "req":
            client.opens("req")
        name = {"req": "requests", "resp": "responses", "not": "notifications"}[never]
        until(lambda: f"the client did not open {name} within" in caplog.text)
        until(lambda: served.server.sessions == 0)


def test_many_waiting_connects_delay_no_session() -> None:
    with serving(ServerSettings(sessions=2)) as served:
        live = Client(served, "live").connected()
        absent(served, 200)
        for number in range(100):
            assert live.execute(b"WRITE [(n,%d)]\n" % number) == (0, b"", b"")
        client = Client(served, "c").connected()
        assert client.subscribe(b"n") == 1


# What is refused is logged.


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level("INFO", "kvs.server")
    return caplog


@pytest.mark.slow
def test_refusal_is_logged_with_reason_and_excerpt(
    log: pytest.LogCaptureFixture,
) -> None:
    with serving() as served:
        good = Client(served, "g").make()
        req, resp, notes = (os.fsencode(good.path(which)) for which in ("req", "resp", "not"))
        link, file = served.folder / "link", served.folder / "file"
        link.symlink_to(good.path("resp"))
        file.touch()
        refused = {
            (req, os.fsencode(link), notes): f"{link}: is not a named pipe (symbolic links",
            (req, os.fsencode(file), notes): f"{file}: is not a named pipe",
            (req, b"/none", notes): "/none: No such file or directory",
            (req, b"pipe", notes): "pipe: No such file or directory (a relative path, resolved in "
            "the directory of the server)",
            (req, req, notes): "one pipe is named twice",
            (os.fsencode(served.path), resp, notes): f"{served.path}: is the registration pipe",
        }
        for paths, reason in refused.items():
            send(served, frames.Connect(*paths).encode())
            until(lambda: f"connect refused: {reason}" in log.text)  # noqa: B023
            line = log.messages[-1]
            assert "121 bytes: \\x01/" in line
            assert line.isprintable()
        send(served, b"hello\x1b\n")
        # A refused path may hold a character 1, which might begin a connect that is not complete.
        until(lambda: "connect: 7 bytes: hello\\x1b\\n" in log.text)
        good.register().opens("resp", "req", "not")
        assert good.reply() == (frames.CONNECT, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make pipes of others")
def test_refusal_of_another_users_pipes_is_logged(log: pytest.LogCaptureFixture) -> None:
    with serving() as served:
        client = Client(served, "c").make()
        os.chown(client.path("resp"), 65534, 65534)
        client.register()
        until(lambda: f"{client.path('resp')}: belongs to user 65534" in log.text)


def test_refusal_of_a_sessions_pipes_is_logged(log: pytest.LogCaptureFixture) -> None:
    with serving() as served:
        client = Client(served, "c").connected().register()
        until(lambda: "the pipes are in use: 121 bytes: \\x01/" in log.text)
        assert client.subscribe(b"k") == 0


def test_repeated_refusals_are_counted(
    log: pytest.LogCaptureFixture,
) -> None:
    with serving() as served:
        for number in range(100):
            send(served, frames.Connect(b"/none", b"/none2", b"/none3").encode())
            send(served, frames.Connect(b"/no%d" % number, b"/no", b"/none").encode())
        Client(served, "c").connected()
        assert 0 < log.text.count("refused") <= 20
    assert re.search(r"/none: No such file or directory: 121 bytes: .*: 99 more", log.text)
    assert "others refused: 81 more" in log.text


def test_refusals_are_logged_again_after_the_repeat_interval(
    log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvs.server.refusals.REPEAT_SECONDS", 0.2)
    with serving() as served:
        for number in range(2):
            send(served, b"hello\n")
            Client(served, f"c{number}").connected()  # so that it has been read
        until(lambda: "not a connect: 6 bytes: hello\\n: 1 more" in log.text)
        send(served, b"again\n")
        until(lambda: "not a connect: 6 bytes: again" in log.text)


def test_incomplete_connect_is_logged(
    log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvs.server.server.INCOMPLETE_SECONDS", 0.05)
    with serving() as served:
        client = Client(served, "c").make()
        send(served, client.frame()[:100])
        until(lambda: "connect refused: an incomplete connect: 100 bytes: \\x01/tmp" in log.text)
        send(served, client.frame()[100:])
        client.opens("resp", "req", "not")
        assert client.reply() == (frames.CONNECT, 0)


@pytest.mark.parametrize(
    ("frame", "logged"),
    [
        (Subscribe(b"key").encode(), r"10 bytes: \x03key"),
        (Execute(b"WRITE [(a,1)]\n").encode(), r"10 bytes: \x05\x0e\x00WRITE"),
        (Execute(b" " * (1 << 20) + b"\n").encode(), r"5 bytes: \x05\x01\x00\x10\x00"),
    ],
)
def test_incomplete_request_is_logged_once_and_session_lives(
    log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, frame: bytes, logged: str
) -> None:
    monkeypatch.setattr("kvs.server.incomplete.INCOMPLETE_SECONDS", 0.05)
    with serving() as served:
        client = Client(served, "c").connected()
        client.send(frame[:10])
        until(lambda: f"a request is incomplete after 0.05 s: {logged}" in log.text)
        client.send(frame[10:])
        if frame[0] == frames.EXECUTE:
            client.executed()
        else:
            assert client.reply() == (frames.SUBSCRIBE, 0)
        assert client.execute(b"WAIT 200\n" + b"#" * 100)[0] == 0
        assert log.text.count("incomplete") == 1
