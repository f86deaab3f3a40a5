"""Command lines: forms, exit statuses, what stands on stdout; not the words of messages."""

import signal
from pathlib import Path

import pytest

from tests.contract.pipes import read_some, serving
from tests.contract.program import content, has_engine, kvs, lines_of, started, until, write_jobs

STATUSES = {
    "run --quiet good": (0, 0),
    "run --quiet --threads 3 --backups 1 good": (0, 0),
    "run --quiet --data new --fsync interval --fsync-interval 0.5 --resume good": (0, 1),
    "run --quiet --restore one.bck good": (0, 0),
    "run --quiet --report report.json good": (0, 0),
    "run --quiet bad": (1, 1),
    "run --restore file good": (1, 1),
    "": (2, 1),
    "unknown": (2, 1),
    "run": (2, 1),
    "run good 2 2": (2, 1),
    "run nowhere": (2, 1),
    "run --threads 0 good": (2, 1),
    "run --restore nowhere good": (2, 1),
    "run --resume good": (2, 1),
    "run --fsync-interval 1 good": (2, 1),
    "serve good 2 2": (2, 1),
    "serve good 0 2 fifo": (2, 1),
    "serve nowhere 2 2 fifo": (2, 1),
    "serve --fifo-mode 777 good 2 2 fifo": (2, 1),
    "serve good 2 2 file": (1, 1),
    "client me nowhere": (1, 1),
    "client me": (2, 1),
    "client not/an/id nowhere": (2, 1),
    "lint nowhere": (2, 1),
    "check nowhere": (2, 1),
    "dump good": (2, 1),
    "repair new": (2, 1),
    "restore file new": (1, 1),
    "restore nowhere new": (2, 1),
    "restore one.bck good": (2, 1),
}
"""Command lines; exit status and number of lines on stderr. Nothing is on stdout."""


@pytest.fixture(name="place")
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_jobs(tmp_path / "good", a=b"WRITE [(a,1)]\nREAD [a]\n")
    write_jobs(tmp_path / "bad", a=b"READ a\nREAD [a]\n")
    (tmp_path / "file").write_bytes(b"x\n")
    (tmp_path / "one.bck").write_bytes(b"(b, 2)\n")
    return tmp_path


@pytest.mark.parametrize("line", STATUSES)
def test_command_line_gives_its_exit_status(place: Path, line: str) -> None:
    ended = kvs(*line.split())
    assert (ended.returncode, len(lines_of(ended.stderr))) == STATUSES[line], ended.stderr
    assert ended.stdout == b""


@pytest.mark.parametrize("command", ["", "run", "serve", "client"])
def test_help_is_on_stdout(command: str) -> None:
    ended = kvs(*command.split(), "--help")
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout.startswith(f"usage: kvs {command}".encode())


@pytest.mark.parametrize("engine", ["compiled", "python"])
def test_version_names_the_engine(engine: str) -> None:
    if not has_engine(engine):
        pytest.skip(f"the {engine} engine is not built")
    stdout = kvs("--version", engine=engine).stdout
    assert stdout.startswith(b"kvs ")
    assert stdout.endswith(f"(engine: {engine})\n".encode())


def test_unknown_engine_is_wrong_usage(place: Path) -> None:
    ended = kvs("run", "good", engine="steam")
    assert (ended.returncode, ended.stdout, len(lines_of(ended.stderr))) == (2, b"", 1)
    assert not (place / "good/a.out").exists()


def test_run_prints_a_row_for_each_job(place: Path) -> None:
    write_jobs(place / "good", b=b"SHOW\nBACKUP\n")
    ended = kvs("run", "good")
    assert (ended.returncode, ended.stderr) == (0, b"")
    rows = [line.split()[:4] for line in lines_of(ended.stdout)]
    assert len(rows) == 3
    assert rows[1:] == [["a", "2", "0", "0"], ["b", "2", "0", "1"]]


