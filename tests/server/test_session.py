"""Sessions of every kind of client: replies, and how sessions end."""

import contextlib
import fcntl
import itertools
import os
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvs.errors import ThreadStartError
from kvs.library import Store
from kvs.protocol import frames
from kvs.protocol.frames import Dialect
from kvs.protocol.requests import Disconnect, Execute, Subscribe
from kvs.server.server import Server
from kvs.settings import ServerSettings
from kvs.store.subscriptions import Outbox, Subscriptions
from tests.helpers import until
from tests.server.raw_client import SECONDS, Client, Served, compiled, send, serving, stop_soon

pytestmark = pytest.mark.usefixtures("each_engine")


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as one:
        yield one


ORDERS = {
    "the reply before requests and notifications": ("resp", "reply", "req", "not"),
    "requests first, and the reply last": ("req", "resp", "not", "reply"),
    "requests last, then the reply": ("resp", "not", "req", "reply"),
    "notifications first": ("not", "resp", "req", "reply"),
    "notifications last": ("req", "resp", "reply", "not"),
    "notifications, requests": ("not", "req", "resp", "reply"),
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=list(ORDERS))
def test_client_opens_its_pipes_in_any_order(served: Served, order: tuple[str, ...]) -> None:
    check_order(served, order)


def check_order(served: Served, order: tuple[str, ...]) -> None:
    client = Client(served, "c").make().register()
    for step in order:
        if step == "reply":
            assert client.reply() == (frames.CONNECT, 0)
        else:
            client.opens(step)
    served.store.write({"a": "1"})
    assert client.subscribe(b"a") == 1
    served.store.write({"a": "2"})
    assert client.change() == (b"a", b"2")
    client.close()
    client.remove()


def test_notifications_pipe_may_be_opened_twice(served: Served) -> None:
    client = Client(served, "c").make().register().opens("not")
    first = client.open.pop("not")
    client.opens("resp", "req", "not")
    assert client.reply() == (frames.CONNECT, 0)
    client.subscribe(b"a")
    os.close(first)
    served.store.write({"a": "1"})
    assert client.change() == (b"a", b"1")


@pytest.fixture(scope="module")
def old_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("cc"))


@pytest.fixture(scope="module")
def digits_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("cc"), "-DDIGITS")


C_ORDERS = [
    "".join(steps)
    for steps in itertools.permutations("qrnc")
    if steps.index("r") < steps.index("c")
]


@pytest.mark.parametrize("order", C_ORDERS)
def test_c_client_with_binary_op_bytes_is_served(
    served: Served, old_client: Path, order: str
) -> None:
    session_in_c(served, old_client, order, Dialect.BINARY)


@pytest.mark.parametrize("order", C_ORDERS)
def test_c_client_with_digit_op_bytes_is_served(
    served: Served, digits_client: Path, order: str
) -> None:
    session_in_c(served, digits_client, order, Dialect.DIGITS)


def session_in_c(served: Served, program: Path, order: str, dialect: Dialect) -> None:
    names = [served.folder / name for name in ("req", "resp", "not")]
    arguments = [str(program), order, str(served.path), *map(str, names), "key", "3"]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == f"{dialect + 1} {dialect}\n"
    assert process.stdout.readline() == f"{dialect + 3} {dialect}\n"
    served.store.write({"key": "v"})
    served.store.write({"other": "v", "key": "w" * 40})
    served.store.delete(["key"])
    assert process.communicate(timeout=SECONDS)[0] == (
        f"(key,v)\n(key,{'w' * 40})\n(key,DELETED)\n{dialect + 2} {dialect}\nend\n"
    )
    assert process.returncode == 0
    until(lambda: served.server.sessions == 0)


