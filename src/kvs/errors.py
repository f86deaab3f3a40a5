"""Every error of this package.

Each has a text of one line, for a person: ``PATH: what failed: cause; what to do``. Its fields give
the same facts to a program. All derive from `KvsError`, in groups by the part of KVS that raises
them: `StoreError`, `JobError`, `ServerError`, `ClientError`. What more than one of these parts
raises is in no group. A `KvsWarning` is reported, never raised.
"""

import os
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar, Self

from kvs.text import printable

MAX_KEY_SHOWN_BYTES = 64
"""Maximum bytes of a key that the text of an error quotes."""
MAX_VALUE_SHOWN_BYTES = 24
"""Maximum bytes of a value that the text of an error quotes."""


class KvsError(Exception):
    """Base of all errors and warnings of this package. They can be copied and pickled."""

    def __reduce__(self) -> tuple[type[Self], tuple[Any, ...], dict[str, Any]]:
        """Rebuild the error from its fields; `args` lacks those that were given by keyword."""
        if is_dataclass(self):
            values = tuple(getattr(self, field.name) for field in fields(self))
        else:
            values = self.args
        return type(self), values, vars(self)


class KvsWarning(KvsError):
    """Base of what is reported to an error callback although nothing failed."""


class PathError(KvsError):
    """Base of errors about one file or directory, which `path` names in printable form."""

    FORM: ClassVar[str] = "{path}: {reason}"
    """The text, with the fields of the subclass in braces."""

    path: str

    def __str__(self) -> str:
        return self.FORM.format(**vars(self))


# Groups.


class StoreError(KvsError):
    """Base of errors of a store and its data directory."""


class ServerError(KvsError):
    """Base of errors of a server."""


class ClientError(KvsError):
    """Base of errors of a client and its session."""


# Errors of more than one part.


class InvalidWordError(KvsError, ValueError):
    """A key or value that is not a word of the command language."""


@dataclass(eq=False)
class DirectoryLockedError(PathError):
    """A jobs directory or data directory that a process has locked."""

    path: str
    pid: int | None
    """The process, if it is known."""

    def __str__(self) -> str:
        if self.pid == os.getpid():
            return (
                f"{self.path}: in use by this process; close the store or end the run that uses it "
                "first"
            )
        owner = "another process" if self.pid is None else f"process {self.pid}"
        return f"{self.path}: in use by {owner}; wait until it ends, or stop it"


@dataclass(eq=False)
class ThreadStartError(KvsError):
    """The system gives no thread."""

    def __str__(self) -> str:
        return "cannot start a thread; raise the limit of processes (ulimit -u)"


@dataclass(eq=False)
class InheritedByForkError(KvsError):
    """A store or a session of the parent process was used in a forked child."""

    process: int
    """The process that used it."""

    def __str__(self) -> str:
        return (
            f"process {self.process} is a forked child and cannot use a store or session of its "
            "parent; open another one in the child"
        )


# Jobs.


@dataclass(eq=False)
class JobError(PathError):
    """Base of errors of jobs; itself, a job that cannot start or continue.

    Other jobs are not affected.
    """

    path: str
    reason: str


class JobsDirectoryError(JobError):
    """A jobs directory that cannot be opened, listed or locked."""


@dataclass(eq=False)
class InvalidCommandError(JobError):
    """A line that is not a command. It has no effect; the lines around it are executed."""

    line: int
    """Line number, from 1."""
    column: int
    """Byte of the line at which the invalid part begins, from 1."""

    FORM = "{path}:{line}:{column}: {reason}"


@dataclass(eq=False)
class BackupError(JobError):
    """A BACKUP of a job that wrote no backup. The job continues."""

    line: int
    """Line number of the BACKUP, from 1."""
    number: int
    """Number of the backup, from 1 in each job."""

    FORM = "{path}:{line}: backup {number} failed: {reason}"


