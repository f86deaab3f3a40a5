"""Every command with a stdout or stderr that is closed, full, or a pipe or terminal without reader.

A message that cannot be written never changes the exit status. A result that cannot be written is
an error of one line and exit status 1; a closed pipe at stdout needs no message.
"""

import os
import resource
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen

import pytest

from kvs import Store
from tests.cli.test_client import runtime, served
from tests.helpers import (
    KVS,
    LONG_WAIT,
    SECONDS,
    Argument,
    Ended,
    Start,
    content,
    kvs,
    only_line,
    until,
    write_jobs,
)
from tests.server.raw_client import Served

__all__ = ["runtime", "served"]

COMMANDS: dict[str, tuple[str, int]] = {
    "run": ("run good", 0),
    "run with errors": ("run bad", 1),
    "lint": ("lint good", 0),
    "lint with errors": ("lint bad", 1),
    "check": ("check data", 0),
    "dump": ("dump data", 0),
    "compact": ("compact data", 0),
    "repair": ("repair --cut data", 0),
    "version": ("--version", 0),
    "help": ("dump --help", 0),
}
"""Arguments of commands that write results, and their exit status if they can write them."""

SILENT: dict[str, tuple[str, int]] = {
    "quiet run": ("run --quiet bad", 1),
    "restore": ("restore backup.bck new", 0),
    "client": ("client me nowhere", 1),
    "wrong usage": ("--frobnicate", 2),
    "wrong path": ("check nowhere", 2),
}
"""Arguments and exit status of commands that write messages only."""

LOSSES = ["closed", "full", "a closed pipe", "a lost terminal"]


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    """A directory with the files that the commands name."""
    write_jobs(tmp_path / "good", {"job": "READ [k]\n"})
    write_jobs(tmp_path / "bad", {"job": "foo\n"})
    (tmp_path / "backup.bck").write_text("(k, v)\n")
    with Store(tmp_path / "data") as store:
        store.write({"k": "v"})
    return tmp_path


@contextmanager
def lost(loss: str) -> Iterator[int | None]:
    """Yield a descriptor that cannot be written; None stands for a closed one."""
    if loss == "closed":
        yield None
        return
    if loss == "full":
        end = os.open("/dev/full", os.O_WRONLY)
    else:
        other, end = os.pipe() if loss == "a closed pipe" else os.openpty()
        os.close(other)
    try:
        yield end
    finally:
        os.close(end)


def command(
    arguments: Sequence[Argument], stdout: int | None, stderr: int | None
) -> list[Argument]:
    """Return a command line with a shell that closes the streams that are None."""
    closed = (">&- " if stdout is None else "") + ("2>&-" if stderr is None else "")
    return ["sh", "-c", f'exec "$@" {closed}', "sh", *KVS, *arguments]


def program(folder: Path, arguments: str, stdout: int | None, stderr: int | None) -> Ended:
    """Run the program with these streams; None is a closed one."""
    done = subprocess.run(
        command(arguments.split(), stdout, stderr),
        cwd=folder,
        stdin=DEVNULL,
        stdout=stdout,
        stderr=stderr,
        timeout=SECONDS,
        check=False,
    )
    return Ended(done.returncode, done.stdout or b"", done.stderr or b"")


def session(
    runtime: Path, served: Served, typed: bytes, stdout: int | None, stderr: int | None
) -> Ended:
    """Run a client with these streams and this input until it exits."""
    done = subprocess.run(
        command(["client", "me", served.path], stdout, stderr),
        input=typed,
        stdout=stdout,
        stderr=stderr,
        env={**os.environ, "XDG_RUNTIME_DIR": str(runtime)},
        timeout=SECONDS,
        check=False,
    )
    return Ended(done.returncode, done.stdout or b"", done.stderr or b"")


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("case", [*COMMANDS, *SILENT])
def test_lost_stderr_does_not_change_the_exit_status(folder: Path, case: str, loss: str) -> None:
    arguments, status = {**COMMANDS, **SILENT}[case]
    with lost(loss) as stderr:
        ended = program(folder, arguments, PIPE, stderr)
    assert ended.status == status
    assert bool(ended.stdout) == (case in COMMANDS)


REASONS = {
    "closed": "stdout is closed: the results cannot be written",
    "full": "stdout: cannot write the results: No space left on device",
    "a lost terminal": "stdout: cannot write the results: Input/output error",
}


