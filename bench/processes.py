"""Starting processes and timing them."""

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
"""The command as it was installed beside this interpreter."""


def engines_built() -> Sequence[str]:
    """Return the names of the engines that are there."""
    return (PYTHON_ENGINE, COMPILED) if engine_name() == COMPILED else (PYTHON_ENGINE,)


def timed(command: Sequence[str], stdin: str = os.devnull) -> tuple[float, str]:
    """Run `command` to its end; return its seconds, start-up included, and what it put out.

    What it says on standard error is shown if it fails.

    Raises:
        subprocess.CalledProcessError: its exit status is not 0.

    """
    with open(stdin, "rb") as source:
        began = time.perf_counter()
        done = subprocess.run(
            command, stdin=source, env=_environment(), capture_output=True, check=False
        )
        seconds = time.perf_counter() - began
    if done.returncode:
        sys.stderr.buffer.write(done.stderr)
        done.check_returncode()
    return seconds, done.stdout.decode()


def _environment() -> dict[str, str]:
    """Return an environment in which Python keeps what it has compiled, as users have it."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def timing(name: str, command: Sequence[str]) -> Callable[[], Mapping[str, float]]:
    """Return what runs `command` whenever it is called, and returns its seconds under `name`."""
    return lambda: {name: timed(command)[0]}


def in_fresh_process(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call `function` in a new interpreter, whose memory holds nothing from before."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(function, *args, **kwargs).result()
        except BaseException:
            # The pool would wait for the process to come to its end; nobody wants that any more.
            for child in active_children():
                child.kill()
            raise


@contextmanager
def beside(
    function: Callable[Concatenate["Connection[Any, Any]", P], None],
    *args: P.args,
    **kwargs: P.kwargs,
) -> Iterator["Connection[Any, Any]"]:
    """Run `function` in a new interpreter meanwhile; what it is given first leads to what we get.

    It is killed where the block is left. If it fails, waiting for a word of it raises `EOFError`.
    """
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=function, args=(theirs, *args), kwargs=kwargs)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        process.kill()
        process.join()
        ours.close()