@dataclass(eq=False)
class JobRestartedWarning(PathError, KvsWarning):
    """An unfinished job cannot be resumed because its file changed; it restarts."""

    path: str

    FORM = "{path}: changed since the last run: restarting from the beginning"


@dataclass(eq=False)
class JobOutputChangedWarning(PathError, KvsWarning):
    """The output of a finished job has changed since the job wrote it. The job is skipped."""

    path: str
    """The output."""
    reason: str

    FORM = "{path}: {reason}; its job is finished and is skipped: to run it again, touch its file"


# Backups and snapshots.


@dataclass(eq=False)
class SnapshotError(PathError, StoreError):
    """A backup or snapshot that was not written. An earlier file of that name is unchanged."""

    path: str
    reason: str
    errno: int | None = None
    """The system's error number, if a system call failed."""

    FORM = "{path}: not written: {reason}"


class SnapshotNotDurableError(SnapshotError):
    """A backup or snapshot that is in place, but that a loss of power may undo."""

    FORM = "{path}: written, but a loss of power may undo it: cannot sync its directory: {reason}"


@dataclass(eq=False)
class BackupReadError(PathError, StoreError):
    """A backup file that cannot be opened or read."""

    path: str
    reason: str

    FORM = "{path}: cannot read the backup: {reason}"


@dataclass(eq=False)
class BackupFormatError(PathError, StoreError):
    """A file that is not a backup. The store is unchanged."""

    path: str
    line: int
    """Line number, from 1."""
    reason: str

    FORM = "{path}:{line}: {reason}; nothing was restored"


# Data directories.


@dataclass(eq=False)
class DataDirectoryError(PathError, StoreError):
    """A data directory that cannot be created, opened, locked, read or changed."""

    path: str
    reason: str


@dataclass(eq=False)
class CorruptionError(PathError, StoreError):
    """A file of a data directory that fails a check. No file was changed."""

    path: str
    offset: int
    """Byte of the file at which the damage begins, from 0."""
    reason: str
    advice: str = "'kvs repair --cut' keeps what comes before it"
    """What to do."""

    FORM = "{path}: at byte {offset}: {reason}; nothing was loaded or changed ({advice})"


@dataclass(eq=False)
class JournalWriteError(PathError, StoreError):
    """The journal cannot be written. Nothing more is committed; the store must be reopened."""

    path: str
    """The data directory."""
    revision: int
    """Last revision that was synced to disk: a power failure does not undo it."""
    reason: str
    written: int | None = None
    """Last revision that was written (write(2)), `revision` or a later one: the end of this process
    does not undo it, a power failure may. None after a failed sync, and after another process
    changed the files: the state of revisions after `revision` is unknown."""

    def __str__(self) -> str:
        return (
            f"{self.path}: cannot write the journal: {self.reason}; {self.extent}; "
            "fix the cause and restart"
        )

    @property
    def extent(self) -> str:
        """Which revisions are in the journal, in words."""
        if self.written is None:
            return f"revisions up to {self.revision} were synced, later ones may be lost"
        synced = f"revisions up to {self.revision} are synced"
        if self.written == self.revision:
            return f"{synced}, later ones are lost"
        return (
            f"{synced}, up to {self.written} are written but may be lost in a power failure, "
            "later ones are lost"
        )

    @property
    def lost_after(self) -> str:
        """Which changes of a job a restart will not find, in words."""
        if self.written is None:
            return f"its changes after revision {self.revision} may be lost"
        return f"its changes after revision {self.written} are lost"


# Stores.


@dataclass(eq=False)
class StoreClosedError(StoreError):
    """A store that was closed."""

    def __str__(self) -> str:
        return "the store is closed"


@dataclass(eq=False)
class StoreNotEmptyError(PathError, StoreError):
    """A backup can be restored only into a new or empty data directory."""

    path: str

    FORM = "{path}: not empty: a backup can be restored only into a new or empty data directory"


