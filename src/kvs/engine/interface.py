"""The interface of an engine: scripts in; results and change batches out.

Invariants of every engine:

- Every method is thread-safe, and each command takes effect at one instant for all threads.
- Each command that changes something gets the next revision, a number that never decreases.
- A pair that expires must be there until EXPIRE or `expire` removes it, whatever its time: a replay
  of the lines gives the same table at any time.
- Change batches must come out once each, in the order of revisions: a batch that any thread moves
  by `move_batches` precedes every batch that is moved later.
- The change batches of a job call are checkpoints of a job: a change and the output up to it
  must come out in one batch, so that a job resumed from the batch neither loses nor repeats either.
- An engine never does I/O, and never calls other code while its table is locked, except in
  `with_locked_view`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple, Protocol

from kvs.language.diagnostics import Checked, Diagnostic
from kvs.language.output_format import NO_EXPIRIES, Expiries

DEFAULT_BUDGET_BYTES = 65536
"""Bytes of input or of output after which `Store.execute` returns."""
MAX_UNTIL = 10**15 - 1
"""Latest time at which a pair can expire, in milliseconds since the epoch: the greatest number that
UNTIL takes. A FOR beyond it means this time."""
UNKNOWN_ORIGIN, EXPIRY_ORIGIN = 0, 1
"""Origins of calls whose caller names none, and of `Engine.expire`. Other numbers are greater."""

NO_EXPIRY = 1 << 62
"""The earliest time at which a pair expires if none does: later than any UNTIL."""


class StopReason(Enum):
    """Why `Store.execute` returned."""

    END = auto()
    """The whole script was executed."""
    BUDGET = auto()
    """The last command exceeded the budget; the script has more lines."""
    WAIT = auto()
    """The caller must pause before it continues."""
    BACKUP = auto()
    """The caller must write a backup before it continues."""


class JobCursor(NamedTuple):
    """The position of a call in a job. A call that has one is a job call."""

    job: int
    """Number of the job."""
    base_offset: int
    """Offset of the script in the job, in bytes."""


@dataclass(frozen=True, slots=True)
class ExecuteResult:
    """The result of the commands that one `Store.execute` executed."""

    reason: StopReason
    offset: int
    """Offset in the script at which to continue, in bytes."""
    output: bytes
    """Output of the commands."""
    diagnostics: list[Diagnostic]
    """One for each line that was refused, in order: it is invalid, or its output too long."""
    commands: int
    """Number of executed commands, without comments and empty lines."""
    lines: int
    """Number of lines of every kind."""
    revision: int
    """The revision on which the output depends: that of the table after the last command."""
    wait_ms: int = 0
    """Milliseconds to pause, with `StopReason.WAIT`."""
    uncheckpointed_output: bytes | None = None
    """End of the output of a job call that is in none of its change batches: the output of the
    SHOW, WAIT or BACKUP at which the call stopped. None if the batches have the whole output."""


KeyChange = tuple[bytes, bytes | None]
"""A key and its new value; None if the key was removed."""


class ChangeBatch(Protocol):
    """What consecutive commands changed. Compared by identity, in C."""

    @property
    def changes(self) -> Sequence[KeyChange]:
        """The changes of watched keys, in order."""

    @property
    def lines(self) -> bytes:
        """What the commands changed, as lines of the language; empty if not recorded.

        The line of a WRITE without IF, FOR, UNTIL and other steps is as it was given, but for a
        missing newline, and that of a CLEAR has its prefixes. Every other change is one line of
        WRITE and DELETE steps in canonical spelling: what each key is after it, in the order in
        which the change first named the keys. An EXPIRE names them in ascending order.
        """

    @property
    def change_count(self) -> int:
        """Number of lines in `lines`, which is the number of revisions."""

    @property
    def revision(self) -> int:
        """The revision after the last of the lines."""

    @property
    def job(self) -> int | None:
        """Number of the job of a job call, if lines are recorded; else None."""

    @property
    def offset(self) -> int:
        """Offset in the job up to which it is executed, without a final SHOW, WAIT or BACKUP."""

    @property
    def output(self) -> bytes:
        """Output of the job call since its last batch."""

    @property
    def origin(self) -> int:
        """The origin that the call was given."""

    @property
    def marker(self) -> int:
        """The marker of the watch that begins here; 0 in a batch of commands."""


class TableView(Protocol):
    """A consistent view of the table, valid only during the call that receives it."""

    @property
    def revision(self) -> int:
        """The revision of the last change."""

    def __len__(self) -> int:
        """Return the number of pairs."""

    def listing(self, expiries: bool = False) -> Iterator[bytes]:
        """Yield the lines of SHOW, with `expiries` of SHOW UNTIL, in blocks of many lines."""

    def writes(self) -> Iterator[bytes]:
        """Yield lines of WRITE that together set every pair, with its expiry, in any order.

        A line has at most about 1 MiB beside its longest pair. Each block has whole lines.
        """


class Engine(Protocol):
    """The table, its lock, and the commands on it."""

    @property
    def has_batches(self) -> bool:
        """Whether there are change batches to move."""

    def execute(
        self,
        script: bytes,
        start: int,
        budget: int,
        cursor: JobCursor | None = None,
        *,
        limits: bool = True,
        origin: int = UNKNOWN_ORIGIN,
    ) -> ExecuteResult:
        """Execute commands as `Store.execute` describes; the arguments must be in range.

        A job call also returns after a SHOW. While lines are recorded, it has a change
        batch whenever it has executed a line, even if nothing changed. Without `limits`, a line and
        its output may have any length: for the lines that a store has recorded. The change batches
        have `origin`.
        """

    def expire(self, now_ms: int, limit: int) -> int:
        """Remove pairs whose UNTIL is at most `now_ms`, as one change; return their number.

        At most `limit`, the earliest first. Of pairs with one UNTIL, any may be the first.
        """

    @property
    def next_expiry(self) -> int:
        """The earliest UNTIL, in milliseconds since the epoch, or `NO_EXPIRY`. Cheap."""

    @staticmethod
    def check(script: bytes) -> Checked:
        """Validate every line of `script`, as `diagnostics.check` does; execute nothing."""

    @staticmethod
    def is_unfinished(beginning: bytes) -> bool:
        """Return whether a line that begins with `beginning` may be valid; False if unknown.

        For a caller that reads a long line piece by piece: `diagnostics.verdict_is_final` is False
        then, and takes longer. `beginning` has no line ending.
        """

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the value of each key, None for a missing one."""

    def items(
        self, prefixes: Sequence[bytes] = (), after: bytes | None = None, limit: int | None = None
    ) -> list[tuple[bytes, bytes]]:
        """Return the pairs that SHOW with these arguments lists, in ascending order of the keys."""

    def keys(
        self, prefixes: Sequence[bytes] = (), after: bytes | None = None, limit: int | None = None
    ) -> list[bytes]:
        """Return the keys of `items` with these arguments. Copies no value."""

    def __len__(self) -> int:
        """Return the number of pairs."""

    def max_dump_bytes(self) -> int:
        """Return an upper bound of the bytes of all keys and values. May cost as much as a SHOW.

        Spelling at most doubles them.
        """

    @property
    def revision(self) -> int:
        """The revision of the last change."""

    def replace(self, pairs: dict[bytes, bytes], expiries: Expiries = NO_EXPIRIES) -> int:
        """Replace all pairs by `pairs`, as one change; return its revision.

        `expiries` are the keys of the pairs that expire, each with its UNTIL. The engine changes
        neither mapping and keeps no reference. The keys and values must be valid. The change gets a
        revision even if nothing differs, and is not recorded as a line.
        """

    def start_recording(self, revision: int) -> None:
        """Record changes as lines from now on; the next revision is `revision` + 1.

        To be called before the engine is shared between threads.
        """

    def watch(self, key: bytes, marker: int = 0) -> bool:
        """Report changes of `key` from now on; return whether the key exists.

        A batch with `marker`, if it is not 0, precedes the first of these changes. Each watch of a
        key needs an `unwatch` of its own.
        """

    def unwatch(self, key: bytes) -> None:
        """End one `watch` of `key`."""

    def settle(self) -> None:
        """Block until the change batches of all changes so far can be moved."""

    def move_batches(self, into: list[ChangeBatch]) -> None:
        """Append the change batches that are ready to a list, in order, in one call into C.

        A batch of a call that another thread is executing, and every later one, may not be ready.
        """

    def with_locked_view(self, call: Callable[[TableView], None]) -> None:
        """Call `call` with a view of the table that no other thread can change meanwhile.

        `call` may move the change batches, and gets all up to the revision of the view. Other
        threads wait for `call`, so only a thread that no signal handler interrupts may call this
        (`kvs.concurrency.waiters.call_uninterrupted`). Code that runs in the same thread
        meanwhile, finalizers included, may call the engine.
        """
