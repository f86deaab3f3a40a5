"""The reference engine, in Python: complete, and what any other is held against.

State: the table, the revision and what is watched, all guarded by one lock, a leaf. It is held for
a whole call of `execute`, but for the sorting and formatting of a SHOW.
"""

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import repeat
from threading import Lock

from kvs.engine.boundary import Effects, Instant, KeyChange, Mark, Pause, Reason
from kvs.language import grammar, results
from kvs.language.faults import fault_at
from kvs.table import Table, ordered

LONG_WRITE = 8192
"""The words of a WRITE that goes into the table by way of a dict.

From a dict the table makes all its room before it takes the first pair, so that a command for which
there is not enough memory changes nothing.
"""


_STOPS = (grammar.WAIT, grammar.BACKUP)
_STOPS_OF_MARKED = (*_STOPS, grammar.SHOW)


class PythonEngine:
    """A dict, one lock, and the grammar's pattern. Thread-safe; see `kvs.engine.boundary`."""

    name = "python"

    def __init__(self) -> None:
        self._lock = Lock()
        self._table = Table()  # guarded by _lock, as all below but _effects
        self._revision = 0
        self._watched: dict[bytes, int] = {}
        self._recording = False
        self._effects: deque[Effects] = deque()
        """Put in under the lock, taken out without it: so whoever takes waits for nobody."""

    @property
    def effects(self) -> bool:
        """Whether there are effects to be taken."""
        return bool(self._effects)

    def execute(self, script: bytes, start: int, budget: int, mark: Mark | None = None) -> Pause:
        """Carry out the commands of `script` from byte `start` on."""
        call = _Call(script, start, budget, self._revision, mark)
        while not call.over():
            with self._lock:
                self._carry_out(call)
                pairs = self._table.copy() if call.stopped_at == grammar.SHOW else None
            if pairs is not None:
                call.write(b"".join(results.listing(ordered(pairs))))
        return call.pause()

    def _carry_out(self, call: "_Call") -> None:  # noqa: PLR0912, PLR0915  (a branch per command)
        """Carry out lines until `call` is over or comes to a SHOW; the caller holds the lock."""
        table = self._table
        revision = self._revision
        watched = self._watched.keys()
        recording = self._recording
        changes: list[KeyChange] = []
        lines: list[bytes] = []
        stopped_at = None
        carried_out = None
        try:
            for match in grammar.LINE.finditer(call.script, call.offset, call.end):
                kind = match.lastindex
                if kind == grammar.WRITE:
                    words = grammar.pair_words(match[grammar.WRITE])
                    pairs = zip(words[::2], words[1::2], strict=True)
                    if watched or len(words) > LONG_WRITE:
                        written = dict(pairs)
                        table.update(written)
                        if not watched.isdisjoint(written):
                            changes += [pair for pair in written.items() if pair[0] in watched]
                    else:
                        table.update(pairs)
                    revision += 1
                    if recording:
                        lines.append(match[0])
                elif kind == grammar.READ:
                    keys = grammar.key_words(match[grammar.READ])
                    keys.sort()
                    values = map(table.get, keys, repeat(grammar.MISSING_VALUE))
                    call.write(results.pairs_line(zip(keys, values, strict=True)))
                    if call.room < 0:
                        break
                elif kind == grammar.DELETE:
                    keys = grammar.key_words(match[grammar.DELETE])
                    if watched:
                        changes += self._removals(keys)
                    missing = [key for key in keys if table.pop(key, None) is None]
                    if len(missing) < len(keys):
                        revision += 1
                        if recording:
                            lines.append(match[0])
                    if missing:
                        missing.sort()
                        call.write(results.missing_line(missing))
                        if call.room < 0:
                            break
                elif kind is None:
                    call.idle_lines += 1
                elif kind == grammar.INVALID:
                    call.invalid.append(match.start())
                elif kind == grammar.HELP:
                    call.write(results.HELP)
                    if call.room < 0:
                        break
                elif kind != grammar.WAIT:
                    stopped_at = kind
                    break
                elif milliseconds := int(match[grammar.WAIT]):
                    call.milliseconds = milliseconds
                    stopped_at = kind
                    break
                carried_out = match
            call.came_to(match, stopped_at)
        except MemoryError:
            if carried_out is not None:
                call.came_to(carried_out, None)  # what comes now is told with how far it came
            raise
        finally:
            call.revision = self._revision = revision
            self._tell(call, changes, lines)

    def _tell(self, call: "_Call", changes: list[KeyChange], lines: list[bytes]) -> None:
        """Put the effects of what `call` has carried out behind all others."""
        count = len(lines)
        if lines and not lines[-1].endswith(b"\n"):  # the end of a script is that of a line, too
            lines.append(b"\n")
        text = b"".join(lines)
        if call.mark is not None and self._recording:
            offset = call.mark.base + call.told
            output = b"".join(call.output)
            call.pieces_told = len(call.output)
            job = call.mark.job
            self._effects.append(Effects(changes, text, count, self._revision, job, offset, output))
        elif changes or lines:
            self._effects.append(Effects(changes, text, count, self._revision))

    def _removals(self, keys: Sequence[bytes]) -> list[KeyChange]:
        """Return the changes that the removal of `keys` will be, of those that are watched."""
        if self._watched.keys().isdisjoint(keys):
            return []
        there = dict.fromkeys(key for key in keys if key in self._watched and key in self._table)
        return [(key, None) for key in there]

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of `keys`, None where one is missing."""
        with self._lock:
            return list(map(self._table.get, keys))

    def items(self) -> list[tuple[bytes, bytes]]:
        """Return all pairs in ascending order of the keys."""
        with self._lock:
            pairs = self._table.copy()
        return ordered(pairs)

    def __len__(self) -> int:
        """Return the number of pairs."""
        with self._lock:
            return len(self._table)

    @property
    def revision(self) -> int:
        """The revision of the last change."""
        with self._lock:
            return self._revision

    def replace(self, pairs: dict[bytes, bytes]) -> int:
        """Let `pairs` be everything, as one change; return its revision."""
        table = Table(pairs)
        with self._lock:
            before, self._table = self._table, table
            self._revision += 1
            keys = [key for key in sorted(self._watched) if key in before or key in table]
            if keys:
                self._effects.append(Effects([(key, table.get(key)) for key in keys]))
            return self._revision

    def record(self, revision: int) -> None:
        """Record changes as lines, and count on from `revision`."""
        with self._lock:
            self._recording = True
            self._revision = revision

    def watch(self, key: bytes) -> tuple[bool, list[Effects]]:
        """Tell of changes of `key` from now on."""
        with self._lock:
            self._watched[key] = self._watched.get(key, 0) + 1
            return key in self._table, self.take_effects()

    def unwatch(self, key: bytes) -> list[Effects]:
        """End a `watch`."""
        with self._lock:
            self._watched[key] -= 1
            if not self._watched[key]:
                del self._watched[key]
            return self.take_effects()

    def take_effects(self) -> list[Effects]:
        """Return the effects that nobody has taken yet, in order."""
        return [self._effects.popleft() for _ in range(len(self._effects))]

    def take_all_effects(self) -> list[Effects]:
        """Return them up to now."""
        return self.take_effects()

    def at_instant(self, call: Callable[[Instant], None]) -> None:
        """Call `call` between two commands."""
        with self._lock:
            call(_Instant(self._table, self._revision))


class _Instant:
    """The table as it is while the lock is held, or in a child that was forked meanwhile."""

    def __init__(self, table: Mapping[bytes, bytes], revision: int) -> None:
        self._table = table
        self.revision = revision

    def __len__(self) -> int:
        return len(self._table)

    def listing(self) -> Iterator[bytes]:
        return results.listing(ordered(self._table))

    def writes(self) -> Iterator[bytes]:
        return results.writes(self._table.items())


class _Call:
    """One `execute` on its way: what it has still to do, and what has come of it.

    Used by one thread, the one that called `execute`.
    """

    __slots__ = (
        "end", "idle_lines", "invalid", "mark", "milliseconds", "offset", "output", "pieces_told",
        "revision", "room", "script", "start", "stopped_at", "stops", "told",
    )  # fmt: skip

    def __init__(
        self, script: bytes, start: int, budget: int, revision: int, mark: Mark | None
    ) -> None:
        self.script = script
        self.start = self.offset = self.told = start
        self.end = script.find(b"\n", start + budget) + 1 or len(script)
        """Where the first line that goes past the budget of input ends."""
        self.room = budget
        """Bytes of output left of the budget; below 0, the call is over."""
        self.output: list[bytes] = []
        self.invalid: list[int] = []
        self.idle_lines = 0
        self.stopped_at: int | None = None
        self.stops = _STOPS if mark is None else _STOPS_OF_MARKED
        self.milliseconds = 0
        self.revision = revision
        self.mark = mark
        self.pieces_told = 0
        """How much of `output` is in the effects of a marked call."""

    def came_to(self, line: re.Match[bytes], stopped_at: int | None) -> None:
        """Take in the last line that was carried out, and its kind if that is for others to do."""
        self.offset = line.end()
        self.stopped_at = stopped_at
        self.told = self.offset if stopped_at is None else line.start()

    def write(self, text: bytes) -> None:
        """Put `text` behind what the commands have written so far."""
        self.output.append(text)
        self.room -= len(text)

    def over(self) -> bool:
        """Tell whether it is to come back to its caller."""
        return self.offset >= self.end or self.room < 0 or self.stopped_at in self.stops

    def pause(self) -> Pause:
        """Return what has come of it."""
        lines = self.script.count(b"\n", self.start, self.offset)
        if self.offset > self.start and self.script[self.offset - 1] != ord("\n"):
            lines += 1
        if self.stopped_at == grammar.WAIT:
            self.output.append(results.WAITING)
        all_told = self.mark is None or self.stopped_at is None
        return Pause(
            reason=self._reason(),
            offset=self.offset,
            output=b"".join(self.output),
            faults=[fault for at in self.invalid if (fault := fault_at(self.script, at))],
            commands=lines - self.idle_lines - len(self.invalid),
            lines=lines,
            revision=self.revision,
            milliseconds=self.milliseconds,
            untold=None if all_told else b"".join(self.output[self.pieces_told :]),
        )

    def _reason(self) -> Reason:
        if self.stopped_at == grammar.WAIT:
            return Reason.WAIT
        if self.stopped_at == grammar.BACKUP:
            return Reason.BACKUP
        return Reason.END if self.offset == len(self.script) else Reason.BUDGET