def test_lint_reports_places_on_stdout_and_runs_nothing(place: Path) -> None:
    ended = kvs("lint", "bad", "good/a.job")
    assert (ended.returncode, ended.stderr) == (1, b"")
    lines = lines_of(ended.stdout)
    assert lines[0].startswith("bad/a.job:1:6: ")
    assert lines[1:3] == ["    READ a", "         ^"]
    assert len(lines) == 5
    assert kvs("lint", "good").returncode == 0
    assert not (place / "bad/a.out").exists()


def test_exit_status_of_data_commands(place: Path) -> None:
    ended = kvs("restore", "one.bck", "data")
    assert (ended.returncode, ended.stdout) == (0, b"")
    kvs("run", "--quiet", "--data", "data", "good")
    assert kvs("dump", "data").stdout == b"(a, 1)\n(b, 2)\n"
    for line in ("check data", "compact data", "repair --cut data", "repair data --cut"):
        ended = kvs(*line.split())
        assert (ended.returncode, ended.stdout.count(b"\n"), ended.stderr) == (0, 1, b"")


def test_client_prints_responses_and_notifications() -> None:
    lines = b"# c\n\n subscribe [a]\nSUBSCRIBE[ new ]\nUNSUBSCRIBE [new]\nUNSUBSCRIBE [new]\n"
    lines += b"WRITE [(a,((1)(b,2)]\nSUBSCRIBE [a]\nBACKUP\nREAD [c,a]\nDELAY 1\nDISCONNECT\nX\n"
    with serving() as server:
        ended = kvs("client", "Me_0-z", server.fifo, stdin=lines, runtime=server.folder)
    assert ended.stdout == (
        b"Server returned 0 for operation: connect\n"
        b"Server returned 0 for operation: subscribe\n"
        b"Server returned 0 for operation: unsubscribe\n"
        b"Server returned 1 for operation: unsubscribe\n"
        b"Server returned 1 for operation: subscribe\n"
        b"[(a,((1)(c,KVSERROR)]\n"
        b"Server returned 0 for operation: disconnect\n"
    )
    places = [line.split(": ")[0] for line in lines_of(ended.stderr)]
    assert places == ["stdin:3:2", "stdin:9:1"]
    assert ended.returncode == 0


def test_client_ends_with_1_when_the_server_ends_sessions() -> None:
    with serving() as server, started("client", "me", server.fifo, runtime=server.folder) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        assert client.stderr is not None
        output = b""
        for line, shown in (
            (b"SUBSCRIBE [k]\n", b": subscribe\n"),
            (b"WRITE [(k,a(b)]\n", b"(k,a(b)\n"),
            (b"DELETE [k]\n", b"(k,DELETED)\n"),
        ):
            client.stdin.write(line)
            client.stdin.flush()
            while not output.endswith(shown):
                output += read_some(client.stdout.fileno())
        pipes = sorted(path.name for path in (server.folder / "kvs").iterdir())
        assert {"me.lock", "me.req"} <= set(pipes)
        assert len(pipes) == 4
        second = kvs("client", "me", server.fifo, runtime=server.folder)
        assert (second.returncode, second.stdout) == (1, b"")
        server.process.send_signal(signal.SIGUSR1)
        assert len(lines_of(read_some(client.stderr.fileno()))) == 1
        assert client.wait(30) == 1
        assert list((server.folder / "kvs").glob("me.[!l]*")) == []


def test_serve_once_runs_only_jobs_of_the_start() -> None:
    with serving("--once", "--max-sessions", "1", first=b"READ [a]\n") as server:
        first = server.jobs / "first.out"
        until(lambda: content(first) == b"[(a,KVSERROR)]\n")
        write_jobs(server.jobs, later=b"READ [a]\n")
        ended = kvs("client", "a", server.fifo, stdin=b"WAIT 1\n", runtime=server.folder)
        assert ended.returncode == 0
        assert not (server.jobs / "later.out").exists()
