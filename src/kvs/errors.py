"""Every error the package raises.

Each is one sentence: what, where, why and, where a person can do something, what. The fields are
there so that nobody has to take the sentence apart. All derive from `KvsError`.
"""

import os
from dataclasses import dataclass

from kvs.text import printable


class KvsError(Exception):
    """What every error of this package is. Its text is one line for a person."""


@dataclass(eq=False)
class InvalidCommandError(KvsError):
    """A line that is no command; it had no effect, the lines around it were carried out."""

    file: str
    """The file as a person would name it, made printable."""
    line: int
    """From 1."""
    column: int
    """In bytes, from 1: where the offending part begins."""
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.reason}"


@dataclass(eq=False)
class JobError(KvsError):
    """A job that could not start, or could not go on. Other jobs are not concerned."""

    file: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


@dataclass(eq=False)
class JobRestartedWarning(KvsError):
    """A job that was not done, and cannot be gone on with. It is no failure."""

    file: str

    def __str__(self) -> str:
        return f"{self.file}: it has changed since it was last worked at: it starts over"


@dataclass(eq=False)
class JobOutputChangedWarning(KvsError):
    """The output of a job that was done before is not there as it was. It is no failure."""

    file: str
    """The output."""
    reason: str

    def __str__(self) -> str:
        return (
            f"{self.file}: {self.reason}; its job was done before, and is left alone: to have it "
            "run again, touch it before the start"
        )


@dataclass(eq=False)
class SnapshotError(KvsError):
    """A snapshot that was not written. Nothing stands under its final name but what was there."""

    file: str
    reason: str
    number: int | None = None
    """The system's error number, if that was the cause."""

    def __str__(self) -> str:
        return f"{self.file}: no snapshot was written: {self.reason}"


class SnapshotNotDurableError(SnapshotError):
    """A snapshot that is in place, but that a power loss may undo."""

    def __str__(self) -> str:
        return f"{self.file}: its directory could not be synced, it may not last: {self.reason}"


@dataclass(eq=False)
class BackupError(KvsError):
    """A BACKUP of a job that gave no snapshot; the job went on."""

    file: str
    """The job."""
    line: int
    """From 1."""
    number: int
    """The snapshot's, from 1 in each job."""
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: snapshot {self.number} failed: {self.reason}"


@dataclass(eq=False)
class BackupReadError(KvsError):
    """A backup file that cannot be opened or read."""

    file: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: cannot read the backup: {self.reason}"


@dataclass(eq=False)
class BackupFormatError(KvsError):
    """A backup file that is not what a snapshot writes. The store was not touched."""

    file: str
    line: int
    """From 1."""
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}; nothing was restored"


class InvalidWordError(KvsError, ValueError):
    """A key or value that the command language cannot write."""


@dataclass(eq=False)
class JobsDirectoryError(KvsError):
    """A jobs directory that cannot be opened, listed or locked."""

    file: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


@dataclass(eq=False)
class DirectoryLockedError(KvsError):
    """A jobs directory in which another run is at work."""

    file: str
    pid: int | None
    """The process at work there; None if it is not known which."""

    def __str__(self) -> str:
        if self.pid == os.getpid():
            return (
                f"{self.file}: this very process is at work in this directory; close the store or "
                "end the run that has it first"
            )
        owner = "another process" if self.pid is None else f"process {self.pid}"
        return f"{self.file}: {owner} is at work in this directory; wait for it to end, or stop it"


class ThreadStartError(KvsError):
    """The system gives no thread to run jobs on."""

    def __init__(self) -> None:
        super().__init__(
            "cannot start a thread to run jobs on; raise the limit of processes (ulimit -u)"
        )


class SlowConsumerError(KvsError):
    """A watch that did not keep up."""

    def __init__(self) -> None:
        super().__init__("changes came faster than they were read, and the watch was given up")


class InvalidClientIdError(KvsError, ValueError):
    """A client's ID that is none."""

    def __init__(self, given: str) -> None:
        super().__init__(
            f"'{printable(given, 24)}' is no ID: one has 1 to 15 characters, and each is a letter "
            "(a to z, A to Z), a digit, '-' or '_'"
        )


@dataclass(eq=False)
class ClientIdInUseError(KvsError):
    """A client's ID that another client has."""

    id: str
    pid: int | None
    """The process that has it; None if it has not written its number down."""

    def __str__(self) -> str:
        owner = "another process" if self.pid is None else f"process {self.pid}"
        return f"the ID '{self.id}' is in use by {owner}; take another one"