@dataclass(eq=False)
class SlowConsumerError(StoreError):
    """A watch that was closed because its outbox was over its limit."""

    def __str__(self) -> str:
        return "the watch was closed: changes arrived faster than they were read"


@dataclass(eq=False)
class InvalidValueError(StoreError, ValueError):
    """A stored value that is not a number, for `add`, or that a codec cannot decode."""

    key: bytes
    """The key."""
    value: bytes
    """What the key has."""
    reason: str

    def __str__(self) -> str:
        key = printable(self.key, MAX_KEY_SHOWN_BYTES)
        value = printable(self.value, MAX_VALUE_SHOWN_BYTES)
        return f"'{key}': the value '{value}' {self.reason}"


@dataclass(eq=False)
class EngineUnavailableError(StoreError):
    """The engine that the environment asks for cannot be used."""

    variable: str
    """The environment variable."""
    name: str
    """The engine that it names."""
    reason: str

    def __str__(self) -> str:
        return f"{self.variable}={self.name}: {self.reason}"


# Servers.


@dataclass(eq=False)
class RegistrationPipeError(PathError, ServerError):
    """A registration pipe that cannot be created or served."""

    path: str
    reason: str


# Clients.


@dataclass(eq=False)
class InvalidClientIdError(ClientError, ValueError):
    """A client ID that is not valid."""

    id: str
    """The client's ID."""

    def __str__(self) -> str:
        return (
            f"'{printable(self.id, 24)}' is not a valid ID: an ID has 1 to 15 characters, each a "
            "letter (a to z, A to Z), a digit, '-' or '_'"
        )


@dataclass(eq=False)
class ClientIdInUseError(ClientError):
    """A client ID that another client uses."""

    id: str
    """The client's ID."""
    pid: int | None
    """The process that uses it, if it is known."""

    def __str__(self) -> str:
        owner = "another process" if self.pid is None else f"process {self.pid}"
        return f"the ID '{self.id}' is in use by {owner}; choose another one"


@dataclass(eq=False)
class PipeDirectoryError(PathError, ClientError):
    """A directory in which a client cannot create its pipes."""

    path: str
    reason: str

    FORM = "{path}: cannot create the client's pipes: {reason}"


@dataclass(eq=False)
class ServerNotFoundError(PathError, ClientError):
    """A registration pipe that no server reads."""

    path: str
    reason: str
    advice: str = ""
    """What to do, if it is known."""

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}{self.advice and f'; {self.advice}'}"


@dataclass(eq=False)
class ConnectTimeoutError(PathError, ClientError, TimeoutError):
    """The server did not answer the connect in time."""

    path: str
    """The registration pipe."""
    seconds: float
    """How long the client waited."""
    known: str = "the server may be at its maximum number of sessions"
    """What the client knows of the server."""

    FORM = "{path}: the server did not answer within {seconds:g} s: {known}"


@dataclass(eq=False)
class ConnectRejectedError(PathError, ClientError):
    """The server rejected the connect."""

    path: str
    """The registration pipe."""
    result: int
    """The result code of the reply."""

    FORM = "{path}: the server rejected the connect with result {result}"


@dataclass(eq=False)
class SessionClosedError(ClientError):
    """A session that has ended: requests get no reply, and no more changes come."""

    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass(eq=False)
class ScriptTooLargeError(ClientError, ValueError):
    """A script over the server's limit; nothing was sent."""

    size_bytes: int
    """Bytes of the script."""
    max_bytes: int
    """Bytes that a script may have."""

    def __str__(self) -> str:
        return (
            f"the script has {self.size_bytes} bytes, a server takes at most {self.max_bytes}; "
            "send it in parts"
        )


@dataclass(eq=False)
class RequestRejectedError(ClientError):
    """A request that the server did not execute."""

    reason: str

    def __str__(self) -> str:
        return f"the server rejected the request: {self.reason}"
