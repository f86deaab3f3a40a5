"""Clients killed at every stage: only their own sessions end."""

import subprocess
import sys
from collections.abc import Callable

import pytest

from kvs.settings import ServerSettings
from tests.helpers import until
from tests.server.raw_client import SECONDS, Client, Served, serving, stop_soon

CLIENT = """
import os, sys
from pathlib import Path
from kvs.protocol.requests import Execute, Subscribe
from tests.server.raw_client import Client, Place
path, folder, steps = sys.argv[1:]
client = Client(Place(Path(path), Path(folder)), "k")
for step in steps.split():
    match step:
        case "make": client.make()
        case "connect": client.register()
        case "reply": assert client.reply() == (1, 0)
        case "subscribe": client.subscribe(b"hot")
        case "half": client.send(Subscribe(b"never").encode()[:20])
        case "wait": client.send(Execute(b"WRITE [(k,1)]\\nWAIT 9999999\\n").encode())
        case "show": client.send(Execute(b"SHOW\\n" * 3).encode())
        case "goodbye": client.send(bytes([2]))
        case which: client.opens(which)
print("there", flush=True)
os.read(0, 1)
"""
"""A client program that performs the given steps, and then waits to be killed."""

STAGES = [
    "make",
    "make connect",
    "make connect req",
    "make connect resp",
    "make connect not",
    "make connect not req",
    "make connect req resp",
    "make connect resp reply",
    "make connect resp reply req",
    "make connect resp reply not",
    "make connect resp reply req half",
    "make connect resp reply req subscribe",
    "make connect resp reply req not",
    "make connect resp reply req not half",
    "make connect resp reply req not subscribe",
    "make connect resp reply req not subscribe half",
    "make connect resp reply req not subscribe wait",
    "make connect resp reply req not subscribe show",
    "make connect resp reply req not subscribe goodbye",
]


def kill_at(
    served: Served,
    steps: str,
    *,
    after_changes: int = 0,
    seen: Callable[[], object] = lambda: True,
) -> None:
    """Start a client, have it do `steps`, and kill it, with so many notifications unread.

    That is done when it is `seen`, too, what it did.
    """
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT, str(served.path), str(served.folder), steps],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"there\n"
            served.store.execute(b"WRITE [(hot,1)]\n" * after_changes)
            until(seen)
        finally:
            process.kill()
    Client(served, "k").remove()


@pytest.fixture(autouse=True)
def _unblock_killed_clients_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the unblocking of clients that were killed while they opened pipes."""
    stop_soon(monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("steps", STAGES)
def test_killed_client_disturbs_no_other_session(
    steps: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with serving() as served:
        served.store.write({f"key{number}": "v" * 30 for number in range(5000)})
        other = Client(served, "o").connected()
        other.subscribe(b"hot")
        # A connect that is read later may name pipes of the next client with that name.
        kill_at(
            served,
            steps,
            seen=lambda: steps == "make" or served.server.waiting or "k.req begins" in caplog.text,
        )
        until(lambda: served.server.sessions == 1)
        served.store.execute(b"WRITE [(hot,2)]\n")
        assert other.change() == (b"hot", b"2")
        again = Client(served, "k").connected()
        assert again.execute(b"READ [hot,never]\n")[1] == b"[(hot,2)(never,KVSERROR)]\n"


def test_killed_client_with_a_full_pipe_disturbs_no_other() -> None:
    with serving() as served:
        other = Client(served, "o").connected()
        kill_at(served, "make connect resp reply req not subscribe", after_changes=5000)
        until(lambda: served.server.sessions == 1)
        assert other.execute(b"READ [hot]\n") == (0, b"[(hot,1)]\n", b"")


def test_killed_waiting_client_disturbs_no_other() -> None:
    with serving(ServerSettings(sessions=1)) as served:
        first = Client(served, "o").connected()
        with subprocess.Popen(
            [sys.executable, "-c", CLIENT, str(served.path), str(served.folder), "make connect"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"there\n"
            process.kill()
            process.wait(SECONDS)
        until(lambda: served.server.waiting == 1)
        first.close()
        next_ = Client(served, "n").make().register()
        next_.opens("resp", "req", "not")
        assert next_.reply() == (1, 0)
        Client(served, "k").remove()
