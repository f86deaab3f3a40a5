"""What tests share: running the program for real, waiting for conditions."""

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
"""The longest that anything here is waited for; far beyond what it takes on a loaded machine."""

KVS = (sys.executable, "-m", "kvs")
"""The program as a person starts it."""

LAUNCHER = Path(__file__).parent / "failures" / "launch.py"

STANDSTILL = "standstill\n" * 200
"""Invalid lines: who tells of them on a small pipe that nobody reads stands still under way."""

HOUR = "WAIT 3600000\n"
"""A line that takes longer than any test."""

NOBODY = 65534
"""A user with no rights."""

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As a shell sets it for what it starts in the background; the programs here must not have it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

T = TypeVar("T")
Argument = str | bytes | Path
Data = Any
"""What comes out of JSON."""


def until(condition: Callable[[], T], seconds: float = SECONDS) -> T:
    """Return the first result of `condition` that is true; fail after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"still not so after {seconds} s"
        time.sleep(0.002)
    return result


def content(path: Path) -> bytes:
    """Return what is in the file, nothing if there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def write_jobs(directory: Path, jobs: Mapping[str, str | bytes]) -> Path:
    """Write jobs, name and text, to `directory`, which is made; return it."""
    directory.mkdir(exist_ok=True)
    for name, text in jobs.items():
        data = text if isinstance(text, bytes) else text.encode()
        (directory / f"{name}.job").write_bytes(data)
    return directory


def pairs_job(count: int) -> bytes:
    """Return a job that writes `count` pairs of some 40 bytes, 100 a line."""
    pairs = [b"(key%09d,value%017d)" % (number, number) for number in range(count)]
    lines = (b"".join(pairs[start : start + 100]) for start in range(0, count, 100))
    return b"".join(b"WRITE [%b]\n" % line for line in lines)


def pairs_listing(count: int) -> bytes:
    """Return what SHOW and BACKUP write after `pairs_job(count)`."""
    return b"".join(b"(key%09d, value%017d)\n" % (number, number) for number in range(count))


def leftovers(directory: Path) -> list[str]:
    """Return the names of the program's own files in `directory`: lock, temporary files."""
    return sorted(name for name in os.listdir(directory) if name.startswith(".kvs"))


# Running the program.


