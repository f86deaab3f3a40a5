"""The reference engine, in Python: complete, and what any other is held against.

State: the table, the revision and what is watched. No lock guards it, so that a signal handler or a
finalizer may call the engine at any point: a line is computed first, and then takes effect in one
call into C, if what it was computed from has not changed meanwhile (`kvs.concurrency.atomic`). Else
it is computed again. Only `with_locked_view` makes other threads wait.
"""

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain, count, groupby, islice, repeat
from operator import attrgetter, delitem, ior, setitem
from threading import RLock, get_ident
from typing import Any

from kvs.concurrency.atomic import Step, atomically, exhaust
from kvs.concurrency.waiters import call_uninterrupted
from kvs.engine.interface import (
    ChangeBatch,
    ExecuteResult,
    JobCursor,
    KeyChange,
    StopReason,
    TableView,
)
from kvs.language import grammar, output_format
from kvs.language.diagnostics import Checked, check, diagnose_line
from kvs.table import Table, ordered

MAX_TRIES = 8
"""Times that a line is computed again because of other threads' changes, before they must wait."""

_STOPS = (grammar.WAIT, grammar.BACKUP)
_STOPS_OF_MARKED = (*_STOPS, grammar.SHOW)


class _Batch:
    """What one line, or some lines of one call, have changed; see `Effects`."""

    __slots__ = (
        "change_count",
        "changes",
        "job",
        "lines",
        "marker",
        "offset",
        "output",
        "revision",
        "show_epoch",
    )

    def __init__(self, show_epoch: object, revision: int) -> None:
        self.show_epoch = show_epoch
        """The part of a call, between two SHOWs, that they belong to."""
        self.changes: list[KeyChange] = []
        self.lines = b""
        self.change_count = 0
        self.revision = revision
        self.job: int | None = None
        self.offset = 0
        self.output = b""
        self.marker = 0


