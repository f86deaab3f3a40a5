"""Selection of the engine, and the errors for an engine that is not available."""

import sys

import pytest

from kvs import EngineUnavailableError, Store
from kvs.engine.python import PythonEngine
from kvs.engine.selection import COMPILED, ENGINE_VARIABLE, PYTHON, create_engine, engine_name
from tests.engine.engines import engine_called
from tests.helpers import Start, kvs, only_line

MODULE = "kvs.engine._compiled"


@pytest.fixture(autouse=True)
def _no_engine_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENGINE_VARIABLE, raising=False)


def test_compiled_engine_is_default_if_built() -> None:
    compiled = engine_called(COMPILED)
    assert engine_name() == COMPILED
    assert type(create_engine()) is compiled


def test_python_engine_is_default_if_compiled_was_not_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, MODULE, None)
    assert engine_name() == PYTHON
    assert type(create_engine()) is PythonEngine


@pytest.mark.parametrize("name", [PYTHON, COMPILED])
def test_engine_can_be_forced(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    engine = engine_called(name)
    monkeypatch.setenv(ENGINE_VARIABLE, name)
    assert type(create_engine()) is engine
    ended = kvs("--version")
    assert ended.stdout.endswith(b"(engine: %b)\n" % name.encode())


def test_forced_engine_that_was_not_built_is_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, MODULE, None)
    monkeypatch.setenv(ENGINE_VARIABLE, COMPILED)
    with pytest.raises(EngineUnavailableError, match=r"^KVS_ENGINE=compiled: not built; install"):
        Store()


def test_engine_that_cannot_be_loaded_is_error_even_if_not_forced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def damaged(name: str) -> None:
        raise ImportError(f"{name}: file too short")

    monkeypatch.setattr("kvs.engine.selection.import_module", damaged)
    for forced in ("", COMPILED):
        monkeypatch.setenv(ENGINE_VARIABLE, forced)
        with pytest.raises(EngineUnavailableError, match=r"cannot be loaded: .*: file too short"):
            engine_name()
    monkeypatch.setenv(ENGINE_VARIABLE, PYTHON)
    assert engine_name() == PYTHON


@pytest.mark.parametrize("arguments", [["run", "."], ["--version"], ["lint", "."]])
def test_unknown_engine_is_usage_error(arguments: list[str]) -> None:
    ended = kvs(*arguments, how=Start(environment={ENGINE_VARIABLE: "warp\n"}))
    assert ended.status == 2
    assert only_line(ended) == (
        r"kvs: KVS_ENGINE=warp\n: unknown engine; choose compiled or python"
    )