@dataclass(frozen=True)
class Ended:
    """A program that has come to its end."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def lines(self) -> list[str]:
        """What was told on stderr."""
        return told(self.stderr)


def told(stderr: bytes) -> list[str]:
    """Return the lines of `stderr`; they are for a person, so there is no traceback."""
    text = stderr.decode()
    assert "Traceback" not in text, text
    assert not text or text.endswith("\n")
    return text.split("\n")[:-1]


@dataclass(frozen=True)
class Start:
    """How the program is started, where that is not as usual."""

    uid: int | None = None
    """As this user, with no rights of root."""
    children_stop: str | None = None
    """Its children stop themselves (SIGSTOP), at their "birth" or when about to "sync" a file.

    With "fork" they do so at their birth, and the thread that forked never comes back from it.
    """
    limits: Mapping[int, int] = field(default_factory=dict)
    """Resources of `resource` and their limits, soft and hard."""
    ignored: Sequence[signal.Signals] = ()
    """Signals that it inherits as ignored."""
    redirections: str = ""
    """Of a shell, such as ``>&-``."""
    cwd: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    """To be added to the environment."""
    terminal: int | None = None
    """What its stdin, stdout and stderr are instead of pipes, and its controlling terminal."""
    pipe_bytes: int = -1
    """What its pipes hold (pipe(7)), if not as usual."""

    def command(self, arguments: Sequence[Argument]) -> list[Argument]:
        """Return the command line, by way of `LAUNCHER` for what needs it."""
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
    """Start the program, in a session of its own; end it, and all its children, at the end."""
    with subprocess.Popen(
        how.command(arguments),
        stdin=subprocess.DEVNULL if how.terminal is None else how.terminal,
        stdout=subprocess.PIPE if how.terminal is None else how.terminal,
        stderr=subprocess.PIPE if how.terminal is None else how.terminal,
        cwd=how.cwd,
        env={**_environment(), **how.environment},
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


def _environment() -> dict[str, str]:
    """Return the environment without what somebody may have set there for terminals and text."""
    unwanted = re.compile(
        "COLUMNS|LINES|TERM|NO_COLOR|FORCE_COLOR|TTY_.*|LC_.*|PYTHON(IOENCODING|UTF8|COERCE.*)"
    )
    return {name: value for name, value in os.environ.items() if not unwanted.fullmatch(name)}


def kvs(*arguments: Argument, how: Start = USUAL) -> Ended:
    """Run the program to its end."""
    with started(*arguments, how=how) as process:
        return end(process)


def end(process: subprocess.Popen[bytes]) -> Ended:
    """Wait for the end of a started program."""
    stdout, stderr = process.communicate(timeout=SECONDS)
    return Ended(process.returncode, stdout or b"", stderr or b"")


def interrupt_until_gone(
    process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGINT
) -> int:
    """Send a signal until the program is gone; return its exit status.

    Twice is not enough: one that comes while the same one is on its way is not seen (signal(7)).
    """

    def gone() -> bool:
        process.send_signal(number)
        return process.poll() is not None

    until(gone, seconds=20)
    return process.returncode


def alive(process: subprocess.Popen[bytes]) -> list[int]:
    """Return the processes of the session of a started program: itself and its children."""
    return [pid for pid, _, session, state in _processes() if session == process.pid and state]


def stopped_children(process: subprocess.Popen[bytes], count: int = 1) -> list[int]:
    """Wait until so many children of a started program have stopped themselves; return them."""

    def stopped() -> list[int]:
        assert process.poll() is None, f"it ended with {process.returncode}"
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


def writes_in_vain(process: subprocess.Popen[bytes], descriptor: int) -> bool:
    """Tell whether a thread of the program waits in a system call on `descriptor` (proc(5))."""
    for task in Path("/proc", str(process.pid), "task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            if (task / "syscall").read_text().split()[1:2] == [hex(descriptor)]:
                return True
    return False


def unread(stream: IO[bytes] | None) -> int:
    """Return how many bytes are in a pipe that nobody has read yet."""
    assert stream is not None
    return int.from_bytes(fcntl.ioctl(stream, termios.FIONREAD, bytes(4)), sys.byteorder)


@contextmanager
def standing_still(*arguments: Argument, how: Start = USUAL) -> Iterator[subprocess.Popen[bytes]]:
    """Run a directory with one thread until it stands still in a job that holds `STANDSTILL`.

    It goes on when somebody reads its stderr, as `end` does.
    """
    how = replace(how, pipe_bytes=4096)
    with started("run", *arguments, "--quiet", "--threads", "1", how=how) as process:
        until(lambda: unread(process.stderr) > 3000)
        yield process


# What came of it.


def one_line(ended: Ended) -> str:
    """Return the one line that the program told, and told well: for a person, on stderr alone."""
    assert len(ended.lines) == 1, ended
    assert ended.stdout == b""
    assert ended.lines[0].isprintable()
    return ended.lines[0]


def no_snapshot(directory: Path, name: str, line: int, number: int, reason: str) -> str:
    """Return how a person is told of a BACKUP that gave none."""
    return (
        f"{directory}/{name}.job:{line}: snapshot {number} failed: "
        f"{directory}/{name}-{number}.bck: no snapshot was written: {reason}"
    )


def run_reporting(
    directory: Argument, *arguments: Argument, how: Start = USUAL
) -> tuple[Ended, Data]:
    """Run the jobs of `directory` to their end, quietly; return it with its report's data."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o777)
        report = Path(place, "report.json")
        ended = kvs("run", directory, "--quiet", "--report", report, *arguments, how=how)
        return ended, json.loads(report.read_bytes())


def fails_alone(directory: Path, name: str, *arguments: Argument, how: Start = USUAL) -> str:
    """Run `directory`, where the job `name` must fail and all others must not; return its error."""
    ended, report = run_reporting(directory, *arguments, how=how)
    states = {job["name"]: job["state"] for job in report["jobs"]}
    assert len(states) > 1
    assert states == {job: "failed" if job == name else "done" for job in states}
    assert ended.status == 1
    line = one_line(ended)
    (error,) = [job["error"] for job in report["jobs"] if job["name"] == name]
    assert error == line
    assert leftovers(directory) == []
    return line
