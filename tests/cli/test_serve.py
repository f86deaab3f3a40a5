"""``kvs serve`` as a process: its registration pipe, jobs and signals."""

import contextlib
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kvs
from kvs.cli import serve
from kvs.protocol import frames
from kvs.settings import Settings
from kvs.snapshot.reader import load
from tests.helpers import (
    Start,
    content,
    end,
    only_line,
    started,
    stopped_children,
    until,
    write_jobs,
)
from tests.helpers import kvs as kvs_program
from tests.server.raw_client import SECONDS, Client, Place, read_within


@dataclass
class Serving(Place):
    """A server's process and its registration pipe."""

    process: "subprocess.Popen[bytes]"
    jobs: Path

    def read_log_until(self, words: bytes) -> None:
        """Read the log until it contains these words."""
        read_log_until(self.process, words)

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal; return the exit status and the log."""
        self.process.send_signal(number)
        _, log = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, log.decode()


@contextlib.contextmanager
def serving(*options: str, **jobs: str) -> Iterator[Serving]:
    with tempfile.TemporaryDirectory(prefix="k", dir="/tmp") as name:
        folder = Path(name)
        directory = folder / "jobs"
        directory.mkdir()
        for job, text in jobs.items():
            (directory / f"{job}.job").write_text(text)
        path = folder / "reg"
        process = start(directory, path, *options)
        try:
            until(lambda: path.exists() or process.poll() is not None)
            yield Serving(path, folder, process, directory)
        finally:
            process.kill()
            process.communicate(timeout=SECONDS)


def start(directory: Path, path: Path, *options: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "kvs", "serve", str(directory), "2", "2", str(path), *options]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)


def read_log_until(process: "subprocess.Popen[bytes]", words: bytes) -> bytes:
    """Read the log of a server until it contains these words; return the bytes read."""
    assert process.stderr is not None
    log = b""
    while words not in log:
        piece = read_within(process.stderr.fileno(), 1 << 16)
        assert piece, log
        log += piece
    return log


def output(place: Place, script: bytes) -> bytes:
    """Return the output of a script; retry if a pending signal ends the session.

    The server may have created its registration pipe without having opened it yet.
    """

    def written() -> bytes:
        with (
            contextlib.suppress(kvs.SessionClosedError, kvs.ServerNotFoundError),
            kvs.connect(place.path) as session,
        ):
            return session.execute(script).output
        return b""

    return until(written)


def test_sigterm_shuts_down_jobs_and_sessions() -> None:
    with serving() as server:
        client = Client(server, "c").connected()
        client.subscribe(b"a")
        (server.jobs / "a.job").write_text("WRITE [(a,1)]\nWRITE [(a,2)(b,3)]\nDELETE [a]\n")
        seen = [client.change() for _ in range(3)]
        assert seen == [(b"a", b"1"), (b"a", b"2"), (b"a", b"DELETED")]
        assert stat.S_IMODE(server.path.stat().st_mode) == 0o600
        status, log = server.end()
        assert status == 0
        assert "Traceback" not in log
        assert client.at_end("resp")
        assert client.at_end("not")
        assert not server.path.exists()
        assert sorted(os.listdir(server.jobs)) == ["a.job", "a.out"]


@pytest.mark.slow
def test_later_jobs_run_except_with_once() -> None:
    with serving() as server:
        client = Client(server, "c").connected()
        client.subscribe(b"later")
        for number in range(3):
            (server.folder / "new").write_text(f"WRITE [(later,{number})]\n")
            (server.folder / "new").rename(server.jobs / "later.job")
            assert client.change() == (b"later", b"%d" % number)
        assert client.execute(b"READ [later]\n") == (0, b"[(later,2)]\n", b"")
        assert server.end()[0] == 0
    with serving("--once", a="WRITE [(a,1)]\n") as server:
        until((server.jobs / "a.out").exists)
        (server.jobs / "b.job").write_text("WRITE [(b,1)]\n")
        client = Client(server, "c").connected()
        assert client.execute(b"READ [b]\n") == (0, b"[(b,KVSERROR)]\n", b"")
        assert server.end()[0] == 0
        assert not (server.jobs / "b.out").exists()


def test_sessions_survive_a_missing_jobs_directory() -> None:
    with serving() as server:
        client = Client(server, "c").connected()
        client.subscribe(b"a")
        server.jobs.rename(server.folder / "away")
        server.read_log_until(b"was removed or renamed")
        (server.folder / "away" / "a.job").write_text("WRITE [(a,1)]\n")
        assert client.execute(b"READ [a]\n") == (0, b"[(a,KVSERROR)]\n", b"")
        (server.folder / "away").rename(server.jobs)
        assert client.change() == (b"a", b"1")
        shutil.rmtree(server.jobs)
        assert client.execute(b"READ [a]\n") == (0, b"[(a,1)]\n", b"")
        server.jobs.mkdir()
        (server.jobs / "a.job").write_text("WRITE [(a,2)]\n")
        assert client.change() == (b"a", b"2")
        status, log = server.end()
        assert status == 0
        assert "was removed or renamed" in log
        assert "reappeared, and is watched" in log


def test_sigint_stops_jobs_and_leaves_no_partial_backup() -> None:
    pairs = "".join(f"(key{number:05},v)" for number in range(20_000))
    with serving(a=f"WRITE [{pairs}]\nBACKUP\nWAIT 9999999\n", b="WAIT 9999999\n") as server:
        until(lambda: b"Waiting" in content(server.jobs / "a.out"))
        Client(server, "c").connected()
        assert server.end(signal.SIGINT)[0] == 0
        names = set(os.listdir(server.jobs))
        assert names <= {"a.job", "a.out", "b.job", "b.out", "a-1.bck"}
        if "a-1.bck" in names:
            assert len(load(os.fsencode(server.jobs / "a-1.bck")).pairs) == 20_000


def test_sigusr1_ends_sessions_but_not_the_server() -> None:
    pairs = "".join(f"(key{number:06},v)" for number in range(100_000))
    job = f"WRITE [{pairs}]\nBACKUP\n" + "WRITE [(hot,1)]\n" * 200_000 + "BACKUP\n"
    with serving("--max-sessions", "3", a=job) as server:
        for number in range(10):
            clients = [Client(server, f"c{number}-{index}") for index in range(2)]
            for client in clients:
                client.connected().subscribe(b"hot")
            half = Client(server, f"h{number}").make().register()
            waiting = Client(server, f"w{number}").make().register()
            server.process.send_signal(signal.SIGUSR1)
            for client in clients:
                client.drain("not")
                client.drain("resp")
            waiting.opens("resp", "not", "req")
            assert waiting.reply() == (frames.CONNECT, 0)
            waiting.close()
            half.remove()
        for number in range(50):
            client = Client(server, f"s{number}").make().register()
            server.process.send_signal(signal.SIGUSR1)
            client.remove()
        until((server.jobs / "a-2.bck").exists)
        assert output(server, b"READ [hot]\n") == b"[(hot,1)]\n"
        assert server.end()[0] == 0


def test_backup_child_holds_no_pipes_of_sessions() -> None:
    with tempfile.TemporaryDirectory(prefix="k", dir="/tmp") as name:
        folder = Path(name)
        jobs = folder / "jobs"
        jobs.mkdir()
        how = Start(children_stop="sync")
        with started("serve", jobs, "1", "2", folder / "reg", how=how) as process:
            until((folder / "reg").exists)
            place = Place(folder / "reg", folder)
            clients = [Client(place, f"c{number}").connected() for number in range(3)]
            (folder / "a").write_text("WRITE [(a,1)]\nBACKUP\n")
            (folder / "a").rename(jobs / "a.job")
            [child] = stopped_children(process)
            for _ in range(20):
                process.send_signal(signal.SIGUSR1)
            for client in clients:
                client.drain("resp")
                client.drain("not")
                client.sees_requests_closed()
            assert output(place, b"READ [a]\n") == b"[(a,1)]\n"
            os.kill(child, signal.SIGCONT)
            until((jobs / "a-1.bck").exists)
            process.terminate()
            assert end(process).status == 0


def test_backup_child_does_not_hold_the_registration_pipe() -> None:
    with tempfile.TemporaryDirectory(prefix="k", dir="/tmp") as name:
        folder = Path(name)
        jobs = write_jobs(folder / "jobs", {"a": "WRITE [(a,1)]\nBACKUP\n"})
        how = Start(children_stop="sync")
        with started("serve", jobs, "1", "2", folder / "reg", how=how) as process:
            stopped_children(process)
            process.kill()
            process.wait(SECONDS)
            with pytest.raises(OSError, match="No such device"):
                os.open(folder / "reg", os.O_WRONLY | os.O_NONBLOCK)
            with pytest.raises(kvs.ServerNotFoundError):
                kvs.connect(folder / "reg")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_are_handled_once_the_pipe_exists(number: signal.Signals) -> None:
    for _ in range(3):
        with serving() as server:  # its pipe exists, but may not be open yet
            if number is signal.SIGUSR1:
                server.process.send_signal(number)
            status, log = server.end(signal.SIGTERM if number is signal.SIGUSR1 else number)
            assert (status, "Traceback" in log) == (0, False), log
            assert not server.path.exists()
            assert os.listdir(server.jobs) == []


@pytest.mark.parametrize("option", [(), ("--once",)])
def test_no_job_runs_when_the_pipe_cannot_be_created(
    tmp_path: Path, option: tuple[str, ...]
) -> None:
    jobs = write_jobs(tmp_path / "jobs", {f"{number}": "HELP\n" for number in range(20)})
    (tmp_path / "reg").write_text("not a pipe\n")
    ended = kvs_program("serve", jobs, "2", "2", tmp_path / "reg", *option)
    assert ended.status == 1
    assert "exists and is not a named pipe" in only_line(ended)
    assert not list(jobs.glob("*.out"))
    assert (tmp_path / "reg").read_text() == "not a pipe\n"


@given(st.integers(0, 10_000), st.integers(1, 1000), st.integers(1, 64), st.integers(1, 64))
def test_all_descriptors_of_a_server_are_within_its_limit(
    free: int, configured: int, threads: int, backups: int
) -> None:
    settings = Settings(threads, backups)
    others = serve.RESERVED_DESCRIPTORS + serve.DESCRIPTORS_PER_JOB * (threads + backups)
    limit = others + serve.DESCRIPTORS_PER_CLIENT * (1 + serve.MIN_BLOCKED_CLIENTS) + free
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resource, "getrlimit", lambda _: (1, limit))
        patch.setattr(resource, "setrlimit", lambda *_: None)
        sessions, blocked = serve._client_limits(configured, settings)
    assert others + serve.DESCRIPTORS_PER_CLIENT * (sessions + blocked) <= limit
    assert 1 <= sessions <= configured
    assert blocked >= serve.MIN_BLOCKED_CLIENTS


@pytest.mark.parametrize("limit", [5, 6, 8])
def test_server_without_descriptors_fails_with_one_error(tmp_path: Path, limit: int) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": "HELP\n"})
    how = Start(limits={resource.RLIMIT_NOFILE: limit})
    ended = kvs_program("serve", jobs, "1", "1", tmp_path / "reg", how=how)
    assert ended.status == 1
    warning, error = ended.lines
    assert "at most 1 session" in warning
    assert error.startswith(f"kvs serve: {tmp_path}/reg: cannot ")
    assert error.endswith(": Too many open files")
    assert not (jobs / "a.out").exists()


@pytest.mark.parametrize("option", [(), ("--once",)])
def test_no_pipe_is_created_without_a_jobs_directory(
    tmp_path: Path, option: tuple[str, ...]
) -> None:
    ended = kvs_program("serve", tmp_path / "none", "2", "2", tmp_path / "reg", *option)
    assert ended.status == 2
    assert only_line(ended) == (
        f"kvs serve: {tmp_path}/none: cannot open the jobs directory: No such file or directory"
    )
    assert not (tmp_path / "reg").exists()


def test_jobs_resume_after_the_server_was_killed() -> None:
    with tempfile.TemporaryDirectory(prefix="k", dir="/tmp") as name:
        folder = Path(name)
        jobs, data = folder / "jobs", folder / "data"
        jobs.mkdir()
        (jobs / "done.job").write_text("WRITE [(done,1)]\n")
        (jobs / "a.job").write_text("WRITE [(a,1)]\nREAD [a]\nWAIT 3600000\nREAD [a]\n")
        for number in range(2):
            process = start(jobs, folder / f"reg{number}", "--data", str(data))
            place = Place(folder / f"reg{number}", folder)
            until(place.path.exists)
            until(lambda: b"Waiting" in content(jobs / "a.out"))
            until(lambda: output(place, b"READ [a,done]\n") == b"[(a,1)(done,1)]\n")  # noqa: B023
            log = b""
            if not number:
                until(lambda: b" done\n" in content(data / "0000000001.journal"))
                (jobs / "a.out").unlink()  # it is written again, up to the checkpoint
                process.kill()
            else:
                log = read_log_until(process, b"done.job: done before")
                process.terminate()
            log += process.communicate(timeout=SECONDS)[1]
        assert content(jobs / "a.out") == b"[(a,1)]\nWaiting...\n"
        assert process.returncode == 0
        assert "done.job: done before, 0 commands" in log.decode()
        assert f"{data}: at revision 2, 2 pairs" in log.decode()


def test_job_can_be_replaced_during_its_backup() -> None:
    with tempfile.TemporaryDirectory(prefix="k", dir="/tmp") as name:
        folder = Path(name)
        jobs = folder / "jobs"
        jobs.mkdir()
        how = Start(children_stop="sync")
        options = ("--data", folder / "data")
        with started("serve", jobs, "1", "2", folder / "reg", *options, how=how) as process:
            until((folder / "reg").exists)
            (folder / "new").write_text("WRITE [(a,1)]\nBACKUP\n")
            (folder / "new").rename(jobs / "a.job")
            [child] = stopped_children(process)
            (folder / "new").write_text("WRITE [(a,2)]\nREAD [a]\n")
            (folder / "new").rename(jobs / "a.job")
            until(lambda: content(jobs / "a.out") == b"[(a,2)]\n")
            os.kill(child, signal.SIGCONT)
            until((jobs / "a-1.bck").exists)
            assert output(Place(folder / "reg", folder), b"READ [a]\n") == b"[(a,2)]\n"
            process.terminate()
            assert end(process).status == 0
