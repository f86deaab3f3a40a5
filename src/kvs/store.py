"""The store: one order of changes, and who is told of them.

The engine below carries out commands, each at one instant; here its effects are handed on, in
their order. State: who watches what, guarded by `Store._handing_on`, which is held while effects
are taken from the engine and put into outboxes. Under it the engine's lock and an outbox's may be
taken, and nothing is read or written. Outboxes are woken when it has been let go, once a call.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from threading import Lock
from typing import Any

from kvs.engine.boundary import BUDGET, Effects, Instant, Mark, Pause
from kvs.engine.choice import new_engine
from kvs.errors import SnapshotFailed, cause, shown
from kvs.files import check_replaceable, open_directory
from kvs.language import lines
from kvs.language.faults import checked_word
from kvs.language.lines import Word
from kvs.snapshot.read import load
from kvs.snapshot.write import Draft, Written
from kvs.watch import Outbox, Watchers


class Store:
    """Pairs of bytes in memory, shared by any number of threads.

    Every method is thread-safe and takes effect at one instant. Keys and values are given as
    bytes, or as str and then encoded as UTF-8; they come back as bytes. A word that the command
    language cannot write is refused everywhere with `WordRefused`, a `ValueError`.
    """

    def __init__(self) -> None:
        self._engine = new_engine()
        self._handing_on = Lock()
        self._watchers: tuple[Watchers[Any], ...] = ()  # guarded by _handing_on

    # The engine boundary: jobs, and whatever else carries out lines, come through here.

    def execute(
        self, script: bytes, start: int = 0, budget: int = BUDGET, mark: Mark | None = None
    ) -> Pause:
        """Carry out the commands of `script` from byte `start` on, up to what only a host can do.

        Comes back at the end of the script, at a WAIT or BACKUP (which is the caller's to carry
        out), or after the command that takes input or output past `budget` bytes; the caller goes
        on from `Pause.offset`. `start` is the start of a line. An invalid line has no effect and
        is reported in `Pause.faults`; nothing that stands in a script raises. `mark` is for jobs.

        Raises:
            ValueError: `start` is outside of the script, or `budget` is negative.

        """
        if not 0 <= start <= len(script) or budget < 0:
            raise ValueError(f"start {start} or budget {budget} is out of range")
        try:
            return self._engine.execute(script, start, budget, mark)
        finally:
            self._hand_on()

    # The library: the same commands, for a program that has words instead of lines.

    @property
    def revision(self) -> int:
        """The number of changes so far: each command that changes something adds 1."""
        return self._engine.revision

    def write(self, pairs: Mapping[Any, Word] | Iterable[tuple[Word, Word]]) -> int:
        """Set every pair of a mapping, or of an iterable of pairs, as one change.

        A key named twice keeps the last value. Returns the store's revision after the change; no
        pairs are no change.

        Raises:
            WordRefused: a key or value is no word of the language; nothing was written.

        """
        return self.execute(lines.write_line(pairs)).revision

    def read(self, keys: Iterable[Word]) -> dict[bytes, bytes]:
        """Return the pairs of those `keys` that are there, in the order they are named.

        Raises:
            WordRefused: a key is no word of the language.

        """
        wanted = lines.checked_keys(keys)
        values, _ = self._engine.get(wanted)
        return {k: v for k, v in zip(wanted, values, strict=True) if v is not None}

    def delete(self, keys: Iterable[Word]) -> list[bytes]:
        """Remove `keys` as one change; return those that were missing, in ascending order.

        As in the language, a key named twice is missing the second time.

        Raises:
            WordRefused: a key is no word of the language; nothing was removed.

        """
        doomed = lines.checked_keys(keys)
        if not doomed:
            return []
        return lines.keys_missed(self.execute(lines.keys_line(b"DELETE", doomed)).output)

    def items(self) -> list[tuple[bytes, bytes]]:
        """Return all pairs of one instant, in ascending order of the bytes of the keys."""
        pairs, _ = self._engine.items()
        return pairs

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self._engine)

    def __contains__(self, key: Word) -> bool:
        """Tell whether `key` is there.

        Raises:
            WordRefused: it is no word of the language.

        """
        [value], _ = self._engine.get([checked_word(key, "key")])
        return value is not None

    # Snapshots.

    def fork_snapshot(self, draft: Draft) -> None:
        """Start the child of `draft` with this instant's pairs; the store is held for the fork.

        Raises:
            SnapshotFailed: there is no child.

        """

        def fork(instant: Instant) -> None:
            draft.fork(instant.revision, len(instant), instant.listing)

        self._at_instant(fork)

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
        revision = self._engine.replace(load(os.fsencode(path)))
        self._hand_on()
        return revision

    # Watchers.

    def attach(self, watchers: Watchers[Any]) -> None:
        """Let `watchers` have the changes of this store from now on."""
        with self._handing_on:
            self._watchers = (*self._watchers, watchers)

    def subscribe(self, watchers: Watchers[Any], outbox: Outbox[Any], key: bytes) -> bool:
        """Let `outbox` have every change of `key` from now on; return whether the key is there now.

        The key need not be there; subscribing twice is one subscription.
        """
        with self._handing_on:
            if key in outbox.keys:
                return key in self
            there, effects = self._engine.watch(key)
            woken = self._put_into_outboxes(effects)  # before it watches
            watchers.subscribe(outbox, key)
        _wake(woken)
        return there

    def unsubscribe(self, watchers: Watchers[Any], outbox: Outbox[Any], key: bytes) -> bool:
        """End that; return whether there was such a subscription."""
        with self._handing_on:
            if key not in outbox.keys:
                return False
            woken = self._unsubscribe(watchers, outbox, key)
        _wake(woken)
        return True

    def leave(self, watchers: Watchers[Any], outbox: Outbox[Any]) -> None:
        """End all subscriptions of `outbox`."""
        woken: set[Outbox[Any]] = set()
        with self._handing_on:
            for key in list(outbox.keys):
                woken |= self._unsubscribe(watchers, outbox, key)
        _wake(woken)

    def _unsubscribe(
        self, watchers: Watchers[Any], outbox: Outbox[Any], key: bytes
    ) -> set[Outbox[Any]]:
        woken = self._put_into_outboxes(self._engine.unwatch(key))
        watchers.unsubscribe(outbox, key)
        return woken

    # Effects, on their way from the engine to who is to know of them.

    def _hand_on(self) -> None:
        """Hand on what the engine has, unless another thread is just doing so."""
        if not self._engine.effects:
            return
        with self._handing_on:
            woken = self._put_into_outboxes(self._engine.take_effects())
        _wake(woken)

    def _at_instant(self, call: Callable[[Instant], None]) -> None:
        with self._handing_on:
            woken = self._put_into_outboxes(self._engine.at_instant(call))
        _wake(woken)

    def _put_into_outboxes(self, effects: Iterable[Effects]) -> set[Outbox[Any]]:
        """Give changes to who watches them; the caller holds `_handing_on`.

        Returns whom to wake once that is let go.
        """
        woken: set[Outbox[Any]] = set()
        for each in effects:
            for watchers in self._watchers:
                woken |= watchers.publish(each.changes)
        return woken


def _wake(outboxes: Iterable[Outbox[Any]]) -> None:
    for outbox in outboxes:
        outbox.wake()
