"""Helpers of tests: run the program as a process, and wait for conditions."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, TypeVar

SECONDS = 60.0
"""Maximum seconds of each wait; far more than it takes on a busy machine."""

KVS = (sys.executable, "-m", "kvs")
"""The command that starts the program."""

LAUNCHER = Path(__file__).parent / "failures" / "launch.py"

BLOCKING_ERRORS = "standstill\n" * 200
"""Invalid lines whose errors fill a small pipe, so that a job blocks while it is not read."""

LONG_WAIT = "WAIT 3600000\n"
"""A command that takes longer than any test."""

COVERAGE_VARIABLE = "COVERAGE_PROCESS_CONFIG"
"""The variable with which coverage measures the programs that tests start."""

NOBODY_UID = 65534
"""The user ID of ``nobody``, which has no permissions."""

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell ignores SIGINT in background processes; programs started here must not inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

T = TypeVar("T")
Argument = str | bytes | Path
Data = Any
"""A value decoded from JSON."""


def until(condition: Callable[[], T], seconds: float = SECONDS) -> T:
    """Return the first true result of `condition`; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not true after {seconds} s"
        time.sleep(0.002)
    return result


def content(path: Path) -> bytes:
    """Return the bytes of a file; none if it does not exist."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def write_jobs(directory: Path, jobs: Mapping[str, str | bytes]) -> Path:
    """Create `directory` with the jobs, text by name; return it."""
    directory.mkdir(exist_ok=True)
    for name, text in jobs.items():
        data = text if isinstance(text, bytes) else text.encode()
        (directory / f"{name}.job").write_bytes(data)
    return directory


def pairs_job(count: int) -> bytes:
    """Return a job that writes `count` pairs of about 40 bytes, 100 per line."""
    pairs = [b"(key%09d,value%017d)" % (number, number) for number in range(count)]
    lines = (b"".join(pairs[start : start + 100]) for start in range(0, count, 100))
    return b"".join(b"WRITE [%b]\n" % line for line in lines)


def pairs_listing(count: int) -> bytes:
    """Return the output of SHOW, and the backup, after `pairs_job(count)`."""
    return b"".join(b"(key%09d, value%017d)\n" % (number, number) for number in range(count))


def leftovers(directory: Path) -> list[str]:
    """Return the names of the program's own files in `directory`: lock, temporary files."""
    return sorted(name for name in os.listdir(directory) if name.startswith(".kvs"))


# Running the program.


@dataclass(frozen=True)
class Ended:
    """The result of a program that has ended."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def lines(self) -> list[str]:
        """The lines on stderr."""
        return stderr_lines(self.stderr)


def stderr_lines(stderr: bytes) -> list[str]:
    """Return the lines of `stderr`; fail on a traceback."""
    text = stderr.decode()
    assert "Traceback" not in text, text
    assert not text or text.endswith("\n")
    return text.split("\n")[:-1]


@dataclass(frozen=True)
class Start:
    """How to start the program; each default changes nothing."""

    uid: int | None = None
    """Run as this user, without capabilities."""
    children_stop: str | None = None
    """When its children stop themselves (SIGSTOP): at "birth", or before they "sync" a file.

    With "fork" they stop at birth, and fork(2) never returns in the parent.
    """
    limits: Mapping[int, int] = field(default_factory=dict)
    """Limit, soft and hard, by constant of the module `resource`."""
    ignored: Sequence[signal.Signals] = ()
    """Signals that the program inherits as ignored."""
    redirections: str = ""
    """Redirections of a shell, such as ``>&-``."""
    cwd: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables added to the environment."""
    terminal: int | None = None
    """Descriptor of the controlling terminal that replaces its pipes."""
    pipe_bytes: int = -1
    """Capacity of its pipes (pipe(7)); -1 is the default of the system."""

    def command(self, arguments: Sequence[Argument]) -> list[Argument]:
        """Return the command line, with `LAUNCHER` if an option needs it."""
        wishes = {
            "uid": self.uid,
            "children_stop": self.children_stop,
            "limits": list(self.limits.items()),
            "ignored": list(self.ignored),
            "terminal": self.terminal is not None,
        }
        program: list[Argument] = [*KVS]
        if any(wishes.values()):
            program = [sys.executable, LAUNCHER, json.dumps(wishes)]
        if self.redirections:
            program = ["sh", "-c", f'exec "$@" {self.redirections}', "sh", *program]
        return [*program, *arguments]


USUAL = Start()


@contextmanager
def started(*arguments: Argument, how: Start = USUAL) -> Iterator[subprocess.Popen[bytes]]:
    """Start the program in a session of its own; kill it and its children at the end."""
    with subprocess.Popen(
        how.command(arguments),
        stdin=subprocess.DEVNULL if how.terminal is None else how.terminal,
        stdout=subprocess.PIPE if how.terminal is None else how.terminal,
        stderr=subprocess.PIPE if how.terminal is None else how.terminal,
        cwd=how.cwd,
        env={**_environment(writes_files=not how.limits and how.uid is None), **how.environment},
        start_new_session=True,
        umask=0o022,
        pipesize=how.pipe_bytes,
    ) as process:
        try:
            yield process
        finally:
            for pid in alive(process):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _environment(*, writes_files: bool) -> dict[str, str]:
    """Return the environment without variables for terminals and text."""
    unwanted = re.compile(
        "COLUMNS|LINES|TERM|NO_COLOR|FORCE_COLOR|TTY_.*|LC_.*|PYTHON(IOENCODING|UTF8|COERCE.*)"
    )
    environment = dict(os.environ) if writes_files else without_files()
    return {name: value for name, value in environment.items() if not unwanted.fullmatch(name)}


