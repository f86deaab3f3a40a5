"""A server of our own: ``kvs serve`` as a process, and jobs that are dropped into its directory."""

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

_WAIT_SECONDS = 300.0
_LOOK_SECONDS = 0.01
_MANY_SESSIONS = 2_000

T = TypeVar("T")


class ServerFailed(Exception):
    """The server did not start, did not end in good order, or did not run a job."""


class Served:
    """A server that runs."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.registration = os.path.join(folder, "r")
        self.jobs = os.path.join(folder, "jobs")
        self.log = os.path.join(folder, "log")
        self._dropped = 0

    def drop(self, script: bytes) -> str:
        """Put a job where the server finds it; return its name."""
        self._dropped += 1
        name = f"job{self._dropped}"
        path = os.path.join(self.folder, name)
        with open(path, "wb") as file:
            file.write(script)
        os.rename(path, os.path.join(self.jobs, f"{name}.job"))
        return name

    def drop_again(self, name: str) -> str:
        """Put a job there under another name too, to be run once more; return that name."""
        self._dropped += 1
        other = f"job{self._dropped}"
        os.link(os.path.join(self.jobs, f"{name}.job"), os.path.join(self.jobs, f"{other}.job"))
        return other

    def await_output(self, name: str) -> None:
        """Come back when a job has put something out: it is at its commands then.

        Raises:
            ServerFailed: it did not.

        """
        path = os.path.join(self.jobs, f"{name}.out")
        self._await(lambda: True if os.path.exists(path) and os.path.getsize(path) else None)

    def has_ended(self, name: str) -> float | None:
        """Return the seconds of a job, None while it has not ended.

        Raises:
            ServerFailed: it did not do all that it should.

        """
        ended = rf"/{name}\.job: (\w+), .* (\d+) invalid .* ([\d.]+) s\n"
        found = re.search(ended, self._logged())
        if found is None:
            return None
        if (found[1], found[2]) != ("done", "0"):
            raise ServerFailed(f"a job came to no good end: {found[0].strip()}")
        return float(found[3])

    def run(self, script: bytes) -> float:
        """Drop a job; return its seconds, as the server tells them, when it has ended.

        Raises:
            ServerFailed: it did not do all that it should.

        """
        name = self.drop(script)
        return self._await(lambda: self.has_ended(name))

    def await_serving(self, server: "subprocess.Popen[bytes]") -> None:
        """Come back when the server serves.

        Raises:
            ServerFailed: it has ended, or never does.

        """

        def serves() -> bool | None:
            if server.poll() is not None:
                raise ServerFailed(f"kvs serve does not start: {self._logged()}")
            return True if "serving at" in self._logged() else None

        self._await(serves)

    def _await(self, condition: Callable[[], T | None]) -> T:
        """Look until `condition` gives something; the log is small, so a look costs little."""
        deadline = time.monotonic() + _WAIT_SECONDS
        while (found := condition()) is None:
            if time.monotonic() > deadline:
                raise ServerFailed(f"nothing came of it in {_WAIT_SECONDS} s: {self._logged()}")
            time.sleep(_LOOK_SECONDS)
        return found

    def _logged(self) -> str:
        with open(self.log, encoding="utf-8") as file:
            return file.read()


@contextmanager
def serving(
    threads: int = 1, data: str | None = None, engine: str | None = None
) -> Iterator[Served]:
    """Start a server, in a folder of its own with a short path; end it where the block is left.

    With `data` it keeps its store in that directory; with `engine` it has that one.

    Raises:
        ServerFailed: it does not start, or does not end in good order.

    """
    with short_folder() as folder:
        served = Served(folder)
        os.mkdir(served.jobs)
        command = [
            KVS, "serve", served.jobs, str(threads), "1", served.registration,
            "--max-sessions", str(_MANY_SESSIONS),
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
            if server.wait(_WAIT_SECONDS):
                raise ServerFailed(f"kvs serve ended with status {server.returncode}")
        finally:
            server.kill()
            server.wait()
