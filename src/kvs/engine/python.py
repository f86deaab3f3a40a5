"""The reference engine, in Python: complete, and the model for every other engine.

Locking: no lock guards the table, the revision and the watched keys, so that a signal handler or a
finalizer may call the engine at any point. A line is computed first, and then takes effect in one
call into C, unless its inputs have changed meanwhile (`kvs.concurrency.atomic`); then it is
computed again. Only `with_locked_view` makes other threads wait.
"""

import re
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from heapq import heapify, heappop
from itertools import chain, count, repeat
from operator import delitem, ior, setitem
from threading import RLock, get_ident
from typing import Any

from kvs.concurrency.atomic import Step, atomically
from kvs.concurrency.waiters import call_uninterrupted
from kvs.engine.interface import (
    EXPIRY_ORIGIN,
    NO_EXPIRY,
    UNKNOWN_ORIGIN,
    ChangeBatch,
    ExecuteResult,
    JobCursor,
    KeyChange,
    TableView,
)
from kvs.engine.python_call import PythonBatch, PythonCall, merge_batches
from kvs.engine.python_line import (
    Attempt,
    Effect,
    answer_bytes,
    attempt_expire,
    attempt_of,
    attempt_write,
    format_answer,
)
from kvs.engine.python_table import (
    PythonView,
    Table,
    format_listing,
    select,
    value_until,
    word_of,
    words_of,
)
from kvs.language import grammar, output_format
from kvs.language.diagnostics import Checked, check
from kvs.language.output_format import NO_EXPIRIES, Expiries

MAX_TRIES = 8
"""Times that a line is computed again because of other threads' changes, before they must wait."""

LONG_LINE_BYTES = 1 << 16
"""Bytes of a line above which its values may be long."""
MAX_FITTING_KEYS = grammar.MAX_OUTPUT_BYTES // (LONG_LINE_BYTES + 2 * grammar.MAX_KEY_BYTES)
"""Number of keys whose READ is never too long if no value is long."""

STALE_ENTRIES = 64
"""Number of entries of a heap that may be stale, beside as many as are not."""


