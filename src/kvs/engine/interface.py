"""What an engine does, whichever it is: commands in, a pause and effects out.

Laws, for every engine:

- Every method is thread-safe, and each command takes effect at one instant for everyone.
- Each command that changes something takes the next revision, a number that only grows.
- What others are to learn of changes, `ChangeBatch`, comes out in that one order, none of them
  twice: whichever thread calls `move_batches`, those moved before precede those moved later.
- Of a marked call the effects also tell how far it came. A command's change, and what the call had
  written by then, come out together: none is ever told without the other.
- No engine reads or writes a file, or calls anybody while its table is locked, but
  `with_locked_view`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple, Protocol

from kvs.language.diagnostics import Checked, Diagnostic

DEFAULT_BUDGET_BYTES = 65536
"""Bytes of input or of output after which `Engine.execute` comes back to its caller."""


class StopReason(Enum):
    """Why `Engine.execute` came back."""

    END = auto()
    """The script is at its end."""
    BUDGET = auto()
    """The last command went past the budget; there is more script."""
    WAIT = auto()
    """The caller is to pause before it goes on."""
    BACKUP = auto()
    """The caller is to write a snapshot before it goes on."""


class JobCursor(NamedTuple):
    """Who calls, so that the effects can tell how far he came."""

    job: int
    """The caller's number."""
    base_offset: int
    """Where the script begins in what he carries out, in bytes."""


@dataclass(frozen=True, slots=True)
class ExecuteResult:
    """Where `Engine.execute` stopped, and what came of the commands up to there."""

    reason: StopReason
    offset: int
    """Where to go on, in bytes from the start of the script."""
    output: bytes
    """What the commands wrote."""
    diagnostics: list[Diagnostic]
    """The invalid lines met, in order."""
    commands: int
    """How many commands were carried out; comments and empty lines are none."""
    lines: int
    """How many lines it went through, of whatever kind."""
    revision: int
    """The revision that the output depends on: the store's, after the last command."""
    wait_ms: int = 0
    """How long to pause, with `Reason.WAIT`."""
    uncheckpointed_output: bytes | None = None
    """Of a marked call: the end of the output that its effects do not tell, which belongs to the
    SHOW, WAIT or BACKUP that it came to at last; None if they tell all."""


KeyChange = tuple[bytes, bytes | None]
"""A key and its new value; None if the key was removed."""


class ChangeBatch(Protocol):
    """What some commands, one right after the other, have changed. Compared by identity, in C."""

    @property
    def changes(self) -> Sequence[KeyChange]:
        """Those of watched keys, in order."""

    @property
    def lines(self) -> bytes:
        """The commands that changed something, as lines of the language, if they are recorded."""

    @property
    def change_count(self) -> int:
        """How many lines these are: as many revisions."""

    @property
    def revision(self) -> int:
        """The revision after the last of them."""

    @property
    def job(self) -> int | None:
        """Of a marked call, while lines are recorded: the job of its mark."""

    @property
    def offset(self) -> int:
        """How far that call had come, from the base of its mark: to a last SHOW, WAIT or BACKUP."""

    @property
    def output(self) -> bytes:
        """What it had written since its effects before."""

    @property
    def marker(self) -> int:
        """Of a watch that begins here; 0 for effects of commands."""


class TableView(Protocol):
    """Everything as it was between two commands. Good only during the call that it is given to."""

    @property
    def revision(self) -> int:
        """The revision of the last change."""

    def __len__(self) -> int:
        """Return the number of pairs."""

    def listing(self) -> Iterator[bytes]:
        """Yield the lines of SHOW, in order of the keys, many a block."""

    def writes(self) -> Iterator[bytes]:
        """Yield lines of WRITE that between them set every pair, in any order, many a block."""


class Engine(Protocol):
    """The table, its lock, and the commands on it."""

    @property
    def has_batches(self) -> bool:
        """Whether there are effects to be taken."""

    def execute(
        self, script: bytes, start: int, budget: int, mark: JobCursor | None = None
    ) -> ExecuteResult:
        """Carry out commands, as `Store.execute` says; the arguments are in range.

        A call with a mark also comes back after a SHOW. Once lines are recorded, it has effects
        whenever it came further, whether or not anything changed.
        """

    @staticmethod
    def check(script: bytes) -> Checked:
        """Validate every line of `script`, as `diagnostics.check` does; execute nothing."""

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of `keys`, None where one is missing."""

    def items(self) -> list[tuple[bytes, bytes]]:
        """Return all pairs in ascending order of the keys."""

    def __len__(self) -> int:
        """Return the number of pairs."""

    def max_dump_bytes(self) -> int:
        """Return an upper bound of the bytes of all keys and values. May cost as much as a SHOW."""

    @property
    def revision(self) -> int:
        """The revision of the last change."""

    def replace(self, pairs: dict[bytes, bytes]) -> int:
        """Let `pairs`, which become the engine's own, be everything; return the revision.

        It is one change, also if it changes nothing. It is not recorded as a line.
        """

    def start_recording(self, revision: int) -> None:
        """From now on, record changes as lines, and count on from `revision`.

        To be called before the engine is shared between threads.
        """

    def watch(self, key: bytes, marker: int = 0) -> bool:
        """Report changes of `key` from now on; return whether it exists.

        Effects with `marker`, if it is not 0, stand before the first of these changes. Each watch
        of a key is ended by an `unwatch` of its own.
        """

    def unwatch(self, key: bytes) -> None:
        """End a `watch`."""

    def settle(self) -> None:
        """Block until the effects of all changes so far can be moved."""

    def move_batches(self, into: list[ChangeBatch]) -> None:
        """Append the effects that can be moved to a list, in order, in one call into C.

        Those of a command that another thread is just executing, and those behind, may be missing.
        """

    def with_locked_view(self, call: Callable[[TableView], None]) -> None:
        """Call `call` between two commands, none of which another thread can begin meanwhile.

        It may move the effects, which are then all up to this instant. Only a thread that no
        signal handler interrupts may call this (`kvs.concurrency.waiters.call_uninterrupted`):
        other threads wait for it. What `call` calls in this very thread, finalizers included, may
        call the engine.
        """
