"""A server with few descriptors: connects wait until descriptors are free, and none is lost."""

import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kvs.protocol import frames
from tests.helpers import Start, end, started, until
from tests.server.raw_client import SECONDS, Client, Place

CLIENTS = 24

UNBOUNDED = """
import logging, os, resource, signal, sys
from kvs.server.server import Server
from kvs.settings import ServerSettings
from kvs.library import Store
logging.basicConfig(level="WARNING", stream=sys.stderr)
server = Server(Store()._core, os.fsencode(sys.argv[1]), ServerSettings())
signal.signal(signal.SIGTERM, lambda *_: server.stop())
limit = max(map(int, os.listdir("/proc/self/fd"))) + 20
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
print("ready", flush=True)
server.run()
"""
"""A server that takes more sessions than it has descriptors for."""


@contextmanager
def unbounded(folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-c", UNBOUNDED, str(folder / "reg")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


def serve_all(place: Place, clients: list[Client]) -> None:
    """Serve each client; all have sent their connects."""
    for client in clients:
        assert client.reply() == (frames.CONNECT, 0)
        client.opens("req", "not")
        assert client.execute(b"WRITE [(%b,1)]\n" % client.name.encode()) == (0, b"", b"")
        client.close()


def test_connects_wait_while_no_descriptor_is_free() -> None:
    with tempfile.TemporaryDirectory(prefix="k", dir="/tmp") as name:
        folder = Path(name)
        place = Place(folder / "reg", folder)
        with unbounded(folder) as process:
            live = Client(place, "live").connected()
            assert live.subscribe(b"c7") == 0
            clients = [
                Client(place, f"c{number}").make().reads_at_once() for number in range(CLIENTS)
            ]
            for client in clients:
                client.register()
            for _ in range(20):
                assert live.execute(b"READ [none]\n") == (0, b"[(none,KVSERROR)]\n", b"")
            serve_all(place, clients)
            assert live.change() == (b"c7", b"1")
            assert live.execute(b"SHOW\n")[1].count(b"\n") == CLIENTS
            process.send_signal(signal.SIGTERM)
            _, stderr = process.communicate(timeout=SECONDS)
            assert process.returncode == 0
            assert stderr.count(b"\n") == 1
            assert b"out of descriptors or pipes: Too many open files with " in stderr


def test_session_limit_by_descriptors_is_logged_once() -> None:
    with tempfile.TemporaryDirectory(prefix="k", dir="/tmp") as name:
        folder = Path(name)
        place = Place(folder / "reg", folder)
        (folder / "jobs").mkdir()
        how = Start(limits={resource.RLIMIT_NOFILE: 110})
        with started("serve", folder / "jobs", "2", "2", place.path, how=how) as process:
            until(place.path.exists)
            clients = [
                Client(place, f"c{number}").make().reads_at_once() for number in range(CLIENTS)
            ]
            for client in clients:
                client.register()
            serve_all(place, clients)
            (folder / "new").write_text("BACKUP\n")
            (folder / "new").rename(folder / "jobs" / "a.job")
            until((folder / "jobs" / "a-1.bck").exists)
            process.send_signal(signal.SIGTERM)
            ended = end(process)
            assert ended.status == 0
            lines = [line for line in ended.lines if "ulimit -n" in line]
            assert len(lines) == 1
            assert "at most 10 sessions, not 256; raise it with ulimit -n" in lines[0]
