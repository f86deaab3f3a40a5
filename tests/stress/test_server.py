"""A server for long and for many: storms of signals, clients that die, a thousand sessions."""

import os
import random
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kvs.protocol import frames
from kvs.protocol.replies import Notification
from kvs.protocol.requests import Disconnect
from tests.cli.test_serve import Serving, output, serving
from tests.helpers import until
from tests.protocol.pieces import Notifications
from tests.server.raw_client import SECONDS, Client
from tests.server.test_kills import CLIENT, STAGES

pytestmark = pytest.mark.stress

STORM_ROUNDS = 300
SOAK_SECONDS = 60
SESSIONS = 1000
CHANGES = 1000


def descriptors(server: Serving) -> int:
    """Return how many descriptors the server has open."""
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


@contextmanager
def jobs_coming(server: Serving) -> Iterator[None]:
    """Drop the same job into the directory again and again."""
    over = threading.Event()

    def drop() -> None:
        job = "WRITE [(hot,1)]\n" * 20_000 + "BACKUP\nDELETE [hot]\nSHOW\n"
        while not over.is_set():
            (server.folder / "new").write_text(job)
            (server.folder / "new").rename(server.jobs / "again.job")
            over.wait(0.05)

    thread = threading.Thread(target=drop)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(SECONDS)


def test_server_survives_a_storm_of_sigusr1() -> None:
    with serving("--max-sessions", "4", "--log-level", "error") as server:
        Client(server, "first").connected().close()
        rng = random.Random(2)
        with jobs_coming(server):
            for number in range(STORM_ROUNDS):
                clients = [Client(server, f"{number}-{index}").make() for index in range(6)]
                for client in clients:
                    client.register()
                    for which in ("resp", "not"):
                        if rng.random() < 0.6:
                            flags = os.O_RDONLY | os.O_NONBLOCK
                            client.open[which] = os.open(client.path(which), flags)
                    if rng.random() < 0.5:
                        server.process.send_signal(signal.SIGUSR1)
                # What is still there after a moment may have come to any stage.
                answered = [client.open["resp"] for client in clients if "resp" in client.open]
                select.select(answered, [], [], rng.uniform(0, 0.05))
                for _ in range(rng.randrange(1, 30)):
                    server.process.send_signal(signal.SIGUSR1)
                for client in clients:
                    client.close()
                    client.remove()
            # Those whose connects had not been served when their pipes went cost nobody a place.
            assert output(server, b"COUNT\n").strip().isdigit()
        until((server.jobs / "again-1.bck").exists)
        until(lambda: descriptors(server) < 25)
        status, log = server.end()
        assert (status, log) == (0, "")


def test_subscriber_gets_each_change_as_others_die() -> None:
    with serving("--max-sessions", "12", "--log-level", "error") as server:
        stays = Client(server, "stays").connected()
        stays.subscribe(b"n")
        before = descriptors(server)
        deadline = time.monotonic() + SOAK_SECONDS
        rng = random.Random(3)
        seen: list[Notification] = []
        parser = Notifications()
        stop = threading.Event()

        def watch() -> None:
            poll = select.poll()
            poll.register(stays.open["not"], select.POLLIN)
            while not stop.is_set() or poll.poll(0):
                if poll.poll(100):
                    seen.extend(parser.feed(os.read(stays.open["not"], 1 << 16)))

        def come_and_go(name: str, seed: int) -> None:
            rng = random.Random(seed)
            while time.monotonic() < deadline:
                program = CLIENT.replace('"k"', repr(name))
                steps = rng.choice([stage for stage in STAGES if stage != "make connect"])
                with subprocess.Popen(
                    [sys.executable, "-c", program, server.path, server.folder, steps],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                ) as process:
                    assert process.stdout is not None
                    if rng.random() < 0.7:
                        process.stdout.readline()
                    else:
                        select.select([process.stdout], [], [], rng.uniform(0, 0.3))
                    process.kill()
                for which in ("req", "resp", "not"):
                    (server.folder / f"{name}.{which}").unlink(missing_ok=True)

        threads = [threading.Thread(target=watch)] + [
            threading.Thread(target=come_and_go, args=(f"k{seed}", seed)) for seed in range(6)
        ]
        for thread in threads:
            thread.start()
        written = 0
        while time.monotonic() < deadline:
            count = rng.randrange(1, 200)
            script = b"".join(
                b"WRITE [(n,%d)(hot,%d)]\n" % (number, number)
                for number in range(written, written + count)
            )
            assert stays.execute(script) == (0, b"", b"")
            written += count
        for thread in threads[1:]:
            thread.join(SECONDS)
        stop.set()
        threads[0].join(SECONDS)
        assert [int(change.value) for change in seen] == list(range(written))
        until(lambda: descriptors(server) <= before)
        status, log = server.end()
        assert (status, log) == (0, "")


@contextmanager
def many_files() -> Iterator[int]:
    """Raise the limit of open files to the hard one; yield it."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield before[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_thousand_sessions_get_each_change_of_a_hot_key() -> None:
    options = ("--max-sessions", str(SESSIONS), "--log-level", "warning")
    with many_files() as hard, serving(*options) as server:
        count = min(SESSIONS, hard // 3 - 100)
        clients = [Client(server, f"c{number}").connected() for number in range(count)]
        for client in clients:
            client.subscribe(b"hot")
        job = "".join(f"WRITE [(hot,{number})]\n" for number in range(CHANGES))
        (server.folder / "new").write_text(job)
        (server.folder / "new").rename(server.jobs / "a.job")
        poll = select.epoll()
        parsers = {client.open["not"]: Notifications() for client in clients}
        seen: dict[int, list[int]] = {descriptor: [] for descriptor in parsers}
        for descriptor in parsers:
            poll.register(descriptor, select.EPOLLIN)
        left = count
        while left:
            ready = poll.poll(SECONDS)
            assert ready, f"nothing more comes for {left} of {count}"
            for descriptor, _ in ready:
                data = os.read(descriptor, 1 << 16)
                assert data, f"the end came after {len(seen[descriptor])}"
                changes = parsers[descriptor].feed(data)
                seen[descriptor] += [int(change.value) for change in changes]
                if len(seen[descriptor]) >= CHANGES:
                    poll.unregister(descriptor)
                    left -= 1
        assert all(numbers == list(range(CHANGES)) for numbers in seen.values())
        for client in clients:
            client.send(Disconnect().encode())
        for client in clients:
            assert client.reply() == (frames.DISCONNECT, 0)
            client.close()
        poll.close()
        status, log = server.end()
        assert status == 0
        assert [line for line in log.splitlines() if "the bound" not in line] == []
