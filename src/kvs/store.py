"""The store: one order of changes, and who is told of them.

The engine below carries out commands, each at one instant; here its effects are handed on, in
their order. State: who watches what, guarded by `Store._handing_on`, which is held while effects
are taken from the engine and put into outboxes and the journal. Under it the engine's lock, an
outbox's and the journal's may be taken, and nothing is read or written. Outboxes are woken when it
has been let go, once a call; with a journal, when what they were given is safe.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from threading import Lock, Thread
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from kvs.engine.boundary import BUDGET, Effects, Instant, Mark, Pause
from kvs.engine.choice import new_engine
from kvs.errors import DataUnusable, JournalFailed, SnapshotFailed, StoreClosed
from kvs.progress import ShowProgress, show_nobody
from kvs.settings import DataSettings
from kvs.snapshot.write import Draft, Written
from kvs.watch import Outbox, Watchers

if TYPE_CHECKING:  # a store in memory does not wait for what keeps one on disk
    from kvs.journal.progress import Jobs
    from kvs.persistence import Persistence, Recovered

T = TypeVar("T")

BACKLOG_BYTES = 8 << 20
"""So much may be on its way to the journal before jobs wait for it."""

Path = str | bytes | os.PathLike[str]


class Store:
    """Pairs of bytes in memory, and perhaps on disk, shared by any number of threads.

    Every method is thread-safe and takes effect at one instant. With a data directory, what
    `execute` gives may be shown only when it is safe: the caller waits for that, by `position` and
    the methods beside it. When the journal fails, what carries something out raises
    `JournalFailed`.
    """

    def __init__(
        self,
        data: Path | None = None,
        settings: DataSettings | None = None,
        *,
        progress: ShowProgress = show_nobody,
    ) -> None:
        """Make an empty store in memory, or open the one that is kept in the directory `data`.

        The directory is made if it is not there. `progress` is told how far the reading of it is.

        Raises:
            DataUnusable: the directory cannot be made, opened, locked or read.
            DirectoryInUse: another process is at work there.
            DataDamaged: something in it does not prove itself; nothing was changed.

        """
        self._engine = new_engine()
        self._handing_on = Lock()
        self._compacting = Lock()
        self._watchers: tuple[Watchers[Any], ...] = ()  # guarded by _handing_on
        self._closed = False  # guarded by _compacting
        self._data: Persistence | None = None
        if data is not None:
            from kvs import persistence

            self._data = persistence.Persistence(
                data, self._engine, settings or DataSettings(), progress=progress
            )
            self._data.on_grown = partial(self._compact_in_background, self._data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End what a data directory needs; a store in memory needs nothing. Twice is once.

        All that was carried out is written before; nobody may use the store any more.

        Raises:
            JournalFailed: it was not all written.

        """
        with self._compacting:
            if self._data is not None and not self._closed:
                self._closed = True
                self._hand_on()
                self._data.close()

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
            JournalFailed: the store is kept, and its journal failed.
            StoreClosed: it is kept, and was closed.

        """
        if not 0 <= start <= len(script) or budget < 0:
            raise ValueError(f"start {start} or budget {budget} is out of range")
        if self._data is not None:
            self._data.log.check()
        try:
            return self._engine.execute(script, start, budget, mark)
        finally:
            self._hand_on()

    @property
    def revision(self) -> int:
        """The number of changes so far: each command that changes something adds 1."""
        return self.safe(self._engine.revision)

    # Snapshots.

    def fork_snapshot(self, draft: Draft) -> None:
        """Start the child of `draft` with this instant's pairs; the store is held for the fork.

        Raises:
            SnapshotFailed: there is no child.

        """

        def fork(instant: Instant) -> None:
            draft.fork(instant.revision, len(instant), instant.listing)

        with self._handing_on:
            self._engine.at_instant(fork)

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
            there, effects = self._engine.watch(key)
            woken = self._take_in(effects)  # before it watches
            if key in outbox.keys:
                woken |= self._take_in(self._engine.unwatch(key))
            else:
                if self._data is not None:
                    outbox.hold_back()
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
        woken = self._take_in(self._engine.unwatch(key))
        watchers.unsubscribe(outbox, key)
        return woken

    # Safety: with a journal, what was carried out is shown only when it is as safe as promised.

    @property
    def recovered(self) -> "Recovered | None":
        """What was found in the data directory; None if there is none."""
        return None if self._data is None else self._data.recovered

    @property
    def failure(self) -> JournalFailed | None:
        """Why nothing is carried out any more, if so."""
        return None if self._data is None else self._data.log.failure

    def on_failure(self, call: Callable[[JournalFailed], None]) -> Callable[[], None]:
        """Have `call` called once when the journal fails; return what ends that.

        A thread of the store's calls it; if the journal has failed already, this one, at once.
        """
        return _nothing if self._data is None else self._data.log.on_failure(call)

    def position(self) -> int:
        """Return a number for all that has been carried out so far, for the following methods.

        Raises:
            JournalFailed: nothing is written any more.

        """
        if self._data is None:
            return 0
        with self._handing_on:
            self._take_in(self._engine.take_all_effects())
            self._data.log.check()
            return self._data.log.added

    def is_safe(self, position: int) -> bool:
        """Tell whether what had been carried out by then may be shown."""
        return self._data is None or self._data.log.is_safe(position)

    def wait_until_safe(self, position: int) -> None:
        """Wait until it may be shown.

        Raises:
            JournalFailed: it never may.

        """
        if self._data is not None:
            self._data.log.wait(position)

    def when_safe(self, position: int, call: Callable[[], None]) -> None:
        """Call `call`, by this thread or one of the store's, once it may be shown; else never."""
        if self._data is None:
            call()
        else:
            self._data.log.after(position, call)

    @property
    def is_kept(self) -> bool:
        """Whether it is kept in a data directory."""
        return self._data is not None

    @property
    def syncs(self) -> bool:
        """Whether what is kept is ever synced to disk by this program."""
        return self._data is not None and self._data.syncs

    def keep_pace(self) -> None:
        """Wait until not too much is on its way to the disk; memory is bounded so.

        Raises:
            JournalFailed: nothing is written any more.

        """
        if self._data is not None and self._data.log.waiting_bytes > BACKLOG_BYTES:
            self.wait_until_safe(self.position())

    def note(self, change: "Callable[[Jobs], bytes]") -> None:
        """Change what is known of jobs, and put the lines that `change` returns into the journal.

        For a store that is kept in a data directory.

        Raises:
            JournalFailed: nothing is written any more.

        """
        if self._data is None:
            raise ValueError("a store in memory keeps no notes")
        with self._handing_on:
            self._take_in(self._engine.take_all_effects())
            self._data.log.check()
            if lines_of_it := change(self._data.jobs):
                self._data.note(lines_of_it)

    def safe(self, found: T) -> T:
        """Return what was found, once it may be shown."""
        self.wait_until_safe(self.position())
        return found

    def until_safe(self) -> Callable[[], None]:
        """Return what waits until all may be shown that has been carried out by now.

        If it never may, what is returned raises `JournalFailed`.
        """
        try:
            position = self.position()
        except (JournalFailed, StoreClosed) as error:
            never = error

            def fail() -> None:
                raise never

            return fail
        return lambda: self.wait_until_safe(position)

    # Compaction.

    def compact(self) -> Written | None:
        """Make the journal short: write everything as a snapshot, from which it goes on.

        A forked child writes it; other threads go on meanwhile. Returns None for a store in memory.

        Raises:
            SnapshotFailed: the snapshot could not be written; the journal is as it was.
            DataUnusable: it was written, but what it makes needless could not be removed.
            JournalFailed: the journal failed.
            StoreClosed: the store was closed.

        """
        if self._data is None:
            return None
        with self._compacting:
            return self._compact(self._data)

    def _compact(self, data: "Persistence") -> Written:
        """Do so; the caller holds `_compacting`."""
        if self._closed:
            raise StoreClosed
        draft = data.draft()
        number = begun_at = 0

        def begin(instant: Instant) -> None:
            nonlocal number, begun_at
            self._take_in(self._engine.take_effects())
            number, begun_at = data.begin_compaction(draft, instant)

        with self._handing_on:
            self._engine.at_instant(begin)
        return data.finish_compaction(draft, number, begun_at)

    def _compact_in_background(self, data: "Persistence") -> None:
        def compact() -> None:
            if not self._compacting.acquire(blocking=False):
                return  # one is on its way, and when it is done the journal may grow anew
            try:
                with contextlib.suppress(JournalFailed, StoreClosed):  # others are told
                    self._compact(data)
            except (SnapshotFailed, DataUnusable) as error:
                _warn(str(error))
            finally:
                self._compacting.release()

        try:
            Thread(target=compact, name="kvs-compaction", daemon=True).start()
        except RuntimeError as error:  # no more threads to be had
            _warn(f"{data.shown}: no compaction: {error}")

    # Effects, on their way from the engine to who is to know of them.

    def _hand_on(self) -> None:
        """Hand on what the engine has, unless another thread is just doing so."""
        if not self._engine.effects:
            return
        with self._handing_on:
            woken = self._take_in(self._engine.take_effects())
        _wake(woken)

    def _take_in(self, effects: Sequence[Effects]) -> set[Outbox[Any]]:
        """Give effects to the journal, and to who watches; the caller holds `_handing_on`.

        Returns whom to wake once that is let go. With a journal it is nobody: those are woken when
        what they were given is safe.
        """
        woken: set[Outbox[Any]] = set()
        for each in effects:
            for watchers in self._watchers:
                woken |= watchers.publish(each.changes)
        if self._data is None or not effects:
            return woken
        marks = [(outbox, outbox.added) for outbox in woken]
        with contextlib.suppress(JournalFailed, StoreClosed):  # told to whoever waits for it
            self._data.add(effects, (lambda: _release(marks)) if marks else None)
        return set()


def _nothing() -> None:
    """Do nothing."""


def _warn(reason: str) -> None:
    """Log why the journal was not made short."""
    import logging

    text = "%s; it is tried again when the journal has grown more"
    logging.getLogger("kvs.store").warning(text, reason)


def _wake(outboxes: Iterable[Outbox[Any]]) -> None:
    for outbox in outboxes:
        outbox.wake()


def _release(marks: Iterable[tuple[Outbox[Any], int]]) -> None:
    for outbox, added in marks:
        outbox.release(added)
        outbox.wake()
