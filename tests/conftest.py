"""Fixtures of several test modules."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from kvs.concurrency import forks
from kvs.engine.selection import COMPILED, ENGINE_VARIABLE, PYTHON
from tests.engine.engines import engine_called

# PYTHONUNBUFFERED and its like change how every program that a test starts behaves: the tests run
# as on a machine that sets none. tests/engine/native/sanitize needs the two that stay.
for _name in {name for name in os.environ if name.startswith("PYTHON")}:
    if _name not in {"PYTHONPATH", "PYTHONMALLOC"}:
        del os.environ[_name]

# A slow machine must not fail an example.
settings.register_profile("kvs", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# For quick feedback: `make test-fast`.
settings.register_profile("fast", settings.get_profile("kvs"), max_examples=15)
settings.load_profile("kvs")


@pytest.fixture(scope="module", params=[PYTHON, COMPILED])
def each_engine(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run a module with each engine, in its stores and in the programs that it starts."""
    engine_called(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENGINE_VARIABLE, request.param)
        yield


@pytest.fixture(autouse=True)
def no_closed_descriptor_registered() -> Iterator[None]:
    """Fail a test that closed a descriptor which children still close after a fork.

    The number may be that of another file by then.
    """
    yield
    registered = forks._closed_in_children
    closed = set(registered) - set(map(int, os.listdir("/proc/self/fd")))
    assert not closed.intersection(registered)


@pytest.fixture
def often_switching() -> Iterator[None]:
    """Switch threads every few bytecodes."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def kvs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a program called `kvs` that is this package, alone in its directory."""
    program = tmp_path_factory.mktemp("bin") / "kvs"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m kvs "$@"\n')
    program.chmod(0o700)
    return program