class PythonEngine:
    """A dict, and the grammar's pattern. Thread-safe; see `kvs.engine.interface`."""

    name = "python"

    def __init__(self) -> None:
        self._table = Table()
        self._revision = [0]
        """The number of changes of the table."""
        self._advance = _counting(self._revision)
        self._setup = [0]
        """The number of changes of what is watched, and of which table it is."""
        self._watched: dict[bytes, int] = {}
        self._recording = False
        self._batches: deque[_Batch] = deque()
        self._locked_view = RLock()
        self._holder = [0]
        """The thread within `with_locked_view`, the only one that may change the table; or 0."""
        self._no_locked_view = partial(self._holder.index, 0)
        """Refuses within an instant."""

    @property
    def has_batches(self) -> bool:
        """Whether there are effects to be moved."""
        return bool(self._batches)

    def execute(
        self, script: bytes, start: int, budget: int, mark: JobCursor | None = None
    ) -> ExecuteResult:
        """Carry out the commands of `script` from byte `start` on."""
        call = _Call(script, start, budget, self.revision, mark)
        while not call.is_finished():
            self._execute_lines(call)
            if call.stopped_at == grammar.SHOW:
                pairs = self._copy(call)
                call.write(b"".join(output_format.format_listing(ordered(pairs))))
        return call.result()

    @staticmethod
    def check(script: bytes) -> Checked:
        """Validate every line of `script`; execute nothing."""
        return check(script)

    def _execute_lines(self, call: "_Call") -> None:
        """Carry out lines until `call` is over or comes to a SHOW."""
        show_epoch = object()
        call.stopped_at = None
        if not self._recording:
            unchanged = partial(self._setup.index, self._setup[0])
            note = partial(call.values_read.extend, self._revision)
            call.uncheckpointed = (unchanged, note)
        try:
            for match in grammar.LINE.finditer(call.script, call.offset, call.end):
                self._execute_line(call, match, show_epoch)
                call.offset = match.end()
                if call.stopped_at is not None:
                    break
                call.reached = call.offset
                if call.output_budget < 0:
                    break
        finally:
            if call.mark is not None and self._recording:
                self._append_checkpoint(call, show_epoch)
                call.published_pieces = len(call.output)

    def _execute_line(self, call: "_Call", match: re.Match[bytes], show_epoch: object) -> None:
        """Carry out one line, or note its kind if that is for others to do."""
        kind = match.lastindex
        if kind == grammar.WRITE:
            self._write(call, match, show_epoch)
        elif kind == grammar.READ:
            self._read(call, match)
        elif kind == grammar.DELETE:
            self._delete(call, match, show_epoch)
        elif kind is None:
            call.idle_lines += 1
        elif kind == grammar.INVALID:
            call.invalid.append(match.start())
        elif kind == grammar.HELP:
            call.write(output_format.HELP)
        elif kind != grammar.WAIT:
            call.stopped_at = kind
        elif milliseconds := int(match[grammar.WAIT]):
            call.wait_ms = milliseconds
            call.stopped_at = kind

    def _read(self, call: "_Call", match: re.Match[bytes]) -> None:
        keys = grammar.split_keys(match[grammar.READ])
        keys.sort()
        table = None
        while table is not self._table:
            table = self._table
            # In one call into C. `chain` makes its iterator of the revision before it reads it.
            found = map(table.get, keys, repeat(grammar.MISSING_VALUE))
            seen: list[Any] = list(chain(self._revision, found))
        call.revision = seen[0]
        call.write(output_format.format_pairs(zip(keys, islice(seen, 1, None), strict=True)))

    def _copy(self, call: "_Call") -> Table:
        """Return the table as it is at one instant, for a SHOW."""
        table = None
        while table is not self._table:
            table = self._table
            copy = Table()
            note = partial(call.values_read.extend, self._revision)
            atomically(note, partial(ior, copy, table))
            call.revision = call.values_read.pop()
        return copy

    def _write(self, call: "_Call", match: re.Match[bytes], show_epoch: object) -> None:
        words = grammar.split_pairs(match[grammar.WRITE])
        # From a dict the table makes all its room before it takes the first pair: a command for
        # which there is not enough memory changes nothing.
        written = dict(zip(words[::2], words[1::2], strict=True))
        if call.uncheckpointed and self._watched.keys().isdisjoint(written):
            change = partial(ior, self._table, written)
            if self._commit(*call.uncheckpointed, change, self._advance):
                call.revision = call.values_read.pop() + 1
                return
            call.uncheckpointed = ()
        self._apply(partial(self._attempt_write, written), call, match, show_epoch)

    def _attempt_write(self, written: dict[bytes, bytes]) -> tuple[Step, list[KeyChange]]:
        changes: list[KeyChange] = []
        if not self._watched.keys().isdisjoint(written):
            changes = [pair for pair in written.items() if pair[0] in self._watched]
        return partial(ior, self._table, written), changes

    def _delete(self, call: "_Call", match: re.Match[bytes], show_epoch: object) -> None:
        keys = grammar.split_keys(match[grammar.DELETE])
        missing: list[bytes] = []
        self._apply(partial(self._attempt_delete, keys, missing), call, match, show_epoch)
        if missing:
            missing.sort()
            call.write(output_format.format_missing_keys(missing))

    def _attempt_delete(
        self, keys: list[bytes], missing: list[bytes]
    ) -> tuple[Step, list[KeyChange]] | None:
        table = self._table
        there = dict.fromkeys(filter(table.__contains__, keys))
        missing.clear()
        if len(there) < len(keys):
            rest = there.copy()
            missing.extend(key for key in keys if rest.pop(key, key) is not None)
        if not there:
            return None
        changes: list[KeyChange] = []
        if not self._watched.keys().isdisjoint(there):
            changes = [(key, None) for key in there if key in self._watched]
        return partial(exhaust, map(table.pop, there)), changes

    def _apply(
        self,
        attempt: Callable[[], tuple[Step, list[KeyChange]] | None],
        call: "_Call",
        match: re.Match[bytes],
        show_epoch: object,
    ) -> None:
        """Make the change that `attempt` computes, if any, with its changes of watched keys."""
        for _ in range(MAX_TRIES):
            revision, checks = self._unchanged()
            computed = attempt()
            if computed is None:
                if self._revision[0] == revision:
                    call.revision = revision
                    return
                continue
            change, changes = computed
            steps = [change, self._advance]
            if changes or self._recording:
                effects = self._batch_of(call, show_epoch, match.end(), revision + 1)
                effects.changes = changes
                if self._recording:  # the end of a script is that of a line, too
                    effects.lines = match[0] if match[0].endswith(b"\n") else match[0] + b"\n"
                    effects.change_count = 1
                steps.append(partial(self._batches.append, effects))
            if self._commit(*checks, *steps):
                call.revision = revision + 1
                if call.mark is not None and self._recording:
                    call.published_pieces = len(call.output)
                return
        call_uninterrupted(
            partial(self.with_locked_view, lambda _: self._apply(attempt, call, match, show_epoch))
        )

    def _batch_of(self, call: "_Call", show_epoch: object, offset: int, revision: int) -> _Batch:
        """Return effects of a call that has come to `offset`, with no change in them yet."""
        effects = _Batch(show_epoch, revision)
        if call.mark is not None and self._recording:
            effects.job = call.mark.job
            effects.offset = call.mark.base_offset + offset
            effects.output = b"".join(call.output[call.published_pieces :])
        return effects

    def _append_checkpoint(self, call: "_Call", show_epoch: object) -> None:
        """Append how far a marked call has come, which is a change: within no other's instant."""
        while True:
            revision, checks = self._unchanged()
            effects = self._batch_of(call, show_epoch, call.reached, revision)
            if self._commit(*checks, partial(self._batches.append, effects)):
                return

    def _unchanged(self) -> tuple[int, list[Step]]:
        """Return the revision, and steps that refuse if anything has changed by then."""
        setup, revision = self._setup[0], self._revision[0]
        return revision, [
            partial(self._setup.index, setup),
            partial(self._revision.index, revision),
        ]

    def _commit(self, *steps: Step) -> bool:
        """Take the steps, outside any other thread's instant; return whether none refused."""
        try:
            atomically(self._no_locked_view, *steps)
        except ValueError:
            pass
        else:
            return True
        while (holder := self._holder[0]) not in {0, get_ident()}:
            with self._locked_view:  # until it is over
                pass
        if not holder:
            return False
        try:  # a call within this thread's own
            atomically(*steps)
        except ValueError:
            return False
        return True

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of `keys`, None where one is missing."""
        return list(map(self._table.get, keys))

    def items(self) -> list[tuple[bytes, bytes]]:
        """Return all pairs in ascending order of the keys."""
        return ordered(self._table.copy())

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self._table)

    def max_dump_bytes(self) -> int:
        """Return the bytes of all keys and values."""
        pairs = self._table.copy()
        return sum(map(len, pairs)) + sum(map(len, pairs.values()))

    @property
    def revision(self) -> int:
        """The revision of the last change."""
        return self._revision[0]

    def replace(self, pairs: dict[bytes, bytes]) -> int:
        """Let `pairs` be everything, as one change; return its revision."""
        table = Table(pairs)
        while True:
            revision, checks = self._unchanged()
            setup, before = self._setup[0], self._table
            effects = _Batch(object(), revision + 1)
            keys = [key for key in sorted(self._watched) if key in before or key in table]
            effects.changes = [(key, table.get(key)) for key in keys]
            steps: list[Step] = [
                partial(setattr, self, "_table", table),
                partial(setitem, self._setup, 0, setup + 1),
                self._advance,
            ]
            if keys:
                steps.append(partial(self._batches.append, effects))
            if self._commit(*checks, *steps):
                return revision + 1

    def start_recording(self, revision: int) -> None:
        """Record changes as lines, and count on from `revision`; before any other use."""
        self._recording = True
        self._revision[0] = revision
        self._advance = _counting(self._revision)

    def watch(self, key: bytes, marker: int = 0) -> bool:
        """Report changes of `key` from now on, behind a marker; return whether it exists."""
        while True:
            revision, checks = self._unchanged()
            there = key in self._table
            steps = self._watch_steps(key, 1)
            if marker:
                effects = _Batch(object(), revision)
                effects.marker = marker
                steps.append(partial(self._batches.append, effects))
            if self._commit(*checks, *steps):
                return there

    def unwatch(self, key: bytes) -> None:
        """End a `watch`."""
        while True:
            _, checks = self._unchanged()
            if self._commit(*checks, *self._watch_steps(key, -1)):
                return

    def _watch_steps(self, key: bytes, more: int) -> list[Step]:
        """Return the steps by which there are so many more watches of a key."""
        watches = self._watched.get(key, 0) + more
        change = partial(setitem, self._watched, key, watches)
        return [
            change if watches else partial(delitem, self._watched, key),
            partial(setitem, self._setup, 0, self._setup[0] + 1),
        ]

    def settle(self) -> None:
        """Do nothing: effects can be moved as soon as their change is made."""

    def move_batches(self, into: list[ChangeBatch]) -> None:
        """Append the effects that can be moved, in order, in one call into C."""
        effects = self._batches
        while found := list(effects):
            epochs = [list(of_epoch) for _, of_epoch in groupby(found, attrgetter("show_epoch"))]
            moved = [_merged(show_epoch) for show_epoch in epochs]
            with suppress(ValueError):  # another caller has moved the first: look again
                atomically(
                    partial(effects.index, found[0], 0, 1),
                    partial(into.extend, moved),
                    *repeat(effects.popleft, len(found)),
                )

    def with_locked_view(self, call: Callable[[TableView], None]) -> None:
        """Call `call` between two commands."""
        with self._locked_view:
            before = self._holder[0]
            try:
                self._holder[0] = get_ident()
                call(_TableView(self._table, self.revision))
            finally:
                self._holder[0] = before


def _counting(cell: list[int]) -> Step:
    """Return a step that adds 1 to the number in `cell`, which nothing else changes."""
    return map(setitem, repeat(cell), repeat(0), count(cell[0] + 1)).__next__


def _merged(effects: list[_Batch]) -> _Batch:
    """Return effects of one show_epoch, which stand side by side, as one."""
    last = effects[-1]
    if len(effects) > 1:
        merged = _Batch(last.show_epoch, last.revision)
        merged.changes = [change for each in effects for change in each.changes]
        merged.lines = b"".join(each.lines for each in effects)
        merged.change_count = sum(each.change_count for each in effects)
        merged.job, merged.offset = last.job, last.offset
        merged.output = b"".join(each.output for each in effects)
        return merged
    return last


class _TableView:
    """The table as it is while the lock is held, or in a child that was forked meanwhile."""

    def __init__(self, table: Mapping[bytes, bytes], revision: int) -> None:
        self._table = table
        self.revision = revision

    def __len__(self) -> int:
        return len(self._table)

    def listing(self) -> Iterator[bytes]:
        return output_format.format_listing(ordered(self._table))

    def writes(self) -> Iterator[bytes]:
        return output_format.format_writes(self._table.items())


class _Call:
    """One `execute` on its way: what it has still to do, and what has come of it.

    Used by one thread, the one that called `execute`.
    """

    __slots__ = (
        "end",
        "idle_lines",
        "invalid",
        "mark",
        "offset",
        "output",
        "output_budget",
        "published_pieces",
        "reached",
        "revision",
        "script",
        "start",
        "stopped_at",
        "stops",
        "uncheckpointed",
        "values_read",
        "wait_ms",
    )  # fmt: skip

    def __init__(
        self, script: bytes, start: int, budget: int, revision: int, mark: JobCursor | None
    ) -> None:
        self.script = script
        self.start = self.offset = self.reached = start
        self.end = script.find(b"\n", start + budget) + 1 or len(script)
        """Where the first line that goes past the budget of input ends."""
        self.output_budget = budget
        """Bytes of output left of the budget; below 0, the call is over."""
        self.output: list[bytes] = []
        self.invalid: list[int] = []
        self.idle_lines = 0
        self.stopped_at: int | None = None
        self.stops = _STOPS if mark is None else _STOPS_OF_MARKED
        self.wait_ms = 0
        self.revision = revision
        self.values_read: list[int] = []
        """Where a step puts the revision at its instant."""
        self.uncheckpointed: tuple[Step, ...] = ()
        """The first steps of a change that concerns neither a journal nor a watch."""
        self.mark = mark
        self.published_pieces = 0
        """How much of `output` is in the effects of a marked call."""

    def write(self, text: bytes) -> None:
        """Put `text` behind what the commands have written so far."""
        self.output.append(text)
        self.output_budget -= len(text)

    def is_finished(self) -> bool:
        """Tell whether it is to come back to its caller."""
        return self.offset >= self.end or self.output_budget < 0 or self.stopped_at in self.stops

    def result(self) -> ExecuteResult:
        """Return what has come of it."""
        lines = self.script.count(b"\n", self.start, self.offset)
        if self.offset > self.start and self.script[self.offset - 1] != ord("\n"):
            lines += 1
        if self.stopped_at == grammar.WAIT:
            self.output.append(output_format.WAITING)
        all_told = self.mark is None or self.stopped_at is None
        return ExecuteResult(
            reason=self._reason(),
            offset=self.offset,
            output=b"".join(self.output),
            diagnostics=[fault for at in self.invalid if (fault := diagnose_line(self.script, at))],
            commands=lines - self.idle_lines - len(self.invalid),
            lines=lines,
            revision=self.revision,
            wait_ms=self.wait_ms,
            uncheckpointed_output=None
            if all_told
            else b"".join(self.output[self.published_pieces :]),
        )

    def _reason(self) -> StopReason:
        if self.stopped_at == grammar.WAIT:
            return StopReason.WAIT
        if self.stopped_at == grammar.BACKUP:
            return StopReason.BACKUP
        return StopReason.END if self.offset == len(self.script) else StopReason.BUDGET
