"""Helpers for tests that run on every engine."""

import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec

import pytest

from kvs.engine.interface import ChangeBatch, Engine, ExecuteResult, JobCursor
from kvs.engine.python import PythonEngine
from kvs.engine.selection import PYTHON
from tests.helpers import SECONDS

NewEngine = Callable[[], Engine]


def engine_called(name: str) -> NewEngine:
    """Return the class of the engine `name`; skip the test if that engine was not built."""
    if name == PYTHON:
        return PythonEngine
    if find_spec("kvs.engine._compiled") is None:
        pytest.skip("the compiled engine was not built")
    from kvs.engine._compiled import CompiledEngine

    return CompiledEngine


def output_of_child(program: str, argument: str) -> str:
    """Run `program` in a Python process of its own, for its memory; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", program, argument],
        check=False,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def execute_all(
    engine: Engine, script: bytes, budget: int = 65536, job: int | None = None
) -> list[ExecuteResult]:
    """Execute a whole script; return the result of each call."""
    results: list[ExecuteResult] = []
    offset = 0
    while offset < len(script):
        cursor = None if job is None else JobCursor(job, 0)
        results.append(engine.execute(script, offset, budget, cursor))
        assert results[-1].offset > offset
        offset = results[-1].offset
    return results


def run(engine: Engine, script: bytes, budget: int = 65536, job: int | None = None) -> bytes:
    """Execute a whole script; return its output."""
    return b"".join(result.output for result in execute_all(engine, script, budget, job))


def take_batches(engine: Engine) -> list[ChangeBatch]:
    """Return the change batches that are ready."""
    batches: list[ChangeBatch] = []
    engine.move_batches(batches)
    return batches


def take_all_batches(engine: Engine) -> list[ChangeBatch]:
    """Return the change batches of all changes so far."""
    engine.settle()
    return take_batches(engine)
