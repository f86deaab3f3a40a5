"""``kvs client`` with a file or a pipe as its input: output that programs parse, to the byte."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kvs.protocol import frames
from tests.client.scripted_server import Peer, scripted_server
from tests.helpers import KVS, SECONDS, Ended, until
from tests.server.raw_client import Served, serving

CONNECTED = b"Server returned 0 for operation: connect\n"
DISCONNECTED = b"Server returned 0 for operation: disconnect\n"


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A runtime directory; the pipes in its folder ``kvs`` must be removed at the end."""
    with tempfile.TemporaryDirectory(prefix="k", dir="/tmp") as name:
        yield Path(name)
        assert not (Path(name) / "kvs").exists() or not os.listdir(Path(name) / "kvs")


@pytest.fixture
def served(runtime: Path) -> Iterator[Served]:
    with serving() as server:
        yield server


class Running:
    """A running client whose input is a pipe."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def type(self, text: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def read(self, expected: bytes) -> None:
        """Read exactly these bytes from its output."""
        assert self.process.stdout is not None
        got = b""
        while len(got) < len(expected) and (
            piece := os.read(self.process.stdout.fileno(), len(expected) - len(got))
        ):
            got += piece
        assert got == expected

    def ended(self) -> Ended:
        stdout, stderr = self.process.communicate(timeout=SECONDS)
        return Ended(self.process.returncode, stdout, stderr)


@contextmanager
def running(runtime: Path, fifo: Path, name: str = "me") -> Iterator[Running]:
    with subprocess.Popen(
        [*KVS, "client", name, fifo],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "XDG_RUNTIME_DIR": str(runtime)},
        start_new_session=True,
    ) as process:
        try:
            yield Running(process)
            process.terminate()
            process.wait(SECONDS)
        finally:
            process.kill()


def client(runtime: Path, fifo: Path, text: bytes, name: str = "me") -> Ended:
    """Run a client with `text` as its input until it exits."""
    with running(runtime, fifo, name) as started:
        stdout, stderr = started.process.communicate(text, SECONDS)
        return Ended(started.process.returncode, stdout, stderr)


def test_responses_are_printed_in_their_fixed_form(runtime: Path, served: Served) -> None:
    served.store.write({"old": "1"})
    ended = client(
        runtime,
        served.path,
        b"SUBSCRIBE [old]\nSUBSCRIBE [new]\n\n# comment\nDELAY 1\n  UNSUBSCRIBE [new]\r\n"
        b"UNSUBSCRIBE [new]\nDISCONNECT\nSUBSCRIBE [never]\n",
    )
    assert ended.status == 0
    assert ended.stderr == b""
    assert ended.stdout == CONNECTED + (
        b"Server returned 1 for operation: subscribe\n"
        b"Server returned 0 for operation: subscribe\n"
        b"Server returned 0 for operation: unsubscribe\n"
        b"Server returned 1 for operation: unsubscribe\n"
    ) + DISCONNECTED  # fmt: skip


@pytest.mark.parametrize("text", [b"", b"\n", b"# no newline", b"DISCONNECT", b" \t"])
def test_end_of_input_disconnects(runtime: Path, served: Served, text: bytes) -> None:
    ended = client(runtime, served.path, text)
    assert (ended.status, ended.stderr) == (0, b"")
    assert ended.stdout == CONNECTED + DISCONNECTED


def test_closed_stdin_is_empty_input(runtime: Path, served: Served) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *KVS, "client", "me", served.path],
        env={**os.environ, "XDG_RUNTIME_DIR": str(runtime)},
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == CONNECTED + DISCONNECTED


def test_unreadable_stdin_is_reported_and_disconnects(
    runtime: Path, served: Served, tmp_path: Path
) -> None:
    with (tmp_path / "in").open("wb") as file:
        done = subprocess.run(
            [*KVS, "client", "me", served.path],
            stdin=file,
            env={**os.environ, "XDG_RUNTIME_DIR": str(runtime)},
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == b"kvs client: stdin: cannot read it: Bad file descriptor\n"
    assert done.stdout == CONNECTED + DISCONNECTED


def test_input_may_be_a_file(runtime: Path, served: Served, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"WRITE [(a,1)]\nREAD [a]\n")
    with (tmp_path / "in").open("rb") as file:
        done = subprocess.run(
            [*KVS, "client", "me", served.path],
            stdin=file,
            env={**os.environ, "XDG_RUNTIME_DIR": str(runtime)},
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    assert done.stdout == CONNECTED + b"[(a,1)]\n" + DISCONNECTED


def test_notifications_are_printed_on_arrival(runtime: Path, served: Served) -> None:
    with running(runtime, served.path) as started:
        started.type(b"SUBSCRIBE [a]\n")
        started.read(CONNECTED + b"Server returned 0 for operation: subscribe\n")
        served.store.write({"a": "1"})
        started.read(b"(a,1)\n")
        started.type(b"DELAY 3600000\n")
        served.store.delete(["a"])
        started.read(b"(a,DELETED)\n")
        served.store.write({b"a": b"\xff\x1b("})
        started.read(b"(a,\xff\x1b()\n")


def test_notifications_are_printed_during_a_command(runtime: Path, served: Served) -> None:
    with running(runtime, served.path) as started:
        started.type(b"SUBSCRIBE [a]\nWAIT 3600000\n")
        started.read(CONNECTED + b"Server returned 0 for operation: subscribe\n")
        served.store.write({"a": "1"})
        started.read(b"(a,1)\n")


def test_delay_postpones_the_next_line(runtime: Path, served: Served) -> None:
    with running(runtime, served.path) as started:
        start = time.monotonic()
        started.type(b"DELAY 300\nWRITE [(a,1)]\nDELAY 0\n")
        started.read(CONNECTED)
        assert started.process.stdin is not None
        started.process.stdin.close()
        started.process.stdin = None
        until(lambda: "a" in served.store)
        assert time.monotonic() - start >= 0.3
        started.read(DISCONNECTED)


@pytest.mark.parametrize("line", [b"DELAY 9999999999\n", b"WAIT 9999999999\n"])
def test_longest_wait_is_accepted_and_interruptible(
    runtime: Path, served: Served, line: bytes
) -> None:
    with running(runtime, served.path) as started:
        started.type(b"SUBSCRIBE [a]\n" + line)
        started.read(CONNECTED + b"Server returned 0 for operation: subscribe\n")
        served.store.write({"a": "1"})
        started.read(b"(a,1)\n")
        started.process.terminate()
        assert started.ended().stderr == b""


def test_every_command_of_the_language_is_executed(runtime: Path, served: Served) -> None:
    ended = client(
        runtime, served.path, b"WRITE [(a,1)(b,2)]\nREAD [b,x]\nDELETE [x,b]\nSHOW\nWAIT 1\n"
    )
    assert (ended.status, ended.stderr) == (0, b"")
    assert ended.stdout == (
        CONNECTED + b"[(b,2)(x,KVSERROR)]\n[(x,KVSMISSING)]\n(a, 1)\nWaiting...\n" + DISCONNECTED
    )


def test_invalid_lines_are_reported_and_skipped(runtime: Path, served: Served) -> None:
    long = b"x" * 41
    ended = client(
        runtime,
        served.path,
        b"SUBSCRIBE a\nfoo\nSUBSCRIBE [" + long + b"]\nBACKUP\nDELAY -1\n\x1b\nREAD [a]\n",
    )
    assert ended.status == 0
    assert ended.stdout == CONNECTED + b"[(a,KVSERROR)]\n" + DISCONNECTED
    assert [line.partition(" ")[0] for line in ended.lines] == [
        "stdin:1:11:", "stdin:2:1:", "stdin:3:12:", "stdin:4:1:", "stdin:5:7:", "stdin:6:1:",
    ]  # fmt: skip
    assert ended.lines[2].endswith("at most 40 bytes without NUL, this one has 41")
    assert all(line.isprintable() for line in ended.lines)


def test_oversized_line_is_reported_and_skipped(runtime: Path, served: Served) -> None:
    size = 3 << 20
    ended = client(
        runtime, served.path, b"#" * size + b"\nREAD [" + b"a," * size + b"a]\nREAD [a]\n"
    )
    assert ended.stdout == CONNECTED + b"[(a,KVSERROR)]\n" + DISCONNECTED
    assert len(ended.lines) == 1
    assert ended.lines[0].startswith("stdin:2:1048577: a line has at most 1048576 bytes")


@pytest.mark.slow
def test_many_lines_in_one_write_are_executed_in_order(runtime: Path, served: Served) -> None:
    count = 3000
    text = b"SUBSCRIBE [a]\n" + b"".join(b"WRITE [(a,%d)]\nREAD [a]\n" % n for n in range(count))
    ended = client(runtime, served.path, text)
    assert ended.status == 0
    lines = ended.stdout.splitlines()
    assert [line for line in lines if line.startswith(b"[")] == [
        b"[(a,%d)]" % n for n in range(count)
    ]
    assert [line for line in lines if line.startswith(b"(")] == [
        b"(a,%d)" % n for n in range(count)
    ]


# The end of the session.


def test_client_exits_when_the_server_ends_the_session(runtime: Path, served: Served) -> None:
    with running(runtime, served.path) as started:
        started.type(b"SUBSCRIBE [a]\n")
        started.read(CONNECTED + b"Server returned 0 for operation: subscribe\n")
        served.store.write({"a": "last"})
        served.server.disconnect_all()
        assert started.process.wait(SECONDS) == 1  # its input is still open
        ended = started.ended()
    assert ended.stdout == b"(a,last)\n"
    assert ended.lines == ["kvs client: the server closed the session"]


@pytest.mark.parametrize("waiting", [b"DELAY 3600000\n", b"WAIT 3600000\n"])
def test_waiting_client_exits_when_the_server_ends_the_session(
    runtime: Path, served: Served, waiting: bytes
) -> None:
    with running(runtime, served.path) as started:
        started.type(b"SUBSCRIBE [a]\n" + waiting + b"WRITE [(never,1)]\n")
        started.read(CONNECTED + b"Server returned 0 for operation: subscribe\n")
        served.server.disconnect_all()
        assert started.process.wait(SECONDS) == 1
        assert started.ended().lines == ["kvs client: the server closed the session"]
    assert "never" not in served.store


def test_rejected_connect_is_printed_and_fails(runtime: Path, tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.open("req", "res")
        peer.send("res", frames.encode_reply(frames.CONNECT, 1))

    with scripted_server(tmp_path, script) as fifo:
        ended = client(runtime, fifo, b"")
    assert ended.status == 1
    assert ended.stdout == b"Server returned 1 for operation: connect\n"
    assert "the server rejected the connect with result 1" in ended.lines[0]


def test_server_without_execute_ends_the_client(runtime: Path, tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        assert peer.connected().read(1) == b"\x05"

    with scripted_server(tmp_path, script) as fifo:
        ended = client(runtime, fifo, b"SHOW\nSHOW\n")
    assert (ended.status, ended.lines) == (1, ["kvs client: the server closed the session"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("waiting", [b"", b"DELAY 3600000\n", b"WAIT 3600000\n"])
def test_signals_remove_the_pipes(
    runtime: Path, served: Served, number: signal.Signals, waiting: bytes
) -> None:
    with running(runtime, served.path) as started:
        started.type(b"SUBSCRIBE [a]\n" + waiting)
        started.read(CONNECTED + b"Server returned 0 for operation: subscribe\n")
        started.process.send_signal(number)
        assert started.process.wait(SECONDS) == 128 + number
        assert os.listdir(runtime / "kvs") == []
        assert started.ended().stderr == b""
    until(lambda: served.server.sessions == 0)


def test_signal_during_cleanup_does_not_interrupt_it(runtime: Path, served: Served) -> None:
    program = (
        "import os, signal, sys, kvs.cli\n"
        "unlink = os.unlink\n"
        "def unlink_and_signal(path, **options):\n"
        "    unlink(path, **options)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "import kvs.client.handshake\n"
        "await_answer = kvs.client.handshake._Handshake._await_answer\n"
        "def await_answer_and_patch(*arguments):\n"
        "    await_answer(*arguments)\n"
        "    os.unlink = unlink_and_signal\n"
        "kvs.client.handshake._Handshake._await_answer = await_answer_and_patch\n"
        "sys.exit(kvs.cli.main(sys.argv[1:]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "client", "me", served.path],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={**os.environ, "XDG_RUNTIME_DIR": str(runtime)},
        timeout=SECONDS,
        check=False,
    )
    assert (done.stdout, done.stderr) == (CONNECTED + DISCONNECTED, b"")
    assert done.returncode == 0
    assert os.listdir(runtime / "kvs") == []


def test_signal_during_a_waiting_connect_removes_the_pipes(runtime: Path, tmp_path: Path) -> None:
    with scripted_server(tmp_path, lambda _: None) as fifo, running(runtime, fifo) as started:
        until((runtime / "kvs" / "me.not").exists)
        started.process.send_signal(signal.SIGTERM)
        assert started.process.wait(SECONDS) == 143
    assert os.listdir(runtime / "kvs") == []


def test_closed_stdout_ends_the_client_without_a_message(runtime: Path, served: Served) -> None:
    with running(runtime, served.path) as started:
        started.type(b"SUBSCRIBE [a]\n")
        started.read(CONNECTED + b"Server returned 0 for operation: subscribe\n")
        assert started.process.stdout is not None
        started.process.stdout.close()
        served.store.write({"a": "1"})
        assert started.process.wait(SECONDS) == 1
        assert started.process.stderr is not None
        assert started.process.stderr.read() == b""


# IDs.


def test_id_in_use_is_refused_until_its_process_is_killed(runtime: Path, served: Served) -> None:
    with running(runtime, served.path) as first:
        first.read(CONNECTED)
        refused = client(runtime, served.path, b"")
        assert refused.status == 1
        assert refused.lines == [
            f"kvs client: the ID 'me' is in use by process {first.process.pid}; choose another one"
        ]
        assert client(runtime, served.path, b"", "other").status == 0
        first.process.kill()
        first.process.wait(SECONDS)
    assert len(os.listdir(runtime / "kvs")) == 4
    assert client(runtime, served.path, b"").status == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["", "a" * 16, "a.b", "a b", "ä", "\x1b"])
def test_invalid_id_is_wrong_usage(runtime: Path, name: str) -> None:
    ended = client(runtime, runtime / "none", b"", name)
    assert ended.status == 2
    assert ended.lines[0].endswith(
        "' is not a valid ID: an ID has 1 to 15 characters, each a letter (a to z, A to Z), "
        "a digit, '-' or '_'"
    )
    assert ended.lines[0].isprintable()


def test_help_lists_the_commands_of_the_client(runtime: Path, served: Served) -> None:
    ended = client(runtime, served.path, b"HELP\n")
    assert ended.status == 0
    assert b"\nSUBSCRIBE [key]                    report every change of the key\n" in ended.stdout
    assert b"\nWAIT milliseconds                  pause this job or session\n" in ended.stdout
    assert b"BACKUP" not in ended.stdout


def test_missing_server_is_reported_with_the_remedy(runtime: Path) -> None:
    ended = client(runtime, runtime / "none", b"")
    assert ended.status == 1
    assert ended.lines == [
        f"kvs client: {runtime}/none: the registration pipe does not exist; "
        f"'kvs serve JOBS_DIR MAX_THREADS BACKUPS_MAX {runtime}/none' starts a server"
    ]
    assert ended.stdout == b""


def test_connect_timeout_is_reported(runtime: Path, tmp_path: Path) -> None:
    with scripted_server(tmp_path, lambda _: None) as fifo:
        done = subprocess.run(
            [*KVS, "client", "me", fifo, "--timeout", "0.3"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**os.environ, "XDG_RUNTIME_DIR": str(runtime)},
            timeout=SECONDS,
            check=False,
        )
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(
        b"kvs client: %b: the server did not answer within 0.3 s: the server has read the connect"
        % os.fsencode(fifo)
    )


@pytest.mark.slow
def test_waiting_connect_is_reported_after_seconds(runtime: Path, tmp_path: Path) -> None:
    with scripted_server(tmp_path, lambda _: None) as fifo, running(runtime, fifo) as started:
        assert started.process.stderr is not None
        line = started.process.stderr.readline()
        assert b"no answer yet: the server has read the connect" in line
        assert line.endswith(b"its log says why; waiting (Ctrl-C to stop)\n")
        started.process.send_signal(signal.SIGINT)
        assert started.process.wait(SECONDS) == 130
