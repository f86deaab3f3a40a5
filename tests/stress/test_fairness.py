"""What a session waits for others, in milliseconds: whatever they send, and when they go."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kvs.protocol.requests import Execute
from tests.cli.test_serve import Serving, read_log_until, serving
from tests.server.raw_client import Client, Place
from tests.server.test_scheduler import ENDLESS
from tests.stress.crowd import KINDS

pytestmark = pytest.mark.stress

CROWD = 200
MEASURED_SECONDS = 8.0
LATE_SECONDS = 0.020
END_SECONDS = 0.100
BUSY = (sys.executable, "-c", "while True: pass")


@contextmanager
def started(*command: str) -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def late(client: Client, seconds: float) -> float:
    """Return how long 99 of 100 requests take at most."""
    times = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        begun = time.monotonic()
        assert client.execute(b"READ [a]\n")[0] == 0
        times.append(time.monotonic() - begun)
        time.sleep(0.003)
    return sorted(times)[len(times) * 99 // 100]


@pytest.mark.parametrize("kind", KINDS)
def test_short_request_is_not_delayed_by_long_ones(kind: str) -> None:
    with serving("--max-sessions", "300", "--log-level", "error") as server:
        client = Client(server, "c").connected()
        with started(*BUSY), started(*BUSY):
            usual = late(client, MEASURED_SECONDS / 2)
        command = (sys.executable, "-m", "tests.stress.crowd")
        place = (str(server.path), str(server.folder), kind, str(CROWD))
        with started(*command, *place) as crowd:
            assert crowd.stdout is not None
            assert crowd.stdin is not None
            assert crowd.stdout.readline() == b"connected\n"
            crowd.stdin.write(b"\n")
            crowd.stdin.flush()
            measured = late(client, MEASURED_SECONDS)
        print(f"{kind}: {measured * 1000:.1f} ms; two busy cores: {usual * 1000:.1f} ms")
        assert measured <= usual + LATE_SECONDS


@pytest.mark.parametrize("end", ["gone", "dropped"])
@pytest.mark.parametrize("kind", ENDLESS)
def test_ended_session_frees_its_place_at_once(kind: str, end: str) -> None:
    with serving("--max-sessions", "1") as server:
        client = Client(server, "c").connected()
        read_log_until(server.process, b" begins\n")
        client.send(Execute(ENDLESS[kind]).encode())
        time.sleep(0.1)  # any moment will do
        begun = time.monotonic()
        if end == "gone":
            client.close()
        else:
            server.process.send_signal(signal.SIGUSR1)
        read_log_until(server.process, b" ended: ")
        assert time.monotonic() - begun <= END_SECONDS


def rss(server: Serving) -> int:
    """Return the bytes of memory that the server has."""
    with open(f"/proc/{server.process.pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_memory_of_large_replies_is_bounded_and_freed() -> None:
    table = "".join(f"WRITE [(key{number:04},{'v' * 31})]\n" for number in range(1024))
    with serving("--log-level", "error", table=table) as server:
        place: Place = server
        clients = [Client(place, f"c{number}").connected() for number in range(8)]
        before = most = rss(server)
        for client in clients:
            client.send(Execute(b"SHOW\n" * 6000).encode())
        end = time.monotonic() + 8.0
        while time.monotonic() < end:
            most = max(most, rss(server))
            time.sleep(0.01)
        for client in clients:
            client.close()
        time.sleep(2.0)
        assert most - before < 320 << 20
        assert rss(server) - before < 32 << 20