@dataclass(eq=False)
class PipeDirectoryError(KvsError):
    """A directory in which a client cannot make its pipes."""

    directory: str
    reason: str

    def __str__(self) -> str:
        return f"{self.directory}: cannot make the client's pipes there: {self.reason}"


@dataclass(eq=False)
class ServerNotFoundError(KvsError):
    """A registration pipe with no server behind it."""

    fifo: str
    reason: str
    advice: str = ""
    """What a person can do, if it is known."""

    def __str__(self) -> str:
        return f"{self.fifo}: {self.reason}{self.advice and f'; {self.advice}'}"


@dataclass(eq=False)
class ConnectTimeoutError(KvsError, TimeoutError):
    """A connect that the server did not answer in time."""

    fifo: str
    seconds: float
    known: str = "the server may have as many sessions as it takes"
    """What is known of the server."""

    def __str__(self) -> str:
        return f"{self.fifo}: the server did not answer within {self.seconds:g} s: {self.known}"


@dataclass(eq=False)
class ConnectRejectedError(KvsError):
    """A connect that the server answered with no."""

    fifo: str
    result: int

    def __str__(self) -> str:
        return f"{self.fifo}: the server refused the connection with {self.result}"


@dataclass(eq=False)
class SessionClosedError(KvsError):
    """A session that is at its end: nothing more can be asked or told in it."""

    reason: str

    def __str__(self) -> str:
        return self.reason


class ScriptTooLargeError(KvsError, ValueError):
    """Commands that are longer than a server takes at a time; nothing was sent."""

    def __init__(self, length: int, most: int) -> None:
        super().__init__(
            f"a server takes {most} bytes of commands at a time, these are {length}; "
            "send them in parts"
        )


@dataclass(eq=False)
class RequestRejectedError(KvsError):
    """A request that the server did not carry out."""

    reason: str

    def __str__(self) -> str:
        return f"the server refused: {self.reason}"


@dataclass(eq=False)
class RegistrationPipeError(KvsError):
    """A path at which no registration pipe can be made."""

    file: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


@dataclass(eq=False)
class DataDirectoryError(KvsError):
    """A data directory that cannot be made, opened or locked."""

    directory: str
    reason: str

    def __str__(self) -> str:
        return f"{self.directory}: {self.reason}"


@dataclass(eq=False)
class CorruptionError(KvsError):
    """A data directory in which something does not prove itself; nothing was changed there."""

    file: str
    offset: int
    """Where, in bytes from the start of the file."""
    reason: str
    advice: str = "'kvs repair --cut' keeps what comes before it"
    """What can be done."""

    def __str__(self) -> str:
        return (
            f"{self.file}: at byte {self.offset}: {self.reason}; nothing was loaded or changed "
            f"({self.advice})"
        )


@dataclass(eq=False)
class JournalWriteError(KvsError):
    """The journal cannot be written. Nothing more is committed, and the store must be reopened."""

    directory: str
    revision: int
    """Last revision that was synced to disk: it outlasts a power failure."""
    reason: str
    written: int | None = None
    """Last revision that was written (write(2)), `revision` or a later one: it outlasts this
    process, but perhaps not a power failure. None after a failed sync, and when another process
    has changed the files: the state of later revisions is unknown."""

    def __str__(self) -> str:
        return (
            f"{self.directory}: the journal cannot be written: {self.reason}; {self.extent}; "
            "fix the cause and restart"
        )

    @property
    def extent(self) -> str:
        """What is known of the revisions in the journal, for a person."""
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
        """What a restart does not find, for a person who asks for one job."""
        if self.written is None:
            return f"what it did after revision {self.revision} may be lost"
        return f"what it did after revision {self.written} is lost"


class StoreClosedError(KvsError):
    """A store that was closed."""

    def __init__(self) -> None:
        super().__init__("the store is closed")


@dataclass(eq=False)
class InheritedByForkError(KvsError):
    """A store or a session that belongs to the parent of the process that uses it."""

    process: int
    """The process that uses it."""

    def __str__(self) -> str:
        return (
            f"process {self.process} is a forked child, and what it inherited belongs to its "
            "parent; open a store or a session of its own in it"
        )


@dataclass(eq=False)
class StoreNotEmptyError(KvsError):
    """A restore into a store with a journal that has had changes already."""

    directory: str

    def __str__(self) -> str:
        return f"{self.directory}: a backup is restored into a new or empty data directory only"


@dataclass(eq=False)
class EngineUnavailableError(KvsError):
    """An engine was asked for by name that is not there."""

    variable: str
    """The environment variable that names it."""
    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.variable}={self.name}: {self.reason}"
