"""Start processes and time them."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from multiprocessing.connection import Connection
from typing import Any, Concatenate, ParamSpec, TypeVar

from kvs.engine.selection import COMPILED, engine_name
from kvs.engine.selection import PYTHON as PYTHON_ENGINE

P = ParamSpec("P")
R = TypeVar("R")

PYTHON = sys.executable
KVS = os.path.join(os.path.dirname(PYTHON), "kvs")
"""The command installed with this interpreter."""


def engines_built() -> list[str]:
    """Return the names of the available engines."""
    return [PYTHON_ENGINE, COMPILED] if engine_name() == COMPILED else [PYTHON_ENGINE]


def timed(
    command: Sequence[str], stdin: str = os.devnull, variables: Mapping[str, str] | None = None
) -> tuple[float, str]:
    """Run `command`; return its seconds, start-up included, and its standard output.

    `variables` are added to its environment. If it fails, its standard error is printed.

    Raises:
        subprocess.CalledProcessError: the exit status is not 0.

    """
    environment = _environment() | dict(variables or {})
    with open(stdin, "rb") as source:
        start = time.perf_counter()
        done = subprocess.run(
            command, stdin=source, env=environment, capture_output=True, check=False
        )
        seconds = time.perf_counter() - start
    if done.returncode:
        sys.stderr.buffer.write(done.stderr)
        done.check_returncode()
    return seconds, done.stdout.decode()


def _environment() -> dict[str, str]:
    """Return an environment in which Python writes its cache of bytecode, as for users."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def timing(name: str, command: Sequence[str]) -> Callable[[], Mapping[str, float]]:
    """Return a subject that runs `command` and returns its seconds under `name`."""
    return lambda: {name: timed(command)[0]}


def in_fresh_process(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call `function` in a new interpreter, whose memory is unused."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(function, *args, **kwargs).result()
        except BaseException:
            # The pool would wait for the process to exit, and its result is not needed any more.
            for child in active_children():
                child.kill()
            raise


@contextmanager
def child_process(
    function: Callable[Concatenate["Connection[Any, Any]", P], None],
    *args: P.args,
    **kwargs: P.kwargs,
) -> Iterator["Connection[Any, Any]"]:
    """Run `function` in a new interpreter, with the other end of the connection that is yielded.

    The process is killed at the end of the block. If it fails, `recv` raises `EOFError`.
    """
    context = get_context("spawn")
    parent_end, child_end = context.Pipe()
    process = context.Process(target=function, args=(child_end, *args), kwargs=kwargs)
    process.start()
    child_end.close()
    try:
        yield parent_end
    finally:
        process.kill()
        process.join()
        parent_end.close()
