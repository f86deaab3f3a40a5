"""One call of `Store.execute`: how far it may go, how far it came, and what it gives back.

It knows the script's text and offsets; the table and the lock are the store's.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from kvs.language import grammar
from kvs.language.faults import Fault, fault_at
from kvs.watch import Outbox

BUDGET = 65536
"""Bytes of input or of output after which `Store.execute` comes back to its caller."""


class Reason(Enum):
    """Why `Store.execute` came back."""

    END = auto()
    """The script is at its end."""
    BUDGET = auto()
    """The last command went past the budget; there is more script."""
    WAIT = auto()
    """The caller is to pause before it goes on."""
    BACKUP = auto()
    """The caller is to write a snapshot before it goes on."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Where `Store.execute` stopped, and what came of the commands up to there."""

    reason: Reason
    offset: int
    """Where to go on, in bytes from the start of the script."""
    output: bytes
    """What the commands wrote."""
    faults: list[Fault]
    """The invalid lines met, in order."""
    commands: int
    """How many commands were carried out; comments and empty lines are none."""
    revision: int
    """The revision that the output depends on: the store's, after the last command."""
    milliseconds: int = 0
    """How long to pause, with `Reason.WAIT`."""


class Call:
    """One `Store.execute` on its way: what it has still to do, and what has come of it.

    Used by one thread, the one that called `execute`.
    """

    __slots__ = (
        "end", "idle_lines", "invalid", "milliseconds", "offset", "output", "revision", "room",
        "script", "start", "stopped_at", "woken",
    )  # fmt: skip

    def __init__(self, script: bytes, start: int, budget: int, revision: int) -> None:
        self.script = script
        self.start = self.offset = start
        self.end = script.find(b"\n", start + budget) + 1 or len(script)
        """Where the first line that goes past the budget of input ends."""
        self.room = budget
        """Bytes of output left of the budget; below 0, the call is over."""
        self.output: list[bytes] = []
        self.invalid: list[int] = []
        self.idle_lines = 0
        self.stopped_at: int | None = None
        self.milliseconds = 0
        self.revision = revision
        self.woken: set[Outbox[Any]] = set()

    def write(self, text: bytes) -> None:
        """Put `text` behind what the commands have written so far."""
        self.output.append(text)
        self.room -= len(text)

    def over(self) -> bool:
        """Tell whether it is to come back to its caller."""
        return (
            self.offset >= self.end
            or self.room < 0
            or self.stopped_at in (grammar.WAIT, grammar.BACKUP)
        )

    def pause(self) -> Pause:
        """Return what has come of it."""
        lines = self.script.count(b"\n", self.start, self.offset)
        if self.offset > self.start and self.script[self.offset - 1] != ord("\n"):
            lines += 1
        return Pause(
            reason=self._reason(),
            offset=self.offset,
            output=b"".join(self.output),
            faults=[fault for at in self.invalid if (fault := fault_at(self.script, at))],
            commands=lines - self.idle_lines - len(self.invalid),
            revision=self.revision,
            milliseconds=self.milliseconds,
        )

    def _reason(self) -> Reason:
        if self.stopped_at == grammar.WAIT:
            return Reason.WAIT
        if self.stopped_at == grammar.BACKUP:
            return Reason.BACKUP
        return Reason.END if self.offset == len(self.script) else Reason.BUDGET