def test_subscribe_and_unsubscribe_results(
    served: Served,
) -> None:
    client = Client(served, "c").connected()
    served.store.write({"there": "1"})
    assert client.subscribe(b"there") == 1
    assert client.subscribe(b"absent") == 0
    assert client.unsubscribe(b"there") == 0
    assert client.unsubscribe(b"there") == 1
    assert client.unsubscribe(b"never") == 1
    assert client.subscribe(b"absent") == 0
    served.store.write([("there", "2"), ("absent", "3"), ("absent", "4")])
    assert client.change() == (b"absent", b"4")
    served.store.delete(["absent"])
    served.store.delete(["absent"])
    served.store.write({"absent": "5"})
    assert [client.change(), client.change()] == [(b"absent", b"DELETED"), (b"absent", b"5")]


def test_subscribe_to_a_key_that_does_not_fit_is_answered_0(served: Served) -> None:
    client = Client(served, "c").connected()
    for name in (b"", b"x" * 41):
        assert client.subscribe(name) == 0
        assert client.unsubscribe(name) == 1


def test_words_of_any_bytes_are_notified_raw(served: Served) -> None:
    client = Client(served, "c").connected()
    for name in (b"a b", b"a)", b'"', b"\xff\n"):
        assert client.subscribe(name) == 0
        for value in (b"two words", b"", b"v" * 41, b"\0"):
            served.store.write({name: value})
        changes = [client.change() for _ in range(4)]
        values = [b"two words", b"", frames.CHANGED, frames.CHANGED]
        assert changes == [(name, value) for value in values]
        assert client.subscribe(name) == 1
        assert client.unsubscribe(name) == 0


def test_strings_end_at_the_first_nul(served: Served) -> None:
    client = Client(served, "c").connected()
    served.store.write({"a": "1"})
    client.send(b"\x03" + b"a\0" + b"n" * 39)
    assert client.reply()[0] == frames.SUBSCRIBE
    served.store.write({"a": "2"})
    assert client.change() == (b"a", b"2")


def test_requests_arrive_together_and_in_pieces(served: Served) -> None:
    client = Client(served, "c").connected()
    both = Subscribe(b"a").encode() + Execute(b"WRITE [(a,1)]\nREAD [a]\n").encode()
    client.send(both + both[:20])
    assert client.reply() == (3, 0)
    assert client.executed() == (0, b"[(a,1)]\n", b"")
    for byte in both[20:]:
        client.send(bytes([byte]))
    assert client.reply() == (3, 1)
    assert client.executed() == (0, b"[(a,1)]\n", b"")
    assert [client.change(), client.change()] == [(b"a", b"1")] * 2


def test_whole_requests_before_end_of_input_are_executed(
    served: Served,
) -> None:
    client = Client(served, "c").connected()
    client.send(Execute(b"WRITE [(a,1)]\n").encode() * 3 + b"\x05\xff")
    client.close("req")
    for _ in range(3):
        assert client.executed() == (0, b"", b"")
    assert client.at_end("resp")
    assert client.at_end("not")
    assert served.store.revision == 3


@contextlib.contextmanager
def blocked_loop(served: Served) -> Iterator[None]:
    """Block the server's loop until the end."""
    blocked, resume = threading.Event(), threading.Event()

    def block() -> None:
        blocked.set()
        resume.wait(SECONDS)

    served.server._loop.call_soon_threadsafe(block)
    assert blocked.wait(SECONDS)
    try:
        yield
    finally:
        resume.set()


