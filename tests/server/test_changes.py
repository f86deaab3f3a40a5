"""Notifications arrive completely, in order and once, with many writers and slow readers."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kvs.protocol import frames
from kvs.protocol.replies import Notification
from kvs.settings import ServerSettings
from tests.helpers import until
from tests.protocol.pieces import Notifications
from tests.server.raw_client import SECONDS, Client, read_within, serving

pytestmark = pytest.mark.usefixtures("each_engine")


def collect(client: Client, count: int) -> list[Notification]:
    """Read at least `count` notifications."""
    parser = Notifications()
    changes: list[Notification] = []
    while len(changes) < count:
        data = read_within(client.open["not"], 1 << 16)
        assert data, f"the pipe ended after {len(changes)} of {count}"
        changes += parser.feed(data)
    return changes


def test_changes_of_several_writers_arrive_once_in_order() -> None:
    with serving() as served:
        clients = [Client(served, f"c{number}").connected() for number in range(3)]
        for client in clients:
            client.subscribe(b"hot")
        history: list[tuple[int, bytes]] = []
        lock = threading.Lock()

        def write(number: int) -> None:
            for index in range(1500):
                value = b"%d.%d" % (number, index)
                pause = served.store.execute(b"WRITE [(hot,%b)(cold,x)]\n" % value)
                with lock:
                    history.append((pause.revision, value))

        writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for writer in writers:
            writer.start()
        seen = [collect(client, 6000) for client in clients]
        for writer in writers:
            writer.join(SECONDS)
        expected = [Notification(b"hot", value) for _, value in sorted(history)]
        assert [len(history)] * 3 == [len(changes) for changes in seen]
        assert all(changes == expected for changes in seen)


def test_changes_of_one_command_arrive_together_in_order() -> None:
    with serving() as served:
        client = Client(served, "c").connected()
        keys = [b"k%d" % number for number in range(20)]
        for key in keys:
            client.subscribe(key)
        script = b"WRITE [" + b"".join(b"(%b,1)" % key for key in reversed(keys)) + b"]\n"
        writers = [
            threading.Thread(target=lambda: served.store.execute(script * 50)) for _ in range(3)
        ]
        for writer in writers:
            writer.start()
        changes = collect(client, 20 * 150)
        assert [change.key for change in changes] == list(reversed(keys)) * 150
        for writer in writers:
            writer.join(SECONDS)


def test_slow_consumer_is_disconnected_alone() -> None:
    with serving(ServerSettings(outbox_bytes=82 * 10_000)) as served:
        slow, quick = (Client(served, name).connected() for name in ("s", "q"))
        slow.subscribe(b"a")
        quick.subscribe(b"a")
        for _ in range(12):
            served.store.execute(b"WRITE [(a,1)]\n" * 1000)
            assert len(collect(quick, 1000)) == 1000
        until(lambda: served.server.sessions == 1)
        left = collect(slow, 40)
        assert len(left) >= 40
        assert quick.execute(b"READ [a]\n") == (0, b"[(a,1)]\n", b"")


@pytest.mark.parametrize("thousands", [200, pytest.param(1000, marks=pytest.mark.stress)])
@pytest.mark.slow
def test_stopped_reader_blocks_no_writer_and_memory_is_bounded(
    monkeypatch: pytest.MonkeyPatch, thousands: int
) -> None:
    monkeypatch.setattr("kvs.server.opener.OPEN_TIMEOUT_SECONDS", SECONDS)  # to start a reader in
    program = (
        "import os,sys\n"
        "end = os.open(sys.argv[1], os.O_RDONLY)\n"
        "print('open', flush=True)\n"
        "while os.read(end, 65536): pass\n"
    )
    with serving() as served:
        client = Client(served, "c").make().register().opens("resp")
        assert client.reply() == (frames.CONNECT, 0)
        reader = subprocess.Popen(
            [sys.executable, "-c", program, str(client.path("not"))], stdout=subprocess.PIPE
        )
        try:
            client.opens("req")
            assert reader.stdout is not None
            assert reader.stdout.readline() == b"open\n"
            client.subscribe(b"a")
            os.kill(reader.pid, signal.SIGSTOP)
            before = resident()
            for _ in range(thousands):
                served.store.execute(b"WRITE [(a,1)]\n" * 1000)
            until(lambda: served.server.sessions == 0)
            assert served.store.revision == thousands * 1000
            assert resident() - before < 60_000_000
        finally:
            os.kill(reader.pid, signal.SIGCONT)
            reader.communicate(timeout=SECONDS)
        assert reader.returncode == 0


def resident() -> int:
    """Return the memory of this process, which is the server's, in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_resubscribing_during_changes_loses_nothing() -> None:
    with serving() as served:
        over = threading.Event()

        def write() -> None:
            number = 0
            while not over.is_set():
                number += 1
                served.store.execute(b"WRITE [(n,%d)]\n" % number)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for index in range(15):
                client = Client(served, f"c{index}").connected()
                client.subscribe(b"n")
                numbers = [int(change.value) for change in collect(client, 200)]
                assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
                if index % 3 == 0:
                    served.server.disconnect_all()
                    until(lambda: served.server.sessions == 0)
                client.close()
        finally:
            over.set()
            writer.join(SECONDS)
