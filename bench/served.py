"""A server process, ``kvs serve``, and the jobs that are added to its directory."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from bench.folders import short_folder
from bench.processes import KVS
from kvs.engine.selection import ENGINE_VARIABLE

_TIMEOUT_S = 300.0
_POLL_S = 0.01
_MAX_SESSIONS = 2_000

T = TypeVar("T")


class ServerError(Exception):
    """The server did not start, did not shut down gracefully, or did not run a job."""


class ServerProcess:
    """A running server."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.registration = os.path.join(folder, "r")
        self.jobs = os.path.join(folder, "jobs")
        self.log = os.path.join(folder, "log")
        self._jobs_added = 0

    def add_job(self, script: bytes) -> str:
        """Add a job to the directory of the server; return its name."""
        self._jobs_added += 1
        name = f"job{self._jobs_added}"
        path = os.path.join(self.folder, name)
        with open(path, "wb") as file:
            file.write(script)
        os.rename(path, os.path.join(self.jobs, f"{name}.job"))
        return name

    def add_job_again(self, name: str) -> str:
        """Add a copy of a job under another name; return that name."""
        self._jobs_added += 1
        copy = f"job{self._jobs_added}"
        os.link(os.path.join(self.jobs, f"{name}.job"), os.path.join(self.jobs, f"{copy}.job"))
        return copy

    def await_output(self, name: str) -> None:
        """Block until a job has written output: it is executing commands then.

        Raises:
            ServerError: the time limit was exceeded.

        """
        path = os.path.join(self.jobs, f"{name}.out")
        self._await(lambda: True if os.path.exists(path) and os.path.getsize(path) else None)

    def seconds_of(self, name: str) -> float | None:
        """Return the seconds of a finished job; None if it is not finished.

        Raises:
            ServerError: the job failed, or had invalid lines.

        """
        report = rf"/{name}\.job: (\w+), .* (\d+) invalid .* ([\d.]+) s\n"
        match = re.search(report, self._read_log())
        if match is None:
            return None
        if (match[1], match[2]) != ("done", "0"):
            raise ServerError(f"a job failed: {match[0].strip()}")
        return float(match[3])

    def run(self, script: bytes) -> float:
        """Add a job and block until it is finished; return its seconds, as logged by the server.

        Raises:
            ServerError: the job failed, or had invalid lines.

        """
        name = self.add_job(script)
        return self._await(lambda: self.seconds_of(name))

    def await_serving(self, server: "subprocess.Popen[bytes]") -> None:
        """Block until the server accepts clients.

        Raises:
            ServerError: it exited, or the time limit was exceeded.

        """

        def is_serving() -> bool | None:
            if server.poll() is not None:
                raise ServerError(f"kvs serve exited at start: {self._read_log()}")
            return True if "serving at" in self._read_log() else None

        self._await(is_serving)

    def _await(self, condition: Callable[[], T | None]) -> T:
        """Poll until `condition` returns a value. Cost: little, as the log is small."""
        deadline = time.monotonic() + _TIMEOUT_S
        while (value := condition()) is None:
            if time.monotonic() > deadline:
                raise ServerError(f"timeout after {_TIMEOUT_S} s: {self._read_log()}")
            time.sleep(_POLL_S)
        return value

    def _read_log(self) -> str:
        with open(self.log, encoding="utf-8") as file:
            return file.read()


@contextmanager
def serving(
    threads: int = 1, data: str | None = None, engine: str | None = None
) -> Iterator[ServerProcess]:
    """Start a server in a new directory with a short path; shut it down at the end of the block.

    `data` is its data directory, `engine` the name of its engine; by default it has no data
    directory and the default engine.

    Raises:
        ServerError: it does not start, or does not shut down gracefully.

    """
    with short_folder() as folder:
        served = ServerProcess(folder)
        os.mkdir(served.jobs)
        command = [
            KVS, "serve", served.jobs, str(threads), "1", served.registration,
            "--max-sessions", str(_MAX_SESSIONS),
        ]  # fmt: skip
        if data is not None:
            command += ["--data", data]
        environment = os.environ | ({} if engine is None else {ENGINE_VARIABLE: engine})
        with open(served.log, "wb") as log:
            server = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stderr=log, env=environment
            )
        try:
            served.await_serving(server)
            yield served
            server.send_signal(signal.SIGTERM)
            if server.wait(_TIMEOUT_S):
                raise ServerError(f"kvs serve: exit status {server.returncode}")
        finally:
            server.kill()
            server.wait()
