"""The log of a server: a stderr that cannot be written disturbs neither service nor shutdown."""

import fcntl
import itertools
import os
import pty
import signal
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from kvs.cli.log import MAX_BYTES, LogWriter
from tests.helpers import until
from tests.server.raw_client import SECONDS, Client, Place, read_within


@contextmanager
def serving(
    stderr: int, *options: str, job: str = ""
) -> Iterator[tuple[Place, subprocess.Popen[bytes]]]:
    """Run a server with this stderr."""
    with tempfile.TemporaryDirectory(prefix="k", dir="/tmp") as name:
        folder = Path(name)
        (folder / "jobs").mkdir()
        for number in range(3 if job else 0):  # 1,000 invalid lines of each are logged
            (folder / "jobs" / f"{number}.job").write_text(job)
        command = [sys.executable, "-m", "kvs", "serve", str(folder / "jobs"), "2", "2"]
        command += [str(folder / "reg"), *options]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=stderr) as process:
            try:
                until((folder / "reg").exists)
                yield Place(folder / "reg", folder), process
            finally:
                process.kill()


NOISE = "invalid\n" * 1000 + "WRITE [(noise,1)]\n"
"""A job; the errors of three of them exceed a pipe and the buffer of the log."""


def check_service(place: Place) -> None:
    """Check that the noisy jobs finish and that sessions are served."""
    jobs = place.folder / "jobs"
    client = Client(place, "c").connected()
    until(lambda: client.execute(b"READ [noise]\n")[1] == b"[(noise,1)]\n")
    client.close()
    until(lambda: all(path.with_suffix(".out").exists() for path in jobs.glob("*.job")))


def test_blocked_pipe_gets_the_count_of_dropped_lines() -> None:
    reader, writer = os.pipe()
    with serving(writer, job=NOISE) as (place, process):
        os.close(writer)
        check_service(place)
        log = bytearray()

        def logged(words: bytes) -> bool:
            with suppress(BlockingIOError):
                log.extend(os.read(reader, 65536))
            return words in log

        os.set_blocking(reader, False)
        until(lambda: logged(b"of the log dropped: stderr could not be written"))
        numbers = itertools.count()

        def connection_is_logged() -> bool:  # a line may be dropped while jobs report errors
            Client(place, f"again{next(numbers)}").connected().close()
            return logged(b"/again")

        until(connection_is_logged)
        process.send_signal(signal.SIGTERM)
        os.set_blocking(reader, True)
        while piece := read_within(reader, 65536):
            log += piece
        assert all(line[:2] == b"20" for line in log.splitlines())
        assert log.count(b"is not a command") < 3000
        assert process.wait(SECONDS) == 0
    os.close(reader)


def test_blocked_pipe_does_not_prevent_shutdown() -> None:
    reader, writer = os.pipe()
    with serving(writer, job=NOISE) as (place, process):
        check_service(place)
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
    os.close(reader)
    os.close(writer)


@pytest.mark.slow
def test_blocked_pipe_does_not_prevent_exit_with_an_error(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with serving(writer, "--data", str(tmp_path / "d"), job=NOISE) as (place, process):
        check_service(place)
        (tmp_path / "d").rename(tmp_path / "e")
        assert process.wait(SECONDS) == 1
    os.close(reader)
    os.close(writer)


@pytest.mark.slow
def test_closed_pipe_does_not_stop_the_server() -> None:
    reader, writer = os.pipe()
    with serving(writer, job=NOISE) as (place, process):
        os.close(writer)
        os.close(reader)
        check_service(place)
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0


def test_full_device_does_not_stop_the_server() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    with serving(full, job=NOISE) as (place, process):
        check_service(place)
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
    os.close(full)


def test_stopped_terminal_does_not_stop_the_server() -> None:
    master, slave = pty.openpty()
    with serving(slave, job=NOISE) as (place, process):
        termios.tcflow(slave, termios.TCOOFF)
        check_service(place)
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
    os.close(master)
    os.close(slave)


def test_shared_file_description_stays_blocking() -> None:
    reader, writer = os.pipe()
    with serving(writer) as (place, _):
        Client(place, "c").connected().close()
        assert not fcntl.fcntl(writer, fcntl.F_GETFL) & os.O_NONBLOCK
    os.close(reader)
    os.close(writer)


def test_second_signal_exits_despite_a_blocked_log() -> None:
    reader, writer = os.pipe()
    with serving(writer, job=NOISE) as (place, process):
        check_service(place)
        client = Client(place, "half").make().register().opens("req")
        process.send_signal(signal.SIGTERM)
        until(lambda: not place.path.exists())
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) in {0, 143}
        client.close()
    os.close(reader)
    os.close(writer)


def test_lines_are_written_whole_from_pieces() -> None:
    reader, writer = os.pipe()
    log = LogWriter(writer)
    log.write("one")
    log.write(" line\nand ")
    log.flush()
    log.write("another\n\udc80\n")
    log.flush()
    assert os.read(reader, 100) == b"one line\nand another\n\\udc80\n"


def dropped(log: bytes) -> int:
    """Return how many lines the complete lines of a log report as dropped."""
    lines = log.rpartition(b"\n")[0].splitlines()
    return sum(int(line.split()[3]) for line in lines if b"dropped" in line)


def test_lines_beyond_the_bound_are_dropped_and_counted() -> None:
    reader, writer = os.pipe()
    pipe_bytes = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    log = LogWriter(writer)
    line = "x" * 99 + "\n"
    number = (MAX_BYTES + pipe_bytes) // 100 + 1000
    for _ in range(number):
        log.write(line)
    got = b""
    while got.count(b"x\n") + dropped(got) < number:  # reported in parts, as the pipe is read
        got += read_within(reader, 65536)
    assert got.count(b"x\n") + dropped(got) == number
    assert dropped(got) > 0
    until(lambda: not (log._dropped or log._is_writing))  # otherwise this line is dropped, too
    log.write("after\n")
    assert read_within(reader, 100) == b"after\n"
