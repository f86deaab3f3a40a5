"""A directory for pipes, a server, and the ends of a simulated one, for one test each."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.far_ends import FarEnds, far_ends
from tests.server.raw_client import Served, serving


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory for clients' pipes, in a runtime directory with a short path."""
    with tempfile.TemporaryDirectory(prefix="k", dir="/tmp") as name:
        monkeypatch.setenv("XDG_RUNTIME_DIR", name)
        yield Path(name, "kvs")
        assert os.listdir(name) == [] or os.listdir(os.path.join(name, "kvs")) == []


@pytest.fixture
def served(runtime: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Served]:
    """A server, whose log is shown when a test fails."""
    caplog.set_level("INFO", "kvs.server")
    with serving() as server:
        yield server


@pytest.fixture
def server() -> Iterator[FarEnds]:
    """The server's ends of the pipes of a transport."""
    with far_ends() as ends:
        yield ends
