"""The reference engine, in Python: complete, and the model for every other engine.

Locking: no lock guards the table, the revision and the watched keys, so that a signal handler or a
finalizer may call the engine at any point. A line is computed first, and then takes effect in one
call into C, unless its inputs have changed meanwhile (`kvs.concurrency.atomic`); then it is
computed again. Only `with_locked_view` makes other threads wait.
"""

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain, count, islice, repeat
from operator import delitem, ior, itemgetter, setitem
from threading import RLock, get_ident
from typing import Any

from kvs.concurrency.atomic import Step, atomically, exhaust
from kvs.concurrency.waiters import call_uninterrupted
from kvs.engine.interface import ChangeBatch, ExecuteResult, JobCursor, KeyChange, TableView
from kvs.engine.python_call import PythonBatch, PythonCall, merge_batches
from kvs.language import grammar, output_format
from kvs.language.diagnostics import Checked, check

MAX_TRIES = 8
"""Times that a line is computed again because of other threads' changes, before they must wait."""


class Table(dict[bytes, bytes]):
    """The pairs. Only `kvs.concurrency.atomic.atomically` changes a table.

    A dict hashes with SipHash under a secret key of the process (PEP 456), so hostile keys cannot
    make it slow. The class overrides nothing, so that its methods stay as fast as those of dict;
    `copy` is the fastest way to a consistent copy.
    """

    __slots__ = ()