@pytest.mark.parametrize("end", ["resp", "not", "all", "dropped"])
def test_whole_requests_before_any_other_end_are_executed(
    served: Served, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvs.server.session.FINISH_SECONDS", SECONDS)
    monkeypatch.setattr("kvs.server.session.FINISH_ALL_SECONDS", SECONDS)
    client = Client(served, "c").connected()
    requests = [Execute(b"WRITE [(a,%d)]\n" % number * 1000).encode() for number in range(3)]
    requests += [Subscribe(b"a").encode()] * 100
    requests += [Execute(b"SHOW\nWRITE [(b,1)]\nWAIT 9999999\nWRITE [(c,1)]\n").encode()]
    with blocked_loop(served):
        client.send(b"".join(requests))
        match end:
            case "all":
                client.close("resp", "not", "req")
            case "dropped":
                served.server.disconnect_all()
            case which:
                client.close(which)
    until(lambda: served.server.sessions == 0)
    assert served.store.items() == [(b"a", b"2"), (b"b", b"1")]
    assert served.store.revision == 3001
    assert not served.server._subscriptions._by_key


def test_scripts_behind_a_broken_reply_are_executed(served: Served) -> None:
    """The reply to a short script finds the pipe closed while a long script waits behind it."""
    client = Client(served, "c").connected()
    with blocked_loop(served):
        client.send(Execute(b"READ [a]\n").encode())
        client.send(Execute(b"WRITE [(a,1)]\n" * 2000).encode())
        client.close("resp")
    until(lambda: served.server.sessions == 0)
    assert served.store.revision == 2000
    assert Client(served, "d").connected().execute(b"READ [a]\n") == (0, b"[(a,1)]\n", b"")


def test_execute_returns_output_and_errors(served: Served) -> None:
    client = Client(served, "c").connected()
    script = b"WRITE [(a,1)]\nREAD [a\n\nSHOW\n  BACKUP\nWAIT 1\nBACKUP\nREAD [a]"
    assert client.execute(script) == (
        1,
        b"(a, 1)\nWaiting...\n[(a,1)]\n",
        b"2:8: expected ',' or ']' after a key, not the end of the line\n"
        b"5:3: BACKUP belongs to a job, not to a session\n"
        b"7:1: BACKUP belongs to a job, not to a session\n",
    )
    assert client.execute(b"") == (0, b"", b"")
    assert client.execute(b"BACKUP")[2].startswith(b"1:1: BACKUP")


def test_scripts_start_no_thread(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(served, "c").connected()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        assert client.execute(b"WRITE [(a,1)]\nSHOW\n") == (0, b"(a, 1)\n", b"")


def no_thread(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_server_without_a_thread_raises_thread_start_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    with pytest.raises(ThreadStartError):
        Server(Store()._core, os.fsencode(tmp_path / "reg"), ServerSettings())
    assert os.listdir(tmp_path) == []


def test_oversized_script_is_read_to_its_end_and_refused(served: Served) -> None:
    client = Client(served, "c").connected()
    length = frames.MAX_SCRIPT_BYTES + 1
    client.send(b"\x05" + length.to_bytes(4, "little"))
    left = length
    while left:
        piece = min(left, 65536)
        client.send(b"x" * piece)
        left -= piece
    result, output, errors = client.executed()
    assert (result, output) == (1, b"")
    assert b"at most 1048576 bytes, this one has 1048577" in errors
    whole = b"# " + b"x" * (frames.MAX_SCRIPT_BYTES - 2)
    assert client.execute(whole) == (0, b"", b"")


def test_wait_pauses_its_session_alone_and_ends_with_it(served: Served) -> None:
    waiting = Client(served, "w").connected()
    waiting.send(Execute(b"WRITE [(w,1)]\nWAIT 9999999999\n").encode())
    until(lambda: b"w" in served.store)
    other = Client(served, "o").connected()
    assert other.execute(b"READ [w]\n") == (0, b"[(w,1)]\n", b"")
    waiting.close()
    until(lambda: served.server.sessions == 1)


def test_reply_larger_than_the_pipe_delays_no_other_session(served: Served) -> None:
    served.store.write({f"key{number}": "v" * 30 for number in range(50_000)})
    reader = Client(served, "r").connected()
    reader.send(Execute(b"SHOW\n").encode() + Subscribe(b"key1").encode())
    other = Client(served, "o").connected()
    for _ in range(100):
        assert other.execute(b"READ [key7]\n") == (0, b"[(key7,%b)]\n" % (b"v" * 30), b"")
    result, output, errors = reader.executed()
    assert (result, output.count(b"\n"), errors) == (0, 50_000, b"")
    assert reader.reply() == (3, 1)


def test_unknown_operation_ends_its_session_alone(served: Served) -> None:
    bad, good = Client(served, "b").connected(), Client(served, "g").connected()
    bad.send(b"\x07")
    assert bad.at_end("resp")
    assert bad.at_end("not")
    assert good.execute(b"SHOW\n") == (0, b"", b"")


@pytest.mark.parametrize("lost", ["req", "resp", "not"])
def test_idle_session_ends_when_its_client_closes_one_pipe(served: Served, lost: str) -> None:
    client = Client(served, "c").connected()
    client.subscribe(b"a")
    client.close(lost)
    until(lambda: served.server.sessions == 0)
    served.store.write({"a": "1"})
    for which in set(client.open) - {"req"}:
        assert client.at_end(which)


def test_disconnect_is_answered_before_the_pipes_close(served: Served) -> None:
    client = Client(served, "c").connected()
    client.subscribe(b"a")
    client.send(b"\x02")
    assert client.reply() == (frames.DISCONNECT, 0)
    assert client.at_end("resp")
    client.close("req")
    assert client.at_end("not")
    until(lambda: served.server.sessions == 0)


def test_disconnect_is_answered_after_replies_that_fill_the_pipe(served: Served) -> None:
    client = Client(served, "c").connected()
    served.store.write({"a": "v" * 40, "b": "v" * 37})
    page = fcntl.fcntl(client.open["resp"], fcntl.F_SETPIPE_SZ, 4096)
    lines, rest = divmod(page - frames.EXECUTE_REPLY_HEADER_BYTES, 47)
    assert (page, rest) == (4096, 44), "an answer that fills a page"
    client.send(Execute(b"READ [a]\n" * lines + b"READ [b]\n").encode() + b"\2\2\2")
    client.close("req")
    until(lambda: unread(client.open["resp"]) == page)
    assert [len(part) for part in client.executed()[1:]] == [page - 10, 0]
    assert client.reply() == (frames.DISCONNECT, 0)
    assert client.at_end("resp")
    assert client.at_end("not")
    until(lambda: served.server.sessions == 0)


def unread(descriptor: int) -> int:
    """Return how many bytes are in a pipe."""
    return int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_lingering_client_is_closed_after_the_timeout(served: Served) -> None:
    client = Client(served, "c").connected()
    client.send(b"\x02")
    assert client.reply() == (frames.DISCONNECT, 0)
    assert client.at_end("not")
    until(lambda: served.server.sessions == 0)


@pytest.mark.parametrize("disconnects", [True, False])
def test_ending_many_subscriptions_delays_no_other_session(
    served: Served, monkeypatch: pytest.MonkeyPatch, *, disconnects: bool
) -> None:
    """They end over several turns of the loop, which serves the others in between."""
    monkeypatch.setattr("kvs.server.loop.TURN_SECONDS", 0.0)
    watcher, other = (Client(served, name).connected() for name in "wo")
    for number in range(20):
        watcher.subscribe(b"k%d" % number)
    left: list[bytes] = []
    answered: list[bool] = []
    unsubscribe = served.store._core.unsubscribe

    def unsubscribing(watchers: Subscriptions[bytes], outbox: Outbox[bytes], key: bytes) -> bool:
        if not left:
            other.send(Execute(b"READ [a]\n").encode())
        left.append(key)
        answered.append(unread(other.open["resp"]) > 0)
        return unsubscribe(watchers, outbox, key)

    monkeypatch.setattr(served.store._core, "unsubscribe", unsubscribing)
    if disconnects:
        watcher.send(Disconnect().encode())
        assert watcher.reply() == (frames.DISCONNECT, 0)
        assert len(left) == 20
    else:
        watcher.close()
        until(lambda: len(left) == 20)
    assert answered[0] is False
    assert answered[-1] is True
    assert other.executed() == (0, b"[(a,KVSERROR)]\n", b"")


def test_connect_over_the_session_limit_waits() -> None:
    with serving(ServerSettings(sessions=2)) as served:
        first, second = (Client(served, name).connected() for name in "ab")
        third = Client(served, "c").make().register()
        fourth = Client(served, "d").make().register()
        assert first.execute(b"SHOW\n") == (0, b"", b"")
        second.close()
        third.opens("resp")
        assert third.reply() == (frames.CONNECT, 0)
        third.opens("req", "not")
        first.send(b"\x02")
        assert first.reply() == (frames.DISCONNECT, 0)
        first.close()
        fourth.opens("resp", "not", "req")
        assert fourth.reply() == (frames.CONNECT, 0)
        assert served.server.sessions == 2


def test_a_hundred_connects_at_once_share_few_sessions() -> None:
    with serving(ServerSettings(sessions=7)) as served:
        clients = [Client(served, f"c{number}").make().reads_at_once() for number in range(100)]
        for client in clients:
            client.register()
        for client in clients:
            assert client.reply() == (frames.CONNECT, 0)
            client.opens("req", "not")
            assert client.execute(b"WRITE [(%b,1)]\n" % client.name.encode()) == (0, b"", b"")
            client.close()
        assert len(served.store) == 100


@pytest.mark.slow
def test_a_hundred_c_clients_at_once_share_few_sessions(old_client: Path) -> None:
    with serving(ServerSettings(sessions=7)) as served, contextlib.ExitStack() as opened:
        processes = []
        for number in range(100):
            pipes = [str(served.folder / f"{number}{which}") for which in "qrn"]
            order = C_ORDERS[number % len(C_ORDERS)]
            command = [str(old_client), order, str(served.path), *pipes, "key", "3"]
            process = subprocess.Popen(command, stdout=subprocess.PIPE)
            opened.callback(process.wait)
            opened.callback(process.kill)
            processes.append(process)
        over = threading.Event()

        def write() -> None:
            while not over.wait(0.001):
                served.store.write({"key": "v"})

        writer = threading.Thread(target=write)
        writer.start()
        try:
            outputs = [process.communicate(timeout=SECONDS)[0] for process in processes]
        finally:
            over.set()
            writer.join(SECONDS)
        for text in outputs:
            assert text in {
                b"1 0\n3 %d\n" % there + b"(key,v)\n" * 3 + b"2 0\nend\n" for there in (0, 1)
            }


def test_disconnect_all_serves_the_waiting_connects() -> None:
    with serving(ServerSettings(sessions=1)) as served:
        first = Client(served, "a").connected()
        first.subscribe(b"k")
        second = Client(served, "b").make().register()
        served.server.disconnect_all()
        assert first.at_end("resp")
        assert first.at_end("not")
        second.opens("resp", "not", "req")
        assert second.reply() == (frames.CONNECT, 0)
        served.store.write({"k": "1"})
        assert second.execute(b"READ [k]\n") == (0, b"[(k,1)]\n", b"")


def test_garbage_disturbs_no_later_connect(served: Served) -> None:
    regular = served.folder / "file"
    regular.write_text("untouched")
    path = os.fsencode(regular)
    for index, garbage in enumerate(
        (
            b"\x01",
            b"\x01" * 200,
            os.urandom(1000),
            frames.Connect(path, path, path).encode(),
            frames.Connect(b"/none", b"/none2", b"/none3").encode(),
            Client(served, "zz").frame()[:60],
        )
    ):
        send(served, garbage)
        client = Client(served, f"c{index}").connected()
        assert client.execute(b"SHOW\n") == (0, b"", b"")
        client.close()
    assert regular.read_text() == "untouched"


def test_disconnect_written_before_the_connect_is_answered(served: Served) -> None:
    client = Client(served, "c").make()
    client.reads_at_once()
    client.open["not"] = os.open(client.path("not"), os.O_RDONLY | os.O_NONBLOCK)
    client.open["req"] = os.open(client.path("req"), os.O_RDWR)
    client.send(Disconnect().encode())
    client.register()
    assert client.reply() == (frames.CONNECT, 0)
    assert client.reply() == (frames.DISCONNECT, 0)
    client.close()


@pytest.mark.slow
def test_connect_reply_waits_for_a_full_responses_pipe(served: Served) -> None:
    """A request was written before the connect, so input has been read when the reply blocks."""
    client = Client(served, "c").make()
    client.open["resp"] = os.open(client.path("resp"), os.O_RDWR | os.O_NONBLOCK)
    size = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            size += os.write(client.open["resp"], bytes(4096))
    client.open["req"] = os.open(client.path("req"), os.O_RDWR)
    client.send(Subscribe(b"a").encode())
    client.register()
    until(lambda: served.server.sessions == 1)
    client.open["not"] = os.open(client.path("not"), os.O_RDONLY | os.O_NONBLOCK)
    client.send(Execute(b"READ [a]\n").encode())
    client.read("resp", size)
    assert client.reply() == (frames.CONNECT, 0)
    assert client.reply() == (frames.SUBSCRIBE, 0)
    assert client.executed() == (0, b"[(a,KVSERROR)]\n", b"")
    client.close()


@pytest.fixture
def soon_unblocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the unblocking of clients that never open their pipes."""
    stop_soon(monkeypatch)


@pytest.mark.usefixtures("soon_unblocked")
def test_connect_with_unacceptable_paths_is_refused(served: Served) -> None:
    good = Client(served, "g").make()
    paths = {which: os.fsencode(good.path(which)) for which in ("req", "resp", "not")}
    link = served.folder / "link"
    link.symlink_to(good.path("resp"))
    for requests, responses, notifications in (
        (paths["req"], os.fsencode(link), paths["not"]),
        (paths["req"], paths["req"], paths["not"]),
        (os.fsencode(served.path), paths["resp"], paths["not"]),
        (paths["req"], os.fsencode(served.folder), paths["not"]),
        (paths["req"], b"/dev/null", paths["not"]),
    ):
        send(served, frames.Connect(requests, responses, notifications).encode())
    good.register().opens("resp")
    assert good.reply() == (frames.CONNECT, 0)
    assert served.server.sessions == 1


@pytest.mark.usefixtures("soon_unblocked")
def test_connect_that_names_a_live_sessions_pipe_is_dropped(served: Served) -> None:
    live = Client(served, "l").connected()
    other = Client(served, "o").make()
    paths = [os.fsencode(live.path("resp")), *(os.fsencode(other.path(w)) for w in ("req", "not"))]
    send(served, frames.Connect(paths[1], paths[0], paths[2]).encode() + live.frame())
    Client(served, "n").connected()
    assert live.execute(b"SHOW\n") == (0, b"", b"")
    assert served.server.sessions == 2


@pytest.mark.slow
def test_client_that_never_opens_its_pipes_loses_its_slot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kvs.server.opener.OPEN_TIMEOUT_SECONDS", 0.5)
    with serving(ServerSettings(sessions=1)) as served:
        Client(served, "dead").make().register()  # takes no place
        half = Client(served, "half").make()
        half.open["resp"] = os.open(half.path("resp"), os.O_RDONLY | os.O_NONBLOCK)  # in time
        half.register()
        assert half.reply() == (frames.CONNECT, 0)
        monkeypatch.undo()  # the next has all the time that it may need
        stop_soon(monkeypatch)
        living = Client(served, "living").make().register()
        assert half.at_end("resp")
        living.opens("resp", "not", "req")
        assert living.reply() == (frames.CONNECT, 0)
