"""Select the engine: the compiled one if it was built, or the one that `KVS_ENGINE` names."""

import os
from importlib import import_module

from kvs.engine.interface import Engine
from kvs.errors import EngineUnavailableError
from kvs.language.diagnostics import Checked
from kvs.text import printable

ENGINE_VARIABLE = "KVS_ENGINE"
"""Name of the environment variable that forces an engine."""

COMPILED = "compiled"
PYTHON = "python"


def engine_name() -> str:
    """Return the name of the engine that new stores get.

    Raises:
        EngineUnavailableError: `KVS_ENGINE` names an engine that is not available.

    """
    return _select()[0]


def create_engine() -> Engine:
    """Return an empty engine.

    Raises:
        EngineUnavailableError: `KVS_ENGINE` names an engine that is not available.

    """
    return _select()[1]()


def check(script: bytes) -> Checked:
    """Validate every line of `script` with the engine that new stores get; execute nothing.

    Raises:
        EngineUnavailableError: `KVS_ENGINE` names an engine that is not available.

    """
    return _select()[1].check(script)


def is_unfinished(beginning: bytes) -> bool:
    """Return whether a line that begins with `beginning` may be valid; False if unknown.

    Raises:
        EngineUnavailableError: `KVS_ENGINE` names an engine that is not available.

    """
    return _select()[1].is_unfinished(beginning)


def _select() -> tuple[str, type[Engine]]:
    wanted = os.environ.get(ENGINE_VARIABLE, "")
    if wanted not in {"", COMPILED, PYTHON}:
        reason = f"unknown engine; choose {COMPILED} or {PYTHON}"
        raise EngineUnavailableError(ENGINE_VARIABLE, printable(wanted), reason)
    if wanted != PYTHON:
        try:
            return COMPILED, import_module("kvs.engine._compiled").CompiledEngine
        except ImportError as error:
            # An engine that was built but cannot be loaded must be reported, not replaced.
            if wanted == COMPILED or not isinstance(error, ModuleNotFoundError):
                raise EngineUnavailableError(
                    ENGINE_VARIABLE, COMPILED, _why_missing(error)
                ) from error
    from kvs.engine.python import PythonEngine

    return PYTHON, PythonEngine


def _why_missing(error: ImportError) -> str:
    if isinstance(error, ModuleNotFoundError):
        return "not built; install kvs again where there is a C++ compiler"
    return f"cannot be loaded: {error}"