def ordered(pairs: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """Return the pairs in ascending order of the bytes of their keys.

    `pairs` must not change meanwhile, so it should be a copy.
    """
    # By key alone: comparing tuples takes more than twice as long.
    return sorted(pairs.items(), key=itemgetter(0))


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
        self._refuse_during_view = partial(self._view_holder.index, 0)
        """A step that refuses while any thread is in `with_locked_view`."""

    @property
    def has_batches(self) -> bool:
        """Whether there are change batches to move."""
        return bool(self._batches)

    def execute(
        self, script: bytes, start: int, budget: int, cursor: JobCursor | None = None
    ) -> ExecuteResult:
        """Execute the commands of `script` from byte `start` on."""
        call = PythonCall(script, start, budget, self.revision, cursor)
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
                self._execute_line(call, match, show_epoch)
                call.offset = match.end()
                if call.stopped_at is not None:
                    break
                call.checkpoint_offset = call.offset
                if call.output_budget < 0:
                    break
        finally:
            if call.cursor is not None and self._recording:
                self._append_checkpoint(call, show_epoch)
                call.published_pieces = len(call.output)

    def _execute_line(self, call: PythonCall, match: re.Match[bytes], show_epoch: object) -> None:
        """Execute one line, or store its kind if the caller has to execute it."""
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

    def _read(self, call: PythonCall, match: re.Match[bytes]) -> None:
        keys = grammar.split_keys(match[grammar.READ])
        keys.sort()
        table = None
        while table is not self._table:
            table = self._table
            # The revision and the values, in one call into C. `chain` creates its iterator of the
            # revision before it reads the revision.
            lookups = map(table.get, keys, repeat(grammar.MISSING_VALUE))
            revision_and_values: list[Any] = list(chain(self._revision, lookups))
        call.revision = revision_and_values[0]
        values = islice(revision_and_values, 1, None)
        call.write(output_format.format_pairs(zip(keys, values, strict=True)))

    def _copy(self, call: PythonCall) -> Table:
        """Return a consistent copy of the table, for a SHOW."""
        table = None
        while table is not self._table:
            table = self._table
            copy = Table()
            read_revision = partial(call.revisions_read.extend, self._revision)
            atomically(read_revision, partial(ior, copy, table))
            call.revision = call.revisions_read.pop()
        return copy

    def _write(self, call: PythonCall, match: re.Match[bytes], show_epoch: object) -> None:
        words = grammar.split_pairs(match[grammar.WRITE])
        # Updated from a dict, the table allocates all memory before it stores the first pair. So a
        # command with too little memory changes nothing.
        written = dict(zip(words[::2], words[1::2], strict=True))
        if call.fast_path_steps and self._watched.keys().isdisjoint(written):
            change = partial(ior, self._table, written)
            if self._commit(*call.fast_path_steps, change, self._advance):
                call.revision = call.revisions_read.pop() + 1
                return
            call.fast_path_steps = ()
        self._apply(partial(self._attempt_write, written), call, match, show_epoch)

    def _attempt_write(self, written: dict[bytes, bytes]) -> tuple[Step, list[KeyChange]]:
        changes: list[KeyChange] = []
        if not self._watched.keys().isdisjoint(written):
            changes = [pair for pair in written.items() if pair[0] in self._watched]
        return partial(ior, self._table, written), changes

    def _delete(self, call: PythonCall, match: re.Match[bytes], show_epoch: object) -> None:
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
        existing = dict.fromkeys(filter(table.__contains__, keys))
        missing.clear()
        if len(existing) < len(keys):
            unnamed = existing.copy()  # a key that is named again is missing by then
            missing.extend(key for key in keys if unnamed.pop(key, key) is not None)
        if not existing:
            return None
        changes: list[KeyChange] = []
        if not self._watched.keys().isdisjoint(existing):
            changes = [(key, None) for key in existing if key in self._watched]
        return partial(exhaust, map(table.pop, existing)), changes

    def _apply(
        self,
        attempt: Callable[[], tuple[Step, list[KeyChange]] | None],
        call: PythonCall,
        match: re.Match[bytes],
        show_epoch: object,
    ) -> None:
        """Commit the change that `attempt` computes, if any, with its change batch."""
        for _ in range(MAX_TRIES):
            revision, checks = self._unchanged()
            attempted = attempt()
            if attempted is None:
                if self._revision[0] == revision:
                    call.revision = revision
                    return
                continue
            change, changes = attempted
            steps = [change, self._advance]
            if changes or self._recording:
                batch = self._create_batch(call, show_epoch, match.end(), revision + 1)
                batch.changes = changes
                if self._recording:  # the last line of a script may end without a newline
                    batch.lines = match[0] if match[0].endswith(b"\n") else match[0] + b"\n"
                    batch.change_count = 1
                steps.append(partial(self._batches.append, batch))
            if self._commit(*checks, *steps):
                call.revision = revision + 1
                if call.cursor is not None and self._recording:
                    call.published_pieces = len(call.output)
                return
        call_uninterrupted(
            partial(self.with_locked_view, lambda _: self._apply(attempt, call, match, show_epoch))
        )

    def _create_batch(
        self, call: PythonCall, show_epoch: object, offset: int, revision: int
    ) -> PythonBatch:
        """Return a batch without changes, with the checkpoint of a job call at `offset`."""
        batch = PythonBatch(show_epoch, revision)
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

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the value of each key, None for a missing one."""
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
        """Replace all pairs by `pairs`, as one change; return its revision."""
        table = Table(pairs)
        while True:
            revision, checks = self._unchanged()
            setup, before = self._setup[0], self._table
            batch = PythonBatch(object(), revision + 1)
            keys = [key for key in sorted(self._watched) if key in before or key in table]
            batch.changes = [(key, table.get(key)) for key in keys]
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
                call(_TableView(self._table, self.revision))
            finally:
                self._view_holder[0] = before


def _counter_step(cell: list[int]) -> Step:
    """Return a step that adds 1 to the number in `cell`, which nothing else may change."""
    return map(setitem, repeat(cell), repeat(0), count(cell[0] + 1)).__next__


class _TableView:
    """The table during `with_locked_view`, or in a child process forked meanwhile."""

    def __init__(self, table: Mapping[bytes, bytes], revision: int) -> None:
        self._table = table
        self.revision = revision

    def __len__(self) -> int:
        return len(self._table)

    def listing(self) -> Iterator[bytes]:
        return output_format.format_listing(ordered(self._table))

    def writes(self) -> Iterator[bytes]:
        return output_format.format_writes(self._table.items())