class PythonEngine:
    """A dict, and the pattern of the grammar. Thread-safe; see `kvs.engine.interface`."""

    name = "python"

    def __init__(self) -> None:
        self._table = Table()
        self._revision = [0]
        """The number of changes of the table."""
        self._advance = _counter_step(self._revision)
        self._setup = [0]
        """The number of changes of the watched keys, and of replacements of the table."""
        self._watched: dict[bytes, int] = {}
        """The number of watches of each watched key."""
        self._recording = False
        self._batches: deque[PythonBatch] = deque()
        self._view_lock = RLock()
        self._view_holder = [0]
        """ID of the thread in `with_locked_view`, the only one that may change the table; or 0."""
        self._max_heap_entries = STALE_ENTRIES
        """Number of entries of the table's heap above which its stale ones are removed."""
        self._has_long_values = False
        """Whether the length of READ's output must be computed first, as values may be long."""
        self._refuse_during_view = partial(self._view_holder.index, 0)
        """A step that refuses while any thread is in `with_locked_view`."""

    @property
    def has_batches(self) -> bool:
        """Whether there are change batches to move."""
        return bool(self._batches)

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
        """Execute the commands of `script` from byte `start` on."""
        call = PythonCall(script, start, budget, self.revision, cursor, limits=limits)
        call.origin = origin
        while not call.is_finished():
            self._execute_lines(call)
            if call.stopped_at == grammar.SHOW:
                prefixes, after, limit, expiries = call.listing
                pairs = select(self._copy(call), prefixes, after, limit)
                call.write(b"".join(format_listing(pairs, expiries=expiries)))
        return call.result()

    @staticmethod
    def check(script: bytes) -> Checked:
        """Validate every line of `script`; execute nothing."""
        return check(script)

    @staticmethod
    def is_unfinished(beginning: bytes) -> bool:
        """Return whether a line that begins with `beginning` may be valid: not known here."""
        del beginning
        return False

    def _execute_lines(self, call: PythonCall) -> None:
        """Execute lines until the call is finished or reaches a SHOW."""
        show_epoch = object()
        call.stopped_at = None
        if not self._recording:
            refuse_if_setup_changed = partial(self._setup.index, self._setup[0])
            read_revision = partial(call.revisions_read.extend, self._revision)
            call.fast_path_steps = (refuse_if_setup_changed, read_revision)
        try:
            for match in grammar.LINE.finditer(call.script, call.offset, call.end):
                end = match.end()
                self._execute_line(call, match, end, show_epoch)
                call.offset = end
                if call.stopped_at is not None:
                    break
                call.checkpoint_offset = end
                if call.output_budget < 0:
                    break
        finally:
            if call.cursor is not None and self._recording:
                self._append_checkpoint(call, show_epoch)
                call.published_pieces = len(call.output)

    def _execute_line(
        self, call: PythonCall, match: re.Match[bytes], end: int, show_epoch: object
    ) -> None:
        """Execute one line, or store its kind if the caller has to execute it."""
        kind = match.lastindex
        if kind == grammar.STEPS or end - call.offset > grammar.MAX_KEY_BYTES:
            kind = grammar.kind_of(match, limits=call.limits)
            if end - call.offset > LONG_LINE_BYTES:
                self._has_long_values = True
        if kind == grammar.WRITE:
            self._write(call, match, end, show_epoch)
        elif kind == grammar.READ:
            self._read(call, match)
        elif kind is None:
            call.idle_lines += 1
        elif kind == grammar.INVALID:
            call.refused.append(call.offset)
        elif attempt := attempt_of(kind, match[kind], call.max_output_bytes):
            self._apply(attempt, call, end, show_epoch)
            if kind == grammar.STEPS:
                self._limit_heap()
        elif kind == grammar.HELP:
            call.write(output_format.HELP)
        elif kind == grammar.SHOW:
            call.listing = grammar.parse_listing(match[grammar.SHOW])
            call.stopped_at = kind
        elif kind != grammar.WAIT:
            call.stopped_at = kind
        elif milliseconds := int(match[grammar.WAIT]):
            call.wait_ms = milliseconds
            call.stopped_at = kind

    def _read(self, call: PythonCall, match: re.Match[bytes]) -> None:
        body = match[grammar.READ]
        keys = grammar.split_keys(body)
        keys.sort()
        table = None
        while table is not self._table:
            table = self._table
            # The revision and the values, in one call into C. `chain` creates its iterator of the
            # revision before it reads the revision.
            lookups = map(table.get, keys, repeat(grammar.MISSING_VALUE))
            values: list[Any] = list(chain(self._revision, lookups))
        call.revision = values.pop(0)
        if b'"' in body:
            keys = grammar.spell_all(keys, grammar.spell)
        if (self._has_long_values or len(keys) > MAX_FITTING_KEYS) and answer_bytes(
            keys, values
        ) > call.max_output_bytes:
            call.refuse_output()
        else:
            call.write(format_answer(keys, values))

    def _copy(self, call: PythonCall) -> dict[bytes, bytes]:
        """Return a consistent copy of the table, for a SHOW."""
        table = None
        while table is not self._table:
            table = self._table
            copy: dict[bytes, bytes] = {}
            read_revision = partial(call.revisions_read.extend, self._revision)
            atomically(read_revision, partial(ior, copy, table))
            call.revision = call.revisions_read.pop()
        return copy

    def _write(
        self, call: PythonCall, match: re.Match[bytes], end: int, show_epoch: object
    ) -> None:
        body = match[grammar.WRITE]
        words = grammar.split_pairs(body)
        values = words[1::2]
        if b'"' in body:
            values = grammar.spell_all(values)
        # Updated from a dict, the table allocates all memory before it stores the first pair. So a
        # command with too little memory changes nothing.
        written = dict(zip(words[::2], values, strict=True))
        if call.fast_path_steps and self._watched.keys().isdisjoint(written):
            change = partial(ior, self._table, written)
            if self._commit(*call.fast_path_steps, change, self._advance):
                call.revision = call.revisions_read.pop() + 1
                return
            call.fast_path_steps = ()
        attempt = partial(attempt_write, written, match[0] if self._recording else b"")
        self._apply(attempt, call, end, show_epoch)

    def _watched_changes(self, effect: Effect) -> list[KeyChange]:
        changes = effect.net_changes
        if self._watched.keys().isdisjoint(changes):
            return []
        watched = [key for key in changes if key in self._watched]
        if effect.changes_ascend:
            watched.sort()
        return [(key, word_of(changes[key])) for key in watched]

    def _apply(self, attempt: Attempt, call: PythonCall, end: int, show_epoch: object) -> None:
        """Make the change that `attempt` computes, if any, with its change batch; write output."""
        for _ in range(MAX_TRIES):
            revision, checks = self._unchanged()
            effect = attempt(self._table, self._recording)
            if effect is None:
                continue
            if not effect.steps:
                if self._revision[0] == revision:
                    call.revision = revision
                    if effect.output is None:
                        call.refuse_output()
                    elif effect.output:
                        call.write(effect.output)
                    return
                continue
            steps = [*effect.steps, self._advance]
            changes = self._watched_changes(effect) if self._watched else []
            if changes or self._recording:
                batch = self._create_batch(call, show_epoch, end, revision + 1)
                batch.changes = changes
                if self._recording:
                    batch.lines = effect.record
                    batch.change_count = 1
                    if batch.job is not None:
                        batch.output += effect.output or b""
                steps.append(partial(self._batches.append, batch))
            if self._commit(*checks, *steps):
                call.revision = revision + 1
                if effect.output:
                    call.write(effect.output)
                if call.cursor is not None and self._recording:
                    call.published_pieces = len(call.output)
                return
        call_uninterrupted(
            partial(self.with_locked_view, lambda _: self._apply(attempt, call, end, show_epoch))
        )

    def _limit_heap(self) -> None:
        """Remove the stale entries of the heap, once they may be more than the others."""
        heap = self._table.expiry_heap
        if len(heap) <= self._max_heap_entries:
            return
        _, checks = self._unchanged()
        entries = list(set(filter(self._table.is_current, heap.copy())))
        heapify(entries)
        if self._commit(*checks, partial(setitem, heap, slice(None), entries)):
            self._max_heap_entries = 2 * len(entries) + STALE_ENTRIES
        else:  # the table has changed meanwhile
            self._max_heap_entries += self._max_heap_entries // 8

    def _create_batch(
        self, call: PythonCall, show_epoch: object, offset: int, revision: int
    ) -> PythonBatch:
        """Return a batch without changes, with the checkpoint of a job call at `offset`."""
        batch = PythonBatch(show_epoch, revision)
        batch.origin = call.origin
        if call.cursor is not None and self._recording:
            batch.job = call.cursor.job
            batch.offset = call.cursor.base_offset + offset
            batch.output = b"".join(call.output[call.published_pieces :])
        return batch

    def _append_checkpoint(self, call: PythonCall, show_epoch: object) -> None:
        """Append a batch with the checkpoint of a job call, outside other threads' views."""
        while True:
            revision, checks = self._unchanged()
            batch = self._create_batch(call, show_epoch, call.checkpoint_offset, revision)
            if self._commit(*checks, partial(self._batches.append, batch)):
                return

    def _unchanged(self) -> tuple[int, list[Step]]:
        """Return the revision, and steps that refuse if the revision or the setup has changed."""
        setup, revision = self._setup[0], self._revision[0]
        return revision, [
            partial(self._setup.index, setup),
            partial(self._revision.index, revision),
        ]

    def _commit(self, *steps: Step) -> bool:
        """Call the steps, outside other threads' views; return False if a step refused."""
        try:
            atomically(self._refuse_during_view, *steps)
        except ValueError:
            pass
        else:
            return True
        while (holder := self._view_holder[0]) not in {0, get_ident()}:
            with self._view_lock:  # until the other thread's view is over
                pass
        if not holder:
            return False
        try:  # this thread holds the view
            atomically(*steps)
        except ValueError:
            return False
        return True

    def expire(self, now_ms: int, limit: int) -> int:
        """Remove pairs whose UNTIL is at most `now_ms`; return their number."""
        if self.next_expiry > now_ms:
            return 0
        removed: list[bytes] = []
        call = PythonCall(b"", 0, 0, self.revision)
        call.origin = EXPIRY_ORIGIN
        self._apply(partial(attempt_expire, now_ms, limit, removed=removed), call, 0, object())
        return len(removed)

    @property
    def next_expiry(self) -> int:
        """The earliest UNTIL, in milliseconds since the epoch, or `NO_EXPIRY`."""
        while entries := (table := self._table).expiry_heap[:1]:
            if table.is_current(entries[0]):
                return entries[0][0]
            # A pair that gets this time again gets a further entry.
            self._commit(
                partial(table.expiry_heap.index, entries[0], 0, 1),
                partial(heappop, table.expiry_heap),
            )
        return NO_EXPIRY

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the value of each key, None for a missing one."""
        values = list(map(self._table.get, keys))
        return [None if value is None else word_of(value) for value in values]

    def items(
        self, prefixes: Sequence[bytes] = (), after: bytes | None = None, limit: int | None = None
    ) -> list[tuple[bytes, bytes]]:
        """Return the pairs that SHOW with these arguments lists."""
        return words_of(select(self._table.copy(), prefixes, after, limit))

    def keys(
        self, prefixes: Sequence[bytes] = (), after: bytes | None = None, limit: int | None = None
    ) -> list[bytes]:
        """Return the keys of `items` with these arguments."""
        return [key for key, _ in select(self._table.copy(), prefixes, after, limit)]

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self._table)

    def max_dump_bytes(self) -> int:
        """Return an upper bound of the bytes of all keys and values: of the values as spelled."""
        pairs = self._table.copy()
        return sum(map(len, pairs)) + sum(map(len, pairs.values()))

    @property
    def revision(self) -> int:
        """The revision of the last change."""
        return self._revision[0]

    def replace(self, pairs: dict[bytes, bytes], expiries: Expiries = NO_EXPIRIES) -> int:
        """Replace all pairs by `pairs`, as one change; return its revision."""
        values = dict(zip(pairs, grammar.spell_all(list(pairs.values())), strict=True))
        values.update((key, value_until(values[key], until)) for key, until in expiries.items())
        table = Table(values)
        if max(map(len, values.values()), default=0) > LONG_LINE_BYTES:
            self._has_long_values = True
        while True:
            revision, checks = self._unchanged()
            setup, before = self._setup[0], self._table
            batch = PythonBatch(object(), revision + 1)
            keys = [key for key in sorted(self._watched) if key in before or key in table]
            batch.changes = self._watched_changes(
                Effect(net_changes={key: table.get(key) for key in keys})
            )
            steps: list[Step] = [
                partial(setattr, self, "_table", table),
                partial(setitem, self._setup, 0, setup + 1),
                self._advance,
            ]
            if keys:
                steps.append(partial(self._batches.append, batch))
            if self._commit(*checks, *steps):
                return revision + 1

    def start_recording(self, revision: int) -> None:
        """Record changes as lines from now on; the next revision is `revision` + 1."""
        self._recording = True
        self._revision[0] = revision
        self._advance = _counter_step(self._revision)

    def watch(self, key: bytes, marker: int = 0) -> bool:
        """Report changes of `key` from now on, after a marker; return whether the key exists."""
        while True:
            revision, checks = self._unchanged()
            exists = key in self._table
            steps = self._watch_steps(key, 1)
            if marker:
                batch = PythonBatch(object(), revision)
                batch.marker = marker
                steps.append(partial(self._batches.append, batch))
            if self._commit(*checks, *steps):
                return exists

    def unwatch(self, key: bytes) -> None:
        """End one `watch` of `key`."""
        while True:
            _, checks = self._unchanged()
            if self._commit(*checks, *self._watch_steps(key, -1)):
                return

    def _watch_steps(self, key: bytes, difference: int) -> list[Step]:
        """Return the steps that change the number of watches of `key` by `difference`."""
        watches = self._watched.get(key, 0) + difference
        change = partial(setitem, self._watched, key, watches)
        return [
            change if watches else partial(delitem, self._watched, key),
            partial(setitem, self._setup, 0, self._setup[0] + 1),
        ]

    def settle(self) -> None:
        """Do nothing: a batch can be moved as soon as its change is made."""

    def move_batches(self, into: list[ChangeBatch]) -> None:
        """Append all change batches to `into`, in order, in one call into C."""
        while queued := list(self._batches):
            merged = merge_batches(queued)
            with suppress(ValueError):  # another caller has moved the first one: try again
                atomically(
                    partial(self._batches.index, queued[0], 0, 1),
                    partial(into.extend, merged),
                    *repeat(self._batches.popleft, len(queued)),
                )

    def with_locked_view(self, call: Callable[[TableView], None]) -> None:
        """Call `call` with a view of the table that no other thread can change meanwhile."""
        with self._view_lock:
            before = self._view_holder[0]
            try:
                self._view_holder[0] = get_ident()
                call(PythonView(self._table, self.revision))
            finally:
                self._view_holder[0] = before


def _counter_step(cell: list[int]) -> Step:
    """Return a step that adds 1 to the number in `cell`, which nothing else may change."""
    return map(setitem, repeat(cell), repeat(0), count(cell[0] + 1)).__next__
