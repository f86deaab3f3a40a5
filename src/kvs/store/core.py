"""The store: an engine, the publication of its changes, and the directory that it is stored in.

The engine below executes commands, each at one instant; `kvs.store.publication` brings what they
change into the journal and to the subscribers, in order. No public method holds a lock while a
signal handler may run: compaction, backups and notes of jobs, for which other threads have to wait,
are done in a thread of their own if need be (`kvs.concurrency.waiting.call_uninterrupted`). A
finalizer that runs there may use the store.
"""

import contextlib
import os
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from threading import Thread, get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar

from kvs.concurrency import forks
from kvs.concurrency.atomic import atomically
from kvs.concurrency.noncopyable import NonCopyable
from kvs.concurrency.unclosed import warn_unclosed
from kvs.concurrency.waiting import Waiters, call_uninterrupted, fork_uninterrupted
from kvs.engine.interface import DEFAULT_BUDGET_BYTES, ExecuteResult, JobCursor, TableView
from kvs.engine.selection import create_engine
from kvs.errors import (
    DataDirectoryError,
    JournalWriteError,
    SnapshotError,
    StoreClosedError,
    StoreNotEmptyError,
)
from kvs.language import builder
from kvs.posix.files import check_path
from kvs.progress import ProgressCallback, ignore_progress
from kvs.settings import DataSettings
from kvs.snapshot.writer import SnapshotInfo, SnapshotWriter
from kvs.store.commit import CommitPoint
from kvs.store.publication import Publication
from kvs.store.subscriptions import Outbox, Subscriptions
from kvs.text import os_error_text, printable

if TYPE_CHECKING:  # a store in memory does not wait for what keeps one on disk
    from kvs.journal.job_records import JobRegistry
    from kvs.store.persistence import Persistence, RecoveryInfo

T = TypeVar("T")

MAX_BACKLOG_BYTES = 8 << 20
"""Bytes on their way to the journal, beyond which jobs wait for it."""

_CLOSED = -1
"""In the place of a generation: the store was closed."""

Path = str | bytes | os.PathLike[str]


