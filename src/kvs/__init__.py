"""KVS: a key-value store for one machine's programs and scripts.

The public names are these; everything else may change. `Store` is where to begin. Each is loaded
when it is first used, so that the first lines of the program `kvs` run before any of it is loaded
(`kvs.__main__`). On another system than Linux, that first use raises ImportError.
"""

from kvs._version import VERSION

TYPE_CHECKING = False  # for type checkers it is true; typing would take longer than all else here
if TYPE_CHECKING:
    from kvs.client.session import Session, connect
    from kvs.engine.interface import Pause, Reason
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
        InheritedByFork,
        InvalidCommand,
        JobFailed,
        JobStartsOver,
        JournalFailed,
        KvsError,
        NoAnswer,
        NoPlaceForPipes,
        NoServer,
        NoThread,
        OutputChanged,
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
    from kvs.jobs.report import (
        JobReport,
        Report,
        SnapshotReport,
        State,
    )
    from kvs.library import Store
    from kvs.protocol.replies import Executed
    from kvs.settings import DataSettings
    from kvs.snapshot.writer import Written
    from kvs.store.persistence import Recovered
    from kvs.store.subscriptions import Change, Watch

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
    "InheritedByFork",
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
    "OutputChanged",
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

_MODULES = {
    "Change": "kvs.store.subscriptions",
    "DataSettings": "kvs.settings",
    "Executed": "kvs.protocol.replies",
    "JobReport": "kvs.jobs.report",
    "Pause": "kvs.engine.interface",
    "Reason": "kvs.engine.interface",
    "Recovered": "kvs.store.persistence",
    "Report": "kvs.jobs.report",
    "Session": "kvs.client.session",
    "SnapshotReport": "kvs.jobs.report",
    "State": "kvs.jobs.report",
    "Store": "kvs.library",
    "Watch": "kvs.store.subscriptions",
    "Written": "kvs.snapshot.writer",
    "connect": "kvs.client.session",
}
"""Where a name comes from when it is first used (PEP 562), if not from `kvs.errors`."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'kvs' has no attribute {name!r}")
    from importlib import import_module

    from kvs.posix.linux import require_linux

    require_linux()
    module = import_module(_MODULES.get(name, "kvs.errors"))
    globals()[name] = getattr(module, name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
