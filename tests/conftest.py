"""What tests of several modules need."""

import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

from kvs.engine.choice import COMPILED, PYTHON, VARIABLE
from tests.engine.engines import engine_called

settings.register_profile("kvs", deadline=None)  # a loaded machine is slow, not wrong
settings.load_profile("kvs")


@pytest.fixture(scope="module", params=[PYTHON, COMPILED])
def each_engine(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let all stores of a module, and the programs it starts, have one engine, then the other."""
    engine_called(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, request.param)
        yield


@pytest.fixture
def often_switching() -> Iterator[None]:
    """Let threads take turns every few commands, not every thousand."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)
