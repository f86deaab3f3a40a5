"""The store: one table, one lock, one order of changes.

State: the table, the revision and who watches, all guarded by `Store._lock`. While it is held, no
lock but an outbox's is taken, and nothing is read or written. Every command takes effect as a whole
while it is held, so at one instant for everyone; each that changes something takes the next
revision, and its changes enter outboxes in that order. Outboxes are woken when it has been let go,
once a call.
"""

import contextlib
import os
from collections.abc import Iterable, Mapping
from itertools import repeat
from threading import Lock
from typing import Any

from kvs.errors import SnapshotFailed, cause, shown
from kvs.execution import BUDGET, Call, Pause
from kvs.files import check_replaceable, open_directory
from kvs.language import grammar, results
from kvs.language.faults import checked_word
from kvs.snapshot.read import load
from kvs.snapshot.write import Draft, Written
from kvs.table import Table, ordered
from kvs.watch import Outbox, Watchers

LONG_WRITE = 8192
"""The words of a WRITE that goes into the table by way of a dict.

From a dict the table makes all its room before it takes the first pair, so that a command for which
there is not enough memory changes nothing.
"""

Word = str | bytes
"""A key or a value; str is encoded as UTF-8."""


class Store:
    """Pairs of bytes in memory, shared by any number of threads.

    Every method is thread-safe and takes effect at one instant. Keys and values are given as
    bytes, or as str and then encoded as UTF-8; they come back as bytes. A word that the command
    language cannot write is refused everywhere with `WordRefused`, a `ValueError`.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._table = Table()  # guarded by _lock
        self._revision = 0  # guarded by _lock
        self._watchers: tuple[Watchers[Any], ...] = ()  # guarded by _lock

    # The engine boundary: jobs, and whatever else carries out lines, come through here.

    def execute(self, script: bytes, start: int = 0, budget: int = BUDGET) -> Pause:
        """Carry out the commands of `script` from byte `start` on, up to what only a host can do.

        Comes back at the end of the script, at a WAIT or BACKUP (which is the caller's to carry
        out), or after the command that takes input or output past `budget` bytes; the caller goes
        on from `Pause.offset`. `start` is the start of a line. An invalid line has no effect and
        is reported in `Pause.faults`; nothing that stands in a script raises.

        Raises:
            ValueError: `start` is outside of the script, or `budget` is negative.

        """
        if not 0 <= start <= len(script) or budget < 0:
            raise ValueError(f"start {start} or budget {budget} is out of range")
        call = Call(script, start, budget, self.revision)
        while not call.over():
            with self._lock:
                self._carry_out(call)
                pairs = self._table.copy() if call.stopped_at == grammar.SHOW else None
            if pairs is not None:
                call.write(b"".join(results.listing(ordered(pairs))))
        _wake(call.woken)
        return call.pause()

    def _carry_out(self, call: Call) -> None:  # noqa: PLR0912, PLR0915  (a branch per command)
        """Carry out lines until `call` is over or comes to a SHOW; the caller holds the lock."""
        table = self._table
        revision = self._revision
        watched = any(watchers.keys for watchers in self._watchers)
        stopped_at = None
        try:
            for match in grammar.LINE.finditer(call.script, call.offset, call.end):
                kind = match.lastindex
                if kind == grammar.WRITE:
                    words = grammar.pair_words(match[grammar.WRITE])
                    pairs = zip(words[::2], words[1::2], strict=True)
                    if watched or len(words) > LONG_WRITE:
                        changes = dict(pairs)
                        table.update(changes)
                        call.woken |= self._tell(changes)
                    else:
                        table.update(pairs)
                    revision += 1
                elif kind == grammar.READ:
                    keys = grammar.key_words(match[grammar.READ])
                    keys.sort()
                    values = map(table.get, keys, repeat(grammar.MISSING_VALUE))
                    call.write(results.pairs_line(zip(keys, values, strict=True)))
                    if call.room < 0:
                        break
                elif kind == grammar.DELETE:
                    keys = grammar.key_words(match[grammar.DELETE])
                    removed = {key: None for key in keys if key in table} if watched else {}
                    missing = [key for key in keys if table.pop(key, None) is None]
                    if len(missing) < len(keys):
                        revision += 1
                    if removed:
                        call.woken |= self._tell(removed)
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
                    call.write(results.WAITING)
                    stopped_at = kind
                    break
            call.offset = match.end()
            call.stopped_at = stopped_at
        finally:
            call.revision = self._revision = revision

    # The library: the same table and the same lock, without the language's text.

    @property
    def revision(self) -> int:
        """The number of changes so far: each command that changes something adds 1."""
        with self._lock:
            return self._revision

    def write(self, pairs: Mapping[Any, Word] | Iterable[tuple[Word, Word]]) -> int:
        """Set every pair of a mapping, or of an iterable of pairs, as one change.

        A key named twice keeps the last value. Returns the store's revision after the change; no
        pairs are no change.

        Raises:
            WordRefused: a key or value is no word of the language; nothing was written.

        """
        if isinstance(pairs, str | bytes):
            raise TypeError("expected a mapping or pairs, not one word")
        given = pairs.items() if isinstance(pairs, Mapping) else pairs
        checked = {checked_word(key, "key"): checked_word(value, "value") for key, value in given}
        with self._lock:
            if not checked:
                return self._revision
            self._table.update(checked)
            self._revision += 1
            revision = self._revision
            woken = self._tell(checked)
        _wake(woken)
        return revision

    def read(self, keys: Iterable[Word]) -> dict[bytes, bytes]:
        """Return the pairs of those `keys` that are there, in the order they are named.

        Raises:
            WordRefused: a key is no word of the language.

        """
        wanted = as_keys(keys)
        with self._lock:
            return {key: self._table[key] for key in wanted if key in self._table}

    def delete(self, keys: Iterable[Word]) -> list[bytes]:
        """Remove `keys` as one change; return those that were missing, in ascending order.

        As in the language, a key named twice is missing the second time.

        Raises:
            WordRefused: a key is no word of the language; nothing was removed.

        """
        doomed = as_keys(keys)
        with self._lock:
            removed = {key: None for key in doomed if key in self._table}
            missing = [key for key in doomed if self._table.pop(key, None) is None]
            if removed:
                self._revision += 1
            woken = self._tell(removed)
        _wake(woken)
        return sorted(missing)

    def items(self) -> list[tuple[bytes, bytes]]:
        """Return all pairs of one instant, in ascending order of the bytes of the keys."""
        with self._lock:
            pairs = self._table.copy()
        return ordered(pairs)

    def __len__(self) -> int:
        """Return the number of pairs."""
        with self._lock:
            return len(self._table)

    def __contains__(self, key: Word) -> bool:
        """Tell whether `key` is there.

        Raises:
            WordRefused: it is no word of the language.

        """
        word = checked_word(key, "key")
        with self._lock:
            return word in self._table

    # Snapshots.

    def fork_snapshot(self, draft: Draft) -> None:
        """Start the child of `draft` with this instant's pairs; the store is held for the fork.

        Raises:
            SnapshotFailed: there is no child.

        """
        with self._lock:
            draft.fork(self._table, self._revision)

    def backup(self, path: str | bytes | os.PathLike[str]) -> Written:
        """Write a snapshot of this instant to `path` and wait until it is on disk.

        A forked child writes it; other threads go on meanwhile. What stood at `path` is replaced
        by the finished file, or stays if this fails.

        Raises:
            SnapshotFailed: it could not be written; nothing changed at `path`.

        """
        parent, name = os.path.split(os.fsencode(path))
        try:
            directory = open_directory(parent or b".")
        except OSError as error:
            raise SnapshotFailed(shown(path), cause(error)) from error
        try:
            check_replaceable(name, directory)
            draft = Draft(directory, name, shown(path))
            self.fork_snapshot(draft)
            try:
                return draft.finish()
            except KeyboardInterrupt:
                draft.abandon()
                with contextlib.suppress(SnapshotFailed):
                    draft.finish()
                raise
        except OSError as error:
            raise SnapshotFailed(shown(path), cause(error)) from error
        finally:
            os.close(directory)

    def restore(self, path: str | bytes | os.PathLike[str]) -> int:
        """Replace everything by the backup at `path`, as one change; return its revision.

        Raises:
            BackupUnreadable: the file cannot be opened or read.
            BackupMalformed: it is not what a snapshot writes. The store was not touched.

        """
        table = Table(load(os.fsencode(path)))
        with self._lock:
            before, self._table = self._table, table
            self._revision += 1
            revision = self._revision
            keys = set().union(*(watchers.keys for watchers in self._watchers))
            woken = self._tell({k: table.get(k) for k in sorted(keys) if k in before or k in table})
        _wake(woken)
        return revision

    # Watchers.

    def attach(self, watchers: Watchers[Any]) -> None:
        """Let `watchers` have the changes of this store from now on."""
        with self._lock:
            self._watchers = (*self._watchers, watchers)

    def subscribe(self, watchers: Watchers[Any], outbox: Outbox[Any], key: bytes) -> bool:
        """Let `outbox` have every change of `key` from now on; return whether the key is there now.

        The key need not be there; subscribing twice is one subscription.
        """
        with self._lock:
            watchers.subscribe(outbox, key)
            return key in self._table

    def unsubscribe(self, watchers: Watchers[Any], outbox: Outbox[Any], key: bytes) -> bool:
        """End that; return whether there was such a subscription."""
        with self._lock:
            return watchers.unsubscribe(outbox, key)

    def leave(self, watchers: Watchers[Any], outbox: Outbox[Any]) -> None:
        """End all subscriptions of `outbox`."""
        with self._lock:
            watchers.leave(outbox)

    def _tell(self, changes: Mapping[bytes, bytes | None]) -> set[Outbox[Any]]:
        """Give the changes of one command to who watches them; the caller holds the lock.

        Returns whom to wake once the lock is let go.
        """
        woken: set[Outbox[Any]] = set()
        for watchers in self._watchers:
            if not watchers.keys.isdisjoint(changes):
                woken |= watchers.publish(changes)
        return woken


def _wake(outboxes: Iterable[Outbox[Any]]) -> None:
    for outbox in outboxes:
        outbox.wake()


def as_keys(keys: Iterable[Word]) -> list[bytes]:
    """Return keys given to the library as words of bytes.

    Raises:
        WordRefused: one is no word of the language.
        TypeError: it is one key, not an iterable of keys.

    """
    if isinstance(keys, str | bytes):
        raise TypeError("expected an iterable of keys, not one key; put it into a list")
    return [checked_word(key, "key") for key in keys]