@pytest.mark.slow
@pytest.mark.parametrize("loss", REASONS)
@pytest.mark.parametrize("case", [name for name in COMMANDS if "errors" not in name])
def test_lost_result_is_one_line_and_status_1(folder: Path, case: str, loss: str) -> None:
    arguments, _ = COMMANDS[case]
    with lost(loss) as stdout:
        ended = program(folder, arguments, stdout, PIPE)
    command = "" if arguments.startswith("-") or "--help" in arguments else arguments.split()[0]
    assert only_line(ended) == f"{f'kvs {command}'.strip()}: {REASONS[loss]}"
    assert ended.status == 1


@pytest.mark.parametrize("case", [name for name in COMMANDS if "errors" not in name])
def test_closed_stdout_is_status_1_without_a_message(folder: Path, case: str) -> None:
    with lost("a closed pipe") as stdout:
        ended = program(folder, COMMANDS[case][0], stdout, PIPE)
    assert (ended.status, ended.stderr) == (1, b"")


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("case", COMMANDS)
def test_loss_of_both_streams_is_status_1(folder: Path, case: str, loss: str) -> None:
    with lost(loss) as stream:
        assert program(folder, COMMANDS[case][0], stream, stream).status == 1


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("case", SILENT)
def test_command_without_results_needs_no_stdout(folder: Path, case: str, loss: str) -> None:
    arguments, status = SILENT[case]
    with lost(loss) as stdout:
        ended = program(folder, arguments, stdout, PIPE)
    assert ended.status == status
    assert ended.stderr


@contextmanager
def running(arguments: Sequence[Argument], stderr: int | None) -> Iterator[Popen[bytes]]:
    """Start the program with this stderr; kill it at the end."""
    line = command(arguments, DEVNULL, stderr)
    with Popen(line, stdin=DEVNULL, stdout=DEVNULL, stderr=stderr) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_run_has_the_status_of_the_signal(
    folder: Path, loss: str, number: signal.Signals
) -> None:
    jobs = write_jobs(folder / "long", {"job": f"foo\nREAD [k]\n{LONG_WAIT}"})
    with lost(loss) as stderr, running(["run", jobs], stderr) as process:
        until(lambda: b"Waiting" in content(jobs / "job.out"))
        process.send_signal(number)
        assert process.wait(SECONDS) == 128 + number


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_server_exits_with_0_after_a_signal(
    folder: Path, loss: str, number: signal.Signals
) -> None:
    jobs = write_jobs(folder / "served", {"job": "foo\nBACKUP\n"})
    arguments: list[Argument] = ["serve", jobs, "1", "1", folder / "fifo"]
    with lost(loss) as stderr, running(arguments, stderr) as process:
        until((jobs / "job-1.bck").exists)
        process.send_signal(number)
        assert process.wait(SECONDS) == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_session_survives_a_lost_stderr(runtime: Path, served: Served, loss: str) -> None:
    with lost(loss) as stderr:
        ended = session(runtime, served, b"foo\nWRITE [(k,v)]\nSHOW\n", PIPE, stderr)
    assert ended.status == 0
    assert b"(k, v)\n" in ended.stdout


@pytest.mark.parametrize("loss", REASONS)
def test_session_ends_with_a_lost_stdout(runtime: Path, served: Served, loss: str) -> None:
    with lost(loss) as stdout:
        ended = session(runtime, served, b"SHOW\n", stdout, PIPE)
    assert only_line(ended) == f"kvs client: {REASONS[loss]}"
    assert ended.status == 1


@pytest.mark.parametrize("unbuffered", [{}, {"PYTHONUNBUFFERED": "1"}])
def test_partly_written_results_are_an_error(folder: Path, unbuffered: dict[str, str]) -> None:
    """At the maximum size of a file one write(2) is partial, and only the next one fails."""
    with Store(folder / "data") as store:
        store.write({f"key{number}": "v" * 40 for number in range(200)})
    limits = {resource.RLIMIT_FSIZE: 5_000}
    how = Start(limits=limits, redirections=">results", cwd=folder, environment=unbuffered)
    ended = kvs("dump", "data", how=how)
    assert only_line(ended) == "kvs dump: stdout: cannot write the results: File too large"
    assert ended.status == 1
