"""Helpers of the contract suite: the program as a process, and files.

The suite uses the program only from outside. Nothing here imports `kvs` or a module of another
test directory, so that the suite runs unchanged whatever is renamed.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

KVS = (sys.executable, "-m", "kvs")

SECONDS = 30.0
"""Maximum seconds that one operation is waited for."""

RUNNER_VARIABLES = ("KVS_ENGINE", "PYTHONUNBUFFERED", "COLUMNS")
"""Variables of the test runner that are removed for the program."""

Argument = str | Path


def environment(engine: str = "", runtime: Path | None = None) -> dict[str, str]:
    """Return the environment of the program."""
    variables = {name: text for name, text in os.environ.items() if name not in RUNNER_VARIABLES}
    chosen = {"KVS_ENGINE": engine} if engine else {}
    directory = {} if runtime is None else {"XDG_RUNTIME_DIR": str(runtime)}
    return {**variables, **chosen, **directory}


def kvs(
    *arguments: Argument, stdin: bytes = b"", engine: str = "", runtime: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run the program to its end."""
    ended = subprocess.run(
        [*KVS, *arguments],
        check=False,
        input=stdin,
        env=environment(engine, runtime),
        capture_output=True,
        timeout=SECONDS,
    )
    assert b"Traceback" not in ended.stderr, ended.stderr
    return ended


@cache
def has_engine(engine: str) -> bool:
    """Return whether the program has this engine."""
    return kvs("--version", engine=engine).returncode == 0


@contextmanager
def started(*arguments: Argument, runtime: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Start the program with pipes; kill it at the end if it still runs."""
    pipe = subprocess.PIPE
    command = [*KVS, *arguments]
    variables = environment("", runtime)
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=variables) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def ended_by(process: subprocess.Popen[bytes], number: signal.Signals) -> int:
    """Send a signal; return the exit status."""
    process.send_signal(number)
    process.communicate(timeout=SECONDS)
    return process.returncode


def until(condition: Callable[[], bool]) -> None:
    """Poll `condition` until it is true; fail after `SECONDS`."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the condition is still false"
        time.sleep(0.002)


def content(path: Path) -> bytes:
    """Return the bytes of a file; nothing if it does not exist."""
    with suppress(FileNotFoundError):
        return path.read_bytes()
    return b""


def write_jobs(directory: Path, **jobs: bytes) -> Path:
    """Create `directory` with a file `NAME.job` for each job; return the directory."""
    directory.mkdir(exist_ok=True)
    for name, text in jobs.items():
        (directory / f"{name}.job").write_bytes(text)
    return directory


def lines_of(data: bytes) -> list[str]:
    """Return the lines of a report for people, without their newlines."""
    assert not data or data.endswith(b"\n")
    return data.decode().split("\n")[:-1]
