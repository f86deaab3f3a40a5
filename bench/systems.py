"""The names of systems that depend on the engine."""

from bench.results import KVS, KVS_PYTHON
from kvs.engine.selection import COMPILED


def system_of(engine: str) -> str:
    """Return the name of kvs with an engine, in a table that compares the engines."""
    return KVS if engine == COMPILED else KVS_PYTHON
