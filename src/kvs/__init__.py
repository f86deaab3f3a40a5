"""KVS: a key-value store for one machine's programs and scripts.

The public names are these; everything else may change. `Store` is where to begin.
"""

from typing import TYPE_CHECKING

from kvs.engine.boundary import Pause, Reason
from kvs.errors import (
    BackupFailed,
    BackupMalformed,
    BackupUnreadable,
    ConnectRefused,
    DataDamaged,
    DataUnusable,
    DirectoryInUse,
    DirectoryUnusable,
    EngineUnavailable,
    IdInUse,
    IdRefused,
    InvalidCommand,
    JobFailed,
    JobStartsOver,
    JournalFailed,
    KvsError,
    NoAnswer,
    NoPlaceForPipes,
    NoServer,
    NoThread,
    RequestFailed,
    ScriptTooLong,
    SessionEnded,
    SnapshotFailed,
    SnapshotNotSynced,
    StoreClosed,
    StoreNotEmpty,
    WatchLost,
    WordRefused,
)
from kvs.jobs.report import JobReport, Report, SnapshotReport, State
from kvs.library import Store
from kvs.settings import DataSettings
from kvs.snapshot.write import Written
from kvs.version import VERSION
from kvs.watch import Change, Watch

if TYPE_CHECKING:
    from kvs.client.session import Session, connect
    from kvs.persistence import Recovered
    from kvs.wire.replies import Executed

__version__ = VERSION

__all__ = [
    "BackupFailed",
    "BackupMalformed",
    "BackupUnreadable",
    "Change",
    "ConnectRefused",
    "DataDamaged",
    "DataSettings",
    "DataUnusable",
    "DirectoryInUse",
    "DirectoryUnusable",
    "EngineUnavailable",
    "Executed",
    "IdInUse",
    "IdRefused",
    "InvalidCommand",
    "JobFailed",
    "JobReport",
    "JobStartsOver",
    "JournalFailed",
    "KvsError",
    "NoAnswer",
    "NoPlaceForPipes",
    "NoServer",
    "NoThread",
    "Pause",
    "Reason",
    "Recovered",
    "Report",
    "RequestFailed",
    "ScriptTooLong",
    "Session",
    "SessionEnded",
    "SnapshotFailed",
    "SnapshotNotSynced",
    "SnapshotReport",
    "State",
    "Store",
    "StoreClosed",
    "StoreNotEmpty",
    "Watch",
    "WatchLost",
    "WordRefused",
    "Written",
    "__version__",
    "connect",
]

_LATER = {
    "Executed": "kvs.client.session",
    "Recovered": "kvs.persistence",
    "Session": "kvs.client.session",
    "connect": "kvs.client.session",
}
"""Imported where they are first used (PEP 562): `kvs run` does not wait for them."""


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module 'kvs' has no attribute {name!r}")
    from importlib import import_module

    globals()[name] = getattr(import_module(_LATER[name]), name)
    return globals()[name]
