"""The engines that there are, for tests that hold for each of them."""

from collections.abc import Callable
from importlib.util import find_spec

import pytest

from kvs.engine.interface import ChangeBatch, Engine, ExecuteResult, JobCursor
from kvs.engine.python import PythonEngine
from kvs.engine.selection import PYTHON

NewEngine = Callable[[], Engine]


def engine_called(name: str) -> NewEngine:
    """Return what makes an engine of that name; the test is skipped if it was not built."""
    if name == PYTHON:
        return PythonEngine
    if find_spec("kvs.engine._compiled") is None:
        pytest.skip("the compiled engine was not built")
    from kvs.engine._compiled import CompiledEngine

    return CompiledEngine


def pauses(
    engine: Engine, script: bytes, budget: int = 65536, job: int | None = None
) -> list[ExecuteResult]:
    """Carry out a script to its end; return every pause on the way."""
    met: list[ExecuteResult] = []
    offset = 0
    while offset < len(script):
        mark = None if job is None else JobCursor(job, 0)
        met.append(engine.execute(script, offset, budget, mark))
        assert met[-1].offset > offset
        offset = met[-1].offset
    return met


def run_to_the_end(
    engine: Engine, script: bytes, budget: int = 65536, job: int | None = None
) -> bytes:
    """Carry out a script; return its output."""
    return b"".join(pause.output for pause in pauses(engine, script, budget, job))


def take_effects(engine: Engine) -> list[ChangeBatch]:
    """Return the effects that can be moved."""
    taken: list[ChangeBatch] = []
    engine.move_batches(taken)
    return taken


def take_all_effects(engine: Engine) -> list[ChangeBatch]:
    """Return the effects of all changes so far."""
    engine.settle()
    return take_effects(engine)
