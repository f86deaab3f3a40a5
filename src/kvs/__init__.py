"""KVS: a key-value store for one machine's programs and scripts.

The public names are these; everything else may change. `Store` is where to begin.
"""

from kvs.errors import (
    BackupFailed,
    BackupMalformed,
    BackupUnreadable,
    DirectoryInUse,
    DirectoryUnusable,
    InvalidCommand,
    JobFailed,
    KvsError,
    NoThread,
    SnapshotFailed,
    SnapshotNotSynced,
    WatchLost,
    WordRefused,
)
from kvs.execution import Pause, Reason
from kvs.jobs.report import JobReport, Report, SnapshotReport, State
from kvs.library import Store
from kvs.snapshot.write import Written
from kvs.version import VERSION
from kvs.watch import Change, Watch

__version__ = VERSION

__all__ = [
    "BackupFailed",
    "BackupMalformed",
    "BackupUnreadable",
    "Change",
    "DirectoryInUse",
    "DirectoryUnusable",
    "InvalidCommand",
    "JobFailed",
    "JobReport",
    "KvsError",
    "NoThread",
    "Pause",
    "Reason",
    "Report",
    "SnapshotFailed",
    "SnapshotNotSynced",
    "SnapshotReport",
    "State",
    "Store",
    "Watch",
    "WatchLost",
    "WordRefused",
    "Written",
    "__version__",
]
