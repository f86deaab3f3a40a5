"""KVS: a key-value store for the programs and scripts of one machine.

`__all__` lists the public names; everything else may change. `Store` is the entry point for a
program that embeds the store, `connect` for a client of a server.

Each name is loaded on first use (PEP 562), so that the program ``kvs`` can set its signal handlers
before the rest is loaded (`kvs.__main__`). On a system other than Linux the first use raises
ImportError.
"""

from kvs._version import VERSION

TYPE_CHECKING = False  # true for type checkers; importing typing would take too long
if TYPE_CHECKING:
    from kvs.client.session import Session, connect
    from kvs.codecs import JSON, Codec
    from kvs.engine.interface import ExecuteResult, StopReason
    from kvs.errors import (
        BackupError,
        BackupFormatError,
        BackupReadError,
        ClientError,
        ClientIdInUseError,
        ConnectRejectedError,
        ConnectTimeoutError,
        CorruptionError,
        DataDirectoryError,
        DirectoryLockedError,
        EngineUnavailableError,
        InheritedByForkError,
        InvalidClientIdError,
        InvalidCommandError,
        InvalidValueError,
        InvalidWordError,
        JobError,
        JobOutputChangedWarning,
        JobRestartedWarning,
        JobsDirectoryError,
        JournalWriteError,
        KvsError,
        KvsWarning,
        PathError,
        PipeDirectoryError,
        RequestRejectedError,
        ScriptTooLargeError,
        ServerError,
        ServerNotFoundError,
        SessionClosedError,
        SlowConsumerError,
        SnapshotError,
        SnapshotNotDurableError,
        StoreClosedError,
        StoreError,
        StoreNotEmptyError,
        ThreadStartError,
    )
    from kvs.jobs.report import (
        BackupReport,
        JobReport,
        Report,
        State,
    )
    from kvs.library import Store
    from kvs.protocol.replies import ExecuteReply
    from kvs.settings import DataSettings
    from kvs.snapshot.writer import SnapshotInfo
    from kvs.store.commit import CommitPoint
    from kvs.store.persistence import RecoveryInfo
    from kvs.store.watch import Change, Watch

__version__ = VERSION

__all__ = [
    "JSON",
    "BackupError",
    "BackupFormatError",
    "BackupReadError",
    "BackupReport",
    "Change",
    "ClientError",
    "ClientIdInUseError",
    "Codec",
    "CommitPoint",
    "ConnectRejectedError",
    "ConnectTimeoutError",
    "CorruptionError",
    "DataDirectoryError",
    "DataSettings",
    "DirectoryLockedError",
    "EngineUnavailableError",
    "ExecuteReply",
    "ExecuteResult",
    "InheritedByForkError",
    "InvalidClientIdError",
    "InvalidCommandError",
    "InvalidValueError",
    "InvalidWordError",
    "JobError",
    "JobOutputChangedWarning",
    "JobReport",
    "JobRestartedWarning",
    "JobsDirectoryError",
    "JournalWriteError",
    "KvsError",
    "KvsWarning",
    "PathError",
    "PipeDirectoryError",
    "RecoveryInfo",
    "Report",
    "RequestRejectedError",
    "ScriptTooLargeError",
    "ServerError",
    "ServerNotFoundError",
    "Session",
    "SessionClosedError",
    "SlowConsumerError",
    "SnapshotError",
    "SnapshotInfo",
    "SnapshotNotDurableError",
    "State",
    "StopReason",
    "Store",
    "StoreClosedError",
    "StoreError",
    "StoreNotEmptyError",
    "ThreadStartError",
    "Watch",
    "__version__",
    "connect",
]

_MODULES = {
    "Change": "kvs.store.watch",
    "Codec": "kvs.codecs",
    "CommitPoint": "kvs.store.commit",
    "DataSettings": "kvs.settings",
    "ExecuteReply": "kvs.protocol.replies",
    "JSON": "kvs.codecs",
    "JobReport": "kvs.jobs.report",
    "ExecuteResult": "kvs.engine.interface",
    "StopReason": "kvs.engine.interface",
    "RecoveryInfo": "kvs.store.persistence",
    "Report": "kvs.jobs.report",
    "Session": "kvs.client.session",
    "BackupReport": "kvs.jobs.report",
    "State": "kvs.jobs.report",
    "Store": "kvs.library",
    "Watch": "kvs.store.watch",
    "SnapshotInfo": "kvs.snapshot.writer",
    "connect": "kvs.client.session",
}
"""Module of each public name that is not in `kvs.errors`."""


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