def without_files() -> dict[str, str]:
    """Return the environment of a program that must write no files but its own.

    A limit of file sizes may truncate them, and another user may not be allowed to write them:

    - A measured program (`make coverage`) writes a database into the working tree when it exits. If
      it cannot, coverage prints a traceback to the program's stderr.
    - CPython writes the bytecode of a module at its first import, and does not notice a partial
      write(2): every later program fails with "marshal data too short".
    """
    environment = {name: value for name, value in os.environ.items() if name != COVERAGE_VARIABLE}
    return {**environment, "PYTHONDONTWRITEBYTECODE": "1"}


def kvs(*arguments: Argument, how: Start = USUAL) -> Ended:
    """Run the program to its end."""
    with started(*arguments, how=how) as process:
        return end(process)


def end(process: subprocess.Popen[bytes]) -> Ended:
    """Wait for a started program to end; return its result."""
    stdout, stderr = process.communicate(timeout=SECONDS)
    return Ended(process.returncode, stdout or b"", stderr or b"")


def interrupt_until_gone(
    process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGINT
) -> int:
    """Send a signal until the program has ended; return its exit status.

    Two signals are not enough: a pending signal absorbs another one of its number (signal(7)).
    """

    def gone() -> bool:
        process.send_signal(number)
        return process.poll() is not None

    until(gone, seconds=20)
    return process.returncode


def alive(process: subprocess.Popen[bytes]) -> list[int]:
    """Return the processes of the session of a started program."""
    return [pid for pid, _, session, state in _processes() if session == process.pid and state]


def stopped_children(process: subprocess.Popen[bytes], count: int = 1) -> list[int]:
    """Wait until `count` children of a started program have stopped; return them."""

    def stopped() -> list[int]:
        assert process.poll() is None, f"the program ended with {process.returncode}"
        return [
            pid for pid, parent, _, state in _processes() if (parent, state) == (process.pid, "T")
        ]

    return until(lambda: pids if len(pids := stopped()) == count else [])


def _processes() -> Iterator[tuple[int, int, int, str]]:
    """Yield number, parent, session and state of every process; no state if it is a zombie."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(FileNotFoundError, ProcessLookupError):
            stat = Path("/proc", name, "stat").read_bytes()
            state, parent, _, session = stat.rpartition(b")")[2].split()[:4]
            yield int(name), int(parent), int(session), state.decode().strip("ZX")


def is_blocked_on(process: subprocess.Popen[bytes], descriptor: int) -> bool:
    """Return whether a thread of the program blocks in a system call on `descriptor` (proc(5))."""
    for task in Path("/proc", str(process.pid), "task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
            if (task / "syscall").read_text().split()[1:2] == [hex(descriptor)]:
                return True
    return False


def unread(stream: IO[bytes] | None) -> int:
    """Return the number of unread bytes in a pipe."""
    assert stream is not None
    return int.from_bytes(fcntl.ioctl(stream, termios.FIONREAD, bytes(4)), sys.byteorder)


@contextmanager
def blocked_on_stderr(
    *arguments: Argument, how: Start = USUAL
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a directory with one thread until a job with `BLOCKING_ERRORS` blocks the program.

    The program continues when its stderr is read, as `end` does.
    """
    how = replace(how, pipe_bytes=4096)
    with started("run", *arguments, "--quiet", "--threads", "1", how=how) as process:
        until(lambda: unread(process.stderr) > 3000)
        yield process


# Results.


def only_line(ended: Ended) -> str:
    """Return the only line of the program, which must be printable and on stderr."""
    assert len(ended.lines) == 1, ended
    assert ended.stdout == b""
    assert ended.lines[0].isprintable()
    return ended.lines[0]


def backup_error(directory: Path, name: str, line: int, number: int, reason: str) -> str:
    """Return the error of a BACKUP that failed."""
    return (
        f"{directory}/{name}.job:{line}: backup {number} failed: "
        f"{directory}/{name}-{number}.bck: not written: {reason}"
    )


def run_reporting(
    directory: Argument, *arguments: Argument, how: Start = USUAL
) -> tuple[Ended, Data]:
    """Run the jobs of `directory` to their end, quietly; return its result and its report."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o777)
        report = Path(place, "report.json")
        ended = kvs("run", directory, "--quiet", "--report", report, *arguments, how=how)
        return ended, json.loads(report.read_bytes())


def failing_job_error(directory: Path, name: str, *arguments: Argument, how: Start = USUAL) -> str:
    """Run `directory`, in which only the job `name` must fail; return its error."""
    ended, report = run_reporting(directory, *arguments, how=how)
    states = {job["name"]: job["state"] for job in report["jobs"]}
    assert len(states) > 1
    assert states == {job: "failed" if job == name else "done" for job in states}
    assert ended.status == 1
    line = only_line(ended)
    (error,) = [job["error"] for job in report["jobs"] if job["name"] == name]
    assert error == line
    assert leftovers(directory) == []
    return line