class StoreCore(NonCopyable):
    """Pairs of bytes in memory, and perhaps on disk, shared by any number of threads.

    Every method is thread-safe and takes effect at one instant. With a data directory, what
    `execute` gives may be shown only when it is safe: the caller waits for that, by `position` and
    the methods beside it. When the journal fails, what carries something out raises
    `JournalWriteError`.
    """

    def __init__(
        self,
        data: Path | None = None,
        settings: DataSettings | None = None,
        *,
        progress: ProgressCallback = ignore_progress,
    ) -> None:
        """Make an empty store in memory, or open the one that is kept in the directory `data`.

        The directory is made if it is not there. `progress` is told how far the reading of it is.

        Raises:
            DataDirectoryError: the directory cannot be made, opened, locked or read.
            DirectoryLockedError: another process is at work there.
            CorruptionError: something in it does not prove itself; nothing was changed.

        """
        if data is not None:
            try:
                check_path(os.fsencode(data))
            except OSError as error:
                raise DataDirectoryError(printable(data), os_error_text(error)) from error
        self._made_in = forks.generation()
        """The generation that it belongs to, see `kvs.concurrency.forks`."""
        self._generation = self._made_in
        """The generation in which it can be used: none after `close`."""
        self._engine = create_engine()
        self._publication = Publication(self._engine)
        self._compacting = [0]
        """The thread that compacts, 0 if there is none."""
        self._compacted = Waiters()
        """Those that wait for it."""
        self._close_after_compaction = False
        """Whether a compaction is to close the store when it ends."""
        self._compaction_blockers: list[int] = []
        """The threads within a fork or a note, for which a compaction waits."""
        self._data: Persistence | None = None
        self._finalizer: weakref.finalize[..., StoreCore] | None = None
        if data is not None:
            from kvs.store import persistence

            kept = persistence.Persistence(data, self._engine, settings or DataSettings())
            kept.on_compaction_due = partial(_compact_in_background, weakref.ref(self), kept)
            try:
                kept.open(progress)
                self._data = self._publication.data = kept
                arguments = (self._publication, kept, self._generation)
                self._finalizer = weakref.finalize(self, _close_unclosed, *arguments)
            except BaseException:
                kept.close()
                raise

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
        """Write every change, and unlock and close the data directory. Idempotent.

        Every other method raises `StoreClosedError` from then on, but for those that report on what
        was carried out before, or end what was begun. Called within another call of the same
        thread, by a signal handler or a finalizer, it closes the store as well; a compaction that
        waits for that thread closes it when it ends. In a forked child it frees the memory of a
        store that belongs to the parent, and changes nothing else.

        Raises:
            JournalWriteError: not every change was written.

        """
        if self._made_in != forks.generation():  # its parent may be closing it
            self._drop()
            return
        self._generation = _CLOSED
        if self._data is None:
            return
        if self._may_block_compaction():
            self._close_after_compaction = True
            if self._compacting[0]:
                return
        self._compacted.wait_for(lambda: not self._compacting[0])
        self._close_data(self._data)

    def _close_data(self, data: "Persistence") -> None:
        self._publication.publish()
        data.close()
        if self._finalizer is not None:
            self._finalizer.detach()

    def _may_block_compaction(self) -> bool:
        """Return whether a compaction may wait for the calling thread, or is done by it.

        A finalizer that runs in such a thread must not wait for the compaction.
        """
        me = get_ident()
        writes = self._data is not None and self._data.log.is_writer_thread
        return writes or self._compacting[0] == me or me in self._compaction_blockers

    def _blocking_compaction(self, call: Callable[[], T]) -> T:
        """Return what `call` returns, in a thread for which a compaction may wait meanwhile."""
        me = get_ident()
        self._compaction_blockers.append(me)
        try:
            return call()
        finally:
            self._compaction_blockers.remove(me)

    def _drop(self) -> None:
        """Free the memory, in a forked child."""
        if self._finalizer is not None:
            self._finalizer.detach()
        self._finalizer = None
        self.__dict__.update(dict.fromkeys(("_engine", "_publication", "_data"), _Dropped()))

    def check_open(self) -> None:
        """Refuse a store that was closed, or belongs to the parent of this process.

        Raises:
            StoreClosedError: it was closed.
            InheritedByForkError: this process is a forked child.

        """
        if self._generation != forks.generation():
            self._check_process()
            raise StoreClosedError

    def _check_process(self) -> None:
        """Refuse a store that belongs to the parent of this process; not one that was closed.

        Raises:
            InheritedByForkError: this process is a forked child.

        """
        if self._is_inherited:
            raise forks.inherited_error()

    @property
    def _is_inherited(self) -> bool:
        """Whether this process is a forked child, and the store was its parent's, and open."""
        return self._generation not in {_CLOSED, forks.generation()}

    # The engine boundary: jobs, and whatever else carries out lines, come through here.

    def execute(
        self,
        script: bytes,
        start: int = 0,
        budget: int = DEFAULT_BUDGET_BYTES,
        mark: JobCursor | None = None,
    ) -> ExecuteResult:
        """Carry out the commands of `script` from byte `start` on, up to what only a host can do.

        Comes back at the end of the script, at a WAIT or BACKUP (which is the caller's to carry
        out), or after the command that takes input or output past `budget` bytes; the caller goes
        on from `Pause.offset`. `start` is the start of a line. An invalid line has no effect and
        is reported in `Pause.faults`; nothing that stands in a script raises. `mark` is for jobs.

        Raises:
            ValueError: `start` is outside of the script, `budget` is negative, or `mark` is of no
                job that the data directory knows.
            JournalWriteError: the store has a data directory, and its journal failed.
            StoreClosedError: it was closed.
            InheritedByForkError: this process is a forked child.

        """
        self.check_open()
        if not 0 <= start <= len(script) or budget < 0:
            raise ValueError(f"start {start} or budget {budget} is out of range")
        if self._data is not None:
            self._data.log.check()
            if mark is not None and mark.job not in self._data.jobs:
                raise ValueError(f"job {mark.job} of the mark is not known")
        try:
            return self._engine.execute(script, start, budget, mark)
        finally:
            self._publication.publish()

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of `keys` at one instant, None for a key that does not exist.

        Raises:
            JournalWriteError, StoreClosedError, InheritedByForkError: as `commit_point`.

        """
        self.check_open()
        return self.after_commit(self._engine.get(keys))

    def items(self) -> list[tuple[bytes, bytes]]:
        """Return all pairs at one instant, in ascending order of the keys.

        Raises:
            JournalWriteError, StoreClosedError, InheritedByForkError: as `commit_point`.

        """
        self.check_open()
        return self.after_commit(self._engine.items())

    def __len__(self) -> int:
        """Return the number of pairs."""
        self.check_open()
        return self.after_commit(len(self._engine))

    def load(self, pairs: dict[bytes, bytes]) -> int:
        """Replace everything by the pairs of a backup, as one change; return its revision.

        `pairs` is what `kvs.snapshot.reader.load` returned; the caller does not use it afterwards.

        Raises:
            StoreNotEmptyError: the store has a data directory, and was changed before.
            JournalWriteError, StoreClosedError, InheritedByForkError: as `commit_point`.

        """
        self.check_open()
        if self._data is None:
            revision = self._engine.replace(pairs)
            self._publication.publish()
            return revision
        if self._engine.revision:
            raise StoreNotEmptyError(self._data.shown)
        return self.after_commit(self.execute(builder.build_write(pairs)).revision)

    @property
    def revision(self) -> int:
        """The number of changes so far: each command that changes something adds 1."""
        self.check_open()
        return self.after_commit(self._engine.revision)

    @property
    def pairs(self) -> int:
        """The number of pairs by now, whether or not that may be shown: for an estimate."""
        self.check_open()
        return len(self._engine)

    # Snapshots.

    def fork_snapshot(self, draft: SnapshotWriter) -> None:
        """Start the child of `draft` with this instant's pairs; the store is held for the fork.

        Raises:
            SnapshotError: there is no child.

        """

        def fork(instant: TableView) -> None:
            draft.fork(instant.revision, len(instant), instant.listing)

        self.check_open()
        fork_uninterrupted(
            partial(self._blocking_compaction, partial(self._engine.with_locked_view, fork))
        )

    # Watchers.

    def add_subscriptions(self, watchers: Subscriptions[Any]) -> None:
        """Publish every later change to `watchers`."""
        self.check_open()
        self._publication.add_subscriptions(watchers)

    def subscribe(self, watchers: Subscriptions[Any], outbox: Outbox[Any], key: bytes) -> bool:
        """Put every later change of `key` into `outbox`; return whether the key exists now.

        The key need not exist; subscribing twice is one subscription. `outbox` is one that was made
        with `held` if the store is kept in a directory.

        Raises:
            StoreClosedError: it was closed.
            InheritedByForkError: this process is a forked child.

        """
        self.check_open()
        return self._publication.subscribe(watchers, outbox, key)

    def unsubscribe(self, watchers: Subscriptions[Any], outbox: Outbox[Any], key: bytes) -> bool:
        """End this; return whether there was such a subscription."""
        self._check_process()
        return self._publication.unsubscribe(watchers, outbox, key)

    def unsubscribe_all(self, watchers: Subscriptions[Any], outbox: Outbox[Any]) -> None:
        """End all subscriptions of `outbox`."""
        self._check_process()
        self._publication.unsubscribe_all(watchers, outbox)

    # Safety: with a journal, what was carried out is shown only when it is as safe as promised.

    @property
    def recovered(self) -> "RecoveryInfo | None":
        """What was found in the data directory; None if there is none."""
        self._check_process()
        return None if self._data is None else self._data.recovered

    @property
    def failure(self) -> JournalWriteError | None:
        """Why nothing is carried out any more, if so."""
        self._check_process()
        return None if self._data is None else self._data.log.failure

    def on_failure(self, call: Callable[[JournalWriteError], None]) -> Callable[[], None]:
        """Have `call` called once when the journal fails; return what ends that.

        A thread of the store's calls it; if the journal has failed already, this one, at once.
        """
        self._check_process()
        return _do_nothing if self._data is None else self._data.log.on_failure(call)

    def commit_point(self) -> CommitPoint:
        """Return the commit point of every change that is applied by now.

        Raises:
            JournalWriteError: the journal failed, so that nothing more is committed.
            StoreClosedError: the store was closed.
            InheritedByForkError: this process is a forked child.

        """
        self.check_open()
        journal = None if self._data is None else self._data.log
        return CommitPoint(
            journal, self._publication.appended_count(), self._compacting, self._generation
        )

    def after_commit(self, result: T) -> T:
        """Block until every change applied by now is committed; return `result`.

        Raises:
            JournalWriteError, StoreClosedError, InheritedByForkError: as `commit_point`.

        """
        self.commit_point().wait()
        return result

    @property
    def is_persistent(self) -> bool:
        """Whether it is kept in a data directory."""
        self._check_process()
        return self._data is not None

    @property
    def syncs_to_disk(self) -> bool:
        """Whether what is kept is ever synced to disk by this program."""
        self._check_process()
        return self._data is not None and self._data.syncs_to_disk

    def throttle(self) -> None:
        """Wait until not too much is on its way to the disk; memory is bounded so.

        Raises:
            JournalWriteError: nothing is written any more.

        """
        self.check_open()
        if self._data is not None and self._data.log.pending_bytes > MAX_BACKLOG_BYTES:
            self.commit_point().wait()

    def record_job(self, change: "Callable[[JobRegistry], bytes]") -> None:
        """Change what is known of jobs, and put the lines that `change` returns into the journal.

        For a store that is kept in a data directory.

        Raises:
            JournalWriteError: nothing is written any more.

        """
        self.check_open()
        if self._data is None:
            raise ValueError("a store in memory keeps no notes")
        call_uninterrupted(
            partial(
                self._blocking_compaction, partial(self._publication.record_job, change, self._data)
            )
        )

    # Compaction.

    def compact(self) -> SnapshotInfo | None:
        """Make the journal short: write everything as a snapshot, from which it goes on.

        A forked child writes it; other threads go on meanwhile. Returns None for a store in memory,
        and in a thread that a compaction waits for, where a finalizer may call this: there the
        journal is compacted in the background, unless a compaction is under way.

        Raises:
            SnapshotError: the snapshot could not be written; the journal is as it was.
            DataDirectoryError: it was written, but what it makes needless could not be removed.
            JournalWriteError: the journal failed.
            StoreClosedError: the store was closed.

        """
        self.check_open()
        data = self._data
        if data is None:
            return None
        if self._may_block_compaction():
            if not self._compacting[0]:
                data.on_compaction_due()
            return None
        return fork_uninterrupted(partial(self._compact, data, wait=True))

    def _compact(self, data: "Persistence", *, wait: bool) -> SnapshotInfo | None:
        """Do so, one thread at a time; with `wait` false, return None if another just does so.

        In a thread that no signal handler interrupts.
        """
        me = get_ident()
        while True:
            with contextlib.suppress(ValueError):
                atomically(
                    partial(self._compacting.index, 0),
                    partial(self._compacting.__setitem__, 0, me),
                )
                break
            if not wait:
                return None
            self._compacted.wait_for(lambda: not self._compacting[0])
        try:
            self.check_open()
            with data.compacting():
                try:
                    return self._write_snapshot(data)
                except SnapshotError as error:
                    if not data.made_room_after(error):
                        raise
                return self._write_snapshot(data)
        finally:
            self._compacting[0] = 0
            self._compacted.notify_all()
            if self._close_after_compaction:
                self._close_data(data)

    def _write_snapshot(self, data: "Persistence") -> SnapshotInfo:
        draft = data.prepare_compaction()
        return data.finish_compaction(draft, self._publication.begin_compaction(draft, data))


def _compact_in_background(store: "weakref.ref[StoreCore]", data: "Persistence") -> None:
    def compact() -> None:
        opened = store()
        if opened is None:
            return
        try:
            with contextlib.suppress(JournalWriteError, StoreClosedError):  # others report them
                opened._compact(data, wait=False)
        except (SnapshotError, DataDirectoryError) as error:
            _warn(str(error))
        finally:
            data.log.let_go()

    try:
        Thread(target=compact, name="kvs-compaction", daemon=True).start()
    except RuntimeError as error:  # no more threads to be had
        data.log.let_go()
        _warn(f"{data.shown}: no compaction: {error}")


def _close_unclosed(publication: Publication, data: "Persistence", generation: int) -> None:
    """Close a store that is no longer referred to, or still open at the end of the process."""
    if generation == forks.generation():
        publication.publish()
        data.close()
        warn_unclosed(f"store with the data directory {data.shown}")


class _Dropped:
    """In the place of what `close` frees in a forked child, for a call that it interrupted."""

    def __getattr__(self, name: str) -> NoReturn:
        raise forks.inherited_error()


def _do_nothing() -> None:
    """Do nothing."""


def _warn(reason: str) -> None:
    """Log why the journal was not made short."""
    import logging

    text = "%s; it is tried again when the journal has grown more"
    logging.getLogger("kvs.store").warning(text, reason)
